"""Losses of class scores, against their papers in numpy, the code of models trained with them, and torch."""

from __future__ import annotations

import math
from collections.abc import Callable
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from detloom import losses
from detloom.detector import ElementLoss
from detloom.specs import QUALITY_FLOOR
from detloom_plugins.losses import bce, ce, focal, ia_bce, mal, varifocal
from detloom_plugins.losses.ce.settings import CrossEntropySettings
from detloom_plugins.losses.focal.settings import FocalSettings
from detloom_plugins.losses.ia_bce.settings import OverlapBceSettings
from detloom_plugins.losses.mal.settings import MatchabilitySettings
from detloom_plugins.losses.varifocal.settings import VarifocalSettings
from detloom_schemas.base import Settings

Doubles = NDArray[np.float64]

PLAIN: dict[str, ElementLoss] = {
    "bce": bce.build(Settings()),
    "focal": focal.build(FocalSettings()),
    "ce": ce.build(CrossEntropySettings()),
}
QUALITY: dict[str, ElementLoss] = {
    "varifocal": varifocal.build(VarifocalSettings()),
    "mal": mal.build(MatchabilitySettings()),
    "ia_bce": ia_bce.build(OverlapBceSettings()),
}


def sample(rows: int = 40, classes: int = 5, seed: int = 3) -> tuple[Tensor, Tensor]:
    """Logits, and overlaps of which most are 0 and some hardly more."""
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(rows, classes, generator=generator, dtype=torch.float64) * 3
    overlaps = torch.rand(rows, classes, generator=generator, dtype=torch.float64)
    matched = torch.rand(rows, classes, generator=generator) < 0.3
    overlaps = torch.where(matched, overlaps, 0.0)
    overlaps[0, 0], overlaps[1, 1] = QUALITY_FLOOR, 1.0
    return logits, overlaps


# ---- the papers' formulas, one number at a time -------------------------------------------------------------------


def by_hand(formula: Callable[[float, float], float], logits: Tensor, targets: Tensor) -> Doubles:
    pairs = zip(logits.flatten().tolist(), targets.flatten().tolist(), strict=True)
    return np.array([formula(1 / (1 + math.exp(-x)), t) for x, t in pairs]).reshape(tuple(logits.shape))


def entropy(p: float, t: float) -> float:
    return -(t * math.log(p) + (1 - t) * math.log(1 - p))


def varifocal_by_hand(p: float, q: float) -> float:
    """VarifocalNet, eq. 2."""
    return -q * (q * math.log(p) + (1 - q) * math.log(1 - p)) if q > 0 else -0.75 * p**2 * math.log(1 - p)


def mal_by_hand(p: float, q: float) -> float:
    """DEIM, eq. 3."""
    wanted = q**1.5
    return -wanted * math.log(p) - (1 - wanted) * math.log(1 - p) if q > 0 else -(p**1.5) * math.log(1 - p)


def ia_bce_by_hand(p: float, q: float) -> float:
    """Align-DETR, eq. 3 and 4, with LW-DETR's smallest target."""
    wanted = max(p**0.25 * q**0.75, 0.01)
    return entropy(p, wanted) if q > 0 else -(p**2) * math.log(1 - p)


def focal_by_hand(p: float, t: float) -> float:
    """Focal loss, eq. 5, for targets 0 and 1."""
    sure, weight = (p, 0.25) if t == 1 else (1 - p, 0.75)
    return -weight * (1 - sure) ** 2 * math.log(sure)


@pytest.mark.parametrize(
    ("name", "formula"), [("varifocal", varifocal_by_hand), ("mal", mal_by_hand), ("ia_bce", ia_bce_by_hand)]
)
def test_losses_of_overlaps_are_their_papers(name: str, formula: Callable[[float, float], float]) -> None:
    logits, overlaps = sample()
    np.testing.assert_allclose(QUALITY[name](logits, overlaps).numpy(), by_hand(formula, logits, overlaps), rtol=1e-9)


def test_focal_is_its_paper_and_bce_is_torchs() -> None:
    logits, overlaps = sample()
    hard = (overlaps > 0).double()
    np.testing.assert_allclose(PLAIN["focal"](logits, hard).numpy(), by_hand(focal_by_hand, logits, hard), rtol=1e-9)
    np.testing.assert_allclose(PLAIN["bce"](logits, overlaps).numpy(), by_hand(entropy, logits, overlaps), rtol=1e-9)


def test_mal_with_alpha_weighs_negatives_alone() -> None:
    logits, overlaps = sample()
    weighted = mal.build(MatchabilitySettings(alpha=0.3))(logits, overlaps)
    plain = QUALITY["mal"](logits, overlaps)
    torch.testing.assert_close(weighted, torch.where(overlaps > 0, plain, 0.3 * plain))


