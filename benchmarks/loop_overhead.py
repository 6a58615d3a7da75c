"""CPU time a step that the loop adds to a bare hand-written loop which also clips, averages and schedules.

A tiny model, three loggers (console, jsonl, tensorboard) at the default log_interval; variants interleaved in one
process, medians of the rounds. Goal: at most 0.10 ms a step.

    python benchmarks/loop_overhead.py [--steps 400] [--rounds 9]
"""

from __future__ import annotations

import argparse
import contextlib
import copy
import io
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from common import ROOT, record

sys.path.insert(0, str(ROOT / "tests"))

import torch

from detloom.config import resolve
from detloom.host import discover
from detloom.logging_fanout import LoggerFanout
from detloom.specs import LoggerContext, LoggerSpec
from detloom.train.ema import ModelEMA
from detloom.train.loop import Hooks, Loop, LoopPlan
from detloom.train.optimizer import build_optimizer
from detloom.train.schedule import Schedule, plan_of
from detloom_schemas.config import LoggingConfig, TrainingConfig
from tiny import FixedBatches, TinyDetector, make_batch

CONFIG = TrainingConfig(epochs=1, gradient_clip=10.0, lr=1e-3)


def bare(detector: TinyDetector, batches: list[Any], steps: int) -> float:
    """What somebody would write by hand for this model alone."""
    optimizer = build_optimizer(detector, CONFIG)
    plan = plan_of(CONFIG, steps, steps)
    ema = ModelEMA(detector, CONFIG.ema_decay, CONFIG.ema_warmup_steps)
    parameters = list(detector.parameters())
    detector.train()
    started = time.process_time()
    for step in range(steps):
        batch = batches[step % len(batches)]
        for group in optimizer.param_groups:
            group["lr"] = group["initial_lr"] * plan.factor(step)
        outputs = detector(batch.images, batch.targets)
        terms = detector.loss(outputs, batch.targets)
        loss = terms.total / terms.normaliser.clamp(min=1)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, 10.0, foreach=True)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        ema.update(detector)
    return time.process_time() - started


def ours(detector: TinyDetector, batches: list[Any], steps: int) -> float:
    """The loop with three loggers."""
    optimizer = build_optimizer(detector, CONFIG)
    ema = ModelEMA(detector, CONFIG.ema_decay, CONFIG.ema_warmup_steps)
    plan = LoopPlan(steps, steps, 1, 1, 0, "AP", LoggingConfig().log_interval)
    with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stdout(io.StringIO()):
        fanout = open_loggers(Path(folder), steps)
        hooks = Hooks(
            log=fanout.scalars,
            epoch_started=lambda epoch, step: None,
            evaluate=lambda epoch: {},
            epoch_finished=lambda epoch, step, metrics: None,
            save=lambda kind, metrics: None,
            stop_requested=lambda: False,
        )
        loader = FixedBatches([batches[i % len(batches)] for i in range(steps)])
        loop = Loop(
            detector,
            optimizer,
            Schedule(optimizer, plan_of(CONFIG, steps, steps)),
            ema,
            loader,
            CONFIG,
            plan,
            hooks,
            device=torch.device("cpu"),
            precision=torch.float32,
        )
        started = time.process_time()
        loop.run()
        elapsed = time.process_time() - started
        fanout.close("completed")
    return elapsed


def open_loggers(folder: Path, steps: int) -> LoggerFanout:
    host = discover()
    resolved = resolve(host, [])
    context = LoggerContext(folder, "overhead", steps, 1)
    specs = [host.get(LoggerSpec, name) for name in ("console", "jsonl", "tensorboard")]
    return LoggerFanout([(spec.name, spec.build(resolved.settings(spec), context)) for spec in specs])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=400)
    parser.add_argument("--rounds", type=int, default=9)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    rng = torch.Generator().manual_seed(0)
    batches = [make_batch(rng, 2) for _ in range(16)]
    model = TinyDetector(["a", "b"])
    rows: list[tuple[float, float]] = []
    for _ in range(arguments.rounds + 1):
        rows.append(
            tuple(run(copy.deepcopy(model), batches, arguments.steps) / arguments.steps * 1e3 for run in (bare, ours))
        )
    rows = rows[1:]  # the first round warms up
    extra = [mine - hand for hand, mine in rows]
    record(
        "loop_overhead",
        [
            f"bare loop {statistics.median(r[0] for r in rows):.3f} ms a step, ours "
            f"{statistics.median(r[1] for r in rows):.3f} ms a step (CPU time, medians of {len(rows)} rounds of "
            f"{arguments.steps} steps)",
            f"overhead: median {statistics.median(extra):+.3f} ms a step (from {min(extra):+.3f} to {max(extra):+.3f})",
            "goal: at most 0.10 ms",
        ],
    )


if __name__ == "__main__":
    main()
