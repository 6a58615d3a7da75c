# ruff: noqa: TID253
"""Batches for training and for evaluation. What a batch holds never depends on workers, order or restarts."""

from __future__ import annotations

import atexit
import math
import os
import signal
import weakref
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.data import DataLoader

from detloom.data.balance import draw_epoch, epoch_length
from detloom.data.batch import Batch, ImageTarget, collate_fn
from detloom.data.caching import PixelStore
from detloom.data.dataset import Split
from detloom.data.memory import keep_freed_memory
from detloom.data.samples import NamedTransform, SampleReader, build_transforms
from detloom.errors import DataError, DetloomError, PluginError
from detloom.geometry import InputRule
from detloom.rng import keyed_generator
from detloom.specs import Transform

__all__ = ["Batch", "EvalLoader", "ImageTarget", "NamedTransform", "TrainLoader", "build_transforms", "collate_fn"]

Key = tuple[int, int, int]
"""(epoch, position in the split, how often the epoch has shown it before)"""


class TrainLoader:
    """Shuffled, augmented batches; each image at most once an epoch (see drop_last), or as often as its rate says."""

    def __init__(
        self,
        split: Split,
        input_rule: InputRule,
        transforms: Sequence[NamedTransform],
        *,
        batch_size: int,
        seed: int = 0,
        num_workers: int | Literal["auto"] = "auto",
        prefetch_factor: int = 2,
        persistent_workers: bool = True,
        pin_memory: bool = False,
        drop_last: bool = True,
        masks: bool = False,
        start_method: str | None = None,
        rates: NDArray[np.float64] | None = None,
        pixels: PixelStore | None = None,
    ) -> None:
        """rates: float64 [images], see detloom.data.balance. pixels: see detloom.data.caching. drop_last: leave out
        the last, smaller batch of an epoch, unless it is the only one (another epoch shuffles other images into it).
        start_method: of worker processes; None: the platform's own."""
        self._rates, self._batch_size, self._seed = rates, batch_size, seed
        self._images = len(split) if rates is None else epoch_length(rates)
        self._drop_last = drop_last and self._images > batch_size
        self.plugins: Mapping[str, Transform] = {named.name: named.transform for named in transforms}
        reader = SampleReader(split, input_rule, tuple(transforms), seed, masks, pixels)
        options = _WorkerOptions(
            count=worker_count(num_workers, len(split)),
            prefetch=prefetch_factor,
            persistent=persistent_workers,
            pin=pin_memory,
            start_method=start_method,
        )
        self._batches = _Batches(reader, options)

    @property
    def images_per_epoch(self) -> int:
        """Samples of an epoch, before the last batch is left out."""
        return self._images

    @property
    def batches_per_epoch(self) -> int:
        whole, rest = divmod(self._images, self._batch_size)
        return whole + (1 if rest and not self._drop_last else 0)

    def order(self, epoch: int) -> list[int]:
        """Positions in the split in the order of an epoch: a function of seed and epoch."""
        if self._rates is not None:
            return draw_epoch(self._rates, self._seed, epoch)
        shuffled: list[int] = keyed_generator(self._seed, epoch, "order").permutation(self._images).tolist()
        return shuffled

    def epoch(self, epoch: int, start_batch: int = 0) -> Iterator[Batch]:
        """The batches of an epoch, from `start_batch` on: the same ones as in a run that was not interrupted.

        One epoch at a time: starting the next ends the one before. Raises DataError naming the image.
        """
        shown: Counter[int] = Counter()
        keys: list[Key] = []
        for index in self.order(epoch):
            keys.append((epoch, index, shown[index]))
            shown[index] += 1
        size = self._batch_size
        batches = [keys[start * size : (start + 1) * size] for start in range(self.batches_per_epoch)]
        return self._batches.iterate(batches[start_batch:])


class EvalLoader:
    """All images in order, as they are; also those without objects."""

    def __init__(
        self,
        split: Split,
        input_rule: InputRule,
        *,
        batch_size: int,
        num_workers: int | Literal["auto"] = "auto",
        pin_memory: bool = False,
        masks: bool = False,
        start_method: str | None = None,
        pixels: PixelStore | None = None,
    ) -> None:
        self._images, self._batch_size = len(split), batch_size
        options = _WorkerOptions(
            count=worker_count(num_workers, len(split)), pin=pin_memory, persistent=False, start_method=start_method
        )
        self._batches = _Batches(SampleReader(split, input_rule, masks=masks, pixels=pixels), options)

    def __len__(self) -> int:
        return math.ceil(self._images / self._batch_size)

    def __iter__(self) -> Iterator[Batch]:
        size = self._batch_size
        keys = [(0, index, 0) for index in range(self._images)]
        return self._batches.iterate([keys[start : start + size] for start in range(0, len(keys), size)])


