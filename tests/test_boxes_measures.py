"""Measures of how boxes fit, against their papers written out in numpy, one pair at a time."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from torch import Tensor

from detloom import UsageError, boxes, compute_iou
from detloom.boxes import BoxFormat, IoUType

KINDS: tuple[IoUType, ...] = ("iou", "giou", "diou", "ciou", "siou")
Box = tuple[float, float, float, float]


# ---- the papers ---------------------------------------------------------------------------------------------------


def parts(a: Box, b: Box) -> tuple[float, float, float, float, float, float]:
    """Overlap, union, hull's width and height, offset of the centres."""
    width = max(0.0, min(a[2], b[2]) - max(a[0], b[0]))
    height = max(0.0, min(a[3], b[3]) - max(a[1], b[1]))
    shared = width * height
    union = (a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - shared
    hull = max(a[2], b[2]) - min(a[0], b[0]), max(a[3], b[3]) - min(a[1], b[1])
    offset = (a[0] + a[2] - b[0] - b[2]) / 2, (a[1] + a[3] - b[1] - b[3]) / 2
    return shared / union, union, *hull, *offset


def iou_of(a: Box, b: Box) -> float:
    return parts(a, b)[0]


def giou_of(a: Box, b: Box) -> float:
    overlap, union, width, height, _, _ = parts(a, b)
    return overlap - (width * height - union) / (width * height)


def diou_of(a: Box, b: Box) -> float:
    overlap, _, width, height, x, y = parts(a, b)
    return overlap - (x * x + y * y) / (width * width + height * height)


def ciou_of(a: Box, b: Box) -> float:
    """Eq. 9 to 11 of the second paper on DIoU and CIoU."""
    difference = math.atan((b[2] - b[0]) / (b[3] - b[1])) - math.atan((a[2] - a[0]) / (a[3] - a[1]))
    v = 4 / math.pi**2 * difference**2
    alpha = v / (1 - iou_of(a, b) + v) if v else 0.0
    return diou_of(a, b) - alpha * v


def siou_of(a: Box, b: Box) -> float:
    """Sections 3.1 to 3.4, with the paper's arcsin and theta = 4."""
    overlap, _, hull_width, hull_height, x, y = parts(a, b)
    distance = math.hypot(x, y)
    angle = 1 - 2 * math.sin(math.asin(abs(y) / distance) - math.pi / 4) ** 2 if distance else 0.0
    gamma = 2 - angle
    delta = (1 - math.exp(-gamma * (x / hull_width) ** 2)) + (1 - math.exp(-gamma * (y / hull_height) ** 2))
    wide, high, wide2, high2 = a[2] - a[0], a[3] - a[1], b[2] - b[0], b[3] - b[1]
    omega = sum(
        (1 - math.exp(-abs(one - other) / max(one, other))) ** 4 for one, other in ((wide, wide2), (high, high2))
    )
    return overlap - (delta + omega) / 2


PAPERS: dict[IoUType, Callable[[Box, Box], float]] = {
    "iou": iou_of,
    "giou": giou_of,
    "diou": diou_of,
    "ciou": ciou_of,
    "siou": siou_of,
}


def matrix(kind: IoUType, first: Tensor, second: Tensor) -> NDArray[np.float64]:
    rows: list[Box] = [tuple(row) for row in first.tolist()]
    columns: list[Box] = [tuple(row) for row in second.tolist()]
    return np.array([[PAPERS[kind](a, b) for b in columns] for a in rows])


def some_boxes(count: int, seed: int, extent: float = 100.0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    corner = torch.rand(count, 2, generator=generator, dtype=torch.float64) * extent
    side = (torch.rand(count, 2, generator=generator, dtype=torch.float64) + 0.02) * extent * 0.8
    return torch.cat((corner, corner + side), 1)


# ---- values -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("extent", [1000.0, 0.01], ids=["pixels", "fractions"])
def test_every_pair_of_many_boxes_is_as_the_paper_says(kind: IoUType, extent: float) -> None:
    first, second = some_boxes(20, 1, extent), some_boxes(15, 2, extent)
    second[:3] = first[:3]  # equal ones too
    expected = matrix(kind, first, second)
    overlaps = matrix("iou", first, second)
    assert (overlaps == 0).sum() > 50 and (overlaps > 0.2).sum() > 20, "some apart, some together"
    np.testing.assert_allclose(compute_iou(first, second, kind).numpy(), expected, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("kind", KINDS)
def test_formats_matrices_and_rows_agree(kind: IoUType) -> None:
    first, second = some_boxes(6, 3), some_boxes(6, 4)
    expected = torch.from_numpy(matrix(kind, first, second))
    centred = boxes.to_cxcywh(first), boxes.to_cxcywh(second)
    torch.testing.assert_close(compute_iou(*centred, kind, box_format="cxcywh"), expected)
    rows = compute_iou(first, second, kind, pairwise=False)
    torch.testing.assert_close(rows, expected.diagonal())
    assert compute_iou(first[0], second[0], kind, pairwise=False).shape == ()
    batched = compute_iou(torch.stack((first, second)), torch.stack((second[:4], first[:4])), kind)
    torch.testing.assert_close(batched[0], expected[:, :4])
    torch.testing.assert_close(batched[1], torch.from_numpy(matrix(kind, second, first[:4])))


def test_known_boxes_have_known_measures() -> None:
    # 4x2 beside its like, 2 further: they share 4 of 12, the hull is 6x2 and its square diagonal 40.
    a, b = torch.tensor([[0.0, 0, 4, 2]]), torch.tensor([[2.0, 0, 6, 2]])
    found = {kind: float(compute_iou(a, b, kind)) for kind in KINDS}
    assert found["iou"] == found["giou"] == pytest.approx(1 / 3)
    assert found["diou"] == found["ciou"] == pytest.approx(1 / 3 - 4 / 40)
    # Straight beside each other: no angle cost, so the distance counts with its full power of 2.
    assert found["siou"] == pytest.approx(1 / 3 - (1 - math.exp(-2 * (2 / 6) ** 2)) / 2)


def test_siou_counts_distance_least_on_the_diagonal() -> None:
    one = torch.tensor([[0.0, 0, 10, 10]])
    straight, diagonal = torch.tensor([[30.0, 0, 40, 10]]), torch.tensor([[30.0, 30, 40, 40]])
    # Of 45 degrees the angle cost is 1, and the power falls from 2 to 1 for each of the two sides.
    assert float(boxes.siou(one, straight)) == pytest.approx(-(1 - math.exp(-2 * (30 / 40) ** 2)) / 2)
    assert float(boxes.siou(one, diagonal)) == pytest.approx(-2 * (1 - math.exp(-((30 / 40) ** 2))) / 2)


def test_a_higher_shape_power_forgives_small_differences_of_shape() -> None:
    one, wider = torch.tensor([[0.0, 0, 10, 10]]), torch.tensor([[-1.0, 0, 11, 10]])
    unlike = 1 - math.exp(-2 / 12)
    for power in (2.0, 4.0, 6.0):
        assert float(boxes.siou(one, wider, power)) == pytest.approx(10 / 12 - unlike**power / 2, abs=1e-6)


side = st.floats(0.1, 300)
place = st.floats(-400, 400)


@given(st.tuples(place, place, side, side), st.tuples(place, place, side, side))
@settings(max_examples=60, deadline=None)
def test_no_measure_leaves_its_range(first: Box, second: Box) -> None:
    pair = [boxes.from_xywh(torch.tensor([row], dtype=torch.float64)) for row in (first, second)]
    found = {kind: float(compute_iou(*pair, kind)) for kind in KINDS}
    assert 0 <= found["iou"] <= 1 + 1e-12
    assert all(value <= found["iou"] + 1e-9 for value in found.values())
    assert found["giou"] >= -1 and found["diou"] >= -1 and found["ciou"] >= -2.5 and found["siou"] >= -2


# ---- edges and gradients ------------------------------------------------------------------------------------------

EDGES = [[5.0, 5, 5, 5], [5, 5, 2, 2], [0, 0, 0, 9], [0, 0, 4, 4], [0, 0, 0, 0], [1e4, 1e4, 1e4 + 1, 1e4 + 1]]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_boxes_without_a_size_give_finite_values_and_gradients(kind: IoUType, dtype: torch.dtype) -> None:
    first = torch.tensor(EDGES, dtype=dtype).requires_grad_()
    second = torch.tensor(EDGES, dtype=dtype)
    found = compute_iou(first, second, kind)
    found.sum().backward()
    assert found.dtype == dtype and bool(found.isfinite().all())
    assert first.grad is not None and bool(first.grad.isfinite().all())


@pytest.mark.parametrize("kind", KINDS)
def test_sixteen_bits_of_small_boxes_stay_finite(kind: IoUType) -> None:
    rows = torch.tensor([[0.0, 0, 0, 0], [0, 0, 0.01, 0.01], [0, 0, 20, 20]], dtype=torch.float16)
    assert bool(compute_iou(rows, rows, kind).isfinite().all())


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("box_format", ["xyxy", "cxcywh"])
def test_gradients_are_those_of_finite_differences(kind: IoUType, box_format: BoxFormat) -> None:
    first, second = some_boxes(7, 5), some_boxes(7, 6)
    if kind == "ciou":  # its aspect weight is a constant for the gradient: compare where the aspects are equal
        second = boxes.from_cxcywh(boxes.to_cxcywh(first) * 1.2 + torch.tensor([3.0, -2, 0, 0]))
    if box_format == "cxcywh":
        first, second = boxes.to_cxcywh(first), boxes.to_cxcywh(second)

    def call(values: Tensor) -> Tensor:
        return compute_iou(values, second, kind, box_format=box_format, pairwise=False)

    if kind == "ciou":
        found = torch.autograd.functional.jacobian(call, first).sum(1)  # type: ignore[no-untyped-call]
        steps = torch.eye(4, dtype=torch.float64) * 1e-6
        numeric = torch.stack([(call(first + step) - call(first - step)) / 2e-6 for step in steps], 1)
        torch.testing.assert_close(found, numeric, rtol=1e-4, atol=1e-7)
        return
    assert torch.autograd.gradcheck(call, (first.requires_grad_(),))


def test_the_aspect_weight_of_ciou_is_a_constant_for_the_gradient() -> None:
    # 2x8 in 8x8 around one centre. By hand: iou = w/8 while the sides only differ in width, no distance.
    predicted = torch.tensor([[3.0, 0, 5, 8]], dtype=torch.float64, requires_grad=True)
    found = torch.autograd.grad(boxes.ciou(predicted, torch.tensor([[0.0, 0, 8, 8]]).double()).sum(), predicted)[0]
    angle = math.atan(1) - math.atan(2 / 8)
    v = 4 / math.pi**2 * angle**2
    alpha = v / (1 - 2 / 8 + v)
    slope = -8 / math.pi**2 * angle * (8 / (8**2 + 2**2))  # dv/dw
    by_width = 1 / 8 - alpha * slope
    # The right side moves the width by 1 and the centre by a half, but the distance is flat at 0.
    assert float(found[0, 2]) == pytest.approx(by_width, rel=1e-9)
    assert float(found[0, 0]) == pytest.approx(-by_width, rel=1e-9)


@pytest.mark.parametrize("kind", KINDS)
def test_going_down_the_gradient_brings_boxes_that_are_apart_together(kind: IoUType) -> None:
    """The plain overlap cannot: its gradient vanishes."""
    truth = torch.tensor([[60.0, 50, 90, 80]])
    centred = torch.tensor([[20.0, 20, 12, 30]], requires_grad=True)
    optimizer = torch.optim.Adam([centred], lr=1.0)
    for _ in range(250):
        optimizer.zero_grad()
        loss = 1 - compute_iou(boxes.from_cxcywh(centred), truth, kind, pairwise=False)
        loss.sum().backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    reached = iou_of(tuple(boxes.from_cxcywh(centred)[0].tolist()), (60.0, 50.0, 90.0, 80.0))
    assert reached == 0 if kind == "iou" else reached > 0.8


def test_what_it_is_given_stays_as_it_was() -> None:
    first, second = some_boxes(5, 7), some_boxes(5, 8)
    kept = first.clone(), second.clone()
    versions = first._version, second._version
    for kind in KINDS:
        compute_iou(first, second, kind)
        compute_iou(first, second, kind, box_format="cxcywh", pairwise=False)
    assert torch.equal(first, kept[0]) and torch.equal(second, kept[1])
    assert (first._version, second._version) == versions


def test_no_boxes_give_an_empty_matrix_and_integers_are_taken() -> None:
    assert compute_iou(torch.zeros(0, 4), torch.zeros(3, 4)).shape == (0, 3)
    assert compute_iou(torch.tensor([[0, 0, 2, 2]]), torch.tensor([[0, 0, 2, 1]])).tolist() == [[0.5]]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"iou_type": "eiou"}, "'eiou' is no measure of overlap"),
        ({"box_format": "xywh"}, "'xywh' is no format"),
        ({"boxes1": torch.zeros(4)}, "[4] and [2, 4] cannot be compared"),
        ({"boxes2": torch.zeros(3, 5), "pairwise": False}, "[2, 4] and [3, 5] cannot be compared"),
    ],
)
def test_unknown_words_and_shapes_are_refused_with_what_is_allowed(arguments: dict[str, object], words: str) -> None:
    values: dict[str, object] = {"boxes1": torch.zeros(2, 4), "boxes2": torch.zeros(2, 4), **arguments}
    with pytest.raises(UsageError) as caught:
        compute_iou(**values)  # type: ignore[arg-type]
    assert words in caught.value.message and caught.value.hint
