"""A corpus of faults: what is planted into sound data, and what the check has to say of it.

The expected answers are written by hand here.
"""

from __future__ import annotations

import math
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from data_tools import HEIGHT, WIDTH, Document, edit, picture
from fault_tools import (
    INFO,
    JSON,
    MENDED,
    REMARK,
    SINGLE,
    WHOLE,
    Fault,
    Plant,
    again,
    box,
    doc,
    file,
    first,
    image,
    polygon,
    raw,
    stored,
    text,
    turned,
    with_masks,
    without,
)

TRAIN = f"train/{JSON}"
A = f"{TRAIN}: annotation id 101"
I = f"{TRAIN}: image id 1"  # noqa: E741


def huge_png(data: bytes) -> bytes:
    """A header that promises four gigapixels."""
    header = struct.pack(">IIBBBBB", 65000, 65000, 8, 2, 0, 0, 0)
    chunk = b"IHDR" + header
    return data[:8] + struct.pack(">I", 13) + chunk + struct.pack(">I", zlib.crc32(chunk)) + data[33:]


def rotten(data: bytes) -> bytes:
    middle = len(data) // 2
    return data[:middle] + bytes([data[middle] ^ 0xFF]) + data[middle + 1 :]


def cut_jpeg(root: Path) -> None:
    stored("p0.jpg", quality=90)(root)
    path = root / "train" / "p0.jpg"
    path.write_bytes(path.read_bytes()[: path.stat().st_size * 2 // 3])


def link_out(root: Path) -> None:
    outside = root.parent / "outside.png"
    (root / "train" / "p0.png").rename(outside)
    (root / "train" / "p0.png").symlink_to(outside)


def folder_instead(root: Path) -> None:
    (root / "train" / "p0.png").unlink()
    (root / "train" / "p0.png").mkdir()


def other_capitals(root: Path) -> None:
    """A second picture whose name differs from the first one's in capitals alone."""
    Image.fromarray(picture(55)).save(root / "train" / "P0.png")
    edit(root, lambda c: c["images"][1].update(file_name="P0.png"))


def copy_to_valid(root: Path) -> None:
    (root / "valid" / "p100.png").write_bytes((root / "train" / "p0.png").read_bytes())


def nearly_to_valid(root: Path) -> None:
    (root / "valid" / "p100.png").unlink()
    Image.fromarray(picture(0)).save(root / "valid" / "p100.jpg", quality=80)
    edit(root, lambda c: c["images"][0].update(file_name="p100.jpg"), "valid")


def copy_in_train(root: Path) -> None:
    (root / "train" / "p1.png").write_bytes((root / "train" / "p0.png").read_bytes())


def second_id(root: Path) -> None:
    def change(content: Document) -> None:
        content["images"].append({**content["images"][0], "id": 99})
        content["annotations"] += [
            {**row, "id": row["id"] + 500, "image_id": 99} for row in content["annotations"] if row["image_id"] == 1
        ]

    edit(root, change)


def no_objects_of(name: str, *splits: str) -> Plant:
    class_id = {"cat": 3, "dog": 7}[name]
    return doc(lambda c: c.update(annotations=[r for r in c["annotations"] if r["category_id"] != class_id]), *splits)


def same_place(content: Document) -> None:
    """The dog of the first picture where its cat is."""
    content["annotations"][1].update(bbox=content["annotations"][0]["bbox"], area=200.0)


def corners(content: Document) -> None:
    for row in content["annotations"]:
        x, y, width, height = row["bbox"]
        row.update(bbox=[x, y, x + width, y + height])
        row.pop("area")


def fractions(content: Document) -> None:
    for row in content["annotations"]:
        x, y, width, height = row["bbox"]
        row.update(bbox=[x / WIDTH, y / HEIGHT, width / WIDTH, height / HEIGHT])
        row.pop("area")


def blank(root: Path) -> None:
    Image.fromarray(np.full((HEIGHT, WIDTH, 3), 128, np.uint8)).save(root / "train" / "p0.png")


def animated(root: Path) -> None:
    frames = [Image.fromarray(picture(seed)) for seed in (0, 70)]
    frames[0].save(root / "train" / "p0.png", save_all=True, append_images=frames[1:])


def deep_gray(root: Path) -> None:
    values = (picture(0)[:, :, 0].astype(np.uint16)) * 257
    Image.fromarray(values).save(root / "train" / "p0.png")


def unlink(*names: str) -> Plant:
    return lambda root: [(root / name).unlink() for name in names]


def placeholder(content: Document) -> None:
    content["categories"].insert(0, {"id": 0, "name": "pets", "supercategory": "none"})


def utf16(root: Path) -> None:
    path = root / "train" / JSON
    path.write_bytes(path.read_text().encode("utf-16"))


def two_ids_for_a_name(root: Path) -> None:
    edit(root, lambda c: c["categories"].append({"id": 9, "name": "cat"}), "valid")


RLE_PIXELS = WIDTH * HEIGHT
EMPTY_RLE = {"size": [HEIGHT, WIDTH], "counts": [RLE_PIXELS]}

FAULTS = [
    # ---- annotation files
    Fault("a comma too many", text('{"images": [],\n "annotations": [,]}'), "json-syntax", WHOLE, f"{TRAIN}:2",
          loose=True),
    Fault("json cut off", raw(lambda t: t[: len(t) // 2]), "json-syntax", WHOLE, f"{TRAIN}:1", loose=True),
    Fault("an empty file", text(""), "json-syntax", WHOLE, "the file is empty", loose=True),
    Fault("nested without end", text("[" * 200_000), "json-syntax", WHOLE, "nested too deeply", loose=True),
    Fault("a number of 5000 digits", raw(lambda t: t.replace('"id": 1,', f'"id": {"9" * 5000},', 1)), "json-syntax",
          WHOLE, TRAIN, loose=True),
    Fault("latin-1", text('{"images": "ü"}'.encode("latin-1")), "text-encoding", WHOLE, f"{TRAIN}:1", loose=True),
    Fault("utf-16", utf16, "text-encoding", WHOLE, TRAIN, loose=True),
    Fault("a list instead of an object", text("[1, 2]"), "not-coco", WHOLE, "a list instead", loose=True),
    Fault("no images", doc(lambda c: c.pop("images")), "not-coco", WHOLE, "no `images`", loose=True),
    Fault("images is an object", doc(lambda c: c.update(images={"a": 1})), "not-coco", WHOLE, "`images` is a object",
          loose=True),
    Fault("annotations is a text", doc(lambda c: c.update(annotations="none")), "not-coco", WHOLE,
          "`annotations` is a text", also=frozenset({"image-without-objects"}), loose=True),
    Fault("categories missing everywhere", doc(lambda c: c.pop("categories"), "train", "valid"), "not-coco", WHOLE,
          "no `categories`", count=2, loose=True),
    Fault("a list written twice", raw(lambda t: t.replace('{"images"', '{"images": [], "images"', 1)), "duplicate-key",
          WHOLE, f"{TRAIN} (`images`)"),
    Fault("a box written twice", raw(lambda t: t.replace('"bbox"', '"bbox": [1, 2, 3, 4], "bbox"', 1)), "duplicate-key",
          WHOLE, f"{TRAIN}: annotations[0] (`bbox`)"),
    # ---- what is missing as a whole
    Fault("the training json is gone", unlink(TRAIN), "no-training-split", WHOLE, "train/ has no annotation file",
          loose=True),
    Fault("the validation json is gone", unlink(f"valid/{JSON}"), "split-without-annotations", REMARK, "valid/",
          also=frozenset({"split-made"}), loose=True),
    Fault("no validation split is wanted", lambda root: [p.unlink() for p in (root / "valid").iterdir()]
          and (root / "valid").rmdir(), "no-validation-split", WHOLE, "", settings={"split__val": 0.0}),
    Fault("no image is listed for validation", doc(lambda c: c.update(images=[], annotations=[]), "valid"),
          "empty-split", WHOLE, f"valid/{JSON}"),
    Fault("no image is listed but objects are", doc(lambda c: c.update(images=[]), "valid"), "empty-split", WHOLE,
          f"valid/{JSON}", objects=4),
    Fault("no image at all", doc(lambda c: c.update(images=[], annotations=[]), "train", "valid"), "empty-split",
          WHOLE, TRAIN, count=2),
    Fault("no class is listed", doc(lambda c: c["categories"].clear(), "train", "valid"), "no-classes", WHOLE, "",
          loose=True),
    Fault("nothing is annotated", doc(lambda c: c["annotations"].clear(), "train", "valid"), "no-annotations", WHOLE,
          "", also=frozenset({"image-without-objects"})),
    Fault("nothing is annotated for training", doc(lambda c: c["annotations"].clear()), "train-without-objects", WHOLE,
          "", also=frozenset({"image-without-objects"})),
    Fault("only crowds for training", doc(lambda c: [r.update(iscrowd=1) for r in c["annotations"]]),
          "train-without-objects", WHOLE, ""),
    Fault("no class in common", no_objects_of("dog", "valid"), "class-missing-in-split", REMARK, "dog (not in val)"),
    Fault("a class nobody has", doc(lambda c: c["categories"].append({"id": 8, "name": "elk"})),
          "class-without-objects", REMARK, "elk"),
    # ---- classes
    Fault("one id, two names", doc(lambda c: c["categories"][0].update(name="lynx"), "valid"), "duplicate-class-id",
          WHOLE, "'lynx' and 'cat'"),
    Fault("one name, two ids", two_ids_for_a_name, "duplicate-class-name", WHOLE, "ids 3 and 9"),
    Fault("a class without a name", doc(lambda c: c["categories"][1].pop("name"), "train", "valid"), "bad-class", WHOLE,
          "category id 7, name None", count=2, objects=6),
    Fault("a class id in quotes", doc(lambda c: c["categories"][1].update(id="7"), "train", "valid"), "bad-class",
          WHOLE, "category id '7', name 'dog'", count=2, objects=6),
    Fault("a class that is a number", doc(lambda c: c["categories"].insert(0, 5)), "bad-class", WHOLE, TRAIN),
    Fault("names that differ in capitals", doc(lambda c: c["categories"][1].update(name="Cat"), "train", "valid"),
          "similar-classes", REMARK, "'cat' and 'Cat'"),
    Fault("names that differ in a dash", doc(lambda c: [c["categories"][0].update(name="red cat"),
          c["categories"][1].update(name="red-cat")], "train", "valid"), "similar-classes", REMARK, "'red-cat'"),
    Fault("the parent class of Roboflow", doc(placeholder, "train", "valid"), "placeholder-class", INFO, "name pets"),
    # ---- images
    Fault("file gone", unlink("train/p0.png"), "missing-image", SINGLE, f"{I} (p0.png)", images=1, objects=2),
    Fault("a folder instead of the file", folder_instead, "missing-image", SINGLE, I, images=1, objects=2),
    Fault("an address instead of a name", image(file_name="https://pictures.example/p0.png"), "missing-image", SINGLE,
          "https://pictures.example/p0.png", images=1, objects=2),
    Fault("png cut off", file(lambda b: b[:-40]), "truncated-image", SINGLE, f"{I} (p0.png", images=1, objects=2),
    Fault("jpeg cut off", cut_jpeg, "truncated-image", SINGLE, f"{I} (p0.jpg", images=1, objects=2),
    Fault("a bit flipped", file(rotten), "corrupt-image", SINGLE, f"{I} (p0.png", images=1, objects=2),
    Fault("an empty picture", file(b""), "corrupt-image", SINGLE, "the file is empty", images=1, objects=2),
    Fault("a web page as picture", file(b"<!DOCTYPE html><p>404"), "corrupt-image", SINGLE, I, images=1, objects=2),
    Fault("four gigapixels", file(huge_png), "image-too-large", SINGLE, "65000x65000", images=1, objects=2),
    Fault("pixels as fractions", stored("p0.tif", "F"), "unsupported-image", SINGLE, "float32", images=1, objects=2),
    Fault("width wrong", image(width=640), "size-mismatch", SINGLE, "written 640x48", images=1, objects=2),
    Fault("sides swapped", image(width=HEIGHT, height=WIDTH), "size-mismatch", SINGLE, "swapped", images=1, objects=2),
    Fault("width in quotes", image(width="64"), "bad-size", MENDED, f"{I} (width '64'"),
    Fault("width zero", image(width=0, height=0), "bad-size", MENDED, f"{I} (width 0"),
    Fault("width not whole", image(width=63.5), "bad-size", MENDED, f"{I} (width 63.5"),
    Fault("climbing name", image(file_name="../../x.png"), "path-escape", SINGLE, I, images=1, objects=2),
    Fault("absolute name", image(file_name="/etc/passwd"), "path-escape", SINGLE, "/etc/passwd", images=1, objects=2),
    Fault("name with a drive", image(file_name="C:\\x.png"), "path-escape", SINGLE, I, images=1, objects=2),
    Fault("name with a NUL", image(file_name="a\x00b.png"), "path-escape", SINGLE, "NUL", images=1, objects=2),
    Fault("a link that leads out", link_out, "path-escape", SINGLE, "it is a link", images=1, objects=2),
    Fault("image without a name", without("images", "file_name"), "bad-record", SINGLE, f"{I}, file_name None",
          images=1, objects=2),
    Fault("name is a number", image(file_name=7), "bad-record", SINGLE, "file_name 7", images=1, objects=2),
    Fault("image without an id", without("images", "id"), "bad-record", SINGLE, "image id None, file_name 'p0.png'",
          images=1, objects=2),
    Fault("image id is a list", image(id=[1]), "bad-record", SINGLE, "image id [1]", images=1, objects=2),
    Fault("an image is a text", doc(lambda c: c["images"].append("p9.png")), "bad-record", SINGLE,
          f"{TRAIN}: images[4] is a text", images=1),
    Fault("two images, one id", doc(lambda c: c["images"][1].update(id=1)), "duplicate-image-id", SINGLE, I, count=2,
          images=2, objects=4),
    Fault("the same image twice", again("images"), "duplicate-image", MENDED, I, images=1),
    Fault("one file, two ids", second_id, "duplicate-image-file", REMARK, f"{TRAIN}: image id 99 (p0.png)"),
    Fault("other capitals on disk", image(file_name="P0.PNG"), "name-case", MENDED,
          "written 'P0.PNG', on disk 'p0.png'"),
    Fault("names that Windows takes for one", other_capitals, "case-clash", REMARK, "p0.png and P0.png"),
    Fault("turned, boxes drawn before", turned(6, WIDTH, HEIGHT), "exif-raw-boxes", MENDED, "EXIF orientation 6"),
    Fault("turned, boxes drawn upright", turned(6, HEIGHT, WIDTH), "exif-orientation", INFO, "p0.jpg"),
    Fault("a picture in both splits", copy_to_valid, "leakage", REMARK, "train/p0.png = val/p100.png"),
    Fault("nearly a picture in both splits", nearly_to_valid, "near-leakage", REMARK, "train/p0.png ~ val/p100.jpg"),
    Fault("a picture twice in a split", copy_in_train, "same-picture", INFO, "train: p0.png = p1.png"),
    Fault("gray", stored(mode="L"), "pixels-converted", INFO, "p0.png"),
    Fault("16 bits", deep_gray, "pixels-converted", INFO, "p0.png"),
    Fault("an alpha channel", stored(mode="RGBA"), "pixels-converted", INFO, "p0.png"),
    Fault("a palette", stored(mode="P"), "pixels-converted", INFO, "p0.png"),
    Fault("CMYK", stored("p0.jpg", "CMYK"), "pixels-converted", INFO, "p0.jpg"),
    Fault("an animation", animated, "first-frame", INFO, "p0.png"),
    Fault("a JPEG called PNG", stored("p0.png", format="JPEG"), "wrong-suffix", INFO, "p0.png is a jpeg file"),
    Fault("one colour alone", blank, "blank-image", INFO, "p0.png"),
    Fault("an image without objects", doc(lambda c: c.update(annotations=c["annotations"][2:])),
          "image-without-objects", INFO, "p0.png"),
    # ---- objects
    Fault("unknown class", first(category_id=99), "unknown-class", SINGLE, f"{A} (class 99)", objects=1),
    Fault("no class", without("annotations", "category_id"), "unknown-class", SINGLE, f"{A} (class None)", objects=1),
    Fault("class id true", first(category_id=True), "unknown-class", SINGLE, f"{A} (class True)", objects=1),
    Fault("class id in quotes", first(category_id="3"), "unknown-class", SINGLE, A, objects=1),
    Fault("NaN", first(bbox=[1, 2, math.nan, 4]), "nan-box", SINGLE, A, objects=1),
    Fault("infinity", first(bbox=[1, 2, math.inf, 4]), "nan-box", SINGLE, A, objects=1),
    Fault("a number beyond floats", first(bbox=[1, 2, 10**400, 4]), "nan-box", SINGLE, A, objects=1),
    Fault("three numbers", first(bbox=[1, 2, 3]), "bad-box-type", SINGLE, f"{A} (bbox [1, 2, 3])", objects=1),
    Fault("a box as text", first(bbox="1,2,3,4"), "bad-box-type", SINGLE, A, objects=1),
    Fault("a number as text", first(bbox=[1, 2, "3", 4]), "bad-box-type", SINGLE, A, objects=1),
    Fault("a box as an object", first(bbox={"x": 1}), "bad-box-type", SINGLE, A, objects=1),
    Fault("a box in a box", first(bbox=[[1, 2, 3, 4]]), "bad-box-type", SINGLE, A, objects=1),
    Fault("neither box nor mask", without("annotations", "bbox"), "bad-box-type", SINGLE, A, objects=1),
    Fault("an odd polygon", first(segmentation=[[1, 2, 3, 4, 5, 6, 7]]), "bad-segmentation", SINGLE, A, objects=1),
    Fault("a polygon of two points", first(segmentation=[[1, 2, 3, 4]]), "bad-segmentation", SINGLE, A, objects=1),
    Fault("NaN in a polygon", first(segmentation=[[1, 2, math.nan, 4, 5, 6]]), "bad-segmentation", SINGLE, A,
          objects=1),
    Fault("a polygon a million pixels away", first(segmentation=[[1, 2, 1e9, 4, 5, 6]]), "bad-segmentation", SINGLE, A,
          objects=1),
    Fault("a mask of another size", first(segmentation={"size": [9, 9], "counts": [81]}), "bad-segmentation", SINGLE,
          A, objects=1),
    Fault("runs beyond the picture", first(segmentation={"size": [HEIGHT, WIDTH], "counts": [1, 10**9]}),
          "bad-segmentation", SINGLE, A, objects=1),
    Fault("runs below zero", first(segmentation={"size": [HEIGHT, WIDTH], "counts": [-1, RLE_PIXELS + 1]}),
          "bad-segmentation", SINGLE, A, objects=1),
    Fault("broken RLE text", first(segmentation={"size": [HEIGHT, WIDTH], "counts": "zzz~~\x7f"}), "bad-segmentation",
          SINGLE, A, objects=1),
    Fault("a mask as text", first(segmentation="yes"), "bad-segmentation", SINGLE, A, objects=1),
    Fault("an object is a number", doc(lambda c: c["annotations"].append(7)), "bad-record", SINGLE,
          f"{TRAIN}: annotations[8] is a number", objects=1),
    Fault("two objects, one id", again("annotations", bbox=[1, 1, 9, 9], area=81), "duplicate-annotation-id", SINGLE, A,
          objects=1),
    Fault("an image that is not listed", first(image_id=77), "annotation-without-image", SINGLE,
          f"{A} (image_id 77)", objects=1),
    Fault("an image id in quotes", first(image_id="1"), "annotation-without-image", SINGLE, f"{A} (image_id '1')",
          objects=1),
    Fault("no image id", without("annotations", "image_id"), "annotation-without-image", SINGLE, A, objects=1),
    Fault("no width", box(5, 5, 0, 10), "degenerate-box", MENDED, A, objects=1),
    Fault("negative height", box(5, 5, 10, -3), "degenerate-box", MENDED, A, objects=1),
    Fault("outside in part", box(-5, 5, 20, 10), "box-outside", MENDED, f"{A} (box [-5, 5, 15, 15]"),
    Fault("outside wholly", box(70, 5, 20, 10), "box-off-image", MENDED, A, objects=1),
    Fault("thinner than a pixel", box(5, 5, 0.4, 10), "box-below-pixel", MENDED, A, objects=1),
    Fault("hardly inside", box(-9.5, 5, 10, 10), "box-below-pixel", MENDED, A, objects=1),
    Fault("all boxes as fractions", doc(fractions), "fractions-for-pixels", WHOLE, "train: all 8 boxes", loose=True),
    Fault("all boxes as corners", doc(corners), "corners-for-sizes", WHOLE, "train: all 8 boxes", loose=True),
    Fault("the same object twice", again("annotations", id=999), "duplicate-box", MENDED, "p0.png", objects=1),
    Fault("the same entry twice", again("annotations"), "duplicate-annotation", MENDED, A, objects=1),
    Fault("nearly the same object twice", again("annotations", id=999, bbox=[4.2, 5, 20, 10]), "near-duplicate-box",
          REMARK, "p0.png"),
    Fault("two classes in one box", doc(same_place), "two-classes-one-box", INFO, "p0.png"),
    Fault("an empty mask beside a box", first(segmentation=EMPTY_RLE), "empty-mask", MENDED, A),
    Fault("an empty mask alone", first(segmentation=EMPTY_RLE, bbox=[]), "empty-mask", MENDED, A, objects=1),
    Fault("a polygon outside the picture", first(segmentation=[[200, 200, 220, 200, 220, 220]]), "empty-mask", MENDED,
          A),
    Fault("masks for some", first(segmentation=[[4, 5, 24, 5, 24, 15, 4, 15]]), "partial-masks", REMARK,
          "1 with a mask, 11 without", count=11),
    Fault("a mask of something else", with_masks(lambda c: c["annotations"][0].update(
          segmentation=[polygon(40, 30, 20, 10)])), "mask-off-box", REMARK, A),
    Fault("iscrowd is two", first(iscrowd=2), "bad-crowd", MENDED, f"{A} (iscrowd 2)"),
    Fault("iscrowd as text", first(iscrowd="0"), "bad-crowd", MENDED, f"{A} (iscrowd '0')"),
    Fault("area too large", first(area=99999), "area-mismatch", INFO, A),
    Fault("area below zero", first(area=-4), "area-mismatch", INFO, A),
    Fault("area as text", first(area="200"), "area-mismatch", INFO, A),
]  # fmt: skip


BY_NAME = [pytest.param(fault, id=fault.name) for fault in FAULTS]
