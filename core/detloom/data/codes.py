"""The codes of the data check: what each means, how bad it is, what becomes of what it names."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from detloom.data.records import Severity


@dataclass(frozen=True, slots=True)
class Code:
    """leaves: what each of its count leaves out of the data, unless a finding says otherwise. mends: what it names is
    changed or left out although it is only a warning; under the policy `strict` that is an error."""

    severity: Severity
    message: str
    remedy: str = ""
    leaves: Literal["", "image", "object"] = ""
    mends: bool = False


_LEFT_OUT = "repair the data; with this code in data.allow what it names is left out"

_AGAIN = "nothing of it is used; write the archive again"


def _file(message: str, remedy: str) -> Code:
    """Something that stands for many images."""
    return Code("error", message, remedy)


def _image(message: str, remedy: str = "") -> Code:
    return Code("error", message, f"{remedy}; {_LEFT_OUT}" if remedy else _LEFT_OUT, leaves="image")


def _object(message: str) -> Code:
    return Code("error", message, _LEFT_OUT, leaves="object")


def _dropped(message: str, remedy: str = "dropped") -> Code:
    return Code("warning", message, remedy, leaves="object", mends=True)


def _mended(message: str, remedy: str) -> Code:
    return Code("warning", message, remedy, mends=True)


CODES: dict[str, Code] = {
    # Errors of whole files: they stop a training, unless allowed.
    "not-coco": _file("this json is not a COCO annotation file", _LEFT_OUT),
    "text-encoding": _file("this file is not UTF-8 text", "save it as UTF-8"),
    "json-syntax": _file("this file is not valid json", "export it again; the place of the fault is given"),
    "duplicate-key": _file(
        "an entry of this json has the same key twice", "keep one; with this code in data.allow the last one counts"
    ),
    "xml-syntax": _file("this file is not valid xml", "export it again; the place of the fault is given"),
    "yaml-syntax": _file("this file is not valid yaml", "the place of the fault is given"),
    "unreadable-file": _file("this file cannot be used", _LEFT_OUT),
    "oriented-boxes": _file("these are oriented boxes, which are not trained on", "export upright boxes or polygons"),
    "unit-unknown": _file(
        "all coordinates are within 0..1: they may be pixels or fractions", "say which: data.csv.unit"
    ),
    "fractions-for-pixels": _file(
        "all boxes lie within 0..1: they look like fractions of the image, where pixels are due",
        "export again in pixels",
    ),
    "corners-for-sizes": _file(
        "boxes look like [x1, y1, x2, y2], where [x, y, width, height] is due",
        "export again; with this code in data.allow they are read as they stand",
    ),
    "class-count": _file("the number of classes is not the number of names", "correct `nc` or `names`"),
    "bad-class": _file(
        "a class lacks an id or a name, or has it in the wrong type", "correct it; its objects are lost"
    ),
    "missing-folder": _file("a folder or list of images that the data name is not there", _LEFT_OUT),
    "video-without-frames": _file(
        "the frames of a video are not there", "export the data with images, or put them into images/"
    ),
    # Errors of archives: nothing of them is used.
    "archive-escape": _file("a member of an archive leads out of it, or has a name that no file can have", _AGAIN),
    "archive-link": _file("a member of an archive is a link, a device or a pipe", _AGAIN),
    "archive-clash": _file("members of an archive have names that are one file on some disks", _AGAIN),
    "archive-bomb": _file("an archive unpacks to more than is sane", _AGAIN),
    "archive-damaged": _file("an archive is damaged or encrypted", _AGAIN),
    # Errors of single images.
    "missing-image": _image(
        "the image file was not found",
        "looked beside the annotation file, in images/ and in the folder given with --images",
    ),
    "corrupt-image": _image("the image file is damaged"),
    "truncated-image": _image("the image file ends too early", "copy it again"),
    "image-too-large": _image(
        "the image has more pixels than is sane", "raise the limit with the environment's DETLOOM_MAX_PIXELS"
    ),
    "unsupported-image": _image("the image has a kind of pixels that cannot be read"),
    "path-escape": _image(
        "a file name leads out of the data's folder", "copy links with what they lead to: cp -rL DATA COPY"
    ),
    "size-mismatch": _image(
        "the annotated image size is not the size of the picture", "data.size_mismatch says what that means"
    ),
    "duplicate-image-id": _image("several images share an id"),
    "label-without-image": _image("a label file belongs to no image"),
    "missing-annotation-file": _image("an image is listed, but its annotation file is not there"),
    # Errors of single objects.
    "bad-line": _object("a line is not what the format says"),
    "bad-record": _object("an entry lacks what it must have, or has it in the wrong type"),
    "not-normalised": _object("a number is far outside 0..1, where fractions of the image's sides are due"),
    "unknown-class": _object("an annotation names a class that is not in the list of classes"),
    "nan-box": _object("a box has NaN or infinity"),
    "bad-box-type": _object("a box is not four numbers"),
    "bad-segmentation": _object("a segmentation is neither polygons nor RLE of the image's size"),
    "duplicate-annotation-id": _object("several different annotations share an id"),
    "annotation-without-image": _object("an annotation belongs to an image that is not listed"),
    # Errors of the data as a whole.
    "duplicate-class-id": Code("error", "several classes share an id", "give each class one id, the same everywhere"),
    "duplicate-class-name": Code("error", "several classes share a name", "give each class one id and one name"),
    "no-classes": Code("error", "the data list no classes", "name them: `categories` in COCO, `names` in data.yaml"),
    "no-images": Code("error", "no image is left to use", "see the other findings"),
    "no-annotations": Code("error", "no object is annotated", "label some images, or check the export"),
    "empty-split": Code("error", "a split has no images", "remove its annotation file, or fill it"),
    "train-without-objects": Code(
        "error", "no object is annotated in the training split", "label some of its images, or check the export"
    ),
    "no-training-split": Code("error", "there is no training split", "name it with --train"),
    "no-validation-split": Code(
        "error", "there is no validation split", "name it with --val, or set data.split.val above 0"
    ),
    "too-much-left-out": Code(
        "error", "more is left out than data.max_left_out lets pass", "repair the data, or raise data.max_left_out"
    ),
    # Warnings: handled as said, and counted.
    "degenerate-box": _dropped("a box without width or height"),
    "box-off-image": _dropped("a box lies wholly outside the image"),
    "box-below-pixel": _dropped("a box is smaller than one pixel inside the image"),
    "duplicate-box": _dropped("the same object is annotated twice", "kept once"),
    "duplicate-annotation": _dropped("the same annotation is written twice", "kept once"),
    "shape-not-read": _dropped("a shape that is neither box nor mask", "left out"),
    "duplicate-image": Code("warning", "the same image is listed twice", "kept once", leaves="image", mends=True),
    "hidden-file": Code(
        "warning",
        "the name of a file, or of a folder above it, begins with a dot",
        "not used; give it a name without",
        leaves="image",
        mends=True,
    ),
    "box-outside": _mended("a box reaches out of the image", "clipped to the image"),
    "polygon-outside": _mended("a polygon reaches out of the image", "clipped to the image"),
    "empty-mask": _mended("a mask without a pixel", "the box is kept where there is one"),
    "size-replaced": _mended(
        "the annotated image size is not the size of the picture", "boxes are taken as pixels of the picture"
    ),
    "size-scaled": _mended(
        "the annotated image size is not the size of the picture", "boxes and masks are scaled with the picture"
    ),
    "masks-unclear": _mended(
        "a picture of masks cannot be read as the objects of its image", "the boxes alone are used"
    ),
    "bad-size": _mended("the written width or height of an image is no whole number above 0", "the picture's own"),
    "bad-crowd": _mended("iscrowd is neither 0 nor 1", "read as 0, and as 1 where a text says so"),
    "name-case": _mended("a file is written in other capitals than it has on disk", "the file on disk is used"),
    "exif-raw-boxes": _mended("boxes were drawn on the picture before its EXIF rotation", "turned with the picture"),
    "name-conflict": _mended(
        "the written name and the name of the annotation file mean two images", "the written one is used"
    ),
    # Warnings that only say so.
    "missing-label-file": Code("warning", "an image has no label file", "used as background, like an empty one"),
    "unknown-split": Code("warning", "a part of the data is called neither train, val nor test", "read as not split"),
    "duplicate-image-file": Code("warning", "one file is listed under several image ids", "kept as written"),
    "case-clash": Code(
        "warning",
        "file names differ in capitals alone: one of them is lost on Windows and macOS",
        "rename one of the files",
    ),
    "leakage": Code(
        "warning", "the same picture is in two splits: results look better than they are", "remove one of the two"
    ),
    "near-leakage": Code(
        "warning",
        "nearly the same picture is in two splits: results look better than they are",
        "remove one of the two; data.near_duplicates: false does not look for them",
    ),
    "near-duplicate-box": Code(
        "warning", "two boxes of one class lie nearly on each other", "both are kept; remove one if it is one object"
    ),
    "mask-off-box": Code("warning", "a mask and its box lie in different places", "both are kept as written"),
    "similar-classes": Code(
        "warning", "names of classes differ in capitals or spaces alone", "kept as different classes; make them one"
    ),
    "class-name-spaces": Code(
        "info",
        "the name of a class has spaces at its ends, several in a row, or breaks its line",
        "read with single spaces",
    ),
    "class-without-objects": Code("warning", "a class has no object at all", "it stays a class of the model"),
    "class-missing-in-split": Code("warning", "a class has objects in one split and none in another"),
    "split-without-annotations": Code(
        "warning", "the folder of a split has no annotation file", "not used: put `_annotations.coco.json` into it"
    ),
    "partial-masks": Code(
        "warning",
        "some objects have a mask and some only a box",
        "boxes train with all of them, those of masks included; a model of masks needs one for each object",
    ),
    # For information.
    "same-picture": Code("info", "files of one split hold the same picture", "kept as they are"),
    "exif-orientation": Code("info", "the file is stored turned (EXIF)", "read upright; boxes are taken as upright"),
    "pixels-converted": Code("info", "pictures are not 8-bit RGB", "converted"),
    "first-frame": Code("info", "a file holds several pictures", "the first one is used"),
    "wrong-suffix": Code("info", "the name says another kind of file than it is", "read as what it is"),
    "blank-image": Code("info", "every pixel of a picture has the same colour", "kept as it is"),
    "image-without-objects": Code("info", "an image without objects", "used as background"),
    "two-classes-one-box": Code("info", "two objects of different classes have exactly the same box", "both are kept"),
    "difficult-object": Code(
        "info", "an object is marked as difficult", "neither trained on nor counted as missed, like a crowd"
    ),
    "group-object": Code("info", "one box around a group of objects", "neither trained on nor counted, like a crowd"),
    "rotated-box": Code("info", "a box is rotated", "read as the upright box around it"),
    "pixels-from-one": Code(
        "info", "boxes count pixels from 1 and include the last, as PASCAL VOC does", "read as corners from 0"
    ),
    "path-mended": Code("info", "a path that leads elsewhere", "the file was found inside the data"),
    "not-in-a-split": Code("info", "an annotation file that no list of a split names", "not used"),
    "masks-not-read": Code(
        "info", "there are pictures of classes beside the boxes, and none of objects", "only the boxes are read"
    ),
    "placeholder-class": Code("info", "a parent class without annotations, as Roboflow writes it", "left out"),
    "area-mismatch": Code("info", "the written area is not the object's", "measured anew"),
    "part-not-split": Code("info", "a part of the data is not split, and others are", "taken as train"),
    "split-made": Code("info", "the images were divided here", "by image content; `detloom split` writes it down"),
    # Several sources as one.
    "conflicting-labels": Code(
        "error",
        "the same picture has other objects in two sources",
        "decide with data.conflicts: `first` or `union`; with this code in data.allow those of the first source count",
    ),
    "labels-of-first": Code(
        "warning", "the same picture has other objects in two sources", "those of the source named first are used"
    ),
    "labels-joined": Code(
        "warning", "the same picture has other objects in two sources", "all are used, equal ones once"
    ),
    "class-unknown-to-source": Code(
        "warning",
        "a class is not in the list of one of the sources, whose pictures then count as without it",
        "label it there too, or make it another name's alias (data.class_aliases)",
    ),
    "class-not-there": Code("warning", "a name of a class that is not in the data", "it does nothing; correct it"),
    "picture-in-two-sources": Code("info", "the same picture, with the same objects, is in two sources", "kept once"),
    "classes-joined": Code("info", "several names of classes mean one class", "objects of all have that class"),
    "class-left-out": Code("info", "a class is left out with its objects", "data.drop_classes says so"),
    # Splits that are made.
    "split-name-unclear": Code("error", "a name in data.split.files means several pictures", "write its folder too"),
    "split-name-unknown": Code("warning", "a name in data.split.files is no image of the data", "it does nothing"),
    "no-group": Code("warning", "data.split.group says nothing of an image", "divided as a group of its own"),
    # What a format that is written cannot carry.
    "masks-lost": Code("warning", "a mask cannot be written", "the box is"),
    "crowds-lost": Code("warning", "a crowd cannot be written", "left out"),
    "keypoints-lost": Code("warning", "keypoints are not written"),
    "boxes-from-masks": Code("warning", "a box beside a mask cannot be written", "it will be the mask's own box"),
    "areas-lost": Code("info", "a written area cannot be written again", "it will be measured"),
    "ids-lost": Code("info", "an id of an image or object cannot be written", "counted anew"),
    "class-ids-lost": Code("info", "a class id cannot be written", "counted anew"),
    "split-renamed": Code("info", "the data are not split", "written as train"),
    "files-renamed": Code(
        "info", "an image file had to be called otherwise", "its name was taken, or is none that this format finds"
    ),
}

NEVER_ALLOWED = frozenset(
    {
        "archive-bomb",
        "archive-clash",
        "archive-damaged",
        "archive-escape",
        "archive-link",
        "duplicate-class-id",
        "duplicate-class-name",
        "no-classes",
        "no-images",
        "no-training-split",
        "no-validation-split",
        "too-much-left-out",
    }
)
"""Without these there is nothing to go on with, or the user said so."""

FILE_FAULTS = frozenset(
    {
        "not-coco",
        "text-encoding",
        "json-syntax",
        "xml-syntax",
        "yaml-syntax",
        "unreadable-file",
        "missing-folder",
        "video-without-frames",
    }
)
"""Nobody knows what these would have held: what seems to be lacking may be in there."""

WHOLE = frozenset(
    {
        "fractions-for-pixels",
        "corners-for-sizes",
        "bad-class",
        "class-count",
        "unit-unknown",
        "empty-split",
        "conflicting-labels",
    }
)
"""A mistake of whole files, or a question that only people can answer: the policy `lenient` does not settle it."""
