"""What a run's folder is called, and which one is gone on with."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from detloom.run_folder import create_folder, newest_resumable


@pytest.mark.parametrize(
    ("name", "folder"),
    [
        ("Проект 7", "Проект-7"),
        ("实验", "实验"),
        ("rün é", "rün-é"),
        ("ru\u0308n", "rün"),
        ("a/b: c", "a-b-c"),
        ("..", "run"),
        ("./-.", "run"),
    ],
)
def test_letters_of_any_script_stay_in_the_name_of_a_run(tmp_path: Path, name: str, folder: str) -> None:
    assert create_folder(tmp_path, name).name == folder
    assert create_folder(tmp_path, name).name == f"{folder}-2"


def test_a_name_that_no_file_system_takes_is_cut_at_a_letter(tmp_path: Path) -> None:
    made = create_folder(tmp_path, "验" * 300)
    assert set(made.name) == {"验"} and len(made.name.encode()) <= 200


@pytest.mark.parametrize("record", ["[]", "3", "{", '{"status": 3}', "\x00"])
def test_a_record_that_is_none_is_passed_over(tmp_path: Path, record: str) -> None:
    (tmp_path / "odd" / "checkpoints").mkdir(parents=True)
    (tmp_path / "odd" / "run.json").write_text(record)
    good = tmp_path / "good"
    (good / "checkpoints").mkdir(parents=True)
    (good / "checkpoints" / "last.pt").touch()
    (good / "run.json").write_text(json.dumps({"status": "interrupted"}))
    assert newest_resumable(tmp_path) == good
