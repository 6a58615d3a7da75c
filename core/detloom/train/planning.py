# ruff: noqa: TID253
"""What a training will be, before it is started: steps, parameters and memory."""

from __future__ import annotations

import dataclasses
import math
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from detloom.counting import counted
from detloom.data.balance import epoch_length, image_rates
from detloom.errors import DetloomError
from detloom.train.assemble import build_model, choose_device, choose_precision
from detloom.train.footprint import Footprint, measure_footprint
from detloom.train.freezing import Freezing
from detloom.train.memory import free_memory

if TYPE_CHECKING:
    from detloom.config import ResolvedConfig
    from detloom.data.dataset import Dataset, Split
    from detloom.host import PluginHost
    from detloom_schemas.config import RunConfig

SPARE = 0.9
"""Share of the free memory that a plan fills: batches differ, and others use the machine too."""


@dataclasses.dataclass(frozen=True, slots=True)
class Length:
    """images: in an epoch. images_per_step, images_in_last_step: of an epoch, which may end with a smaller step."""

    images: int
    epochs: int
    steps_per_epoch: int
    steps: int
    images_per_step: int
    images_in_last_step: int

    def line(self) -> str:
        """For people."""
        per_epoch = f"{counted(self.epochs, 'epoch')} of {self.steps_per_epoch} ({counted(self.images, 'image')})"
        uneven = self.images_in_last_step != self.images_per_step and self.steps >= self.steps_per_epoch
        last = f", the last of an epoch of {self.images_in_last_step}" if uneven else ""
        return f"{self.steps:,} of {counted(self.images_per_step, 'image')}{last}: {per_epoch}"


@dataclasses.dataclass(frozen=True, slots=True)
class TrainingPlan:
    """parameters, trained: counts; trained at any time. limit: bytes that may be taken, None where unknown. length,
    images (of the training split): None without data. objects: in the fullest image, which the memory of a loss depends
    on. epoch: whose memory was measured (0-based), the first that trains the most; None where no thaw is planned."""

    model: str
    size: tuple[int, int]
    device: str
    precision: str
    parameters: int
    trained: int
    batch_size: int
    accumulation: int
    objects: int
    footprint: Footprint
    limit: int | None
    length: Length | None
    images: int | None = None
    epoch: int | None = None

    @property
    def largest(self) -> int | None:
        """The largest batch that fits; None where nobody knows what there is."""
        return None if self.limit is None else self.footprint.largest(self.limit)

    @property
    def fits(self) -> bool:
        return self.largest is None or self.batch_size <= self.largest

    def advised(self) -> tuple[int, int] | None:
        """The batch size and the accumulation that fit the memory and the training split, with as many images a step as
        were asked for where the split has them; None when not even one image fits."""
        if self.largest == 0:
            return None
        there = [n for n in (self.images, self.length.images if self.length is not None else None) if n]
        wanted = min([self.batch_size * self.accumulation, *there])
        batch = min(self.batch_size, self.largest or self.batch_size, wanted)
        accumulation = math.ceil(wanted / batch)
        if there and batch * accumulation > min(there):
            batch = min(there) // accumulation
        return batch, accumulation

    def to_json(self) -> dict[str, Any]:
        """Sizes in bytes."""
        batches = {str(n): self.footprint.at(n) for n in self.shown_batches()}
        return {
            "model": self.model,
            "size": list(self.size),
            "device": self.device,
            "precision": self.precision,
            "parameters": self.parameters,
            "trained_parameters": self.trained,
            "batch_size": self.batch_size,
            "gradient_accumulation": self.accumulation,
            "objects": self.objects,
            "length": None if self.length is None else dataclasses.asdict(self.length),
            "memory": {
                "predicted": batches,
                "tensors": {str(n): self.footprint.tensors_at(n) for n in self.shown_batches()},
                "epoch": self.epoch,
                "probes": [list(probe) for probe in self.footprint.probes],
                "how": self.footprint.how,
                "limit": self.limit,
            },
            "largest_batch_size": self.largest,
            "fits": self.fits,
        }

    def shown_batches(self) -> list[int]:
        powers = [2**n for n in range(8)]
        more = [self.batch_size, *([self.largest] if self.largest and self.largest <= 1024 else [])]
        return sorted({*powers, *more})

    def lines(self) -> list[str]:
        """For people."""
        height, width = self.size
        trained = f", {self.trained:,} of them trained" if self.trained != self.parameters else ""
        rows = [
            f"model    {self.model} at {height}x{width} on {self.device}, {self.precision}",
            f"         {self.parameters:,} parameters{trained}",
        ]
        if self.length is not None:
            rows.append(f"steps    {self.length.line()}")
        rows.append("memory   batch  predicted")
        for batch in self.shown_batches():
            fits = "" if self.limit is None or self.footprint.at(batch) <= self.limit else "  too much"
            mark = "  <- this training" if batch == self.batch_size else ""
            rows.append(f"         {batch:>5}  {_size(self.footprint.at(batch)):>9}{fits}{mark}")
        rows.append(f"         from {self.footprint.how}")
        if self.epoch is not None:
            why = (
                "counted from 0, after the last thaw of this training"
                if self.epoch
                else "since this training ends before any thaw"
            )
            rows.append(f"         in epoch {self.epoch}, {why}")
        if self.limit is not None:
            rows.append(f"fits     up to batch {self.largest} in {_size(self.limit)}")
        return rows


