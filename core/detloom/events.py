"""What observers are told. An observer reads; nothing it does can alter the run."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class RunStarted:
    """config: the effective configuration, nested; classes: names in the order of their indices."""

    run_dir: Path
    name: str
    config: Mapping[str, object]
    classes: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class EpochStarted:
    """epoch: 0-based; step: optimizer steps so far, more than before the epoch when a resumed run goes on inside it."""

    run_dir: Path
    epoch: int
    step: int


@dataclass(frozen=True, slots=True)
class ValidationFinished:
    """metrics: `val/AP` and the other numbers of COCO, `val/loss`. Told before the best checkpoint is judged."""

    run_dir: Path
    epoch: int
    step: int
    metrics: Mapping[str, float]


@dataclass(frozen=True, slots=True)
class EpochFinished:
    """epoch: 0-based; step: optimizer steps so far; metrics: what was recorded for this epoch."""

    run_dir: Path
    epoch: int
    step: int
    metrics: Mapping[str, float]


@dataclass(frozen=True, slots=True)
class CheckpointSaved:
    run_dir: Path
    path: Path
    epoch: int
    is_best: bool


@dataclass(frozen=True, slots=True)
class RunFinished:
    """status: `completed`, `stopped early`, `failed` or `interrupted`; error: its sentence, or empty."""

    run_dir: Path
    status: str
    error: str
    metrics: Mapping[str, float]
