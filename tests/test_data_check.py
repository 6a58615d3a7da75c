"""What the check finds: one planted fault each, and what is left when it is allowed."""

from __future__ import annotations

import json
import math
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from data_tools import Document, codes, edit, first, load, look, picture, save, sound_data
from detloom.cli.main import main
from detloom.data.findings import CODES
from detloom.errors import DataError


def annotation(content: Document, number: int = 0) -> dict[str, Any]:
    entry: dict[str, Any] = content["annotations"][number]
    return entry


def _truncate(root: Path) -> None:
    path = root / "train" / "p0.png"
    path.write_bytes(path.read_bytes()[:-40])


def _damage(root: Path) -> None:
    path = root / "train" / "p0.png"
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 0xFF
    path.write_bytes(bytes(data))


def _truncate_jpeg(root: Path) -> None:
    Image.fromarray(picture(0)).save(root / "train" / "p0.jpg", quality=90)
    data = (root / "train" / "p0.jpg").read_bytes()
    (root / "train" / "p0.jpg").write_bytes(data[: len(data) * 2 // 3])
    edit(root, lambda c: c["images"][0].update(file_name="p0.jpg"))


def _link_out(root: Path) -> None:
    outside = root.parent / "outside.png"
    outside.write_bytes((root / "train" / "p0.png").read_bytes())
    (root / "train" / "p0.png").unlink()
    (root / "train" / "p0.png").symlink_to(outside)


def _json(change: Callable[[Document], object]) -> Callable[[Path], None]:
    return lambda root: edit(root, change)


def _again(content: Document, key: str, **changed: Any) -> None:
    content[key].append({**content[key][0], **changed})


# fault, code, times, then images and objects left in train when the code is allowed (of 4 and 8).
ERRORS: list[tuple[str, Callable[[Path], None], str, int, int, int]] = [
    ("file gone", lambda root: (root / "train" / "p0.png").unlink(), "missing-image", 1, 3, 6),
    ("file cut", _truncate, "truncated-image", 1, 3, 6),
    ("jpeg cut", _truncate_jpeg, "truncated-image", 1, 3, 6),
    ("bits rotten", _damage, "corrupt-image", 1, 3, 6),
    ("file empty", lambda root: (root / "train" / "p0.png").write_bytes(b""), "corrupt-image", 1, 3, 6),
    ("file is text", lambda root: (root / "train" / "p0.png").write_text("hello"), "corrupt-image", 1, 3, 6),
    ("unknown class", _json(lambda c: annotation(c).update(category_id=9)), "unknown-class", 1, 4, 7),
    ("class id true", _json(lambda c: annotation(c).update(category_id=True)), "unknown-class", 1, 4, 7),
    ("class id text", _json(lambda c: annotation(c).update(category_id="3")), "unknown-class", 1, 4, 7),
    ("class id list", _json(lambda c: annotation(c).update(category_id=[3])), "unknown-class", 1, 4, 7),
    ("NaN", _json(lambda c: annotation(c).update(bbox=[1, 2, math.nan, 4])), "nan-box", 1, 4, 7),
    ("infinity", _json(lambda c: annotation(c).update(bbox=[1, 2, math.inf, 4])), "nan-box", 1, 4, 7),
    ("huge integer", _json(lambda c: annotation(c).update(bbox=[1, 2, 10**400, 4])), "nan-box", 1, 4, 7),
    ("three numbers", _json(lambda c: annotation(c).update(bbox=[1, 2, 3])), "bad-box-type", 1, 4, 7),
    ("text box", _json(lambda c: annotation(c).update(bbox="1,2,3,4")), "bad-box-type", 1, 4, 7),
    ("text number", _json(lambda c: annotation(c).update(bbox=[1, 2, "3", 4])), "bad-box-type", 1, 4, 7),
    ("no box at all", _json(lambda c: annotation(c).pop("bbox")), "bad-box-type", 1, 4, 7),
    ("odd polygon", _json(lambda c: annotation(c).update(segmentation=[[1, 2, 3, 4, 5]])), "bad-segmentation", 1, 4, 7),
    (
        "RLE of another size",
        _json(lambda c: annotation(c).update(segmentation={"size": [9, 9], "counts": [81]})),
        "bad-segmentation",
        1,
        4,
        7,
    ),
    (
        "RLE that overflows",
        _json(lambda c: annotation(c).update(segmentation={"size": [48, 64], "counts": [1, 10**9]})),
        "bad-segmentation",
        1,
        4,
        7,
    ),
    (
        "RLE text broken",
        _json(lambda c: annotation(c).update(segmentation={"size": [48, 64], "counts": "zzz~~\x7f"})),
        "bad-segmentation",
        1,
        4,
        7,
    ),
    ("size wrong", _json(lambda c: c["images"][0].update(width=640)), "size-mismatch", 1, 3, 6),
    ("image id twice", _json(lambda c: c["images"][1].update(id=1)), "duplicate-image-id", 2, 2, 4),
    (
        "annotation id twice",
        _json(lambda c: _again(c, "annotations", bbox=[1, 1, 9, 9])),
        "duplicate-annotation-id",
        1,
        4,
        8,
    ),
    ("image not listed", _json(lambda c: c["images"].pop(0)), "annotation-without-image", 2, 3, 6),
    ("climbing name", _json(lambda c: c["images"][0].update(file_name="../../x.png")), "path-escape", 1, 3, 6),
    ("absolute name", _json(lambda c: c["images"][0].update(file_name="/etc/passwd")), "path-escape", 1, 3, 6),
    ("drive name", _json(lambda c: c["images"][0].update(file_name="C:\\x.png")), "path-escape", 1, 3, 6),
    ("link out", _link_out, "path-escape", 1, 3, 6),
    ("image without name", _json(lambda c: c["images"][0].pop("file_name")), "bad-record", 1, 3, 6),
    ("annotation is a number", _json(lambda c: c["annotations"].append(7)), "bad-record", 1, 4, 8),
]


@pytest.mark.parametrize(
    ("plant", "code", "times", "images", "objects"), [row[1:] for row in ERRORS], ids=[row[0] for row in ERRORS]
)
def test_an_error_is_named_and_stops_a_training_unless_it_is_allowed(
    tmp_path: Path, plant: Callable[[Path], None], code: str, times: int, images: int, objects: int
) -> None:
    root = sound_data(tmp_path / "data")
    plant(root)
    report = look(root)
    assert codes(report)[code] == times
    assert [finding.code for finding in report.refused] or code == "bad-record"
    named = next(finding for finding in report.findings if finding.code == code)
    assert named.severity == "error"
    assert "_annotations.coco.json" in named.where
    assert named.remedy
    everything = [finding.code for finding in report.refused]
    allowed = look(root, allow=everything)
    assert allowed.refused == []
    assert allowed.dataset is not None
    train = allowed.dataset.splits["train"]
    assert (len(train), len(train.labels)) == (images, objects)
    with pytest.raises(DataError, match=code):
        load(root)


def test_sound_data_have_no_findings(tmp_path: Path) -> None:
    report = look(sound_data(tmp_path / "data"))
    assert report.findings == ()
    assert report.dataset is not None
    assert report.dataset.class_map.ids == (3, 7)
    assert report.dataset.class_map.names == ("cat", "dog")


def _box(*numbers: float) -> Callable[[Path], None]:
    return _json(lambda c: annotation(c).update(bbox=list(numbers), area=numbers[2] * numbers[3]))


def _same_picture_twice(root: Path) -> None:
    (root / "valid" / "p100.png").write_bytes((root / "train" / "p0.png").read_bytes())


def _file_twice(root: Path) -> None:
    edit(root, lambda c: c["images"].append({**c["images"][0], "id": 99}))


WARNINGS: list[tuple[str, Callable[[Path], None], str, int]] = [
    ("no width", _box(5, 5, 0, 10), "degenerate-box", 7),
    ("negative height", _box(5, 5, 10, -3), "degenerate-box", 7),
    ("outside in part", _box(-5, 5, 20, 10), "box-outside", 8),
    ("outside wholly", _box(70, 5, 20, 10), "box-off-image", 7),
    ("thin inside", _box(-9.5, 5, 10, 10), "box-below-pixel", 7),
    ("same object twice", _json(lambda c: _again(c, "annotations", id=999)), "duplicate-box", 8),
    ("same annotation twice", _json(lambda c: _again(c, "annotations")), "duplicate-annotation", 8),
    ("same image twice", _json(lambda c: _again(c, "images")), "duplicate-image", 8),
    ("one file, two ids", _file_twice, "duplicate-image-file", 8),
    ("leakage", _same_picture_twice, "leakage", 8),
    (
        "class without objects",
        _json(lambda c: c["categories"].append({"id": 8, "name": "elk"})),
        "class-without-objects",
        8,
    ),
    (
        "mask without a pixel",
        _json(lambda c: annotation(c).update(segmentation={"size": [48, 64], "counts": [3072]})),
        "empty-mask",
        8,
    ),
    (
        "one mask only",
        _json(lambda c: annotation(c).update(segmentation=[[4, 5, 24, 5, 24, 15, 4, 15]])),
        "partial-masks",
        8,
    ),
]


@pytest.mark.parametrize(("plant", "code", "objects"), [row[1:] for row in WARNINGS], ids=[row[0] for row in WARNINGS])
def test_a_warning_is_counted_and_does_not_stop(
    tmp_path: Path, plant: Callable[[Path], None], code: str, objects: int
) -> None:
    root = sound_data(tmp_path / "data")
    plant(root)
    report = look(root)
    assert code in codes(report)
    assert report.refused == []
    assert report.dataset is not None
    assert len(report.dataset.splits["train"].labels) == objects


def test_a_clipped_box_ends_at_the_edge_of_the_image(tmp_path: Path) -> None:
    root = sound_data(tmp_path / "data")
    _box(-5, 40, 20, 30)(root)
    report = look(root)
    assert report.dataset is not None
    assert report.dataset.splits["train"].boxes[0].tolist() == [0, 40, 15, 48]
    assert report.dataset.splits["train"].area[0] == 15 * 8


def test_many_equal_findings_are_one_with_a_count_and_five_places(tmp_path: Path) -> None:
    root = sound_data(tmp_path / "data", images=9)
    edit(root, lambda c: [entry.update(category_id=55) for entry in c["annotations"]])
    found = next(f for f in look(root).findings if f.code == "unknown-class")
    assert found.count == 18
    assert found.where.count("annotation id") == 5
    assert "and 13 more" in found.where


def test_a_syntax_error_is_reported_with_its_line(tmp_path: Path) -> None:
    root = sound_data(tmp_path / "data")
    (root / "train" / "_annotations.coco.json").write_text('{"images": [],\n "annotations": [,]}')
    found = next(f for f in look(root).findings if f.code == "json-syntax")
    assert "train/_annotations.coco.json:2" in found.where


@pytest.mark.parametrize("content", [[], 5, None, "text", {}, {"images": 3, "categories": {}}, {"a": [1]}])
def test_json_that_is_not_coco_is_named(tmp_path: Path, content: Any) -> None:
    root = sound_data(tmp_path / "data")
    save(root / "train", content)
    assert "not-coco" in codes(look(root))


@pytest.mark.parametrize(
    "junk",
    [
        {"images": [None, 3, {"id": None}], "annotations": [None, {}], "categories": [{}, 3]},
        {"images": [{"id": [1], "file_name": 5}], "annotations": {"a": 1}, "categories": "no"},
        {"images": [{"id": 1, "file_name": "p0.png", "width": "x"}], "categories": [{"id": 1.5, "name": "a"}]},
        {"images": [{"id": 1, "file_name": "a\x00b"}], "categories": [{"id": 1, "name": ""}]},
    ],
)
def test_wrong_types_anywhere_are_findings_and_never_a_traceback(tmp_path: Path, junk: Any) -> None:
    root = sound_data(tmp_path / "data")
    save(root / "train", junk)
    assert look(root).refused


def test_a_file_in_another_encoding_is_named(tmp_path: Path) -> None:
    root = sound_data(tmp_path / "data")
    (root / "train" / "_annotations.coco.json").write_bytes('{"images": "ü"}'.encode("latin-1"))
    assert codes(look(root)) == {"text-encoding": 1}


def test_a_byte_order_mark_is_no_fault(tmp_path: Path) -> None:
    root = sound_data(tmp_path / "data")
    path = root / "train" / "_annotations.coco.json"
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())
    assert look(root).findings == ()


def test_names_in_another_unicode_form_are_found(tmp_path: Path) -> None:
    root = sound_data(tmp_path / "data")
    (root / "train" / "p0.png").rename(root / "train" / "cafe\u0301.png")  # as macOS writes it
    edit(root, lambda c: c["images"][0].update(file_name="caf\u00e9.png"))
    assert look(root).findings == ()


def test_classes_that_contradict_each_other_are_errors(tmp_path: Path) -> None:
    root = sound_data(tmp_path / "data")
    edit(root, lambda c: c["categories"][0].update(name="lynx"), "valid")
    assert "duplicate-class-id" in codes(look(root))
    edit(root, lambda c: c["categories"][0].update(id=4, name="cat"), "valid")
    assert "duplicate-class-name" in codes(look(root))


def test_a_roboflow_parent_class_without_objects_is_left_out(tmp_path: Path) -> None:
    root = sound_data(tmp_path / "data")
    for split in ("train", "valid"):
        edit(root, lambda c: c["categories"].insert(0, {"id": 0, "name": "pets", "supercategory": "none"}), split)
    report = look(root)
    assert report.dataset is not None
    assert report.dataset.class_map.names == ("cat", "dog")
    assert [finding.code for finding in report.findings] == ["placeholder-class"]
    edit(root, lambda c: annotation(c).update(category_id=0))
    used = look(root)
    assert used.dataset is not None
    assert used.dataset.class_map.names == ("pets", "cat", "dog")


def test_a_training_split_without_objects_is_refused_and_the_validation_split_does_not_hide_it(tmp_path: Path) -> None:
    root = sound_data(tmp_path / "data")
    edit(root, lambda c: c["annotations"].clear())
    assert "train-without-objects" in {finding.code for finding in look(root).refused}


def test_classes_that_share_an_id_cannot_be_allowed(tmp_path: Path) -> None:
    """Which class an object belongs to would be a guess: leaving the error out would change labels in silence."""
    root = sound_data(tmp_path / "data")
    edit(root, lambda c: c["categories"].reverse() or [row.update(id=7) for row in c["categories"]], "valid")
    report = look(root, allow=["duplicate-class-id", "duplicate-class-name"])
    assert {"duplicate-class-id"} <= {finding.code for finding in report.refused}


def test_no_classes_no_images_and_no_objects_are_errors_of_their_own(tmp_path: Path) -> None:
    root = sound_data(tmp_path / "data")
    edit(root, lambda c: c["annotations"].clear())
    edit(root, lambda c: c["annotations"].clear(), "valid")
    assert "no-annotations" in codes(look(root))
    edit(root, lambda c: c["images"].clear(), "valid")
    assert "empty-split" in codes(look(root))
    for split in ("train", "valid"):
        edit(root, lambda c: c["categories"].clear(), split)
    report = look(root, allow=["no-classes", "empty-split"])
    assert "no-classes" in {finding.code for finding in report.refused}
    assert report.dataset is None


def test_an_image_without_objects_is_kept_as_background(tmp_path: Path) -> None:
    root = sound_data(tmp_path / "data")
    edit(root, lambda c: c.update(annotations=c["annotations"][2:]))
    report = look(root)
    assert report.dataset is not None
    assert len(report.dataset.splits["train"]) == 4
    assert [finding.code for finding in report.findings] == ["image-without-objects"]


def test_images_that_lost_all_their_objects_are_told_from_those_that_never_had_one(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = sound_data(tmp_path / "data")
    edit(root, lambda c: c.update(annotations=c["annotations"][2:]))
    assert main(["check", str(root)]) == 0
    assert "1 image without; " in capsys.readouterr().out
    edit(root, lambda c: [a["bbox"].__setitem__(2, 0) for a in c["annotations"][:4]])
    assert main(["check", str(root)]) == 0
    text = capsys.readouterr().out
    assert "3 images without (2 lost all); " in text and "image-without-objects x1" in text


@pytest.mark.parametrize("several", [False, True])
def test_names_of_classes_that_are_not_read_as_written_are_told_each_once(several: bool, tmp_path: Path) -> None:
    def rename(content: Document) -> None:
        content["categories"][0]["name"], content["categories"][1]["name"] = " cat ", "x\ny"

    root = sound_data(tmp_path / "data")
    for split in ("train", "valid"):
        edit(root, rename, split)
    aliases = {"class_aliases": {"nothing": "cat"}} if several else {}
    report = look(root, **aliases)
    assert first(report, "class-name-spaces").count == 2
    where = first(report, "class-name-spaces").where
    assert "' cat ', read as 'cat'" in where and r"'x\ny', read as 'x y'" in where
    assert report.dataset is not None and report.dataset.class_map.names == ("cat", "x y")


def test_the_ways_out_of_a_link_that_leads_out_are_named_and_lead_there(tmp_path: Path) -> None:
    root = sound_data(tmp_path / "data")
    (tmp_path / "elsewhere").mkdir()
    picture = root / "train" / "p0.png"
    picture.rename(tmp_path / "elsewhere" / "p0.png")
    picture.symlink_to(tmp_path / "elsewhere" / "p0.png")
    finding = first(look(root), "path-escape")
    assert f"--images {tmp_path / 'elsewhere'}" in finding.where
    assert codes(look(root, local__images=str(tmp_path / "elsewhere"))) == {}
    assert "cp -rL DATA COPY" in finding.remedy
    subprocess.run(["cp", "-rL", root, tmp_path / "copy"], check=True)
    assert codes(look(tmp_path / "copy")) == {}


def test_every_code_is_known_with_a_severity_and_a_sentence() -> None:
    for code, known in CODES.items():
        assert code == code.lower()
        assert known.message
        assert known.severity != "error" or known.remedy


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda root: None, "does not exist"),
        (lambda root: root.mkdir(), "empty folder"),
        (lambda root: root.write_text("x"), "file"),
        (lambda root: (root / "a").mkdir(parents=True), "holds no annotations"),
    ],
)
def test_data_that_are_not_there_are_one_sentence(tmp_path: Path, make: Callable[[Path], object], message: str) -> None:
    make(tmp_path / "data")
    with pytest.raises(DataError, match=message) as caught:
        look(tmp_path / "data")
    assert caught.value.hint


