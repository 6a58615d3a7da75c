"""CSV: columns by name, units never guessed, faults with their lines."""

from __future__ import annotations

from pathlib import Path

import pytest

import format_tools as tools
from data_tools import codes, first, load, look
from detloom.data.records import DataTree


def table(root: Path, *lines: str, name: str = "boxes.csv") -> None:
    for shot in tools.SHOTS[:2]:
        tools.paint(shot, root / shot.name)
    tools.write(root / name, "\n".join(lines) + "\n")


def box_of(root: Path, **data: str) -> list[float]:
    found: list[float] = load(root, for_training=False, **data).splits["all"].boxes[0].tolist()
    return found


@pytest.mark.parametrize(
    ("header", "row"),
    [
        ("filename,width,height,class,xmin,ymin,xmax,ymax", "p0.png,64,48,cat,4,5,24,15"),
        ("file,x1,y1,x2,y2,label", "p0.png,4,5,24,15,cat"),
        ("Image_Path,X_Min,Y_Min,X_Max,Y_Max,Class Name", "p0.png,4,5,24,15,cat"),
        ("label;left;top;right;bottom;file_name", "cat;4;5;24;15;p0.png"),
        ("image\tx\ty\tw\th\tcategory", "p0.png\t4\t5\t20\t10\tcat"),
        (
            "image,bbox_x,bbox_y,bbox_width,bbox_height,image_width,image_height,label_name",
            "p0.png,4,5,20,10,64,48,cat",
        ),
        (
            "label_name,bbox_x,bbox_y,bbox_width,bbox_height,image_name,image_width,image_height",
            "cat,4,5,20,10,p0.png,64,48",
        ),
        ("img,left,top,width,height,class", "p0.png,4,5,20,10,cat"),
        ("path,x_center,y_center,width,height,class", "p0.png,14,10,20,10,cat"),
        ("path,cx,cy,w,h,class", "p0.png,14,10,20,10,cat"),
        ('"filename","xmin","ymin","xmax","ymax","class"', '"p0.png","4.0","5.0","24.0","15.0","cat"'),
        ("﻿filename,xmin,ymin,xmax,ymax,class", "p0.png,4,5,24,15,cat"),
    ],
)
def test_columns_are_found_by_their_names(header: str, row: str, tmp_path: Path) -> None:
    table(tmp_path, header, row)
    assert box_of(tmp_path) == [4, 5, 24, 15]
    assert tools.findings(tools.records("csv", tmp_path)) == []


@pytest.mark.parametrize(
    ("header", "said"),
    [
        ("p0.png,4,5,24,15,cat", "no column for the file"),
        ("filename,xmin,ymin,xmax,ymax", "no column for the class"),
        ("filename,class,xmin,ymin", "no columns for a box"),
        ("nothing", "no names of columns"),
        ("", "no names of columns"),
    ],
)
def test_a_header_that_lacks_something_says_what(header: str, said: str, tmp_path: Path) -> None:
    table(tmp_path, header, "p0.png,4,5,24,15,cat")
    sniff = tools.reader("csv").sniff(DataTree(tmp_path))
    assert sniff.score == 0
    assert said in sniff.reason


# ---- units


def test_numbers_that_may_be_fractions_are_refused_until_the_unit_is_named(tmp_path: Path) -> None:
    table(tmp_path, "filename,xmin,ymin,xmax,ymax,class", "p0.png,0.25,0.25,0.75,1,cat")
    refused = look(tmp_path).refused
    assert "unit-unknown" in {finding.code for finding in refused}
    assert "data.csv.unit" in next(f.remedy for f in refused if f.code == "unit-unknown")
    assert box_of(tmp_path, format="csv", csv__unit="fractions") == [16, 12, 48, 48]
    pixels = look(tmp_path, format="csv", csv__unit="pixels")
    assert "box-below-pixel" in codes(pixels)


def test_numbers_above_one_are_pixels(tmp_path: Path) -> None:
    table(tmp_path, "filename,xmin,ymin,xmax,ymax,class", "p0.png,0,0,1,1,cat", "p0.png,0,0,20,10,cat")
    assert box_of(tmp_path) == [0, 0, 1, 1]


def test_open_images_has_fractions_and_groups(tmp_path: Path) -> None:
    tools.paint(tools.SHOTS[0], tmp_path / "p0.png")
    table(
        tmp_path,
        "ImageID,Source,LabelName,Confidence,XMin,XMax,YMin,YMax,IsOccluded,IsTruncated,IsGroupOf",
        "p0,x,/m/01yrx,1,0.25,0.75,0.25,1,0,0,1",
    )
    dataset = load(tmp_path, for_training=False)
    assert dataset.splits["all"].boxes.tolist() == [[16, 12, 48, 48]]
    assert dataset.splits["all"].crowd.tolist() == [True]
    assert "group-object" in {finding.code for finding in dataset.findings}


