"""Several sources become one data set: classes, ids, names, pictures that are in two of them, and where it all came
from."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from data_tools import CLASSES, codes, document, edit, look, sound_data, write_split
from detloom.data.findings import DataRefusedError
from detloom.data.load import load_dataset
from detloom.errors import DataError
from detloom.host import discover
from merge_tools import boxes_by_picture, boxes_of, config_of, look_at_all, voc_data, whole, yolo_data


def places(report: Any, code: str) -> list[str]:
    return [finding.where for finding in report.findings if finding.code == code]


@pytest.fixture
def three(tmp_path: Path) -> list[Any]:
    """COCO with train and valid, YOLO with train and val, VOC that is not split; other spellings, other pictures."""
    return [
        {"path": str(sound_data(tmp_path / "coco")), "name": "north"},
        {"path": str(yolo_data(tmp_path / "yolo", ("DOG", "wild_horse"), range(300, 307), 2)), "format": "yolo"},
        {"path": str(voc_data(tmp_path / "voc", ("Wild-Horse", "Cat"), range(400, 410))), "name": "south"},
    ]


# ---- what becomes of everything -----------------------------------------------------------------------------------


def test_every_picture_and_box_of_three_formats_is_there_under_a_name_and_an_id_of_its_own(three: list[Any]) -> None:
    data = whole(look_at_all(three))
    found = boxes_by_picture(data)
    expected = {f"yolo/{300 + n}.png": boxes_of(n, ("dog", "wild_horse")) for n in range(7)}
    expected |= {f"south/{400 + n}.png": boxes_of(n, ("wild_horse", "cat")) for n in range(10)}
    for first, count in ((0, 4), (100, 2)):
        for n in range(count):
            expected[f"north/p{first + n}.png"] = boxes_of(n, ("cat", "dog"))
    assert found == {name: sorted(boxes) for name, boxes in expected.items()}
    ids = [image.id for split in data.splits.values() for image in split.images]
    assert sorted(ids) == list(range(1, 24))


def test_classes_are_matched_by_their_letters_and_later_sources_change_no_id(three: list[Any]) -> None:
    """COCO's own ids are 3 and 7; what others add is counted on from there."""
    two, all_three = whole(look_at_all(three[:2])), whole(look_at_all(three))
    assert (two.class_map.ids, two.class_map.names) == ((3, 7, 8), ("cat", "dog", "wild_horse"))
    assert all_three.class_map == two.class_map
    report = look_at_all([three[2], three[1]])
    assert whole(report).class_map.names == ("Cat", "Wild-Horse", "DOG")
    assert "classes-joined" in {finding.code for finding in report.findings}


def test_a_source_that_does_not_know_a_class_is_named(three: list[Any]) -> None:
    (where,) = places(look_at_all(three), "class-unknown-to-source")
    assert where == "cat (not in yolo); dog (not in south); wild_horse (not in north)"


def test_splits_of_the_sources_stay_and_what_is_not_split_is_divided(three: list[Any]) -> None:
    data = whole(look_at_all(three, split__val=0.3))
    by_source = {use.name: use.images for use in data.sources}
    assert by_source["north"] == {"train": 4, "val": 2} and by_source["yolo"] == {"train": 5, "val": 2}
    assert by_source["south"]["val"] >= 1 and sum(by_source["south"].values()) == 10
    anew = whole(look_at_all(three, split__mode="anew", split__stratify=True))
    assert abs(len(anew.splits["val"]) - 0.2 * 23) <= 1
    assert {use.name: use.images for use in anew.sources} != by_source


def test_training_parts_alone_are_divided_only_when_no_source_has_a_validation_split(tmp_path: Path) -> None:
    for name, seed in (("a", 0), ("b", 50)):
        write_split(tmp_path / name / "train", document(10, seed), seed)
    both = [tmp_path / "a", tmp_path / "b"]
    divided = whole(look_at_all(both, split__val=0.4))
    assert all(0 < use.images["val"] < 10 for use in divided.sources)
    sound_data(tmp_path / "c")
    kept = whole(look_at_all([*both, tmp_path / "c"]))
    assert [use.images["val"] for use in kept.sources] == [0, 0, 2]


