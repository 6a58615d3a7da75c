# ruff: noqa: TID253
"""The training loop, one for all families. It reads top to bottom: run, epoch, step."""

from __future__ import annotations

import itertools
import math
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor

from detloom.data.loader import Batch
from detloom.detector import Detector
from detloom.errors import DetloomError
from detloom.train.early_stopping import BestSoFar
from detloom.train.ema import ModelEMA
from detloom.train.memory import memory_mb
from detloom.train.optimizer import keep_frozen_in_eval
from detloom.train.schedule import Schedule
from detloom.train.seeding import seed_torch
from detloom_schemas.config import TrainingConfig


class BatchSource(Protocol):
    """What the loop needs of a loader."""

    @property
    def batches_per_epoch(self) -> int: ...
    def epoch(self, epoch: int, start_batch: int = 0) -> Iterator[Batch]: ...


@runtime_checkable
class Stateful(Protocol):
    def state_dict(self) -> dict[str, Any]: ...
    def load_state_dict(self, state: dict[str, Any]) -> object: ...


@dataclass(slots=True)
class Progress:
    """Where the training stands. epoch: running or next; batch: batches of it that are done; step: optimizer steps;
    sums: means of this epoch in the making, so that an interrupted epoch is reported whole."""

    epoch: int = 0
    batch: int = 0
    step: int = 0
    finished: bool = False
    sums: dict[str, float] = field(default_factory=dict)
    summed_steps: int = 0


@dataclass(frozen=True, slots=True)
class Hooks:
    """What the loop tells and asks its surroundings. None of them can alter the training but `stop_requested`."""

    log: Callable[[Mapping[str, float], int, int], None]
    epoch_started: Callable[[int, int], None]
    evaluate: Callable[[int], Mapping[str, float]]
    epoch_finished: Callable[[int, int, Mapping[str, float]], None]
    save: Callable[[str, Mapping[str, float]], None]
    stop_requested: Callable[[], bool]


@dataclass(frozen=True, slots=True)
class LoopPlan:
    """Lengths, fixed before the first step."""

    steps_per_epoch: int
    total_steps: int
    total_epochs: int
    eval_interval: int
    eval_start_epoch: int
    best_metric: str
    log_interval: int

    def is_evaluated(self, epoch: int) -> bool:
        if epoch == self.total_epochs - 1:
            return True
        return epoch >= self.eval_start_epoch and (epoch + 1) % self.eval_interval == 0


class TrainingDiverged(DetloomError):
    """The loss is not a number any more; nothing after the last checkpoint was kept."""


