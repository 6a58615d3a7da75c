# ruff: noqa: TID253
"""How often an epoch shows each image, so that rare classes are seen more often."""

from __future__ import annotations

from typing import Literal

import numpy as np
from numpy.typing import NDArray

from detloom.data.dataset import Split
from detloom.rng import keyed_generator

Balance = Literal["none", "repeat-factor", "weighted"]


def image_rates(split: Split, kind: Balance, threshold: float) -> NDArray[np.float64] | None:
    """float64 [images]: how often an epoch shows each image, on average; None: once each.

    repeat-factor: max over its classes c of max(1, sqrt(threshold / f(c))), f(c) being the share of the images that
    hold c (Gupta et al. 2019, LVIS, section 4.1). weighted: in proportion to 1 / f of its rarest class, images without
    objects as the commonest class; an epoch stays as long as it was. Crowds are not trained on and do not count.
    """
    if kind == "none" or not len(split):
        return None
    pairs = np.unique(np.stack([split.image_index[~split.crowd], split.labels[~split.crowd]]), axis=1)
    share = np.bincount(pairs[1]) / len(split) if pairs.size else np.zeros(0)
    with np.errstate(divide="ignore"):
        dear = np.maximum(1.0, np.sqrt(threshold / share)) if kind == "repeat-factor" else 1.0 / share
    least = 1.0 if kind == "repeat-factor" or not pairs.size else float(dear[np.isfinite(dear)].min())
    rates = np.full(len(split), least)
    np.maximum.at(rates, pairs[0], dear[pairs[1]])
    return rates if kind == "repeat-factor" else rates * (len(split) / rates.sum())


def epoch_length(rates: NDArray[np.float64]) -> int:
    """Images of an epoch, the same in each."""
    return max(1, round(float(rates.sum())))


def draw_epoch(rates: NDArray[np.float64], seed: int, epoch: int) -> list[int]:
    """Positions in the split in the order of an epoch: a function of seed and epoch.

    Every image is there as often as its rate says, rounded down or up, and on average over the epochs exactly so
    (systematic sampling along a shuffled order).
    """
    rng = keyed_generator(seed, epoch, "balance")
    line = rng.permutation(len(rates))
    length = epoch_length(rates)
    ends = np.cumsum(rates[line]) * (length / float(rates.sum()))
    ends[-1] = length
    marks = np.floor(ends + rng.random()).astype(np.int64)
    counts = np.diff(marks, prepend=0)
    drawn = np.repeat(line, counts)
    order: list[int] = rng.permutation(drawn).tolist()
    return order
