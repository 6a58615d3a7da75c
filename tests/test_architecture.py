"""Imports point one way, and light modules stay light: read from the source, so that no import can hide."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
# Each package may import itself and those before it.
ORDER = ("detloom_schemas", "detloom", "detloom_integrations", "detloom_plugins")
FOLDERS = dict(zip(ORDER, ("schemas", "core", "integrations", "plugins"), strict=True))


def modules(package: str) -> list[Path]:
    return sorted((ROOT / FOLDERS[package] / package).rglob("*.py"))


def imported(tree: ast.AST) -> Iterator[tuple[int, str]]:
    """Line and absolute name of everything that is imported, also in functions and by name as text."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            yield node.lineno, node.module or ""
        elif isinstance(node, ast.Call) and getattr(node.func, "attr", getattr(node.func, "id", "")) in {
            "import_module",
            "__import__",
        }:
            for argument in node.args[:1]:
                if isinstance(argument, ast.Constant) and isinstance(argument.value, str):
                    yield node.lineno, argument.value


@pytest.mark.parametrize("package", ORDER)
def test_imports_point_from_plugins_to_integrations_to_core_to_schemas(package: str) -> None:
    forbidden = ORDER[ORDER.index(package) + 1 :]
    found = [
        f"{path.relative_to(ROOT)}:{line} imports {name}"
        for path in modules(package)
        for line, name in imported(ast.parse(path.read_text(encoding="utf-8")))
        if name.partition(".")[0] in forbidden
    ]
    assert found == []
    assert modules(package), f"{package} was not found"


def test_the_guard_sees_imports_wherever_they_stand() -> None:
    code = "def f():\n    import detloom_plugins.x\n    importlib.import_module('detloom_plugins.y')\n"
    assert [name for _, name in imported(ast.parse(code))] == ["detloom_plugins.x", "detloom_plugins.y"]


def test_no_plugin_imports_another_plugin() -> None:
    """What two plugins share belongs to the core, or to a module of their kind that is no plugin, such as `_detr`:
    blocking one must not break the other."""
    folder = ROOT / "plugins" / "detloom_plugins"
    found = []
    for path in modules("detloom_plugins"):
        parts = path.relative_to(folder).with_suffix("").parts
        own = ".".join(("detloom_plugins", *parts[:2]))
        for line, name in imported(ast.parse(path.read_text(encoding="utf-8"))):
            foreign = name.startswith("detloom_plugins.") and not f"{name}.".startswith(f"{own}.")
            shared = name.startswith(f"detloom_plugins.{parts[0]}._")
            if foreign and not shared and len(parts) > 1:
                found.append(f"{path.relative_to(ROOT)}:{line} imports {name}")
    assert found == []


def test_every_package_says_that_it_is_typed() -> None:
    for package, folder in FOLDERS.items():
        assert (ROOT / folder / package / "py.typed").is_file()


def test_the_lint_rule_against_heavy_imports_bites(tmp_path: Path) -> None:
    """A module of the core that imports torch at its top must be refused by `ruff check`."""
    pytest.importorskip("ruff")
    (tmp_path / "probe.py").write_text("import torch\n\nprint(torch)\n")
    command = [sys.executable, "-m", "ruff", "check", "--config", str(ROOT / "pyproject.toml"), "--select", "TID253"]
    done = subprocess.run([*command, str(tmp_path / "probe.py")], capture_output=True, text=True, check=False)
    assert done.returncode == 1 and "torch" in done.stdout
