"""The codes of the data check: what each means, how bad it is, what becomes of what it names."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, field
from difflib import get_close_matches

from detloom.data.records import Finding, Severity
from detloom.errors import DataError

PLACES_SHOWN = 5


@dataclass(frozen=True, slots=True)
class Code:
    severity: Severity
    message: str
    remedy: str = ""


_LEFT_OUT = "repair the data; with this code in data.allow what it names is left out"

CODES: dict[str, Code] = {
    # Errors: they stop a training, unless allowed.
    "not-coco": Code("error", "this json is not a COCO annotation file", _LEFT_OUT),
    "text-encoding": Code("error", "this file is not UTF-8 text", "save it as UTF-8"),
    "xml-syntax": Code("error", "this file is not valid xml", "export it again; the place of the fault is given"),
    "yaml-syntax": Code("error", "this file is not valid yaml", "the place of the fault is given"),
    "unreadable-file": Code("error", "this file cannot be used", _LEFT_OUT),
    "bad-line": Code("error", "a line is not what the format says", _LEFT_OUT),
    "not-normalised": Code(
        "error", "a number is far outside 0..1, where fractions of the image's sides are due", _LEFT_OUT
    ),
    "oriented-boxes": Code(
        "error", "these are oriented boxes, which are not trained on", "export upright boxes or polygons"
    ),
    "unit-unknown": Code(
        "error", "all coordinates are within 0..1: they may be pixels or fractions", "say which: data.csv.unit"
    ),
    "label-without-image": Code("error", "a label file belongs to no image", _LEFT_OUT),
    "missing-annotation-file": Code("error", "an image is listed, but its annotation file is not there", _LEFT_OUT),
    "class-count": Code("error", "the number of classes is not the number of names", "correct `nc` or `names`"),
    "missing-folder": Code("error", "a folder or list of images that the data name is not there", _LEFT_OUT),
    "video-without-frames": Code(
        "error", "the frames of a video are not there", "export the data with images, or put them into images/"
    ),
    "json-syntax": Code("error", "this file is not valid json", "export it again; the place of the fault is given"),
    "missing-image": Code(
        "error",
        "the image file was not found",
        "looked beside the annotation file, in images/ and in the folder given with --images; " + _LEFT_OUT,
    ),
    "corrupt-image": Code("error", "the image file is damaged", _LEFT_OUT),
    "truncated-image": Code("error", "the image file ends too early", "copy it again; " + _LEFT_OUT),
    "image-too-large": Code("error", "the image has more pixels than is sane", _LEFT_OUT),
    "unsupported-image": Code("error", "the image has a kind of pixels that cannot be read", _LEFT_OUT),
    "path-escape": Code("error", "a file name leads out of the data's folder", _LEFT_OUT),
    "bad-record": Code("error", "an entry lacks what it must have, or has it in the wrong type", _LEFT_OUT),
    "size-mismatch": Code("error", "the annotated image size is not the size of the picture", _LEFT_OUT),
    "unknown-class": Code("error", "an annotation names a class that is not in the list of classes", _LEFT_OUT),
    "nan-box": Code("error", "a box has NaN or infinity", _LEFT_OUT),
    "bad-box-type": Code("error", "a box is not four numbers", _LEFT_OUT),
    "bad-segmentation": Code("error", "a segmentation is neither polygons nor RLE of the image's size", _LEFT_OUT),
    "duplicate-image-id": Code("error", "several images share an id", _LEFT_OUT),
    "duplicate-annotation-id": Code("error", "several different annotations share an id", _LEFT_OUT),
    "duplicate-class-id": Code("error", "several classes share an id", "give each class one id, the same everywhere"),
    "duplicate-class-name": Code("error", "several classes share a name", "give each class one id and one name"),
    "annotation-without-image": Code("error", "an annotation belongs to an image that is not listed", _LEFT_OUT),
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
    # Warnings: handled as said, and counted.
    "degenerate-box": Code("warning", "a box without width or height", "dropped"),
    "box-outside": Code("warning", "a box reaches out of the image", "clipped to the image"),
    "box-off-image": Code("warning", "a box lies wholly outside the image", "dropped"),
    "box-below-pixel": Code("warning", "a box is smaller than one pixel inside the image", "dropped"),
    "empty-mask": Code("warning", "a mask without a pixel", "the box is kept where there is one"),
    "duplicate-box": Code("warning", "the same object is annotated twice", "kept once"),
    "polygon-outside": Code("warning", "a polygon reaches out of the image", "clipped to the image"),
    "missing-label-file": Code("warning", "an image has no label file", "used as background, like an empty one"),
    "shape-not-read": Code("warning", "a shape that is neither box nor mask", "left out"),
    "name-conflict": Code(
        "warning",
        "the written name and the name of the annotation file mean two images",
        "the written one is used",
    ),
    "unknown-split": Code("warning", "a part of the data is called neither train, val nor test", "read as not split"),
    "duplicate-annotation": Code("warning", "the same annotation is written twice", "kept once"),
    "duplicate-image": Code("warning", "the same image is listed twice", "kept once"),
    "duplicate-image-file": Code("warning", "one file is listed under several image ids", "kept as written"),
    "same-picture": Code("info", "files of one split hold the same picture", "kept as they are"),
    "leakage": Code(
        "warning", "the same picture is in two splits: results look better than they are", "remove one of the two"
    ),
    "class-without-objects": Code("warning", "a class has no object at all", "it stays a class of the model"),
    "class-missing-in-split": Code("warning", "a class has objects in one split and none in another"),
    "split-without-annotations": Code(
        "warning", "the folder of a split has no annotation file", "not used: put `_annotations.coco.json` into it"
    ),
    "partial-masks": Code("warning", "some objects have a mask and some only a box", "masks train where they are"),
    "exif-raw-boxes": Code(
        "warning", "boxes were drawn on the picture before its EXIF rotation", "turned with the picture"
    ),
    # For information.
    "exif-orientation": Code("info", "the file is stored turned (EXIF)", "read upright; boxes are taken as upright"),
    "image-without-objects": Code("info", "an image without objects", "used as background"),
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
    "masks-not-read": Code("info", "there are pictures of masks beside the boxes", "only the boxes are read"),
    # What a format that is written cannot carry.
    "masks-lost": Code("warning", "a mask cannot be written", "the box is"),
    "crowds-lost": Code("warning", "a crowd cannot be written", "left out"),
    "keypoints-lost": Code("warning", "keypoints are not written"),
    "boxes-from-masks": Code("warning", "a box beside a mask cannot be written", "it will be the mask's own box"),
    "areas-lost": Code("info", "a written area cannot be written again", "it will be measured"),
    "ids-lost": Code("info", "an id of an image or object cannot be written", "counted anew"),
    "class-ids-lost": Code("info", "a class id cannot be written", "counted anew"),
    "split-renamed": Code("info", "the data are not split", "written as train"),
    "files-renamed": Code("info", "an image file had to be called otherwise", "two had one name in this format"),
    "placeholder-class": Code("info", "a parent class without annotations, as Roboflow writes it", "left out"),
    "area-mismatch": Code("info", "the written area is not the object's", "measured anew"),
    "split-made": Code("info", "the data have no validation split", "split by image content"),
}


NEVER_ALLOWED = frozenset(
    {
        "duplicate-class-id",
        "duplicate-class-name",
        "no-classes",
        "no-images",
        "no-training-split",
        "no-validation-split",
    }
)
"""Without these there is nothing to go on with."""

IMAGE_ERRORS = frozenset(
    {
        "missing-image",
        "corrupt-image",
        "truncated-image",
        "image-too-large",
        "unsupported-image",
        "path-escape",
        "label-without-image",
        "missing-annotation-file",
        "size-mismatch",
        "duplicate-image-id",
    }
)
"""Codes that leave out whole images, one for each count."""


class DataRefusedError(DataError):
    """The check found errors that are not allowed. findings: everything that was found."""

    def __init__(self, name: str, findings: Sequence[Finding], allow: Collection[str] = ()) -> None:
        errors = refused(findings, allow)
        count = "1 error" if len(errors) == 1 else f"{len(errors)} errors"
        lines = "\n".join(f"  {describe(finding)}" for finding in errors)
        # Allowing some codes does not help where there is nothing to go on with.
        codes = "" if any(error.code in NEVER_ALLOWED for error in errors) else ", ".join(allowable(errors))
        leave = f", or leave out what they name: --set data.allow='[{codes}]'" if codes else ""
        super().__init__(f"{name}: the data have {count}:\n{lines}", hint=f"repair the data{leave}")
        self.findings = tuple(findings)


def refused(findings: Iterable[Finding], allow: Collection[str]) -> list[Finding]:
    """The errors that stop a training."""
    allowed = set(allow) - NEVER_ALLOWED
    return [finding for finding in findings if finding.severity == "error" and finding.code not in allowed]


def useless_codes(allow: Iterable[str], findings: Iterable[Finding]) -> list[str]:
    """Sentences about codes that `data.allow` names in vain. Formats of other people may have codes of their own."""
    known = {*CODES, *(finding.code for finding in findings)}
    remarks = []
    for code in allow:
        if code in NEVER_ALLOWED:
            remarks.append(f"{code} cannot be allowed: without it there is nothing to go on with")
        elif code not in known:
            near = get_close_matches(code, known, n=1, cutoff=0.6)
            remarks.append(f"nothing here has the code {code!r}" + (f"; did you mean {near[0]}?" if near else ""))
    return remarks


def allowable(findings: Iterable[Finding]) -> list[str]:
    """The codes among these findings that may be allowed."""
    return sorted({finding.code for finding in findings} - NEVER_ALLOWED)


def describe(finding: Finding) -> str:
    """One line: code, count, message, places."""
    count = f" x{finding.count}" if finding.count > 1 else ""
    where = f": {finding.where}" if finding.where else ""
    return f"{finding.code}{count}: {finding.message}{where}"


def found(code: str, where: str = "", message: str = "", count: int = 1) -> Finding:
    """A finding with the severity, message and remedy of its code."""
    known = CODES[code]
    return Finding(code, known.severity, message or known.message, where, known.remedy, count)


@dataclass(slots=True)
class _Pile:
    finding: Finding
    count: int = 0
    places: list[str] = field(default_factory=list)


@dataclass(slots=True)
class FindingBook:
    """Collects findings; equal ones become one with a count and the first places."""

    _piles: dict[tuple[str, str, str], _Pile] = field(default_factory=dict)

    def add(self, code: str, where: str = "", message: str = "", count: int = 1) -> None:
        self.take(found(code, where, message, count))

    def take(self, finding: Finding) -> None:
        key = (finding.code, finding.severity, finding.message)
        pile = self._piles.setdefault(key, _Pile(finding))
        pile.count += finding.count
        if finding.where and len(pile.places) < PLACES_SHOWN:
            pile.places.append(finding.where)

    def findings(self) -> tuple[Finding, ...]:
        """Errors first, then warnings, then information; within each, the most frequent first."""
        rank = {"error": 0, "warning": 1, "info": 2}
        merged = [_merge(pile) for pile in self._piles.values()]
        return tuple(sorted(merged, key=lambda f: (rank[f.severity], -f.count, f.code, f.where)))


def _merge(pile: _Pile) -> Finding:
    more = pile.count - len(pile.places)
    where = "; ".join(pile.places) + (f" and {more} more" if pile.places and more > 0 else "")
    first = pile.finding
    return Finding(first.code, first.severity, first.message, where, first.remedy, pile.count)
