# ruff: noqa: TID253
"""The training loop, one for all families. It reads top to bottom: run, epoch, step."""

from __future__ import annotations

import itertools
import math
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, NoReturn, Protocol, runtime_checkable

import torch
from torch import Tensor

from detloom.data.loader import Batch
from detloom.detector import Detector, LossTerms, Outputs, Targets
from detloom.errors import DetloomError
from detloom.train.divergence import BrokenStep, find_origin
from detloom.train.early_stopping import BestSoFar
from detloom.train.ema import AveragedModel, ModelEMA, ModelSWA
from detloom.train.freezing import NOTHING_FROZEN, Freezing, keep_frozen_in_eval
from detloom.train.lookahead import Lookahead
from detloom.train.memory import memory_mb
from detloom.train.meter import Meter
from detloom.train.scales import ScalePlan, scaled_batch
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
    keep_broken: Callable[[Mapping[str, Any]], str] = lambda broken: ""
    """Keeps the batches of a step whose numbers are not finite; returns a sentence saying where."""


@dataclass(frozen=True, slots=True)
class LoopParts:
    """What a training may have besides; none of it by default. scaler: of the loss, for 16-bit floats."""

    swa: ModelSWA | None = None
    lookahead: Lookahead | None = None
    scaler: torch.amp.GradScaler | None = None
    freezing: Freezing = NOTHING_FROZEN
    scales: ScalePlan | None = None


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


RESUMABLE = "--resume starts from the last checkpoint, where one was saved: it is whole"


class TrainingDiverged(DetloomError):
    """The loss is not a number any more; nothing after the last checkpoint was kept."""


