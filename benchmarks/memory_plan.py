"""What `detloom plan` predicts, against what a process takes from the operating system.

For each model, size and batch: a fresh process builds the model, notes its resident memory, trains three steps without
any counting, and reports how much its peak has grown. The prediction comes from batches of one and two images. Goal:
within 20 %.

    python benchmarks/memory_plan.py [--models yolox-nano,yolox-seg-nano]
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path

from common import record

CASES = {
    "yolox-nano": (([320, 320], 4), ([320, 320], 16), ([416, 736], 4), ([640, 640], 4)),
    "yolox-nano channels_last": (([320, 320], 4), ([320, 320], 16), ([640, 640], 4)),
    "yolox-s": (([320, 320], 4), ([640, 640], 4)),
    "rt_detr-r18": (([320, 320], 2), ([320, 320], 4), ([384, 640], 4)),
    "yolox-seg-nano": (([320, 320], 4), ([320, 320], 16), ([640, 640], 4)),
    "rf_detr-seg-nano": (([312, 312], 1),),
}
"""Sizes and batches by model, and what is set besides."""
OBJECTS = 10


def child(task: dict[str, object]) -> dict[str, float]:
    """One case in this process. predict: measure the footprint instead of training at the wanted batch."""
    import resource

    import torch

    from detloom.config import mapping_layer, resolve
    from detloom.data.memory import keep_freed_memory
    from detloom.host import discover
    from detloom.train.assemble import build_model, place
    from detloom.train.footprint import Scene, bare_loop, measure_footprint

    torch.set_num_threads(1)
    host = discover()
    name, *options = str(task["model"]).split()
    values = {"model.type": name, "training.resolution": task["size"], "model.pretrain_weights": "none"}
    values |= {f"training.{option}": True for option in options}
    resolved = resolve(host, [mapping_layer(values)])
    model = build_model(resolved, host, ("a", "b", "c"), pretrained=False)
    device = torch.device("cpu")
    held = sum(t.numel() * t.element_size() for t in (*model.detector.parameters(), *model.detector.buffers()))
    if task["predict"]:
        found = measure_footprint(model, resolved.config.training, OBJECTS, device)
        return {"fixed": found.fixed, "per_image": found.per_image, "held": held}
    keep_freed_memory()
    before = resident()
    place(model.detector, device, resolved.config.training)
    model.detector.train()
    loop = bare_loop(model, resolved.config.training, device)
    scene = Scene(model.detector.input_rule.size, 3, OBJECTS, model.detector.masks)
    for _ in range(3):
        loop.step([scene.batch(int(str(task["batch"])))])
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return {"grown": peak - before, "held": held}


def resident() -> int:
    """Bytes of this process in memory now."""
    return int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1]) * os.sysconf("SC_PAGE_SIZE")


def run_child(task: dict[str, object]) -> dict[str, float]:
    done = subprocess.run(
        [sys.executable, __file__, "--child", json.dumps(task)], capture_output=True, text=True, check=True
    )
    found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", default=",".join(CASES))
    parser.add_argument("--child", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.child:
        print(json.dumps(child(json.loads(arguments.child))))
        return
    from detloom.train.footprint import Footprint

    lines = ["| model | size | batch | predicted MB | measured MB (process) | ratio |", "|---|---|---|---|---|---|"]
    worst = 0.0
    for name in arguments.models.split(","):
        for size, batch in CASES[name]:
            task: dict[str, object] = {"model": name, "size": size, "batch": batch}
            line = run_child({**task, "predict": True})
            predicted = Footprint(line["fixed"], line["per_image"], ()).at(batch)
            seen = run_child({**task, "predict": False})
            measured = seen["grown"] + seen["held"]
            ratio = predicted / measured
            worst = max(worst, abs(ratio - 1))
            row = [
                name,
                f"{size[0]}x{size[1]}",
                batch,
                f"{predicted / 1e6:.0f}",
                f"{measured / 1e6:.0f}",
                f"{ratio:.2f}",
            ]
            lines.append("| " + " | ".join(map(str, row)) + " |")
            print(lines[-1], flush=True)
    record("memory_plan", [*lines, "", f"largest deviation {worst:.0%}; goal: 20 %"])


if __name__ == "__main__":
    main()
