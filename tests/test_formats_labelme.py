"""LabelMe: shapes by hand, masks pixel by pixel, faults with their places."""

from __future__ import annotations

import base64
import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageDraw
from pycocotools import mask as coco_mask

import format_tools as tools
from data_tools import codes, load, look
from detloom.data.masks import decode_rle
from detloom.data.records import ObjectRecord


def shape(kind: str, points: Any, label: Any = "cat", **more: Any) -> dict[str, Any]:
    return {"label": label, "points": points, "group_id": None, "shape_type": kind, "flags": {}, **more}


def one(root: Path, *shapes: Any, **top: Any) -> None:
    tools.paint(tools.SHOTS[0], root / "p0.png")
    document = {**tools.labelme_document(tools.SHOTS[0], "p0.png"), "shapes": list(shapes), **top}
    tools.write(root / "p0.json", json.dumps(document))


def only(root: Path) -> ObjectRecord:
    (thing,) = tools.objects(tools.records("labelme", root))
    return thing


def test_a_polygon_is_filled_as_pycocotools_fills_it(tmp_path: Path) -> None:
    one(tmp_path, shape("polygon", [[4, 6], [40.5, 6.25], [38, 36]]))
    truth = coco_mask.frPyObjects([[4, 6, 40.5, 6.25, 38, 36]], 48, 64)[0]
    split = load(tmp_path, for_training=False).splits["all"]
    assert split.rles[0]["counts"] == truth["counts"].decode()  # type: ignore[index]


@pytest.mark.parametrize(
    "points", [[[10, 5], [30, 25]], [[30, 25], [10, 5]], [[30, 5], [10, 25]], [[10, 5], [30, 5], [30, 25], [10, 25]]]
)
def test_a_rectangle_is_a_box_whichever_corners_are_written(points: Any, tmp_path: Path) -> None:
    one(tmp_path, shape("rectangle", points))
    assert only(tmp_path).bbox == [10, 5, 30, 25]
    assert only(tmp_path).segmentation is None


def test_a_circle_is_a_middle_and_a_point_on_it(tmp_path: Path) -> None:
    one(tmp_path, shape("circle", [[30, 20], [30, 35]]))
    split = load(tmp_path, for_training=False).splits["all"]
    assert split.area[0] == pytest.approx(np.pi * 15**2, rel=0.01)
    drawn = Image.new("L", (64, 48))
    ImageDraw.Draw(drawn).ellipse((15, 5, 44, 34), fill=1)
    ours = decode_rle(split.rles[0])  # type: ignore[arg-type]
    assert (np.asarray(drawn) & ours).sum() / (np.asarray(drawn) | ours).sum() > 0.95


def test_shapes_of_one_group_are_parts_of_one_object(tmp_path: Path) -> None:
    parts = [[[2, 2], [10, 2], [10, 10]], [[20, 20], [30, 20], [30, 30]]]
    one(
        tmp_path, *(shape("polygon", part, group_id=4) for part in parts), shape("polygon", parts[0], "dog", group_id=4)
    )
    found = tools.objects(tools.records("labelme", tmp_path))
    assert [(thing.class_name, len(thing.segmentation)) for thing in found] == [("cat", 2), ("dog", 1)]
    truth = coco_mask.merge(coco_mask.frPyObjects([[2, 2, 10, 2, 10, 10], [20, 20, 30, 20, 30, 30]], 48, 64))
    assert load(tmp_path, for_training=False).splits["all"].rles[0]["counts"] == truth["counts"].decode()  # type: ignore[index]


def test_a_mask_comes_back_pixel_by_pixel(tmp_path: Path) -> None:
    part = np.random.default_rng(3).integers(0, 2, (9, 14)).astype(bool)
    stream = io.BytesIO()
    Image.fromarray(part).save(stream, "PNG")
    text = base64.b64encode(stream.getvalue()).decode()
    one(tmp_path, shape("mask", [[20.0, 11.0], [33.0, 19.0]], mask=text))
    full = np.zeros((48, 64), dtype=np.uint8)
    full[11:20, 20:34] = part
    assert np.array_equal(decode_rle(only(tmp_path).segmentation), full)


def test_lines_and_points_are_counted_and_left_out(tmp_path: Path) -> None:
    one(
        tmp_path,
        shape("line", [[1, 1], [5, 5]]),
        shape("point", [[1, 1]]),
        shape("linestrip", [[1, 1], [5, 5], [9, 2]]),
        shape("rectangle", [[1, 1], [20, 20]]),
    )
    report = look(tmp_path, split__val=0)
    assert codes(report)["shape-not-read"] == 3
    where = next(f.where for f in report.findings if f.code == "shape-not-read")
    assert where.startswith("p0.json: shapes[0] ('line')")


