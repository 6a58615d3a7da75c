"""A whole run of a small RT-DETR: it learns what it is shown, also when it is interrupted, and its export proves it."""

from __future__ import annotations

import dataclasses
import json
import logging
import os
import signal
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from PIL import Image

from detloom.config import mapping_layer, resolve
from detloom.discovery import Candidate, first_party_candidates
from detloom.errors import RunInterrupted
from detloom.events import EpochFinished
from detloom.hookspecs import hookimpl
from detloom.host import PluginHost
from detloom.run import resume_run, train_run
from detloom.specs import ModelSpec
from detr_tools import HOST, NAMES, drawn_batch
from families import FAMILIES
from run_tools import metrics_of, tensors_digest

SIZE = 128
EPOCHS = 80


def write_shapes(folder: Path) -> None:
    """Two pictures, the same for training and validation: what is to be seen is that they are learned."""
    images, targets = drawn_batch((SIZE, SIZE))
    for split in ("train", "valid"):
        (folder / split).mkdir(parents=True)
        content: dict[str, list[dict[str, Any]]] = {
            "images": [],
            "annotations": [],
            "categories": [{"id": i + 1, "name": name} for i, name in enumerate(NAMES)],
        }
        for number, image in enumerate(images):
            name = f"{split}{number}.png"
            picture = image.permute(1, 2, 0).numpy().copy()
            picture[0, 0] = len(split)  # two splits must not share a picture
            Image.fromarray(picture).save(folder / split / name)
            content["images"].append({"id": number, "file_name": name, "width": SIZE, "height": SIZE})
            for box, label in zip(targets.boxes[number].tolist(), targets.labels[number].tolist(), strict=True):
                if label >= 0:
                    sides = [box[0], box[1], box[2] - box[0], box[3] - box[1]]
                    row = {"id": len(content["annotations"]), "image_id": number, "category_id": label + 1}
                    content["annotations"].append({**row, "bbox": sides, "area": sides[2] * sides[3], "iscrowd": 0})
        (folder / split / "_annotations.coco.json").write_text(json.dumps(content))


def host(stop_after: int | None = None) -> PluginHost:
    """With the small variant; stop_after: the epoch after which somebody presses Ctrl-C."""

    @hookimpl
    def detloom_models() -> list[ModelSpec]:
        family = FAMILIES["rt_detr"]
        spec = HOST.get(ModelSpec, family.spec)
        settings = type(spec.settings())
        return [
            dataclasses.replace(
                spec,
                name="small",
                build=family.build,
                settings=lambda: settings.model_validate(family.settings),
                weights=(),
            )
        ]

    @hookimpl
    def detloom_epoch_finished(event: EpochFinished) -> None:
        if event.epoch == stop_after:
            os.kill(os.getpid(), signal.SIGINT)

    module = ModuleType("small")
    module.__dict__.update(
        detloom_api=(0, 1), detloom_models=detloom_models, detloom_epoch_finished=detloom_epoch_finished
    )
    return PluginHost([*first_party_candidates(), Candidate("small", "small", "1", "entry point", lambda: module)])


@pytest.fixture(scope="module")
def train(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """Runs in a folder of its own; returns the run's."""
    data = tmp_path_factory.mktemp("shapes")
    write_shapes(data)

    def call(stop_after: int | None = None) -> Path:
        folder = tmp_path_factory.mktemp("runs")
        values = {
            "model.type": "small",
            "model.pretrain_weights": "none",
            "data.local.path": str(data),
            "data.num_workers": 0,
            "data.near_duplicates": False,
            "training.resolution": SIZE,
            "training.batch_size": 2,
            "training.epochs": EPOCHS,
            "training.checkpoint_interval": EPOCHS,
            "training.lr": 2e-3,
            "training.gradient_clip": 1.0,
            "training.warmup_epochs": 10.0,
            "training.ema_decay": 0.9,
            "training.ema_warmup_steps": 1.0,
            "augmentation.transforms": [],
            "validation.interval": EPOCHS,
            "validation.pictures": 0,
            "experiment.output_dir": str(folder),
            "experiment.name": "run",
            "experiment.logging.loggers": ["jsonl"],
        }
        plugins = host(stop_after)
        try:
            if stop_after is not None:
                with pytest.raises(RunInterrupted):
                    train_run(resolve(plugins, [mapping_layer(values)]), plugins)
                resume_run(str(folder / "run"), [], host())
            else:
                train_run(resolve(plugins, [mapping_layer(values)]), plugins)
        finally:
            logging.getLogger("detloom").handlers.clear()
        return folder / "run"

    return call


@pytest.fixture(scope="module")
def whole(train: Callable[..., Path]) -> Path:
    return train()


def test_a_run_learns_evaluates_exports_and_reports(whole: Path) -> None:
    record = json.loads((whole / "run.json").read_text())
    assert record["status"] == "completed"
    judged = [row for row in metrics_of(whole) if "val/AP" in row][-1]
    assert judged["val/AP"] > 0.8 and judged["val/AP50"] > 0.99
    (gate,) = (json.loads(path.read_text())["gate"] for path in whole.glob("exports/*.onnx.json"))
    assert gate["passed"] and gate["exported_ap"] == pytest.approx(gate["checkpoint_ap"], abs=1e-3)
    assert (whole / "report.html").stat().st_size > 10_000
    logged = {name for row in metrics_of(whole) for name in row}
    assert {f"train/loss_{part}" for part in ("cls", "l1", "box", "aux", "encoder", "denoising")} <= logged


def test_an_interrupted_run_that_is_resumed_is_the_same_run(whole: Path, train: Callable[..., Path]) -> None:
    again = train(stop_after=EPOCHS // 4)
    states = [torch.load(run / "checkpoints/last.pt", weights_only=True)["training"] for run in (whole, again)]
    for part in (lambda state: state["model"], lambda state: state["ema"]["shadow"]):
        assert tensors_digest(part(states[0])) == tensors_digest(part(states[1]))
    assert metrics_of(whole) == metrics_of(again)