def test_smoothed_cross_entropy_spreads_what_an_object_holds() -> None:
    logits = torch.randn(3, 4, dtype=torch.float64)
    targets = torch.tensor([[0, 1.0, 0, 0], [0, 0, 0, 0], [0, 0, 0.5, 0]], dtype=torch.float64)
    found = ce.build(CrossEntropySettings(label_smoothing=0.2))(logits, targets)
    # 0.8 of the class itself and 0.2 over all four; background stays background; half an object, half of all that.
    smooth = torch.tensor([[0.05, 0.85, 0.05, 0.05], [0, 0, 0, 0], [0.025, 0.025, 0.425, 0.025]], dtype=torch.float64)
    torch.testing.assert_close(found, F.binary_cross_entropy_with_logits(logits, smooth, reduction="none"))


def test_smoothed_targets_are_those_of_torchs_cross_entropy() -> None:
    # torch's softmax loss smooths inside: its gradient is p - target, which shows the target that it means.
    logits = torch.randn(6, 5, dtype=torch.float64, requires_grad=True)
    labels = torch.tensor([0, 1, 2, 3, 4, 0])
    softmax = F.cross_entropy(logits, labels, label_smoothing=0.1, reduction="sum")
    meant = logits.softmax(-1) - torch.autograd.grad(softmax, logits)[0]
    hard = F.one_hot(labels, 5).double()
    ours = ce.build(CrossEntropySettings(label_smoothing=0.1))(logits, hard).sum()
    torch.testing.assert_close(logits.sigmoid() - torch.autograd.grad(ours, logits)[0], meant)


# ---- the code that published models were trained with -------------------------------------------------------------


def upstream(kind: str, logits: Tensor, boxes: Tensor, truth: Tensor, labels: Tensor, matched: Tensor) -> Tensor:
    """The sum over one image, by the class that the transformers library has for it. boxes, truth: cxcywh."""
    pytest.importorskip("transformers")
    from transformers.loss.loss_deimv2 import Deimv2Loss
    from transformers.loss.loss_lw_detr import LwDetrImageLoss
    from transformers.loss.loss_rt_detr import RTDetrLoss

    outputs = {"logits": logits[None], "pred_boxes": boxes[None]}
    targets = [{"boxes": truth, "class_labels": labels}]
    indices = [(matched, torch.arange(len(truth)))]
    found: dict[str, Tensor]
    match kind:
        case "varifocal":
            held = _holder(RTDetrLoss, alpha=0.75, gamma=2.0, num_classes=logits.shape[-1])
            found = RTDetrLoss.loss_labels_vfl(held, outputs, targets, indices, 1)
        case "mal":
            held = _holder(RTDetrLoss, mal_alpha=None, gamma=1.5, num_classes=logits.shape[-1])
            found = Deimv2Loss.loss_labels_mal(held, outputs, targets, indices, 1)
        case _:
            held = _holder(LwDetrImageLoss, focal_alpha=0.25)
            found = LwDetrImageLoss.loss_labels(held, outputs, targets, indices, 1)
    (value,) = found.values()
    return value


def _holder(kind: type, **values: object) -> SimpleNamespace:
    """What the method reads of its criterion, without building one."""
    method = kind._get_source_permutation_idx  # type: ignore[attr-defined]
    return SimpleNamespace(**values, _get_source_permutation_idx=lambda indices: method(None, indices))


@pytest.mark.parametrize("name", list(QUALITY))
def test_value_and_gradient_are_those_of_the_models_that_were_trained_with_it(name: str) -> None:
    generator = torch.Generator().manual_seed(8)
    logits = torch.randn(12, 4, generator=generator, dtype=torch.float64, requires_grad=True)
    truth = torch.rand(3, 4, generator=generator, dtype=torch.float64) * 0.3 + 0.3
    boxes = torch.rand(12, 4, generator=generator, dtype=torch.float64) * 0.3 + 0.3
    labels, matched = torch.tensor([2, 0, 3]), torch.tensor([7, 1, 4])
    expected = upstream(name, logits, boxes, truth, labels, matched)

    overlap = [_overlap(boxes[row], truth[place]) for place, row in enumerate(matched.tolist())]
    assert min(overlap) > 0
    wanted = torch.zeros(12, 4, dtype=torch.float64)
    wanted[matched, labels] = torch.tensor(overlap, dtype=torch.float64)
    found = QUALITY[name](logits, wanted).sum()
    torch.testing.assert_close(found, expected, rtol=1e-7, atol=0)
    torch.testing.assert_close(
        torch.autograd.grad(found, logits)[0], torch.autograd.grad(expected, logits)[0], rtol=1e-6, atol=1e-9
    )


def _overlap(first: Tensor, second: Tensor) -> float:
    (ax, ay, aw, ah), (bx, by, bw, bh) = first.tolist(), second.tolist()
    width = min(ax + aw / 2, bx + bw / 2) - max(ax - aw / 2, bx - bw / 2)
    height = min(ay + ah / 2, by + bh / 2) - max(ay - ah / 2, by - bh / 2)
    shared = max(width, 0) * max(height, 0)
    return float(shared / (aw * ah + bw * bh - shared))


