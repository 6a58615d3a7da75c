"""A training whose numbers stop being numbers: it stops, keeps the batch, and says where it began."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import run_tools
from data_tools import sound_data
from detloom.detector import LossTerms
from detloom.train.loop import Loop, TrainingDiverged
from detloom_schemas.config import TrainingConfig
from loop_tools import Recorder, batches, make_loop
from run_tools import lab_host, observe
from tiny import TinyDetector

DATA = batches(6)
POISON = DATA[3]


class Poisoned(TinyDetector):
    """Its body breaks on one batch of the data, in the place that `where` names."""

    def __init__(self, where: str) -> None:
        super().__init__(["a", "b"])
        self.where = where
        self.body.append(nn.Identity())

    def forward(self, images: Tensor, targets: Any = None, prompts: Any = None) -> Any:
        self.bad = torch.equal(images, POISON.images)
        return super().forward(images, targets, prompts)

    def loss(self, outputs: Any, targets: Any) -> LossTerms:
        found = super().loss(outputs, targets)
        if self.bad and self.where == "loss":
            found.terms["loss_cls"] = found.terms["loss_cls"] * float("inf")
        if self.bad and self.where == "gradient":
            found.terms["loss_cls"] = found.terms["loss_cls"] + (outputs.logits * 0).abs().sum().sqrt()
        return found


def poisoned(where: str, recorder: Recorder, **changes: Any) -> Loop:
    torch.manual_seed(1)
    detector = Poisoned(where)
    if where == "module":
        layer = detector.body[1]
        layer.register_forward_hook(lambda module, inputs, output: output.log() if detector.bad else None)
    config = TrainingConfig(epochs=2, lr=0.01, seed=3, scheduler="constant", warmup_steps=0).model_copy(update=changes)
    return make_loop(config, DATA, recorder, detector=detector, log_interval=10)


@pytest.mark.parametrize(
    ("where", "told"),
    [
        (
            "module",
            r"the loss is (nan|-?inf) at step 4 \(epoch 1\); it began in the output of body\.1 \(ReLU\) holds -inf",
        ),
        ("loss", r"the loss is inf at step 4 .*it began in the loss term loss_cls is inf"),
        (
            "gradient",
            r"the gradient is nan at step 4 .*it began in the gradient of the output of head \(Conv2d\) is nan",
        ),
    ],
)
def test_the_step_and_the_place_where_it_began_are_named(where: str, told: str) -> None:
    """Found at the end of the epoch, two steps later: the weights were left alone from the broken step on."""
    recorder = Recorder()
    with pytest.raises(TrainingDiverged, match=told):
        poisoned(where, recorder).run()
    assert recorder.saved == [] and recorder.logged == []


def test_the_batch_is_kept_as_it_was() -> None:
    recorder = Recorder()
    with pytest.raises(TrainingDiverged):
        poisoned("module", recorder).run()
    (kept,) = recorder.broken
    assert (kept["step"], kept["epoch"], kept["seed"], kept["precision"]) == (4, 0, 3, "float32")
    assert kept["what"].startswith("loss ") and kept["origin"].startswith("it began in the output of body.1")
    (batch,) = kept["batches"]
    assert torch.equal(batch["images"], POISON.images)
    assert torch.equal(batch["boxes"], POISON.targets.boxes) and torch.equal(batch["labels"], POISON.targets.labels)
    assert batch["indices"] == POISON.indices


def test_the_weights_are_those_from_before_the_broken_step() -> None:
    expected = poisoned("nowhere", Recorder(), max_steps=3)
    expected.run()
    broken = poisoned("gradient", Recorder())
    with pytest.raises(TrainingDiverged):
        broken.run()
    for mine, theirs in zip(broken.detector.parameters(), expected.detector.parameters(), strict=True):
        assert bool(mine.isfinite().all()) and torch.equal(mine, theirs)


def test_all_micro_batches_of_the_step_are_kept_and_the_bad_one_is_found() -> None:
    recorder = Recorder()
    with pytest.raises(TrainingDiverged, match=r"at step 2 .*output of body\.1"):
        poisoned("module", recorder, gradient_accumulation=2).run()
    assert [torch.equal(batch["images"], POISON.images) for batch in recorder.broken[0]["batches"]] == [False, True]


def test_a_weight_that_is_no_number_from_the_start_is_named() -> None:
    network = TinyDetector(["a", "b"])
    with torch.no_grad():
        network.body[0].weight[0, 0, 0, 0] = float("nan")
    with pytest.raises(
        TrainingDiverged, match=r"the weights themselves: body\.0\.weight holds nan \(1 of \d+ values\)"
    ):
        make_loop(TrainingConfig(epochs=1), DATA, Recorder(), detector=network).run()


def test_a_fault_that_does_not_come_back_is_said_to_have_gone() -> None:
    class Once(TinyDetector):
        calls = 0

        def loss(self, outputs: Any, targets: Any) -> LossTerms:
            found = super().loss(outputs, targets)
            self.calls += 1
            if self.calls == 2:
                found.terms["loss_cls"] = found.terms["loss_cls"] * float("nan")
            return found

    with pytest.raises(TrainingDiverged, match=r"\(epoch 1\); run again, every value of this step is finite"):
        make_loop(TrainingConfig(epochs=1), DATA, Recorder(), detector=Once(["a", "b"])).run()


def test_a_run_leaves_the_batch_in_its_folder_with_the_names_of_the_images(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = sound_data(tmp_path / "data", images=6)
    real = run_tools.NotingDetector.loss

    def loss(self: Any, outputs: Any, targets: Any) -> LossTerms:
        found = real(self, outputs, targets)
        if self.training and bool((targets.boxes[0] == wanted).all()):
            found.terms["loss_obj"] = found.terms["loss_obj"] * float("nan")
        return found

    wanted: Any = torch.zeros(())
    values = {
        "model.type": "lab-dry", "model.pretrain_weights": "none", "data.local.path": str(data),
        "data.num_workers": 0, "training.epochs": 2, "training.batch_size": 2, "training.resolution": 64,
        "experiment.logging.loggers": ["jsonl"], "validation.pictures": 0, "export.format": [],
    }  # fmt: skip
    seen_boxes: list[Tensor] = []
    monkeypatch.setattr(
        run_tools.NotingDetector,
        "loss",
        lambda self, outputs, targets: seen_boxes.append(copy.copy(targets.boxes[0])) or real(self, outputs, targets),
    )
    observe({**values, "training.max_steps": 2}, tmp_path / "first", lab_host())
    wanted = seen_boxes[1]
    monkeypatch.setattr(run_tools.NotingDetector, "loss", loss)
    seen = observe(values, tmp_path / "second", lab_host())
    assert "TrainingDiverged: the loss is nan at step 2 (epoch 1); it began in the loss term loss_obj" in seen["error"]
    run = tmp_path / "second" / seen["place"][0]
    kept = torch.load(run / "diverged" / "step-000002.pt", weights_only=True)
    assert str(run / "diverged" / "step-000002.pt").removeprefix(str(tmp_path / "second")) in seen["error"]
    assert torch.equal(kept["batches"][0]["boxes"][0], wanted) and kept["batches"][0]["images"].dtype == torch.uint8
    assert len(kept["file_names"]) == 2 and kept["file_names"][0] in seen["error"]
    record = json.loads((run / "run.json").read_text())
    assert record["status"] == "failed" and "loss_obj" in record["error"]
