"""Augmentations: paint a patch, transform, and find it where the box says."""

from __future__ import annotations

import colorsys
from typing import Any

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from detloom.data.samples import tidy
from detloom.errors import PluginError
from detloom.host import discover
from detloom.rng import keyed_generator
from detloom.sample import Sample
from detloom.specs import AugmentationSpec, Transform
from detloom_plugins.augmentations.affine.transform import warp, warp_boxes
from detloom_plugins.augmentations.hsv.transform import colour_matrix

HOST = discover()


def build(name: str, **values: Any) -> Transform:
    spec = HOST.get(AugmentationSpec, name)
    return spec.build(type(spec.settings())(**values))


def painted(
    box: tuple[int, int, int, int], height: int = 60, width: int = 80, canvas: tuple[int, int] = (96, 96)
) -> Sample:
    """A white patch on black with its box and mask; padding is gray."""
    image = np.zeros((height, width, 3), np.uint8)
    mask = np.zeros((1, height, width), np.uint8)
    x1, y1, x2, y2 = box
    image[y1:y2, x1:x2] = 255
    mask[0, y1:y2, x1:x2] = 1
    return Sample(image, np.array([box], np.float32), np.array([3], np.int64), canvas, 114, mask)


def white_box(image: np.ndarray) -> np.ndarray:
    """xyxy around the pixels that are more white than black and than padding."""
    rows, columns = np.nonzero(image[:, :, 0] > 170)
    return np.array([columns.min(), rows.min(), columns.max() + 1, rows.max() + 1], np.float32)


@pytest.mark.parametrize("name", ["hflip", "vflip"])
def test_a_flip_moves_patch_box_and_mask_together_and_twice_is_nothing(name: str) -> None:
    sample = painted((10, 20, 35, 50))
    flip = build(name, prob=1.0)
    once = flip(sample, keyed_generator(0), [])
    assert np.array_equal(once.boxes[0], white_box(once.image))
    assert once.masks is not None and np.array_equal(once.masks[0] * 255, once.image[:, :, 0])
    assert not np.array_equal(once.boxes, sample.boxes)
    twice = flip(once, keyed_generator(0), [])
    assert np.array_equal(twice.image, sample.image) and np.array_equal(twice.boxes, sample.boxes)
    assert np.array_equal(once.image, sample.image[:, ::-1] if name == "hflip" else sample.image[::-1])


@pytest.mark.parametrize("name", ["hflip", "vflip", "hsv", "affine"])
def test_the_probability_is_kept(name: str) -> None:
    sample = painted((10, 20, 35, 50))
    sample.image[30, 30] = (200, 20, 90)
    for probability, low, high in ((0.0, 0, 0), (0.3, 60, 120), (1.0, 300, 300)):
        transform = build(name, prob=probability)
        changed = sum(transform(sample, keyed_generator(n), []) is not sample for n in range(300))
        assert low <= changed <= high  # binomial, 300 draws: 90 plus or minus 4 standard deviations


@pytest.mark.parametrize("name", ["hflip", "vflip", "hsv", "affine"])
def test_samples_without_objects_and_without_masks_pass(name: str) -> None:
    empty = Sample(np.full((60, 80, 3), 90, np.uint8), np.zeros((0, 4), np.float32), np.zeros(0, np.int64), (96, 96))
    out = build(name, prob=1.0)(empty, keyed_generator(1), [])
    assert out.boxes.shape == (0, 4) and out.labels.shape == (0,) and out.masks is None
    assert out.image.dtype == np.uint8


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 10**6),
    degrees=st.sampled_from([0.0, 0.0, 20.0, 180.0]),
    shear=st.sampled_from([0.0, 0.0, 15.0]),
    canvas=st.sampled_from([(96, 96), (64, 128), (128, 96)]),
)
def test_an_affine_patch_is_found_where_its_box_says(
    seed: int, degrees: float, shear: float, canvas: tuple[int, int]
) -> None:
    sample = painted((20, 12, 56, 44), canvas=canvas)
    transform = build("affine", degrees=degrees, shear=shear, translate=0.3, scale_min=0.6, scale_max=1.6)
    out = transform(sample, keyed_generator(seed), [])
    assert out.image.shape == (*canvas, 3)
    if len(out.boxes) == 0:
        return
    assert out.masks is not None and out.masks.shape == (1, *canvas)
    assert (out.boxes[0] >= 0).all() and (out.boxes[0, 2:] <= (canvas[1], canvas[0])).all()
    found = white_box(out.image)
    # Clipping cuts corners off a turned patch: then the box around its corners is larger than what is seen.
    turned = degrees or shear
    cut = (out.boxes[0] == (0, 0, canvas[1], canvas[0])).any()
    if not (turned and cut):
        assert np.abs(found - out.boxes[0]).max() <= 2.0
    assert (found[:2] >= out.boxes[0, :2] - 2).all() and (found[2:] <= out.boxes[0, 2:] + 2).all()
    painted_pixels = out.image[:, :, 0] > 170
    differing = (painted_pixels ^ (out.masks[0] > 0)).sum()
    assert differing <= 2 * (found[2] - found[0] + found[3] - found[1])  # one pixel around the outline


