"""YOLO labels: numbers by hand, faults with their lines, paths that lead elsewhere, masks to the pixel."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from pycocotools import mask as coco_mask

import format_tools as tools
from data_tools import codes, load, look
from detloom.data.records import DataTree, Finding, ImageRecord
from detloom_plugins.formats.yolo.outline import loops, outline


@pytest.fixture
def root(tmp_path: Path) -> Path:
    tools.yolo_ultralytics(tmp_path)
    return tmp_path


def label(root: Path, text: str, name: str = "train/p0.txt") -> Path:
    path = root / "labels" / name
    path.write_text(text, encoding="utf-8")
    return path


def settle(root: Path, **values: Any) -> None:
    """data.yaml with these keys changed; None takes one out."""
    document = yaml.safe_load((root / "data.yaml").read_text())
    document.update(values)
    kept = {key: value for key, value in document.items() if value is not None}
    (root / "data.yaml").write_text(yaml.safe_dump(kept), encoding="utf-8")


# ---- numbers


def test_a_box_is_a_class_a_centre_and_a_size_in_fractions(root: Path) -> None:
    label(root, "1 0.5 0.25 0.25 0.5\n")
    dataset = load(root)
    split = dataset.splits["train"]
    row = split.objects_of(0).start
    # 64 x 48 pixels: centre (32, 12), size 16 x 24.
    assert split.boxes[row].tolist() == [24.0, 0.0, 40.0, 24.0]
    assert dataset.class_map.names[split.labels[row]] == "dog"


def test_a_polygon_is_filled_as_pycocotools_fills_it(root: Path) -> None:
    label(root, "0 0.125 0.125 0.625 0.125 0.625 0.75 0.3 0.5\n")
    truth = coco_mask.frPyObjects([[8, 6, 40, 6, 40, 36, 19.2, 24]], 48, 64)[0]
    dataset = load(root)
    split = dataset.splits["train"]
    row = split.objects_of(0).start
    rle = split.rles[row]
    assert rle is not None
    assert rle["counts"] == truth["counts"].decode()
    assert split.area[row] == float(coco_mask.area(truth))
    x, y, w, h = coco_mask.toBbox(truth).tolist()
    assert split.boxes[row].tolist() == [x, y, x + w, y + h]
    assert dataset.has_masks


def test_boxes_and_polygons_may_stand_in_one_file_and_that_is_said(root: Path) -> None:
    label(root, "0 0.5 0.5 0.5 0.5\n1 0.1 0.1 0.6 0.1 0.6 0.7\n")
    report = look(root)
    assert codes(report) == {"partial-masks": 4}
    assert report.refused == []
    assert report.dataset is not None
    assert [rle is not None for rle in report.dataset.splits["train"].rles] == [False, True, False]


def test_an_empty_label_file_is_background_and_a_missing_one_too_with_a_warning(root: Path) -> None:
    label(root, "")
    (root / "labels" / "val" / "p2.txt").unlink()
    found = tools.records("yolo", root)
    assert tools.findings(found) == [("missing-label-file", "labels/val/p2.txt (for images/val/p2.png)")]
    assert [tools.images(found)[name].objects for name in ("p0.png", "p2.png")] == [(), ()]
    assert look(root).refused == []


def test_keypoints_of_a_pose_are_seen_and_the_box_is_used(root: Path) -> None:
    settle(root, kpt_shape=[2, 3])
    label(root, "0 0.5 0.5 0.25 0.5 0.4 0.4 2 0.6 0.6 1\n")
    (thing,) = tools.images(tools.records("yolo", root))["p0.png"].objects
    assert thing.keypoints
    assert thing.bbox == [0.375, 0.25, 0.625, 0.75]
    assert look(root).dataset.has_keypoints  # type: ignore[union-attr]


@pytest.mark.parametrize("text", ["0 .5 .5 .5 .5\r\n1 .25 .25 .5 .5\r\n", "﻿0 .5 .5 .5 .5\n\n\t1 .25 .25 .5 .5  "])
def test_line_ends_blanks_and_byte_order_marks_do_not_matter(text: str, root: Path) -> None:
    label(root, text)
    found = tools.records("yolo", root)
    assert tools.findings(found) == []
    assert [thing.bbox for thing in tools.images(found)["p0.png"].objects] == [
        [0.25, 0.25, 0.75, 0.75],
        [0, 0, 0.5, 0.5],
    ]


def test_a_box_on_a_turned_photograph_is_taken_as_upright(root: Path) -> None:
    path = root / "images" / "train" / "p0.png"
    path.unlink()
    exif = Image.Exif()
    exif[0x0112] = 6  # stored 64 x 48, shown 48 x 64
    Image.new("RGB", (64, 48)).save(path.with_suffix(".jpg"), exif=exif)
    label(root, "0 0.5 0.5 1 1\n")
    split = load(root).splits["train"]
    assert (split.images[0].width, split.images[0].height) == (48, 64)
    assert split.boxes[0].tolist() == [0, 0, 48, 64]


# ---- faults: (text of labels/train/p0.txt, code, line)


@pytest.mark.parametrize(
    ("text", "code", "line", "said"),
    [
        ("0 .5 .5 .5 .5\n2 .5 .5 .4 .4\n", "unknown-class", 2, "class 2"),
        ("-1 .5 .5 .5 .5\n", "unknown-class", 1, "class -1"),
        ("0.5 .5 .5 .5 .5\n", "bad-line", 1, "class index is 0.5"),
        ("nan .5 .5 .5 .5\n", "bad-line", 1, "class index is nan"),
        ("cat .5 .5 .5 .5\n", "bad-line", 1, "no number"),
        ("0 .5 .5 .5\n", "bad-line", 1, "4 numbers"),
        ("0 .5 .5 .5 .5\n0 .5 .5 .5 .5 .9\n", "bad-line", 2, "confidence"),
        ("0 .1 .1 .5 .1 .5 .5 .1\n", "bad-line", 1, "8 numbers"),
        ("0 0,5 0,5 0,1 0,1\n", "bad-line", 1, "no number"),
        ("0 32 24 16 12\n", "not-normalised", 1, "pixels"),
        ("0 .5 .5 nan .5\n", "nan-box", 1, "nan"),
        ("0 .5 .5 .5 inf\n", "nan-box", 1, "inf"),
        ("0 .5 .5 0 .5\n", "degenerate-box", 1, ""),
        ("0 .5 .5 -.2 .5\n", "degenerate-box", 1, ""),
        ("0 .9 .5 .5 .5\n", "box-outside", 1, ""),
        ("0 1.5 .5 .2 .2\n", "box-off-image", 1, ""),
        ("0 .1 .1 1.5 .1 .5 .5\n", "polygon-outside", 1, ""),
        ("0 .1 .1 nan .1 .5 .5\n", "bad-segmentation", 1, ""),
        ("0 .1 .1 .1 .1 .1 .1\n", "empty-mask", 1, ""),
    ],
)
def test_a_fault_in_a_line_is_named_with_its_line(text: str, code: str, line: int, said: str, root: Path) -> None:
    label(root, text)
    report = look(root)
    finding = next(finding for finding in report.findings if finding.code == code)
    assert finding.where.startswith(f"labels/train/p0.txt:{line}"), finding
    assert said in finding.where
    others = set(codes(report)) - {code, "partial-masks"}
    assert others <= {"class-missing-in-split"}, report.findings
    assert report.dataset is not None
    assert len(report.dataset.splits["val"].labels) == 2, "nothing else is lost"


def test_the_same_line_twice_is_kept_once(root: Path) -> None:
    label(root, "0 .5 .5 .5 .5\n0 .5 .5 .5 .5\n")
    assert codes(look(root)) == {"duplicate-box": 1, "class-missing-in-split": 1}


def test_a_label_file_in_another_coding_leaves_its_image_out_rather_than_making_it_background(root: Path) -> None:
    (root / "labels" / "train" / "p0.txt").write_bytes(b"0 .5 .5 .5 .5\n# caf\xe9\n")
    found = tools.records("yolo", root)
    assert tools.findings(found) == [("text-encoding", "labels/train/p0.txt:2 (byte 19 is not UTF-8)")]
    assert "p0.png" not in tools.images(found)


def test_a_label_without_an_image_is_an_error_that_names_it(root: Path) -> None:
    (root / "images" / "val" / "p2.png").unlink()
    report = look(root)
    assert [f.where for f in report.refused] == ["labels/val/p2.txt"]
    assert report.refused[0].code == "label-without-image"


def test_pictures_that_a_list_names_and_that_are_not_there_are_missing_images(tmp_path: Path) -> None:
    tools.yolo_lists(tmp_path)
    (tmp_path / "images" / "p1.png").unlink()
    report = look(tmp_path)
    assert codes(report) == {"missing-image": 1}
    assert "train.txt: ./images/p1.png" in report.refused[0].where


@pytest.mark.parametrize(
    ("values", "code", "where"),
    [
        ({"nc": 3}, "class-count", "data.yaml:"),
        ({"names": ["cat", "cat"]}, "duplicate-class-name", "data.yaml:"),
        ({"names": ["cat", ""]}, "bad-record", "data.yaml:"),
        ({"names": None}, "no-classes", ""),
        ({"names": {"x": "cat"}}, "bad-record", "data.yaml:"),
        ({"names": "cat"}, "bad-record", "data.yaml:"),
        ({"val": "images/elsewhere"}, "missing-folder", "data.yaml:"),
    ],
)
def test_a_fault_in_the_description_is_named(values: dict[str, Any], code: str, where: str, root: Path) -> None:
    settle(root, **values)
    # Without names or places it may still be said what is wrong, where the format is named.
    report = look(root, format="yolo")
    finding = next(finding for finding in report.refused if finding.code == code)
    assert finding.where.startswith(where)


def test_a_description_that_names_only_classes_leaves_the_places_to_the_folders(root: Path) -> None:
    settle(root, path=None, train=None, val=None)
    assert tools.boxes(load(root)) == tools.TRUTH


def test_class_names_are_text_however_yaml_likes_to_read_them(root: Path) -> None:
    text = "train: images/train\nval: images/val\nnames:\n  0: no\n  1: 2020-01-01\n  7: 1e3\n"
    (root / "data.yaml").write_text(text)
    assert load(root).class_map.names == ("no", "2020-01-01", "1e3")
    assert load(root).class_map.ids == (0, 1, 7)


# ---- places


def test_a_path_of_another_machine_is_mended_and_that_is_said(root: Path) -> None:
    found = [item for item in tools.records("yolo", root) if isinstance(item, Finding)]
    assert {(item.code, item.severity) for item in found} == {("path-mended", "info")}
    assert "'images/train' is images/train" in found[0].where


@pytest.mark.parametrize("entry", ["../outside/images", "{outside}/images"])
def test_a_path_out_of_the_data_is_refused(entry: str, tmp_path: Path) -> None:
    outside, root = tmp_path / "outside", tmp_path / "data"
    tools.yolo_ultralytics(root)
    shutil.copytree(root / "images" / "train", outside / "images")
    settle(root, path=None, train=entry.format(outside=outside))
    report = look(root)
    assert [finding.code for finding in report.refused] == ["no-training-split", "path-escape"]
    assert "data.yaml:" in report.refused[1].where


@pytest.mark.parametrize(
    "text",
    [
        "path: ../mine\ntrain: images/train\nval: images/val\n",
        "path: {mine}\ntrain: images/train\nval: images/val\n",
        "train: {mine}/images/train\nval: [{mine}/images/val]\n",
        "train: ../mine/images/train\nval: ../mine/images/val\n",
        "train: images/train\nval: images/val\n",
    ],
)
def test_a_description_elsewhere_reads_the_folder_that_is_named_beside_it_and_no_other(
    text: str, tmp_path: Path
) -> None:
    mine, other = tmp_path / "mine", tmp_path / "other"
    tools.yolo_ultralytics(mine)
    (mine / "data.yaml").unlink()
    other.mkdir()
    (other / "pets.yaml").write_text(text.format(mine=mine) + "names: [cat, dog]\n")
    refused = look(other / "pets.yaml").refused
    if "mine" in text:
        (finding,) = [finding for finding in refused if finding.code == "path-escape"]
        assert f"allow it with --images {mine})" in finding.where
    dataset = load(other / "pets.yaml", local__images=str(mine))
    assert tools.boxes(dataset) == {name: list(objects) for name, objects in tools.TRUTH.items()}
    (mine / "images" / "val" / "p3.png").unlink()
    secret = tmp_path / "secret.png"
    tools.paint(tools.SHOTS[3], secret)
    (mine / "images" / "val" / "p3.png").symlink_to(secret)
    assert codes(look(other / "pets.yaml", local__images=str(mine)))["path-escape"] == 1


def test_links_out_of_the_data_are_refused_and_links_inside_are_followed(tmp_path: Path) -> None:
    root = tmp_path / "data"
    tools.yolo_ultralytics(root)
    secret = tmp_path / "secret.png"
    Image.new("RGB", (64, 48), "red").save(secret)
    (root / "images" / "train" / "p0.png").unlink()
    (root / "images" / "train" / "p0.png").symlink_to(secret)
    (root / "store").mkdir()
    (root / "images" / "val" / "p2.png").rename(root / "store" / "p2.png")
    (root / "images" / "val" / "p2.png").symlink_to(root / "store" / "p2.png")
    (root / "images" / "val" / "again").symlink_to(root / "images", target_is_directory=True)
    found = tools.records("yolo", root)
    assert [code for code, _ in tools.findings(found)][:1] == ["path-escape"]
    assert all(
        "p0.png" not in str(item.path) for item in found if isinstance(item, ImageRecord) and item.split == "train"
    )
    assert tools.images(found)["p2.png"].path is not None


def test_a_label_file_that_is_a_link_out_of_the_data_is_not_read(tmp_path: Path) -> None:
    root = tmp_path / "data"
    tools.yolo_ultralytics(root)
    (tmp_path / "secret.txt").write_text("0 .5 .5 .5 .5\n")
    path = root / "labels" / "train" / "p0.txt"
    path.unlink()
    path.symlink_to(tmp_path / "secret.txt")
    found = tools.records("yolo", root)
    assert [code for code, _ in tools.findings(found)] == ["path-escape"]
    assert "p0.png" not in tools.images(found)


def test_the_nearest_folder_called_images_is_the_one_that_becomes_labels(tmp_path: Path) -> None:
    """As in `images/batch/images/a.png`; and a folder `images` above the data is none of theirs."""
    root = tmp_path / "images" / "data"
    for shot in tools.SHOTS:
        tools.paint(shot, root / "images" / "batch" / "images" / shot.name)
        tools.write(root / "images" / "batch" / "labels" / f"{Path(shot.name).stem}.txt", tools.yolo_text(shot))
    tools.write(root / "data.yaml", "train: images\nnames: [cat, dog]\n")
    assert tools.boxes(load(root, for_training=False)) == tools.TRUTH


def test_a_list_of_folders_and_lists_is_read_whole(root: Path) -> None:
    shutil.move(str(root / "images" / "train" / "p1.png"), str(root / "images" / "more.png"))
    tools.write(root / "labels" / "more.txt", tools.yolo_text(tools.SHOTS[1]))
    tools.write(root / "more.txt", "/home/somebody/datasets/mine/images/more.png\n")
    (root / "labels" / "train" / "p1.txt").unlink()
    settle(root, train=["images/train", "more.txt"])
    assert set(tools.boxes(load(root))) == {"p0.png", "more.png", "p2.png", "p3.png"}


# ---- oriented boxes


def test_oriented_boxes_are_recognised_and_refused_with_a_reason(root: Path) -> None:
    label(root, "0 .3 .1 .5 .3 .3 .5 .1 .3\n")
    for name in ("train/p1.txt", "val/p2.txt"):
        label(root, "1 .2 .2 .4 .3 .35 .45 .15 .35\n", name)
    report = look(root)
    assert [finding.code for finding in report.refused] == ["no-images", "oriented-boxes"]
    assert "export upright boxes or polygons" in report.refused[1].remedy
    assert "oriented" in tools.reader("yolo").sniff(DataTree(root)).reason


def test_polygons_of_four_corners_are_no_oriented_boxes(root: Path) -> None:
    label(root, "0 .1 .1 .5 .1 .5 .5 .1 .5\n")
    for name in ("train/p1.txt", "val/p2.txt"):
        label(root, "1 .2 .2 .4 .3 .5 .45 .15 .35\n", name)
    assert look(root).refused == []


def test_a_description_may_say_that_boxes_are_oriented(root: Path) -> None:
    settle(root, task="obb")
    assert "oriented-boxes" in {finding.code for finding in look(root).refused}


# ---- what is written


@settings(max_examples=80, deadline=None)
@given(seed=st.integers(0, 10**6), height=st.integers(1, 30), width=st.integers(1, 30), dense=st.floats(0.05, 0.95))
def test_an_outline_fills_to_the_mask_that_it_was_made_from(seed: int, height: int, width: int, dense: float) -> None:
    """Any mask, with holes and scattered parts; filled by pycocotools after a trip through fractions as text."""
    mask = (np.random.default_rng(seed).random((height, width)) < dense).astype(np.uint8)
    corners = outline(mask)
    if not mask.any():
        assert len(corners) == 0
        return
    place, size = np.array([100, 50]), np.array([641, 479])
    texts = [f"{value:.12g}" for value in ((corners + place) / size).ravel()]
    polygon = (np.array(list(map(float, texts))).reshape(-1, 2) * size).ravel().tolist()
    full = np.zeros((479, 641), dtype=np.uint8)
    full[50 : 50 + height, 100 : 100 + width] = mask
    filled = coco_mask.merge(coco_mask.frPyObjects([polygon], 479, 641))
    assert filled["counts"] == coco_mask.encode(np.asfortranarray(full))["counts"]


def test_a_square_has_four_corners_and_a_ring_two_loops() -> None:
    square = np.ones((3, 3), dtype=np.uint8)
    assert loops(square) == [[(0, 0), (3, 0), (3, 3), (0, 3)]]
    square[1, 1] = 0
    assert sorted(map(len, loops(square))) == [4, 4]
