"""docs/clearml.md says what is so: its commands are run, its edits are made, its messages are those of the code."""

from __future__ import annotations

import ast
import functools
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from agent_tools import GitRepository
from clearml_tools import ClearMLServer
from conftest import ROOT
from data_tools import sound_data
from detloom.cli.console import print_error
from detloom.config import ResolvedConfig, resolve, text_layer
from detloom.errors import ConfigError
from detloom.host import discover
from detloom_integrations.clearml.parameters import key_at
from test_clearml_tune import reporting

PAGE = (ROOT / "docs" / "clearml.md").read_text(encoding="utf-8")
SOURCES = sorted((ROOT / "integrations" / "detloom_integrations" / "clearml").glob("*.py"))
MESSAGES = PAGE[PAGE.index("## What each message means") :]


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", PAGE, re.DOTALL | re.MULTILINE)


def rows(table_head: str) -> list[list[str]]:
    """Cells of the table that begins with this line."""
    lines = PAGE[PAGE.index(table_head) :].splitlines()[2:]
    taken = lines[: next(n for n, line in enumerate(lines) if not line.startswith("|"))]
    return [[cell.strip().strip("`") for cell in line.strip("|").split(" | ")] for line in taken]


@functools.cache
def configured() -> ResolvedConfig:
    written = [("model.type", "yolox-nano", ""), ("data.local.path", "/data", "")]
    return resolve(discover(), [text_layer(written)])


# ---- edits -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("parameter", "text", "becomes"), rows("| parameter | written there | becomes |"))
def test_an_edit_becomes_what_the_page_says(parameter: str, text: str, becomes: str) -> None:
    key = key_at(*parameter.split("/", 1))
    value = configured().with_tracker({key: text}).values()[key]
    assert json.dumps(value) == json.dumps(json.loads(becomes))


def test_the_refusal_on_the_page_is_the_one_that_comes(capsys: pytest.CaptureFixture[str]) -> None:
    (block,) = [block for block in blocks("") if "task parameter" in block]
    edits = [
        (key, text, f"task parameter {place}")
        for key, place, text in (
            ("training.lr", "training/lr", "fast"),
            ("training.epochs", "training/epochs", "3.5"),
            ("training.learning_rate", "training/learning_rate", "1"),
        )
    ]
    with pytest.raises(ConfigError) as refusal:
        configured().with_edits(edits)
    print_error(refusal.value)
    assert sorted(capsys.readouterr().err.splitlines()) == sorted(block.splitlines())


def test_another_model_brings_its_own_recipe_and_a_chosen_plugin_its_settings() -> None:
    before = configured().values()
    edits = {"model.type": "yolox-s", "augmentation.transforms": "hflip, vflip", "augmentation.vflip.prob": "0.3"}
    after = configured().with_tracker(edits).values()
    assert before["training.resolution"] != after["training.resolution"]
    assert after["augmentation.vflip.prob"] == 0.3


def test_every_setting_that_the_page_names_exists() -> None:
    named = set(re.findall(r"`(experiment\.clearml\.\w+)`", PAGE))
    assert named == {key for key in configured().values() if key.startswith("experiment.clearml.")}


# ---- messages --------------------------------------------------------------------------------------------------


def template(node: ast.expr | None) -> str | None:
    """A message of the code, with dots for what is filled in; None for what is no text."""
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return re.sub(r"%[.\d]*[sdf]", "…", node.value)
    if isinstance(node, ast.JoinedStr):
        return "".join(str(part.value) if isinstance(part, ast.Constant) else "…" for part in node.values)
    if isinstance(node, ast.Tuple) and node.elts:
        return template(node.elts[0])
    return None


SAYING = ("warning", "complain", "lose", "_unreachable", "append", "say")


