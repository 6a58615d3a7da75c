# ruff: noqa: TID253
"""A mask as one polygon along the edges of its pixels, so that filling it gives the same mask, to the pixel.

Parts and holes are joined by bridges that are walked there and back: with the even-odd rule, which pycocotools fills
by, they cancel out.
"""

from __future__ import annotations

from collections import defaultdict
from typing import Any

import numpy as np
from numpy.typing import NDArray

Vertex = tuple[int, int]
_RIGHT, _DOWN, _LEFT, _UP = (1, 0), (0, 1), (-1, 0), (0, -1)


def outline(mask: NDArray[Any]) -> NDArray[np.int64]:
    """mask: [H, W]. int64 [N, 2] corners (x, y) in pixels; empty for an empty mask."""
    found = loops(mask)
    if not found:
        return np.zeros((0, 2), dtype=np.int64)
    return _joined([np.array(loop, dtype=np.int64) for loop in found])


def loops(mask: NDArray[Any]) -> list[list[Vertex]]:
    """Closed outlines of all parts and holes, corners only; the inside lies to the right of the way."""
    onward = _edges(mask)
    found = []
    while onward:
        found.append(_walk(onward, next(iter(onward))))
    return found


def _edges(mask: NDArray[Any]) -> dict[Vertex, list[Vertex]]:
    """Corner of a pixel to the directions in which an edge leaves it."""
    inside = np.pad(np.asarray(mask) != 0, 1)
    core = inside[1:-1, 1:-1]
    onward: dict[Vertex, list[Vertex]] = defaultdict(list)
    sides = (
        (core & ~inside[:-2, 1:-1], (0, 0), _RIGHT),
        (core & ~inside[1:-1, 2:], (1, 0), _DOWN),
        (core & ~inside[2:, 1:-1], (1, 1), _LEFT),
        (core & ~inside[1:-1, :-2], (0, 1), _UP),
    )
    for border, (right, down), direction in sides:
        rows, columns = np.nonzero(border)
        for vertex in zip((columns + right).tolist(), (rows + down).tolist(), strict=True):
            onward[vertex].append(direction)
    return onward


def _walk(onward: dict[Vertex, list[Vertex]], start: Vertex) -> list[Vertex]:
    """Follow edges from a corner until they close; the edges are taken out."""
    corners: list[Vertex] = []
    place, direction = start, (0, 0)
    while place in onward:
        ways = onward[place]
        # Where two pixels touch at a corner, turn right: they stay two parts.
        turn = (-direction[1], direction[0])
        way = turn if turn in ways else ways[0]
        ways.remove(way)
        if not ways:
            del onward[place]
        if way != direction:
            corners.append(place)
        place, direction = (place[0] + way[0], place[1] + way[1]), way
    return corners


def _joined(parts: list[NDArray[np.int64]]) -> NDArray[np.int64]:
    """One polygon: each further part hangs on the corner that is nearest to it."""
    path = parts[0]
    for part in parts[1:]:
        distances = np.abs(path[:, None] - part[None]).sum(axis=2)
        here, there = divmod(int(distances.argmin()), len(part))
        around = np.concatenate([part[there:], part[: there + 1]])
        path = np.concatenate([path[: here + 1], around, path[here:]])
    return path
