# ruff: noqa: TID253
"""The last moves of a stratified split of few images: where going image by image is not good enough.

Up to `EVERY` arrangements are all tried; else single moves and exchanges of two units are made while one helps.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

EVERY = 4096
"""Arrangements that are all tried: twelve units in two splits, seven in three."""

_CLOSE = 1e-9

Ints = NDArray[np.int64]
Scores = NDArray[np.float64]


@dataclass(frozen=True, slots=True, eq=False)
class Task:
    """labels: int [U, L], how many images of each unit hold each label; total: int [L], of all images, those of other
    splits too; shares: float [S], of each split; classes, several: bool [L], whether a label is a class, and whether it
    is one that at least two units hold; places: int [U], split of each unit; free: bool [U], whether it may move."""

    labels: Ints
    total: Ints
    shares: NDArray[np.float64]
    classes: NDArray[np.bool_]
    several: NDArray[np.bool_]
    places: Ints
    free: NDArray[np.bool_]


def polished(task: Task) -> Ints:
    """[U]: the split of each unit, never worse than it was.

    Better is, in this order: no split empty; a class of several units in the first split, then in the others; fewer
    images too many or too few of the worst class, in whole images; smaller squares of all labels' distances.
    """
    free = np.flatnonzero(task.free)
    if len(task.shares) ** len(free) <= EVERY:
        return _best_of_all(task, free)
    places = task.places
    while True:
        better = _one_step(replace(task, places=places), free)
        if better is None:
            return places
        places = better


def _best_of_all(task: Task, free: Ints) -> Ints:
    splits = len(task.shares)
    arranged = np.repeat(task.places[None], splits ** len(free), axis=0)
    numbers = np.arange(len(arranged))
    for power, unit in enumerate(free):
        arranged[:, unit] = numbers // splits**power % splits
    held = np.stack([(arranged == split).astype(np.int64) @ task.labels for split in range(splits)], axis=1)
    moved = (arranged != task.places).sum(axis=1)
    return np.asarray(arranged[_first(_scores(task, held), moved)])


def _one_step(task: Task, free: Ints) -> Ints | None:
    """The best single move or exchange, or None when none helps."""
    steps = [(unit, unit, split) for unit in free for split in range(len(task.shares)) if split != task.places[unit]]
    pairs = itertools.combinations(free, 2)
    steps += [(one, other, -1) for one, other in pairs if task.places[one] != task.places[other]]
    if not steps:
        return None
    ones, others, targets = np.array(steps).T
    exchange = targets < 0
    there = np.where(exchange, task.places[others], targets)
    change = task.labels[ones] - np.where(exchange[:, None], task.labels[others], 0)
    rows = np.arange(len(steps))
    before = np.stack([task.labels[task.places == split].sum(axis=0) for split in range(len(task.shares))])
    held = np.repeat(before[None], len(steps), axis=0)
    held[rows, task.places[ones]] -= change
    held[rows, there] += change
    now, scores = _scores(task, before[None])[:, 0], _scores(task, held)
    best = _first(scores, exchange.astype(np.int64))
    if tuple(scores[:, best]) >= tuple(now):
        return None
    places = task.places.copy()
    places[ones[best]] = there[best]
    if exchange[best]:
        places[others[best]] = task.places[ones[best]]
    return places


def _scores(task: Task, held: Ints) -> Scores:
    """[5, N] of N arrangements, the first row the weightiest; less is better. held: [N, S, L]."""
    off = np.abs(held - task.shares[:, None] * task.total)
    lacks = (held[:, :, task.several] == 0).sum(axis=2)
    worst = off[:, :, task.classes].max(axis=(1, 2), initial=0.0)
    squares = (off**2 / np.sqrt(task.total)).sum(axis=(1, 2))
    empty = (held.sum(axis=2) == 0).sum(axis=1)
    # Whole images, and rounded squares: what only differs by rounding is equal.
    return np.stack(
        [empty, lacks[:, 0], lacks[:, 1:].sum(axis=1), np.ceil(worst - _CLOSE), np.round(squares, 9)]
    ).astype(np.float64)


def _first(scores: Scores, cost: Ints) -> int:
    """The best column; of equal ones that of least cost, then the first."""
    return int(np.lexsort((cost, *scores[::-1]))[0])