def messages_of(path: Path) -> Iterator[tuple[str, str]]:
    """Everything that a module raises, warns of, or gives as a reason: where, and its words."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        found: list[ast.expr | None] = []
        if isinstance(node, ast.Call):
            name = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
            if name.endswith("Error") or name in SAYING:
                found = list(node.args[:2] if name == "lose" else node.args[:1])
            elif name == "Mistake":
                found = list(node.args[2:3])
        elif isinstance(node, ast.Yield) or (isinstance(node, ast.Assign) and names(node) == ["message"]):
            found = [node.value]
        for words in map(template, found):
            if words and re.search(r"\w+ \w+", words.replace("…", "")):
                yield f"{path.name}:{node.lineno}", words


def names(node: ast.Assign) -> list[str]:
    return [target.id for target in node.targets if isinstance(target, ast.Name)]


def page_messages() -> list[str]:
    """First cells of the tables of messages, each `...` of them."""
    first = [line.split(" | ")[0] for line in MESSAGES.splitlines() if line.startswith("| ") and "---" not in line]
    return [found[0] or found[1] for cell in first for found in re.findall(r"`` (.+?) ``|`([^`]+)`", cell)]


def fits(shown: str, words: str) -> bool:
    """Whether the fixed parts of what the page shows follow each other in the words of the code."""
    place = 0
    for part in filter(None, (part.strip() for part in shown.split("…"))):
        found = words.find(part, place)
        if found < 0:
            return False
        place = found + len(part)
    return True


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.stem))
def test_every_message_of_the_integration_stands_on_the_page(path: Path) -> None:
    shown = page_messages()
    missing = [(place, words) for place, words in messages_of(path) if not any(fits(one, words) for one in shown)]
    assert missing == []


def test_every_message_on_the_page_is_one_of_the_code() -> None:
    folders = [ROOT / name for name in ("integrations", "core", "plugins")]
    texts = [path.read_text(encoding="utf-8") for folder in folders for path in folder.rglob("*.py")]
    words = [found for text in texts for found in map(template, ast_strings(text)) if found]
    stale = [shown for shown in page_messages() if not any(fits(shown, one) for one in words)]
    assert stale == []


def ast_strings(text: str) -> Iterator[ast.expr]:
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.JoinedStr | ast.Constant):
            yield node


# ---- commands --------------------------------------------------------------------------------------------------

CODE = ("core", "plugins", "integrations", "schemas", "run_training.py", "pyproject.toml", "README.md", "LICENSE")
QUICK = ["--model", "yolox-nano", "--weights", "none", "--resolution", "64", "--batch-size", "2", "--epochs", "1"]
QUICK += ["--set", "data.num_workers=0", "--set", "export.format=[]", "--set", "validation.pictures=0"]
QUICK += ["--set", "experiment.clearml.resource_monitoring=false"]


def page_commands() -> list[list[str]]:
    lines = [line for block in blocks("sh") for line in block.splitlines()]
    return [shlex.split(line)[1:] for line in lines if line.startswith("detloom ")]


@pytest.mark.slow
def test_the_commands_of_the_page_run_in_their_order(tmp_path: Path, clearml_server: ClearMLServer) -> None:
    """From a pushed clone of Detloom; trials and the enqueued run are ended by a stand-in for the agent."""
    clone = tmp_path / "detloom"
    clone.mkdir()
    for name in CODE:
        copy = shutil.copytree if (ROOT / name).is_dir() else shutil.copy2
        copy(ROOT / name, clone / name)
    (clone / ".gitignore").write_text("__pycache__/\n")
    GitRepository.create(clone)
    place = tmp_path / "place"
    sound_data(place / "DATA")
    (space,) = blocks("yaml")
    (place / "space.yaml").write_text(space)
    clearml_server.call("queues.create", name="gpu")
    environ = {name: value for name, value in os.environ.items() if not name.startswith("DETLOOM_")}
    roots = os.pathsep.join(str(clone / name) for name in CODE[:4])
    environ |= {"PYTHONPATH": roots, "OMP_NUM_THREADS": "1", "PYTHONDONTWRITEBYTECODE": "1", **clearml_server.environ()}
    over = threading.Event()
    agent = threading.Thread(target=serve, args=(clearml_server, over), daemon=True)
    agent.start()
    task = ""
    try:
        for words in [*page_commands(), ["train", "DATA", "--name", "changed"]]:
            if "changed" in words:
                (clone / "README.md").write_text("edited")
            command = [task if word == "TASK" else word for word in words]
            command += QUICK if command[0] == "train" else ["--poll", "1"] if command[0] == "tune" else []
            done = subprocess.run(
                [sys.executable, "-m", "detloom", *command],
                cwd=place, env=environ, capture_output=True, text=True, timeout=300, check=False,
            )  # fmt: skip
            assert done.returncode == 0, f"{command}\n{done.stdout}{done.stderr}"
            if "--queue" in command and command[0] == "train":
                task = clearml_server.tasks()[-1]["id"]
                assert task in done.stdout
                clearml_server.wait_for_status(task, "completed")
    finally:
        over.set()
        agent.join(30)
    assert {"first", "night"} <= {task["name"] for task in clearml_server.tasks() if task["type"] == "training"}
    reason = "an agent could not execute this run"
    assert reason not in (place / "runs" / "first" / "log.txt").read_text()
    (line,) = [line for line in (place / "runs" / "changed" / "log.txt").read_text().splitlines() if reason in line]
    assert "has uncommitted changes: README.md; commit and push them" in line
    searches = [task for task in clearml_server.tasks() if task["type"] == "optimizer"]
    trials = [sum(task.get("parent") == search["id"] for task in clearml_server.tasks()) for search in searches]
    assert trials == [4, 2]


def serve(server: ClearMLServer, over: threading.Event) -> None:
    """Takes every task of the queue and reports numbers for it."""
    queue = next(row["id"] for row in server.call("queues.get_all")["queues"] if row["name"] == "gpu")
    while not over.wait(0.1):
        task = server.call("queues.get_next_task", queue=queue).get("entry", {}).get("task")
        if task:
            server.call("tasks.started", task=task, force=True)
            for scalar in ("val/AP", "val/loss"):
                reporting(server, scalar)(task, server.parameters(task))
            server.call("tasks.completed", task=task, force=True)