# ---- what each is for ---------------------------------------------------------------------------------------------


def test_a_poor_match_is_forgotten_by_varifocal_and_pushed_down_by_mal() -> None:
    """DEIM's reason for another loss: a sure score on a box that hardly fits."""
    sure, poor = torch.tensor([[4.0]]), torch.tensor([[0.02]])
    assert float(QUALITY["mal"](sure, poor)) > 30 * float(QUALITY["varifocal"](sure, poor))


@pytest.mark.parametrize("name", list(QUALITY))
def test_a_match_of_no_overlap_is_still_a_match(name: str) -> None:
    """The floor tells it from background: varifocal ignores it, the others push its score down at full weight."""
    logits = torch.tensor([[1.0]])
    match, nothing = (QUALITY[name](logits, torch.tensor([[value]])) for value in (QUALITY_FLOOR, 0.0))
    assert float(match) < 1e-5 if name == "varifocal" else float(match) > float(nothing)


@pytest.mark.parametrize("name", list(QUALITY))
def test_the_least_loss_of_a_match_is_at_its_overlap(name: str) -> None:
    logits = torch.linspace(-6, 6, 4001, dtype=torch.float64).unsqueeze(1)
    overlap = 0.7
    best = float(logits[QUALITY[name](logits, torch.full_like(logits, overlap)).argmin()].sigmoid())
    if name == "ia_bce":  # the target moves with the score: the gradient p - t vanishes at p = p^a q^(1-a), so at q
        score = torch.logit(torch.tensor([[overlap]], dtype=torch.float64)).requires_grad_()
        slope = torch.autograd.grad(QUALITY[name](score, torch.full_like(score, overlap)).sum(), score)[0]
        assert abs(float(slope)) < 1e-9
        return
    assert best == pytest.approx({"varifocal": overlap, "mal": overlap**1.5}[name], abs=2e-3)


def test_hard_examples_cost_more_than_easy_ones_and_focal_widens_the_gap() -> None:
    easy, hard, one = torch.tensor([[4.0]]), torch.tensor([[-1.0]]), torch.ones(1, 1)
    ratio = {name: float(PLAIN[name](hard, one) / PLAIN[name](easy, one)) for name in ("bce", "focal")}
    assert ratio["bce"] > 10 and ratio["focal"] > 100 * ratio["bce"]


# ---- gradients ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", list(PLAIN))
def test_gradients_are_those_of_finite_differences(name: str) -> None:
    logits, overlaps = sample(6)
    logits.requires_grad_()
    assert torch.autograd.gradcheck(lambda value: PLAIN[name](value, overlaps), (logits,))


@pytest.mark.parametrize("name", list(QUALITY))
def test_the_weights_of_losses_of_overlaps_carry_the_gradient_that_is_meant(name: str) -> None:
    logits, overlaps = sample(6)
    logits.requires_grad_()
    found = torch.autograd.grad(QUALITY[name](logits, overlaps).sum(), logits)[0]
    p, matched = logits.detach().sigmoid(), overlaps > 0
    # BCE(p, t) has the slope p - t; a weight without gradient multiplies it.
    if name == "varifocal":
        expected = torch.where(matched, overlaps, 0.75 * p**2) * (p - overlaps)
    elif name == "mal":
        expected = torch.where(matched, p - overlaps**1.5, p**1.5 * p)
    else:
        wanted = (p**0.25 * overlaps**0.75).clamp(min=0.01)
        # d/dx of -p^2 log(1 - p), by the product rule with dp/dx = p (1 - p).
        negative = -2 * p * p * (1 - p) * (1 - p).log() + p**2 * p
        expected = torch.where(matched, p - wanted, negative)
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("name", [*PLAIN, *QUALITY])
def test_certain_scores_give_finite_values_and_gradients(name: str, dtype: torch.dtype) -> None:
    logits = torch.tensor([[-100.0, 100.0, 0.0]], dtype=dtype).repeat(3, 1).requires_grad_()
    targets = torch.tensor([[0.0], [1.0], [0.5]], dtype=dtype).expand(3, 3)
    before = targets.clone()
    values = {**PLAIN, **QUALITY}[name](logits, targets)
    values.sum().backward()
    assert values.dtype == dtype and bool(values.isfinite().all())
    assert logits.grad is not None and bool(logits.grad.isfinite().all())
    assert torch.equal(targets, before)


@pytest.mark.parametrize("gamma", [0.5, 1.5])
@pytest.mark.parametrize("call", [losses.focal_loss, losses.varifocal_loss, losses.matchability_loss])
def test_powers_below_one_have_finite_slopes_at_zero(call: Callable[..., Tensor], gamma: float) -> None:
    logits = torch.tensor([[-200.0, 200.0, 0.0]], requires_grad=True)
    call(logits, torch.tensor([[0.0, 1.0, 0.5]]), gamma=gamma).sum().backward()
    assert logits.grad is not None and bool(logits.grad.isfinite().all())