def worker_count(wanted: int | Literal["auto"], images: int) -> int:
    """auto: none on two cores, where they would only take time from the training, nor for a handful of images."""
    if wanted != "auto":
        return wanted
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return 0 if cores <= 2 or images < 64 else min(12, cores - 1)


@dataclass(frozen=True, slots=True)
class _WorkerOptions:
    count: int
    prefetch: int = 2
    persistent: bool = True
    pin: bool = False
    start_method: str | None = None


@dataclass(frozen=True, slots=True)
class _Failure:
    """An error of a worker, carried to the main process without the worker's traceback in its text."""

    kind: type[DetloomError]
    message: str
    hint: str

    def error(self) -> DetloomError:
        return self.kind(self.message, hint=self.hint)


@dataclass(frozen=True, slots=True)
class _Reader:
    """What runs in the workers: keys in, a batch or a failure out."""

    samples: SampleReader

    def batch(self, keys: Sequence[Key]) -> Batch:
        return collate_fn([self.samples.read(epoch, index, again) for epoch, index, again in keys])

    def __getitems__(self, keys: list[Key]) -> Batch | _Failure:
        try:
            return self.batch(keys)
        except DetloomError as error:
            kind = next(kind for kind in (DataError, PluginError, DetloomError) if isinstance(error, kind))
            return _Failure(kind, error.message, error.hint)


@dataclass(slots=True)
class _Keys:
    """The batch sampler: what the next pass is to read. Persistent workers live longer than a pass."""

    batches: list[list[Key]] = field(default_factory=list)

    def __iter__(self) -> Iterator[list[Key]]:
        return iter(self.batches)

    def __len__(self) -> int:
        return len(self.batches)


class _Batches:
    def __init__(self, samples: SampleReader, options: _WorkerOptions) -> None:
        self._reader, self._options, self._keys = _Reader(samples), options, _Keys()
        # Workers stop at once when the last reference to their loader goes, but wait 5 s for a sign of life when
        # they are swept up in a reference cycle or at exit. So the reference is kept here, and dropped in time.
        self._alive: list[DataLoader[Any]] = []
        weakref.finalize(self, self._alive.clear)

    def iterate(self, batches: list[list[Key]]) -> Iterator[Batch]:
        pin = self._options.pin and torch.cuda.is_available()
        if self._options.count == 0:
            keep_freed_memory()
            for keys in batches:
                batch = self._reader.batch(keys)
                yield batch.pin_memory() if pin else batch
            return
        self._keys.batches = batches
        try:
            yield from _checked(self._pass(pin))
        except GeneratorExit:  # the caller has enough; persistent workers stay for the next pass
            raise
        except BaseException:
            self._alive.clear()
            raise

    def _pass(self, pin: bool) -> Iterator[Any]:
        if self._alive:
            return iter(self._alive[0])
        self._alive.append(self._start(pin))
        iterator = iter(self._alive[0])
        atexit.register(self._alive.clear)  # after the loader's own handlers, so before them at exit
        return iterator

    def _start(self, pin: bool) -> DataLoader[Any]:
        options = self._options
        return DataLoader(
            self._reader,  # type: ignore[arg-type]
            batch_sampler=self._keys,
            num_workers=options.count,
            collate_fn=_as_it_is,
            pin_memory=pin,
            prefetch_factor=options.prefetch,
            persistent_workers=options.persistent,
            worker_init_fn=_start_worker,
            multiprocessing_context=options.start_method,
            # Its own generator: each pass draws a seed, which must not come from the one that training depends on.
            generator=torch.Generator(),
        )


def _checked(received: Iterator[Any]) -> Iterator[Batch]:
    """Batches of the workers. Raises what went wrong in one of them."""
    try:
        for batch in received:
            if isinstance(batch, _Failure):
                raise batch.error()
            yield batch
    except RuntimeError as error:
        if "DataLoader worker" not in str(error):
            raise
        raise DetloomError(
            f"a process that reads images died: {error}",
            hint="often too little memory or /dev/shm: lower data.num_workers (0 reads in the main process)",
        ) from error
    finally:
        del received  # else the traceback of an error keeps the workers alive


def _as_it_is(batch: Any) -> Any:
    return batch


def _start_worker(number: int) -> None:
    """Workers use one thread each, and leave Ctrl-C to the main process."""
    del number
    keep_freed_memory()
    cv2.setNumThreads(0)
    torch.set_num_threads(1)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
