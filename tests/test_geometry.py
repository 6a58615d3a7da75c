"""Letterboxing there and back, and suppression against the textbook."""

from __future__ import annotations

import time

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from detloom.geometry import Detections, InputRule, PostRule, finish, nms, postprocess

sides = st.integers(1, 4000)
sizes = st.tuples(st.integers(1, 40).map(lambda n: n * 32), st.integers(1, 40).map(lambda n: n * 32))
resizes = st.sampled_from(["letterbox", "stretch"])


@given(sizes, st.tuples(sides, sides), resizes, st.lists(st.tuples(*[st.floats(0, 1)] * 4), min_size=1, max_size=5))
def test_boxes_come_back_from_the_network_input_where_they_were(size, original, resize, fractions):
    rule = InputRule(size=size, resize=resize)
    height, width = original
    x = np.sort(np.array([[a * width, c * width] for a, _, c, _ in fractions]), axis=1)
    y = np.sort(np.array([[b * height, d * height] for _, b, _, d in fractions]), axis=1)
    boxes = np.stack([x[:, 0], y[:, 0], x[:, 1], y[:, 1]], axis=1)
    there = rule.boxes_to_input(boxes, original)
    assert (there <= np.array([size[1], size[0]] * 2) * (1 + 1e-6)).all()
    back = rule.boxes_to_image(there, original)
    np.testing.assert_allclose(back, boxes, rtol=1e-6, atol=max(original) * 1e-6)


@given(sizes, st.tuples(st.integers(1, 300), st.integers(1, 300)), resizes)
def test_a_prepared_picture_has_the_size_of_the_input_and_grey_only_where_it_ends(size, original, resize):
    rule = InputRule(size=size, resize=resize, pad_value=114)
    prepared = rule.prepare(np.full((*original, 3), 7, np.uint8))
    assert prepared.shape == (*size, 3)
    height, width = rule.content_size(original)
    assert (prepared[:height, :width] == 7).all()
    assert (prepared[height:] == 114).all()
    assert (prepared[:, width:] == 114).all()
    if resize == "stretch":
        assert (height, width) == size
    else:  # one factor: one of the sides is filled
        assert height == size[0] or width == size[1]


def test_a_picture_of_the_right_size_is_not_resampled():
    picture = np.random.default_rng(0).integers(0, 256, (64, 96, 3), dtype=np.uint8)
    np.testing.assert_array_equal(InputRule(size=(64, 96)).prepare(picture), picture)


def test_a_square_lies_where_its_box_says_after_letterboxing():
    picture = np.zeros((101, 333, 3), np.uint8)
    picture[20:80, 100:200] = 255
    rule = InputRule(size=(224, 160))
    prepared = rule.prepare(picture)
    rows, columns = np.nonzero((prepared[..., 0] > 127) & (prepared[..., 0] != 114))
    left, top, right, bottom = rule.boxes_to_input(np.array([[100.0, 20, 200, 80]]), (101, 333))[0]
    seen = columns.min(), rows.min(), columns.max() + 1, rows.max() + 1
    np.testing.assert_allclose(seen, (left, top, right, bottom), atol=1.0)


def test_boxes_that_reach_beyond_the_picture_are_clipped_to_it():
    rule = InputRule(size=(64, 64))
    back = rule.boxes_to_image(np.array([[-10.0, -10, 100, 100]], np.float32), (32, 64))
    np.testing.assert_array_equal(back, [[0, 0, 64, 32]])


def test_a_rule_survives_its_dictionary():
    rule = InputRule(size=(64, 96), channels="bgr", mean=(1, 2, 3), std=(4, 5, 6), scale=0.5)
    listed = {key: list(value) if isinstance(value, tuple) else value for key, value in rule.to_dict().items()}
    assert InputRule.from_dict(listed) == rule
    post = PostRule(kind="topk", score_threshold=0.2, max_detections=7)
    assert PostRule.from_dict(post.to_dict()) == post


# ---- suppression ------------------------------------------------------------------------------------------------


