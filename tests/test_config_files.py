"""Configuration files: values, places, and every way in which a file can be wrong."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from detloom.config import file_layer, load_env
from detloom.config.layers import Layer, Text
from detloom.errors import ConfigError

YAML = """\
# a comment
training:
  lr: 1e-4
  epochs: 5
  lr_milestones: [0.5, 0.9]
experiment:
  project: "123"
  tags:
    - v1.0
    - quick
augmentation.hflip.prob: 0.1
model:
"""


def layer_of(folder: Path, name: str, text: str) -> Layer:
    (folder / name).write_text(text, encoding="utf-8")
    return file_layer(folder / name)


def places(layer: Layer, folder: Path) -> dict[str, str]:
    return {entry.key: entry.place.removeprefix(f"{folder}{os.sep}") for entry in layer.entries}


def test_yaml_values_know_their_line_and_column(tmp_path: Path) -> None:
    layer = layer_of(tmp_path, "run.yaml", YAML)
    assert layer.mistakes == ()
    assert places(layer, tmp_path) == {
        "training.lr": "run.yaml:3:3",
        "training.epochs": "run.yaml:4:3",
        "training.lr_milestones": "run.yaml:5:3",
        "experiment.project": "run.yaml:7:3",
        "experiment.tags": "run.yaml:8:3",
        "augmentation.hflip.prob": "run.yaml:11:1",
        "model": "run.yaml:12:1",
    }
    values = {entry.key: entry.value for entry in layer.entries}
    assert values["experiment.tags"] == ["v1.0", "quick"]
    # What was quoted is text for good; what was not may still become a number.
    assert not isinstance(values["experiment.project"], Text) and isinstance(values["training.lr"], Text)


def test_json_values_know_their_line_and_column(tmp_path: Path) -> None:
    layer = layer_of(tmp_path, "run.json", '{\n\t"training": {\n\t\t"lr": 1e-4,\n\t\t"use_ema": false\n\t}\n}\n')
    assert layer.mistakes == ()
    assert places(layer, tmp_path) == {"training.lr": "run.json:3:3", "training.use_ema": "run.json:4:3"}
    assert [entry.value for entry in layer.entries] == [1e-4, False]


def test_toml_values_know_their_line_and_column(tmp_path: Path) -> None:
    text = 'preset = "plan"\n[training]\nlr = 1e-4\n  epochs = 5\n[experiment.logging]\nloggers = ["jsonl"]\n'
    layer = layer_of(tmp_path, "run.toml", text + "[data]\nsplit = {val = 0.1, test = 0.2}\n")
    assert layer.mistakes == ()
    assert places(layer, tmp_path) == {
        "preset": "run.toml:1:1",
        "training.lr": "run.toml:3:1",
        "training.epochs": "run.toml:4:3",
        "experiment.logging.loggers": "run.toml:6:1",
        "data.split.val": "run.toml:8:1",
        "data.split.test": "run.toml:8:1",
    }


@pytest.mark.parametrize(
    ("name", "text", "place", "words"),
    [
        ("a.yaml", "training:\n  lr: 1\n  lr: 2\n", "a.yaml:3:3", "is written twice; first at"),
        ("a.yaml", "training:\n  lr: 1\ntraining.lr: 2\n", "a.yaml:3:1", "is written twice"),
        ("a.yaml", "training:\n  lr: 1\n bad\n", "a.yaml:3:2", "not readable as YAML"),
        ("a.yaml", "training: {lr: 1\n", "a.yaml:2:1", "not readable as YAML"),
        ("a.yaml", "- 1\n- 2\n", "a.yaml:1:1", "must hold keys and values"),
        ("a.yaml", "just words\n", "a.yaml:1:1", "must hold keys and values"),
        ("a.yaml", "model:\n  type: !!python/name:os.system\n", "a.yaml:2:9", "tag"),
        ("a.yaml", "model:\n  type: !mine x\n", "a.yaml:2:9", "tag"),
        ("a.yaml", "a: &x [1]\nb: *x\n", "a.yaml:2:4", "aliases are not supported"),
        ("a.yaml", "a: &x\n  b: *x\n", "a.yaml:2:6", "aliases are not supported"),
        ("a.yaml", "<<: {a: 1}\n", "a.yaml:1:1", "keys are plain names"),
        ("a.yaml", "? [a, b]\n: 1\n", "a.yaml:1:3", "keys are plain names"),
        ("a.json", '{"training": {"lr": 1,}}', "a.json:1:23", "not readable as JSON"),
        ("a.json", '{"training": {"lr": NaN}}', "a.json", "NaN is not a JSON number"),
        ("a.json", "[1]", "a.json:1:1", "must hold an object"),
        ("a.json", '{"training": {"lr": 1,\n"lr": 2}}', "a.json:2:1", "is written twice"),
        ("a.toml", "[training]\nlr = \n", "a.toml:2:6", "not readable as TOML"),
        ("a.toml", "lr = 1\nlr = 2\n", "a.toml:2:7", "not readable as TOML"),
        ("a.ini", "lr=1", "--config", "is no configuration file"),
    ],
)
def test_a_wrong_file_is_a_mistake_with_a_place(tmp_path: Path, name: str, text: str, place: str, words: str) -> None:
    layer = layer_of(tmp_path, name, text)
    (mistake,) = layer.mistakes
    assert words in mistake.message
    assert mistake.place.removeprefix(f"{tmp_path}{os.sep}") == place


def test_files_that_cannot_be_read_are_mistakes(tmp_path: Path) -> None:
    (tmp_path / "latin.yaml").write_bytes(b"a: \xe9")
    assert "not UTF-8" in file_layer(tmp_path / "latin.yaml").mistakes[0].message
    assert "no such file" in file_layer(tmp_path / "gone.yaml").mistakes[0].message
    (tmp_path / "folder.yaml").mkdir()
    assert "cannot be read" in file_layer(tmp_path / "folder.yaml").mistakes[0].message


def test_deep_nesting_is_a_mistake_and_not_a_crash(tmp_path: Path) -> None:
    assert "too deeply" in layer_of(tmp_path, "a.yaml", "a: " + "[" * 5000).mistakes[0].message


def test_an_empty_file_says_nothing(tmp_path: Path) -> None:
    assert layer_of(tmp_path, "a.yaml", "# nothing\n") == Layer("file")


# --- .env ---


def test_dot_env_fills_the_environment_without_overriding_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("DLT_A", "DLT_B", "DLT_C", "DLT_D", "DLT_E"):
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)
    monkeypatch.setenv("DLT_KEPT", "old")
    file = tmp_path / ".env"
    file.write_text(
        "# secrets\nDLT_A=one\nexport DLT_B = 'two words'\nDLT_C=\"with # sign\"\nDLT_D=four # not this\n"
        "DLT_E=\n\nDLT_KEPT=new\n"
    )
    assert load_env(file) == ["DLT_A", "DLT_B", "DLT_C", "DLT_D", "DLT_E"]
    found = [os.environ[f"DLT_{letter}"] for letter in "ABCDE"]
    assert found == ["one", "two words", "with # sign", "four", ""]
    assert os.environ["DLT_KEPT"] == "old"


def test_a_bad_line_of_dot_env_is_named_without_showing_its_value(tmp_path: Path) -> None:
    (tmp_path / ".env").write_text("A_KEY hunter2\n")
    with pytest.raises(ConfigError) as caught:
        load_env(tmp_path / ".env")
    assert ".env:1:1" in str(caught.value) and "hunter2" not in str(caught.value)


def test_no_dot_env_is_fine(tmp_path: Path) -> None:
    assert load_env(tmp_path / ".env") == []
