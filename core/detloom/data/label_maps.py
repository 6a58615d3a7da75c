# ruff: noqa: TID253
"""Pictures whose pixels are numbers: which object, or which class, each pixel belongs to."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from detloom.data.images import ImageError, decode_image

Numbers = NDArray[np.int64]

_PNG = b"\x89PNG\r\n\x1a\n"


def voc_colours() -> NDArray[np.uint8]:
    """uint8 RGB [256, 3]: the palette of the PASCAL VOC challenges, in which tools paint numbers. The bits of a number
    are dealt out to red, green and blue in turns, the lowest ones into the highest bits (devkit, VOCcolormap.m)."""
    colours = np.zeros((256, 3), dtype=np.uint8)
    for number in range(256):
        for bit in range(8):
            colours[number, bit % 3] |= (number >> bit & 1) << (7 - bit // 3)
    return colours


def read_numbers(path: Path) -> Numbers:
    """int64 [H, W], as stored: the gray value (8 or 16 bits), or the place in the file's palette, else in that of VOC.

    Raises ImageError for a picture that cannot be read, and for colours that stand for no number.
    """
    data = path.read_bytes()
    decode_image(data, path.name)  # refuses what is damaged or too large
    pixels = np.asarray(cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED))
    if pixels.ndim == 2:
        return pixels.astype(np.int64)
    palette = _palette(data)
    return _places(pixels[:, :, 2::-1].astype(np.int64), voc_colours() if palette is None else palette, path.name)


def _places(rgb: Numbers, palette: NDArray[np.uint8], name: str) -> Numbers:
    """rgb: [H, W, 3]. Of equal colours in a palette the first counts: writers fill it up with one colour."""
    codes = rgb @ np.array([65536, 256, 1])
    places = {
        code: place for place, code in reversed([*enumerate((palette.astype(np.int64) @ [65536, 256, 1]).tolist())])
    }
    found, where = np.unique(codes, return_inverse=True)
    strange = [code for code in found.tolist() if code not in places]
    if strange:
        colour = tuple(strange[0] >> shift & 255 for shift in (16, 8, 0))
        raise ImageError("unsupported-image", f"the colour {colour} stands for no number", name)
    return np.array([places[code] for code in found.tolist()])[where].reshape(codes.shape)


def _palette(data: bytes) -> NDArray[np.uint8] | None:
    """RGB [n, 3] of a PNG that has one."""
    for kind, content in _chunks(data):
        if kind == b"IHDR" and content[9] != 3:
            return None
        if kind == b"PLTE":
            return np.frombuffer(content, np.uint8).reshape(-1, 3)
    return None


def _chunks(data: bytes) -> Iterator[tuple[bytes, bytes]]:
    position = len(_PNG) if data.startswith(_PNG) else len(data)
    while position + 8 <= len(data):
        length, kind = struct.unpack_from(">I4s", data, position)
        yield kind, data[position + 8 : position + 8 + length]
        position += 12 + length


def write_numbers(path: Path, numbers: NDArray[np.uint8]) -> None:
    """A PNG with VOC's palette. numbers: [H, W]."""
    height, width = numbers.shape
    rows = np.zeros((height, width + 1), dtype=np.uint8)  # each row begins with its filter: none
    rows[:, 1:] = numbers
    parts = [
        (b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 3, 0, 0, 0)),
        (b"PLTE", voc_colours().tobytes()),
        (b"IDAT", zlib.compress(rows.tobytes())),
        (b"IEND", b""),
    ]
    checked = [
        struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))
        for kind, content in parts
    ]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(_PNG + b"".join(checked))