class Loop:
    """All that changes while training, and the steps that change it. problems: what a state that was loaded cannot
    give, for people."""

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
        parts: LoopParts | None = None,
        plugins: Mapping[str, Stateful] | None = None,
    ) -> None:
        self.detector, self.optimizer, self.schedule, self.ema = detector, optimizer, schedule, ema
        self.loader, self.config, self.plan, self.hooks = loader, config, plan, hooks
        self.device, self.precision, self.parts = device, precision, parts or LoopParts()
        self.plugins = dict(plugins or {})
        self.progress = Progress()
        self.problems: list[str] = []
        patience = config.early_stopping_patience if config.early_stopping else None
        self.best = BestSoFar(
            plan.best_metric == "loss", config.early_stopping_min_delta, patience, metric=plan.best_metric
        )
        self._parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
        self._meter = Meter()
        self._broken = torch.zeros((), device=device)
        if self.parts.scaler is None:
            # What a scaler tells the fused optimizers: 1 means, leave weights and moments alone.
            optimizer.found_inf = self._broken  # type: ignore[attr-defined]

    # ---- run ---------------------------------------------------------------------------------------------------

    def run(self) -> str:
        """Train until the plan is done. Returns `completed`, `stopped early` or `interrupted`."""
        while not self.progress.finished and not self.best.exhausted:
            epoch = self.progress.epoch
            self.parts.freezing.apply(self.detector, epoch)
            self.detector.begin_epoch(epoch, self.plan.total_epochs)
            self.hooks.epoch_started(epoch, self.progress.step)
            if not self._train_epoch(epoch):
                self.hooks.save("last", {})
                return "interrupted"
            self._close_epoch(epoch)
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
                self.step(micro)
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

    def _close_epoch(self, epoch: int) -> None:
        """Evaluate, judge, tell and save at the end of an epoch. Told before it is saved: who is killed in between goes
        on from an earlier state and tells it again, where a record that was never made would be missing for good."""
        progress = self.progress
        metrics = {f"train/{k}": v / max(progress.summed_steps, 1) for k, v in progress.sums.items()}
        progress.sums, progress.summed_steps = {}, 0
        started = time.perf_counter()
        is_best = False
        last_epoch = progress.step >= self.plan.total_steps
        self._average(epoch)
        if last_epoch or self.plan.is_evaluated(epoch):
            metrics.update(self.hooks.evaluate(epoch))
            metrics["epoch/evaluation_s"] = time.perf_counter() - started
            value = metrics.get(f"val/{self.plan.best_metric}", math.nan)
            is_best = math.isfinite(value) and self.best.update(value, epoch)
        if progress.batch >= self.loader.batches_per_epoch:  # else max_steps ended the epoch early
            progress.epoch, progress.batch = epoch + 1, 0
        progress.finished = last_epoch or self.best.exhausted
        self.hooks.epoch_finished(epoch, progress.step, metrics)
        if is_best:
            self.hooks.save("best", metrics)
        if progress.finished or (epoch + 1) % self.config.checkpoint_interval == 0:
            self.hooks.save("last", metrics)

    # ---- averages ----------------------------------------------------------------------------------------------

    @property
    def averaged(self) -> AveragedModel | Lookahead | None:
        """Whose weights are evaluated and exported: SWA's from its first model on, else EMA's, else Lookahead's slow
        ones; None: the optimizer's."""
        swa = self.parts.swa
        if swa is not None and swa.updates:
            return swa
        return self.ema or self.parts.lookahead

    def _average(self, epoch: int) -> None:
        """At the end of an epoch: one more model for SWA."""
        swa, start = self.parts.swa, self.schedule.plan.swa_start
        if swa is None or start is None or self.progress.step <= start:
            return
        swa.update(self.detector, self.progress.step)
        if self.config.swa_norm_batches:
            swa.renew_statistics(self.detector, self._forward_passes(epoch, self.config.swa_norm_batches))

    def _forward_passes(self, epoch: int, count: int) -> Iterator[None]:
        """The first batches of an epoch through the detector, in training mode and without a gradient."""
        for number, batch in enumerate(itertools.islice(self.loader.epoch(epoch), count)):
            self._outputs(batch, self.progress.step, number)
            yield

    # ---- step --------------------------------------------------------------------------------------------------

    def _next_batches(self, batches: Iterator[Batch]) -> list[Batch]:
        """The micro-batches of one step, the time spent waiting for them measured."""
        started = time.perf_counter()
        micro = list(itertools.islice(batches, self.config.gradient_accumulation))
        self._meter.waited += time.perf_counter() - started
        return micro

    def step(self, micro: list[Batch]) -> None:
        """Forward and backward of each micro-batch, then one update with the gradient of the whole."""
        sums: Tensor | None = None
        normaliser: Tensor | None = None
        names: tuple[str, ...] = ()
        for number, batch in enumerate(micro):
            names, terms, count = self._forward_backward(batch, self.progress.step, number)
            sums = terms if sums is None else sums + terms
            normaliser = count if normaliser is None else normaliser + count
        assert sums is not None and normaliser is not None
        # Terms are summed, not averaged: dividing once by the total makes accumulation equal to the large batch.
        normaliser = normaliser.clamp(min=1.0)
        norm = self.update(sums, normaliser)
        self.optimizer.zero_grad(set_to_none=True)
        self.schedule.step()
        if self.parts.lookahead is not None:
            self.parts.lookahead.update()
        if self.ema is not None:
            self.ema.update(self.detector)
        self._meter.record(names, sums, norm, normaliser, (self.progress.batch, len(micro)))

    def update(self, sums: Tensor, normaliser: Tensor) -> Tensor:
        """One step of the optimizer, unless something is not finite; returns the norm of the undivided gradient.

        Nothing is read here: the device remembers that a step was broken and leaves the weights alone from there on,
        so that the step can be run again when the record finds it.
        """
        scaler = self.parts.scaler
        if scaler is None:
            norm = self._scale_gradients(normaliser)
            self._note_broken(norm)
            self.optimizer.step()
            return norm
        self._note_broken(sums.sum())
        scaler.unscale_(self.optimizer)  # an overflow of the gradient alone is ordinary: the scaler skips the step
        norm = self._scale_gradients(normaliser)
        scaler.step(self.optimizer)
        scaler.update()
        return norm

    def _note_broken(self, value: Tensor) -> None:
        self._broken.logical_or_(value - value)  # nan, which counts as true, when it is not finite; else 0

    def _forward_backward(self, batch: Batch, step: int, number: int) -> tuple[tuple[str, ...], Tensor, Tensor]:
        """number: of the micro-batch in its step."""
        loss = self._loss(batch, step, number)
        values = torch.stack(list(loss.terms.values()))
        total = values.sum()
        if self.parts.scaler is not None:
            # Divided by zero after a broken step: the scaler skips everything that follows it.
            total = self.parts.scaler.scale(total) / (1 - self._broken)
        total.backward()  # type: ignore[no-untyped-call]
        return tuple(loss.terms), values.detach(), loss.normaliser.detach().float()

    def _loss(self, batch: Batch, step: int, number: int) -> LossTerms:
        return self.detector.loss(*self._outputs(batch, step, number))

    def _outputs(self, batch: Batch, step: int, number: int) -> tuple[Outputs, Targets]:
        """The forward pass: a function of weights, batch, step and number."""
        seed_torch(self.config.seed, step, number, device=self.device)
        batch = self._on_device(batch)
        if self.parts.scales is not None:
            batch = scaled_batch(batch, self.parts.scales.size_at(step))
        if self.config.channels_last:
            batch.images = batch.images.contiguous(memory_format=torch.channels_last)
        with self._autocast():
            return self.detector(batch.images, batch.targets), batch.targets

    def _on_device(self, batch: Batch) -> Batch:
        images = batch.images.to(self.device, non_blocking=True)
        return replace(batch, images=images, targets=batch.targets.to(self.device))

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
        record = self._meter.take(skipped=self.parts.scaler is not None)
        if record is None:
            return
        means, steps = record.means, record.steps
        if record.broken is not None:
            self._stop_at(replace(record.broken, step=self.progress.step - steps + 1 + record.broken.step), epoch)
        self._check_scale(means)
        values = dict(means)
        values["lr"] = self.schedule.rate_of(self.progress.step - 1)
        values["memory_mb"] = memory_mb(self.device)
        for name, value in values.items():
            self.progress.sums[name] = self.progress.sums.get(name, 0.0) + value * steps
        self.progress.summed_steps += steps
        self.hooks.log({f"train/{k}": v for k, v in values.items()}, self.progress.step, epoch)

    def _check_scale(self, means: Mapping[str, float]) -> None:
        """A scaler that skips every step and has nothing left to give away will never get anywhere."""
        scaler = self.parts.scaler
        if scaler is not None and "grad_norm" not in means and scaler.get_scale() < 1:
            raise TrainingDiverged(
                f"the gradient overflows 16-bit floats at step {self.progress.step}, however small the loss is scaled",
                hint=f"use training.precision=bf16 or fp32; {RESUMABLE}",
            )

    def _stop_at(self, broken: BrokenStep, epoch: int) -> NoReturn:
        """Run the broken step again, watched, keep its batches, and say where it began."""
        batches = list(itertools.islice(self.loader.epoch(epoch, broken.first_batch), broken.batches))
        passes = [partial(self._loss, batch, broken.step - 1, number) for number, batch in enumerate(batches)]
        try:
            origin = find_origin(self.detector, passes)
        except Exception as error:  # the second fault must not hide the first
            origin = f"the step could not be run again ({type(error).__name__}: {error})"
        kept = self.hooks.keep_broken(
            {
                "step": broken.step,
                "epoch": epoch,
                "seed": self.config.seed,
                "precision": str(self.precision).removeprefix("torch."),
                "what": f"{broken.what} {broken.value}",
                "origin": origin,
                "batches": [_as_kept(batch) for batch in batches],
            }
        )
        raise TrainingDiverged(
            f"the {broken.what} is {broken.value} at step {broken.step} (epoch {epoch + 1}); {origin}"
            + (f"; {kept}" if kept else ""),
            hint="lower training.lr, lengthen training.warmup_epochs, set training.gradient_clip (10 or less) "
            f"or use training.precision=fp32; {RESUMABLE}",
        )

    # ---- state -------------------------------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        """Everything that a resumed run needs to be the same run."""
        progress = self.progress
        return {
            "model": self.detector.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "schedule": self.schedule.state_dict(),
            **{name: None if part is None else part.state_dict() for name, part in self._stateful().items()},
            "best": self.best.state_dict(),
            "progress": {name: getattr(progress, name) for name in Progress.__slots__},
            "plugins": {name: plugin.state_dict() for name, plugin in self.plugins.items()},
        }

    def _stateful(self) -> dict[str, Any]:
        """Parts that may be there or not, by the name of their state."""
        parts = self.parts
        return {"ema": self.ema, "swa": parts.swa, "lookahead": parts.lookahead, "scaler": parts.scaler}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.detector.load_state_dict(state["model"])
        self._load_optimizer(state["optimizer"])
        self.schedule.load_state_dict(state["schedule"])
        for name, part in self._stateful().items():
            if part is not None and state.get(name) is not None:
                part.load_state_dict(state[name])
        self.best.load_state_dict(state["best"])
        self.progress = Progress(**state["progress"])
        # A longer plan than the saved run had: go on where it ended.
        self.progress.finished = self.progress.step >= self.plan.total_steps
        self._start_averaging_again()
        for name, plugin in self.plugins.items():
            if name in state["plugins"]:
                plugin.load_state_dict(state["plugins"][name])

    def _start_averaging_again(self) -> None:
        """In a longer plan, or when it was moved, SWA starts elsewhere than it did."""
        swa, start, epoch = self.parts.swa, self.schedule.plan.swa_start, self.plan.steps_per_epoch
        if swa is not None and start is not None:
            ends = range(epoch, self.progress.step + 1, epoch)
            self.problems = [told] if (told := swa.start_at(start, self.plan.total_steps, ends)) else []

    def _load_optimizer(self, state: dict[str, Any]) -> None:
        """Moments are the state's; rates, decay and momentum are the configuration's, which a resume may change."""
        ours = [{k: v for k, v in group.items() if k != "params"} for group in self.optimizer.param_groups]
        if len(state["param_groups"]) != len(ours) or state["param_groups"][0].keys() - {"params"} != ours[0].keys():
            raise ValueError("the optimizer is another one")
        self.optimizer.load_state_dict(state)
        for group, own in zip(self.optimizer.param_groups, ours, strict=True):
            group.update(own)


def _as_kept(batch: Batch) -> dict[str, Any]:
    """Plain values that `torch.load(..., weights_only=True)` reads."""
    return {
        "images": batch.images,
        "boxes": batch.targets.boxes,
        "labels": batch.targets.labels,
        "masks": batch.targets.masks,
        "indices": list(batch.indices),
        "sizes": [list(size) for size in batch.sizes],
        "image_ids": list(batch.image_ids),
    }
