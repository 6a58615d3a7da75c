# ruff: noqa: TID253
"""What a training will be, before it is started: steps, parameters and memory."""

from __future__ import annotations

import dataclasses
import math
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from detloom.data.balance import epoch_length, image_rates
from detloom.errors import DetloomError
from detloom.train.assemble import build_model, choose_device, choose_precision
from detloom.train.footprint import Footprint, measure_footprint
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
    """images: in an epoch."""

    images: int
    epochs: int
    steps_per_epoch: int
    steps: int


@dataclasses.dataclass(frozen=True, slots=True)
class TrainingPlan:
    """parameters, trained: counts; trained at any time. limit: bytes that may be taken, None where unknown. length:
    None without data. objects: in the fullest image, which the memory of a loss depends on."""

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

    @property
    def largest(self) -> int | None:
        """The largest batch that fits; None where nobody knows what there is."""
        return None if self.limit is None else self.footprint.largest(self.limit)

    @property
    def fits(self) -> bool:
        return self.largest is None or self.batch_size <= self.largest

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
        effective = self.batch_size * self.accumulation
        if self.length is not None:
            rows.append(
                f"steps    {self.length.steps:,} of {effective} images: {self.length.epochs} epochs of "
                f"{self.length.steps_per_epoch} ({self.length.images:,} images)"
            )
        rows.append("memory   batch  predicted")
        for batch in self.shown_batches():
            fits = "" if self.limit is None or self.footprint.at(batch) <= self.limit else "  too much"
            mark = "  <- this training" if batch == self.batch_size else ""
            rows.append(f"         {batch:>5}  {_size(self.footprint.at(batch)):>9}{fits}{mark}")
        rows.append(f"         from {self.footprint.how}")
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
    names = tuple(f"class {n}" for n in range(classes)) if dataset is None else dataset.class_map.names
    if dataset is not None:
        objects = fullest(dataset.splits["train"])
    free = free_memory(device)
    model = build_model(resolved, host, names, pretrained=False)
    ever = model.freezing.ever_trained(model.detector)
    counts = [(p.numel(), id(p) in ever) for p in model.detector.parameters()]
    try:
        footprint = measure_footprint(model, config.training, objects, device)
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
        length=None if dataset is None else length_of(config, dataset.splits["train"]),
    )


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
    batches = max(images // training.batch_size, 1)
    per_epoch = math.ceil(batches / training.gradient_accumulation)
    steps = training.max_steps or training.epochs * per_epoch
    return Length(images, math.ceil(steps / per_epoch), per_epoch, steps)
