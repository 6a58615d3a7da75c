"""A run's folder: its name, its record and what it was made with."""

from __future__ import annotations

import contextlib
import datetime
import importlib.metadata
import logging
import os
import platform
import re
import subprocess
import sys
import time
import unicodedata
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from detloom.data.before import start_folders
from detloom.errors import DetloomError, UsageError
from detloom.files import write_json
from detloom_schemas.run_files import GitState, ModelRecord, PluginUse, RunRecord, RunStatus

if TYPE_CHECKING:
    import torch

    from detloom.config import ResolvedConfig
    from detloom.host import PluginHost

log = logging.getLogger("detloom")


def default_name(model: str, data: str, config_hash: str) -> str:
    """family-variant, data and a short hash of the configuration."""
    return f"{_slug(model)}-{_slug(data)}-{config_hash[:8]}"


def _slug(text: str) -> str:
    """Letters of any script stay; a path has room for 255 bytes, of which a number behind the name takes a few."""
    name = re.sub(r"[^\w.]+", "-", unicodedata.normalize("NFC", text)).strip("-.")
    return name.encode()[:200].decode(errors="ignore").strip("-.") or "run"


def create_folder(output_dir: Path, name: str) -> Path:
    """A new folder; a name that is taken gets -2, -3, ...: no run overwrites another. Raises DetloomError."""
    name = _slug(name)
    for number in range(1, 10_000):
        folder = output_dir / (name if number == 1 else f"{name}-{number}")
        try:
            folder.mkdir(parents=True, exist_ok=False)
        except FileExistsError:
            if not output_dir.is_dir() or (folder.exists() and not folder.is_dir()):
                raise UsageError(f"{folder} cannot be a folder: a file is in the way") from None
            continue
        except OSError as error:
            raise UsageError(
                f"cannot create {folder}: {error.strerror or error}",
                hint="give another place with --output-dir",
            ) from error
        return folder
    raise DetloomError(f"{output_dir} holds too many runs called {name}", hint="give the run a name: --name")


@contextlib.contextmanager
def locked(folder: Path) -> Iterator[None]:
    """This process alone writes into the folder while the block runs; the lock goes when the process does, however it
    ends. Raises UsageError when another process trains there."""
    handle = os.open(folder / ".lock", os.O_RDWR | os.O_CREAT, 0o666)
    try:
        if not _lock(handle):
            raise UsageError(f"{folder} is being trained by another process", hint="wait for it, or stop it first")
        yield
    finally:
        os.close(handle)


def is_locked(folder: Path) -> bool:
    """Whether a process is at work in this run's folder."""
    try:
        handle = os.open(folder / ".lock", os.O_RDWR)
    except OSError:
        return False
    try:
        return not _lock(handle)
    finally:
        os.close(handle)


def _lock(handle: int) -> bool:
    try:
        import fcntl
    except ImportError:  # Windows
        return True
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True


def remove_leftovers(folder: Path) -> None:
    """What a process left behind that was killed while it wrote: its temporary files and folders."""
    import shutil

    for path in [*folder.rglob(".*.part"), *folder.glob("exports/.export-*")]:
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)


def newest_resumable(output_dir: Path) -> Path | None:
    """The run that was interrupted, failed or killed last and has a state to go on from."""
    import json

    found: list[tuple[float, Path]] = []
    for record in output_dir.glob("*/run.json"):
        try:
            status = json.loads(record.read_text(encoding="utf-8"))["status"]
        except (OSError, ValueError, KeyError, TypeError):
            continue
        states = [record.parent / "checkpoints" / name for name in ("last.pt", "previous.pt")]
        times = [state.stat().st_mtime for state in states if state.is_file()]
        if status not in {"completed", "stopped early"} and times and not is_locked(record.parent):
            found.append((max(times), record.parent))
    return max(found)[1] if found else None


def tracker_identities(folder: Path) -> dict[str, dict[str, str]]:
    """What each tracker said of itself in this run; empty for a run without any."""
    try:
        return RunRecord.model_validate_json((folder / "run.json").read_text(encoding="utf-8")).trackers
    except (OSError, ValueError):
        return {}


def now() -> str:
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")


def versions() -> dict[str, str]:
    """Of Python, of the platform and of the packages that shape results."""
    found = {"python": platform.python_version(), "platform": platform.platform()}
    for name in ("detloom", "torch", "numpy", "opencv-python-headless", "simplejpeg", "pydantic", "hotcoco"):
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            found[name] = importlib.metadata.version(name)
    if "detloom" not in found:
        from detloom import __version__

        found["detloom"] = __version__
    return found


