"""Matching and the loss of DETRs, compared with the library's own and with a search through all assignments."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from detloom.detector import Targets
from detloom.losses import box_loss, focal_loss, varifocal_loss
from detloom_plugins.models._detr.criterion import DetrCriterion, TermWeights, truth_of
from detloom_plugins.models._detr.denoising import denoising_pairs
from detloom_plugins.models._detr.library import transformers
from detloom_plugins.models._detr.matching import Costs, Stack, assign, match, pair_costs

SIZE = (320, 640)
CLASSES = 3


@dataclass
class Case:
    """logits: [L, B, Q, C]; boxes: [L, B, Q, 4]; labels: the targets as the library wants them."""

    logits: Tensor
    boxes: Tensor
    targets: Targets
    labels: list[dict[str, Tensor]]

    def stack(self, names: Sequence[str]) -> Stack:
        return Stack(self.logits, self.boxes, tuple(names))


def random_boxes(generator: torch.Generator, *shape: int) -> Tensor:
    """cxcywh in 0..1, inside the picture."""
    sides = torch.rand(*shape, 2, generator=generator) * 0.4 + 0.05
    centres = sides / 2 + torch.rand(*shape, 2, generator=generator) * (1 - sides)
    return torch.cat((centres, sides), -1)


def random_case(counts: Sequence[int], layers: int = 1, queries: int = 12, seed: int = 0) -> Case:
    generator = torch.Generator().manual_seed(seed)
    batch, width = len(counts), max(1, *counts)
    logits = torch.randn(layers, batch, queries, CLASSES, generator=generator)
    truth = random_boxes(generator, batch, width)
    labels = torch.randint(0, CLASSES, (batch, width), generator=generator)
    for image, count in enumerate(counts):
        labels[image, count:], truth[image, count:] = -1, 0
    corners = torch.cat((truth[..., :2] - truth[..., 2:] / 2, truth[..., :2] + truth[..., 2:] / 2), -1)
    targets = Targets(corners * torch.tensor([SIZE[1], SIZE[0], SIZE[1], SIZE[0]]), labels)
    theirs = [{"class_labels": labels[i, :n], "boxes": truth[i, :n]} for i, n in enumerate(counts)]
    return Case(logits, random_boxes(generator, layers, batch, queries), targets, theirs)


def library_config() -> Any:
    return transformers("rt_detr").RTDetrConfig(num_labels=CLASSES)


def criterion(quality: bool = True, **losses: Any) -> DetrCriterion:
    own = {"classification": varifocal_loss, "box": partial(box_loss, iou_type="giou")}
    return DetrCriterion("test", {**own, **losses}, TermWeights(), Costs(), quality=quality)


@pytest.mark.parametrize("seed", range(5))
def test_objects_go_to_the_same_queries_as_in_the_library(seed: int) -> None:
    from transformers.loss.loss_rt_detr import RTDetrHungarianMatcher

    case = random_case((3, 0, 5, 1), layers=2, seed=seed)
    (pairs,) = match([case.stack(("aux", ""))], truth_of(case.targets, SIZE), Costs())
    matcher = RTDetrHungarianMatcher(library_config())
    for layer in range(2):
        theirs = matcher({"logits": case.logits[layer], "pred_boxes": case.boxes[layer]}, case.labels)
        for image, (queries, objects) in enumerate(theirs):
            count = len(case.labels[image]["boxes"])
            found = pairs.query[layer, image]
            assert dict(zip(objects.tolist(), queries.tolist(), strict=True)) == dict(enumerate(found[:count].tolist()))
            assert pairs.matched[layer, image].tolist() == [True] * count + [False] * (5 - count)


def test_several_stacks_are_matched_each_by_itself() -> None:
    small, large = random_case((2, 3), queries=6, seed=1), random_case((2, 3), queries=9, seed=1)
    truth = truth_of(small.targets, SIZE)
    together = match([small.stack([""]), large.stack([""])], truth, Costs())
    for pairs, case in zip(together, (small, large), strict=True):
        (alone,) = match([case.stack([""])], truth, Costs())
        assert torch.equal(pairs.query, alone.query) and torch.equal(pairs.matched, alone.matched)


def test_the_cheapest_assignment_is_found_also_with_more_objects_than_queries() -> None:
    rng = np.random.default_rng(0)
    for queries, objects in ((4, 3), (3, 3), (2, 4)):
        cost = rng.random((1, 1, queries, objects + 1)).astype(np.float32)
        cost[..., -1] = np.inf
        (owners,) = assign(cost)[0]
        assert owners[-1] == -1, "a padded row is nobody's"
        taken = {column: int(row) for column, row in enumerate(owners[:-1]) if row >= 0}
        assert len(taken) == min(queries, objects) == len(set(taken.values()))
        small, other = (range(objects), range(queries)) if objects <= queries else (range(queries), range(objects))
        table = cost[0, 0, :, :-1] if objects > queries else cost[0, 0, :, :-1].T
        best = min(
            sum(table[i, j] for i, j in zip(small, order, strict=True))
            for order in itertools.permutations(other, len(small))
        )
        assert sum(cost[0, 0, row, column] for column, row in taken.items()) == pytest.approx(best)


def test_predictions_that_are_no_numbers_are_taken_last() -> None:
    case = random_case((3,), queries=6)
    case.logits[0, 0, 0], case.boxes[0, 0, 1] = torch.nan, torch.nan
    case.boxes[0, 0, 2] = torch.inf
    (pairs,) = match([case.stack([""])], truth_of(case.targets, SIZE), Costs())
    assert set(pairs.query[0, 0].tolist()) == {3, 4, 5} and bool(pairs.matched.all())


def test_costs_are_finite_at_the_ends_of_16_bits() -> None:
    case = random_case((2,), queries=4)
    case.logits[0, 0] = torch.tensor([60000.0, -60000.0, 0.0])
    cost = pair_costs(case.stack([""]), truth_of(case.targets, SIZE), Costs())
    assert bool(cost.isfinite().all()) and float(cost.abs().max()) < 1e6


@pytest.mark.parametrize("counts", [(3, 3), (4, 1, 0)])
def test_the_loss_is_the_librarys(counts: tuple[int, ...]) -> None:
    """Main layer, auxiliary layers and encoder; the library divides by the number of objects, our loop does."""
    from transformers.loss.loss_rt_detr import RTDetrForObjectDetectionLoss

    case = random_case(counts, layers=4)
    ours = criterion()([case.stack(("encoder", "aux", "aux", ""))], case.targets, SIZE)
    layers, boxes = case.logits[1:].transpose(0, 1), case.boxes[1:].transpose(0, 1)
    total, parts, _ = RTDetrForObjectDetectionLoss(
        layers[:, -1], case.labels, torch.device("cpu"), boxes[:, -1], library_config(), layers, boxes,
        enc_topk_logits=case.logits[0], enc_topk_bboxes=case.boxes[0],
    )  # fmt: skip
    assert float(ours.normaliser) == sum(counts)
    torch.testing.assert_close(ours.total / ours.normaliser, total, rtol=1e-4, atol=1e-4)
    mine = {name: value / ours.normaliser for name, value in ours.terms.items()}
    for name, theirs in (("loss_cls", "loss_vfl"), ("loss_l1", "loss_bbox"), ("loss_box", "loss_giou")):
        torch.testing.assert_close(mine[name], parts[theirs], rtol=1e-4, atol=1e-4)
    auxiliary = sum(parts[f"{kind}_aux_{layer}"] for kind in ("loss_vfl", "loss_bbox", "loss_giou") for layer in (0, 1))
    torch.testing.assert_close(mine["loss_aux"], auxiliary, rtol=1e-4, atol=1e-4)


def test_denoising_terms_are_the_librarys() -> None:
    """Images with the same number of objects: the library judges the copies of padded rows too, as background."""
    from transformers.loss.loss_rt_detr import RTDetrForObjectDetectionLoss

    groups, width = 2, 3
    noisy = random_case((width, width), layers=2, queries=groups * 2 * width, seed=3)
    real = random_case((width, width), layers=2, seed=3)
    stack = Stack(noisy.logits, noisy.boxes, ("denoising",) * 2, scale=1 / groups)
    truth = truth_of(real.targets, SIZE)
    ours = criterion()([real.stack(("aux", ""))], real.targets, SIZE, [(stack, denoising_pairs(stack, truth, groups))])
    positive = torch.arange(groups).repeat_interleave(width) * 2 * width + torch.arange(width).repeat(groups)
    meta = {"dn_positive_idx": [positive] * 2, "dn_num_group": groups, "dn_num_split": [groups * 2 * width, 12]}
    logits = torch.cat((noisy.logits, real.logits), 2).transpose(0, 1)
    boxes = torch.cat((noisy.boxes, real.boxes), 2).transpose(0, 1)
    _, parts, _ = RTDetrForObjectDetectionLoss(
        logits[:, -1], real.labels, torch.device("cpu"), boxes[:, -1], library_config(), logits, boxes,
        enc_topk_logits=real.logits[0], enc_topk_bboxes=real.boxes[0], denoising_meta_values=meta,
    )  # fmt: skip
    theirs = sum(value for name, value in parts.items() if "_dn_" in name)
    torch.testing.assert_close(ours.terms["loss_denoising"] / ours.normaliser, theirs, rtol=1e-4, atol=1e-4)


def test_copies_of_padded_rows_are_not_judged() -> None:
    stack = Stack(torch.randn(1, 2, 8, CLASSES), torch.rand(1, 2, 8, 4), ("denoising",))
    case = random_case((2, 1))
    pairs = denoising_pairs(stack, truth_of(case.targets, SIZE), groups=2)
    assert pairs.counted is not None
    assert pairs.counted.tolist() == [[True] * 8, [True, False] * 4]
    assert pairs.matched[0].tolist() == [[True] * 4, [True, False] * 2]
    assert pairs.query[0, 0].tolist() == [0, 1, 4, 5]


def test_overlaps_or_ones_are_the_targets_as_the_loss_wants() -> None:
    seen: list[Tensor] = []

    def noting(logits: Tensor, targets: Tensor) -> Tensor:
        seen.append(targets)
        return focal_loss(logits, targets)

    case = random_case((3, 1))
    for quality in (True, False):
        criterion(quality, classification=noting)([case.stack([""])], case.targets, SIZE)
    overlaps, ones = seen
    assert int((ones > 0).sum()) == 4 and float(ones.sum()) == 4
    assert torch.equal(overlaps > 0, ones > 0) and float(overlaps.max()) < 1
    (pairs,) = match([case.stack([""])], truth_of(case.targets, SIZE), Costs())
    for image, row in ((0, 0), (0, 1), (0, 2), (1, 0)):
        query, label = int(pairs.query[0, image, row]), int(case.targets.labels[image, row])
        assert float(ones.view(2, 12, CLASSES)[image, query, label]) == 1


def test_weights_scale_their_terms_and_gradients_reach_matched_boxes_only() -> None:
    case = random_case((2, 0))
    case.boxes.requires_grad_()
    base = criterion()([case.stack([""])], case.targets, SIZE).terms
    heavy = DetrCriterion("test", criterion().losses, TermWeights(2.0, 6.0, 15.0), Costs(), quality=True)
    terms = heavy([case.stack([""])], case.targets, SIZE).terms
    for name, factor in (("loss_cls", 2.0), ("loss_box", 3.0), ("loss_l1", 3.0)):
        torch.testing.assert_close(terms[name], factor * base[name])
    (base["loss_box"] + base["loss_l1"]).backward()
    assert case.boxes.grad is not None
    assert int((case.boxes.grad.abs().sum(-1) > 0).sum()) == 2
    assert bool(case.boxes.grad.isfinite().all())
