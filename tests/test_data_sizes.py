"""Pictures of another size than the annotations say, and pictures that are very large."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from data_tools import codes, edit, first, load, look, picture, sound_data
from detloom.data.facts import gather_facts
from detloom.data.images import ImageError, read_image
from detloom.data.masks import decode_rle
from detloom.errors import UsageError

MASK = np.zeros((96, 192), dtype=np.uint8)
MASK[20:40, 30:90] = 1


def runs(mask: np.ndarray) -> list[int]:
    """Down the columns, beginning with zeros."""
    flat = mask.ravel(order="F").astype(int)
    ends = np.flatnonzero(np.diff(flat)) + 1
    return np.diff([0, *ends, flat.size]).tolist()  # the first pixel is 0


@pytest.fixture
def resized(tmp_path: Path) -> Path:
    """The first picture was annotated at 192x96 and is 64x48 now: a third as wide, half as high."""

    def change(content: dict[str, Any]) -> None:
        content["images"][0].update(width=192, height=96)
        cat, dog = content["annotations"][:2]
        cat.update(bbox=[30, 20, 60, 20], area=1200, segmentation={"size": [96, 192], "counts": runs(MASK)})
        dog.update(bbox=[90, 40, 48, 24], area=600, segmentation=[[90, 40, 138, 40, 138, 64]])

    edit(sound_data(tmp_path / "data"), change)
    return tmp_path / "data"


def test_a_size_that_is_not_the_pictures_is_refused_until_somebody_says_what_it_means(resized: Path) -> None:
    report = look(resized)
    finding = first(report, "size-mismatch")
    assert [one.code for one in report.refused] == ["size-mismatch"] and "data.size_mismatch" in finding.remedy
    assert "written 192x96, the picture has 64x48" in finding.where


def test_boxes_polygons_and_masks_are_scaled_with_a_picture_that_was_resized(resized: Path) -> None:
    dataset = load(resized, size_mismatch="scale")
    train = dataset.splits["train"]
    assert (train.images[0].width, train.images[0].height) == (64, 48)
    assert train.boxes[:2].tolist() == [[10, 10, 30, 20], [30, 20, 46, 32]]
    assert train.area[:2].tolist() == [200, 100]
    cat, dog = train.rles[:2]
    assert cat is not None and dog is not None
    small = np.zeros((48, 64), dtype=np.uint8)
    small[10:20, 10:30] = 1
    assert np.array_equal(decode_rle(cat), small)
    half = decode_rle(dog)[20:32, 30:46]
    assert half.sum() == decode_rle(dog).sum() and abs(int(half.sum()) - 96) <= 12
    assert train.boxes[2].tolist() == [4, 5, 24, 15], "other pictures stay as they are"
    assert codes(look(resized, size_mismatch="scale"))["size-scaled"] == 1


def test_a_wrong_size_may_be_passed_over(tmp_path: Path) -> None:
    root = sound_data(tmp_path)
    edit(root, lambda content: content["images"][0].update(width=640, height=480))
    report = look(root, size_mismatch="picture")
    assert codes(report) == {"size-replaced": 1} and report.refused == []
    assert report.dataset is not None and report.dataset.digest == load(sound_data(tmp_path / "other")).digest
    assert [one.code for one in look(root, size_mismatch="picture", policy="strict").refused] == ["size-replaced"]


def test_the_limit_of_pixels_can_be_set_and_is_asked_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = sound_data(tmp_path / "data")
    large = root / "train" / "p0.png"
    Image.fromarray(picture(0, 80, 60)).save(large)
    edit(root, lambda content: content["images"][0].update(width=80, height=60))
    monkeypatch.setenv("DETLOOM_CACHE", str(tmp_path / "cache"))
    for limit, found in (("4000", ["image-too-large"]), ("1e4", []), ("4_000", ["image-too-large"]), ("", [])):
        monkeypatch.setenv("DETLOOM_MAX_PIXELS", limit)
        assert [one.code for one in look(root).refused] == found, limit
    monkeypatch.setenv("DETLOOM_MAX_PIXELS", "4000")
    assert "DETLOOM_MAX_PIXELS" in first(look(root), "image-too-large").remedy
    with pytest.raises(ImageError, match=r"80x60 pixels; at most 4,000 are read \(DETLOOM_MAX_PIXELS\)"):
        read_image(large)


@pytest.mark.parametrize("text", ["many", "0", "-5", "1e999", "nan"])
def test_a_limit_that_is_no_number_is_refused(text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Image.fromarray(picture(0)).save(tmp_path / "a.png")
    monkeypatch.setenv("DETLOOM_MAX_PIXELS", text)
    with pytest.raises(UsageError, match="DETLOOM_MAX_PIXELS"):
        gather_facts([tmp_path / "a.png"])
