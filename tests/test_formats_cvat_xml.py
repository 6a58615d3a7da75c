"""CVAT XML: shapes against numbers by hand and masks against arrays; tracks; faults with their lines."""

from __future__ import annotations

from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageDraw
from pycocotools import mask as coco_mask

import format_tools as tools
from data_tools import codes, first, load, look
from detloom.data.masks import decode_rle
from detloom.data.records import DataTree, ObjectRecord


def one(root: Path, body: str, size: str = 'width="64" height="48"') -> None:
    """An export of one image with these shapes."""
    tools.paint(tools.SHOTS[0], root / "images" / "p0.png")
    tools.write(
        root / "annotations.xml", tools.cvat_document(f'<image id="0" name="p0.png" {size}>\n{body}\n</image>\n')
    )


def only(root: Path) -> ObjectRecord:
    (thing,) = tools.objects(tools.records("cvat-xml", root))
    return thing


def cvat_runs(mask: np.ndarray) -> str:
    """As CVAT writes them: along rows, beginning with the background."""
    runs = [(value, len(list(group))) for value, group in groupby(mask.ravel().tolist())]
    return ", ".join(map(str, ([0] if runs[0][0] else []) + [count for _, count in runs]))


# ---- shapes


def test_a_polygon_is_filled_as_pycocotools_fills_it(tmp_path: Path) -> None:
    one(tmp_path, '<polygon label="cat" points="4.00,6.00;40.50,6.25;38.00,36.00" z_order="0"></polygon>')
    truth = coco_mask.frPyObjects([[4, 6, 40.5, 6.25, 38, 36]], 48, 64)[0]
    split = load(tmp_path, for_training=False).splits["all"]
    assert split.rles[0]["counts"] == truth["counts"].decode()  # type: ignore[index]
    assert split.area[0] == float(coco_mask.area(truth))


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 10**6),
    box=st.tuples(st.integers(0, 60), st.integers(0, 44), st.integers(1, 64), st.integers(1, 48)),
)
def test_a_mask_comes_back_pixel_by_pixel(
    seed: int, box: tuple[int, int, int, int], tmp_path_factory: pytest.TempPathFactory
) -> None:
    left, top = box[0], box[1]
    width, height = min(box[2], 64 - left), min(box[3], 48 - top)
    part = np.random.default_rng(seed).integers(0, 2, (height, width))
    root = tmp_path_factory.mktemp("mask")
    place = f'left="{left}" top="{top}" width="{width}" height="{height}"'
    one(root, f'<mask label="dog" rle="{cvat_runs(part)}" {place} z_order="0"></mask>')
    full = np.zeros((48, 64), dtype=np.uint8)
    full[top : top + height, left : left + width] = part
    assert np.array_equal(decode_rle(only(root).segmentation), full)


def test_a_rotated_box_is_read_as_the_upright_box_around_it_and_that_is_said(tmp_path: Path) -> None:
    # 20 x 10 around (30, 20), a quarter turn: 10 x 20 around the same middle.
    one(tmp_path, '<box label="cat" xtl="20" ytl="15" xbr="40" ybr="25" rotation="90.00"></box>')
    dataset = load(tmp_path, for_training=False)
    assert dataset.splits["all"].boxes[0].tolist() == pytest.approx([25, 10, 35, 30])
    assert [f.where for f in dataset.findings if f.code == "rotated-box"] == ["annotations.xml:12 (90 degrees)"]


def test_a_box_rotated_by_an_eighth_reaches_as_far_as_its_corners(tmp_path: Path) -> None:
    one(tmp_path, '<box label="cat" xtl="20" ytl="10" xbr="40" ybr="30" rotation="45"></box>')
    half = 10 * 2**0.5
    assert only(tmp_path).bbox == pytest.approx([30 - half, 20 - half, 30 + half, 20 + half])


def test_an_ellipse_becomes_the_mask_of_an_ellipse(tmp_path: Path) -> None:
    one(tmp_path, '<ellipse label="cat" cx="32" cy="24" rx="20" ry="10" rotation="0"></ellipse>')
    split = load(tmp_path, for_training=False).splits["all"]
    assert split.area[0] == pytest.approx(np.pi * 20 * 10, rel=0.02)
    assert split.boxes[0].tolist() == pytest.approx([12, 14, 52, 34], abs=0.6)
    drawn = Image.new("L", (64, 48))
    ImageDraw.Draw(drawn).ellipse((12, 14, 51, 33), fill=1)
    ours = decode_rle(split.rles[0])  # type: ignore[arg-type]
    both = np.asarray(drawn) & ours
    assert both.sum() / (np.asarray(drawn) | ours).sum() > 0.96


