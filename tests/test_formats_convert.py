"""What is written is read with other readers than ours, and what a format cannot carry is said and counted."""

from __future__ import annotations

import contextlib
import io
import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest
import yaml
from PIL import Image
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO

import format_tools as tools
from data_tools import document, load, picture, write_split
from detloom.cli.convert import losses_of
from detloom.data.dataset import Dataset
from detloom.host import discover
from detloom.specs import FormatSpec

Box = list[float]
Cli = Callable[..., Any]
WRITABLE = ("coco", "yolo", "voc")


def convert(dataset: Dataset, out: Path, name: str, copy: bool = False) -> list[Path]:
    writer = discover().get(FormatSpec, name).build(discover().get(FormatSpec, name).settings())
    return list(writer.write(dataset, out, copy))  # type: ignore[attr-defined]


def losses(dataset: Dataset, name: str) -> dict[str, int]:
    writer = discover().get(FormatSpec, name).build(discover().get(FormatSpec, name).settings())
    return {finding.code: finding.count for finding in writer.losses(dataset)}  # type: ignore[attr-defined]


# ---- readers that share nothing with ours: file name to sorted (class name, x1, y1, x2, y2)


def read_yolo(root: Path) -> dict[str, list[Any]]:
    description = yaml.safe_load((root / "data.yaml").read_text(encoding="utf-8"))
    table = {}
    for split in ("train", "val", "test"):
        for path in sorted((root / description[split]).rglob("*.png")) if split in description else []:
            with Image.open(path) as image:
                width, height = image.size
            text = Path(str(path).replace("/images/", "/labels/")).with_suffix(".txt").read_text()
            rows = [list(map(float, line.split())) for line in text.splitlines()]
            table[path.name] = sorted(
                (
                    description["names"][int(c)],
                    (x - w / 2) * width,
                    (y - h / 2) * height,
                    (x + w / 2) * width,
                    (y + h / 2) * height,
                )
                for c, x, y, w, h in rows
            )
    return table


def read_voc(root: Path) -> dict[str, list[Any]]:
    table = {}
    for path in sorted((root / "Annotations").glob("*.xml")):
        tree = ElementTree.parse(path)
        table[tree.findtext("filename") or ""] = sorted(
            (
                thing.findtext("name"),
                *(float(thing.findtext(f"bndbox/{side}") or "") for side in ("xmin", "ymin", "xmax", "ymax")),
            )
            for thing in tree.iter("object")
        )
    return table


def read_coco(root: Path) -> dict[str, list[Any]]:
    table = {}
    for path in sorted(root.glob("*/_annotations.coco.json")):
        with contextlib.redirect_stdout(io.StringIO()):
            coco = COCO(str(path))
        for image_id, image in coco.imgs.items():
            found = coco.loadAnns(coco.getAnnIds(imgIds=[image_id]))
            table[image["file_name"]] = sorted(
                (
                    coco.cats[a["category_id"]]["name"],
                    *a["bbox"][:2],
                    a["bbox"][0] + a["bbox"][2],
                    a["bbox"][1] + a["bbox"][3],
                )
                for a in found
            )
    return table


READERS = {"coco": read_coco, "yolo": read_yolo, "voc": read_voc}


@pytest.mark.parametrize("target", WRITABLE)
@pytest.mark.parametrize(
    "source", ["coco_roboflow", "yolo_ultralytics", "voc_devkit", "cvat_project", "csv_tensorflow"]
)
def test_what_is_written_is_what_other_readers_read(source: str, target: str, tmp_path: Path) -> None:
    tools.LAYOUTS[source][1](tmp_path / "data")
    dataset = load(tmp_path / "data", for_training=False)
    convert(dataset, tmp_path / "out", target)
    table = READERS[target](tmp_path / "out")
    assert set(table) == set(tools.TRUTH)
    for name, expected in tools.TRUTH.items():
        assert len(table[name]) == len(expected)
        for (label, *box), (wanted, wanted_box) in zip(table[name], expected, strict=True):
            assert label == wanted
            assert box == pytest.approx(wanted_box, abs=1e-6)


@pytest.mark.parametrize("first", WRITABLE)
@pytest.mark.parametrize("second", WRITABLE)
def test_a_round_trip_keeps_the_digest(first: str, second: str, tmp_path: Path) -> None:
    tools.coco_roboflow(tmp_path / "data")
    before = load(tmp_path / "data")
    convert(before, tmp_path / "one", first)
    between = load(tmp_path / "one")
    convert(between, tmp_path / "two", second)
    assert load(tmp_path / "two").digest == between.digest == before.digest


# ---- masks


