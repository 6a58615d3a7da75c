"""The loss plugins that come with Detloom: their specs, their settings, and closed forms of the box losses.

The formulas of class scores stand in test_losses_scores.py, the measures of boxes in test_boxes_measures.py.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from types import ModuleType

import pytest
import torch
from pydantic import ValidationError
from torch import Tensor

from detloom.boxes import pairwise_iou
from detloom.detector import ElementLoss
from detloom.specs import LossSpec
from detloom_plugins.losses import bce, ce, ciou, dfl, diou, focal, giou, ia_bce, iou, l1, mal, siou, varifocal
from detloom_plugins.losses.focal.settings import FocalSettings
from detloom_plugins.losses.l1.settings import DistanceSettings
from detloom_plugins.losses.siou.settings import SiouSettings
from detloom_schemas.base import Settings

BOX_MODULES = {"iou": iou, "giou": giou, "diou": diou, "ciou": ciou, "siou": siou, "l1": l1}
CLASS_MODULES = (bce, focal, ce, varifocal, mal, ia_bce)


def spec_of(module: ModuleType) -> LossSpec:
    (spec,) = module.detloom_losses()
    assert isinstance(spec, LossSpec)
    return spec


def box_loss(name: str) -> ElementLoss:
    spec = spec_of(BOX_MODULES[name])
    return spec.build(spec.settings())


def boxes(*rows: tuple[float, float, float, float]) -> Tensor:
    return torch.tensor(rows, dtype=torch.float64)


@pytest.mark.parametrize("module", [*CLASS_MODULES, *BOX_MODULES.values()])
def test_each_loss_module_hands_over_one_spec_of_its_role(module: ModuleType) -> None:
    spec = spec_of(module)
    assert spec.role == ("box" if module in BOX_MODULES.values() else "classification")
    assert spec.quality == (module in (varifocal, mal, ia_bce))
    assert module.detloom_api == (0, 1)
    shape = (5, 4) if spec.role == "box" else (5, 7)
    first, second = torch.rand(shape), torch.rand(shape)
    assert spec.build(spec.settings())(first, second).shape == ((5,) if spec.role == "box" else (5, 7))


def test_the_loss_of_distributions_has_its_role() -> None:
    spec = spec_of(dfl)
    assert (spec.role, spec.quality) == ("distribution", False)
    # Nothing is known: log 8 for every place.
    values = spec.build(spec.settings())(torch.zeros(3, 8), torch.tensor([0.0, 2.5, 7.0]))
    torch.testing.assert_close(values, torch.full((3,), math.log(8)))


def test_the_distance_of_the_sides_is_counted_in_its_scale() -> None:
    spec = spec_of(l1)
    near, far = boxes((0, 0, 10, 10), (0, 0, 10, 10)), boxes((1, 0, 10, 12), (-4, 4, 6, 14))
    assert spec.build(DistanceSettings(scale_px=2.0))(near, far).tolist() == [1.5, 8.0]


def test_the_power_of_siou_reaches_it() -> None:
    one, wider = boxes((0, 0, 10, 10)), boxes((-1, 0, 11, 10))
    loss = {power: float(siou.build(SiouSettings(shape_power=power))(one, wider)) for power in (2.0, 6.0)}
    unlike = 1 - math.exp(-2 / 12)
    assert loss[2.0] - loss[6.0] == pytest.approx((unlike**2 - unlike**6) / 2, rel=1e-6)


def test_equal_boxes_cost_nothing() -> None:
    same = boxes((3, 4, 20, 30), (0, 0, 1, 1))
    for name in BOX_MODULES:
        torch.testing.assert_close(box_loss(name)(same, same), torch.zeros(2, dtype=torch.float64), atol=1e-6, rtol=0)


def test_half_overlapping_boxes_cost_what_the_papers_say() -> None:
    # Two 4x2 boxes, one shifted by 2: they share 4 of 12, their hull is 6x2, the centres are 2 apart.
    first, second = boxes((0, 0, 4, 2)), boxes((2, 0, 6, 2))
    share = 4 / 12
    assert float(box_loss("iou")(first, second)) == pytest.approx(1 - share**2, rel=1e-6)
    assert float(box_loss("giou")(first, second)) == pytest.approx(1 - share, rel=1e-6)
    assert float(box_loss("diou")(first, second)) == pytest.approx(1 - share + 4 / 40, rel=1e-6)
    assert float(box_loss("ciou")(first, second)) == pytest.approx(1 - share + 4 / 40, rel=1e-6)
    assert float(box_loss("l1")(first, second)) == pytest.approx(4 / 64)


def test_boxes_apart_cost_by_their_hull_and_distance() -> None:
    # Two unit boxes, 9 apart: the hull is 10x1.
    first, second = boxes((0, 0, 1, 1)), boxes((9, 0, 10, 1))
    assert float(box_loss("iou")(first, second)) == 1
    assert float(box_loss("giou")(first, second)) == pytest.approx(1 + 8 / 10, rel=1e-6)
    assert float(box_loss("ciou")(first, second)) == pytest.approx(1 + 81 / 101, rel=1e-6)


def test_ciou_adds_the_aspect_ratio_of_concentric_boxes() -> None:
    # 4x1 in 4x4 around one centre.
    found = float(box_loss("ciou")(boxes((0, 1.5, 4, 2.5)), boxes((0, 0, 4, 4))))
    aspect = 4 / math.pi**2 * (math.atan(1) - math.atan(4)) ** 2
    weight = aspect / (1 - 0.25 + aspect)
    assert found == pytest.approx(1 - 0.25 + weight * aspect, rel=1e-6)


@pytest.mark.parametrize("name", list(BOX_MODULES))
def test_box_losses_have_the_gradient_of_finite_differences(name: str) -> None:
    generator = torch.Generator().manual_seed(2)
    corner = torch.rand(6, 2, generator=generator, dtype=torch.float64) * 20
    side = torch.rand(6, 2, generator=generator, dtype=torch.float64) * 20 + 2
    predicted = torch.cat((corner, corner + side), 1).requires_grad_()
    target = boxes((1, 2, 15, 14)).repeat(6, 1)
    if name == "ciou":  # its aspect weight is a constant for the gradient: compare where the aspect is right
        target = predicted.detach() * 1.1 + 0.7
        found = torch.autograd.grad(box_loss(name)(predicted, target).sum(), predicted)[0]
        numeric = _numeric_gradient(lambda value: box_loss(name)(value, target).sum(), predicted.detach())
        torch.testing.assert_close(found, numeric, rtol=1e-4, atol=1e-7)
        return
    assert torch.autograd.gradcheck(lambda value: box_loss(name)(value, target), (predicted,))


def _numeric_gradient(call: Callable[[Tensor], Tensor], at: Tensor, step: float = 1e-5) -> Tensor:
    result = torch.zeros_like(at)
    for index in range(at.numel()):
        offset = torch.zeros_like(at).flatten()
        offset[index] = step
        offset = offset.view_as(at)
        result.view(-1)[index] = (call(at + offset) - call(at - offset)) / (2 * step)
    return result


@pytest.mark.parametrize("name", list(BOX_MODULES))
def test_degenerate_boxes_give_finite_losses_and_gradients(name: str) -> None:
    rows = torch.tensor([[5, 5, 5, 5], [5, 5, 2, 2], [0, 0, 0, 9], [0, 0, 4, 4]], dtype=torch.float32)
    for target in (torch.zeros(4, 4), rows.clone(), torch.tensor([[0.0, 0, 4, 4]]).repeat(4, 1)):
        predicted = rows.clone().requires_grad_()
        loss = box_loss(name)(predicted, target)
        loss.sum().backward()
        assert bool(loss.isfinite().all())
        assert predicted.grad is not None and bool(predicted.grad.isfinite().all())


def test_pairwise_iou_equals_pycocotools() -> None:
    mask = pytest.importorskip("pycocotools.mask")
    generator = torch.Generator().manual_seed(1)
    corner = torch.rand(30, 2, generator=generator, dtype=torch.float64) * 50
    both = torch.cat((corner, torch.rand(30, 2, generator=generator, dtype=torch.float64) * 40 + 1), 1)
    expected = mask.iou(both[:10].numpy(), both[10:].numpy(), [0] * 20)
    xyxy = torch.cat((both[:, :2], both[:, :2] + both[:, 2:]), 1)
    torch.testing.assert_close(pairwise_iou(xyxy[:10], xyxy[10:]), torch.from_numpy(expected), atol=1e-6, rtol=1e-6)


def test_bce_is_the_cross_entropy_for_soft_targets_too() -> None:
    logits = torch.tensor([[0.0, 2.0, -3.0]], dtype=torch.float64)
    targets = torch.tensor([[1.0, 0.3, 0.0]], dtype=torch.float64)
    p = logits.sigmoid()
    expected = -(targets * p.log() + (1 - targets) * (1 - p).log())
    torch.testing.assert_close(bce.build(Settings())(logits, targets), expected)


def focal_loss(**settings: float | None) -> ElementLoss:
    return focal.build(FocalSettings.model_validate(settings))


def test_focal_is_the_papers_equation_5() -> None:
    logits = torch.tensor([[1.5, -0.5]], dtype=torch.float64)
    targets = torch.tensor([[1.0, 0.0]], dtype=torch.float64)
    p = torch.sigmoid(logits)
    expected = torch.stack((-0.25 * (1 - p[0, 0]) ** 2 * p[0, 0].log(), -0.75 * p[0, 1] ** 2 * (1 - p[0, 1]).log()))
    torch.testing.assert_close(focal_loss()(logits, targets)[0], expected)


def test_focal_without_its_parts_is_bce() -> None:
    logits, targets = torch.randn(4, 3), torch.rand(4, 3)
    plain = focal_loss(gamma=0.0, alpha=None)(logits, targets)
    torch.testing.assert_close(plain, bce.build(Settings())(logits, targets))


def test_focal_smooths_labels_towards_a_half() -> None:
    logits = torch.randn(4, 3)
    smooth = focal_loss(gamma=0.0, alpha=None, label_smoothing=0.2)(logits, torch.ones(4, 3))
    torch.testing.assert_close(smooth, bce.build(Settings())(logits, torch.full((4, 3), 0.9)))


@pytest.mark.parametrize("gamma", [0.5, 2.0])
def test_focal_is_safe_where_the_score_equals_the_target(gamma: float) -> None:
    logits = torch.tensor([[0.0, 100.0, -100.0]], requires_grad=True)
    focal_loss(gamma=gamma)(logits, torch.tensor([[0.5, 1.0, 0.0]])).sum().backward()
    assert logits.grad is not None and bool(logits.grad.isfinite().all())


@pytest.mark.parametrize(
    ("module", "wrong"),
    [
        (focal, {"gamma": -1}),
        (focal, {"alpha": 2}),
        (focal, {"label_smoothing": 1}),
        (focal, {"gama": 2}),
        (varifocal, {"alpha": -1}),
        (varifocal, {"alpha": None}),
        (mal, {"gamma": -0.5}),
        (ia_bce, {"alpha": 1.5}),
        (ce, {"label_smoothing": 1.0}),
        (siou, {"shape_power": 7}),
        (l1, {"scale_px": 0}),
    ],
)
def test_impossible_settings_are_refused(module: ModuleType, wrong: dict[str, float]) -> None:
    with pytest.raises(ValidationError):
        type(spec_of(module).settings()).model_validate(wrong)
