"""CPU time of light commands, as multiples of a bare `python -c pass`.

    python benchmarks/startup.py [--rounds 15] [--write]

Each round runs every command once, in turn, so that a busy machine is busy for all of them; the median of the rounds
counts. CPU time is user plus system time of the finished child, by `os.wait4`. The first round is thrown away: it
compiles and warms the page cache. --write keeps the answer in benchmarks/results/startup.md.
"""

from __future__ import annotations

import argparse
import os
import platform
import statistics
import sys
import tempfile
from importlib.metadata import distributions
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
ROOTS = [str(ROOT / name) for name in ("core", "plugins", "integrations", "schemas")]
LIMIT = 8.0
COMMANDS = {
    "python -c pass": ["-c", "pass"],
    "detloom --help": ["-m", "detloom", "--help"],
    "detloom plugins list": ["-m", "detloom", "plugins", "list"],
    "detloom plugins list --json": ["-m", "detloom", "plugins", "list", "--json"],
}


def cpu_seconds(arguments: list[str], bytecode: str) -> float:
    """User and system time of one process. bytecode: folder of compiled modules, as an installation has them."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(ROOTS), "PYTHONPYCACHEPREFIX": bytecode}
    environment.pop("PYTHONDONTWRITEBYTECODE", None)
    silence = [(os.POSIX_SPAWN_OPEN, 1, os.devnull, os.O_WRONLY, 0)]
    pid = os.posix_spawn(sys.executable, [sys.executable, *arguments], environment, file_actions=silence)
    _, status, usage = os.wait4(pid, 0)
    if status:
        raise SystemExit(f"{arguments} failed with status {status}")
    return usage.ru_utime + usage.ru_stime


def measure(rounds: int) -> dict[str, float]:
    """Command to median CPU seconds."""
    times: dict[str, list[float]] = {name: [] for name in COMMANDS}
    with tempfile.TemporaryDirectory() as bytecode:
        for number in range(rounds + 1):
            for name, arguments in COMMANDS.items():
                seconds = cpu_seconds(arguments, bytecode)
                if number:
                    times[name].append(seconds)
    return {name: statistics.median(values) for name, values in times.items()}


def report(medians: dict[str, float], rounds: int) -> str:
    bare = medians["python -c pass"]
    installed = sum(1 for _ in distributions())
    lines = [
        "# Start-up",
        "",
        f"`python benchmarks/startup.py --rounds {rounds} --write` on {platform.machine()}, "
        f"Python {platform.python_version()}, {installed} distributions installed, median of {rounds} rounds.",
        "",
        "| command | CPU ms | times bare Python |",
        "|---|---|---|",
        *(f"| `{name}` | {1000 * value:.0f} | {value / bare:.1f} |" for name, value in medians.items()),
        "",
        f"Goal: at most {LIMIT:g} times.",
        "",
    ]
    return "\n".join(lines)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--write", action="store_true")
    args = parser.parse_args()
    medians = measure(args.rounds)
    text = report(medians, args.rounds)
    print(text)
    if args.write:
        (ROOT / "benchmarks" / "results" / "startup.md").write_text(text, encoding="utf-8")
    return int(max(medians.values()) > LIMIT * medians["python -c pass"])


if __name__ == "__main__":
    sys.exit(main())