def test_the_fast_way_without_rotation_equals_a_warp() -> None:
    image = cv2.GaussianBlur(keyed_generator(0).integers(0, 256, (60, 80, 3), dtype=np.uint8), (0, 0), 4)
    sample = Sample(image, np.zeros((0, 4), np.float32), np.zeros(0, np.int64), (96, 96))
    for scale, dx, dy in ((1.0, 8, 18), (0.5, 30, 40), (2.0, -30, -20), (1.5, 10, -15)):
        matrix = np.array([[scale, 0, dx], [0, scale, dy]], np.float64)
        nearly = matrix.copy()
        nearly[0, 1] = 1e-9  # not zero: takes the way of warpAffine
        fast, slow = warp(sample, matrix, 0.1).image, warp(sample, nearly, 0.1).image
        assert (np.abs(fast.astype(int) - slow) > 6).mean() < 0.06  # edges against the padding differ by a pixel


@pytest.mark.parametrize(("side", "kept"), [(1.0, 1), (0.9, 0)])
def test_an_object_of_one_pixel_is_a_target_with_and_without_a_warp(side: float, kept: int) -> None:
    box = np.array([[40.3, 20.3, 40.3 + side, 20.3 + side]], np.float32)
    sample = Sample(np.zeros((60, 80, 3), np.uint8), box, np.array([0]), (60, 80), 114)
    warped = warp(sample, np.array([[1.0, 0.0, 3.0], [0.0, 1.0, 2.0]]), min_visible=0.1)
    assert len(tidy(sample).labels) == len(tidy(warped).labels) == kept


def test_a_warp_by_nothing_but_a_shift_moves_pixels_exactly() -> None:
    sample = painted((10, 20, 35, 50), canvas=(96, 96))
    for small in (0.0, 1e-12):
        out = warp(sample, np.array([[1, small, 7], [0, 1, -4]], np.float64), 0.1)
        expected = np.full((96, 96, 3), 114, np.uint8)
        expected[:56, 7:87] = sample.image[4:]
        assert np.array_equal(out.image, expected)
        assert out.boxes[0].tolist() == [17, 16, 42, 46]


def test_objects_that_are_hardly_seen_any_more_are_dropped_with_their_masks() -> None:
    boxes = np.array([[0, 0, 10, 10], [70, 10, 80, 20], [30, 30, 40, 40]], np.float32)
    masks = np.stack([np.full((60, 80), n, np.uint8) for n in (1, 2, 3)])
    sample = Sample(np.zeros((60, 80, 3), np.uint8), boxes, np.array([0, 1, 2]), (60, 80), 114, masks)
    shift = np.array([[1, 0, -9.5], [0, 1, 0]], np.float64)  # the first box keeps half a pixel of its ten
    out = warp(sample, shift, 0.1)
    assert out.labels.tolist() == [1, 2]
    assert out.masks is not None
    assert [int(mask.max()) for mask in out.masks] == [2, 3]
    _, visible = warp_boxes(boxes, shift, (60, 80))
    assert visible.tolist() == pytest.approx([0.05, 1, 1])


def test_affine_ranges_are_kept() -> None:
    sample = painted((30, 20, 50, 40), canvas=(60, 80))
    transform = build("affine", translate=0.0, scale_min=0.5, scale_max=0.8)
    sides = [transform(sample, keyed_generator(n), []).boxes[0] for n in range(200)]
    scales = np.array([(box[2] - box[0]) / 20 for box in sides])
    assert 0.5 - 1e-4 <= scales.min() < 0.53 and 0.77 < scales.max() <= 0.8 + 1e-4
    with pytest.raises(ValidationError, match="above scale_max"):
        build("affine", scale_min=2.0, scale_max=1.0)


@pytest.mark.parametrize("colour", [(200, 40, 60), (30, 160, 90), (120, 120, 120), (70, 80, 220)])
def test_colours_change_as_hue_saturation_and_brightness_do(colour: tuple[int, int, int]) -> None:
    pixel = np.array(colour, np.float64)
    gray = float(pixel @ (0.299, 0.587, 0.114))
    brighter = colour_matrix(0, 1, 1.2) @ pixel
    assert brighter == pytest.approx(pixel * 1.2)
    duller = colour_matrix(0, 0.5, 1) @ pixel
    assert duller == pytest.approx(gray + (pixel - gray) * 0.5, abs=0.02)
    assert colour_matrix(0, 0, 1) @ pixel == pytest.approx([gray] * 3, abs=0.02)
    turned = colour_matrix(0.03, 1, 1) @ pixel
    assert float(turned @ (0.299, 0.587, 0.114)) == pytest.approx(gray, abs=0.02)
    before, after = (colorsys.rgb_to_hsv(*(value / 255)) for value in (pixel, turned))
    if before[1] > 0:
        step = (after[0] - before[0] + 0.5) % 1 - 0.5
        assert 0.005 < abs(step) < 0.08
    assert colour_matrix(1.0, 1, 1) @ pixel == pytest.approx(pixel, abs=1e-6)


def test_colour_ranges_are_kept_and_boxes_stay() -> None:
    sample = painted((10, 20, 35, 50))
    sample.image[:] = (100, 100, 100)
    transform = build("hsv", h=0.0, s=0.0, v=0.4)
    values = [int(transform(sample, keyed_generator(n), []).image[0, 0, 0]) for n in range(300)]
    assert 60 <= min(values) < 64 and 136 < max(values) <= 140
    out = transform(sample, keyed_generator(5), [])
    assert out.boxes is sample.boxes and out.masks is sample.masks


def test_an_unknown_augmentation_is_a_plugin_error() -> None:
    with pytest.raises(PluginError):
        HOST.get(AugmentationSpec, "hflop")