def test_shapes_that_are_neither_box_nor_mask_are_counted(tmp_path: Path) -> None:
    shapes = (
        '<polyline label="cat" points="1,1;5,5"></polyline><points label="cat" points="1,1"></points>'
        '<cuboid label="cat"></cuboid><skeleton label="cat"><points label="nose" points="1,1"></points></skeleton>'
        '<tag label="cat"></tag>'
        '<box label="cat" xtl="1" ytl="2" xbr="30" ybr="40"><attribute name="age">3</attribute></box>'
    )
    one(tmp_path, shapes)
    report = look(tmp_path, split__val=0)
    assert codes(report)["shape-not-read"] == 5
    assert report.dataset is not None
    assert len(report.dataset.splits["train"].labels) == 1


def test_labels_without_objects_are_classes_too_and_parts_of_skeletons_are_not(tmp_path: Path) -> None:
    one(tmp_path, '<box label="cat" xtl="1" ytl="2" xbr="30" ybr="40"></box>')
    path = tmp_path / "annotations.xml"
    part = "<label><name>nose</name><type>points</type><parent>dog</parent></label></labels>"
    path.write_text(path.read_text().replace("</labels>", part))
    assert load(tmp_path, for_training=False).class_map.names == ("cat", "dog")


# ---- faults


@pytest.mark.parametrize(
    ("shape", "code", "said"),
    [
        ('<box label="cat" xtl="1" ytl="2" xbr="x" ybr="9"></box>', "bad-box-type", "xbr is 'x'"),
        ('<box label="cat" xtl="1" ytl="2" ybr="9"></box>', "bad-box-type", "no xbr"),
        ('<box label="cat" xtl="nan" ytl="2" xbr="5" ybr="9"></box>', "nan-box", "nan"),
        ('<box label="cat" xtl="9" ytl="2" xbr="5" ybr="9"></box>', "degenerate-box", ""),
        ('<box label="cat" xtl="-9" ytl="2" xbr="5" ybr="9"></box>', "box-outside", ""),
        ('<box label="bird" xtl="1" ytl="2" xbr="5" ybr="9"></box>', "unknown-class", "bird"),
        ('<box xtl="1" ytl="2" xbr="5" ybr="9"></box>', "bad-record", "without a label"),
        ('<polygon label="cat" points="1,1;5,5"></polygon>', "bad-segmentation", "at least 6"),
        ('<polygon label="cat" points="1,1;5;9,9"></polygon>', "bad-segmentation", "'5'"),
        ('<polygon label="cat" points=""></polygon>', "bad-segmentation", "''"),
        ('<polygon label="cat" points="1,1;90,5;9,9"></polygon>', "polygon-outside", ""),
        ('<mask label="cat" rle="1, 3" left="0" top="0" width="2" height="1"></mask>', "bad-segmentation", "sum to 4"),
        ('<mask label="cat" rle="-1, 3" left="0" top="0" width="2" height="1"></mask>', "bad-segmentation", "whole"),
        (
            '<mask label="cat" rle="0, 4" left="63" top="0" width="2" height="2"></mask>',
            "bad-segmentation",
            "does not fit",
        ),
        ('<mask label="cat" rle="0, 4" left="0" top="0" width="2"></mask>', "bad-segmentation", "no height"),
        ('<mask label="cat" rle="" left="0" top="0" width="2" height="2"></mask>', "bad-segmentation", "whole"),
        ('<mask label="cat" rle="0, 1e9" left="0" top="0" width="1e999" height="2"></mask>', "bad-segmentation", ""),
        ('<mask label="cat" rle="4" left="0" top="0" width="2" height="2"></mask>', "empty-mask", ""),
        ('<box label="cat"><box>', "xml-syntax", "mismatched"),
    ],
)
def test_a_fault_in_a_shape_is_named_with_its_line(shape: str, code: str, said: str, tmp_path: Path) -> None:
    one(tmp_path, f'<box label="dog" xtl="1" ytl="2" xbr="30" ybr="40"></box>\n{shape}')
    report = look(tmp_path, split__val=0)
    finding = first(report, code)
    assert said in finding.where
    text = (tmp_path / "annotations.xml").read_text()
    line = text[: text.index(shape)].count("\n") + 1 + (code == "xml-syntax")  # the tag that does not match is the next
    assert f"{finding.where} ".startswith(f"annotations.xml:{line} "), finding


def test_a_mask_cannot_ask_for_more_memory_than_a_picture(tmp_path: Path) -> None:
    body = '<mask label="cat" rle="0, 4" left="0" top="0" width="2" height="2"></mask>'
    one(tmp_path, body, 'width="900000000" height="900000000"')
    assert "bad-segmentation" in {finding.code for finding in look(tmp_path, split__val=0).refused}


@pytest.mark.parametrize(
    ("name", "code"),
    [
        ("../../secret.png", "path-escape"),
        ("/etc/passwd", "path-escape"),
        ("p7.png", "missing-image"),
        ("", "bad-record"),
    ],
)
def test_a_file_name_that_is_none_is_named(name: str, code: str, tmp_path: Path) -> None:
    one(tmp_path, "")
    path = tmp_path / "annotations.xml"
    path.write_text(path.read_text().replace('name="p0.png"', f'name="{name}"'))
    (finding,) = (finding for finding in look(tmp_path, split__val=0).refused if finding.code == code)
    assert finding.where.startswith("annotations.xml:11 ")