class Loop:
    """All that changes while training, and the steps that change it."""

    def __init__(
        self,
        detector: Detector,
        optimizer: torch.optim.Optimizer,
        schedule: Schedule,
        ema: ModelEMA | None,
        loader: BatchSource,
        config: TrainingConfig,
        plan: LoopPlan,
        hooks: Hooks,
        *,
        device: torch.device,
        precision: torch.dtype,
        plugins: Mapping[str, Stateful] | None = None,
    ) -> None:
        self.detector, self.optimizer, self.schedule, self.ema = detector, optimizer, schedule, ema
        self.loader, self.config, self.plan, self.hooks = loader, config, plan, hooks
        self.device, self.precision = device, precision
        self.plugins = dict(plugins or {})
        self.progress = Progress()
        patience = config.early_stopping_patience if config.early_stopping else None
        self.best = BestSoFar(
            plan.best_metric == "loss", config.early_stopping_min_delta, patience, metric=plan.best_metric
        )
        self._parameters = [parameter for parameter in detector.parameters() if parameter.requires_grad]
        self._meter = _Meter()

    # ---- run ---------------------------------------------------------------------------------------------------

    def run(self) -> str:
        """Train until the plan is done. Returns `completed`, `stopped early` or `interrupted`."""
        while not self.progress.finished and not self.best.exhausted:
            epoch = self.progress.epoch
            self.detector.begin_epoch(epoch, self.plan.total_epochs)
            self.hooks.epoch_started(epoch, self.progress.step)
            if not self._train_epoch(epoch):
                self.hooks.save("last", {})
                return "interrupted"
            metrics = self._close_epoch(epoch)
            self.hooks.epoch_finished(epoch, self.progress.step, metrics)
            if self.best.exhausted:
                return "stopped early"
            if not self.progress.finished and self.hooks.stop_requested():
                self.hooks.save("last", {})
                return "interrupted"
        return "stopped early" if self.best.exhausted else "completed"

    def _train_epoch(self, epoch: int) -> bool:
        """Optimizer steps until the epoch ends; False when asked to stop in the middle."""
        self.detector.train()
        keep_frozen_in_eval(self.detector)
        batches = iter(self.loader.epoch(epoch, self.progress.batch))
        self._meter.start()
        try:
            while micro := self._next_batches(batches):
                self._step(micro)
                self.progress.batch += len(micro)
                self.progress.step += 1
                self._meter.add(sum(len(batch.sizes) for batch in micro))
                if self.progress.step % self.plan.log_interval == 0:
                    self._log(epoch)
                if self.progress.step >= self.plan.total_steps:
                    break
                if self.hooks.stop_requested() and self.progress.batch < self.loader.batches_per_epoch:
                    self._log(epoch)
                    return False
        finally:
            # An epoch left early must not leave its workers reading on.
            close = getattr(batches, "close", None)
            if close is not None:
                close()
        self._log(epoch)
        return True

    def _close_epoch(self, epoch: int) -> dict[str, float]:
        """Evaluate, judge and save at the end of an epoch."""
        progress = self.progress
        metrics = {f"train/{k}": v / max(progress.summed_steps, 1) for k, v in progress.sums.items()}
        progress.sums, progress.summed_steps = {}, 0
        started = time.perf_counter()
        is_best = False
        last_epoch = progress.step >= self.plan.total_steps
        if last_epoch or self.plan.is_evaluated(epoch):
            metrics.update(self.hooks.evaluate(epoch))
            metrics["epoch/evaluation_s"] = time.perf_counter() - started
            value = metrics.get(f"val/{self.plan.best_metric}", math.nan)
            is_best = math.isfinite(value) and self.best.update(value, epoch)
        if progress.batch >= self.loader.batches_per_epoch:  # else max_steps ended the epoch early
            progress.epoch, progress.batch = epoch + 1, 0
        progress.finished = last_epoch or self.best.exhausted
        if is_best:
            self.hooks.save("best", metrics)
        if progress.finished or (epoch + 1) % self.config.checkpoint_interval == 0:
            self.hooks.save("last", metrics)
        return metrics

    # ---- step --------------------------------------------------------------------------------------------------

    def _next_batches(self, batches: Iterator[Batch]) -> list[Batch]:
        """The micro-batches of one step, the time spent waiting for them measured."""
        started = time.perf_counter()
        micro = list(itertools.islice(batches, self.config.gradient_accumulation))
        self._meter.waited += time.perf_counter() - started
        return micro

    def _step(self, micro: list[Batch]) -> None:
        """Forward and backward of each micro-batch, then one update with the gradient of the whole."""
        sums: Tensor | None = None
        normaliser: Tensor | None = None
        names: tuple[str, ...] = ()
        for number, batch in enumerate(micro):
            seed_torch(self.config.seed, self.progress.step, number, device=self.device)
            names, terms, count = self._forward_backward(batch)
            sums = terms if sums is None else sums + terms
            normaliser = count if normaliser is None else normaliser + count
        assert sums is not None and normaliser is not None
        # Terms are summed, not averaged: dividing once by the total makes accumulation equal to the large batch.
        normaliser = normaliser.clamp(min=1.0)
        norm = self._scale_gradients(normaliser)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        self.schedule.step()
        if self.ema is not None:
            self.ema.update(self.detector)
        self._meter.record(names, sums, norm, normaliser)

    def _forward_backward(self, batch: Batch) -> tuple[tuple[str, ...], Tensor, Tensor]:
        images = batch.images.to(self.device, non_blocking=True)
        if self.config.channels_last:
            images = images.contiguous(memory_format=torch.channels_last)
        targets = batch.targets.to(self.device)
        with self._autocast():
            outputs = self.detector(images, targets)
        loss = self.detector.loss(outputs, targets)
        values = torch.stack(list(loss.terms.values()))
        values.sum().backward()  # type: ignore[no-untyped-call]
        return tuple(loss.terms), values.detach(), loss.normaliser.detach().float()

    def _autocast(self) -> AbstractContextManager[object]:
        if self.precision == torch.float32:
            return nullcontext()  # a disabled autocast still costs
        return torch.autocast(self.device.type, self.precision)

    def _scale_gradients(self, normaliser: Tensor) -> Tensor:
        """Divide by the normaliser and clip, in one pass. Returns the norm of the undivided gradient."""
        gradients = [parameter.grad for parameter in self._parameters if parameter.grad is not None]
        norm = torch.nn.utils.get_total_norm(gradients, foreach=True)
        factor = normaliser.reciprocal()
        if self.config.gradient_clip is not None:
            # clip / (norm / normaliser) / normaliser: the normaliser cancels.
            factor = torch.minimum(factor, self.config.gradient_clip / (norm + 1e-6))
        torch._foreach_mul_(gradients, factor)  # pyright: ignore[reportPrivateImportUsage]
        return norm

    # ---- record ------------------------------------------------------------------------------------------------

    def _log(self, epoch: int) -> None:
        """Read what was gathered on the device since the last record: the one host read of the loop."""
        means = self._meter.take()
        if not means:
            return
        for name in ("loss", "grad_norm"):
            if not math.isfinite(means[name]):
                what = "loss" if name == "loss" else "gradient"
                raise TrainingDiverged(
                    f"the {what} is {means[name]} at step {self.progress.step} (epoch {epoch + 1})",
                    hint="lower training.lr, lengthen training.warmup_epochs, set training.gradient_clip (10 or less) "
                    "or use training.precision=fp32; the last checkpoint is whole and --resume starts from it",
                )
        values = dict(means)
        values["lr"] = self.schedule.rate_of(self.progress.step - 1)
        values["memory_mb"] = memory_mb(self.device)
        steps = self._meter.last_steps
        for name, value in values.items():
            self.progress.sums[name] = self.progress.sums.get(name, 0.0) + value * steps
        self.progress.summed_steps += steps
        self.hooks.log({f"train/{k}": v for k, v in values.items()}, self.progress.step, epoch)

    # ---- state -------------------------------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        """Everything that a resumed run needs to be the same run."""
        progress = self.progress
        return {
            "model": self.detector.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "schedule": self.schedule.state_dict(),
            "ema": None if self.ema is None else self.ema.state_dict(),
            "best": self.best.state_dict(),
            "progress": {name: getattr(progress, name) for name in Progress.__slots__},
            "plugins": {name: plugin.state_dict() for name, plugin in self.plugins.items()},
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.detector.load_state_dict(state["model"])
        self._load_optimizer(state["optimizer"])
        self.schedule.load_state_dict(state["schedule"])
        if self.ema is not None and state["ema"] is not None:
            self.ema.load_state_dict(state["ema"])
        self.best.load_state_dict(state["best"])
        self.progress = Progress(**state["progress"])
        # A longer plan than the saved run had: go on where it ended.
        self.progress.finished = self.progress.step >= self.plan.total_steps
        for name, plugin in self.plugins.items():
            if name in state["plugins"]:
                plugin.load_state_dict(state["plugins"][name])

    def _load_optimizer(self, state: dict[str, Any]) -> None:
        """Moments are the state's; rates, decay and momentum are the configuration's, which a resume may change."""
        ours = [{k: v for k, v in group.items() if k != "params"} for group in self.optimizer.param_groups]
        if len(state["param_groups"]) != len(ours) or state["param_groups"][0].keys() - {"params"} != ours[0].keys():
            raise ValueError("the optimizer is another one")
        self.optimizer.load_state_dict(state)
        for group, own in zip(self.optimizer.param_groups, ours, strict=True):
            group.update(own)


class _Meter:
    """What the device computed and the clocks said between two records. Nothing is computed on it here: that waits
    for the record, every tenth step or so."""

    def __init__(self) -> None:
        self.waited = 0.0
        self.last_steps = 0
        self._names: tuple[str, ...] = ()
        self._steps: list[tuple[Tensor, Tensor, Tensor]] = []
        self._images = 0
        self._since = time.perf_counter()

    def start(self) -> None:
        self.__init__()  # type: ignore[misc]

    def add(self, images: int) -> None:
        self._images += images

    def record(self, names: tuple[str, ...], terms: Tensor, norm: Tensor, normaliser: Tensor) -> None:
        """terms: [T], summed; norm: of the undivided gradient; both are divided by the normaliser when read."""
        self._names = names
        self._steps.append((terms, norm, normaliser))

    def take(self) -> dict[str, float]:
        """Means since the last call; empty when nothing happened."""
        if not self._steps:
            return {}
        sums = [torch.cat([terms, norm.reshape(1)]) / normaliser for terms, norm, normaliser in self._steps]
        *terms, norm = torch.stack(sums).mean(0).tolist()
        elapsed = max(time.perf_counter() - self._since, 1e-9)
        means = {"loss": math.fsum(terms), **dict(zip(self._names, terms, strict=True)), "grad_norm": norm}
        means["images_per_s"] = self._images / elapsed
        means["data_wait"] = self.waited / elapsed
        steps = len(self._steps)
        self.start()
        self.last_steps = steps
        return means