def test_the_digest_depends_on_the_content_and_not_on_names_or_order(three: list[Any]) -> None:
    rules = {"split__mode": "anew", "class_aliases": {"DOG": "dog", "Cat": "cat", "Wild-Horse": "wild_horse"}}
    one = whole(look_at_all(three, **rules))
    other = whole(look_at_all([{**source, "name": f"s{n}"} for n, source in enumerate(three[::-1])], **rules))
    assert one.digest == other.digest
    assert one.digest != whole(look_at_all(three[:2], **rules)).digest


# ---- classes that are called otherwise, or left out ---------------------------------------------------------------


def test_aliases_join_classes_in_one_source_and_across_sources(three: list[Any], tmp_path: Path) -> None:
    data = whole(look_at_all(three, class_aliases={"wild horse": "Equine", "PUSSY_CAT": "cat"}))
    assert data.class_map.names == ("cat", "dog", "Equine")
    alone = whole(look(tmp_path / "coco", class_aliases={"Dog": "CAT"}))
    assert (alone.class_map.ids, alone.class_map.names) == ((3,), ("cat",))
    assert sum(len(split.labels) for split in alone.splits.values()) == 12
    assert {image.file_name for image in alone.splits["val"].images} == {"p100.png", "p101.png"}, "no prefix alone"
    assert alone.sources[0].renamed == {"dog": "cat"}


def test_a_class_that_is_left_out_goes_with_its_objects(three: list[Any]) -> None:
    report = look_at_all(three, drop_classes=["Wild Horse", "unicorn"])
    data = whole(report)
    assert data.class_map.names == ("cat", "dog")
    assert len(boxes_by_picture(data)) == 23, "its pictures stay, as background"
    assert places(report, "class-left-out") == ["Wild-Horse (10 objects); wild_horse (7 objects)"]
    assert places(report, "class-not-there") == ["unicorn (data.drop_classes)"]
    assert {use.name: use.renamed.get("wild_horse", "") for use in data.sources}["yolo"] is None


def test_a_class_that_its_source_does_not_list_is_no_class_of_another_source(tmp_path: Path) -> None:
    """Id 3 is `cat` in one source; in the other nothing has the id 3."""
    sound_data(tmp_path / "a")
    write_split(tmp_path / "b" / "train", document(2, 50), 50)

    def change(content: dict[str, Any]) -> None:
        content["categories"] = [{"id": 7, "name": "cow"}]

    edit(tmp_path / "b", change)
    report = look_at_all([tmp_path / "a", tmp_path / "b"])
    (where,) = places(report, "unknown-class")
    assert where.startswith("b: train/_annotations.coco.json: annotation id 101")
    assert "3 (not in the classes of b)" in where


def test_faults_in_the_list_of_classes_of_one_source_are_found(tmp_path: Path) -> None:
    sound_data(tmp_path / "a")
    write_split(tmp_path / "b" / "train", document(2, 50), 50)
    edit(tmp_path / "b", lambda content: content.update(categories=[*CLASSES, {"id": 9, "name": "dog"}]))
    report = look_at_all([tmp_path / "a", tmp_path / "b"])
    (where,) = places(report, "duplicate-class-name")
    assert where.startswith("b: ") and "ids 7 and 9" in where


# ---- the same picture in two sources ------------------------------------------------------------------------------


@pytest.fixture
def twins(tmp_path: Path) -> list[Path]:
    """Two sources with the same six pictures; the second lacks one object and has moved another."""
    sound_data(tmp_path / "a")
    shutil.copytree(tmp_path / "a", tmp_path / "b")

    def change(content: dict[str, Any]) -> None:
        content["annotations"].pop()  # the dog on p3
        content["annotations"][0]["bbox"] = [7.0, 8.0, 20.0, 10.0]  # the cat on p0, by three pixels
        content["annotations"][2]["bbox"] = [5.0, 4.0, 19.5, 11.0]  # the cat on p1, by a pixel

    edit(tmp_path / "b", change)
    return [tmp_path / "a", tmp_path / "b"]


