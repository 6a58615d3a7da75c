"""Every layout is found to be what it is, read as it was meant, and ambiguous ones are refused."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

import format_tools as tools
from data_tools import codes, load, look
from detloom.data.records import DataTree
from detloom.errors import DataError
from detloom.host import discover
from detloom.specs import FormatSpec


@pytest.mark.parametrize("layout", tools.LAYOUTS)
def test_a_layout_is_detected_as_itself_and_as_nothing_else(layout: str, tmp_path: Path) -> None:
    wanted, write = tools.LAYOUTS[layout]
    write(tmp_path)
    for spec in discover().specs(FormatSpec):
        sniff = spec.build(spec.settings()).sniff(DataTree(tmp_path))
        assert (sniff.score >= 0.5) == (spec.name == wanted), f"{spec.name}: {sniff}"
        assert sniff.reason


@pytest.mark.parametrize("layout", tools.LAYOUTS)
def test_a_layout_is_read_as_it_was_meant_without_a_false_alarm(layout: str, tmp_path: Path) -> None:
    _, write = tools.LAYOUTS[layout]
    write(tmp_path)
    report = look(tmp_path)
    assert codes(report) == {}, report.findings
    dataset = load(tmp_path, for_training=False)
    expected = dict(tools.TRUTH)
    if layout in tools.WITHOUT_BACKGROUND:
        del expected["p3.png"]
    if layout == "cvat_video":
        expected = {f"frame_{number:06d}.PNG": expected[shot.name] for number, shot in enumerate(tools.SHOTS)}
    assert tools.boxes(dataset) == expected
    assert dataset.class_map.names == tools.CLASSES
    assert set(dataset.splits) == ({"all"} if layout in tools.UNSPLIT else {"train", "val"})


def test_the_same_data_have_the_same_digest_in_every_layout(tmp_path: Path) -> None:
    digests = {}
    for layout, (_, write) in tools.LAYOUTS.items():
        if layout not in tools.UNSPLIT:
            write(tmp_path / layout)
            digests[layout] = load(tmp_path / layout, for_training=False).digest
    assert len(set(digests.values())) == 1, digests


@pytest.mark.parametrize(
    ("one", "other", "names"),
    [
        ("coco_roboflow", "yolo_roboflow", "coco or --set data.format=yolo"),
        ("yolo_lists", "voc_kaggle", "voc"),
        ("cvat_images", "csv_sizes", "csv"),
        ("labelme_flat", "voc_labelimg", "labelme"),
    ],
)
def test_two_formats_in_one_folder_are_refused_until_one_is_named(
    one: str, other: str, names: str, tmp_path: Path
) -> None:
    for layout in (one, other):
        tools.LAYOUTS[layout][1](tmp_path)
    with pytest.raises(DataError, match="several formats") as caught:
        load(tmp_path, for_training=False)
    assert names in str(caught.value.hint)
    for layout in (one, other):
        named = load(tmp_path, for_training=False, format=tools.LAYOUTS[layout][0])
        assert tools.boxes(named) == tools.TRUTH


@pytest.mark.parametrize("layout", ["coco_roboflow", "yolo_ultralytics", "voc_devkit", "cvat_images"])
def test_a_folder_without_annotations_says_what_was_looked_for(layout: str, tmp_path: Path) -> None:
    tools.LAYOUTS[layout][1](tmp_path / "data")
    only_pictures = tmp_path / "pictures"
    only_pictures.mkdir()
    for path in (tmp_path / "data").rglob("*.png"):
        shutil.copy(path, only_pictures)
    with pytest.raises(DataError, match="no annotations that can be read") as caught:
        load(only_pictures)
    for name in ("coco", "yolo", "voc", "cvat-xml", "labelme", "csv"):
        assert f"{name}: no " in caught.value.message


@pytest.mark.parametrize(
    ("layout", "file"),
    [
        ("yolo_ultralytics", "data.yaml"),
        ("yolo_lists", "pets.yaml"),
        ("cvat_images", "annotations.xml"),
        ("csv_sizes", "boxes.csv"),
        ("coco_one", "all.json"),
    ],
)
def test_the_annotation_file_can_be_given_instead_of_its_folder(layout: str, file: str, tmp_path: Path) -> None:
    tools.LAYOUTS[layout][1](tmp_path)
    assert tools.boxes(load(tmp_path / file, for_training=False)) == tools.TRUTH


def test_one_xml_is_one_picture(tmp_path: Path) -> None:
    tools.voc_labelimg(tmp_path)
    dataset = load(tmp_path / "p0.xml", for_training=False)
    assert tools.boxes(dataset) == {"p0.png": tools.TRUTH["p0.png"]}


def test_a_table_that_is_no_annotation_does_not_disturb(tmp_path: Path) -> None:
    tools.coco_roboflow(tmp_path)
    tools.write(tmp_path / "results.csv", "epoch,loss\n1,2.5\n")
    tools.write(tmp_path / "notes.json", json.dumps({"written": "by hand"}))
    tools.write(tmp_path / "readme.xml", "<readme/>")
    tools.write(tmp_path / "conf.yaml", "names: [a]\n")
    assert tools.boxes(load(tmp_path, for_training=False)) == tools.TRUTH


@pytest.mark.parametrize(
    "layout", ["yolo_ultralytics", "yolo_flat", "voc_devkit", "voc_labelimg", "labelme_flat", "labelme_splits"]
)
def test_what_is_passed_over_for_a_hidden_name_is_counted_and_what_macos_leaves_is_not(
    layout: str, tmp_path: Path
) -> None:
    tools.LAYOUTS[layout][1](tmp_path)
    for path in list(tmp_path.rglob("p0.*")):
        path.with_name(f"._{path.name}").write_bytes(b"\x00\x05\x16\x07")
        path.rename(path.with_name(f".{path.name}"))
    for path in tmp_path.rglob("ImageSets/*/*.txt"):
        path.write_text(path.read_text().replace("p0", ".p0"))
    report = look(tmp_path)
    hidden = [finding for finding in report.findings if finding.code == "hidden-file"]
    assert [(finding.count, finding.images, finding.objects) for finding in hidden] == [
        (1, 1, len(tools.TRUTH["p0.png"]))
    ]
    assert "/.p0." in f"/{hidden[0].where}"
    assert report.images + report.images_left_out == len(tools.SHOTS)
    assert report.objects + report.objects_left_out == sum(map(len, tools.TRUTH.values()))
    assert "missing-annotation-file" not in codes(report)
    assert "hidden-file" in {finding.code for finding in look(tmp_path, policy="strict").refused}


def test_pictures_in_a_hidden_folder_are_counted_too(tmp_path: Path) -> None:
    tools.yolo_ultralytics(tmp_path)
    for name in (".trash", ".AppleDouble"):
        (tmp_path / "images" / "train" / name).mkdir()
        shutil.copy(tmp_path / "images" / "train" / "p0.png", tmp_path / "images" / "train" / name / "q.png")
    report = look(tmp_path)
    assert codes(report) == {"hidden-file": 1}
    assert report.findings[0].where == "images/train/.trash/q.png"
