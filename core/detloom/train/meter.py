# ruff: noqa: TID253
"""What the device computed and the clocks said between two records."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass

import torch
from torch import Tensor

from detloom.train.divergence import BrokenStep


@dataclass(frozen=True, slots=True)
class Record:
    """means: over the steps, by name. broken: the first step that was not finite, counted from 0 within the record."""

    means: dict[str, float]
    steps: int
    broken: BrokenStep | None = None


class Meter:
    """Nothing is computed on the device here: that waits for the record, every tenth step or so."""

    def __init__(self) -> None:
        self.start()

    def start(self) -> None:
        self.waited = 0.0
        self._names: tuple[str, ...] = ()
        self._steps: list[tuple[Tensor, Tensor, Tensor]] = []
        self._places: list[tuple[int, int]] = []
        self._images = 0
        self._since = time.perf_counter()

    def add(self, images: int) -> None:
        self._images += images

    def record(
        self, names: tuple[str, ...], terms: Tensor, norm: Tensor, normaliser: Tensor, place: tuple[int, int]
    ) -> None:
        """terms: [T], summed; norm: of the undivided gradient; both are divided by the normaliser when read.
        place: (first micro-batch of the step in its epoch, how many)."""
        self._names = names
        self._steps.append((terms, norm, normaliser))
        self._places.append(place)

    def take(self, *, skipped: bool = False) -> Record | None:
        """What there is since the last call; None when nothing happened. The one host read of the loop.

        skipped: steps whose gradient is not finite were left out by a scaler: they are no fault, and their gradients
        no part of the mean.
        """
        if not self._steps:
            return None
        sums = [torch.cat([terms, norm.reshape(1)]) / normaliser for terms, norm, normaliser in self._steps]
        rows: list[list[float]] = torch.stack(sums).tolist()
        elapsed = max(time.perf_counter() - self._since, 1e-9)
        broken = next((b for index, row in enumerate(rows) if (b := self._fault(index, row, skipped))), None)
        if broken is not None:
            return Record({}, len(rows), broken)
        terms = [math.fsum(column) / len(rows) for column in zip(*(row[:-1] for row in rows), strict=True)]
        norms = [row[-1] for row in rows if not skipped or math.isfinite(row[-1])]
        means = {"loss": math.fsum(terms), **dict(zip(self._names, terms, strict=True))}
        if norms:
            means["grad_norm"] = math.fsum(norms) / len(norms)
        means["images_per_s"] = self._images / elapsed
        means["data_wait"] = self.waited / elapsed
        self.start()
        return Record(means, len(rows), broken)

    def _fault(self, index: int, row: list[float], skipped: bool) -> BrokenStep | None:
        loss = sum(row[:-1])
        first, count = self._places[index]
        if not math.isfinite(loss):
            return BrokenStep(index, first, count, "loss", loss)
        if not skipped and not math.isfinite(row[-1]):
            return BrokenStep(index, first, count, "gradient", row[-1])
        return None
