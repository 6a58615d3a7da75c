"""Pascal VOC: how pixels are counted, what difficult means, where files are looked for, and faults with their lines."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest
from PIL import Image

import format_tools as tools
from data_tools import codes, load, look
from detloom.data.masks import decode_rle
from detloom.data.records import DataTree, Finding


@pytest.fixture
def root(tmp_path: Path) -> Path:
    tools.voc_devkit(tmp_path, ".")
    return tmp_path


def change(root: Path, old: str, new: str, name: str = "p0") -> None:
    path = root / "Annotations" / f"{name}.xml"
    text = path.read_text(encoding="utf-8")
    assert old in text
    path.write_text(text.replace(old, new, 1), encoding="utf-8")


def first_box(root: Path, **settings: str) -> list[float]:
    found = tools.records("voc", root, **settings)
    return list(tools.images(found)["p0.png"].objects[0].bbox or ())


# ---- pixels


def test_boxes_are_corners_from_zero_as_most_tools_write_them(root: Path) -> None:
    assert first_box(root) == [4, 5, 24, 15]


@pytest.mark.parametrize(
    "source", ["<annotation>PASCAL VOC2007</annotation>", "<database>The VOC2012 Database</database>"]
)
def test_files_of_the_challenges_count_from_one_and_include_the_last_pixel(source: str, root: Path) -> None:
    """In coordinates a box (xmin=1, xmax=W) covers the picture: only xmin and ymin move."""
    change(root, "<database>Unknown</database>", source)
    assert first_box(root) == [3, 4, 24, 15]
    report = look(root)
    assert [finding.where for finding in report.findings if finding.code == "pixels-from-one"] == ["Annotations/p0.xml"]


def test_the_way_of_counting_can_be_set(root: Path) -> None:
    assert first_box(root, pixels="from-one") == [3, 4, 24, 15]
    change(root, "<database>Unknown</database>", "<annotation>PASCAL VOC2007</annotation>")
    assert first_box(root, pixels="corners") == [4, 5, 24, 15]
    by_configuration = load(root, format="voc", voc__pixels="from-one")
    assert by_configuration.splits["train"].boxes[0].tolist() == [3, 4, 24, 15]


# ---- difficult


def test_a_difficult_object_is_neither_trained_on_nor_counted_as_missed(root: Path) -> None:
    change(root, "<difficult>0</difficult>", "<difficult>1</difficult>")
    dataset = load(root)
    assert dataset.splits["train"].crowd.tolist() == [True, False, False]
    assert [f.where for f in dataset.findings if f.code == "difficult-object"] == ["Annotations/p0.xml:6"]
    assert not load(root, format="voc", voc__difficult="keep").splits["train"].crowd.any()


# ---- faults


@pytest.mark.parametrize(
    ("old", "new", "code", "line", "said"),
    [
        ("<xmax>24</xmax>", "<xmax>twenty</xmax>", "bad-box-type", 6, "xmax is 'twenty'"),
        ("<ymin>5</ymin>", "", "bad-box-type", 6, "no ymin"),
        ("<xmin>4</xmin>", "<xmin>nan</xmin>", "nan-box", 6, "nan"),
        ("<xmax>24</xmax>", "<xmax>4</xmax>", "degenerate-box", 6, ""),
        ("<xmax>24</xmax>", "<xmax>70</xmax>", "box-outside", 6, ""),
        ("<name>cat</name>", "<name> </name>", "bad-record", 6, "without a name"),
        ("<name>dog</name>", "", "bad-record", 11, "without a name"),
        ("<bndbox><xmin>4</xmin>", "<robndbox><cx>3</cx></robndbox><box><xmin>4</xmin>", "xml-syntax", 9, "mismatched"),
        ("<width>64</width>", "<width>32</width>", "size-mismatch", None, "32x48"),
        ("<width>64</width>", "<width>0</width>", "bad-size", 5, "width and height"),
        ("<filename>p0.png</filename>", "<filename>../../p0.png</filename>", "path-escape", None, "climbs out"),
        ("<filename>p0.png</filename>", "<filename>/etc/passwd</filename>", "path-escape", None, "absolute"),
        ("<filename>p0.png</filename>", "<filename>p1.png</filename>", "name-conflict", None, "p1.png and p0.png"),
        ("</annotation>", "", "xml-syntax", 17, "no element found"),
        ("<object>", "<object><object>", "xml-syntax", 16, "mismatched tag"),
        ("<annotation>\n", "", "xml-syntax", 2, "junk"),
    ],
)
def test_a_fault_is_named_with_its_line(old: str, new: str, code: str, line: int | None, said: str, root: Path) -> None:
    change(root, old, new)
    report = look(root)
    finding = next((finding for finding in report.findings if finding.code == code), None)
    assert finding is not None, report.findings
    place = "Annotations/p0.xml" if line is None else f"Annotations/p0.xml:{line}"
    assert finding.where.startswith(place), finding
    assert said in finding.where
    assert report.dataset is not None
    assert len(report.dataset.splits["val"].labels) == 2, "nothing else is lost"


def test_an_oriented_box_is_counted_and_left_out(root: Path) -> None:
    path = root / "Annotations" / "p0.xml"
    text = path.read_text().replace("bndbox>", "robndbox>", 2)
    path.write_text(text)
    assert codes(look(root))["shape-not-read"] == 1


def test_the_digital_bombs_of_xml_are_not_unfolded(root: Path) -> None:
    bomb = '<!DOCTYPE a [<!ENTITY a "ha"><!ENTITY b "&a;&a;">]>\n'
    change(root, "<annotation>", bomb + "<annotation>")
    change(root, "<name>cat</name>", "<name>&b;</name>")
    (finding,) = look(root).refused
    assert finding.code == "xml-syntax"
    assert "entities" in finding.where


def test_nothing_outside_is_fetched_by_an_xml(root: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    secret = tmp_path_factory.mktemp("secret") / "name.txt"
    secret.write_text("stolen")
    change(root, "<annotation>", f'<!DOCTYPE a [<!ENTITY x SYSTEM "{secret.as_uri()}">]>\n<annotation>')
    change(root, "<name>cat</name>", "<name>&x;</name>")
    report = look(root)
    assert "stolen" not in str(report)
    assert [finding.code for finding in report.refused] == ["xml-syntax"]


# ---- places


def test_without_a_file_name_the_picture_is_the_one_called_like_the_xml(root: Path) -> None:
    change(root, "<filename>p0.png</filename>", "")
    change(root, "<filename>p1.png</filename>", "<filename>IMG_0001.JPG</filename>", "p1")
    assert tools.boxes(load(root)) == tools.TRUTH
    mended = [item for item in tools.records("voc", root) if isinstance(item, Finding)]
    assert [(item.code, item.where) for item in mended] == [
        ("path-mended", "Annotations/p1.xml ('IMG_0001.JPG' is p1.png)")
    ]


def test_lists_of_splits_say_what_is_used(root: Path) -> None:
    main = root / "ImageSets" / "Main"
    (main / "train.txt").write_text("p0  1\np9\n")
    found = tools.records("voc", root)
    assert tools.findings(found) == [("missing-annotation-file", "ImageSets/Main/train.txt:2 (p9.xml)")]
    assert [item.where for item in found if isinstance(item, Finding) and item.code == "not-in-a-split"] == [
        "Annotations/p1.xml"
    ]
    assert {item.split for item in tools.images(found).values()} == {"train", "val"}


def test_trainval_is_the_training_split_where_there_is_no_other(root: Path) -> None:
    main = root / "ImageSets" / "Main"
    for name in ("train", "val"):
        (main / f"{name}.txt").unlink()
    assert {item.split for item in tools.images(tools.records("voc", root)).values()} == {"train"}


def test_a_name_may_hold_blanks(root: Path) -> None:
    for folder, suffix in (("Annotations", ".xml"), ("JPEGImages", ".png")):
        (root / folder / f"p0{suffix}").rename(root / folder / f"my photo 1{suffix}")
    change(root, "p0.png", "my photo 1.png", "my photo 1")
    (root / "ImageSets" / "Main" / "train.txt").write_text("my photo 1\np1\n")
    assert "my photo 1.png" in tools.boxes(load(root))


def test_two_years_of_a_challenge_are_read_together(tmp_path: Path) -> None:
    tools.voc_devkit(tmp_path / "VOCdevkit", "VOC2007")
    shots = tools.SHOTS
    for shot in shots:
        tools.paint(shot, tmp_path / "VOCdevkit" / "VOC2012" / "JPEGImages" / f"x{shot.name}")
        text = tools.voc_text(shot).replace(shot.name, f"x{shot.name}")
        tools.write(tmp_path / "VOCdevkit" / "VOC2012" / "Annotations" / f"x{Path(shot.name).stem}.xml", text)
    found = tools.images(tools.records("voc", tmp_path))
    assert set(found) == {name for shot in shots for name in (shot.name, f"x{shot.name}")}


def test_a_list_of_classes_makes_others_unknown(root: Path) -> None:
    (root / "labelmap.txt").write_text("# label:color_rgb:parts:actions\nbackground:0,0,0::\ncat:1,2,3::\nbird:::\n")
    report = look(root)
    assert codes(report)["unknown-class"] == 2
    assert report.dataset is not None
    assert report.dataset.class_map.names == ("bird", "cat")


# ---- masks


def numbers() -> np.ndarray:
    """Of p0, whose cat is [4, 5, 24, 15] and whose dog is [30, 20, 46.5, 32]: a seam between them and a hole."""
    drawn = np.zeros((48, 64), dtype=np.uint8)
    drawn[5:15, 4:24] = 1
    drawn[8:10, 6:12] = 0
    drawn[20:32, 30:46] = 2
    drawn[19:33, 29] = drawn[32, 30:46] = 255
    return drawn


def voc_palette() -> list[int]:
    """As the development kit deals out the bits, written the other way round than ours."""
    colours = []
    for number in range(256):
        bits = f"{number:08b}"[::-1]
        colours += [sum(int(bits[3 * k + c]) << (7 - k) for k in range(3) if 3 * k + c < 8) for c in range(3)]
    return colours


def painted(root: Path, drawn: np.ndarray, kind: str) -> Path:
    path = root / "SegmentationObject" / "p0.png"
    path.parent.mkdir(exist_ok=True)
    if kind == "16 bits":
        Image.fromarray(drawn.astype(np.uint16)).save(path)
        return path
    image = Image.fromarray(drawn)
    if kind in ("palette", "rgb"):
        image = image.convert("L")
        image.putpalette(voc_palette())
        image = image.convert("RGB") if kind == "rgb" else image
    image.save(path)
    return path


@pytest.mark.parametrize("kind", ["palette", "rgb", "gray", "16 bits"])
def test_masks_of_objects_are_read_to_the_pixel(kind: str, root: Path) -> None:
    drawn = numbers()
    if kind == "16 bits":
        drawn = np.where(drawn == 255, 65535, drawn.astype(np.uint16) * 1)
    painted(root, drawn, kind)
    dataset = load(root)
    train = dataset.splits["train"]
    assert dataset.has_masks and train.boxes[0].tolist() == [4, 5, 24, 15]
    cat, dog, other = train.rles
    assert cat is not None and dog is not None and other is None
    assert np.array_equal(decode_rle(cat), numbers() == 1) and np.array_equal(decode_rle(dog), numbers() == 2)
    assert train.area[:2].tolist() == [(numbers() == 1).sum(), (numbers() == 2).sum()]


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (lambda path: painted(path.parents[1], np.where(numbers() == 2, 7, numbers()), "palette"), "numbers 7 objects"),
        (lambda path: path.write_bytes(path.read_bytes()[:-40]), "too early"),
        (lambda path: Image.fromarray(np.full((48, 64, 3), 77, np.uint8)).save(path), "stands for no number"),
        (lambda path: (path.unlink(), path.symlink_to("/etc/hostname.png")), ""),
    ],
    ids=["more objects", "truncated", "colours", "a broken link"],
)
def test_a_picture_of_masks_that_says_something_else_is_told_and_the_boxes_stay(
    root: Path, spoil: Callable[[Path], object], said: str
) -> None:
    spoil(painted(root, numbers(), "palette"))
    report = look(root)
    told = [finding.where for finding in report.findings if finding.code == "masks-unclear"]
    assert all(where.startswith("SegmentationObject/p0.png (") and said in where for where in told)
    assert bool(told) == bool(said)
    assert report.dataset is not None and not report.dataset.has_masks
    assert len(report.dataset.splits["train"].labels) == 3


def test_masks_never_come_from_outside_and_have_the_size_of_their_picture(root: Path, tmp_path_factory: Any) -> None:
    path = painted(root, numbers(), "palette")
    outside = tmp_path_factory.mktemp("outside") / "p0.png"
    path.rename(outside)
    path.symlink_to(outside)
    assert codes(look(root))["masks-unclear"] == 1
    path.unlink()
    painted(root, numbers()[:, :60], "palette")
    assert codes(look(root))["bad-segmentation"] == 2


def test_masks_alone_are_listed_by_the_lists_of_segmentation_and_pictures_of_classes_are_mentioned(root: Path) -> None:
    painted(root, numbers(), "palette")
    (root / "ImageSets" / "Main").rename(root / "ImageSets" / "Segmentation")
    found = tools.images(tools.records("voc", root))
    assert {name: image.split for name, image in found.items()}["p3.png"] == "val"
    (root / "SegmentationObject").rename(root / "SegmentationClass")
    report = look(root)
    assert "masks-not-read" in {finding.code for finding in report.findings}
    assert report.dataset is not None and not report.dataset.has_masks


# ---- real data


@pytest.mark.data
def test_bccd_is_the_same_in_pascal_voc_and_in_coco(data_dir: Path) -> None:
    root = data_dir / "bccd"
    report = look(root)
    voc = report.dataset
    assert voc is not None
    degenerate = next(finding for finding in report.findings if finding.code == "degenerate-box")
    assert degenerate.count == 2
    assert {place.partition(":")[0] for place in degenerate.where.split("; ")} == {
        "Annotations/BloodImage_00343.xml",
        "Annotations/BloodImage_00338.xml",
    }
    names = {f"local__{split}": f"coco/original_{split}.json" for split in ("train", "val", "test")}
    coco = load(root, local__images="JPEGImages", **names)
    assert voc.digest == coco.digest
    assert {split: len(part) for split, part in voc.splits.items()} == {"train": 205, "val": 87, "test": 72}


@pytest.mark.data
def test_bccd_has_the_boxes_that_are_written_in_its_files(data_dir: Path) -> None:
    """Read here with ElementTree, and in COCO with json alone."""
    root = data_dir / "bccd"
    by_json: dict[str, list[tuple[str, list[float]]]] = defaultdict(list)
    for split in ("train", "val", "test"):
        document = json.loads((root / "coco" / f"original_{split}.json").read_text())
        files = {image["id"]: image["file_name"] for image in document["images"]}
        classes = {entry["id"]: entry["name"] for entry in document["categories"]}
        for entry in document["annotations"]:
            x, y, w, h = entry["bbox"]
            box = (classes[entry["category_id"]], [x, y, x + w, y + h])
            by_json[files[entry["image_id"]]].append(box)
    read = list(tools.reader("voc").read(DataTree(root)))
    for name, record in tools.images(read).items():
        tree = ElementTree.parse(root / "Annotations" / f"{Path(name).stem}.xml")
        by_xml = [
            (
                thing.findtext("name"),
                [float(thing.findtext(f"bndbox/{side}") or "nan") for side in ("xmin", "ymin", "xmax", "ymax")],
            )
            for thing in tree.iter("object")
        ]
        ours = [(thing.class_name, thing.bbox) for thing in record.objects]
        assert ours == by_xml
        upright = sorted((label, box) for label, box in ours if box[2] > box[0] and box[3] > box[1])  # type: ignore[index]
        assert upright == sorted(by_json[name])
