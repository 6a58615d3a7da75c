"""What stops, what goes on, how much may be lost; and pictures that are nearly the same."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageEnhance

from data_tools import Document, codes, config, document, edit, load, look, picture, sound_data, write_split
from detloom.config import mapping_layer, resolve
from detloom.data.codes import CODES, FILE_FAULTS, NEVER_ALLOWED, WHOLE
from detloom.data.findings import FindingBook, found
from detloom.data.load import check
from detloom.data.policy import Policy
from detloom.data.records import Finding
from detloom.data.similar import MAX_BITS, fingerprint, near_pairs, same_to_the_eye
from detloom.errors import ConfigError, DataError
from detloom.host import discover


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return sound_data(tmp_path / "data")


def spoil(root: Path, count: int) -> None:
    """So many objects of the training split get a class that is not listed."""

    def change(content: Document) -> None:
        for row in content["annotations"][:count]:
            row.update(category_id=99)

    edit(root, change)


# ---- limits


def test_lenient_leaves_out_one_percent_and_no_more_where_no_limit_is_written(tmp_path: Path) -> None:
    root = tmp_path / "data"
    write_split(root / "train", document(98, 0), 0)
    write_split(root / "valid", document(2, 500), 500)
    spoil(root, 2)  # of 200 objects
    assert len(load(root, policy="lenient").splits["train"].labels) == 194
    (root / "train" / "p50.png").unlink()  # of 100 images; its two objects count with it
    assert len(load(root, policy="lenient").splits["train"]) == 97
    spoil(root, 3)
    with pytest.raises(
        DataError, match=r"too-much-left-out.*3 of 200 objects \(1\.50%, at most 1\.00%\): unknown-class"
    ):
        load(root, policy="lenient")


@pytest.mark.parametrize(("limit", "stops"), [(0.1, False), (0.08, True), (0.0, True), (1.0, False)])
def test_a_written_limit_counts_what_lenient_and_what_allow_leave_out(limit: float, stops: bool, root: Path) -> None:
    spoil(root, 1)  # of 12 objects: 8.3 %
    for settings in ({"policy": "lenient"}, {"allow": ["unknown-class"]}):
        report = look(root, max_left_out=limit, **settings)
        assert [finding.code for finding in report.refused] == (["too-much-left-out"] if stops else [])


def test_what_is_allowed_by_its_code_has_no_limit_of_its_own(root: Path) -> None:
    spoil(root, 6)
    assert look(root, allow=["unknown-class"]).refused == []
    assert look(root, allow=["unknown-class"], policy="lenient").refused == []


def test_mended_boxes_never_count_against_the_limit(root: Path) -> None:
    edit(root, lambda c: [row.update(bbox=[1, 1, 0, 5]) for row in c["annotations"][:7]])
    assert look(root, policy="lenient").refused == []
    assert look(root, max_left_out=0.0).refused == []


def test_the_limit_itself_cannot_be_allowed(root: Path) -> None:
    spoil(root, 6)
    refused = look(root, policy="lenient", allow=["too-much-left-out"]).refused
    assert [finding.code for finding in refused] == ["too-much-left-out"]


def test_allowed_codes_stay_allowed_under_strict(root: Path) -> None:
    edit(root, lambda c: c["annotations"][0].update(bbox=[-5, 5, 20, 10]))
    assert [finding.code for finding in look(root, policy="strict").refused] == ["box-outside"]
    assert look(root, policy="strict", allow=["box-outside"]).refused == []
    with pytest.raises(DataError, match="box-outside"):
        load(root, policy="strict")


def test_the_policies_are_in_order_of_patience() -> None:
    """Whatever lenient refuses, repair refuses; whatever repair refuses, strict refuses."""
    for code in CODES:
        finding = found(code)
        stops = [Policy(name).severity(finding) == "error" for name in ("strict", "repair", "lenient")]
        assert stops == sorted(stops, reverse=True), code


def test_lenient_tolerates_no_finding_that_stands_for_whole_files() -> None:
    for code in FILE_FAULTS | NEVER_ALLOWED | WHOLE:
        many = found(code, images=3, objects=9) if code not in FILE_FAULTS else found(code)
        assert Policy("lenient").severity(many) == "error", code


def test_findings_of_other_peoples_formats_follow_the_policy_too() -> None:
    lost = Finding("their-own", "error", "a row is broken", objects=1)
    whole = Finding("their-own", "error", "a table is broken")
    assert [Policy("lenient").severity(one) for one in (lost, whole)] == ["warning", "error"]


# ---- one cause, one finding


def test_a_consequence_is_told_once_its_cause_is_allowed(root: Path) -> None:
    for path in (root / "valid").glob("*.png"):
        path.unlink()
    assert codes(look(root)) == {"missing-image": 2}
    assert codes(look(root, allow=["missing-image"])) == {"missing-image": 2, "empty-split": 1}
    stubborn = look(root, allow=["missing-image", "empty-split"])
    assert [finding.code for finding in stubborn.refused] == ["no-validation-split"]


def test_a_class_that_is_lost_with_its_only_box_is_no_reproach_of_its_own(root: Path) -> None:
    edit(root, lambda c: c.update(annotations=[r for r in c["annotations"] if r["category_id"] == 3]), "valid")
    lost = {"id": 9, "image_id": 1, "category_id": 7, "bbox": [1, 1, 0, 0]}
    edit(root, lambda c: c["annotations"].append(lost), "valid")
    report = look(root)
    assert codes(report) == {"degenerate-box": 1}
    told = {finding.code: finding.severity for finding in report.findings}
    assert told["class-missing-in-split"] == "info"


def test_independent_faults_are_all_told(root: Path) -> None:
    spoil(root, 1)
    (root / "train" / "p3.png").unlink()
    edit(root, lambda c: c["categories"].append({"id": 8, "name": "elk"}))
    edit(root, lambda c: c.update(images=[], annotations=[]), "valid")
    assert set(codes(look(root))) == {"unknown-class", "missing-image", "class-without-objects", "empty-split"}


def test_two_broken_files_are_two_places_of_one_finding(root: Path) -> None:
    for split in ("train", "valid"):
        (root / split / "_annotations.coco.json").write_text("{")
    report = look(root)
    assert codes(report) == {"json-syntax": 2}
    assert "train/" in report.findings[0].where and "valid/" in report.findings[0].where


@pytest.mark.parametrize("settings", [{}, {"conflicts": "first"}, {"conflicts": "union"}, {"drop_classes": ["dog"]}])
def test_counts_add_up_over_several_sources(settings: dict[str, Any], tmp_path: Path) -> None:
    """The same pictures twice, one of them with another box."""
    places = [sound_data(tmp_path / name) for name in ("one", "two")]
    edit(places[1], lambda c: c["annotations"][0].update(bbox=[6, 6, 20, 10]))
    values = {"data.sources": [str(place) for place in places], "export.format": []}
    values |= {f"data.{key}": value for key, value in settings.items()}
    plugins = discover()
    report = check(resolve(plugins, [mapping_layer(values)]), plugins)
    assert report.images + report.images_left_out == 12
    assert report.objects + report.objects_left_out == 24
    assert report.images == 6


# ---- codes in the configuration


def test_a_misspelt_code_is_refused_with_the_configuration_before_any_data_are_read() -> None:
    with pytest.raises(ConfigError, match=r"data\.allow.*unknown-clas'") as caught:
        config(discover(), Path("nowhere"), allow=["unknown-clas"])
    assert "did you mean unknown-class?" in str(caught.value)


# ---- sound data


def test_sound_data_have_no_findings_under_any_policy(root: Path) -> None:
    for policy in ("strict", "repair", "lenient"):
        assert look(root, policy=policy).findings == ()


# ---- nearly the same picture


def recoded(pixels: np.ndarray, change: Callable[[Image.Image], Image.Image], quality: int = 75) -> np.ndarray:
    stream = io.BytesIO()
    change(Image.fromarray(pixels)).save(stream, "JPEG", quality=quality)
    return np.asarray(Image.open(stream))


COPIES: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "stored again": lambda p: recoded(p, lambda i: i),
    "badly stored": lambda p: recoded(p, lambda i: i, 30),
    "halved": lambda p: recoded(p, lambda i: i.resize((i.width // 2, i.height // 2))),
    "enlarged": lambda p: recoded(p, lambda i: i.resize((i.width * 3 // 2, i.height * 3 // 2))),
    "brighter": lambda p: recoded(p, lambda i: ImageEnhance.Brightness(i).enhance(1.06)),
}


@pytest.mark.parametrize("copy", COPIES.values(), ids=list(COPIES))
def test_a_copy_that_was_stored_again_is_told(copy: Callable[[np.ndarray], np.ndarray], tmp_path: Path) -> None:
    root = sound_data(tmp_path / "data")
    large = picture(5, 256, 192)
    for split, name, pixels in (("train", "p0.png", large), ("valid", "p100.png", copy(large))):
        Image.fromarray(pixels).save(root / split / name)
        size = {"width": pixels.shape[1], "height": pixels.shape[0]}
        edit(root, lambda c, size=size: c["images"][0].update(size), split)
    report = look(root)
    assert codes(report) == {"near-leakage": 1}
    assert report.refused == []
    assert codes(look(root, near_duplicates=False)) == {}


def _plate(number: int) -> np.ndarray:
    """The same background for all, as of a fixed camera, with one thing that moves."""
    canvas = picture(7).copy()
    y, x = 2 + 8 * (number // 6), 2 + 10 * (number % 6)
    canvas[y : y + 6, x : x + 7] = (250, 30, 30) if canvas[y, x].mean() < 128 else (20, 20, 60)
    return canvas


def _rectangle(number: int) -> np.ndarray:
    canvas = np.full((48, 64, 3), 200, np.uint8)
    y, x = 3 * (number // 8), 5 * (number % 8)
    canvas[y : y + 14, x : x + 18] = (40, 90, 160)
    return canvas


def _noise(number: int) -> np.ndarray:
    return np.random.default_rng(number).integers(0, 256, (48, 64, 3), dtype=np.uint8)


def _coloured(number: int) -> np.ndarray:
    """One drawing in other colours."""
    canvas = np.full((48, 64, 3), 230, np.uint8)
    canvas[10:30, 10:40] = np.random.default_rng(number).integers(0, 256, 3)
    canvas[35:45, 45:60] = (11 * number % 256, 97 * number % 256, 53 * number % 256)
    return canvas


SERIES = {"plate": _plate, "rectangle": _rectangle, "noise": _noise, "coloured": _coloured,
          "flat": lambda n: np.full((48, 64, 3), 9 * n, np.uint8)}  # fmt: skip


@pytest.mark.parametrize("make", SERIES.values(), ids=list(SERIES))
def test_series_of_different_pictures_raise_no_alarm(make: Callable[[int], np.ndarray], tmp_path: Path) -> None:
    root = tmp_path / "data"
    for split, count, seed in (("train", 12, 0), ("valid", 8, 12)):
        write_split(root / split, document(count, seed), seed)
        for number in range(seed, seed + count):
            Image.fromarray(make(number)).save(root / split / f"p{number}.png")
    assert codes(look(root)) == {}


def test_the_nearest_fingerprint_is_found_as_by_counting_bits() -> None:
    rng = np.random.default_rng(0)
    first = [rng.bytes(32) for _ in range(200)]
    second = []
    for data in first[:50]:
        bits = np.unpackbits(np.frombuffer(data, np.uint8))
        bits[rng.choice(256, rng.integers(0, 30), replace=False)] ^= 1
        second.append(np.packbits(bits).tobytes())
    expected = {}
    for place, data in enumerate(second):
        apart = [sum((a ^ b).bit_count() for a, b in zip(one, data, strict=True)) for one in first]
        if min(apart) <= MAX_BITS:
            expected[place] = (apart.index(min(apart)), min(apart))
    pairs = list(near_pairs([one.hex() for one in first], [one.hex() for one in second]))
    assert {pair.second: (pair.first, pair.bits) for pair in pairs} == expected
    assert 10 < len(expected) < 50


def test_a_picture_without_structure_has_no_fingerprint_and_is_near_to_nothing() -> None:
    assert fingerprint(np.full((48, 64, 3), 77, np.uint8)) == ""
    assert len(fingerprint(picture(1))) == 64
    assert list(near_pairs(["", ""], ["", fingerprint(picture(1))])) == []


def test_a_file_that_vanished_is_not_compared(tmp_path: Path) -> None:
    Image.fromarray(picture(1)).save(tmp_path / "a.png")
    assert not same_to_the_eye(tmp_path / "a.png", tmp_path / "gone.png")


# ---- real data


@pytest.mark.parametrize(
    ("folder", "settings", "expected"),
    [
        ("bccd", {"format": "voc"}, {"degenerate-box": 2}),
        ("bccd", {"local__images": "JPEGImages", "local__train": "coco/roboflow_train.json",
                  "local__val": "coco/roboflow_valid.json", "local__test": "coco/roboflow_test.json"}, {}),
        ("nuclei_dsb2018", {"local__images": "images", "local__train": "coco/train.json",
                            "local__val": "coco/val.json", "local__test": "coco/test.json"}, {}),
    ],
    ids=["bccd as VOC", "bccd as COCO", "nuclei"],
)  # fmt: skip
def test_real_data_raise_no_false_alarm(
    folder: str, settings: dict[str, Any], expected: dict[str, int], data_dir: Path
) -> None:
    assert codes(look(data_dir / folder, **settings)) == expected


@pytest.mark.parametrize("name", ["coco_val2017_158_gt", "instances_val2014_100"])
def test_annotations_of_coco_raise_no_false_alarm(name: str, data_dir: Path, tmp_path: Path) -> None:
    """Crowds, holes, several parts and 80 classes; the pictures are made up, of the right sizes."""
    content = json.loads((data_dir / "coco_eval" / f"{name}.json").read_text())
    for entry in content["images"]:
        place = tmp_path / entry["file_name"]
        place.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(picture(entry["id"], entry["width"], entry["height"])).save(place, quality=60)
    (tmp_path / "all.json").write_text(json.dumps(content))
    # With a hundred pictures of eighty classes some classes are in few of them.
    assert set(codes(look(tmp_path / "all.json"))) <= {"class-missing-in-split", "class-without-objects"}


def test_equal_findings_add_up_what_they_leave_out() -> None:
    book = FindingBook()
    book.add("corrupt-image", "a", objects=3)
    book.add("corrupt-image", "b", objects=4)
    (one,) = book.findings()
    assert (one.count, one.images, one.objects) == (2, 2, 7)