@pytest.mark.parametrize(
    ("bad", "code", "said"),
    [
        (shape("polygon", [[1, 1], [5, 5]]), "bad-segmentation", "2 points"),
        (shape("polygon", [[1, 1], [5, "x"], [9, 9]]), "bad-segmentation", "no usable points"),
        (shape("polygon", None), "bad-segmentation", "no usable points"),
        (shape("polygon", [[1, 1], [5, 1e400], [9, 9]]), "bad-segmentation", "finite"),
        (shape("polygon", [[1, 1], [50, 500], [9, 9]]), "polygon-outside", ""),
        (shape("rectangle", [[1, 1]]), "bad-segmentation", "rectangle with 1 points"),
        (shape("rectangle", [[1, 1], [1, 9]]), "degenerate-box", ""),
        (shape("rectangle", [[-9, 1], [9, 9]]), "box-outside", ""),
        (shape("circle", [[1, 1], [5, 5], [9, 9]]), "bad-segmentation", "circle with 3"),
        (shape("rectangle", [[1, 1], [9, 9]], None), "bad-record", "label None"),
        (shape("rectangle", [[1, 1], [9, 9]], 7), "bad-record", "label 7"),
        ("no shape", "bad-record", "label None"),
        (shape("mask", [[1, 1], [9, 9]], mask="?"), "bad-segmentation", "mask"),
        (shape("mask", [[1, 1], [9, 9]]), "bad-segmentation", "no picture"),
        (shape([], [[1, 1], [9, 9]]), None, ""),
        (shape({"a": 1}, [[1, 1], [9, 9]]), "shape-not-read", ""),
    ],
)
def test_a_fault_in_a_shape_is_named_with_its_place(bad: Any, code: str | None, said: str, tmp_path: Path) -> None:
    one(tmp_path, shape("rectangle", [[10, 10], [20, 20]]), bad)
    report = look(tmp_path, split__val=0)
    found = [finding for finding in report.findings if finding.code == code]
    if code is None:  # without a kind it is a polygon, as in old files
        assert "bad-segmentation" in codes(report)
        return
    assert found, report.findings
    assert found[0].where.startswith("p0.json: shapes[1]")
    assert said in found[0].where
    assert report.dataset is not None
    assert [10, 10, 20, 20] in report.dataset.splits["train"].boxes.tolist()


@pytest.mark.parametrize(
    ("text", "code", "said"),
    [
        ("{", "json-syntax", "p0.json:1 (column 2"),
        ("[" * 100_000, "json-syntax", "p0.json"),
        ("[]", "bad-record", "no list `shapes`"),
        ('{"shapes": {}, "imagePath": "a"}', "bad-record", "no list `shapes`"),
        ('{"shapes": [], "imagePath": null}', "bad-record", "imagePath is None"),
        ('{"shapes": [], "imagePath": "../../x.png"}', "path-escape", "climbs out"),
        ('{"shapes": [], "imagePath": "gone.png"}', "missing-image", "gone.png"),
        ('{"shapes": [], "imagePath": "p0.png", "imageWidth": 32, "imageHeight": 48}', "size-mismatch", "32x48"),
    ],
)
def test_a_file_that_is_none_is_named(text: str, code: str, said: str, tmp_path: Path) -> None:
    tools.labelme_flat(tmp_path)
    (tmp_path / "p0.json").write_text(text)
    report = look(tmp_path, split__val=0, format="labelme")
    finding = next((finding for finding in report.findings if finding.code == code), None)
    assert finding is not None, report.findings
    assert said in finding.where
    assert report.dataset is not None
    assert len(report.dataset.splits["train"].labels) == 3, "the other pictures stay"


@pytest.mark.parametrize("path", ["C:\\Users\\me\\p0.png", "/home/me/p0.png", "../elsewhere/p0.png", "sub/p0.png"])
def test_a_path_of_another_machine_is_mended_and_that_is_said(path: str, tmp_path: Path) -> None:
    one(tmp_path, shape("rectangle", [[1, 1], [20, 20]]), imagePath=path)
    dataset = load(tmp_path, for_training=False)
    assert set(tools.boxes(dataset)) == {"p0.png"}
    assert [finding.severity for finding in dataset.findings if finding.code == "path-mended"] == ["info"]


def test_the_picture_inside_the_json_is_not_used(tmp_path: Path) -> None:
    one(tmp_path, shape("rectangle", [[1, 1], [20, 20]]), imageData="A" * 200_000)
    assert tools.boxes(load(tmp_path, for_training=False)) == {"p0.png": [("cat", (1, 1, 20, 20))]}
