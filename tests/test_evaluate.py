"""Evaluation: closed forms, refusals, ranking, the small meter and the evaluator of a run."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from detloom.data.dataset import Split, select_images
from detloom.detector import Decoded, Detector, LayerGroup, LossTerms, Outputs, Targets, TransferReport
from detloom.errors import DataError, DetloomError
from detloom.evaluate import (
    APMeter,
    COCOEvaluator,
    PassOptions,
    best_and_worst,
    evaluate_detections,
    rank_images,
    to_coco_results,
)
from detloom.geometry import Detections, InputRule, PostRule
from evaluate_tools import FAR, NOTHING, SIDE, TWO, A, B, detections, make_split, random_case

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
