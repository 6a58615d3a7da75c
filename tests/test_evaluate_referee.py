"""Evaluation against pycocotools: random data with crowds and ties, the published pairs, files of results."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from detloom.data.dataset import Split
from detloom.errors import DataError
from detloom.evaluate import (
    METRICS,
    Evaluation,
    evaluate_coco_files,
    evaluate_detections,
    rank_images,
    referee,
    to_coco_results,
)
from evaluate_tools import TWO, A, make_split, random_case


def assert_same(ours: Evaluation, theirs: Evaluation) -> None:
    assert ours.metrics.keys() == theirs.metrics.keys()
    for name, value in ours.metrics.items():
        assert value == pytest.approx(theirs.metrics[name], abs=1e-12), name
    for mine, other in zip(ours.per_class, theirs.per_class, strict=True):
        assert mine == replace(other, AP=mine.AP, AP50=mine.AP50, curve=mine.curve)
        assert (mine.AP is None) == (other.AP is None)
        assert mine.AP is None or pytest.approx(other.AP, abs=1e-12) == mine.AP
        assert np.allclose(mine.curve, other.curve, atol=1e-12)


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), images=st.integers(1, 5), masks=st.booleans(), cap=st.sampled_from([100, 3]))
def test_every_number_equals_pycocotools_with_crowds_and_ties(seed: int, images: int, masks: bool, cap: int) -> None:
    split, found = random_case(np.random.default_rng(seed), images=images, per_image=6, masks=masks)
    ours = evaluate_detections(split, TWO, found, masks=masks, max_detections=cap)
    assert_same(ours, referee(split, TWO, found, masks=masks, max_detections=cap))


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), masks=st.booleans())
def test_the_counts_at_one_threshold_equal_those_of_pycocotools(seed: int, masks: bool) -> None:
    """pycocotools' own matching, read from evalImgs at IoU 0.5 over all sizes."""
    import contextlib
    import io

    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    split, found = random_case(np.random.default_rng(seed), images=3, per_image=6, masks=masks)
    results = to_coco_results(split, TWO, found)
    if not results:
        return
    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO()
        truth.dataset = coco_json(split, masks=masks)
        truth.createIndex()
        if masks:
            results = [{k: v for k, v in r.items() if k != "bbox"} for r in results]
        evaluator = COCOeval(truth, truth.loadRes(results), "segm" if masks else "bbox")
        evaluator.evaluate()
    expected = dict.fromkeys((image.id for image in split.images), (0, 0, 0))
    for one in evaluator.evalImgs:
        if one is None or one["aRng"] != [0, 1e10]:
            continue
        matched, ignored = one["dtMatches"][0] > 0, one["dtIgnore"][0].astype(bool)
        shown = np.array(one["dtScores"]) >= 0.4 - 1e-6
        hits, alarms = int((matched & ~ignored & shown).sum()), int((~matched & ~ignored & shown).sum())
        objects = int((np.asarray(one["gtIgnore"]) == 0).sum())
        old = expected[one["image_id"]]
        expected[one["image_id"]] = (old[0] + hits, old[1] + alarms, old[2] + objects - hits)
    ours = rank_images(split, TWO, found, 0.4, masks=masks)
    assert {split.images[s.position].id: (s.hits, s.false_alarms, s.misses) for s in ours} == expected


def coco_json(split: Split, *, masks: bool = False) -> dict[str, Any]:
    annotations = []
    for row, (x1, y1, x2, y2) in enumerate(split.boxes.tolist()):
        annotation = {
            "id": row + 1, "image_id": split.images[split.image_index[row]].id,
            "category_id": TWO.ids[split.labels[row]], "bbox": [x1, y1, x2 - x1, y2 - y1],
            "area": float(split.area[row]), "iscrowd": int(split.crowd[row]),
        }  # fmt: skip
        if masks:
            annotation["segmentation"] = dict(split.rles[row] or {})
        annotations.append(annotation)
    images = [{"id": i.id, "width": i.width, "height": i.height} for i in split.images]
    return {
        "images": images,
        "annotations": annotations,
        "categories": [{"id": 3, "name": "a"}, {"id": 7, "name": "b"}],
    }


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 2**32 - 1))
def test_saved_results_with_the_datasets_ids_give_the_same_numbers(seed: int) -> None:
    split, found = random_case(np.random.default_rng(seed), images=4, per_image=5)
    ours = evaluate_detections(split, TWO, found).metrics
    saved = json.loads(json.dumps(to_coco_results(split, TWO, found)))
    assert evaluate_coco_files(coco_json(split), saved, by_referee=True) == pytest.approx(dict(ours), abs=1e-12)


PAIRS = {
    "instances_val2014_fakebbox100_results.json:bbox": (
        "instances_val2014_100.json", "instances_val2014_fakebbox100_results.json", "bbox"),
    "instances_val2014_fakesegm100_results.json:segm": (
        "instances_val2014_100.json", "instances_val2014_fakesegm100_results.json", "segm"),
    "fakesegm_as_bbox": ("instances_val2014_100.json", "instances_val2014_fakesegm100_results.json", "bbox"),
    "yolox_nano_val158:bbox": ("coco_val2017_158_gt.json", "yolox_nano_val158_dets.json", "bbox"),
    "fastestdet_val158:bbox": ("coco_val2017_158_gt.json", "fastestdet_val158_dets.json", "bbox"),
}  # fmt: skip


@pytest.mark.data
@pytest.mark.parametrize("pair", PAIRS)
def test_the_twelve_numbers_of_the_published_pairs(pair: str, data_dir: Path) -> None:
    folder = data_dir / "coco_eval"
    expected = json.loads((folder / "expected_pycocotools_2.0.11.json").read_text())
    assert set(expected) == set(PAIRS), "a pair was added: compare it too"
    truth, results, iou_type = PAIRS[pair]
    numbers = evaluate_coco_files(folder / truth, folder / results, iou_type)  # type: ignore[arg-type]
    assert [round(numbers[name], 6) for name in METRICS] == expected[pair]


def test_a_result_of_another_dataset_is_refused() -> None:
    split = make_split([[(A, 0)]])
    stray = [{"image_id": 99, "category_id": 3, "bbox": [0, 0, 1, 1], "score": 1.0}]
    with pytest.raises(DataError, match="image 99"):
        evaluate_coco_files(coco_json(split), stray)


def test_annotations_that_are_not_coco_are_refused(tmp_path: Path) -> None:
    (tmp_path / "broken.json").write_text("{")
    with pytest.raises(DataError, match=r"broken\.json"):
        evaluate_coco_files(tmp_path / "broken.json", [])
    with pytest.raises(DataError, match="images"):
        evaluate_coco_files({"info": {}}, [])
