"""`detloom` in processes of their own, to be interrupted, killed and starved; and in this one, where that is enough."""

from __future__ import annotations

import contextlib
import io
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from unittest import mock

from conftest import IMPORT_ROOTS, ROOT
from detloom.cli import main


def environment(cache: Path, more: Mapping[str, str] | None = None) -> dict[str, str]:
    """Without a network: every address is asked of a port where nobody listens."""
    values = {name: value for name, value in os.environ.items() if not name.startswith("DETLOOM_")}
    nowhere = "http://127.0.0.1:9"
    values.update(
        PYTHONPATH=os.pathsep.join(IMPORT_ROOTS),
        OMP_NUM_THREADS="1",
        DETLOOM_CACHE=str(cache),
        COLUMNS="120",
        http_proxy=nowhere,
        https_proxy=nowhere,
        no_proxy="",
    )
    return {**values, **(more or {})}


@dataclass
class Finished:
    code: int
    out: str
    err: str


@dataclass
class Place:
    """A folder that commands run in. cache: kept out of it, so that what is new in it was written by the command."""

    folder: Path
    cache: Path
    more: dict[str, str] = field(default_factory=dict)

    def start(
        self, *arguments: str | Path, script: Path | None = None, before: Callable[[], None] | None = None
    ) -> subprocess.Popen[str]:
        program = [str(script)] if script else ["-m", "detloom"]
        return subprocess.Popen(
            [sys.executable, *program, *map(str, arguments)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            cwd=self.folder,
            env=environment(self.cache, self.more),
            preexec_fn=before,  # noqa: PLW1509 - sets a limit, takes no lock
        )

    def run(
        self, *arguments: str | Path, script: Path | None = None, before: Callable[[], None] | None = None
    ) -> Finished:
        return ended(self.start(*arguments, script=script, before=before))

    def call(self, *arguments: str | Path) -> Finished:
        """The same command in this process, where neither its start nor its end is what is tested: half the time of a
        small run goes into an interpreter that starts and imports torch."""
        out, err = io.StringIO(), io.StringIO()
        changed = mock.patch.dict(os.environ, environment(self.cache, self.more), clear=True)
        with changed, contextlib.chdir(self.folder), contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            code = main([str(argument) for argument in arguments])
        return Finished(code, out.getvalue(), err.getvalue())

    def files(self) -> dict[str, bytes]:
        return {
            str(path.relative_to(self.folder)): path.read_bytes() for path in self.folder.rglob("*") if path.is_file()
        }


def ended(process: subprocess.Popen[str]) -> Finished:
    out, err = process.communicate(timeout=300)
    return Finished(process.returncode, out, err)


def wait_for_step(run: Path, step: int, process: subprocess.Popen[str]) -> None:
    """Until the run has recorded an optimizer step."""
    record = run / "metrics.jsonl"
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and process.poll() is None:
        if record.is_file():
            lines = [line for line in record.read_text().splitlines() if line.endswith("}")]
            if any(json.loads(line)["step"] >= step for line in lines):
                return
        time.sleep(0.005)
    raise AssertionError(f"step {step} was never seen: {ended(process)}")


RUN_TRAINING = ROOT / "run_training.py"
