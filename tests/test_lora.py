"""Low-rank adapters: what is trained, what is kept, and that nobody needs them afterwards."""

from __future__ import annotations

import builtins
import copy
import json
from pathlib import Path
from typing import Any

import pytest
import torch

from data_tools import sound_data
from detloom.detector import Detector
from detloom.errors import ConfigError, PluginError
from detloom.model import load_model
from detloom.train.freezing import NOTHING_FROZEN, Freezing, plan_freezing
from detloom.train.loop import Loop
from detloom.train.lora import add_adapters, has_adapters, merged_state, without_adapters
from detloom_schemas.config import LoraConfig, ModelConfig, RunConfig, TrainingConfig
from loop_tools import Recorder, assert_same, assert_same_state, batches, interrupted_and_resumed, make_loop
from run_tools import lab_host, observe
from tiny import TinyDetector, make_batch
from yolox_tools import build

pytest.importorskip("peft")
CONFIG = TrainingConfig(epochs=3, lr=0.05, warmup_steps=2, ema_warmup_steps=5, seed=3)
DATA = batches(3)


def adapted(config: LoraConfig | None = None, detector: Detector | None = None) -> tuple[Any, Freezing]:
    torch.manual_seed(11)
    detector = detector or TinyDetector(["a", "b"], dropout=0.0)
    lora = config or LoraConfig(rank=2, alpha=4.0)
    frozen, _ = add_adapters(detector, lora)
    return detector, plan_freezing(detector, RunConfig(model=ModelConfig(lora=lora)), frozen=frozen)


def adapted_loop(recorder: Recorder) -> Loop:
    detector, freezing = adapted()
    return make_loop(CONFIG, DATA, recorder, detector=detector, freezing=freezing)


def scores(detector: Detector) -> torch.Tensor:
    images = make_batch(torch.Generator().manual_seed(2), 2).images
    with torch.no_grad():
        return detector.eval()(images).logits


def test_a_fresh_adapter_changes_nothing() -> None:
    for plain in (TinyDetector(["a", "b"]), build("nano", ("a", "b"), size=(64, 64))):
        before = scores(plain)
        detector, _ = adapted(detector=copy.deepcopy(plain))
        assert has_adapters(detector) and not has_adapters(plain)
        assert torch.equal(scores(detector), before)
        assert_same(dict(plain.state_dict()), merged_state(detector))


def test_adapters_and_the_head_learn_and_everything_else_stays_bit_equal() -> None:
    loop = adapted_loop(Recorder())
    before = copy.deepcopy(loop.detector.state_dict())
    loop.run()
    changed = {name for name, tensor in loop.detector.state_dict().items() if not torch.equal(before[name], tensor)}
    assert changed == {
        *(f"{layer}.lora_{side}.default.weight" for layer in ("stem.0", "body.0") for side in "AB"),
        *("head.weight", "head.bias"),
    }


def test_the_merged_weights_compute_what_the_adapted_network_computes() -> None:
    loop = adapted_loop(Recorder())
    loop.run()
    plain = TinyDetector(["a", "b"])
    plain.load_state_dict(merged_state(loop.detector))
    torch.testing.assert_close(scores(plain), scores(loop.detector), rtol=1e-5, atol=1e-6)
    stripped = without_adapters(loop.detector)
    assert not has_adapters(stripped) and has_adapters(loop.detector)
    assert torch.equal(scores(stripped), scores(plain))


@pytest.mark.parametrize("stop_at", [2, 3, 7])
def test_a_resumed_run_equals_the_uninterrupted_one_bit_for_bit(stop_at: int, tmp_path: Path) -> None:
    assert_same_state(*interrupted_and_resumed(adapted_loop, stop_at, tmp_path))


