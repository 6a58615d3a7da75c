"""Every leaf of the configuration is changed once, in a run where it must act, and its effect is observed.

What is observed never contains the configuration itself: a value that is merely stored shows no effect. A leaf
without a row here fails `test_every_leaf_has_a_row_here` by name.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import data_tools
import run_tools
from detloom.config import iter_leaves
from detloom.config.compose import choice_fields, fitting
from detloom.data import loader as loader_module
from detloom.discovery import first_party_candidates
from detloom.host import PluginHost
from detloom.model import build_detector
from detloom.specs import ModelSpec
from detloom.train import session as session_module
from detloom_plugins.models._coco_names import COCO_NAMES
from effect_rows import (
    BASE,
    CLEARML_LEAVES,
    CONTEXTS,
    CVAT_LEAVES,
    DETR_LEAVES,
    FORMAT_LEAVES,
    LOADER_LEAVES,
    ROWS,
    S3_LEAVES,
    Row,
    Values,
)
from run_tools import Seen, configured, lab_host, observe

# ---- what the runs are made of ------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def places(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Data sets and weights files by the name that stands in braces in the tables."""
    root = tmp_path_factory.mktemp("material")
    names = ("data", "other", "one", "broken", "files", "beside", "rival", "rare", "lists", "near", "masked", "resized")
    folders = {name: root / name for name in names}
    for split, images, seed in (("train", 8, 0), ("valid", 4, 100), ("test", 2, 200)):
        data_tools.write_split(folders["data"] / split, data_tools.document(images, seed), seed)
    data_tools.sound_data(folders["broken"])
    data_tools.edit(folders["broken"], lambda content: content["annotations"][0].update(category_id=99))
    data_tools.sound_data(folders["resized"])
    data_tools.edit(folders["resized"], lambda content: content["images"][0].update(width=128, height=96))
    data_tools.sound_data(folders["near"])
    Image.fromarray(data_tools.picture(0) // 20 * 20 + 10).save(folders["near"] / "valid" / "p100.png")
    data_tools.sound_data(folders["other"], images=6)
    data_tools.write_split(folders["one"] / "train", data_tools.document(12, 50), 50)
    data_tools.sound_data(folders["beside"], images=5)
    shutil.copytree(folders["data"], folders["rival"])
    data_tools.edit(folders["rival"], lambda content: content["annotations"][0].update(bbox=[30, 30, 9, 9]))
    _write_rare(folders["rare"])
    shutil.copytree(folders["data"], folders["masked"])
    for split in ("train", "valid", "test"):
        data_tools.edit(folders["masked"], _fill_boxes, split)
    folders["lists"].mkdir()
    (folders["lists"] / "val.txt").write_text("p53.png\np54.png\np55.png\np56.png\n")
    _write_files(folders["files"])
    run_tools.PLACES["beside"] = folders["beside"]
    weights = {name: root / f"{name}.pth" for name in ("yolox", "more", "lab")}
    _write_weights(weights)
    return {name: str(path) for name, path in (folders | weights).items()}


def _fill_boxes(content: dict[str, Any]) -> None:
    """Each object gets a mask: its box."""
    for annotation in content["annotations"]:
        x, y, w, h = annotation["bbox"]
        annotation["segmentation"] = [[x, y, x + w, y, x + w, y + h, x, y + h]]


def _write_rare(folder: Path) -> None:
    """One image of eight has a dog."""
    data_tools.sound_data(folder, images=8)

    def change(content: dict[str, Any]) -> None:
        content["annotations"] = [a for a in content["annotations"] if a["category_id"] == 3 or a["image_id"] == 1]

    data_tools.edit(folder, change)


def _write_files(folder: Path) -> None:
    """a.json, b.json and c.json beside pictures/, and pictures2/ where every picture is upside down."""
    for name, images, seed in (("a", 4, 300), ("b", 3, 400), ("c", 2, 500)):
        data_tools.write_split(folder / "pictures", data_tools.document(images, seed), seed)
        (folder / "pictures" / "_annotations.coco.json").rename(folder / f"{name}.json")
    for picture in folder.glob("pictures/*.png"):
        (folder / "pictures2").mkdir(exist_ok=True)
        Image.fromarray(np.ascontiguousarray(np.asarray(Image.open(picture))[::-1])).save(
            folder / "pictures2" / picture.name
        )
        shutil.copy(picture, folder / picture.name)


def _write_weights(files: Mapping[str, Path]) -> None:
    """yolox: every anchor proposes a box of three cells, so that objects compete for many; more: with a tensor that
    nobody knows."""
    host = lab_host()
    detectors = {}
    for name, classes in (("yolox-nano", COCO_NAMES), ("lab-dry", ("cat", "dog"))):
        spec = host.get(ModelSpec, name)
        torch.manual_seed(5)
        detectors[name] = build_detector(spec, spec.settings(), classes, (64, 64))
    state = detectors["yolox-nano"].state_dict()
    for name, tensor in state.items():
        if name.startswith("head.reg_preds"):
            tensor.copy_(torch.tensor([0.0, 0.0, 1.1, 1.1]) if name.endswith("bias") else torch.zeros_like(tensor))
    torch.save(state, files["yolox"])
    torch.save({**state, "head.surprise": torch.zeros(3)}, files["more"])
    torch.save(detectors["lab-dry"].state_dict(), files["lab"])


Look = Callable[..., Seen]


@pytest.fixture(scope="module")
def look(places: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Look:
    """Runs a context with changes; the run without changes is made once."""
    kept: dict[tuple[str, bool], Seen] = {}

    def run(context: str, changes: Values | None = None, *, clearml: bool = False) -> Seen:
        if not changes and (context, clearml) in kept:
            return kept[context, clearml]
        folder = tmp_path_factory.mktemp("run")
        values = {**BASE, **CONTEXTS[context], **(changes or {})}
        seen = observe(_filled(values, {**places, "work": str(folder)}), folder, lab_host(clearml=clearml))
        shutil.rmtree(folder)
        if not changes:
            kept[context, clearml] = seen
        return seen

    return run


def _filled(values: Values, places: Mapping[str, str]) -> dict[str, Any]:
    """`{data}` and the like replaced by paths."""
    text = json.dumps({key: value for key, value in values.items() if value is not None})
    for name, path in places.items():
        text = text.replace(f"{{{name}}}", path)
    filled: dict[str, Any] = json.loads(text)
    return filled


# ---- the tests ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.key)
def test_a_changed_leaf_changes_the_run(row: Row, look: Look) -> None:
    before = look(row.context, clearml=row.clearml)
    after = look(row.context, {row.key: row.value}, clearml=row.clearml)
    for aspect in row.shows:
        assert after.get(aspect) != before.get(aspect), f"{row.key}={row.value!r} shows nothing in {aspect}"
    for aspect in row.keeps:
        assert after[aspect] == before[aspect], f"{row.key}={row.value!r} changes {aspect}"
    if "error" not in row.shows:
        assert not after["error"] or after["error"] == before["error"], after["error"]


def test_every_leaf_has_a_row_here() -> None:
    tested = (
        {row.key for row in ROWS}
        | LOADER_LEAVES
        | CLEARML_LEAVES
        | S3_LEAVES
        | CVAT_LEAVES
        | FORMAT_LEAVES
        | DETR_LEAVES
    )
    assert tested == set(_all_leaves())


def _all_leaves() -> Iterator[str]:
    """Every key of configurations that choose each first-party plugin at least once."""
    host = PluginHost(first_party_candidates())
    for choice in choice_fields():
        names = [spec.name for spec in fitting(host, choice)]
        assert names, f"no first-party plugin for {choice.key}"
        chosen: list[Any] = [names] if isinstance(choice.default, tuple) else names
        role = choice.key.rpartition(".")[2]
        takers = [spec.name for spec in host.specs(ModelSpec) if role in spec.loss_roles]
        for value in chosen:
            # A loss is chosen for a model that takes its role.
            model = {"model.type": takers[0]} if choice.plugin_kind == "loss" and takers else {}
            if choice.plugin_kind != "loss" or takers:
                yield from (leaf.key for leaf in iter_leaves(configured({**model, choice.key: value}, host)))


def test_two_equal_runs_show_the_same(look: Look) -> None:
    again = look("augmented", {"training.seed": 0})
    assert again == look("augmented")


def test_without_its_plugin_clearml_cannot_be_enabled(look: Look) -> None:
    assert "experiment.clearml.mode" in look("plain", {"experiment.clearml.mode": "required"})["error"]


# ---- leaves of the loader: the batches stay the same, so the processes that make them are observed ----------------


class _NoLoaderError(Exception):
    """Ends a run where its loader would be built."""


@pytest.fixture
def constructed(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """The arguments of every DataLoader of torch that a run makes."""
    made: list[dict[str, Any]] = []
    real = loader_module.DataLoader

    def noting(*arguments: Any, **options: Any) -> Any:
        made.append(options)
        return real(*arguments, **options)

    monkeypatch.setattr(loader_module, "DataLoader", noting)
    return made


@pytest.mark.parametrize(
    ("key", "value", "argument"),
    [
        ("data.num_workers", 1, "num_workers"),
        ("data.prefetch_factor", 5, "prefetch_factor"),
        ("data.persistent_workers", False, "persistent_workers"),
    ],
)
def test_a_leaf_of_the_loader_reaches_it_and_leaves_the_weights_alone(
    key: str, value: Any, argument: str, look: Look, constructed: list[dict[str, Any]]
) -> None:
    shorter = {"training.epochs": 1}
    alone = look("plain", shorter)
    assert not constructed, "the main process needs no DataLoader"
    seen = look("plain", {**shorter, "data.num_workers": 1, key: value})
    assert constructed[0][argument] == value
    assert seen["trained"] == alone["trained"]
    assert seen["evaluation"] == alone["evaluation"]


@pytest.mark.parametrize("wanted", [True, False])
def test_batches_for_a_gpu_are_page_locked_as_told(
    wanted: bool, places: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Seen without a GPU: what the loader is asked for where there is one."""
    asked: list[bool] = []

    class Loader:
        def __init__(self, *arguments: Any, pin_memory: bool, **options: Any) -> None:
            asked.append(pin_memory)
            raise _NoLoaderError

    monkeypatch.setattr(session_module, "TrainLoader", Loader)
    monkeypatch.setattr(session_module, "choose_device", lambda name: torch.device("cuda"))
    monkeypatch.setattr(torch.nn.Module, "to", lambda module, *arguments, **options: module)
    values = {**BASE, "training.precision": "fp32", "data.pin_memory": wanted}
    with pytest.raises(_NoLoaderError):
        observe(_filled(values, places), tmp_path, lab_host())
    assert asked == [wanted]


def test_a_cache_is_built_as_told_and_leaves_the_weights_alone(
    look: Look, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DETLOOM_CACHE", str(tmp_path))
    built: list[str] = []
    real = session_module.build_stores

    def noting(splits: Any, rule: Any, kind: Any, **more: Any) -> Any:
        built.append(kind)
        return real(splits, rule, kind, **more)

    monkeypatch.setattr(session_module, "build_stores", noting)
    alone = look("augmented", {"training.epochs": 1})
    for kind in ("ram", "disk"):
        seen = look("augmented", {"training.epochs": 1, "data.cache": kind})
        assert {name: seen[name] for name in ("trained", "evaluation", "metrics")} == {
            name: alone[name] for name in ("trained", "evaluation", "metrics")
        }
    assert built == ["none", "ram", "disk"]
    assert len(list(tmp_path.glob("pixels/*/pixels.bin"))) == 2, "training and validation, once each"
