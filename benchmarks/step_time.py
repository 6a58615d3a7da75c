"""CPU time of a training step of real models: our loop against a bare loop that also clips, averages and schedules.

Both train the same weights on the same batches; each round runs both, in turn. Goal: within 3 %.

    python benchmarks/step_time.py [--rounds 7] [MODEL ...]
"""

from __future__ import annotations

import argparse
import copy
import statistics
import sys

from common import ROOT, record

sys.path.insert(0, str(ROOT / "tests"))

import torch
from loop_overhead import bare, ours

from detloom.config import mapping_layer, resolve
from detloom.data.batch import Batch
from detloom.detector import Detector
from detloom.host import PluginHost, discover
from detloom.model import build_detector, build_losses
from detloom.specs import ModelSpec
from tiny import make_batch

CASES = {"yolox-nano": (416, 4, 8), "rt_detr-r18": (320, 2, 4), "d_fine-n": (320, 2, 4), "rf_detr-nano": (320, 2, 2)}
"""Side in pixels, images a batch, steps a round."""


def built(name: str, side: int, host: PluginHost) -> Detector:
    """Random weights, with the losses of the family's recipe."""
    resolved = resolve(host, [mapping_layer({"model": {"type": name}})])
    spec = host.get(ModelSpec, name)
    losses = build_losses(resolved.config, spec, resolved, host)
    return build_detector(spec, resolved.settings(spec), ("a", "b"), (side, side), losses=losses)


def ratios(name: str, rounds: int, host: PluginHost) -> tuple[float, list[float]]:
    """Milliseconds of a bare step, and ours over the bare one for each round."""
    side, images, steps = CASES[name]
    rng = torch.Generator().manual_seed(0)
    batches: list[Batch] = [make_batch(rng, images, size=(side, side)) for _ in range(4)]
    model = built(name, side, host)
    times: list[tuple[float, float]] = []
    for number in range(rounds + 1):
        # Who goes first changes: a cache or a clock that helps the second must not help one of them.
        order = (bare, ours) if number % 2 else (ours, bare)
        spent = {run: run(copy.deepcopy(model), batches, steps) / steps * 1e3 for run in order}
        times.append((spent[bare], spent[ours]))
    times = times[1:]  # the first round warms up
    return statistics.median(hand for hand, _ in times), [mine / hand for hand, mine in times]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="*", default=list(CASES), metavar="MODEL", help=", ".join(CASES))
    parser.add_argument("--rounds", type=int, default=7)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    host = discover()
    lines = ["| model | input, batch | bare ms a step | ours / bare, median | range |", "|---|---|---|---|---|"]
    for name in arguments.models:
        hand, found = ratios(name, arguments.rounds, host)
        side, images, _ = CASES[name]
        lines.append(
            f"| {name} | {side} px, {images} | {hand:.0f} | {statistics.median(found):.3f} | "
            f"{min(found):.3f} to {max(found):.3f} |"
        )
    record("step_time", [*lines, "", f"CPU time, {arguments.rounds} rounds. Goal: at most 1.03."])


if __name__ == "__main__":
    main()
