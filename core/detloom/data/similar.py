# ruff: noqa: TID253
"""Pictures that are nearly the same: stored again as JPEG, resized, a little brighter.

A fingerprint of 256 bits (the sign of the step from each of 17 x 16 areas to the next, after Neal Krawetz's dHash)
finds candidates; the pictures themselves decide. Crops, turned and mirrored copies are not found.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from detloom.data.images import read_image
from detloom.errors import DataError

MAX_BITS = 16
"""Of 256: copies stored again differ in fewer, others in many more."""
CERTAIN_BITS = 4
MAX_LOOKS = 400
"""Pairs of pictures that are compared for real; of further ones those that differ by CERTAIN_BITS count."""

_ONES = np.unpackbits(np.arange(1 << 16, dtype=np.uint16).view(np.uint8).reshape(-1, 2), axis=1).sum(
    axis=1, dtype=np.uint8
)
"""Of every number of 16 bits."""
_FLAT = 3.0  # standard deviation of grey values: below it the steps are noise
_SIDE, _BLOCK = 64, 8
_BLOCK_LIMIT, _SHIFT_LIMIT = 10.0, 24.0  # of 255


@dataclass(frozen=True, slots=True)
class NearPair:
    """Positions in the two lists. bits: by how many the fingerprints differ."""

    first: int
    second: int
    bits: int


def fingerprint(pixels: NDArray[np.uint8]) -> str:
    """64 hexadecimal digits; empty for a picture without any structure. pixels: uint8 RGB [H, W, 3]."""
    small = _gray(cv2.resize(pixels, (17, 16), interpolation=cv2.INTER_AREA))
    if float(small.std()) < _FLAT:
        return ""
    return np.packbits(small[:, 1:] > small[:, :-1]).tobytes().hex()


def is_blank(pixels: NDArray[np.uint8]) -> bool:
    """Whether every pixel has the same colour."""
    first = pixels[0, 0]
    # Most pictures are told by their first row.
    return bool((pixels[0] == first).all()) and bool((pixels == first).all())


def near_pairs(first: Sequence[str], second: Sequence[str]) -> Iterator[NearPair]:
    """For each fingerprint of `second` the nearest of `first`, where it is near. Empty ones are near to nothing."""
    ours, own = _words(first)
    theirs, other = _words(second)
    if not len(own) or not len(other):
        return
    for position, words in zip(other.tolist(), theirs, strict=True):
        # One word of four rules out nearly all.
        rows = np.flatnonzero(_bits(ours[:, :1] ^ words[:1]) <= MAX_BITS)
        if len(rows):
            bits = _bits(ours[rows] ^ words)
            best = int(bits.argmin())
            if bits[best] <= MAX_BITS:
                yield NearPair(int(own[rows[best]]), position, int(bits[best]))


def same_to_the_eye(first: Path, second: Path) -> bool:
    """Whether two pictures differ by no more than coding, size and a little brightness, in every part."""
    try:
        small = [_shrunk(read_image(path)) for path in (first, second)]
    except DataError:
        return False
    (one, ratio), (two, other) = small
    if abs(ratio / other - 1) > 0.03:
        return False
    shift = one.mean(axis=(0, 1)) - two.mean(axis=(0, 1))
    if float(np.abs(shift).max()) > _SHIFT_LIMIT:
        return False
    apart = np.abs(one - two - shift).mean(axis=2)
    count = _SIDE // _BLOCK
    blocks = apart.reshape(count, _BLOCK, count, _BLOCK).mean(axis=(1, 3))
    return float(blocks.max()) <= _BLOCK_LIMIT


def _gray(pixels: NDArray[Any]) -> NDArray[np.float32]:
    return np.asarray(pixels.astype(np.float32) @ np.array([0.299, 0.587, 0.114], dtype=np.float32))


def _shrunk(pixels: NDArray[np.uint8]) -> tuple[NDArray[np.float32], float]:
    """float32 [64, 64, 3], and width by height."""
    small = cv2.resize(pixels, (_SIDE, _SIDE), interpolation=cv2.INTER_AREA)
    return small.astype(np.float32), pixels.shape[1] / pixels.shape[0]


def _bits(words: NDArray[np.uint64]) -> NDArray[np.int64]:
    """Ones in each row of [N, K]."""
    if hasattr(np, "bitwise_count"):  # NumPy 2: five times as fast
        return np.asarray(np.bitwise_count(words).sum(axis=1, dtype=np.int64))
    return np.asarray(_ONES[np.ascontiguousarray(words).view(np.uint16)].sum(axis=1, dtype=np.int64))


def _words(prints: Sequence[str]) -> tuple[NDArray[np.uint64], NDArray[np.int64]]:
    """uint64 [N, 4] of those that are not empty, and their positions."""
    places = np.array([place for place, text in enumerate(prints) if text], dtype=np.int64)
    data = bytes.fromhex("".join(prints))
    return np.frombuffer(data, dtype=np.uint64).reshape(-1, 4), places
