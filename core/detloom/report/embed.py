"""Pictures inside the page, within a budget."""

from __future__ import annotations

import base64
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path

import simplejpeg

from detloom.drawing import encode_jpeg, fit
from detloom_schemas.run_files import PictureRecord

BUDGET_BYTES = 1_900_000
"""Of base64 text: leaves a megabyte of the page's three for charts and tables."""
LONGEST_SIDE = 1280


@dataclass(frozen=True, slots=True)
class Picture:
    """record: what it shows; uri: `data:image/jpeg;base64,...`; width, height: pixels."""

    record: PictureRecord
    uri: str
    width: int
    height: int


def embed(folder: Path, records: Sequence[PictureRecord]) -> tuple[list[Picture], list[str]]:
    """As many pictures as the budget takes, good and bad ones in turn, and what is to be said about the others.

    Records name files below `folder`; a name that leaves it is not read.
    """
    pictures: list[Picture] = []
    problems: list[str] = []
    spent = 0
    for count, record in enumerate(_in_turn(records)):
        picture = _read(folder, record)
        if picture is None:
            problems.append(f"picture {record.file} could not be read")
            continue
        if spent + len(picture.uri) > BUDGET_BYTES:
            problems.append(f"{len(records) - count} more pictures are in the folder pictures/")
            break
        spent += len(picture.uri)
        pictures.append(picture)
    return pictures, problems


def _in_turn(records: Sequence[PictureRecord]) -> Iterator[PictureRecord]:
    good, bad = [r for r in records if r.good], [r for r in records if not r.good]
    for pair in zip_longest(bad, good):
        yield from (record for record in pair if record is not None)


def _read(folder: Path, record: PictureRecord) -> Picture | None:
    path = folder / record.file
    try:
        if not path.resolve().is_relative_to(folder.resolve()):
            return None
        pixels, _ = fit(simplejpeg.decode_jpeg(path.read_bytes(), colorspace="RGB"), LONGEST_SIDE)
    except (OSError, ValueError):
        return None
    data = base64.b64encode(encode_jpeg(pixels, quality=78)).decode("ascii")
    return Picture(record, f"data:image/jpeg;base64,{data}", pixels.shape[1], pixels.shape[0])
