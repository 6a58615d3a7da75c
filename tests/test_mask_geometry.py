"""Masks from logits to the original picture, and which rows they are of."""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from pycocotools import mask as coco_mask

from detloom.data.masks import decode_rle, encode_part, resize_masks
from detloom.deploy import DetectorRuntime, deploy_graph
from detloom.errors import DetloomError
from detloom.geometry import InputRule, PostRule, finish
from detloom.mask_logits import masks_to_image
from tiny import TinyDetector


def smooth_noise(rng: np.random.Generator, *shape: int) -> NDArray[np.float32]:
    return np.stack([cv2.GaussianBlur(rng.normal(0, 1, shape[1:]), (0, 0), 1.5) for _ in range(shape[0])]).astype("f4")


# ---- from logits to pixels ----------------------------------------------------------------------------------------


def alone(logits: NDArray[np.float32]) -> NDArray[np.float32]:
    """Positive in a few places near each other at most."""
    away = np.full_like(logits, -1.0)
    away[:, 5:8, 9:12] = logits[:, 5:8, 9:12]
    return away


@pytest.mark.parametrize("small", [False, True])
@pytest.mark.parametrize("size", [(96, 128), (211, 317), (40, 33), (1, 500), (48, 64)])
def test_stretched_logits_become_the_pixels_that_torch_interpolates(size: tuple[int, int], small: bool) -> None:
    logits = smooth_noise(np.random.default_rng(0), 3, 24, 32)
    logits = alone(logits) if small else logits
    found = masks_to_image(logits, InputRule(size=(96, 128), resize="stretch"), size)
    whole = F.interpolate(torch.from_numpy(logits)[None].double(), size, mode="bilinear", align_corners=False)[0]
    for rle, expected in zip(found, whole, strict=True):
        assert tuple(rle["size"]) == size
        # Pixels on the line itself are a matter of the last bit.
        wrong = decode_rle(rle).astype(bool) != (expected > 0).numpy()
        assert not wrong[expected.abs().numpy() > 1e-5].any()
    inside = sum(int(decode_rle(rle).sum()) for rle in found)
    assert 0 < inside < (0.05 if small else 2) * size[0] * size[1] or min(size) == 1


@pytest.mark.parametrize("small", [False, True])
@pytest.mark.parametrize("size", [(100, 240), (240, 100), (30, 31)])
def test_the_filling_of_a_letterbox_is_cut_away(size: tuple[int, int], small: bool) -> None:
    """Against grid_sample at the place of each original pixel."""
    logits = smooth_noise(np.random.default_rng(1), 2, 20, 20)
    logits = alone(logits) if small else logits
    rule = InputRule(size=(160, 160))
    height, width = rule.content_size(size)
    y, x = (torch.arange(n).add(0.5).mul(part / n / 160 * 2).sub(1) for n, part in zip(size, (height, width)))  # noqa: B905
    grid = torch.stack(torch.meshgrid(y, x, indexing="ij")[::-1], -1).expand(2, -1, -1, -1)
    source = torch.from_numpy(logits)[:, None]
    expected = F.grid_sample(source, grid.float(), padding_mode="border", align_corners=False)[:, 0]
    for rle, wanted in zip(masks_to_image(logits, rule, size), expected, strict=True):
        wrong = decode_rle(rle).astype(bool) != (wanted > 0).numpy()
        assert not wrong[wanted.abs().numpy() > 1e-4].any()


def test_a_mask_that_covers_the_input_covers_the_picture_and_an_empty_one_nothing() -> None:
    logits = np.stack([np.full((8, 8), 5.0), np.full((8, 8), -5.0), np.full((8, 8), np.inf)]).astype(np.float32)
    full, empty, infinite = masks_to_image(logits, InputRule(size=(64, 64)), (37, 90))
    assert [coco_mask.area({**rle, "counts": rle["counts"].encode()}) for rle in (full, empty, infinite)] == [
        37 * 90,
        0,
        37 * 90,
    ]