def test_yolox_learns_one_batch_through_adapters_of_its_backbone() -> None:
    """Depthwise convolutions have none; the boxes of the batch are found, not merely a smaller loss."""
    torch.manual_seed(0)
    detector = build("nano", ("a", "b"), size=(64, 64))
    for module in detector.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.momentum = 0.5
    images = make_batch(torch.Generator().manual_seed(5), 1)
    with torch.no_grad():  # statistics that fit, as pretrained weights have: under adapters they are held
        for _ in range(6):
            detector.train()(images.images)
    detector, freezing = adapted(LoraConfig(rank=8, alpha=16.0), detector)
    grouped = [name for name, m in detector.named_modules() if isinstance(m, torch.nn.Conv2d) and m.groups > 1]
    assert grouped and not any(f"{name}.lora_A" in key for name in grouped for key in detector.state_dict())
    config = TrainingConfig(epochs=90, lr=0.02, warmup_steps=5, use_ema=False, gradient_clip=10.0)
    loop = make_loop(config, [images], Recorder(), detector=detector, freezing=freezing)
    loop.run()
    plain = without_adapters(loop.detector).eval()
    with torch.no_grad():
        found = plain.predict(plain(images.images), images.sizes)
    for detections, boxes, labels in zip(found, images.targets.boxes, images.targets.labels, strict=True):
        for box, label in zip(boxes[labels >= 0], labels[labels >= 0], strict=True):
            overlaps = [_iou(box.tolist(), other) for other in detections.boxes[detections.labels == int(label)]]
            assert max(overlaps[:2], default=0) > 0.8


def _iou(a: Any, b: Any) -> float:
    width = max(min(a[2], b[2]) - max(a[0], b[0]), 0)
    height = max(min(a[3], b[3]) - max(a[1], b[1]), 0)
    areas = (a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1])
    return float(width * height / (areas - width * height))


def test_frozen_weights_under_adapters_can_be_thawed_later() -> None:
    detector = TinyDetector(["a", "b"])
    lora = LoraConfig(rank=2)
    frozen, _ = add_adapters(detector, lora)
    config = RunConfig(model=ModelConfig(lora=lora), training=TrainingConfig(unfreeze=[1]))
    freezing = plan_freezing(detector, config, frozen=frozen)
    freezing.apply(detector, 0)
    assert not detector.get_parameter("body.0.base_layer.weight").requires_grad
    freezing.apply(detector, 1)
    assert detector.get_parameter("body.0.base_layer.weight").requires_grad
    assert not detector.get_parameter("stem.0.base_layer.weight").requires_grad
    assert freezing is not NOTHING_FROZEN and freezing.thaws_within(2) == ["thaws after 1 epoch: body"]


def test_targets_are_chosen_by_pattern_and_a_wrong_one_is_refused_with_what_there_is() -> None:
    detector, _ = adapted(LoraConfig(rank=1, targets=("body",)))
    assert "body.0.lora_A.default.weight" in detector.state_dict()
    assert "stem.0.lora_A.default.weight" not in detector.state_dict()
    with pytest.raises(ConfigError, match=r"(?s)model\.lora\.targets: 'nose' matches no such layer.*stem\.0, body\.0"):
        adapted(LoraConfig(rank=1, targets=("nose",)))


def test_without_peft_the_missing_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def without(name: str, *arguments: Any, **options: Any) -> Any:
        if name.partition(".")[0] == "peft":
            raise ImportError("No module named 'peft'")
        return real(name, *arguments, **options)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(PluginError, match=r"pip install 'detloom\[lora\]'"):
        adapted()


def test_a_runs_checkpoint_and_its_export_need_no_adapters(tmp_path: Path) -> None:
    data = sound_data(tmp_path / "data", images=6)
    host = lab_host()
    seen = observe(
        {
            "model.type": "lab-dry",
            "model.lora.rank": 2,
            "model.pretrain_weights": "none",
            "data.local.path": str(data),
            "data.num_workers": 0,
            "training.epochs": 2,
            "training.batch_size": 2,
            "training.resolution": 64,
            "training.lr": 0.05,
            "experiment.logging.loggers": ["jsonl"],
            "validation.pictures": 0,
        },
        tmp_path,
        host,
    )
    assert not seen["error"]
    run = tmp_path / seen["place"][0]
    model = load_model(run, host)
    assert not has_adapters(model.detector)
    gate = next(iter(seen["exports"].values()))["gate"]
    assert gate, "the exported file was compared with the checkpoint"
    record = json.loads((run / "run.json").read_text())
    assert any("adapters of rank 2 on 2 layers" in line for line in record["model"]["trained"])
    state = torch.load(run / "checkpoints" / "last.pt", weights_only=True)
    assert any(".lora_A." in name for name in state["training"]["model"])
    assert set(state["weights"]) == set(model.detector.state_dict())
