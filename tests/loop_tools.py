"""A training loop in memory: what surrounds it, batches for it, and what is asked of two of them."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch

from detloom.detector import Detector
from detloom.specs import ModelSpec
from detloom.train.assemble import BuiltModel, LoopNeeds, build_loop, choose_precision
from detloom.train.checkpoint import read_checkpoint, save_checkpoint
from detloom.train.freezing import NOTHING_FROZEN, Freezing
from detloom.train.loop import Hooks, Loop, LoopPlan
from detloom_schemas.config import TrainingConfig
from tiny import FixedBatches, TinyDetector, make_batch


class Recorder:
    """The surroundings of a loop, in memory."""

    def __init__(self, scores: list[float] | None = None, stop_at: int | None = None) -> None:
        self.logged: list[tuple[dict[str, float], int, int]] = []
        self.saved: list[str] = []
        self.epochs: list[int] = []
        self.told_before_saves: list[int] = []
        self.broken: list[dict[str, Any]] = []
        self.scores = scores or []
        self.stop_at = stop_at
        self.loop: Loop | None = None
        self.on_save: Callable[[str], None] = lambda kind: None

    def evaluate(self, epoch: int) -> dict[str, float]:
        return {"val/AP": self.scores[epoch] if epoch < len(self.scores) else 0.0}

    def save(self, kind: str, metrics: Mapping[str, float]) -> None:
        self.saved.append(kind)
        self.on_save(kind)

    def finish(self, epoch: int, step: int, metrics: Mapping[str, float]) -> None:
        self.epochs.append(epoch)
        self.told_before_saves.append(len(self.saved))

    def keep_broken(self, broken: Mapping[str, Any]) -> str:
        self.broken.append(dict(broken))
        return "kept"

    def hooks(self) -> Hooks:
        return Hooks(
            log=lambda values, step, epoch: self.logged.append((dict(values), step, epoch)),
            epoch_started=lambda epoch, step: None,
            evaluate=self.evaluate,
            epoch_finished=self.finish,
            save=self.save,
            stop_requested=lambda: self.loop is not None and self.loop.progress.step == self.stop_at,
            keep_broken=self.keep_broken,
        )


def make_loop(
    config: TrainingConfig,
    batches: list[Any],
    recorder: Recorder,
    *,
    interval: int = 1,
    detector: Detector | None = None,
    log_interval: int = 1,
    freezing: Freezing = NOTHING_FROZEN,
) -> Loop:
    """The loop that a session would build, around these batches."""
    torch.manual_seed(7)
    network = detector or TinyDetector(["a", "b"])
    freezing.apply(network, 0)
    spec = ModelSpec(name="tiny", family="tiny", summary="", licence="", build=lambda *_: network, size_divisor=16)
    steps = math.ceil(len(batches) / config.gradient_accumulation)
    total = min(steps * config.epochs, config.max_steps or steps * config.epochs)
    plan = LoopPlan(steps, total, math.ceil(total / steps), interval, 0, "AP", log_interval)
    device = torch.device("cpu")
    needs = LoopNeeds(FixedBatches(batches), plan, recorder.hooks(), device, choose_precision(config, device))
    loop = build_loop(BuiltModel(network, spec, freezing=freezing), config, needs)
    recorder.loop = loop
    return loop


def batches(count: int, images: int = 4, seed: int = 0) -> list[Any]:
    rng = torch.Generator().manual_seed(seed)
    return [make_batch(rng, images) for _ in range(count)]


def assert_same(first: Any, second: Any, path: str = "") -> None:
    if isinstance(first, torch.Tensor):
        assert torch.equal(first, second), path
    elif isinstance(first, dict):
        assert first.keys() == second.keys(), path
        for key in first:
            assert_same(first[key], second[key], f"{path}/{key}")
    elif isinstance(first, list | tuple):
        assert len(first) == len(second), path
        for index, (a, b) in enumerate(zip(first, second, strict=True)):
            assert_same(a, b, f"{path}/{index}")
    else:
        assert first == second, path


def interrupted_and_resumed(make: Callable[[Recorder], Loop], stop_at: int, folder: Path) -> tuple[Loop, Loop]:
    """(a loop that ran in one go, one that was stopped after a step, saved to a file and read into a new one).

    make: builds the loop from nothing but its recorder.
    """
    whole = make(Recorder([0.1, 0.3, 0.2, 0.25]))
    assert whole.run() == "completed"
    recorder = Recorder([0.1, 0.3, 0.2, 0.25], stop_at=stop_at)
    first = make(recorder)

    def save(kind: str) -> None:
        if kind == "last":
            save_checkpoint(folder, "last.pt", {"training": first.state_dict()}, {})

    recorder.on_save = save
    assert first.run() == "interrupted"
    second = make(Recorder([0.1, 0.3, 0.2, 0.25]))
    with torch.no_grad():
        for tensor in second.detector.state_dict().values():
            tensor.zero_()  # nothing may come from the constructor
    second.load_state_dict(read_checkpoint(folder / "last.pt")["training"])
    assert second.progress.step == stop_at
    assert second.run() == "completed"
    return whole, second


def assert_same_state(first: Loop, second: Loop) -> None:
    """Everything that a checkpoint keeps, bit for bit, but the means of the clock."""
    one, other = first.state_dict(), second.state_dict()
    for part in ("model", "optimizer", "schedule", "ema", "swa", "lookahead", "scaler", "best"):
        assert_same(one[part], other[part], part)
