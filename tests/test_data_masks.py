"""Masks against pycocotools and against hand-made arrays."""

from __future__ import annotations

import json
from dataclasses import fields
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageOps
from pycocotools import mask as coco_mask

from data_tools import document, edit, load, look, picture, sound_data
from detloom.data.images import read_image
from detloom.data.masks import (
    BadSegmentationError,
    decode_rle,
    encode_mask,
    resize_masks,
    rle_area,
    rle_box,
    to_rle,
    turn_rle,
)
from detloom.data.objects import in_pixels
from detloom.data.records import ObjectRecord


def blob(seed: int, height: int, width: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return (rng.random((height, width)) < rng.uniform(0.1, 0.9)).astype(np.uint8)


def uncompressed(mask: np.ndarray) -> list[int]:
    """Runs column by column, starting with zeros."""
    flat = mask.ravel(order="F")
    changes = np.flatnonzero(np.diff(flat)) + 1
    runs = np.diff(np.concatenate([[0], changes, [len(flat)]])).tolist()
    return [0, *runs] if flat[0] else runs


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 10**6), height=st.integers(1, 40), width=st.integers(1, 40))
def test_both_spellings_of_rle_give_the_same_mask(seed: int, height: int, width: int) -> None:
    mask = blob(seed, height, width)
    compressed = coco_mask.encode(np.asfortranarray(mask))["counts"].decode()
    for counts in (compressed, uncompressed(mask)):
        rle = to_rle({"size": [height, width], "counts": counts}, height, width)
        assert np.array_equal(decode_rle(rle), mask)
        assert rle_area(rle) == mask.sum()


