"""Evaluation: closed forms, pycocotools as the referee on random data, and the published pairs."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pycocotools import mask as coco_mask
from torch import Tensor, nn

from detloom.data.dataset import ClassMap, ImageInfo, Split, select_images
from detloom.detector import Decoded, Detector, LayerGroup, LossTerms, Outputs, Targets, TransferReport
from detloom.errors import DataError, DetloomError
from detloom.evaluate import (
    METRICS,
    APMeter,
    COCOEvaluator,
    Evaluation,
    PassOptions,
    best_and_worst,
    evaluate_coco_files,
    evaluate_detections,
    rank_images,
    referee,
    to_coco_results,
)
from detloom.geometry import Detections, InputRule, PostRule

TWO = ClassMap((3, 7), ("cat", "dog"))
SIDE = 200


def make_split(
    objects: Sequence[Sequence[tuple[Sequence[float], int]]],
    *,
    crowd: Sequence[bool] | None = None,
    ids: Sequence[int | str] | None = None,
    masks: bool = False,
) -> Split:
    """objects: one list an image of (xyxy box, class index)."""
    flat = [(image, box, label) for image, rows in enumerate(objects) for box, label in rows]
    boxes = np.array([box for _, box, _ in flat], dtype=np.float64).reshape(-1, 4)
    counts = [len(rows) for rows in objects]
    names = ids or [10 * (i + 1) for i in range(len(objects))]
    return Split(
        name="val",
        images=tuple(ImageInfo(i, f"{i}.jpg", Path(f"{i}.jpg"), SIDE, SIDE) for i in names),
        boxes=boxes,
        labels=np.array([label for _, _, label in flat], dtype=np.int64),
        crowd=np.array(crowd if crowd is not None else [False] * len(flat), dtype=np.bool_),
        area=(boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1]),
        image_index=np.repeat(np.arange(len(objects)), counts),
        object_ids=tuple(range(len(flat))),
        rles=tuple(box_mask(box) if masks else None for _, box, _ in flat),
        starts=np.concatenate([[0], np.cumsum(counts)]).astype(np.int64),
    )


def box_mask(box: Sequence[float]) -> dict[str, Any]:
    x1, y1, x2, y2 = (round(v) for v in box)
    canvas = np.zeros((SIDE, SIDE), dtype=np.uint8, order="F")
    canvas[y1 : max(y2, y1 + 1), x1 : max(x2, x1 + 1)] = 1
    return dict(coco_mask.encode(canvas))


def detections(rows: Sequence[tuple[Sequence[float], float, int]], *, masks: bool = False) -> Detections:
    ordered = sorted(rows, key=lambda row: -row[1])
    return Detections(
        np.array([r[0] for r in ordered], dtype=np.float32).reshape(-1, 4),
        np.array([r[1] for r in ordered], dtype=np.float32),
        np.array([r[2] for r in ordered], dtype=np.int64),
        tuple(box_mask(r[0]) for r in ordered) if masks else None,
    )


NOTHING = detections([])
A, B, FAR = (10, 10, 60, 60), (100, 100, 150, 150), (150, 10, 190, 50)


# Closed forms


def test_perfect_detections_score_one() -> None:
    split = make_split([[(A, 0), (B, 1)], [(A, 1)]])
    found = [detections([(A, 0.9, 0), (B, 0.8, 1)]), detections([(A, 0.7, 1)])]
    result = evaluate_detections(split, TWO, found)
    for name in ("AP", "AP50", "AP75", "APm", "AR10", "AR100"):
        assert result.metrics[name] == pytest.approx(1.0)
    assert (result.precision, result.recall, result.f1) == (1.0, 1.0, 1.0)
    assert result.threshold == pytest.approx(0.7)


def test_a_false_alarm_above_one_of_two_objects_gives_the_textbook_ap() -> None:
    """Scores: hit, miss, hit. Precision 1 up to recall 0.5, then 2/3: 51 of 101 points at 1, 50 at 2/3."""
    split = make_split([[(A, 0), (B, 0)]])
    found = [detections([(A, 0.9, 0), (FAR, 0.8, 0), (B, 0.7, 0)])]
    result = evaluate_detections(split, TWO, found)
    assert result.metrics["AP50"] == pytest.approx((51 + 50 * 2 / 3) / 101, abs=1e-9)
    assert result.per_class[0].curve[50] == pytest.approx(1.0)
    assert result.per_class[0].curve[51] == pytest.approx(2 / 3)


def test_a_box_of_iou_0_62_counts_at_three_of_ten_thresholds() -> None:
    """80 of 100 rows wide, shifted: IoU = 62/100 passes 0.50, 0.55 and 0.60."""
    split = make_split([[((0, 0, 100, 100), 0)]])
    result = evaluate_detections(split, TWO, [detections([((0, 0, 100, 62), 0.9, 0)])])
    assert result.metrics["AP"] == pytest.approx(0.3)
    assert result.metrics["AP50"] == pytest.approx(1.0)
    assert result.metrics["AP75"] == 0.0


def test_nothing_found_gives_zeros() -> None:
    result = evaluate_detections(make_split([[(A, 0)], []]), TWO, [NOTHING, NOTHING])
    assert set(result.metrics.values()) == {0.0}
    assert result.per_class[0].AP == 0.0
    assert result.f1 == 0.0


def test_nothing_to_find_gives_zeros_and_no_sizes() -> None:
    result = evaluate_detections(make_split([[], []]), TWO, [detections([(A, 0.5, 0)]), NOTHING])
    assert result.metrics == dict.fromkeys(("AP", "AP50", "AP75", "AR1", "AR10", "AR100"), 0.0)
    assert [c.AP for c in result.per_class] == [None, None]
    assert result.per_class[0].detections == 1


def test_a_split_without_images_is_no_crash() -> None:
    assert evaluate_detections(make_split([]), TWO, []).metrics["AP"] == 0.0


def test_a_size_without_truth_is_absent_rather_than_zero() -> None:
    result = evaluate_detections(make_split([[(A, 0)]]), TWO, [detections([(A, 0.9, 0)])])
    assert "APm" in result.metrics
    assert "APs" not in result.metrics
    assert "ARl" not in result.metrics


def test_a_class_without_truth_does_not_lower_the_mean() -> None:
    result = evaluate_detections(make_split([[(A, 0)]]), TWO, [detections([(A, 0.9, 0), (B, 0.8, 1)])])
    assert result.metrics["AP"] == pytest.approx(1.0)
    assert result.per_class[1].AP is None
    assert result.scalars("val")["val/AP/cat"] == pytest.approx(1.0)
    assert "val/AP/dog" not in result.scalars("val")


def test_detections_inside_a_crowd_are_neither_right_nor_wrong() -> None:
    split = make_split([[(A, 0), ((100, 0, 200, 200), 0)]], crowd=[False, True])
    inside = [((110, 20 * k, 130, 20 * k + 15), 0.95, 0) for k in range(5)]
    result = evaluate_detections(split, TWO, [detections([(A, 0.9, 0), *inside])])
    assert result.metrics["AP"] == pytest.approx(1.0)
    assert result.truths == 1
    assert result.precision == 1.0


def test_the_cap_counts_best_scores_of_an_image_and_class() -> None:
    """101 detections of one class: the hit comes last and is cut; in another class the hit stands."""
    split = make_split([[(A, 0), (B, 1)]])
    wrong = [(FAR, 0.9, 0)] * 100
    result = evaluate_detections(split, TWO, [detections([*wrong, (A, 0.1, 0), (B, 0.05, 1)])])
    assert result.per_class[0].AP == 0.0
    assert result.per_class[0].recall == 0.0
    assert pytest.approx(1.0) == result.per_class[1].AP
    uncapped = evaluate_detections(split, TWO, [detections([*wrong, (A, 0.1, 0)])], max_detections=101)
    assert pytest.approx(1 / 101) == uncapped.per_class[0].AP50


def test_the_best_threshold_maximises_f1_over_every_possible_threshold() -> None:
    rng = np.random.default_rng(5)
    split, found = random_case(rng, images=6, per_image=6)
    result = evaluate_detections(split, TWO, found)
    best = max(
        (2 * h / (2 * h + f + m) if h else 0.0)
        for t in np.unique(np.concatenate([d.scores for d in found]))
        for h, f, m in [totals(rank_images(split, TWO, found, float(t)))]
    )
    assert result.f1 == pytest.approx(best)
    hits, alarms, misses = totals(rank_images(split, TWO, found, result.threshold))
    assert result.precision == pytest.approx(hits / (hits + alarms))
    assert result.recall == pytest.approx(hits / (hits + misses))


def totals(scores: Sequence[Any]) -> tuple[int, int, int]:
    return sum(s.hits for s in scores), sum(s.false_alarms for s in scores), sum(s.misses for s in scores)


# The referee


def random_case(
    rng: np.random.Generator, *, images: int, per_image: int, masks: bool = False
) -> tuple[Split, list[Detections]]:
    """Boxes on a coarse grid and scores from a short list: overlaps, crowds and ties abound."""

    def box() -> tuple[float, ...]:
        x, y = rng.integers(0, 16, 2) * 10
        w, h = rng.integers(1, 9, 2) * 10 if not masks else rng.integers(1, 4, 2) * 10
        return (float(x), float(y), float(min(x + w, SIDE)), float(min(y + h, SIDE)))

    objects = [[(box(), int(rng.integers(2))) for _ in range(rng.integers(per_image))] for _ in range(images)]
    total = sum(map(len, objects))
    ids = (rng.permutation(1000)[:images] + 1).tolist()
    split = make_split(objects, crowd=(rng.random(total) < 0.2).tolist(), ids=ids, masks=masks)
    found = []
    for rows in objects:
        near = [(np.clip(np.array(b) + rng.integers(-1, 2, 4) * 4, 0, SIDE).tolist(), c) for b, c in rows]
        near = [(b, c) for b, c in near if b[2] > b[0] and b[3] > b[1]]
        stray = [(box(), int(rng.integers(2))) for _ in range(rng.integers(4))]
        found.append(detections([(b, float(rng.integers(1, 5)) / 5, c) for b, c in near + stray], masks=masks))
    return split, found


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


# Bad values


@pytest.mark.parametrize("score", [float("nan"), float("inf")])
def test_a_score_that_is_no_number_is_refused_with_the_image_named(score: float) -> None:
    split = make_split([[], [(A, 0)]])
    with pytest.raises(DetloomError, match=r"(?s)20\.jpg.*diverged"):
        evaluate_detections(split, TWO, [NOTHING, detections([(A, score, 0)])])


def test_a_box_that_is_no_number_is_refused() -> None:
    with pytest.raises(DetloomError, match="not all finite"):
        evaluate_detections(make_split([[(A, 0)]]), TWO, [detections([((0, 0, float("nan"), 5), 0.5, 0)])])


def test_an_unknown_class_is_refused() -> None:
    with pytest.raises(DetloomError, match=r"class index 2 is outside 0\.\.1"):
        evaluate_detections(make_split([[(A, 0)]]), TWO, [detections([(A, 0.5, 2)])])


def test_a_missing_image_is_refused() -> None:
    with pytest.raises(DetloomError, match="1 images were given for the 2 images"):
        evaluate_detections(make_split([[(A, 0)], []]), TWO, [NOTHING])


def test_masks_that_are_not_there_are_named() -> None:
    with pytest.raises(DataError, match="has no mask"):
        evaluate_detections(make_split([[(A, 0)]]), TWO, [NOTHING], masks=True)
    with pytest.raises(DetloomError, match=r"10\.jpg have none"):
        evaluate_detections(make_split([[(A, 0)]], masks=True), TWO, [detections([(A, 0.5, 0)])], masks=True)


# Ids, ranking, parts


def test_results_leave_with_the_datasets_own_ids_and_xywh_boxes() -> None:
    split = make_split([[], [(B, 1)]], ids=[42, "left/b"])
    rows = to_coco_results(split, TWO, [NOTHING, detections([(B, 0.5, 1)], masks=True)])
    assert len(rows) == 1
    assert rows[0]["image_id"] == "left/b"
    assert rows[0]["category_id"] == 7
    assert rows[0]["bbox"] == [100, 100, 50, 50]
    json.dumps(rows)


def test_good_and_bad_images_are_told_apart() -> None:
    split = make_split([[(A, 0)], [(A, 0), (B, 1)], [(A, 0)], []])
    found = [NOTHING, detections([(A, 0.9, 0), (B, 0.9, 1)]), detections([(A, 0.9, 0), (FAR, 0.8, 1)]), NOTHING]
    scores = rank_images(split, TWO, found, 0.5)
    assert [(s.hits, s.false_alarms, s.misses) for s in scores] == [(0, 0, 1), (2, 0, 0), (1, 1, 0), (0, 0, 0)]
    good, bad = best_and_worst(scores, 2)
    assert [s.position for s in good] == [1]
    assert [s.position for s in bad] == [0, 2]


def test_a_part_of_a_split_keeps_its_objects() -> None:
    split = make_split([[(A, 0)], [], [(B, 1), (FAR, 0)]])
    part = select_images(split, [2, 0])
    assert [i.id for i in part.images] == [30, 10]
    assert part.boxes[part.objects_of(0)].tolist() == [list(B), list(FAR)]
    assert part.boxes[part.objects_of(1)].tolist() == [list(A)]
    assert part.image_index.tolist() == [0, 0, 1]
    assert len(select_images(split, [])) == 0


# The meter


def test_the_meter_gives_the_area_under_the_exact_curve() -> None:
    meter = APMeter(classes=3)
    meter.update(detections([(A, 0.9, 0), (FAR, 0.8, 0), (B, 0.7, 0)]), np.array([A, B, FAR]), np.array([0, 0, 1]))
    result = meter.compute()
    assert result["per_class"] == [pytest.approx(0.5 + 0.5 * 2 / 3), 0.0, None]
    assert result["AP"] == pytest.approx((0.5 + 1 / 3) / 2)
    meter.reset()
    assert meter.compute()["AP"] == 0.0


def test_the_meter_agrees_with_coco_within_its_grid() -> None:
    split, found = random_case(np.random.default_rng(8), images=8, per_image=6)
    split = replace(split, crowd=np.zeros_like(split.crowd))
    meter = APMeter(classes=2)
    for position, one in enumerate(found):
        rows = split.objects_of(position)
        meter.update(one, split.boxes[rows], split.labels[rows])
    expected = evaluate_detections(split, TWO, found).metrics["AP50"]
    assert meter.compute()["AP"] == pytest.approx(expected, abs=0.02)


# The evaluator


class Echo(Detector):
    """Finds what the first pixel of each image says: its red value is the position in a list of answers."""

    def __init__(self, answers: Sequence[Detections]) -> None:
        super().__init__(("cat", "dog"), InputRule(size=(32, 32)), PostRule(kind="nms"))
        self.answers = answers
        self.scale = nn.Parameter(torch.ones(1))
        self.norm = nn.BatchNorm2d(1)
        self.rules: list[PostRule | None] = []

    def forward(self, images: Tensor, targets: Targets | None = None, prompts: object | None = None) -> Outputs:
        assert not self.training
        assert not torch.is_grad_enabled()
        key = images[:, 0, 0, 0].long()
        return Outputs(logits=key.float()[:, None, None] * self.scale, boxes=torch.zeros(len(key), 1, 4))

    def loss(self, outputs: Outputs, targets: Targets) -> LossTerms:
        count = targets.valid.sum().float()
        return LossTerms({"cls": 2 * count, "box": 3 * count}, count)

    def decode(self, outputs: Outputs) -> Decoded:
        raise NotImplementedError

    def layer_groups(self) -> list[LayerGroup]:
        return []

    def load_pretrained(self, state: Any, class_names: Sequence[str], source: str) -> TransferReport:
        raise NotImplementedError

    def predict(
        self, outputs: Outputs, sizes: Sequence[tuple[int, int]], rule: PostRule | None = None
    ) -> list[Detections]:
        self.rules.append(rule)
        return [self.answers[int(key)] for key in outputs.logits[:, 0, 0].tolist()]


def batch(split: Split, indices: list[int]) -> Any:
    images = torch.zeros(len(indices), 3, 32, 32, dtype=torch.uint8)
    images[:, 0, 0, 0] = torch.tensor(indices)
    labels = torch.zeros(len(indices), 1, dtype=torch.int64)
    return SimpleNamespace(
        images=images,
        targets=Targets(torch.zeros(len(indices), 1, 4), labels),
        indices=indices,
        sizes=[(SIDE, SIDE)] * len(indices),
    )


def test_the_evaluator_equals_an_evaluation_of_the_same_detections() -> None:
    split, found = random_case(np.random.default_rng(3), images=5, per_image=5)
    model, seen = Echo(found), []
    evaluator = COCOEvaluator(split, TWO)
    rule = PostRule(kind="nms", score_threshold=0.5)
    options = PassOptions(rule=rule, loss=True, progress=lambda done, total: seen.append((done, total)))
    result = evaluator.evaluate(model, [batch(split, [3, 0]), batch(split, [1, 2, 4])], options)
    assert result == evaluate_detections(split, TWO, found)
    assert seen == [(2, 5), (5, 5)]
    assert model.rules == [rule, rule]
    assert evaluator.losses == pytest.approx({"loss": 5.0, "cls": 2.0, "box": 3.0})
    assert to_coco_results(split, TWO, evaluator.detections) == to_coco_results(split, TWO, found)


def test_the_evaluator_gives_every_module_its_mode_back_even_after_a_failure() -> None:
    split, found = random_case(np.random.default_rng(3), images=2, per_image=5)
    model = Echo(found).train()
    model.norm.eval()
    COCOEvaluator(split, TWO).evaluate(model, [batch(split, [0, 1])])
    assert model.training
    assert not model.norm.training
    with pytest.raises(IndexError):
        COCOEvaluator(split, TWO).evaluate(model, [batch(split, [9])])
    assert model.training


def test_images_that_the_loader_did_not_bring_do_not_count() -> None:
    split = make_split([[(A, 0)], [(B, 1)]])
    evaluator = COCOEvaluator(split, TWO)
    evaluator.update([1], [detections([(B, 0.9, 1)])])
    assert evaluator.compute().images == 1
    assert evaluator.compute().metrics["AP"] == pytest.approx(1.0)


def test_one_image_is_evaluated_alone() -> None:
    split = make_split([[(A, 0)], [(B, 1), (A, 0)]])
    result = COCOEvaluator(split, TWO).evaluate_image(1, detections([(B, 0.9, 1)]))
    assert (result.images, result.truths) == (1, 2)
    assert result.metrics["AP50"] == pytest.approx(0.5)
