"""`make demo`: train on a data set that draws itself, from scratch; evaluate, export, report. About four minutes."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PLACE = ROOT / "demo"
TRAINING = [
    "--model", "yolox-nano",
    "--weights", "none",  # from scratch: nothing is downloaded
    "--resolution", "128",
    "--batch-size", "8",
    "--lr", "5e-3",  # the recipe's is for fine-tuning
    "--set", "training.max_steps=1500",
    "--set", "training.channels_last=true",
    "--set", "training.ema_warmup_steps=200",
    "--set", "validation.interval=5",
    "--set", "augmentation.transforms=[hflip,vflip]",  # shapes have no up and no left
    "--name", "shapes",
    "--output-dir", "demo/runs",
    "--no-clearml",
]  # fmt: skip


def step(arguments: list[str]) -> None:
    print("\n$", "python", *arguments, flush=True)
    subprocess.run([sys.executable, *arguments], cwd=ROOT, check=True)


def main() -> int:
    started = time.perf_counter()
    data = PLACE / "data"
    try:
        step(["examples/draw_shapes.py", str(data.relative_to(ROOT))])
        step(["run_training.py", "demo/data", *TRAINING])
    except subprocess.CalledProcessError as error:
        return error.returncode
    newest = max((PLACE / "runs").glob("shapes*/report.html"), key=lambda path: path.stat().st_mtime)
    print(f"\nready after {time.perf_counter() - started:.0f} s; open {newest}")
    print(f"next: detloom predict {newest.parent.relative_to(ROOT)} demo/data/test --save demo/predictions")
    return 0


if __name__ == "__main__":
    sys.exit(main())
