"""Shared by the benchmarks: import roots, one thread, and results written with the command that made them."""

from __future__ import annotations

import datetime
import os
import platform
import shlex
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT / name) for name in ("core", "plugins", "integrations", "schemas")]
os.environ.setdefault("OMP_NUM_THREADS", "1")


def command() -> str:
    """How this benchmark was started."""
    return shlex.join(["python", str(Path(sys.argv[0]).resolve().relative_to(ROOT)), *sys.argv[1:]])


def record(name: str, lines: list[str]) -> None:
    """Print the lines and keep them in benchmarks/results/NAME.md with date, machine and command."""
    import torch

    head = [
        f"# {name}",
        "",
        f"`{command()}`",
        "",
        f"{datetime.date.today()}, {platform.machine()}, Python {platform.python_version()}, "
        f"torch {torch.__version__}, {os.cpu_count()} cores, "
        f"OMP_NUM_THREADS={os.environ.get('OMP_NUM_THREADS', 'unset')}",
        "",
    ]
    folder = ROOT / "benchmarks" / "results"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{name}.md").write_text("\n".join([*head, *lines, ""]), encoding="utf-8")
    print("\n".join(lines))


def data_folder() -> Path:
    """The folder of real data, from DETLOOM_TEST_DATA."""
    named = os.environ.get("DETLOOM_TEST_DATA")
    if not named:
        sys.exit("set DETLOOM_TEST_DATA to the folder that holds bccd/ and weights/")
    return Path(named).resolve()
