"""Sides as distributions over bins: known distributions, torch's cross-entropy, and the formula in numpy."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from detloom import DFLoss, UsageError
from detloom.losses import distribution_focal_loss, expected_bin, neighbouring_bins


def test_known_distributions_have_known_means() -> None:
    sure = torch.full((1, 16), -1e4)
    sure[0, 11] = 0.0
    shares = torch.full((1, 16), -1e4)
    shares[0, 3], shares[0, 4] = math.log(0.25), math.log(0.75)
    ramp = torch.arange(1, 17).float().log().unsqueeze(0)
    assert float(expected_bin(torch.zeros(1, 16))) == pytest.approx(7.5)
    assert float(expected_bin(sure)) == pytest.approx(11)
    assert float(expected_bin(shares)) == pytest.approx(3.75)
    # Sum of k (k + 1) over sum of (k + 1), k = 0..15: 1360 / 136.
    assert float(expected_bin(ramp)) == pytest.approx(1360 / 136)
    assert expected_bin(torch.zeros(2, 4, 8)).shape == (2, 4)


@pytest.mark.parametrize(
    ("place", "bin_below", "weight_above"),
    [(0.0, 0, 0.0), (0.25, 0, 0.25), (7.0, 7, 0.0), (14.5, 14, 0.5), (15.0, 14, 1.0), (-3.0, 0, 0.0), (99.0, 14, 1.0)],
)
def test_a_place_lies_between_two_bins(place: float, bin_below: int, weight_above: float) -> None:
    below, weight = neighbouring_bins(torch.tensor([place]), 16)
    assert (int(below), float(weight)) == (bin_below, pytest.approx(weight_above))


def test_on_a_bin_it_is_torchs_cross_entropy() -> None:
    logits = torch.randn(16, 16, dtype=torch.float64)
    places = torch.arange(16)
    found = distribution_focal_loss(logits, places.double())
    torch.testing.assert_close(found, F.cross_entropy(logits, places, reduction="none"))


def test_between_bins_it_is_the_papers_equation() -> None:
    rng = np.random.default_rng(4)
    logits, places = rng.normal(size=(50, 9)), rng.uniform(0, 8, 50)
    powers = np.exp(logits - logits.max(1, keepdims=True))
    probability = powers / powers.sum(1, keepdims=True)
    left = np.floor(places).astype(int)
    rows = np.arange(50)
    # Generalized Focal Loss, eq. 6: -((y_{i+1} - y) log S_i + (y - y_i) log S_{i+1}).
    expected = -(
        (left + 1 - places) * np.log(probability[rows, left]) + (places - left) * np.log(probability[rows, left + 1])
    )
    found = distribution_focal_loss(torch.from_numpy(logits), torch.from_numpy(places))
    np.testing.assert_allclose(found.numpy(), expected, rtol=1e-10)


def test_it_is_what_d_fine_is_trained_with() -> None:
    pytest.importorskip("transformers")
    from transformers.loss.loss_d_fine import DFineLoss

    generator = torch.Generator().manual_seed(5)
    logits = torch.randn(20, 33, generator=generator, dtype=torch.float64)
    below = torch.randint(0, 32, (20,), generator=generator)
    above = torch.rand(20, generator=generator, dtype=torch.float64)
    expected = DFineLoss.unimodal_distribution_focal_loss(None, logits, below.double(), above, 1 - above)
    torch.testing.assert_close(distribution_focal_loss(logits, below + above).sum(), expected)


def test_going_down_its_gradient_the_mean_reaches_the_place() -> None:
    places = torch.tensor([0.0, 2.3, 8.75, 15.0])
    logits = torch.zeros(4, 16, requires_grad=True)
    optimizer = torch.optim.Adam([logits], lr=0.3)
    loss = DFLoss(16, reduction="sum")
    for _ in range(200):
        optimizer.zero_grad()
        loss(logits, places).backward()
        optimizer.step()
    torch.testing.assert_close(loss.expected(logits.detach()), places, atol=0.06, rtol=0)
    # What is left is the entropy of the two shares: nothing on a bin.
    entropy = [-(w * math.log(w) + (1 - w) * math.log(1 - w)) if w else 0.0 for w in (0.0, 0.3, 0.75, 0.0)]
    left = DFLoss(16, reduction="none")(logits.detach(), places)
    torch.testing.assert_close(left, torch.tensor(entropy), atol=0.02, rtol=0)


def test_gradients_are_those_of_finite_differences() -> None:
    logits = torch.randn(6, 7, dtype=torch.float64, requires_grad=True)
    places = torch.tensor([0.0, 0.5, 3.0, 5.9, 6.0, 9.0], dtype=torch.float64)
    assert torch.autograd.gradcheck(lambda value: distribution_focal_loss(value, places), (logits,))
    inner = torch.tensor([0.4, 2.6], dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda value: distribution_focal_loss(logits[:2].detach(), value), (inner,))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_certain_distributions_give_finite_values_and_gradients(dtype: torch.dtype) -> None:
    logits = torch.zeros(2, 16, dtype=dtype)
    logits[0, 3], logits[1, 15] = 1e4, -1e4
    logits.requires_grad_()
    values = distribution_focal_loss(logits, torch.tensor([12.2, 15.0], dtype=dtype))
    values.sum().backward()
    assert values.dtype == dtype and bool(values.isfinite().all())
    assert logits.grad is not None and bool(logits.grad.isfinite().all())


def test_the_module_takes_sides_in_any_shape_and_reduces() -> None:
    logits, places = torch.randn(3, 4, 8), torch.rand(3, 4) * 7
    each = DFLoss(8, reduction="none")(logits, places)
    assert each.shape == (3, 4)
    assert float(DFLoss(8)(logits, places)) == pytest.approx(float(each.mean()))
    assert float(DFLoss(8, "sum")(logits, places)) == pytest.approx(float(each.sum()))
    below, weight = DFLoss(8).bins(places)
    torch.testing.assert_close(below + weight, places)


def test_another_number_of_bins_and_a_single_one_are_refused() -> None:
    with pytest.raises(UsageError, match=r"\[2, 17\] is not the 16 bins"):
        DFLoss()(torch.zeros(2, 17), torch.zeros(2))
    with pytest.raises(UsageError, match="1 bins cannot hold"):
        DFLoss(num_bins=1)
