"""The two programs that compute COCO's arrays: hotcoco from columns, pycocotools from dictionaries."""
# ruff: noqa: TID253

from __future__ import annotations

import contextlib
import io
from typing import Any

import numpy as np
from numpy.typing import NDArray

from detloom.evaluate.columns import Found, Truth
from detloom.evaluate.results import IouType

Array = NDArray[np.float64]
Curves = tuple[Array, Array]
"""precision [10 IoUs, 101 recalls, classes, 4 sizes, 3 caps] and recall [10 IoUs, classes, 4 sizes, 3 caps]; -1 where
there is no truth."""


def hotcoco_curves(truth: Truth, found: Found, classes: int, caps: list[int]) -> Curves:
    from hotcoco import COCO
    from hotcoco.mask import area

    masks: list[Any] | None = None if truth.rles is None else [dict(rle) for rle in truth.rles]
    # Ids start at 1: pycocotools takes object 0 for "not matched".
    dataset = COCO.from_arrays(
        _image_rows(truth), _class_rows(classes), truth.image + 1, truth.label + 1, truth.boxes,
        ids=np.arange(1, len(truth.image) + 1), area=truth.area, iscrowd=truth.crowd, segmentation=masks,
    )  # fmt: skip
    columns = np.column_stack((found.image + 1, found.boxes, found.scores, found.label + 1))
    if found.rles is None:
        return _run_hotcoco(dataset, dataset.load_res(columns), "bbox", caps)
    rles: list[Any] = [dict(rle) for rle in found.rles]
    results = dataset.load_res(columns, segmentation=rles)
    if rles:
        # Whether an object is small is a matter of its mask here; the columns hold the areas of boxes.
        results.update_anns(ids=np.arange(1, len(rles) + 1), area=np.asarray(area(rles), dtype=np.float64))
    return _run_hotcoco(dataset, results, "segm", caps)


def hotcoco_json_curves(
    dataset: dict[str, Any], results: list[dict[str, Any]], iou_type: IouType, caps: list[int]
) -> Curves:
    from hotcoco import COCO

    truth = COCO(dataset)
    return _run_hotcoco(truth, truth.load_res(results), iou_type, caps)


def _run_hotcoco(dataset: Any, results: Any, iou_type: IouType, caps: list[int]) -> Curves:
    from hotcoco import COCOeval

    evaluator = COCOeval(dataset, results, iou_type)
    evaluator.params.max_dets = caps
    evaluator.evaluate()
    evaluator.accumulate()
    curves = evaluator.eval or {}
    return curves["precision"], curves["recall"]


def pycocotools_curves(truth: Truth, found: Found, classes: int, caps: list[int]) -> Curves:
    dataset, results = _as_json(truth, found, classes)
    return pycocotools_json_curves(dataset, results, "bbox" if found.rles is None else "segm", caps)


def pycocotools_json_curves(
    dataset: dict[str, Any], results: list[dict[str, Any]], iou_type: IouType, caps: list[int]
) -> Curves:
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    with contextlib.redirect_stdout(io.StringIO()):
        truth: Any = COCO()
        truth.dataset = dataset
        truth.createIndex()
        # loadRes fails on an empty list.
        found = truth.loadRes(results) if results else _empty_like(truth)
        evaluator = COCOeval(truth, found, iou_type)
        evaluator.params.maxDets = caps
        evaluator.evaluate()
        evaluator.accumulate()
    return evaluator.eval["precision"], evaluator.eval["recall"]


def _empty_like(truth: Any) -> Any:
    from pycocotools.coco import COCO

    empty: Any = COCO()
    empty.dataset = {**truth.dataset, "annotations": []}
    empty.createIndex()
    return empty


def _as_json(truth: Truth, found: Found, classes: int) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """What pycocotools wants: one dictionary an object."""
    annotations: list[dict[str, Any]] = [
        {"id": row + 1, "image_id": image + 1, "category_id": label + 1, "bbox": box, "area": area, "iscrowd": int(c)}
        for row, (image, label, box, area, c) in enumerate(
            zip(*(column.tolist() for column in (truth.image, truth.label, truth.boxes, truth.area, truth.crowd)),
                strict=True)
        )
    ]  # fmt: skip
    results: list[dict[str, Any]] = [
        {"image_id": image + 1, "category_id": label + 1, "score": score}
        for image, label, score in zip(found.image.tolist(), found.label.tolist(), found.scores.tolist(), strict=True)
    ]
    # With a box in the result, loadRes evaluates boxes whatever the masks say.
    if found.rles is None:
        for result, box in zip(results, found.boxes.tolist(), strict=True):
            result["bbox"] = box
    else:
        for result, rle in zip(results, found.rles, strict=True):
            result["segmentation"] = dict(rle)
        for annotation, rle in zip(annotations, truth.rles or (), strict=True):
            annotation["segmentation"] = dict(rle)
    dataset = {"images": _image_rows(truth), "categories": _class_rows(classes), "annotations": annotations}
    return dataset, results


def _image_rows(truth: Truth) -> list[dict[str, Any]]:
    return [
        {"id": row + 1, "width": width, "height": height, "file_name": ""}
        for row, (width, height) in enumerate(truth.sizes)
    ]


def _class_rows(classes: int) -> list[dict[str, Any]]:
    return [{"id": index + 1, "name": str(index)} for index in range(classes)]
