"""The losses for code of one's own: scalars, reductions, class indices."""

from __future__ import annotations

import re
from typing import Any

import pytest
import torch
from torch.nn import functional as F

from conftest import ROOT
from detloom import (
    CIoULoss,
    FocalLoss,
    LossSpec,
    MatchabilityLoss,
    UsageError,
    VarifocalLoss,
    compute_iou,
    discover,
)
from detloom.boxes import to_cxcywh


def test_without_its_parts_focal_is_the_cross_entropy() -> None:
    logits = torch.randn(50, 7)
    labels = torch.randint(0, 7, (50,))
    plain = FocalLoss(gamma=0.0, alpha=None)
    one_hot = F.one_hot(labels, 7).float()
    torch.testing.assert_close(plain(logits, labels), F.binary_cross_entropy_with_logits(logits, one_hot))
    # The sigmoid of a difference is the softmax of two: torch's softmax loss is met exactly.
    two = torch.randn(50, 2)
    difference = (two[:, 1] - two[:, 0]).unsqueeze(1)
    yes = torch.randint(0, 2, (50,))
    torch.testing.assert_close(plain(difference, yes.unsqueeze(1).float()), F.cross_entropy(two, yes))


def test_easy_examples_cost_little_and_hard_ones_much() -> None:
    focal, one = FocalLoss(), torch.ones(1, 1)
    easy, middling, hard = (float(focal(torch.tensor([[logit]]), one)) for logit in (5.0, 0.0, -5.0))
    # -alpha (1 - p)^2 log p of p = 0.9933, 0.5, 0.0067
    assert easy == pytest.approx(0.25 * 0.006693**2 * 0.006715, rel=1e-3)
    assert middling == pytest.approx(0.25 * 0.25 * 0.6931, rel=1e-3)
    assert hard == pytest.approx(0.25 * 0.99331**2 * 5.00672, rel=1e-3)


def test_class_indices_mean_rows_with_a_single_one_and_the_rest_is_background() -> None:
    logits = torch.randn(5, 3)
    labels = torch.tensor([0, 2, 3, -1, 99])
    rows = torch.tensor([[1, 0, 0], [0, 0, 1], [0, 0, 0], [0, 0, 0], [0, 0, 0]])
    torch.testing.assert_close(FocalLoss()(logits, labels), FocalLoss()(logits, rows))
    pictures = FocalLoss(reduction="none")(torch.randn(2, 5, 3), labels.expand(2, 5))
    assert pictures.shape == (2, 5, 3)


def test_label_smoothing_makes_certainty_cost() -> None:
    logits, labels = torch.tensor([[12.0, -12.0]]), torch.tensor([0])
    assert float(FocalLoss()(logits, labels)) < 1e-9
    assert float(FocalLoss(label_smoothing=0.1)(logits, labels)) > 1e-4


LOSSES: list[tuple[Any, torch.Tensor, torch.Tensor]] = [
    (FocalLoss, torch.randn(6, 3), torch.rand(6, 3)),
    (VarifocalLoss, torch.randn(6, 3), torch.rand(6, 3)),
    (MatchabilityLoss, torch.randn(6, 3), torch.rand(6, 3)),
    (CIoULoss, torch.rand(6, 4), torch.rand(6, 4) + torch.tensor([0.0, 0, 1, 1])),
]


@pytest.mark.parametrize(("kind", "first", "second"), LOSSES, ids=lambda value: getattr(value, "__name__", ""))
def test_reductions(kind: Any, first: torch.Tensor, second: torch.Tensor) -> None:
    each = kind(reduction="none")(first, second)
    assert each.shape == (first.shape if kind is not CIoULoss else first.shape[:-1])
    assert float(each.std()) > 0
    torch.testing.assert_close(kind()(first, second), each.mean())
    torch.testing.assert_close(kind(reduction="sum")(first, second), each.sum())
    empty = kind()(first[:0].requires_grad_(), second[:0])
    assert float(empty.detach()) == 0 and empty.requires_grad
    with pytest.raises(UsageError, match="'total' is no reduction"):
        kind(reduction="total")


def test_the_box_loss_is_what_is_missing_to_a_perfect_fit() -> None:
    first, second = torch.tensor([[0.0, 0, 4, 2], [3, 3, 9, 8]]), torch.tensor([[2.0, 0, 6, 2], [3, 3, 9, 8]])
    # The first pair shares a third, its centres are 2 apart in a hull of the diagonal sqrt(40); the second is equal.
    torch.testing.assert_close(CIoULoss(reduction="none")(first, second), torch.tensor([2 / 3 + 4 / 40, 0.0]))
    torch.testing.assert_close(
        CIoULoss(box_format="cxcywh")(to_cxcywh(first), to_cxcywh(second)), CIoULoss()(first, second)
    )
    giou = CIoULoss(iou_type="giou", reduction="none")(first, second)
    torch.testing.assert_close(giou, 1 - compute_iou(first, second, "giou").diagonal())


def test_the_example_of_the_documentation_runs() -> None:
    (code,) = re.findall(r"^```python\n(.*?)^```$", (ROOT / "docs" / "losses.md").read_text(), re.DOTALL | re.MULTILINE)
    names: dict[str, Any] = {}
    exec(compile(code, "docs/losses.md", "exec"), names)  # the page is ours
    assert names["overlaps"].shape == (2, 1) and float(names["centred"]) == pytest.approx(0.5)
    assert names["mean"].shape == (1, 4) and bool(names["predicted"].grad.isfinite().all())


def test_every_loss_stands_in_the_documentation() -> None:
    page = (ROOT / "docs" / "losses.md").read_text()
    for spec in discover().specs(LossSpec):
        assert f"`{spec.name}`" in page
        settings = spec.settings().model_dump()
        assert all(f"`{name}`" in page for name in settings), spec.name


def test_targets_of_another_shape_are_refused_with_what_fits() -> None:
    for targets in (torch.zeros(4, 2), torch.zeros(4), torch.zeros(5, dtype=torch.int64)):
        with pytest.raises(UsageError, match=r"do not belong to logits \[4, 3\]"):
            FocalLoss()(torch.zeros(4, 3), targets)
