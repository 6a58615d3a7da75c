from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import Any

import pytest
import torch

from detloom.errors import CheckpointError, DetloomError
from detloom.files import sha256_of
from detloom.train.checkpoint import read_checkpoint, read_manifest, read_newest, save_checkpoint


def save(folder: Path, value: float, name: str = "last.pt") -> Path:
    return save_checkpoint(folder, name, {"weights": {"w": torch.full((64,), value)}}, {"epoch": int(value)})


def test_a_checkpoint_loads_with_weights_only_and_its_hash_is_in_the_manifest(tmp_path: Path) -> None:
    path = save(tmp_path, 1)
    assert torch.equal(torch.load(path, weights_only=True)["weights"]["w"], torch.ones(64))
    [entry] = read_manifest(tmp_path)
    assert entry["sha256"] == sha256_of(path)
    assert (entry["file"], entry["epoch"]) == ("last.pt", 1)
    assert entry["bytes"] == path.stat().st_size


def test_every_file_on_disk_is_in_the_manifest_after_many_saves(tmp_path: Path) -> None:
    for value in range(1, 7):
        save(tmp_path, value)
        if value % 2:
            save(tmp_path, value, "best.pt")
    known = {entry["sha256"] for entry in read_manifest(tmp_path)}
    files = sorted(tmp_path.glob("*.pt"))
    assert [file.name for file in files] == ["best.pt", "last.pt", "previous.pt"]
    assert {sha256_of(file) for file in files} <= known
    assert len(known) <= 5


@pytest.mark.parametrize("damage", ["truncate", "flip", "empty", "remove"])
def test_a_damaged_checkpoint_falls_back_to_the_last_good_one(
    damage: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    save(tmp_path, 1)
    path = save(tmp_path, 2)
    content = bytearray(path.read_bytes())
    if damage == "truncate":
        path.write_bytes(content[: len(content) // 2])
    elif damage == "flip":
        content[len(content) // 2] ^= 0xFF
        path.write_bytes(content)
    elif damage == "empty":
        path.write_bytes(b"")
    else:
        path.unlink()
    payload, used = read_newest(tmp_path)
    assert used.name == "previous.pt"
    assert float(payload["weights"]["w"][0]) == 1
    if damage != "remove":
        assert "last.pt does not match its hash" in caplog.text


def test_nothing_whole_to_resume_from_is_said_with_each_reason(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="no checkpoint was saved yet"):
        read_newest(tmp_path)
    save(tmp_path, 1).write_bytes(b"junk")
    with pytest.raises(CheckpointError, match=r"last\.pt does not match its hash"):
        read_newest(tmp_path)


def test_a_full_disk_leaves_the_old_checkpoint_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = save(tmp_path, 1)
    before = path.read_bytes()

    def full(value: Any, file: Any, **options: Any) -> None:
        Path(file).write_bytes(b"half of it")
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(torch, "save", full)
    with pytest.raises(DetloomError, match="No space left on device"):
        save(tmp_path, 2)
    assert path.read_bytes() == before
    assert float(read_newest(tmp_path)[0]["weights"]["w"][0]) == 1
    assert not list(tmp_path.glob(".*.part"))


def test_a_crash_between_hash_and_rename_leaves_a_readable_state(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The manifest already names the new file when the process dies before the new file has its name."""
    save(tmp_path, 1)
    real = Path.replace

    def die(self: Path, target: Path) -> Path:
        if Path(target).name == "last.pt":
            raise KeyboardInterrupt
        return real(self, target)

    monkeypatch.setattr(Path, "replace", die)
    with pytest.raises(KeyboardInterrupt):
        save(tmp_path, 2)
    monkeypatch.undo()
    payload, used = read_newest(tmp_path)
    assert float(payload["weights"]["w"][0]) == 1
    assert used.name == "last.pt"


def test_a_damaged_last_checkpoint_does_not_push_the_good_one_before_it_away(tmp_path: Path) -> None:
    save(tmp_path, 1)
    save(tmp_path, 2).write_bytes(b"damaged")
    save(tmp_path, 3)
    assert float(read_checkpoint(tmp_path / "last.pt")["weights"]["w"][0]) == 3
    assert float(read_checkpoint(tmp_path / "previous.pt")["weights"]["w"][0]) == 1


def test_a_file_that_is_no_checkpoint_is_named_as_such(tmp_path: Path) -> None:
    plain = tmp_path / "weights.pt"
    torch.save({"w": torch.ones(2)}, plain)
    with pytest.raises(CheckpointError, match="is not a checkpoint of Detloom"):
        read_checkpoint(plain)
    text = tmp_path / "notes.pt"
    text.write_text("hello")
    with pytest.raises(CheckpointError, match="cannot be read as a checkpoint"):
        read_checkpoint(text)
    with pytest.raises(CheckpointError, match="no checkpoint at"):
        read_checkpoint(tmp_path / "absent.pt")
