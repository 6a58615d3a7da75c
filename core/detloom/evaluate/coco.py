"""The 12 COCO numbers: hotcoco does the work, pycocotools is the referee.

Lin et al. 2014, "Microsoft COCO", and https://cocodataset.org/#detection-eval.
"""
# ruff: noqa: TID253

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from detloom.data.dataset import ClassMap, Split
from detloom.errors import DataError
from detloom.evaluate.backends import (
    Array,
    Curves,
    hotcoco_curves,
    hotcoco_json_curves,
    pycocotools_curves,
    pycocotools_json_curves,
)
from detloom.evaluate.columns import (
    Found,
    Truth,
    found_columns,
    image_ranks,
    truth_columns,
)
from detloom.evaluate.matching import ImageScore, match, operating_points, score_images
from detloom.evaluate.results import METRICS, ClassResult, Evaluation, IouType
from detloom.geometry import Detections


def evaluate_detections(
    split: Split,
    class_map: ClassMap,
    detections: Sequence[Detections],
    *,
    masks: bool = False,
    max_detections: int = 100,
) -> Evaluation:
    """Detections in the order of split.images, boxes in pixels of the original images.

    masks: compare masks instead of boxes. Raises DetloomError for detections that are not finite or of unknown
    classes, DataError for masks that are not there.
    """
    truth = truth_columns(split, masks=masks)
    found = found_columns(split, class_map, detections, masks=masks)
    curves = hotcoco_curves(truth, found, len(class_map), _caps(max_detections))
    return _conclude(truth, found, class_map, curves, max_detections)


def evaluate_with_masks(
    split: Split,
    class_map: ClassMap,
    detections: Sequence[Detections],
    *,
    masks: bool,
    max_detections: int = 100,
) -> Evaluation:
    """Boxes and, with `masks`, the masks of the same detections in `Evaluation.segm`. Raises like
    `evaluate_detections`."""
    boxes = evaluate_detections(split, class_map, detections, max_detections=max_detections)
    if not masks:
        return boxes
    found = evaluate_detections(split, class_map, detections, masks=True, max_detections=max_detections)
    return replace(boxes, segm=found)


def referee(
    split: Split,
    class_map: ClassMap,
    detections: Sequence[Detections],
    *,
    masks: bool = False,
    max_detections: int = 100,
) -> Evaluation:
    """The same by pycocotools, about a hundred times slower: for tests and `--referee`."""
    truth = truth_columns(split, masks=masks)
    found = found_columns(split, class_map, detections, masks=masks)
    curves = pycocotools_curves(truth, found, len(class_map), _caps(max_detections))
    return _conclude(truth, found, class_map, curves, max_detections)


def rank_images(
    split: Split,
    class_map: ClassMap,
    detections: Sequence[Detections],
    threshold: float,
    *,
    masks: bool = False,
) -> list[ImageScore]:
    """Hits, false alarms and misses of each image at a score threshold (such as `Evaluation.threshold`), in the
    order of the split; `best_and_worst` picks from it."""
    truth = truth_columns(split, masks=masks)
    found = found_columns(split, class_map, detections, masks=masks)
    by_rank = score_images(truth, found, threshold)
    ranks = image_ranks(split).tolist()
    return [replace(by_rank[rank], position=position) for position, rank in enumerate(ranks)]


def to_coco_results(split: Split, class_map: ClassMap, detections: Sequence[Detections]) -> list[dict[str, Any]]:
    """COCO's result list, with the dataset's own image and class ids; boxes xywh, not rounded."""
    results: list[dict[str, Any]] = []
    for image, one in zip(split.images, detections, strict=True):
        boxes = one.boxes.astype(np.float64)
        boxes[:, 2:] -= boxes[:, :2]
        for row, (box, score, label) in enumerate(
            zip(boxes.tolist(), one.scores.tolist(), one.labels.tolist(), strict=True)
        ):
            result = {
                "image_id": image.id,
                "category_id": class_map.ids[label],
                "bbox": box,
                "score": score,
            }
            if one.masks is not None:
                result["segmentation"] = _text_rle(one.masks[row])
            results.append(result)
    return results