@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # pycocotools on NumPy 2
def test_polygons_equal_those_of_pycocotools() -> None:
    polygons = [[2.5, 3, 20, 4, 18.2, 22, 3, 20], [25, 25, 30, 25, 30, 30]]
    truth = coco_mask.decode(coco_mask.merge(coco_mask.frPyObjects(polygons, 40, 50)))
    rle = to_rle(polygons, 40, 50)
    assert np.array_equal(decode_rle(rle), truth)
    rows, columns = np.nonzero(truth)
    assert rle_box(rle) == (columns.min(), rows.min(), columns.max() + 1, rows.max() + 1)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_mask_turns_as_its_picture_does(orientation: int) -> None:
    mask = blob(3, 12, 17)
    turned = decode_rle(turn_rle(encode_mask(mask), orientation))
    image = Image.fromarray(mask * 255)
    image.getexif()[0x112] = orientation
    assert np.array_equal(turned, np.asarray(ImageOps.exif_transpose(image)) // 255)


@pytest.mark.parametrize(
    "broken",
    [
        {"size": [4, 4], "counts": [8, 9]},
        {"size": [4, 4], "counts": [20, -4]},
        {"size": [4, 4], "counts": [True] * 16},
        {"size": [4, 4], "counts": None},
        {"size": [4, 4]},
        {"counts": [16]},
        {"size": [4, 4], "counts": "`"},
        {"size": [4, 4], "counts": "\u20ac"},
        {"size": [4, 4], "counts": "o" * 50},
        [[1, 2, 3]],
        [[1, 2, 3, 4, 5, float("nan")]],
        [[1, 2, 3, 4, 5, 1e300]],
        ["abc"],
        [1, 2, 3, 4, 5, 6],
        "text",
        7,
    ],
)
def test_a_broken_segmentation_is_refused_before_pycocotools_sees_it(broken: object) -> None:
    with pytest.raises(BadSegmentationError):
        to_rle(broken, 4, 4)


def test_resized_masks_keep_their_place() -> None:
    mask = np.zeros((40, 60), np.uint8)
    mask[10:30, 20:50] = 1
    half = resize_masks([encode_mask(mask)], 20, 30)
    assert np.array_equal(half[0], mask[::2, ::2])


def test_objects_with_a_mask_alone_get_one_tight_box_each(tmp_path: Path) -> None:
    root = sound_data(tmp_path / "data")
    mask = np.zeros((48, 64), np.uint8)
    cv2.circle(mask, (20, 20), 7, 1, -1)
    cv2.circle(mask, (45, 30), 5, 1, -1)  # two islands, one object
    counts = uncompressed(mask)

    def masks_only(content: dict[str, list[dict[str, object]]]) -> None:
        for entry in content["annotations"]:
            del entry["bbox"], entry["area"]
            entry["segmentation"] = {"size": [48, 64], "counts": counts}

    for split in ("train", "valid"):
        edit(root, masks_only, split)
    report = look(root)
    assert report.inspection is not None and report.dataset is not None
    assert (report.inspection.has_boxes, report.inspection.has_masks) == (False, True)
    train = report.dataset.splits["train"]
    rows, columns = np.nonzero(mask)
    assert train.boxes[0].tolist() == [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
    assert train.area[0] == mask.sum()
    assert report.refused == []


@pytest.mark.parametrize("orientation", [6, 8, 5, 7])
def test_boxes_of_the_picture_before_its_rotation_are_turned_with_it(tmp_path: Path, orientation: int) -> None:
    root = sound_data(tmp_path / "data")
    painted = picture(0).copy()
    painted[5:15, 4:24] = 255  # the cat of the first image
    exif = Image.Exif()
    exif[0x112] = orientation
    Image.fromarray(painted).save(root / "train" / "p0.png", exif=exif)
    polygon = [[4, 5, 24, 5, 24, 15, 4, 15]]
    edit(root, lambda content: content["annotations"][0].update(segmentation=polygon))
    report = look(root)
    assert "exif-raw-boxes" in {finding.code for finding in report.findings}
    assert report.dataset is not None
    train = report.dataset.splits["train"]
    assert (train.images[0].width, train.images[0].height) == (48, 64)
    white = (read_image(train.images[0].path) == 255).all(axis=2)
    x1, y1, x2, y2 = train.boxes[0].astype(int)
    assert white[y1:y2, x1:x2].all()
    assert (x2 - x1) * (y2 - y1) == 200
    rle = train.rles[0]
    assert rle is not None
    inside = np.zeros_like(white)
    inside[y1:y2, x1:x2] = True
    assert np.array_equal(decode_rle(rle).astype(bool), inside)


def test_an_upright_size_means_upright_boxes(tmp_path: Path) -> None:
    root = sound_data(tmp_path / "data")
    exif = Image.Exif()
    exif[0x112] = 6
    Image.fromarray(picture(0)).save(root / "train" / "p0.png", exif=exif)
    edit(root, lambda content: content["images"][0].update(width=48, height=64))
    report = look(root)
    assert [finding.code for finding in report.findings] == ["exif-orientation"]
    assert report.dataset is not None
    assert report.dataset.splits["train"].boxes[0].tolist() == [4, 5, 24, 15]


def test_crowds_are_kept_in_the_dataset(tmp_path: Path) -> None:
    root = sound_data(tmp_path / "data")
    edit(root, lambda content: content["annotations"][0].update(iscrowd=1))
    train = load(root).splits["train"]
    assert train.crowd.tolist() == [True] + [False] * 7


def test_an_impossible_area_is_measured_anew_and_a_possible_one_kept(tmp_path: Path) -> None:
    root = sound_data(tmp_path / "data")
    edit(root, lambda content: content["annotations"][0].update(area=99999))
    edit(root, lambda content: content["annotations"][1].update(area=150.5))
    report = look(root)
    assert report.dataset is not None
    assert report.dataset.splits["train"].area[:2].tolist() == [200.0, 150.5]
    assert [finding.code for finding in report.findings] == ["area-mismatch"]


def test_documents_of_the_tools_are_what_the_tests_take_them_for() -> None:
    content = document(2, 0)
    assert json.loads(json.dumps(content)) == content
    assert [entry["area"] for entry in content["annotations"][:2]] == [200.0, 192.0]


def test_fractions_become_pixels_and_everything_else_of_an_object_stays() -> None:
    record = ObjectRecord(
        [0.25, 0.5, 0.75, 1], class_id=3, class_name="cat", segmentation=[[0.5, 0.25, 1, 1, 0, 1]], area=7.5,
        crowd=True, keypoints=True, id="a", where="here", relative=True,
    )  # fmt: skip
    found = in_pixels(record, 48, 64)
    assert (found.bbox, found.segmentation, found.relative) == ([16, 24, 48, 48], [[32, 12, 64, 48, 0, 48]], False)
    rest = {field.name for field in fields(ObjectRecord)} - {"bbox", "segmentation", "relative"}
    assert {name: getattr(found, name) for name in rest} == {name: getattr(record, name) for name in rest}
    defaults = {field.name: field.default for field in fields(ObjectRecord)}
    assert all(getattr(record, name) != defaults[name] for name in rest), "a new field belongs into this test"