def masked(root: Path) -> Dataset:
    """A ring, two parts, a polygon, a crowd, a box with a written area; ids with gaps."""
    ring = np.zeros((48, 64), dtype=np.uint8)
    ring[5:25, 8:30] = 1
    ring[10:15, 12:20] = 0
    parts = np.zeros((48, 64), dtype=np.uint8)
    parts[30:40, 2:12] = parts[33:46, 40:60] = 1
    content = document(2, 0)
    for entry, mask in zip(content["annotations"], (ring, parts), strict=False):
        rle = coco_mask.encode(np.asfortranarray(mask))
        rle["counts"] = rle["counts"].decode()
        x, y, w, h = coco_mask.toBbox(rle).tolist()
        entry.update(segmentation=rle, bbox=[x, y, w, h], area=int(mask.sum()))
    content["annotations"][2].update(iscrowd=1, segmentation={"size": [48, 64], "counts": [100, 50, 48 * 64 - 150]})
    content["annotations"][3].update(area=17.5)
    write_split(root / "train", content, 0)
    write_split(root / "valid", document(1, 100), 100)
    return load(root)


def rles(dataset: Dataset) -> list[Any]:
    return [rle and rle["counts"] for rle in dataset.splits["train"].rles]


def test_masks_with_holes_and_parts_reach_yolo_to_the_pixel(tmp_path: Path) -> None:
    before = masked(tmp_path / "data")
    convert(before, tmp_path / "out", "yolo")
    lines = (tmp_path / "out" / "labels" / "train" / "p0.txt").read_text().splitlines()
    for line, rle in zip(lines, rles(before), strict=False):
        numbers = np.array(list(map(float, line.split()[1:]))).reshape(-1, 2) * (64, 48)
        filled = coco_mask.merge(coco_mask.frPyObjects([numbers.ravel().tolist()], 48, 64))
        assert filled["counts"].decode() == rle
    after = load(tmp_path / "out")
    assert rles(after) == [
        rle for rle, crowd in zip(rles(before), before.splits["train"].crowd, strict=True) if not crowd
    ]


def test_what_each_format_cannot_carry_is_counted(tmp_path: Path) -> None:
    before = masked(tmp_path / "data")
    assert losses(before, "yolo") == {"crowds-lost": 1, "areas-lost": 1, "ids-lost": 6, "class-ids-lost": 2}
    assert losses(before, "voc") == {"areas-lost": 1, "ids-lost": 6, "class-ids-lost": 2}
    convert(before, tmp_path / "voc", "voc")
    after = load(tmp_path / "voc")
    assert after.splits["train"].crowd.tolist() == before.splits["train"].crowd.tolist(), "crowds are difficult objects"
    assert rles(after) == rles(before) and after.digest == before.digest
    convert(before, tmp_path / "coco", "coco")
    whole = load(tmp_path / "coco")
    assert whole.digest == before.digest
    assert whole.class_map == before.class_map
    assert whole.splits["train"].object_ids == before.splits["train"].object_ids


@pytest.mark.parametrize("target", WRITABLE)
def test_keypoints_are_said_to_be_lost(target: str, tmp_path: Path) -> None:
    content = document(1, 0)
    write_split(tmp_path / "data" / "train", content, 0)
    writer = discover().get(FormatSpec, target).build(discover().get(FormatSpec, target).settings())
    plain = load(tmp_path / "data", for_training=False)
    content["annotations"][0].update(keypoints=[5, 6, 2], num_keypoints=1)
    write_split(tmp_path / "data" / "train", content, 0)
    posed = load(tmp_path / "data", for_training=False)
    for dataset, lost in ((plain, False), (posed, True)):
        assert ("keypoints-lost" in {finding.code for finding in losses_of(dataset, writer)}) == lost  # type: ignore[arg-type]


def test_masks_in_pascal_voc_are_what_pillow_reads_and_those_that_overlap_are_counted(tmp_path: Path) -> None:
    before = masked(tmp_path / "data")
    convert(before, tmp_path / "out", "voc")
    pixels = np.asarray(Image.open(tmp_path / "out" / "SegmentationObject" / "p0.png"))
    for number, rle in enumerate(before.splits["train"].rles[:2], start=1):
        assert rle is not None
        assert coco_mask.encode(np.asfortranarray(pixels == number))["counts"].decode() == rle["counts"]
    assert "<segmented>1<" in (tmp_path / "out" / "Annotations" / "p0.xml").read_text()
    assert not (tmp_path / "out" / "SegmentationObject" / "p100.png").exists()
    overlapping = overlapped(tmp_path / "overlap")
    assert losses(overlapping, "voc")["masks-lost"] == 1
    convert(overlapping, tmp_path / "more", "voc")
    after = load(tmp_path / "more", for_training=False)
    assert rles(after) == [rles(overlapping)[0], None, *rles(overlapping)[2:]]
    assert after.splits["train"].boxes.tolist() == overlapping.splits["train"].boxes.tolist()