def _size(count: float) -> str:
    return f"{count / 1e9:.2f} GB"


def plan_training(
    resolved: ResolvedConfig,
    host: PluginHost,
    dataset: Dataset | None,
    *,
    classes: int = 80,
    objects: int = 20,
    limit: float | None = None,
) -> TrainingPlan:
    """Builds the model with random weights and trains it for a few steps. classes, objects: without data. limit: bytes
    that may be taken; None: most of what is free."""
    config = resolved.config
    device = choose_device(config.training.device)
    length = None if dataset is None else length_of(config, dataset.splits["train"])
    names = tuple(f"class {n}" for n in range(classes)) if dataset is None else dataset.class_map.names
    if dataset is not None:
        objects = fullest(dataset.splits["train"])
    free = free_memory(device)
    model = build_model(resolved, host, names, pretrained=False)
    epochs = length.epochs if length is not None else None if config.training.max_steps else config.training.epochs
    epoch = heaviest_epoch(model.freezing, epochs)
    model.freezing.apply(model.detector, epoch)
    counts = [(p.numel(), p.requires_grad) for p in model.detector.parameters()]
    try:
        footprint = measure_footprint(model, config.training, objects, device, epoch=epoch)
    except (torch.OutOfMemoryError, MemoryError) as error:
        raise DetloomError(
            f"not even a batch of one image fits: {str(error).splitlines()[0]}",
            hint="a smaller training.resolution or model.type, training.gradient_checkpointing, or model.lora",
        ) from error
    return TrainingPlan(
        model=host.qualified(model.spec),
        size=model.detector.input_rule.size,
        device=str(device),
        precision=str(choose_precision(config.training, device)).removeprefix("torch."),
        parameters=sum(count for count, _ in counts),
        trained=sum(count for count, trained in counts if trained),
        batch_size=config.training.batch_size,
        accumulation=config.training.gradient_accumulation,
        objects=objects,
        footprint=footprint,
        limit=int(limit) if limit is not None else None if free is None else int(SPARE * free),
        length=length,
        images=None if dataset is None else len(dataset.splits["train"]),
        epoch=epoch if config.training.unfreeze else None,
    )


def heaviest_epoch(freezing: Freezing, epochs: int | None) -> int:
    """The first epoch (0-based) in which all is trained that a training of so many epochs ever trains: a thaw adds
    gradients, moments and activations, and takes nothing away. epochs: None where nobody knows how many."""
    thaws = (since for since in freezing.thawed_at.values() if since is not None)
    return max((since for since in thaws if epochs is None or since < epochs), default=0)


def fullest(split: Split) -> int:
    """Objects in the fullest image."""
    rows = (split.objects_of(position) for position in range(len(split)))
    return max((row.stop - row.start for row in rows), default=1)


def length_of(config: RunConfig, split: Split) -> Length:
    """As the session counts: the last batch of an epoch is left out unless it is the only one."""
    training = config.training
    images = len(split)
    if training.overfit_batches:
        images = min(training.overfit_batches * training.batch_size, images)
    else:
        rates = image_rates(split, config.data.balance, config.data.balance_threshold)
        images = images if rates is None else epoch_length(np.asarray(rates))
    batch, batches = min(training.batch_size, images), max(images // training.batch_size, 1)
    per_epoch = math.ceil(batches / training.gradient_accumulation)
    steps = training.max_steps or training.epochs * per_epoch
    whole = batch * min(training.gradient_accumulation, batches)
    last = batch * batches - (per_epoch - 1) * whole
    return Length(images, math.ceil(steps / per_epoch), per_epoch, steps, whole, last)
