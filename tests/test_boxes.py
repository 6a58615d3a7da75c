from __future__ import annotations

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pycocotools import mask as referee

from detloom import boxes

corner = st.integers(-50, 50)
side = st.integers(1, 60)
box = st.tuples(corner, corner, side, side)


def test_the_codings_of_a_known_box() -> None:
    xyxy = torch.tensor([[10.0, 20.0, 30.0, 60.0]])
    assert boxes.to_cxcywh(xyxy).tolist() == [[20, 40, 20, 40]]
    assert boxes.to_xywh(xyxy).tolist() == [[10, 20, 20, 40]]
    assert boxes.normalise(xyxy, (200, 100)).tolist() == torch.tensor([[0.1, 0.1, 0.3, 0.3]]).tolist()
    assert boxes.clip(torch.tensor([[-5.0, 3.0, 200.0, 90.0]]), (50, 100)).tolist() == [[0, 3, 100, 50]]


@given(st.lists(box, min_size=1, max_size=6))
@settings(max_examples=30, deadline=None)
def test_every_coding_leads_back(rows: list[tuple[int, int, int, int]]) -> None:
    xyxy = boxes.from_xywh(torch.tensor(rows, dtype=torch.float64))
    assert torch.equal(boxes.from_cxcywh(boxes.to_cxcywh(xyxy)), xyxy)
    assert torch.equal(boxes.from_xywh(boxes.to_xywh(xyxy)), xyxy)


@given(st.lists(box, min_size=1, max_size=5), st.lists(box, min_size=1, max_size=5))
@settings(max_examples=30, deadline=None)
def test_iou_equals_that_of_pycocotools(
    first: list[tuple[int, int, int, int]], second: list[tuple[int, int, int, int]]
) -> None:
    expected = referee.iou(np.array(first, dtype=float), np.array(second, dtype=float), [0] * len(second))
    ours = boxes.pairwise_iou(
        boxes.from_xywh(torch.tensor(first, dtype=torch.float64)),
        boxes.from_xywh(torch.tensor(second, dtype=torch.float64)),
    )
    np.testing.assert_allclose(ours.numpy(), expected, atol=1e-6)
