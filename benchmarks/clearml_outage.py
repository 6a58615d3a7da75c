"""What a ClearML server that answers 503 from after the connection to the end costs the training.

    python benchmarks/clearml_outage.py [--steps 400] [--write]

A loop of steps that compute for about 30 ms each reports as a run does: eight numbers every step, a validation, a
picture and a checkpoint now and then. Time is taken around every call of the logger. Afterwards the server answers
again, what waited is sent, and every number is looked for there. --write keeps the answer in
benchmarks/results/clearml_outage.md.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from common import ROOT, record

sys.path.append(str(ROOT / "tests"))

import numpy as np

from clearml_tools import ClearMLServer, DoubleProcess

LIMIT = 0.01
CLOSE_TIMEOUT_S = 5.0
NAMES = ("loss", "box", "objectness", "class", "l1", "lr", "grad_norm", "images_per_s")
COCO = ("AP", "AP50", "AP75", "APs", "APm", "APl", "AR1", "AR10", "AR100", "ARs", "ARm", "ARl")


def train(steps: int, logger: object, checkpoint: Callable[[int], None], picture: Path) -> tuple[float, list[float]]:
    """Seconds of the whole, and of each call."""
    from detloom_integrations.clearml.logger import ClearMLLogger

    assert isinstance(logger, ClearMLLogger)
    matrix = np.random.default_rng(0).random((480, 480), dtype=np.float32)
    calls: list[float] = []

    def timed(action: Callable[[], None]) -> None:
        before = time.perf_counter()
        action()
        calls.append(time.perf_counter() - before)

    start = time.perf_counter()
    for step in range(steps):
        until = time.perf_counter() + 0.03
        while time.perf_counter() < until:
            matrix = np.tanh(matrix @ matrix / 480)
        values = {f"train/{name}": float(step) for name in NAMES}
        timed(lambda values=values, step=step: logger.scalars(values, step, 0))  # type: ignore[misc]
        if step % 50 == 49:
            metrics = {f"val/{name}": 0.5 for name in COCO}
            timed(lambda metrics=metrics, step=step: logger.scalars(metrics, step, 0))  # type: ignore[misc]
            timed(lambda step=step: logger.image(f"val/{step}.jpg", picture, step))  # type: ignore[misc]
            timed(lambda step=step: checkpoint(step))  # type: ignore[misc]
    return time.perf_counter() - start, calls


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=400)
    parser.add_argument("--write", action="store_true")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as place:
        files = Path(place) / "files"
        files.mkdir()
        process = DoubleProcess.start(files)
        try:
            lines, share = measure(ClearMLServer(process, Path(place) / "home"), Path(place) / "run", args.steps)
        finally:
            process.stop()
    if args.write:
        record("clearml_outage", lines)
    else:
        print("\n".join(lines))
    return int(share >= LIMIT)


def measure(double: ClearMLServer, folder: Path, steps: int) -> tuple[list[str], float]:
    os.environ.update(double.environ())
    from detloom.specs import LoggerContext
    from detloom_integrations.clearml.delivery import Delivery
    from detloom_integrations.clearml.logger import ClearMLLogger
    from detloom_integrations.clearml.sending import send_run
    from detloom_integrations.clearml.server import Server

    project = double.call("projects.create", name="outage", description="")["id"]
    task = double.call("tasks.create", name="outage", type="training", project=project)["id"]
    double.call("tasks.started", task=task)
    folder.mkdir()
    picture = folder / "picture.jpg"
    picture.write_bytes(b"0" * 50_000)
    server = Server.open()
    delivery = Delivery(server, task, folder, record={"name": "outage"}, close_timeout=CLOSE_TIMEOUT_S)
    logger = ClearMLLogger(delivery, LoggerContext(folder, "outage", steps, 1))
    double.fault("*", status=503)
    seconds, calls = train(steps, logger, lambda step: delivery.checkpoint("last", picture, step), picture)
    before = time.perf_counter()
    report = delivery.close()
    closing = time.perf_counter() - before
    double.clear_faults()
    sent = send_run(folder, server)
    arrived = double.events(task, "training_stats_scalar")
    expected = [(name, step) for step in range(steps) for name in NAMES]
    found = [(event["variant"], event["iter"]) for event in arrived if event["metric"] == "train"]
    share = sum(calls) / seconds
    micro = sorted(1e6 * call for call in calls)
    return [
        "The server answers 503 to everything, from after the connection to the end of the run.",
        "",
        "| | |",
        "|---|---|",
        f"| training | {seconds:.1f} s, {steps} steps, {len(calls)} calls of the logger |",
        f"| time in these calls | {100 * share:.4f} % of the training (goal: below {100 * LIMIT:g} %) |",
        f"| one call | median {statistics.median(micro):.1f} µs, 99 of 100 below "
        f"{micro[int(0.99 * len(micro))]:.0f} µs, longest {micro[-1]:.0f} µs |",
        f"| close | {closing:.2f} s (limit {CLOSE_TIMEOUT_S:g} s) |",
        f"| records when it closed | {report.flushed} delivered, {report.waiting} waiting, {report.dropped} lost |",
        f"| sent afterwards | {sent.flushed} delivered, {sent.waiting} waiting, {sent.dropped} lost; "
        f"{report.waiting - sent.flushed} states of the run were left out for newer ones |",
        f"| numbers of the training | {len(found)} of {len(expected)} arrived, each once and in order: "
        f"{'yes' if found == expected else 'NO'} |",
    ], share


if __name__ == "__main__":
    sys.exit(main())
