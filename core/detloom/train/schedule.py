"""Learning rates as a function of the step: linear warm-up, then a curve. Nothing to save, nothing to drift."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from torch.optim import Optimizer

    from detloom_schemas.config import TrainingConfig

Curve = Literal["cosine", "multistep", "exponential", "step", "constant"]


@dataclass(frozen=True, slots=True)
class Plan:
    """Lengths in optimizer steps. milestones: fractions of the training; gamma: factor of a drop (multistep, step) or
    of an epoch (exponential); min_frac: lowest rate relative to the peak; swa_start: from this step on, the rate is
    swa_frac of the peak, whatever the curve says."""

    curve: Curve
    total_steps: int
    steps_per_epoch: int
    warmup_steps: int = 0
    min_frac: float = 0.01
    milestones: tuple[float, ...] = (0.7, 0.9)
    gamma: float = 0.1
    step_epochs: int = 30
    swa_start: int | None = None
    swa_frac: float = 0.5

    def factor(self, step: int) -> float:
        """Factor of the learning rate for the update number `step` (0-based)."""
        if self.swa_start is not None and step >= self.swa_start:
            return self.swa_frac
        if step < self.warmup_steps:
            return (step + 1) / self.warmup_steps
        return max(self._curve(step), self.min_frac)

    def _curve(self, step: int) -> float:
        if self.curve == "cosine":
            done = (step - self.warmup_steps) / max(self.total_steps - self.warmup_steps - 1, 1)
            return self.min_frac + (1 - self.min_frac) * (1 + math.cos(math.pi * min(done, 1.0))) / 2
        if self.curve == "multistep":
            drops = sum(step >= fraction * self.total_steps for fraction in self.milestones)
            return float(self.gamma**drops)
        if self.curve == "step":
            return float(self.gamma ** (step // (self.step_epochs * self.steps_per_epoch)))
        if self.curve == "exponential":
            return float(self.gamma ** ((step - self.warmup_steps) / self.steps_per_epoch))
        return 1.0


class Schedule:
    """Sets the learning rate of every group before each update."""

    def __init__(self, optimizer: Optimizer, plan: Plan) -> None:
        self.optimizer = optimizer
        self.plan = plan
        self.last_step = 0
        for group in optimizer.param_groups:
            group.setdefault("initial_lr", group["lr"])
        self.set_step(0)

    def set_step(self, step: int) -> None:
        factor = self.plan.factor(step)
        self.last_step = step
        for group in self.optimizer.param_groups:
            group["lr"] = group["initial_lr"] * factor

    def step(self) -> None:
        """After each optimizer step."""
        self.set_step(self.last_step + 1)

    def rate_of(self, step: int) -> float:
        """The largest rate among the groups at the update number `step` (0-based)."""
        return max(float(group["initial_lr"]) for group in self.optimizer.param_groups) * self.plan.factor(step)

    def get_last_lr(self) -> list[float]:
        return [float(group["lr"]) for group in self.optimizer.param_groups]

    def state_dict(self) -> dict[str, Any]:
        return {"last_step": self.last_step}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.set_step(int(state["last_step"]))


def build_scheduler(
    optimizer: Optimizer,
    warmup_epochs: float,
    total_epochs: int,
    steps_per_epoch: int,
    *,
    curve: Curve = "cosine",
    min_frac: float = 0.01,
) -> Schedule:
    """Linear warm-up over `warmup_epochs`, then the curve down to `min_frac` of the peak."""
    plan = Plan(
        curve,
        total_epochs * steps_per_epoch,
        steps_per_epoch,
        round(warmup_epochs * steps_per_epoch),
        min_frac,
    )
    return Schedule(optimizer, plan)


def plan_of(config: TrainingConfig, total_steps: int, steps_per_epoch: int, *, keep_warmup: bool = False) -> Plan:
    """The plan of the `training` section. A warm-up longer than a tenth of a training is cut to that, unless
    the user wrote it (keep_warmup)."""
    warmup = config.warmup_steps
    if warmup is None:
        warmup = round(config.warmup_epochs * steps_per_epoch)
    return Plan(
        curve=config.scheduler,
        total_steps=total_steps,
        steps_per_epoch=steps_per_epoch,
        warmup_steps=min(warmup, total_steps if keep_warmup else max(total_steps // 10, 1)),
        min_frac=config.min_lr_frac,
        milestones=config.lr_milestones,
        gamma=config.lr_gamma,
        step_epochs=config.lr_step_epochs,
        swa_start=swa_start(config, total_steps),
        swa_frac=config.swa_lr_frac,
    )


def swa_start(config: TrainingConfig, total_steps: int) -> int | None:
    """The first step of the averaging; None: there is none."""
    return int(config.swa_start * total_steps) if config.use_swa else None