def test_a_named_file_that_is_missing_is_named_with_its_key(tmp_path: Path) -> None:
    root = sound_data(tmp_path / "data")
    with pytest.raises(DataError, match=r"data\.local\.train"):
        look(root, local__train="nope.json")
    with pytest.raises(DataError, match=r"data\.local\.images"):
        look(root, local__images="nope")


def test_the_second_check_takes_facts_from_the_cache_and_sees_changes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from detloom.data import facts

    monkeypatch.setenv("DETLOOM_CACHE", str(tmp_path / "cache"))
    root = sound_data(tmp_path / "data")
    first = look(root)
    looked: list[Path] = []
    real = facts.look_at
    monkeypatch.setattr(facts, "look_at", lambda path: (looked.append(path), real(path))[1])
    second = look(root)
    assert looked == []
    assert first.dataset is not None and second.dataset is not None
    assert first.dataset.digest == second.dataset.digest
    Image.fromarray(picture(77)).save(root / "train" / "p0.png")
    third = look(root)
    assert [path.name for path in looked] == ["p0.png"]
    assert third.dataset is not None and third.dataset.digest != first.dataset.digest


def test_a_broken_cache_is_replaced_and_an_unwritable_one_ignored(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = sound_data(tmp_path / "data")
    monkeypatch.setenv("DETLOOM_CACHE", str(tmp_path / "cache"))
    (tmp_path / "cache").mkdir()
    (tmp_path / "cache" / "facts.sqlite").write_bytes(b"not a database at all" * 100)
    assert look(root).findings == ()
    monkeypatch.setenv("DETLOOM_CACHE", str(tmp_path / "cache" / "facts.sqlite" / "below-a-file"))
    assert look(root).findings == ()


def test_the_source_is_never_changed(tmp_path: Path) -> None:
    root = sound_data(tmp_path / "data")
    _truncate(root)
    before = {path: path.read_bytes() for path in root.rglob("*") if path.is_file()}
    look(root, allow=["truncated-image"])
    assert {path: path.read_bytes() for path in root.rglob("*") if path.is_file()} == before


def test_check_prints_findings_and_the_next_command(cli: Callable[..., Any], tmp_path: Path) -> None:
    root = sound_data(tmp_path / "data")
    done = cli("check", root)
    assert done.returncode == 0, done.stderr
    assert f"detloom train {root} --model" in done.stdout
    edit(root, lambda c: annotation(c).update(category_id=9))
    refused = cli("check", root, "--json")
    assert refused.returncode == 3
    answer = json.loads(refused.stdout)
    assert answer["refused"] == ["unknown-class"]
    assert answer["inspection"]["num_classes"] == 2
    assert cli("check", root, "--allow", "unknown-class").returncode == 0
    edit(root, lambda c: annotation(c).update(category_id=3, bbox=[-5, 5, 20, 10]))
    assert cli("check", root).returncode == 0
    assert cli("check", root, "--strict").returncode == 3
