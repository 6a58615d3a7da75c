# ruff: noqa: TID253
"""Pictures of masks: `SegmentationObject/a.png` numbers the objects of `Annotations/a.xml` from 1, in their order there
(development kit of the VOC2012 challenge). 0 is the background, the highest number (255; 65535 where numbers have 16
bits) the seam around objects, which belongs to none."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from detloom.data.dataset import Split
from detloom.data.findings import found
from detloom.data.images import ImageError
from detloom.data.label_maps import read_numbers, write_numbers
from detloom.data.layout import files_in, shown
from detloom.data.masks import decode_rle, encode_part
from detloom.data.records import Finding

FOLDER = "SegmentationObject"
SEAM = 255
MOST = SEAM - 1
"""Objects that 8 bits can number beside the seam."""


@dataclass(frozen=True, slots=True)
class ObjectMasks:
    """The pictures of masks of one folder, by the name of their xml. root: outside of it nothing is read."""

    files: Mapping[str, Path]
    root: Path

    @classmethod
    def below(cls, folder: Path, root: Path) -> ObjectMasks:
        return cls({path.stem: path for path in files_in(folder, ".png", ".bmp", ".tif", ".tiff")}, root)

    def of(self, stem: str, objects: int) -> dict[int, Mapping[str, Any]] | Finding:
        """Number of the object, from 1, to its RLE; or why there is none. objects: how many the xml has."""
        path = self.files.get(stem)
        if path is None:
            return {}
        name = shown(path, self.root)
        if not path.resolve().is_relative_to(self.root.resolve()):
            return found("masks-unclear", f"{name} (a link that leads out of the data's folder)")
        try:
            numbers = read_numbers(path)
        except ImageError as fault:
            return found("masks-unclear", f"{name} ({fault.reason})")
        except OSError as fault:
            return found("masks-unclear", f"{name} ({fault.strerror or fault})")
        there = np.unique(numbers).tolist()
        seam = SEAM if there[-1] <= SEAM else 65535
        there = [number for number in there if number not in (0, seam)]
        if there and there[-1] > objects:
            return found("masks-unclear", f"{name} (it numbers {there[-1]} objects, the xml has {objects})")
        return {number: _mask(numbers == number) for number in there}


def _mask(inside: NDArray[np.bool_]) -> Mapping[str, Any]:
    rows, columns = np.flatnonzero(inside.any(axis=1)), np.flatnonzero(inside.any(axis=0))
    top, left = int(rows[0]), int(columns[0])
    part = inside[top : int(rows[-1]) + 1, left : int(columns[-1]) + 1]
    height, width = inside.shape
    return encode_part(part, (top, left), (height, width))


def numbered(split: Split, index: int) -> tuple[NDArray[np.uint8], int]:
    """uint8 [H, W]: the objects of an image that have a mask, numbered in their order; and how many masks are not in
    it: those that lie on one before them, and those after the 254th object."""
    image, rows = split.images[index], split.objects_of(index)
    numbers = np.zeros((image.height, image.width), dtype=np.uint8)
    lost = 0
    for number, rle in enumerate(split.rles[rows], start=1):
        if rle is None:
            continue
        mask = decode_rle(rle) != 0
        if number > MOST or numbers[mask].any():
            lost += 1
        else:
            numbers[mask] = number
    return numbers, lost


def write_masks(path: Path, split: Split, index: int) -> bool:
    """Whether there was something to write."""
    if all(rle is None for rle in split.rles[split.objects_of(index)]):
        return False
    write_numbers(path, numbered(split, index)[0])
    return True


def lost_masks(split: Split) -> int:
    """Masks that no picture of numbers can hold."""
    return sum(numbered(split, index)[1] for index in range(len(split)))