def test_equal_pictures_are_kept_once_and_other_labels_are_an_error_that_names_both_places(twins: list[Path]) -> None:
    report = look_at_all(twins)
    assert codes(report) == {"conflicting-labels": 2}
    (where,) = places(report, "conflicting-labels")
    first = "train/_annotations.coco.json: image id 1"
    assert where.startswith(f"a: {first} (a/p0.png) = b: {first} (b/p0.png): 2 and 2 objects; a: ")
    assert next(f.count for f in report.findings if f.code == "picture-in-two-sources") == 4
    host = discover()
    with pytest.raises(DataRefusedError, match="conflicting-labels"):
        load_dataset(config_of(host, list(twins)), host)
    allowed = load_dataset(config_of(host, list(twins), allow=["conflicting-labels"]), host)
    assert boxes_by_picture(allowed)["a/p3.png"] == boxes_of(3, ("cat", "dog"))
    assert len(boxes_by_picture(allowed)) == 6


@pytest.mark.parametrize(
    ("order", "conflicts", "p0", "p3"),
    [
        ("ab", "first", [("cat", 4, 5, 24, 15), ("dog", 30, 20, 46, 32)], 2),
        ("ba", "first", [("cat", 7, 8, 27, 18), ("dog", 30, 20, 46, 32)], 1),
        ("ab", "union", [("cat", 4, 5, 24, 15), ("cat", 7, 8, 27, 18), ("dog", 30, 20, 46, 32)], 2),
        ("ba", "union", [("cat", 4, 5, 24, 15), ("cat", 7, 8, 27, 18), ("dog", 30, 20, 46, 32)], 2),
    ],
)
def test_other_labels_are_settled_as_told(
    twins: list[Path], order: str, conflicts: str, p0: list[Any], p3: int
) -> None:
    report = look_at_all(twins if order == "ab" else twins[::-1], conflicts=conflicts)
    assert codes(report) == {{"first": "labels-of-first", "union": "labels-joined"}[conflicts]: 2}
    data = whole(report)
    found = boxes_by_picture(data)
    assert len(found) == 6
    assert found[f"{order[0]}/p0.png"] == p0 and len(found[f"{order[0]}/p3.png"]) == p3


def test_labels_of_different_classes_on_the_same_pictures_come_together(tmp_path: Path) -> None:
    """One team drew cats and another dogs."""
    sound_data(tmp_path / "cats")
    shutil.copytree(tmp_path / "cats", tmp_path / "dogs")
    for name, class_id in (("cats", 3), ("dogs", 7)):
        for split in ("train", "valid"):

            def change(content: dict[str, Any], class_id: int = class_id) -> None:
                content["annotations"] = [a for a in content["annotations"] if a["category_id"] == class_id]
                content["categories"] = [c for c in content["categories"] if c["id"] == class_id]

            edit(tmp_path / name, change, split)
    data = whole(look_at_all([tmp_path / "cats", tmp_path / "dogs"], conflicts="union"))
    sound_data(tmp_path / "both")
    together = whole(look(tmp_path / "both"))
    assert data.digest == together.digest


def test_a_picture_that_is_for_training_in_one_source_and_for_validation_in_another_leaks_nowhere(
    tmp_path: Path,
) -> None:
    sound_data(tmp_path / "a")
    shutil.copytree(tmp_path / "a", tmp_path / "b")
    (tmp_path / "b" / "train").rename(tmp_path / "b" / "test")
    report = look_at_all([tmp_path / "a", tmp_path / "b"])
    assert codes(report) == {}
    assert {name: len(split) for name, split in whole(report).splits.items()} == {"train": 4, "val": 2}


def test_one_folder_read_in_two_formats_is_one_data_set(tmp_path: Path) -> None:
    """Boxes of YOLO are fractions, those of VOC may count pixels from 1: the same within a pixel."""
    voc_data(tmp_path / "voc", ("cat", "dog"), range(20, 26), first=1)
    yolo_data(tmp_path / "yolo", ("cat", "dog"), range(20, 26), 2)
    report = look_at_all([tmp_path / "yolo", tmp_path / "voc"])
    assert codes(report) == {}
    assert len(boxes_by_picture(whole(report))) == 6
    assert whole(report).digest == whole(look(tmp_path / "yolo")).digest