def overlapped(root: Path) -> Dataset:
    """Two masks of one image that share pixels, and one of another image."""
    content = document(2, 0)
    for entry in content["annotations"][:2]:
        x, y, _, h = entry["bbox"]
        entry["segmentation"] = [[x, y, 40, y, 40, 40, x, y + h]]
    content["annotations"][2]["segmentation"] = [[4, 5, 24, 5, 24, 15, 4, 15]]
    write_split(root / "train", content, 0)
    return load(root, for_training=False)


def test_a_box_that_is_not_its_masks_is_counted(tmp_path: Path) -> None:
    root = tmp_path / "data"
    content = document(1, 0)
    content["annotations"][0].update(segmentation=[[6, 6, 20, 6, 20, 12, 6, 12]])  # its box is wider
    write_split(root / "train", content, 0)
    dataset = load(root, for_training=False)
    assert losses(dataset, "yolo")["boxes-from-masks"] == 1


@pytest.mark.data
@pytest.mark.parametrize("between", ["yolo", "voc"])
def test_every_nucleus_survives_other_formats_to_the_pixel(data_dir: Path, tmp_path: Path, between: str) -> None:
    """16,667 masks: the runs in the source's json against those of what came back, both as text."""
    root = data_dir / "nuclei_dsb2018"
    named = {f"local__{split}": f"coco/{split}.json" for split in ("val", "test")}
    for split in ("val", "test"):
        dataset = load(
            root, for_training=False, local__images="images", **{f"local__{split}": named[f"local__{split}"]}
        )
        convert(dataset, tmp_path / split, between)
        convert(load(tmp_path / split, for_training=False), tmp_path / f"{split}-coco", "coco")
        written = _runs(json.loads((root / "coco" / f"{split}.json").read_text()))
        back = _runs(json.loads((tmp_path / f"{split}-coco" / f"{split}.json").read_text()))
        # In one picture of the test split two nuclei share a pixel.
        shared = 1 if (between, split) == ("voc", "test") else 0
        assert losses(dataset, between).get("masks-lost", 0) == shared
        assert Counter(back) <= Counter(written) and len(back) == len(written) - shared


def _runs(content: dict[str, Any]) -> list[tuple[str, str, float]]:
    files = {image["id"]: Path(image["file_name"]).name for image in content["images"]}
    masked = [a for a in content["annotations"] if a["segmentation"]]
    return [(files[a["image_id"]], a["segmentation"]["counts"], a["area"]) for a in masked]


# ---- names


