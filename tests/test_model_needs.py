"""What a run says when its model cannot do what the data ask for."""

from __future__ import annotations

import json
import logging
from pathlib import Path

import pytest

from data_tools import load, sound_data
from detloom.config import mapping_layer, resolve
from detloom.run import train_run
from run_tools import NotingDetector, lab_host

SHORT = {
    "data.num_workers": 0,
    "model.type": "lab-dry",
    "model.pretrain_weights": "none",
    "training.epochs": 1,
    "training.batch_size": 2,
    "training.resolution": 64,
    "augmentation.transforms": [],
    "validation.pictures": 0,
    "export.format": [],
    "experiment.logging.loggers": ["jsonl"],
    "experiment.name": "run",
}


@pytest.mark.parametrize("most", [None, 1])
def test_a_run_warns_of_images_with_more_objects_than_its_model_finds(
    most: int | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = sound_data(tmp_path / "data")
    assert any((split.starts[1:] - split.starts[:-1]).max() > 1 for split in load(data).splits.values())
    monkeypatch.setattr(NotingDetector, "most_objects", most)
    monkeypatch.chdir(tmp_path)
    host = lab_host()
    try:
        train_run(resolve(host, [mapping_layer({**SHORT, "data.local.path": str(data)})]), host)
    finally:
        logging.getLogger("detloom").handlers.clear()
    warnings = json.loads((tmp_path / "runs" / "run" / "run.json").read_text())["warnings"]
    assert any("than the 1 queries of the model can find" in text for text in warnings) == (most == 1)
