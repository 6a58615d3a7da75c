"""Masks of RF-DETR: matching costs and loss terms against the library's, and what they depend on."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor

from detloom.train.seeding import seed_torch
from detloom_plugins.models._detr.criterion import truth_of
from detloom_plugins.models.rf_detr import masks as own
from detr_tools import build
from rf_detr_tools import SEG_FAMILY, ellipses
from test_rf_detr import labels_of, stirred

os.environ.setdefault("HF_HUB_OFFLINE", "1")
from transformers.loss import loss_rf_detr as library

WEIGHTS = own.MaskWeights(mask=5.0, dice=5.0, mask_cost=5.0, dice_cost=5.0, point_ratio=16)


@pytest.fixture
def same_points(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Random points that depend on their number alone: whoever asks for as many gets the same ones."""

    def drawn(*shape: int, device: Any = None) -> Tensor:
        generator = torch.Generator().manual_seed(shape[-2])
        return torch.empty(shape[-2:]).uniform_(generator=generator).expand(shape).clone()

    monkeypatch.setattr(torch, "rand", drawn)
    yield


def whole_masks(layers: own.MaskLayers) -> list[Tensor]:
    return [own.mask_logits(q, m, layers.bias) for q, m in zip(layers.queries, layers.maps, strict=True)]


def trained_forward() -> tuple[Any, Any, Any]:
    detector: Any = stirred(build(SEG_FAMILY)).train()
    images, targets = ellipses(objects=(2, 1))
    return detector, detector(images, targets), targets


@pytest.mark.usefixtures("same_points")
def test_costs_of_the_matching_are_those_of_whole_masks() -> None:
    """The library computes every mask and looks at points of it; ours computes the points alone."""
    _, outputs, targets = trained_forward()
    layers = outputs.extra["mask_layers"]
    costs = own.mask_costs(layers, targets.masks, 3, WEIGHTS)
    assert costs.shape == (9, 2, 20, 2)
    points = torch.rand(1, WEIGHTS.points(24, 24), 2)
    for layer, masks in enumerate(whole_masks(layers)):
        for image in range(2):
            found = library.sample_point(masks[image][:, None], points.repeat(60, 1, 1), align_corners=False)[:, 0]
            truth = library.sample_point(
                targets.masks[image][:, None].float(), points.repeat(2, 1, 1), align_corners=False, mode="nearest"
            )[:, 0]
            wanted = 5 * library.pair_wise_sigmoid_cross_entropy_loss(found, truth)
            wanted = (wanted + 5 * library.pair_wise_dice_loss(found, truth)).detach()
            there = int((targets.labels[image] >= 0).sum())
            ours = costs[3 * layer : 3 * layer + 3, image].flatten(0, 1)
            torch.testing.assert_close(ours[:, :there], wanted[:, :there], rtol=1e-4, atol=1e-5)
            assert bool((ours[:, there:] == 0).all())


class _GivenPairs:
    """In the place of the library's matcher."""

    def __init__(self, rounds: list[list[tuple[Tensor, Tensor]]]) -> None:
        self.rounds = iter(rounds)

    def __call__(self, *_: object, **__: object) -> list[tuple[Tensor, Tensor]]:
        return next(self.rounds)


