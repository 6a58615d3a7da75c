"""Relative paths of a run: they begin where it was started, from wherever it is looked at."""

from __future__ import annotations

import json
import logging
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from data_tools import document, sound_data, write_split
from detloom.cli.data_options import data_config, read_dataset, saved_document
from detloom.config import Layer, mapping_layer, resolve
from detloom.data.before import data_of_run, located
from detloom.data.dataset import Dataset
from detloom.errors import DataError
from detloom.run import resume_run, train_run
from detloom_schemas.data_config import DataSplitConfig, LocalDataSource
from run_tools import SHORT_RUN, lab_host

SETTINGS: dict[str, Any] = {**SHORT_RUN, "model.type": "lab-wet"}


@pytest.fixture(autouse=True)
def _quiet() -> Iterator[None]:
    yield
    logging.getLogger("detloom").handlers.clear()


def trained(start: Path, monkeypatch: pytest.MonkeyPatch, **data: Any) -> Path:
    """A run that was started in this folder; afterwards we stand elsewhere."""
    start.mkdir(parents=True, exist_ok=True)
    monkeypatch.chdir(start)
    values = {f"data.{key.replace('__', '.')}": value for key, value in data.items()}
    host = lab_host()
    train_run(resolve(host, [mapping_layer({**SETTINGS, **values})]), host)
    elsewhere = start.parent / "elsewhere"
    elsewhere.mkdir(exist_ok=True)
    monkeypatch.chdir(elsewhere)
    return start / "runs" / "run"


def data_of(run: Path) -> Dataset:
    """As `detloom evaluate RUN` and `detloom export RUN` read them."""
    host = lab_host()
    return read_dataset(data_config([], saved_document(run), host), host, as_trained=True, model=run)


def digest(run: Path) -> str:
    text: str = json.loads((run / "run.json").read_text())["data"]["digest"]
    return text


def test_a_run_finds_its_data_from_another_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sound_data(tmp_path / "work" / "pets")
    run = trained(tmp_path / "work", monkeypatch, local__path="pets")
    assert json.loads((run / "run.json").read_text())["started_in"] == str(tmp_path / "work")
    assert data_of(run).digest == digest(run)
    assert data_of(run / "checkpoints" / "best.pt").digest == digest(run)
    sound_data(tmp_path / "elsewhere" / "pets", images=3)
    assert data_of(run).digest == digest(run), "other data of that name lie here; the run's own are meant"
    assert resume_run(str(run), [Layer("command line", ())], lab_host()) == 0


def test_files_lists_and_several_sources_are_found_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    start = tmp_path / "work"
    for name, seed in (("a", 0), ("b", 50)):
        write_split(start / "images", document(8, seed), seed)
        (start / "images" / "_annotations.coco.json").rename(start / f"{name}.json")
    files = {"local__train": "a.json", "local__val": "b.json", "local__images": "images"}
    run = trained(start, monkeypatch, **files)
    assert data_of(run).digest == digest(run)
    shutil.rmtree(run)
    lists = start / "lists"
    lists.mkdir()
    (lists / "val.txt").write_text("p50.png\np51.png\n")
    sources = [{"path": "a.json", "images": "images"}, {"path": "b.json", "images": "images"}]
    run = trained(start, monkeypatch, sources=sources, split__files="lists")
    assert data_of(run).digest == digest(run)


def test_data_of_another_machine_are_looked_for_here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sound_data(tmp_path / "work" / "pets")
    run = trained(tmp_path / "work", monkeypatch, local__path="pets")
    copied = tmp_path / "elsewhere" / "copied"
    shutil.copytree(run, copied)
    shutil.move(tmp_path / "work", tmp_path / "gone")
    with pytest.raises(DataError, match="pets does not exist"):
        data_of(copied)
    shutil.copytree(tmp_path / "gone" / "pets", tmp_path / "elsewhere" / "pets")
    assert data_of(copied).digest == digest(copied)


def test_a_copied_project_takes_its_data_along(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sound_data(tmp_path / "work" / "pets")
    trained(tmp_path / "work", monkeypatch, local__path="pets")
    shutil.copytree(tmp_path / "work", tmp_path / "copy")
    shutil.rmtree(tmp_path / "copy" / "pets")
    run = tmp_path / "copy" / "runs" / "run"
    assert data_of(run).digest == digest(run), "those of the original are still there"
    sound_data(tmp_path / "copy" / "pets", images=3)
    assert data_of(run).digest != digest(run), "the copy has data of its own"
    record = json.loads((run / "run.json").read_text())
    assert (record["started_in"], record["folder"]) == (str(tmp_path / "work"), str(tmp_path / "work" / "runs" / "run"))


def test_data_that_are_named_now_begin_here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sound_data(tmp_path / "work" / "pets")
    run = trained(tmp_path / "work", monkeypatch, local__path="pets")
    sound_data(tmp_path / "elsewhere" / "more", images=3)
    host = lab_host()
    config = data_config([("data.local.path", "more", "DATA")], saved_document(run), host)
    assert data_of_run(run, config).folders == ()
    assert read_dataset(config, host, as_trained=False, model=run).name == "more"


def test_images_beside_the_data_come_before_those_of_the_folder(tmp_path: Path) -> None:
    for name in ("pets/images", "images", "lists"):
        (tmp_path / name).mkdir(parents=True)
    own = located(LocalDataSource(path="pets", images="images"), [tmp_path])
    assert (own.path, own.images) == (str(tmp_path / "pets"), "images")
    (tmp_path / "pets" / "images").rmdir()
    assert located(LocalDataSource(path="pets", images="images"), [tmp_path]).images == str(tmp_path / "images")
    (tmp_path / "a.json").touch()
    assert located(LocalDataSource(train="a.json"), [tmp_path]).path == str(tmp_path)
    assert located(LocalDataSource(path="not there"), [tmp_path]).path == "not there"
    assert located(LocalDataSource(path="/etc"), [tmp_path]).path == "/etc"
    assert located(LocalDataSource(path="pets"), []).path == "pets"
    assert located(DataSplitConfig(files="lists"), [tmp_path]).files == str(tmp_path / "lists")
