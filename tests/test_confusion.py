"""The confusion matrix: cases made by hand, and an implementation without any array that must say the same."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pycocotools import mask as coco_mask

from detloom.data.dataset import ClassMap, ImageInfo, Split
from detloom.evaluate import cells_of, confusion_matrix, evaluate_detections, rank_images
from detloom.geometry import Detections
from detloom_schemas.run_files import EvaluationRecord, SplitEvaluation

Box = tuple[float, float, float, float]
Truth = tuple[Box, int, bool]
Found = tuple[Box, float, int]

CATS = ClassMap((3, 7, 9), ("cat", "dog", "cow"))
CAT, DOG, COW, NONE = range(4)
A: Box = (10, 10, 60, 60)
B: Box = (100, 100, 150, 150)
FAR: Box = (150, 10, 190, 50)


def split_of(images: Sequence[Sequence[Truth]], ids: Sequence[int] | None = None) -> Split:
    flat = [row for rows in images for row in rows]
    counts = [len(rows) for rows in images]
    boxes = np.array([box for box, _, _ in flat], dtype=np.float64).reshape(-1, 4)
    names = ids or list(range(1, len(images) + 1))
    return Split(
        name="val",
        images=tuple(ImageInfo(i, f"{i}.jpg", Path(f"{i}.jpg"), 200, 200) for i in names),
        boxes=boxes,
        labels=np.array([label for _, label, _ in flat], dtype=np.int64),
        crowd=np.array([crowd for _, _, crowd in flat], dtype=np.bool_),
        area=(boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1]),
        image_index=np.repeat(np.arange(len(images)), counts),
        object_ids=tuple(range(len(flat))),
        rles=tuple(mask_of(box) for box, _, _ in flat),
        starts=np.concatenate([[0], np.cumsum(counts)]).astype(np.int64),
    )


def found_of(rows: Sequence[Found]) -> Detections:
    ordered = sorted(rows, key=lambda row: -row[1])
    return Detections(
        np.array([box for box, _, _ in ordered], dtype=np.float32).reshape(-1, 4),
        np.array([score for _, score, _ in ordered], dtype=np.float32),
        np.array([label for _, _, label in ordered], dtype=np.int64),
        tuple(mask_of(box) for box, _, _ in ordered),
    )


def mask_of(box: Box) -> dict[str, object]:
    x1, y1, x2, y2 = (round(v) for v in box)
    canvas = np.zeros((200, 200), dtype=np.uint8, order="F")
    canvas[y1:y2, x1:x2] = 1
    return dict(coco_mask.encode(canvas))


def cells(
    truth: Sequence[Truth], found: Sequence[Found], threshold: float = 0.5, *, masks: bool = False
) -> set[tuple[int, int, int]]:
    counts = confusion_matrix(split_of([truth]), CATS, [found_of(found)], threshold, masks=masks)
    assert counts.shape == (4, 4) and counts.dtype == np.int64
    return set(cells_of(counts))


# By hand


def test_what_is_right_lies_on_the_diagonal() -> None:
    assert cells([(A, CAT, False), (B, DOG, False)], [(A, 0.9, CAT), (B, 0.8, DOG)]) == {(CAT, CAT, 1), (DOG, DOG, 1)}


def test_a_swap_of_classes_stands_in_the_row_of_the_truth() -> None:
    assert cells([(A, CAT, False), (B, DOG, False)], [(A, 0.9, DOG), (B, 0.8, DOG)]) == {(CAT, DOG, 1), (DOG, DOG, 1)}


def test_a_second_detection_of_an_object_has_no_object() -> None:
    close = (12.0, 10.0, 62.0, 60.0)
    assert cells([(A, CAT, False)], [(close, 0.99, DOG), (A, 0.6, CAT)]) == {(CAT, CAT, 1), (NONE, DOG, 1)}, (
        "the box that fits takes the object, not the one with the better score"
    )


@pytest.mark.parametrize(("better", "worse"), [(CAT, COW), (COW, CAT)])
@pytest.mark.parametrize("scores", [(0.9, 0.7), (0.7, 0.9)])
def test_one_box_with_two_classes_counts_with_the_better_score(
    better: int, worse: int, scores: tuple[float, float]
) -> None:
    labels = np.array((better, worse) if scores[0] > scores[1] else (worse, better))
    twice = Detections(np.array([A, A], np.float32), np.array(scores, np.float32), labels)
    counts = confusion_matrix(split_of([[(A, CAT, False)]]), CATS, [twice], 0.5)
    assert set(cells_of(counts)) == {(CAT, better, 1), (NONE, worse, 1)}


def test_what_is_not_found_is_missed_and_what_is_not_there_is_background() -> None:
    assert cells([(A, CAT, False)], [(FAR, 0.9, COW)]) == {(CAT, NONE, 1), (NONE, COW, 1)}


def test_a_detection_below_the_score_counts_nowhere_and_one_at_it_counts() -> None:
    assert cells([(A, CAT, False)], [(A, 0.4999, CAT)]) == {(CAT, NONE, 1)}
    assert cells([(A, CAT, False)], [(A, 0.5, CAT)]) == {(CAT, CAT, 1)}


def test_an_overlap_of_exactly_one_half_is_enough() -> None:
    whole, half, less = (0.0, 0.0, 100.0, 100.0), (0.0, 0.0, 100.0, 50.0), (0.0, 0.0, 100.0, 49.0)
    assert cells([(whole, CAT, False)], [(half, 0.9, DOG)]) == {(CAT, DOG, 1)}
    assert cells([(whole, CAT, False)], [(less, 0.9, DOG)]) == {(CAT, NONE, 1), (NONE, DOG, 1)}


def test_a_crowd_is_never_missed_and_swallows_what_lies_in_it_whatever_its_class() -> None:
    crowd = (0.0, 0.0, 120.0, 120.0)
    inside = [((5.0, 5.0, 40.0, 40.0), 0.9, CAT), ((50.0, 50.0, 90.0, 90.0), 0.8, DOG)]
    assert cells([(crowd, CAT, True)], []) == set()
    assert cells([(crowd, CAT, True)], inside) == set()
    assert cells([(crowd, CAT, True)], [*inside, (FAR, 0.7, DOG)]) == {(NONE, DOG, 1)}


def test_an_object_inside_a_crowd_is_preferred_to_the_crowd() -> None:
    crowd = (0.0, 0.0, 120.0, 120.0)
    worse = (10.0, 10.0, 60.0, 45.0)
    assert cells([(crowd, DOG, True), (A, CAT, False)], [(worse, 0.9, DOG)]) == {(CAT, DOG, 1)}
    assert cells([(crowd, DOG, True), (A, CAT, False)], [(worse, 0.9, DOG), (A, 0.8, CAT)]) == {(CAT, CAT, 1)}, (
        "the second one on the object falls into the crowd"
    )


def test_a_detection_whose_object_is_taken_may_take_its_neighbour() -> None:
    """Two boxes over two objects that overlap each other by 0.8: the first pair does not leave the others alone."""
    left, right = (0.0, 0.0, 90.0, 100.0), (10.0, 0.0, 100.0, 100.0)
    truth = [(left, CAT, False), (right, DOG, False)]
    nearer_left = (1.0, 0.0, 91.0, 100.0)
    assert cells(truth, [(left, 0.9, CAT), (nearer_left, 0.8, DOG)]) == {(CAT, CAT, 1), (DOG, DOG, 1)}


def test_masks_are_compared_instead_of_boxes_when_asked_for() -> None:
    split = split_of([[(A, CAT, False)]])
    boxes_only = Detections(np.array([A], np.float32), np.array([0.9], np.float32), np.array([CAT]), (mask_of(FAR),))
    assert cells_of(confusion_matrix(split, CATS, [boxes_only], 0.5)) == ((CAT, CAT, 1),)
    found = cells_of(confusion_matrix(split, CATS, [boxes_only], 0.5, masks=True))
    assert found == ((CAT, NONE, 1), (NONE, CAT, 1))
    crowd = (0.0, 0.0, 120.0, 120.0)
    assert cells([(crowd, CAT, True), (B, DOG, False)], [(A, 0.9, COW), (B, 0.9, DOG)], masks=True) == {(DOG, DOG, 1)}


def test_images_are_kept_apart_whatever_the_order_of_their_ids() -> None:
    images = [[(A, CAT, False)], [(A, DOG, False), (B, COW, False)], [(FAR, CAT, False)]]
    found = [found_of([(A, 0.9, CAT)]), found_of([(B, 0.9, COW)]), found_of([(A, 0.9, DOG)])]
    for ids in ((1, 2, 3), (30, 20, 10)):
        counts = confusion_matrix(split_of(images, ids), CATS, found, 0.5)
        assert set(cells_of(counts)) == {(CAT, CAT, 1), (DOG, NONE, 1), (COW, COW, 1), (CAT, NONE, 1), (NONE, DOG, 1)}


@pytest.mark.parametrize("images", [[], [[]], [[(A, CAT, False)], []]])
def test_nothing_found_means_everything_is_missed(images: list[list[Truth]]) -> None:
    counts = confusion_matrix(split_of(images), CATS, [found_of([])] * len(images), 0.0)
    assert set(cells_of(counts)) == ({(CAT, NONE, 1)} if any(images) else set())


# Against an implementation of its own


def overlap(found: Box, truth: Box, *, crowd: bool) -> float:
    width = min(found[2], truth[2]) - max(found[0], truth[0])
    height = min(found[3], truth[3]) - max(found[1], truth[1])
    if width <= 0 or height <= 0:
        return 0.0
    area = (found[2] - found[0]) * (found[3] - found[1])
    whole = area if crowd else area + (truth[2] - truth[0]) * (truth[3] - truth[1]) - width * height
    return width * height / whole


def by_brute_force(truth: Sequence[Truth], found: Sequence[Found], threshold: float) -> list[list[int]]:
    """Looks for the best pair that is left, again and again."""
    counts = [[0] * 4 for _ in range(4)]
    objects = [(box, label) for box, label, crowd in truth if not crowd]
    crowds = [box for box, _, crowd in truth if crowd]
    left = [row for row in found if row[1] >= threshold]
    while True:
        pairs = [
            (overlap(box, target, crowd=False), score, i, j)
            for i, (box, score, _) in enumerate(left)
            for j, (target, _) in enumerate(objects)
        ]
        pairs = [pair for pair in pairs if pair[0] >= 0.5]
        if not pairs:
            break
        _, _, i, j = max(pairs, key=lambda pair: pair[:2])
        counts[objects.pop(j)[1]][left.pop(i)[2]] += 1
    for _, label in objects:
        counts[label][NONE] += 1
    for box, _, label in left:
        if not any(overlap(box, crowd, crowd=True) >= 0.5 for crowd in crowds):
            counts[NONE][label] += 1
    return counts


def boxes() -> st.SearchStrategy[Box]:
    """Whole pixels on a small field: overlaps are many, and exact in every arithmetic."""
    side = st.integers(0, 12)
    return st.tuples(side, side, st.integers(1, 12), st.integers(1, 12)).map(
        lambda b: (float(b[0]), float(b[1]), float(b[0] + b[2]), float(b[1] + b[3]))
    )


TRUTHS = st.lists(st.tuples(boxes(), st.integers(0, 2), st.sampled_from((False, False, False, True))), max_size=6)
# Scores that are all different: which of two equal pairs comes first is nobody's promise.
SCORES = st.permutations([i / 16 for i in range(1, 13)])
FOUNDS = st.tuples(SCORES, st.lists(st.tuples(boxes(), st.integers(0, 2)), max_size=12)).map(
    lambda drawn: [(box, score, label) for score, (box, label) in zip(drawn[0], drawn[1], strict=False)]
)


def no_two_objects_fit_equally(truth: Sequence[Truth], found: Sequence[Found]) -> bool:
    for box, _, _ in found:
        near = [overlap(box, target, crowd=False) for target, _, crowd in truth if not crowd]
        near = [value for value in near if value >= 0.5]
        if len(set(near)) < len(near):
            return False
    return True


@settings(max_examples=400, deadline=None)
@given(st.lists(st.tuples(TRUTHS, FOUNDS), min_size=1, max_size=3), st.sampled_from((0.0, 0.25, 0.5)))
def test_it_says_what_a_plain_search_for_the_best_pair_says(
    images: list[tuple[list[Truth], list[Found]]], threshold: float
) -> None:
    images = [(truth, found) for truth, found in images if no_two_objects_fit_equally(truth, found)]
    expected = sum((np.array(by_brute_force(truth, found, threshold)) for truth, found in images), np.zeros((4, 4)))
    split = split_of([truth for truth, _ in images])
    counts = confusion_matrix(split, CATS, [found_of(found) for _, found in images], threshold)
    assert counts.tolist() == expected.tolist()


def test_every_object_and_every_shown_detection_stands_once() -> None:
    rng = np.random.default_rng(3)
    images, found = [], []
    for _ in range(40):
        corners = rng.integers(0, 150, (12, 2))
        rows = [(float(x), float(y), float(x + 30), float(y + 30)) for x, y in corners]
        images.append([(box, int(rng.integers(3)), False) for box in rows[:6]])
        moved = [(x + 4, y - 3, x2 + 2, y2) for x, y, x2, y2 in rows[2:]]
        found.append(found_of([(box, float(rng.random()), int(rng.integers(3))) for box in moved]))
    split = split_of(images)
    counts = confusion_matrix(split, CATS, found, 0.4)
    assert counts[:3].sum(axis=1).tolist() == np.bincount(split.labels, minlength=3).tolist()
    shown = np.concatenate([one.labels[one.scores >= 0.4] for one in found])
    assert counts[:, :3].sum(axis=0).tolist() == np.bincount(shown, minlength=3).tolist()
    assert counts[3, 3] == 0


def test_with_one_class_it_is_the_count_of_hits_alarms_and_misses() -> None:
    """Boxes far apart, so that COCO's order of matching cannot differ."""
    one = ClassMap((1,), ("cell",))
    truth: list[Truth] = [((20.0 * i, 0, 20.0 * i + 10, 10), 0, False) for i in range(8)]
    found = found_of([((20.0 * i, 0, 20.0 * i + 9, 10), 0.1 * i, 0) for i in range(1, 10)])
    split = split_of([truth])
    evaluation = evaluate_detections(split, one, [found])
    (score,) = rank_images(split, one, [found], evaluation.threshold)
    counts = confusion_matrix(split, one, [found], evaluation.threshold)
    assert counts.tolist() == [[score.hits, score.misses], [score.false_alarms, 0]]
    assert (score.hits, score.misses, score.false_alarms) == (7, 1, 2)


# In evaluation.json


def test_a_file_from_before_there_was_a_confusion_matrix_is_still_read() -> None:
    record = EvaluationRecord.model_validate({"splits": {"val": {"images": 3, "metrics": {"AP": 0.5}}}})
    assert record.splits["val"].confusion == ()
    assert record.splits["val"].confused() == []


def test_the_record_keeps_the_counts_and_names_the_pairs_that_are_confused_most() -> None:
    counts = np.array([[5, 1, 2, 9], [3, 4, 0, 0], [2, 0, 7, 1], [8, 0, 6, 0]])
    per_class = [{"index": i, "id": i, "name": name} for i, name in enumerate(CATS.names)]
    record = SplitEvaluation.model_validate({"per_class": per_class, "confusion": cells_of(counts)})
    again = SplitEvaluation.model_validate_json(record.model_dump_json())
    back = np.zeros((4, 4), dtype=int)
    for row, column, count in again.confusion:
        back[row, column] = count
    assert back.tolist() == counts.tolist()
    assert again.confused() == [(DOG, CAT, 3), (CAT, COW, 2), (COW, CAT, 2), (CAT, DOG, 1)]
