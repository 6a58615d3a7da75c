"""docs/plugins.md and examples/plugin say what is so: examples are taken out and run, the package is installed."""

from __future__ import annotations

import inspect
import re
import shlex
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

import detloom
from conftest import ROOT
from detloom import hookspecs
from detloom.host import HOOKS
from detloom.specs import LoggerSpec
from detloom.testing import host_with, problems
from plugin_tools import PACKAGE, Place, pip_install

PAGE = (ROOT / "docs" / "plugins.md").read_text(encoding="utf-8")
EXAMPLE = ROOT / "examples" / "plugin"


def blocks(language: str, text: str = PAGE) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", text, re.DOTALL | re.MULTILINE)


def section(heading: str) -> str:
    """From a heading to the next heading of any level."""
    found = re.search(rf"^#+ {re.escape(heading)}\n(.*?)(?=^#|\Z)", without_code(), re.DOTALL | re.MULTILINE)
    assert found is not None, f"docs/plugins.md has no section {heading}"
    start = without_code().index(found[0])
    return PAGE[start : start + len(found[0])]


def without_code() -> str:
    """The page with its code blanked out, character by character: comments in code are no headings."""
    return re.sub(r"^```.*?^```$", lambda match: re.sub(r"\S", "x", match[0]), PAGE, flags=re.DOTALL | re.MULTILINE)


def module_of(code: str) -> ModuleType:
    module = ModuleType("from_the_page")
    exec(compile(code, "docs/plugins.md", "exec"), vars(module))
    return module


# --- the page ---


@pytest.mark.parametrize("hook", HOOKS)
def test_the_section_of_a_hook_shows_the_example_of_its_specification(hook: str) -> None:
    """The examples themselves are run by test_hookspecs.py. There they stand inside a docstring: other quotes."""
    _, _, example = (inspect.getdoc(getattr(hookspecs, hook)) or "").partition("Example:\n")
    code = inspect.cleandoc("\n" + example).replace("'''", '"""') + "\n"
    assert blocks("python", section(f"`{hook}`")) == [code]


def test_the_table_names_every_kind_of_plugin() -> None:
    named = re.findall(r"^\| \[`(detloom_\w+)`\]\(#\w+\) \| `(\w+)`", PAGE, re.MULTILINE)
    registering = [hook for hook in HOOKS if hook.endswith("s")]
    assert [hook for hook, _ in named] == registering
    assert all(getattr(detloom, spec).hook == hook for hook, spec in named)


def test_every_name_of_the_api_on_the_page_exists() -> None:
    names = set(re.findall(r"\bdetloom\.([A-Za-z_]\w*)", PAGE)) - {"testing"}
    assert len(names) > 20 and names <= set(detloom.__all__)


def test_the_tracker_on_the_page_keeps_the_contract_and_does_what_is_said(tmp_path: Path) -> None:
    (code,) = blocks("python", section("Trackers"))
    module = module_of(code.replace("/tmp/desk", str(tmp_path)))
    assert problems(module) == []
    spec = host_with(page=module).get(LoggerSpec, "desk")
    assert spec.tracker is not None and spec.claims is not None
    assert spec.claims({"DESK_AGENT": "1"}) and not spec.claims({})
    tracker = spec.tracker(spec.settings())
    said: dict[str, Any] = {"origins": {}, "descriptions": {}, "allowed": {}, "document": {}}
    seen = detloom.TrackedConfig(values={"training.lr": "0.1"}, **said)
    assert isinstance(tracker, detloom.Tracker)
    assert tracker.connect(seen).edits == () and tracker.restore_checkpoint("last", tmp_path / "to.pt") is None
    (tmp_path / "edits.json").write_text('{"training.lr": "0.2"}')
    (tmp_path / "state.pt").write_bytes(b"state")
    tracker.keep_checkpoint("last", tmp_path / "state.pt", 1, 7)
    assert tracker.connect(seen).edits == (("training.lr", "0.2", "edits.json"),) and not tracker.stop_requested()
    restored = tracker.restore_checkpoint("last", tmp_path / "to.pt")
    assert restored is not None and restored.read_bytes() == b"state"
    assert tracker.restore_checkpoint("best", tmp_path / "to.pt") is None
    tracker.confirm(seen, None)
    (tmp_path / "stop").touch()
    assert tracker.stop_requested()
    assert tracker.identity() == {"folder": str(tmp_path)}
    tracker.close("failed", "why")
    assert (tmp_path / "ending.txt").read_text() == "failed why"


@pytest.fixture
def daylight(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.syspath_prepend(EXAMPLE / "src")
    yield
    for name in [name for name in sys.modules if name.partition(".")[0] == "daylight"]:
        del sys.modules[name]


def test_the_tests_on_the_page_pass(daylight: None) -> None:
    (code,) = blocks("python", section("Testing"))
    tests = {name: test for name, test in vars(module_of(code)).items() if name.startswith("test_")}
    assert len(tests) == 3
    for test in tests.values():
        test()


def test_the_package_on_the_page_is_the_example() -> None:
    assert blocks("toml") == [(EXAMPLE / "pyproject.toml").read_text(encoding="utf-8")]
    (front,) = blocks("python", section("A package"))
    assert front == (EXAMPLE / "src" / "daylight" / "plugin.py").read_text(encoding="utf-8")


# --- the package ---


def test_the_example_installs_lists_and_passes_its_own_tests(tmp_path: Path) -> None:
    copy = shutil.copytree(EXAMPLE, tmp_path / "copied", ignore=shutil.ignore_patterns("__pycache__"))
    pip_install(copy, tmp_path / "site")
    place = Place(tmp_path / "site", tmp_path)
    rows = place.detloom("plugins", "list").stdout.splitlines()
    (row,) = [row for row in rows if row.startswith("daylight ")]
    version = tomllib.loads((EXAMPLE / "pyproject.toml").read_text())["project"]["version"]
    assert f"detloom-daylight {version}" in row
    assert "augmentation: dim; loss: smooth-l1; observes: epoch_finished" in row
    for line in commands(PAGE) + commands((EXAMPLE / "README.md").read_text()):
        done = place.detloom(*line)
        assert done.returncode == 0, (line, done.stderr)
    tests = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "tests"]
    done = subprocess.run(tests, cwd=copy, env=place.environment(), capture_output=True, text=True, check=False)
    assert done.returncode == 0 and "3 passed" in done.stdout, done.stdout + done.stderr


def commands(text: str) -> list[list[str]]:
    """The command lines of a page. A training is not run: its arguments must be a configuration."""
    lines = [shlex.split(line)[1:] for block in blocks("", text) for line in block.splitlines() if "detloom " in line]
    assert len(lines) >= 3
    return [["config", "show", *line[1:]] if line[0] == "train" else line for line in lines]


# --- the conformance check ---


def test_the_package_of_the_other_tests_keeps_the_contract(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(PACKAGE / "src")
    from orchard import plugin  # type: ignore[import-not-found]

    assert problems(plugin) == []


CLOSURE = """
import detloom
detloom_api = (0, 1)

def build(settings):
    def leave(sample, rng, extras):
        return sample
    return leave

@detloom.hookimpl
def detloom_augmentations():
    yield detloom.AugmentationSpec(name="closed", summary="closed", build=build)
"""


def test_a_transform_that_cannot_reach_a_worker_is_a_problem(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "closed_in.py").write_text(CLOSURE)
    monkeypatch.syspath_prepend(tmp_path)
    import closed_in  # type: ignore[import-not-found]

    (problem,) = problems(closed_in)
    assert problem.startswith("augmentation closed: its transform cannot be sent to worker processes")
