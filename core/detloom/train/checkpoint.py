# ruff: noqa: TID253
"""Checkpoints: written whole or not at all, verified by hash, loadable with `weights_only=True`.

`manifest.json` beside them lists every file with its SHA-256. A new file's hash enters the manifest before the file
gets its name, and the hash of the file it replaces leaves only at the next save: whatever moment the power fails,
each file on disk has its hash in the manifest.
"""

from __future__ import annotations

import json
import logging
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from detloom.errors import CheckpointError
from detloom.files import atomic_path, sha256_of, write_json

FORMAT = 1
LAST, PREVIOUS, BEST = "last.pt", "previous.pt", "best.pt"
log = logging.getLogger("detloom")


def save_checkpoint(folder: Path, name: str, payload: Mapping[str, Any], note: Mapping[str, Any]) -> Path:
    """Write `payload` to folder/name. note: epoch, step and metrics, for people and for `manifest.json`.

    `last.pt` steps back to `previous.pt` first, so that two complete states exist. Raises DetloomError when the disk
    refuses; the files that were there stay.
    """
    target = folder / name
    if name == LAST and _is_whole(target):
        # Under both names first: at no moment is there no last.pt, and a damaged one pushes no good previous.pt away.
        with atomic_path(folder / PREVIOUS) as part:
            part.unlink()
            _link_or_copy(target, part)
    with atomic_path(target) as part:
        _save({"format": FORMAT, **payload}, part)
        _record(folder, name, sha256_of(part), {**note, "bytes": part.stat().st_size})
    return target


def adopt_checkpoint(path: Path, name: str) -> Path:
    """A checkpoint that came from elsewhere into this folder gets its name and its place in the manifest. Raises
    CheckpointError when it cannot be read."""
    payload = read_checkpoint(path)
    target = path.with_name(name)
    note = {"epoch": payload["epoch"], "step": payload["step"], "metrics": payload["metrics"]}
    _record(path.parent, name, sha256_of(path), {**note, "bytes": path.stat().st_size})
    path.replace(target)
    return target


def _is_whole(path: Path) -> bool:
    return path.is_file() and sha256_of(path) in {entry["sha256"] for entry in read_manifest(path.parent)}


def _link_or_copy(source: Path, target: Path) -> None:
    try:
        os.link(source, target)
    except OSError:  # a file system without hard links
        shutil.copy2(source, target)


def _save(payload: Mapping[str, Any], path: Path) -> None:
    """torch hides why the disk refused (RuntimeError: unexpected pos ...); the disk says it again when asked. The file
    is emptied at once: torch holds it open while the error is on its way, and run.json needs the space."""
    try:
        torch.save(payload, path)
    except RuntimeError:
        try:
            with path.open("ab") as file:
                file.write(bytes(1 << 16))
                file.flush()
                os.fsync(file.fileno())
        finally:
            os.truncate(path, 0)
        raise


def _record(folder: Path, name: str, digest: str, note: Mapping[str, Any]) -> None:
    entries = [*read_manifest(folder), {"file": name, "sha256": digest, **note}]
    # last.pt, the file that becomes previous.pt, and the previous.pt that it is about to replace.
    last = [entry for entry in entries if entry["file"] == LAST][-3:]
    best = [entry for entry in entries if entry["file"] == BEST][-2:]
    write_json(folder / "manifest.json", {"format": FORMAT, "checkpoints": last + best})


def read_manifest(folder: Path) -> list[dict[str, Any]]:
    """Entries of manifest.json; empty when there is none or it cannot be read."""
    try:
        return list(json.loads((folder / "manifest.json").read_text(encoding="utf-8"))["checkpoints"])
    except (OSError, ValueError, KeyError, TypeError):
        return []


def read_checkpoint(path: Path) -> dict[str, Any]:
    """The payload of one file, its hash verified where a manifest lies beside it. Raises CheckpointError."""
    if not path.is_file():
        raise CheckpointError(f"no checkpoint at {path}")
    known = {entry["sha256"] for entry in read_manifest(path.parent)}
    if known and path.name in {LAST, PREVIOUS, BEST} and sha256_of(path) not in known:
        raise CheckpointError(f"{path} does not match its hash in manifest.json: damaged or changed")
    try:
        payload = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises half a dozen kinds for damaged files
        raise CheckpointError(
            f"{path} cannot be read as a checkpoint: {_first_line(error)}",
            hint="it may be truncated, or hold something else than tensors; take another file",
        ) from error
    if not isinstance(payload, dict) or payload.get("format") != FORMAT:
        raise CheckpointError(
            f"{path} is not a checkpoint of Detloom (format {FORMAT})",
            hint="plain weights go to --weights; they start a new training",
        )
    return payload


def read_newest(folder: Path) -> tuple[dict[str, Any], Path]:
    """The newest whole state: `last.pt`, else `previous.pt`, saying what was skipped. Raises CheckpointError."""
    problems: list[str] = []
    for name in (LAST, PREVIOUS):
        path = folder / name
        if not path.is_file():
            continue
        try:
            payload = read_checkpoint(path)
        except CheckpointError as error:
            problems.append(error.message)
            log.warning("%s; trying the one before it", error.message)
            continue
        return payload, path
    detail = "; ".join(problems) or "no checkpoint was saved yet"
    raise CheckpointError(f"{folder} holds nothing to resume from: {detail}", hint="start the run anew")


def _first_line(error: BaseException) -> str:
    text = str(error).strip() or type(error).__name__
    return text.splitlines()[0][:200]