def textbook_nms(boxes, labels, threshold):
    """Neubeck and Van Gool 2006, in plain Python: best first, drop what overlaps a kept box of the same class."""
    kept = []
    for row in range(len(boxes)):
        free = True
        for other in kept:
            if labels[other] != labels[row]:
                continue
            a, b = boxes[other].astype(float), boxes[row].astype(float)
            width, height = min(a[2], b[2]) - max(a[0], b[0]), min(a[3], b[3]) - max(a[1], b[1])
            shared = max(width, 0) * max(height, 0)
            union = (a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - shared
            if union > 0 and shared / union > threshold:
                free = False
                break
        if free:
            kept.append(row)
    return kept


def random_boxes(rng, count, spread=200.0):
    centre, half = rng.uniform(-40, spread, (count, 2)), rng.uniform(2, 40, (count, 2))
    return np.concatenate([centre - half, centre + half], axis=1).astype(np.float32)


@pytest.mark.parametrize("threshold", [0.0, 0.3, 0.65, 1.0])
@pytest.mark.parametrize("classes", [1, 3, 80])
def test_suppression_equals_the_textbook_also_for_boxes_outside_the_picture(threshold, classes):
    rng = np.random.default_rng(classes)
    boxes, labels = random_boxes(rng, 300), rng.integers(0, classes, 300)
    expected = textbook_nms(boxes, labels, threshold)
    assert nms(boxes, labels, threshold, 1000).tolist() == expected
    assert nms(boxes, labels, threshold, 17).tolist() == expected[:17]


def test_equal_scores_keep_the_order_of_the_network():
    boxes = np.array([[50, 0, 60, 10], [0, 0, 10, 10], [1, 0, 11, 10], [80, 0, 90, 10]], np.float32)
    found = postprocess(boxes, np.full((4, 2), 0.5, np.float32), PostRule(kind="nms", nms_threshold=0.5))
    np.testing.assert_array_equal(found.boxes, boxes[[0, 1, 3]])
    assert found.labels.tolist() == [0, 0, 0]


def test_each_box_has_its_best_class_and_other_classes_do_not_suppress_it():
    boxes = np.array([[0, 0, 10, 10], [0, 0, 10, 10], [0, 0, 10, 10]], np.float32)
    scores = np.array([[0.2, 0.7], [0.6, 0.1], [0.5, 0.3]], np.float32)
    found = postprocess(boxes, scores, PostRule(kind="nms"))
    assert found.labels.tolist() == [1, 0]
    np.testing.assert_array_equal(found.scores, np.array([0.7, 0.6], np.float32))


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_a_box_that_is_no_number_suppresses_nothing_and_stays_to_be_seen(bad):
    boxes = np.array([[bad, 0, 10, 10], [0, 0, 10, 10], [0, 0, 10, 10]], np.float32)
    found = postprocess(boxes, np.array([[0.9], [0.8], [0.7]], np.float32), PostRule(kind="nms"))
    assert len(found) == 2
    assert found.scores.tolist() == pytest.approx([0.9, 0.8])


@pytest.mark.parametrize("kind", ["nms", "topk"])
def test_scores_that_are_no_numbers_are_no_detections(kind):
    boxes = np.zeros((2, 4), np.float32)
    found = postprocess(boxes, np.array([[np.nan, np.nan], [0.5, 0.2]], np.float32), PostRule(kind=kind))
    assert found.scores.max() == np.float32(0.5)
    assert np.isfinite(found.scores).all()


@pytest.mark.parametrize("kind", ["nms", "topk"])
def test_nothing_above_the_threshold_gives_empty_arrays_of_the_right_types(kind):
    boxes, scores = np.zeros((5, 4), np.float32), np.zeros((5, 3), np.float32)
    for found in (
        postprocess(boxes, scores, PostRule(kind=kind)),
        postprocess(boxes[:0], scores[:0], PostRule(kind=kind)),
    ):
        assert found.boxes.shape == (0, 4)
        assert (found.boxes.dtype, found.scores.dtype, found.labels.dtype) == (np.float32, np.float32, np.int64)


def test_topk_takes_pairs_of_box_and_class_without_suppression():
    boxes = np.array([[0, 0, 10, 10], [0, 0, 10, 10]], np.float32)
    scores = np.array([[0.3, 0.9], [0.8, 0.005]], np.float32)
    found = postprocess(boxes, scores, PostRule(kind="topk", score_threshold=0.01, max_detections=3))
    assert found.labels.tolist() == [1, 0, 0]
    assert found.scores.tolist() == pytest.approx([0.9, 0.8, 0.3])


def test_a_whole_coco_head_is_suppressed_in_a_few_milliseconds():
    rng = np.random.default_rng(0)
    boxes = random_boxes(rng, 8400, 640.0)
    scores = rng.random((8400, 80), dtype=np.float32)
    rule = PostRule(kind="nms")
    spent = []
    for _ in range(5):
        start = time.process_time()
        found = postprocess(boxes, scores, rule)
        spent.append(time.process_time() - start)
    assert len(found) == 100
    assert min(spent) < 0.03  # 3 ms on a quiet core; comparing all pairs takes 300


def test_finish_brings_each_image_back_to_its_own_size():
    boxes = np.tile(np.array([[[0, 0, 32, 32]]], np.float32), (2, 1, 1))
    found = finish(
        boxes, np.ones((2, 1, 1), np.float32), [(64, 64), (128, 64)], InputRule(size=(64, 64)), PostRule(kind="nms")
    )
    np.testing.assert_array_equal(found[0].boxes, [[0, 0, 32, 32]])
    np.testing.assert_array_equal(found[1].boxes, [[0, 0, 64, 64]])


def test_detections_above_a_score_keep_their_masks():
    found = Detections(
        np.zeros((2, 4), np.float32), np.array([0.9, 0.2], np.float32), np.array([0, 1]), ({"a": 1}, {"b": 2})
    )
    kept = found.above(0.5)
    assert (len(kept), kept.masks) == (1, ({"a": 1},))