@pytest.mark.usefixtures("same_points")
def test_the_mask_terms_and_their_gradient_are_the_librarys_on_the_same_pairs() -> None:
    detector, outputs, targets = trained_forward()
    layers = outputs.extra["mask_layers"]
    (stack,) = outputs.extra["stacks"]
    (pairs,) = detector.criterion.match([stack], truth_of(targets, (96, 96)))
    found = own.grouped(pairs.query, pairs.matched, 3, 20)
    terms = own.mask_terms(layers, targets.masks, found, WEIGHTS)

    labels = labels_of(targets, (96, 96))
    for label, masks, kept in zip(labels, targets.masks, targets.valid, strict=True):
        label["masks"] = masks[kept]
    masks = whole_masks(layers)
    # Rows of `found` are queries of layers in our order: first stage, earlier layers, last.
    rounds = []
    for layer in (2, 1, 0):
        queries, objects = found.query[layer], torch.arange(2).repeat(3)
        kept = found.matched[layer]
        rounds.append([(queries[image][kept[image]], objects[kept[image]]) for image in range(2)])
    criterion = library.RfDetrImageLoss(_GivenPairs(rounds), 3, 0.25, ["masks"], 3, 16)
    empty = {"logits": torch.zeros(2, 60, 3), "pred_boxes": torch.zeros(2, 60, 4)}
    theirs = criterion(
        {
            **empty,
            "pred_masks": masks[2],
            "auxiliary_outputs": [{**empty, "pred_masks": masks[1]}],
            "enc_outputs": {**empty, "pred_masks": masks[0]},
        },
        labels,
    )
    # The library divides by objects times groups.
    for layer, suffix in enumerate(("_enc", "_0", "")):
        for ours, name in ((terms["mask"], "loss_mask_ce"), (terms["dice"], "loss_mask_dice")):
            wanted = 5 * theirs[f"{name}{suffix}"] * (3 * 3)
            torch.testing.assert_close(ours[layer], wanted, rtol=1e-4, atol=1e-4)
    weight = detector.network.query_features_proj.weight
    (ours,) = torch.autograd.grad(sum(t.sum() for t in terms.values()), weight, retain_graph=True)
    (wanted,) = torch.autograd.grad(5 * 9 * sum(theirs[key] for key in theirs if "mask" in key), weight)
    torch.testing.assert_close(ours, wanted, rtol=1e-3, atol=1e-4)


def test_the_nearest_pixel_is_the_one_that_grid_sampling_takes() -> None:
    torch.manual_seed(0)
    masks = torch.randint(0, 2, (3, 7, 11), dtype=torch.uint8)
    points = torch.rand(3, 400, 2)
    wanted = library.sample_point(masks[:, None].float(), points, align_corners=False, mode="nearest")[:, 0]
    assert torch.equal(own.truth_at_points(masks, points), wanted)


def test_points_follow_the_seed_of_the_step_alone() -> None:
    detector, outputs, targets = trained_forward()

    def total(seed: int) -> float:
        seed_torch(seed)
        return float(detector.loss(outputs, targets).total.detach())

    assert total(1) == total(1) != total(2)


def test_most_points_lie_where_the_mask_is_undecided() -> None:
    torch.manual_seed(0)
    ramp = torch.linspace(-8, 8, 32).expand(1, 1, 32, 32)
    points = own.uncertain_points(ramp, 200)
    near = (points[..., 0] - 0.5).abs() < 0.25
    # Three quarters of the points are the best of three times as many; half of the rest are near by chance.
    assert points.shape == (1, 1, 200, 2) and int(near.sum()) >= 165


def test_an_object_that_vanished_when_the_picture_was_made_smaller_teaches_no_mask() -> None:
    detector, outputs, targets = trained_forward()
    targets.masks[0, 0] = 0
    with_rest = own.has_mask(targets.masks)
    assert with_rest.tolist() == [[False, True], [True, False]]
    layers = outputs.extra["mask_layers"]
    (stack,) = outputs.extra["stacks"]
    (pairs,) = detector.criterion.match([stack], truth_of(targets, (96, 96)))
    found = own.grouped(pairs.query, pairs.matched, 3, 20)
    seed_torch(0)
    before = own.mask_terms(layers, targets.masks, found, WEIGHTS)
    found.matched[:, 0, ::2] = False
    seed_torch(0)
    after = own.mask_terms(layers, targets.masks, found, WEIGHTS)
    torch.testing.assert_close(before, after)
    assert bool((own.mask_costs(layers, targets.masks, 3, WEIGHTS)[:, 0, :, 0] == 0).all())


def test_masks_pull_the_matching_towards_the_query_whose_mask_fits() -> None:
    detector, outputs, targets = trained_forward()
    layers = outputs.extra["mask_layers"]
    seed_torch(0)
    costs = own.mask_costs(layers, targets.masks, 3, WEIGHTS)
    masks = whole_masks(layers)[-1].detach()
    small = torch.nn.functional.interpolate(targets.masks[:, :1].float(), size=(24, 24), mode="area")
    fit = ((masks[:, :20] > 0) == (small > 0.5)).float().mean((2, 3))[0]
    last = costs[6, 0, :, 0]
    # Rank correlation: a mask that agrees on more pixels costs less.
    ranks = torch.stack((fit.argsort().argsort(), (-last).argsort().argsort())).float()
    assert float(torch.corrcoef(ranks)[0, 1]) > 0.6
    assert float(detector.mask_weights.mask_cost) == 5.0
