"""Networks of the original repositories as numbers: weights by a formula of their names, and a picture."""

from __future__ import annotations

import itertools
import re
import zlib
from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

BOXES = [[20.0, 30.0, 90.0, 110.0], [100.0, 20.0, 180.0, 70.0], [60.0, 100.0, 150.0, 180.0]]
LABELS = [3, 17, 3]
"""Objects of the picture, in pixels of its 192 x 192."""


def weight_of(name: str, shape: tuple[int, ...]) -> NDArray[np.float32]:
    """Always the same for a name: numpy promises the numbers of this generator for good."""
    noise = np.random.RandomState(zlib.crc32(name.encode())).standard_normal(shape)
    if name.endswith("running_var"):
        values = np.exp(0.2 * noise)
    elif len(shape) > 1 and not name.endswith("token"):
        # Wide enough that scores differ, narrow enough that nothing saturates.
        values = noise / np.sqrt(np.prod(shape[1:]))
    elif name.endswith(("weight", "scale", "gamma")):
        values = 1 + 0.1 * noise
    else:
        values = 0.1 * noise
    return np.asarray(values, dtype=np.float32)


def picture(side: int) -> NDArray[np.uint8]:
    """uint8 [1, 3, side, side]: waves, so that no two places look the same."""
    y, x = np.mgrid[:side, :side] / side
    waves = [np.sin(9 * x + 5 * y * y), np.cos(7 * y - 3 * x * y), np.sin(4 * x * x + 11 * y + 1)]
    return np.asarray(127 + 120 * np.stack(waves)[None], dtype=np.uint8)


def names_of(lines: Sequence[str]) -> Iterator[str]:
    """Names written as `blocks.<0-2,4>.conv.weight|bias`."""
    for line in lines:
        head, _, tails = line.rpartition(".")
        pieces = re.split(r"<([^>]*)>", head)
        choices = [[piece] if i % 2 == 0 else _numbers(piece) for i, piece in enumerate(pieces)]
        for parts in itertools.product(*choices):
            for tail in tails.split("|"):
                yield f"{''.join(parts)}.{tail}"


def _numbers(text: str) -> list[str]:
    runs = (run.partition("-") for run in text.split(","))
    return [str(i) for first, _, last in runs for i in range(int(first), int(last or first) + 1)]
