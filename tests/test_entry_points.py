"""Our reader of entry points against `importlib.metadata`, which defines what is right."""

from __future__ import annotations

import sys
import zipfile
from importlib.metadata import entry_points
from pathlib import Path

import pytest

from detloom.entry_points import installed_entry_points


@pytest.mark.parametrize("group", ["console_scripts", "pytest11", "no.such.group"])
def test_the_installed_entry_points_are_those_of_importlib(group: str) -> None:
    expected = {(e.name, e.value, e.dist.metadata["Name"], e.dist.version) for e in entry_points(group=group) if e.dist}
    found = {(e.name, e.value, e.distribution, e.version) for e in installed_entry_points(group)}
    assert found == expected
    assert found or group == "no.such.group"


def lay_out(folder: Path, metadata: str, headers: str = "METADATA") -> None:
    (folder / metadata).mkdir(parents=True)
    (folder / metadata / headers).write_text("Metadata-Version: 2.1\nName: My.Dist\nVersion: 2.5\n")
    (folder / metadata / "entry_points.txt").write_text(
        "[other]\na = x:y\n[detloom-like]\nb = x\n\n[detloom.test]\n# c = x\nd = os.path:join [extra]\n  e=os \n"
    )


@pytest.mark.parametrize(
    ("metadata", "headers"), [("my_dist-2.5.dist-info", "METADATA"), ("My.Dist-2.5-py3.11.egg-info", "PKG-INFO")]
)
def test_a_group_is_read_as_the_specification_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, metadata: str, headers: str
) -> None:
    lay_out(tmp_path, metadata, headers)
    lay_out(tmp_path / "later", "My_Dist-1.0.dist-info")  # shadowed: the first on the path counts
    monkeypatch.setattr(sys, "path", [str(tmp_path), str(tmp_path / "later"), *sys.path])
    points = {point.name: point for point in installed_entry_points("detloom.test")}
    assert {name: point.value for name, point in points.items()} == {"d": "os.path:join", "e": "os"}
    assert (points["d"].distribution, points["d"].version, points["d"].key) == ("My.Dist", "2.5", "my-dist")
    import os.path

    assert points["d"].load() is os.path.join


def test_a_zipped_distribution_is_left_to_importlib(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lay_out(tmp_path, "my_dist-2.5.dist-info")
    with zipfile.ZipFile(tmp_path / "my.egg", "w") as archive:
        for file in (tmp_path / "my_dist-2.5.dist-info").iterdir():
            archive.write(file, f"EGG-INFO/{file.name.replace('METADATA', 'PKG-INFO')}")
    monkeypatch.setattr(sys, "path", [str(tmp_path / "my.egg"), *sys.path])
    assert [point.name for point in installed_entry_points("detloom.test")] == ["d", "e"]
