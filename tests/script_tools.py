"""A configuration as a task knows it, and repositories from which runs are started."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pytest

from detloom.specs import Package, TrackedConfig
from detloom_integrations.clearml import script as script_module
from git_tools import new_repository, push_to_bare

DETLOOM = Package("detloom", "0.1.0", "detloom==0.1.0", "index", ("models.yolox",))
LOCAL = Package("pear-tools", "3.4", "", "/home/bob/pear", ("pear", "plum"))


def tracked(values: Mapping[str, str] | None = None, *packages: Package, **experiment: object) -> TrackedConfig:
    named = {"project": "orchard", "name": "apples", "tags": ["red"], **experiment}
    return TrackedConfig(
        values={"training.lr": "0.01", **(values or {})},
        origins={},
        descriptions={},
        allowed={},
        document={"experiment": named, "model": {"type": "yolox-nano"}},
        packages=packages or (DETLOOM,),
        command="detloom train fruit --queue gpu",
    )


@pytest.fixture
def installed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Detloom was installed by pip."""
    monkeypatch.setattr(script_module, "own_checkout", lambda: None)


@pytest.fixture
def own(tmp_path: Path, installed: None) -> Path:
    """A repository of the user's own, pushed."""
    folder = tmp_path / "fruit"
    new_repository(folder, {"README.md": "fruit\n", "work/notes.md": "notes\n", "data/train/a.txt": "a\n"})
    push_to_bare(folder, tmp_path / "fruit.git")
    return folder