def plugins_in_use(resolved: ResolvedConfig, host: PluginHost) -> list[dict[str, str]]:
    """The plugins whose specs this run's configuration names, and every loaded one of a third party: its observers and
    runtimes act without being named."""
    from detloom.config.elements import specs_of

    foreign = [info for info in host.plugins if info.status == "ok" and info.origin != "first-party"]
    specs = [*(pick.spec for pick in resolved.chosen), *specs_of(host, resolved.config.data.sources)]
    used = {info.name: info for info in [*(host.plugin_of(spec) for spec in specs), *foreign]}
    return [{"name": i.name, "distribution": i.distribution, "version": i.version} for i in used.values()]


def git_state(folder: Path) -> dict[str, Any]:
    """Commit of the working directory and whether it has changes; empty outside a repository."""

    def git(*arguments: str) -> str:
        done = subprocess.run(
            ["git", "-C", str(folder), *arguments], capture_output=True, text=True, timeout=10, check=True
        )
        return done.stdout.strip()

    try:
        return {"commit": git("rev-parse", "HEAD"), "dirty": bool(git("status", "--porcelain", "-uno"))}
    except (OSError, subprocess.SubprocessError):
        return {}


class _LogFile(logging.FileHandler):
    """A disk that is full costs lines of the log, not the run, and not the message that says so."""

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802 - the name is logging's
        del record

    def close(self) -> None:
        with contextlib.suppress(OSError):
            super().close()


@contextlib.contextmanager
def log_to(path: Path) -> Iterator[None]:
    """Everything that Detloom logs also goes to `path` while the block runs."""
    handler = _LogFile(path, encoding="utf-8", delay=True)
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    root = logging.getLogger("detloom")
    before = root.level
    root.addHandler(handler)
    root.setLevel(min(before or logging.INFO, logging.INFO))
    try:
        yield
    finally:
        root.removeHandler(handler)
        root.setLevel(before)
        handler.close()


def command_line(argv: list[str]) -> str:
    """How this run was started, to be started again."""
    import shlex

    script = Path(sys.argv[0]).name
    start = "python run_training.py" if script == "run_training.py" else "detloom train"
    return shlex.join([*start.split(), *argv])


def shaping_environment() -> dict[str, str]:
    """What of the environment shapes numbers: thread counts and determinism switches, never secrets."""
    names = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "CUBLAS_WORKSPACE_CONFIG", "CUDA_VISIBLE_DEVICES")
    return {name: os.environ[name] for name in names if name in os.environ}


def device_name(device: torch.device) -> str:
    """`cuda:0 (NVIDIA ...)` or `cpu`."""
    import torch

    return f"{device} ({torch.cuda.get_device_name(device)})" if device.type == "cuda" else str(device)


class RunRecorder:
    """Keeps run.json true while the run goes on: each change is written at once, whole."""

    def __init__(self, folder: Path, resolved: ResolvedConfig, host: PluginHost, command: str) -> None:
        config = resolved.config
        self.folder = folder
        self._clock = time.monotonic()
        self.record = RunRecord(
            name=folder.name,
            status="running",
            started=now(),
            started_in=str(Path.cwd()),
            folder=str(folder.absolute()),
            command=command,
            seed=config.training.seed,
            project=config.experiment.project,
            tags=config.experiment.tags,
            versions=versions(),
            environment=shaping_environment(),
            plugins=tuple(PluginUse(**row) for row in plugins_in_use(resolved, host)),
            git=GitState(**git_state(Path.cwd())),
            model=ModelRecord(type=config.model.type),
        )
        self._go_on_from(folder / "run.json")

    def _go_on_from(self, path: Path) -> None:
        """A resumed run keeps when and how it was started, what it was warned of, and the time it has taken."""
        try:
            before = RunRecord.model_validate_json(path.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return
        kept = {"started", "command", "warnings", "model"}
        kept |= {"started_in", "folder"} if start_folders(before, self.folder) else set()
        resumed = (*before.resumed, self.record.command)
        self.record = self.record.model_copy(update={**{k: getattr(before, k) for k in kept}, "resumed": resumed})
        self._clock -= before.duration_s or 0.0

    def update(self, **changes: Any) -> None:
        self.record = self.record.model_copy(update=changes)
        write_json(self.folder / "run.json", self.record.to_json())

    def warn(self, message: str) -> None:
        """To the log and into the report."""
        log.warning("%s", message)
        self.update(warnings=(*self.record.warnings, message))

    def close(self, status: RunStatus, error: str = "") -> None:
        self.note(status=status, error=error, finished=now(), duration_s=round(time.monotonic() - self._clock, 3))

    def note(self, **changes: Any) -> None:
        """Like update, at the end of a run: a disk that is full must not hide how the run ended."""
        try:
            self.update(**changes)
        except DetloomError as error:
            log.warning("run.json is not up to date: %s", error.message)