def evaluate_coco_files(
    truth: Path | str | Mapping[str, Any],
    detections: Path | str | Sequence[Mapping[str, Any]],
    iou_type: IouType = "bbox",
    *,
    by_referee: bool = False,
) -> dict[str, float]:
    """The 12 numbers of a COCO annotation file and a COCO result file (or their parsed content), ids as they are.

    Results with masks alone can be evaluated as boxes: the box is the mask's. Where masks are evaluated, the size of a
    result is its mask's, whether or not the file gives boxes beside them. Raises DataError for a result file that does
    not belong to the annotations.
    """
    read = truth if isinstance(truth, Mapping) else _parsed(Path(truth))
    dataset = dict(read) if isinstance(read, Mapping) else {}
    results = _parsed(Path(detections)) if isinstance(detections, str | Path) else [dict(d) for d in detections]
    for key in ("images", "annotations", "categories"):
        if not isinstance(dataset.get(key), list):
            raise DataError(f"the annotations have no list `{key}`", hint="give a COCO annotation file")
    known = {image["id"] for image in dataset["images"]}
    stray = next((r for r in results if r["image_id"] not in known), None)
    if stray is not None:
        raise DataError(
            f"a result names image {stray['image_id']}, which the annotations do not hold",
            hint="evaluate the results on the annotations that they were made from",
        )
    if iou_type == "segm":
        results = [{key: value for key, value in result.items() if key != "bbox"} for result in results]
    run = pycocotools_json_curves if by_referee else hotcoco_json_curves
    return summary(run(dataset, results, iou_type, _caps(100)))


def summary(curves: Curves) -> dict[str, float]:
    """From COCO's arrays to the 12 numbers; a size without truth is left out (see Evaluation.metrics)."""
    precision, recall = curves
    views = [precision[..., 0, -1], precision[0, ..., 0, -1], precision[5, ..., 0, -1]]
    views += [precision[..., size, -1] for size in (1, 2, 3)]
    views += [recall[..., 0, cap] for cap in range(3)] + [recall[..., size, -1] for size in (1, 2, 3)]
    means = dict(zip(METRICS, map(_mean_present, views), strict=True))
    sized = {"APs", "APm", "APl", "ARs", "ARm", "ARl"}
    return {n: 0.0 if v is None else v for n, v in means.items() if v is not None or n not in sized}


def _mean_present(values: Array) -> float | None:
    present = values[values > -1]
    return float(np.mean(present)) if len(present) else None


def _conclude(truth: Truth, found: Found, class_map: ClassMap, curves: Curves, max_detections: int) -> Evaluation:
    outcome = match(truth, found, max_detections=max_detections)
    truths = np.bincount(truth.label[~truth.crowd], minlength=len(class_map))
    counts = np.bincount(found.label, minlength=len(class_map)).tolist()
    overall, points = operating_points(found, outcome, truths)
    classes: list[ClassResult] = []
    for index, (class_id, name, point) in enumerate(zip(class_map.ids, class_map.names, points, strict=True)):
        precision = curves[0][:, :, index, 0, -1]
        classes.append(
            ClassResult(
                index=index, id=class_id, name=name,
                AP=_mean_present(precision), AP50=_mean_present(precision[0]),
                truths=int(truths[index]), detections=counts[index],
                threshold=point.threshold, precision=point.precision, recall=point.recall, f1=point.f1,
                curve=tuple(precision[0].tolist()) if truths[index] else (),
            )
        )  # fmt: skip
    return Evaluation(
        iou_type="bbox" if found.rles is None else "segm", metrics=summary(curves), per_class=tuple(classes),
        images=len(truth.sizes), truths=int(truths.sum()), detections=len(found), max_detections=max_detections,
        threshold=overall.threshold, precision=overall.precision, recall=overall.recall, f1=overall.f1,
    )  # fmt: skip


def _caps(max_detections: int) -> list[int]:
    return [min(1, max_detections), min(10, max_detections), max_detections]


def _text_rle(rle: Mapping[str, Any]) -> dict[str, Any]:
    counts = rle["counts"]
    return {
        "size": list(rle["size"]),
        "counts": counts.decode("ascii") if isinstance(counts, bytes) else counts,
    }


def _parsed(path: Path) -> Any:
    try:
        with path.open("rb") as file:
            return json.load(file)
    except (OSError, ValueError) as error:
        raise DataError(f"cannot read {path}: {error}", hint="give a COCO json file") from error