# ---- faults


@pytest.mark.parametrize(
    ("row", "code", "said"),
    [
        ("p0.png,64,48,cat,4,5,x,15", "bad-box-type", "xmax is 'x'"),
        ("p0.png,64,48,cat,4,5,,15", "bad-box-type", "xmax is ''"),
        ("p0.png,64,48,cat,4,5", "bad-line", "6 fields, at least 8"),
        ("p0.png,64,48,cat,4,5,24,15,9", "bad-line", "9 fields, and the first line names 8"),
        (",64,48,cat,4,5,24,15", "bad-record", "no file name"),
        ("p0.png,64,48,,4,5,24,15", "bad-record", "no class"),
        ("p0.png,64,48,cat,4,5,nan,15", "nan-box", "nan"),
        ("p0.png,64,48,cat,4,5,4,15", "degenerate-box", ""),
        ("p0.png,64,48,cat,4,5,90,15", "box-outside", ""),
        ("p0.png,32,48,cat,4,5,24,15", "bad-record", "another size"),
        ("p0.png,64,x,cat,4,5,24,15", "bad-size", "width and height"),
        ("../../p0.png,64,48,cat,4,5,24,15", "path-escape", "climbs out"),
        ("p7.png,64,48,cat,4,5,24,15", "missing-image", "p7.png"),
        ('"p0.png,64,48,cat,4,5,24,15', "bad-line", "fields"),
    ],
)
def test_a_fault_is_named_with_its_line(row: str, code: str, said: str, tmp_path: Path) -> None:
    header = "filename,width,height,class,xmin,ymin,xmax,ymax"
    table(tmp_path, header, "p0.png,64,48,dog,1,1,30,30", "p1.png,64,48,cat,1,1,30,30", row)
    report = look(tmp_path, split__val=0)
    finding = first(report, code)
    assert finding.where.startswith("boxes.csv:4"), finding
    assert said in finding.where
    assert report.dataset is not None
    assert {"p0.png", "p1.png"} == set(tools.boxes(report.dataset))


@pytest.mark.parametrize(("header", "row"), [("", ",, "), (",score,note", ",0.5,"), (",score", ",0.5")])
def test_columns_that_are_named_and_fields_that_are_empty_may_follow(header: str, row: str, tmp_path: Path) -> None:
    table(tmp_path, f"filename,xmin,ymin,xmax,ymax,class{header}", f"p0.png,4,5,24,15,cat{row}")
    assert box_of(tmp_path) == [4, 5, 24, 15]
    assert "bad-line" not in codes(look(tmp_path, split__val=0))


def test_spaces_inside_a_class_name_are_told_and_those_around_a_field_are_not(tmp_path: Path) -> None:
    rows = ("p0.png,4,5,24,15, cat", "p0.png,1,5,24,15,big  dog", "p1.png,4,5,24,15,big dog")
    table(tmp_path, "filename,xmin,ymin,xmax,ymax,class", *rows)
    report = look(tmp_path, split__val=0)
    assert first(report, "class-name-spaces").count == 1
    assert first(report, "class-name-spaces").where == "boxes.csv:3 ('big  dog', read as 'big dog')"
    assert report.dataset is not None and report.dataset.class_map.names == ("big dog", "cat")


def test_a_column_may_say_the_split(tmp_path: Path) -> None:
    tools.csv_sizes(tmp_path)
    path = tmp_path / "boxes.csv"
    path.write_text(path.read_text().replace(",train", ",TRAIN").replace(",val", ",night"))
    found = tools.records("csv", tmp_path)
    tools.assert_val_is_read_as_not_split(found)


def test_a_file_of_another_coding_is_named(tmp_path: Path) -> None:
    table(tmp_path, "filename,xmin,ymin,xmax,ymax,class", "p0.png,1,1,20,20,cat")
    (tmp_path / "boxes.csv").write_bytes(b"filename,xmin,ymin,xmax,ymax,class\np0.png,1,1,9,9,caf\xe9\n")
    assert tools.findings(tools.records("csv", tmp_path)) == [("text-encoding", "boxes.csv:2 (byte 53 is not UTF-8)")]


def test_a_field_of_a_gigabyte_is_a_finding(tmp_path: Path) -> None:
    table(tmp_path, "filename,xmin,ymin,xmax,ymax,class", f"p0.png,1,1,20,20,{'x' * 200_000}")
    assert [code for code, _ in tools.findings(tools.records("csv", tmp_path))] == ["bad-line", "empty-split"]