def test_mask_logits_that_are_not_numbers_are_an_error() -> None:
    with pytest.raises(DetloomError, match="masks that are not numbers"):
        masks_to_image(np.full((1, 4, 4), np.nan, np.float32), InputRule(size=(64, 64)), (10, 10))


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 2**32 - 1))
def test_a_coded_part_equals_the_whole_mask_coded_by_pycocotools(seed: int) -> None:
    rng = np.random.default_rng(seed)
    part = rng.random(rng.integers(1, 9, 2)) < rng.choice([0.0, 0.5, 1.0])
    room = rng.integers(0, 3, 4)
    whole = np.pad(part, ((room[0], room[1]), (room[2], room[3]))).astype(np.uint8)
    height, width = whole.shape
    expected = coco_mask.encode(np.asfortranarray(whole))["counts"].decode()
    assert encode_part(part, (int(room[0]), int(room[2])), (height, width))["counts"] == expected


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 2**32 - 1))
def test_a_resized_mask_shows_what_lies_under_the_centre_of_each_pixel(seed: int) -> None:
    rng = np.random.default_rng(seed)
    height, width, to_height, to_width = (int(side) for side in rng.integers(1, 40, 4))
    mask = (rng.random((height, width)) < 0.4).astype(np.uint8)
    rle = encode_part(mask.astype(bool), (0, 0), (height, width))
    rows = [int((row + 0.5) * height / to_height + 1e-9) for row in range(to_height)]
    columns = [int((column + 0.5) * width / to_width + 1e-9) for column in range(to_width)]
    assert np.array_equal(resize_masks([rle], to_height, to_width)[0], mask[np.ix_(rows, columns)])


# ---- which rows ---------------------------------------------------------------------------------------------------


def numbered(count: int) -> NDArray[np.float32]:
    """Row n has its mask on pixel n alone."""
    logits = np.full((count, 4, 4), -9.0, np.float32)
    logits.reshape(count, -1)[np.arange(count), np.arange(count)] = 9.0
    return logits


def row_of(rle: Any) -> int:
    return int(np.argmax(cv2.resize(decode_rle(rle) * 255.0, (4, 4), interpolation=cv2.INTER_AREA)))


@pytest.mark.parametrize("kind", ["nms", "topk"])
def test_masks_are_those_of_the_chosen_rows_in_their_order(kind: Any) -> None:
    boxes = np.array([[0, 0, 9, 9], [0, 0, 9, 9], [20, 20, 40, 40], [50, 50, 60, 60], [5, 50, 9, 60]], np.float32)
    scores = np.array([[0.3, 0.1], [0.9, 0.2], [0.2, 0.8], [0.001, 0.0], [0.0, 0.5]], np.float32)
    asked: list[tuple[int, list[int]]] = []

    def rows(image: int, kept: NDArray[np.int64]) -> NDArray[np.float32]:
        asked.append((image, kept.tolist()))
        return numbered(5)[kept]

    rule = PostRule(kind=kind, score_threshold=0.15, max_detections=4)
    (found,) = finish(boxes[None], scores[None], [(64, 64)], InputRule(size=(64, 64)), rule, rows)
    # The weaker box on the first place is suppressed; of pairs a box may stay with two classes, each with its mask.
    expected = [1, 2, 4] if kind == "nms" else [1, 2, 4, 0]
    assert asked == [(0, expected)], "only the masks of kept detections are taken"
    assert found.masks is not None
    assert [row_of(rle) for rle in found.masks] == expected
    assert [row_of(rle) for rle in found.above(0.6).masks or ()] == expected[:2]


def test_a_detector_of_boxes_gives_no_masks_and_two_outputs() -> None:
    model = TinyDetector(["a", "b"]).eval()
    images = torch.zeros(1, 3, 64, 64, dtype=torch.uint8)
    with torch.no_grad():
        assert model.predict(model(images), [(64, 64)])[0].masks is None
    assert len(deploy_graph(model)(images)) == 2
    assert DetectorRuntime(model)(images.numpy()).masks is None