# ---- sources that go wrong ----------------------------------------------------------------------------------------


def test_faults_say_which_source_they_are_in(three: list[Any], tmp_path: Path) -> None:
    edit(tmp_path / "coco", lambda content: content["annotations"][0].update(bbox=[float("nan")] * 4))
    (tmp_path / "voc" / "JPEGImages" / "401.png").write_bytes(b"no picture")
    report = look_at_all(three)
    assert places(report, "nan-box")[0].startswith("north: train/_annotations.coco.json: annotation id 101")
    assert places(report, "corrupt-image")[0].startswith("south: ")


def test_boxes_of_one_source_that_mean_something_else_are_found_among_those_of_others(
    three: list[Any], tmp_path: Path
) -> None:
    def fractions(content: dict[str, Any]) -> None:
        for entry in content["annotations"]:
            entry["bbox"] = [0.1, 0.2, 0.3, 0.25]

    edit(tmp_path / "coco", fractions)
    (where,) = places(look_at_all(three), "fractions-for-pixels")
    assert "north: train/_annotations.coco.json: annotation id 101" in where


def test_a_source_that_is_not_there_is_named_before_anything_is_read(three: list[Any]) -> None:
    host = discover()
    with pytest.raises(DataError, match=r"data\.sources\[3\] \(west\): /nowhere does not exist"):
        load_dataset(config_of(host, [*three, {"path": "/nowhere", "name": "west"}]), host)


def test_sources_of_one_name_are_told_apart(tmp_path: Path) -> None:
    for folder, seed in (("x/data", 0), ("y/data", 50), ("z/Data", 80)):
        write_split(tmp_path / folder / "train", document(2, seed), seed)
    report = look_at_all([tmp_path / "x/data", tmp_path / "y/data", tmp_path / "z/Data"])
    assert [use.name for use in whole(report).sources] == ["data", "data-2", "Data-3"]


# ---- what is written about it -------------------------------------------------------------------------------------


def test_the_manifest_names_every_source_what_it_gave_and_what_its_classes_became(
    three: list[Any], tmp_path: Path, cli: Callable[..., Any]
) -> None:
    (tmp_path / "run.json").write_text(json.dumps({"data": {"sources": three, "drop_classes": ["dog"]}}))
    done = cli("check", "--config", tmp_path / "run.json", "--json")
    assert done.returncode == 0, done.stderr
    answer = json.loads(done.stdout)
    north, yolo, south = answer["sources"]
    assert (north["name"], north["type"], north["format"]) == ("north", "local", "coco")
    assert yolo["identity"] == str(tmp_path / "yolo") and len(yolo["revision"]) == 16
    assert yolo["classes"] == {"DOG": None, "wild_horse": "wild_horse"}
    assert south["classes"] == {"Cat": "cat", "Wild-Horse": "wild_horse"}
    assert north["images"] == {"train": 4, "val": 2} and north["objects"] == {"train": 4, "val": 2}
    assert sum(sum(use["images"].values()) for use in answer["sources"]) == 23
    text = cli("check", "--config", tmp_path / "run.json").stdout
    assert "classes of yolo: DOG -> left out" in text and str(tmp_path / "voc") in text


def test_several_folders_on_the_command_line_are_one_data_set(tmp_path: Path, cli: Callable[..., Any]) -> None:
    sound_data(tmp_path / "a")
    write_split(tmp_path / "b", document(10, 50), 50)
    done = cli("split", tmp_path / "a", tmp_path / "b", "--out", tmp_path / "both")
    assert done.returncode == 0, done.stderr
    merged = whole(look(tmp_path / "both"))
    assert merged.digest == whole(look_at_all([tmp_path / "a", tmp_path / "b"])).digest
    assert {path.name for path in (tmp_path / "both" / "train").iterdir()} == {"a", "b", "_annotations.coco.json"}
    check = cli("check", tmp_path / "a", tmp_path / "b")
    assert f"detloom train {tmp_path / 'a'} {tmp_path / 'b'} --model" in check.stdout
    twice = cli("check", tmp_path / "a", tmp_path / "b", "--images", tmp_path)
    assert twice.returncode == 2 and "data.local.images (--images): has no effect: data.sources" in twice.stderr