def test_a_subset_of_another_name_is_read_as_not_split_and_that_is_said(tmp_path: Path) -> None:
    tools.cvat_project(tmp_path)
    path = tmp_path / "annotations.xml"
    path.write_text(path.read_text().replace('subset="Validation"', 'subset="Night"'))
    (tmp_path / "images" / "Validation").rename(tmp_path / "images" / "Night")
    found = tools.records("cvat-xml", tmp_path)
    tools.assert_val_is_read_as_not_split(found)


def test_several_tasks_side_by_side_are_read_together_even_with_the_same_file_names(tmp_path: Path) -> None:
    for name in ("task_1", "task_2"):
        tools.cvat_images(tmp_path / name)
    dataset = load(tmp_path, for_training=False)
    assert len(dataset.splits["all"]) == 8
    assert {image.path.parent.parent.name for image in dataset.splits["all"].images} == {"task_1", "task_2"}


# ---- videos


def track(*shapes: str, label: str = "cat") -> str:
    return f'<track id="0" label="{label}" source="manual">\n' + "\n".join(shapes) + "\n</track>\n"


def box(frame: int, x: float, outside: int = 0) -> str:
    place = f'xtl="{x}" ytl="2" xbr="{x + 10}" ybr="12"'
    return f'<box frame="{frame}" keyframe="0" outside="{outside}" occluded="0" {place}></box>'


def video(root: Path, body: str, frames: range = range(4)) -> None:
    for number in frames:
        tools.paint(tools.Shot("", "", number, ()), root / "images" / f"frame_{number:06d}.png")
    tools.write(root / "annotations.xml", tools.cvat_document(body))


def test_a_track_is_where_it_is_written_and_gone_where_it_is_outside(tmp_path: Path) -> None:
    video(tmp_path, track(box(0, 1), box(1, 2), box(2, 2, outside=1)) + track(box(1, 30), label="dog"))
    read: dict[str, Any] = {
        name: image.objects for name, image in tools.images(tools.records("cvat-xml", tmp_path)).items()
    }
    assert [(t.class_name, t.bbox[0]) for t in read["frame_000000.png"]] == [("cat", 1)]
    assert [(t.class_name, t.bbox[0]) for t in read["frame_000001.png"]] == [("cat", 2), ("dog", 30)]
    assert read["frame_000002.png"] == read["frame_000003.png"] == ()


def test_frames_that_are_not_there_are_named(tmp_path: Path) -> None:
    video(tmp_path, track(box(0, 1), box(7, 2), box(9, 3)))
    assert tools.findings(tools.records("cvat-xml", tmp_path)) == [
        ("video-without-frames", "annotations.xml: frames 7, 9")
    ]
    assert "frames of a video" in str(look(tmp_path).refused)


@pytest.mark.parametrize("shape", ['<box outside="0" xtl="1" ytl="2" xbr="3" ybr="4"></box>', box(-1, 2)])
def test_a_shape_of_a_track_needs_a_frame(shape: str, tmp_path: Path) -> None:
    video(tmp_path, track(box(0, 1), shape))
    assert tools.findings(tools.records("cvat-xml", tmp_path)) == [
        ("bad-record", "annotations.xml:13 (a shape of a track without a frame)")
    ]


def test_a_mask_in_a_track_has_the_size_of_the_video(tmp_path: Path) -> None:
    mask = '<mask frame="1" outside="0" rle="0, 6" left="3" top="4" width="3" height="2"></mask>'
    video(tmp_path, track(mask))
    truth = np.zeros((48, 64), dtype=np.uint8)
    truth[4:6, 3:6] = 1
    assert np.array_equal(decode_rle(only(tmp_path).segmentation), truth)


# ---- as a stream


def test_an_image_is_given_as_soon_as_it_ends(tmp_path: Path) -> None:
    """The first images of a file whose end is broken are there before the fault is found."""
    body = "".join(
        f'<image id="{n}" name="p{n}.png" width="64" height="48">\n'
        '<box label="cat" xtl="1" ytl="1" xbr="9" ybr="9"/>\n</image>\n'
        for n in range(20_000)
    )
    tools.write(tmp_path / "annotations.xml", tools.cvat_document(body)[:-5])
    stream = tools.reader("cvat-xml").read(DataTree(tmp_path))
    seen = [next(stream) for _ in range(5)]
    assert type(seen[-1]).__name__ == "ImageRecord"
    rest = list(stream)
    assert rest[-1].code == "xml-syntax"  # type: ignore[union-attr]
    assert len(seen) + len(rest) == 2 + 20_000 + 1