@pytest.mark.parametrize("target", WRITABLE)
def test_names_that_would_clash_are_told_apart_and_no_image_is_lost(target: str, tmp_path: Path) -> None:
    names = ["a.png", "A.png", "sub/a.png", "a.bmp", "images/b.png", "labels/b.png", "my photo 1.png", "ünïcode.png"]
    content = document(len(names), 0)
    for entry, name in zip(content["images"], names, strict=True):
        entry["file_name"] = name
    for entry in content["annotations"]:
        entry["bbox"][0] += entry["image_id"] / 8  # every picture has boxes of its own
    root = tmp_path / "data"
    for number, name in enumerate(names):
        (root / "train" / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(picture(number)).save(root / "train" / name)
    tools.write(root / "train" / "_annotations.coco.json", json.dumps(content))
    before = load(root, for_training=False)
    convert(before, tmp_path / "out", target)
    after = load(tmp_path / "out", for_training=False)
    assert after.digest == before.digest
    # A.png gives way to a.png; beside it names without suffix clash, or names without folder as well.
    assert losses(before, target)["files-renamed"] == {"coco": 1, "yolo": 3, "voc": 5}[target]


@pytest.mark.parametrize("target", WRITABLE)
@pytest.mark.parametrize("name", [".hid.png", "._hid.png", ".box/a.png"])
def test_an_image_with_a_hidden_name_is_written_so_that_it_is_found_again(
    name: str, target: str, tmp_path: Path
) -> None:
    root = tmp_path / "data"
    content = document(3, 0)
    content["images"][1]["file_name"] = name
    (root / "train" / name).parent.mkdir(parents=True, exist_ok=True)
    write_split(root / "train", content, 0)
    before = load(root, for_training=False)
    convert(before, tmp_path / "out", target)
    after = load(tmp_path / "out", for_training=False)
    assert [len(split) for split in after.splits.values()] == [3]
    assert after.digest == before.digest
    assert losses(before, target).get("files-renamed", 0) == (target != "coco")


@pytest.mark.parametrize("target", WRITABLE)
@pytest.mark.parametrize("name", ["no", "a: b", "<cat> & 'dog'", "1", "# x", "ünï 猫", "null", "background"])
def test_odd_class_names_survive(name: str, target: str, tmp_path: Path) -> None:
    root = tmp_path / "data"
    content = document(2, 0)
    content["categories"][0]["name"] = name
    write_split(root / "train", content, 0)
    before = load(root, for_training=False)
    convert(before, tmp_path / "out", target)
    after = load(tmp_path / "out", for_training=False)
    assert set(after.class_map.names) == {name, "dog"}
    assert after.digest == before.digest


# ---- the command


def test_convert_writes_says_what_is_lost_and_never_overwrites(tmp_path: Path, cli: Cli) -> None:
    overlapped(tmp_path / "data")
    done = cli("convert", tmp_path / "data", tmp_path / "out", "--to", "voc", "--json")
    assert done.returncode == 0, done.stderr
    answer = json.loads(done.stdout)
    assert answer["images"] == {"train": 2}
    assert answer["annotation_files"] == 2
    assert {finding["code"]: finding["count"] for finding in answer["losses"]}["masks-lost"] == 1
    before = (tmp_path / "out" / "Annotations" / "p0.xml").read_text()
    again = cli("convert", tmp_path / "data", tmp_path / "out", "--to", "yolo")
    assert again.returncode == 2
    assert "not an empty folder" in again.stderr
    assert (tmp_path / "out" / "Annotations" / "p0.xml").read_text() == before
    assert sorted(path.name for path in tmp_path.iterdir() if path.name != "cache") == ["data", "out"]


def test_convert_links_or_copies_the_images(tmp_path: Path, cli: Cli) -> None:
    tools.coco_roboflow(tmp_path / "data")
    source = (tmp_path / "data" / "train" / "p0.png").stat().st_ino
    for flag, same in (("--link", True), ("--copy", False)):
        done = cli("convert", tmp_path / "data", tmp_path / flag, "--to", "yolo", flag)
        assert done.returncode == 0, done.stderr
        assert ((tmp_path / flag / "images" / "train" / "p0.png").stat().st_ino == source) == same
        assert "yolo does not carry" in done.stdout
        assert "detloom check" in done.stdout


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (("data",), 2, "--to"),
        (("data", "--to", "yolo"), 2, "two places"),
        (("data", "out", "--to", "labelme"), 2, "coco, voc, yolo"),
        (("data", "out", "--to", "yollo"), 4, "did you mean yolo"),
        (("gone", "out", "--to", "yolo"), 3, "does not exist"),
        (("data", "out", "--to", "yolo", "--from", "voc"), 3, "no-classes"),
        (("data", "file/out", "--to", "yolo"), 1, "cannot write"),
    ],
)
def test_a_wrong_call_of_convert_teaches(
    arguments: tuple[str, ...], code: int, said: str, tmp_path: Path, cli: Cli
) -> None:
    tools.coco_roboflow(tmp_path / "data")
    (tmp_path / "file").write_text("")
    done = cli("convert", *arguments)
    assert (done.returncode, said in done.stderr) == (code, True), (done.returncode, done.stderr)
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "out").exists()


def test_data_with_errors_are_converted_only_as_told(tmp_path: Path, cli: Cli) -> None:
    tools.yolo_ultralytics(tmp_path / "data")
    (tmp_path / "data" / "labels" / "train" / "p0.txt").write_text("7 .5 .5 .5 .5\n0 .5 .5 .5 .5\n")
    refused = cli("convert", tmp_path / "data", tmp_path / "out", "--to", "coco")
    assert refused.returncode == 3
    assert "labels/train/p0.txt:1" in refused.stderr
    done = cli("convert", tmp_path / "data", tmp_path / "out", "--to", "coco", "--allow", "unknown-class")
    assert done.returncode == 0, done.stderr
    assert "unknown-class x1" in done.stdout
    assert len(read_coco(tmp_path / "out")["p0.png"]) == 1


def test_data_that_are_not_split_stay_so_where_the_format_can(tmp_path: Path, cli: Cli) -> None:
    tools.labelme_flat(tmp_path / "data")
    for target, split in (("coco", "all"), ("voc", "all"), ("yolo", "train")):
        done = cli("convert", tmp_path / "data", tmp_path / target, "--to", target)
        assert done.returncode == 0, done.stderr
        assert list(load(tmp_path / target, for_training=False).splits) == [split]
        assert ("split-renamed" in done.stdout) == (target == "yolo")
