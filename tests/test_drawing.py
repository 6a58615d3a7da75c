"""Boxes, labels and pictures."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import cv2
import numpy as np
import pytest
from pycocotools import mask as coco_mask

from detloom import drawing
from detloom.errors import DetloomError
from detloom.geometry import Detections


def gray(height: int = 240, width: int = 320) -> drawing.Image:
    return np.full((height, width, 3), 128, dtype=np.uint8)


def one(box: tuple[float, ...], label: int = 0, score: float = 0.5) -> Detections:
    return Detections(np.array([box], np.float32), np.array([score], np.float32), np.array([label]))


def test_a_box_is_drawn_in_the_colour_of_its_class_and_the_picture_given_stays_as_it_is() -> None:
    image = gray()
    drawn = drawing.draw_detections(image, one((50, 80, 150, 180), label=1), ["cat", "dog"])
    assert (image == 128).all()
    for x, y in ((50, 130), (150, 130), (100, 180)):
        assert np.abs(drawn[y, x].astype(int) - drawing.class_colour(1)).max() < 40
    assert (drawn[130, 100] == 128).all(), "a box has no filling"


@pytest.mark.parametrize("size", [(16, 16), (48, 2000), (3000, 4000)])
@pytest.mark.parametrize("box", [(-50.0, -50.0, 5.0, 5.0), (0.0, 0.0, 1e5, 1e5), (10.0, 10.0, 10.0, 10.0)])
def test_any_size_and_any_box_can_be_drawn(size: tuple[int, int], box: tuple[float, ...]) -> None:
    drawn = drawing.draw_detections(gray(*size), one(box), ["a name that is much longer than the picture"])
    assert drawn.shape == (*size, 3)


def test_lines_and_letters_grow_with_the_picture() -> None:
    assert drawing.line_thickness(gray(240, 320)) == 1
    assert drawing.line_thickness(gray(2400, 3200)) == 8


def test_a_label_stays_inside_the_picture_where_the_box_touches_the_border() -> None:
    drawn = drawing.draw_detections(gray(), one((280, 0, 320, 40)), ["thrombocyte"])
    assert (drawn[2:10, 200:310] != 128).any(axis=2).mean() > 0.5


def test_letters_contrast_with_the_tab_of_every_class() -> None:
    """WCAG 2 asks for 3:1 for large text. The tab's and the letters' colours are read back from the pixels."""
    for index in range(100):
        canvas = gray(600, 600)
        drawing.draw_label(canvas, "HHHHHH", (100, 100), drawing.class_colour(index))
        tab = np.argwhere((canvas == drawing.class_colour(index)).all(axis=2))
        (top, left), (bottom, right) = tab.min(axis=0), tab.max(axis=0)
        inside = canvas[top : bottom + 1, left : right + 1].reshape(-1, 3)
        extreme = inside[[inside.sum(axis=1).argmin(), inside.sum(axis=1).argmax()]]
        levels = [drawing._luminance(tuple(c)) for c in (*extreme.tolist(), drawing.class_colour(index))]
        contrast = max((max(a, levels[2]) + 0.05) / (min(a, levels[2]) + 0.05) for a in levels[:2])
        assert contrast >= 3, index


def test_neighbouring_classes_have_different_colours() -> None:
    colours = [drawing.class_colour(index) for index in range(90)]
    assert len(set(colours)) == 90
    steps = [np.abs(np.subtract(a, b)).sum() for a, b in pairwise(colours)]
    assert min(steps) > 60


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("Zellkörper", "Zellkorper"),
        ("straße", "strasse"),
        ("café – bar", "cafe - bar"),
        ("cell\n1", "cell?1"),
        ("a細", "a?"),
    ],
)
def test_names_are_shown_in_letters_the_font_has(name: str, shown: str) -> None:
    assert drawing.plain_text(name) == shown


def test_a_name_without_any_letter_of_the_font_is_shown_by_its_number() -> None:
    assert drawing.class_text(["細胞", "cat"], 0) == "class 0"
    assert drawing.class_text(["細胞", "cat"], 1) == "cat"
    assert drawing.class_text(["cat"], 7) == "class 7"
    drawing.draw_detections(gray(), one((5, 5, 50, 50)), ["細胞 \U0001f9ec"])


def test_a_mask_is_tinted_and_the_rest_left_alone() -> None:
    canvas = np.zeros((240, 320), dtype=np.uint8, order="F")
    canvas[100:140, 100:160] = 1
    rle = coco_mask.encode(canvas)
    found = Detections(np.array([[100, 100, 160, 140]], np.float32), np.array([0.9], np.float32), np.array([2]), (rle,))
    drawn = drawing.draw_detections(gray(), found, ["a", "b", "c"])
    expected = 128 * (1 - drawing.MASK_OPACITY) + np.array(drawing.class_colour(2)) * drawing.MASK_OPACITY
    assert np.abs(drawn[120, 130] - expected).max() <= 1
    assert (drawn[200, 200] == 128).all()


def test_touching_masks_of_one_class_are_told_apart_by_a_line() -> None:
    halves = np.zeros((2, 240, 320), dtype=np.uint8)
    halves[0, 50:100, 50:100] = halves[1, 50:100, 100:150] = 1
    rles = tuple(coco_mask.encode(np.asfortranarray(half)) for half in halves)
    found = Detections(np.zeros((2, 4), np.float32), np.array([0.9, 0.8], np.float32), np.array([1, 1]), rles)
    drawn = drawing.draw_detections(gray(), found, ["a", "b"]).astype(int)
    colour = np.array(drawing.class_colour(1))
    assert np.abs(drawn[75, [99, 100]] - colour).max() <= 40
    assert np.abs(drawn[75, [75, 125]] - colour).max() > 40


def test_many_small_masks_are_not_hidden_by_their_names() -> None:
    """A hundred objects smaller than their text, and one that is larger."""
    boxes = [(10 + 20 * (n % 10), 10 + 20 * (n // 10), 22 + 20 * (n % 10), 22 + 20 * (n // 10)) for n in range(100)]
    boxes.append((215, 60, 318, 200))
    masks = np.zeros((101, 240, 320), dtype=np.uint8)
    for mask, (left, top, right, bottom) in zip(masks, boxes, strict=True):
        mask[top:bottom, left:right] = 1
    rles = tuple(coco_mask.encode(np.asfortranarray(mask)) for mask in masks)
    scores = np.linspace(0.9, 0.4, 101).astype(np.float32)
    labels = np.zeros(101, dtype=np.int64)
    named = Detections(np.array(boxes, np.float32), scores, labels, rles)
    drawn = drawing.draw_detections(gray(), named, ["cell"])
    without = drawing.draw_objects(gray(), named.boxes, labels, [""] * 101, rles)
    changed = (drawn != without).any(axis=2)
    assert not changed[:, :200].any(), "no name lies on the small ones"
    assert changed[30:62, 200:].any(), "the large one has its name"
    plain = Detections(named.boxes, scores, labels)
    crowded = drawing.draw_detections(gray(), plain, ["cell"])
    assert (crowded != drawing.draw_objects(gray(), plain.boxes, labels, [""] * 101)).any(axis=2)[:, :200].any()


def test_a_mask_of_another_size_is_refused() -> None:
    rle = coco_mask.encode(np.zeros((10, 10), dtype=np.uint8, order="F"))
    found = Detections(np.array([[1, 1, 5, 5]], np.float32), np.array([0.9], np.float32), np.array([0]), (rle,))
    with pytest.raises(ValueError, match="does not fit"):
        drawing.draw_detections(gray(), found, ["a"])


def test_two_pictures_stand_side_by_side_under_their_titles() -> None:
    left, right = gray(), np.full((240, 320, 3), 10, dtype=np.uint8)
    pair = drawing.side_by_side(left, right)
    head = pair.shape[0] - 240
    assert head >= 18
    assert (pair[head:, :320] == 128).all()
    assert (pair[head:, -320:] == 10).all()
    assert (pair[:head] < 100).any(), "titles are written"
    with pytest.raises(ValueError, match="side by side"):
        drawing.side_by_side(left, gray(100, 100))


def test_a_picture_is_made_smaller_and_never_larger() -> None:
    small, factor = drawing.fit(gray(300, 600), 200)
    assert small.shape == (100, 200, 3)
    assert factor == pytest.approx(1 / 3)
    assert drawing.fit(gray(), 1000) == (pytest.approx(gray()), 1.0)


def test_a_saved_picture_is_read_back_with_the_right_colours(tmp_path: Path) -> None:
    red = np.zeros((64, 64, 3), dtype=np.uint8)
    red[..., 0] = 200
    drawing.save_jpeg(red, tmp_path / "pictures" / "red.jpg")
    blue_green_red = cv2.imread(str(tmp_path / "pictures" / "red.jpg"))
    assert blue_green_red is not None
    assert np.abs(blue_green_red[32, 32].astype(int) - [0, 0, 200]).max() <= 4
    assert [p.name for p in (tmp_path / "pictures").iterdir()] == ["red.jpg"]


def test_a_place_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(DetloomError, match="file"):
        drawing.save_jpeg(gray(), tmp_path / "file" / "a.jpg")


def test_a_chart_shows_its_curves_and_bears_no_points_or_bad_points() -> None:
    rising = [(x / 10, x / 10) for x in range(11)]
    chart = drawing.line_chart({"a": rising, "b": [(0.5, float("nan"))]}, "title")
    assert chart.shape == (480, 640, 3)
    assert np.abs(chart[240, 340].astype(int) - drawing.class_colour(0)).max() < 60, "the diagonal's middle"
    assert drawing.line_chart({}).shape == (480, 640, 3)
    assert drawing.line_chart({"one": [(1.0, 1.0)]}).shape == (480, 640, 3)
