"""A run that is asked to stop when its training is over."""

from __future__ import annotations

import json
import logging
import os
import signal
from pathlib import Path
from typing import Any

import pytest

import detloom.export
from data_tools import sound_data
from detloom.errors import RunInterrupted
from detloom.run import resume_run, train_run
from run_tools import configured, lab_host, weights_digest


def test_a_stop_during_an_export_leaves_out_the_next_one_and_resuming_makes_them_all(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    real = detloom.export.export_model
    asked: list[str] = []

    def export(model: Any, spec: Any, *rest: Any, **named: Any) -> Any:
        if not asked:
            os.kill(os.getpid(), signal.SIGTERM)
        asked.append(spec.name)
        return real(model, spec, *rest, **named)

    monkeypatch.setattr(detloom.export, "export_model", export)
    values = {
        "model.type": "lab-dry",
        "model.pretrain_weights": "none",
        "data.local.path": str(sound_data(tmp_path / "data", images=4)),
        "data.num_workers": 0,
        "training.resolution": 64,
        "training.max_steps": 1,
        "training.batch_size": 2,
        "validation.pictures": 0,
        "experiment.output_dir": str(tmp_path / "runs"),
        "experiment.name": "run",
        "experiment.logging.loggers": ["jsonl"],
        "export.format": ["onnx", "torchscript"],
    }
    host = lab_host()
    run = tmp_path / "runs" / "run"
    try:
        with pytest.raises(RunInterrupted, match="stopped before the export to torchscript; the training is done"):
            train_run(configured(values, host), host)
        assert asked == ["onnx"] and "stopping as soon as what is being done is whole" in capsys.readouterr().err
        assert json.loads((run / "run.json").read_text())["status"] == "interrupted"
        trained = weights_digest(run / "checkpoints" / "best.pt")
        resume_run(str(run), [], host)
    finally:
        logging.getLogger("detloom").handlers.clear()
    assert json.loads((run / "run.json").read_text())["status"] == "completed"
    assert asked == ["onnx", "onnx", "torchscript"] and weights_digest(run / "checkpoints" / "best.pt") == trained
    assert len([path for path in (run / "exports").iterdir() if path.suffix in {".onnx", ".torchscript", ".pt"}]) == 2
