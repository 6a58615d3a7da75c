"""16-bit floats: a scaled loss, steps that overflow are left out, and families that overflow are refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from detloom.detector import LossTerms
from detloom.errors import ConfigError
from detloom.train.assemble import choose_precision
from detloom.train.loop import Loop, TrainingDiverged
from detloom_schemas.config import TrainingConfig
from loop_tools import Recorder, assert_same, assert_same_state, batches, interrupted_and_resumed, make_loop
from run_tools import configured, lab_host
from tiny import TinyDetector

CONFIG = TrainingConfig(epochs=3, lr=0.01, warmup_steps=2, precision="fp16", seed=3, ema_warmup_steps=5)
DATA = batches(4)


def half_loop(recorder: Recorder, detector: TinyDetector | None = None, **changes: Any) -> Loop:
    return make_loop(CONFIG.model_copy(update=changes), DATA, recorder, detector=detector)


def test_the_precision_is_what_was_asked_for() -> None:
    cpu = torch.device("cpu")
    wanted = {"auto": torch.float32, "fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
    assert {name: choose_precision(TrainingConfig(precision=name), cpu) for name in wanted} == wanted


def test_forward_passes_are_in_16_bits_and_weights_in_32() -> None:
    seen: set[torch.dtype] = set()

    class Watched(TinyDetector):
        def forward(self, images: Any, targets: Any = None, prompts: Any = None) -> Any:
            outputs = super().forward(images, targets, prompts)
            seen.add(outputs.boxes.dtype)
            return outputs

    loop = half_loop(Recorder(), Watched(["a", "b"]))
    assert loop.run() == "completed"
    assert seen == {torch.float16}
    assert {tensor.dtype for tensor in loop.detector.parameters()} == {torch.float32}


def test_it_learns_what_32_bits_learn() -> None:
    states = []
    for precision in ("fp16", "fp32"):
        torch.manual_seed(5)
        network = TinyDetector(["a", "b"], norm=False, dropout=0.0)
        start = {name: tensor.clone() for name, tensor in network.state_dict().items()}
        loop = half_loop(Recorder(), network, precision=precision, use_ema=False, optimizer="sgd", momentum=0.0)
        if loop.parts.scaler is not None:  # so small that no step is left out
            loop.parts.scaler.load_state_dict({**loop.parts.scaler.state_dict(), "scale": 256.0})
        loop.run()
        states.append({name: tensor - start[name] for name, tensor in network.state_dict().items()})
    for name, moved in states[0].items():
        torch.testing.assert_close(moved, states[1][name], rtol=0.05, atol=1e-3, msg=name)
        assert moved.abs().max() > 5e-3


class Overflowing(TinyDetector):
    """The gradient of the loss overflows while its scale is large; the loss itself is finite."""

    def loss(self, outputs: Any, targets: Any) -> LossTerms:
        found = super().loss(outputs, targets)
        hot = outputs.boxes * 0 + outputs.boxes.detach()
        found.terms["loss_box"] = found.terms["loss_box"] + 40 * (outputs.boxes - hot).sum()
        return found


def test_a_step_that_overflows_is_left_out_and_the_scale_goes_down() -> None:
    recorder = Recorder()
    network = Overflowing(["a", "b"])
    loop = half_loop(recorder, network, max_steps=1)
    before = {name: tensor.detach().clone() for name, tensor in network.named_parameters()}
    loop.run()
    assert loop.parts.scaler is not None and loop.parts.scaler.get_scale() == 2.0**11
    assert_same(before, {name: tensor.detach() for name, tensor in network.named_parameters()})
    assert "train/grad_norm" not in recorder.logged[0][0] and recorder.logged[0][0]["train/loss"] > 0
    longer = half_loop(Recorder(), network, epochs=9)
    assert longer.run() == "completed"
    assert not torch.equal(before["head.weight"], network.head.weight)


def test_a_loss_that_overflows_stops_the_training_at_its_step() -> None:
    class Bursting(TinyDetector):
        def forward(self, images: Any, targets: Any = None, prompts: Any = None) -> Any:
            outputs = super().forward(images, targets, prompts)
            if targets is not None and torch.equal(images, DATA[2].images):
                outputs.boxes = outputs.boxes * 60000 * 60000
            return outputs

    recorder = Recorder()
    loop = make_loop(CONFIG, DATA, recorder, detector=Bursting(["a", "b"]), log_interval=4)
    with pytest.raises(TrainingDiverged, match=r"the loss is (nan|inf) at step 3"):
        loop.run()
    assert recorder.broken[0]["step"] == 3 and recorder.broken[0]["precision"] == "float16"


def test_a_gradient_that_overflows_at_every_scale_is_given_up() -> None:
    class Hopeless(TinyDetector):
        def loss(self, outputs: Any, targets: Any) -> LossTerms:
            found = super().loss(outputs, targets)
            found.terms["loss_cls"] = found.terms["loss_cls"] + (self.head.weight * 0).abs().sum().sqrt()
            return found

    with pytest.raises(TrainingDiverged, match=r"overflows 16-bit floats.*(?s:.*)bf16"):
        half_loop(Recorder(), Hopeless(["a", "b"]), epochs=9).run()


@pytest.mark.parametrize("stop_at", [2, 4, 7])
def test_a_resumed_run_equals_the_uninterrupted_one_bit_for_bit_with_its_scale(stop_at: int, tmp_path: Path) -> None:
    whole, resumed = interrupted_and_resumed(half_loop, stop_at, tmp_path)
    assert_same_state(whole, resumed)
    assert whole.state_dict()["scaler"]["scale"] > 0


def test_a_family_that_overflows_is_refused_unless_it_is_forced() -> None:
    host = lab_host()
    values = {"model.type": "lab-hot", "training.precision": "fp16"}
    with pytest.raises(ConfigError, match=r"(?s)training\.precision: lab-hot is known to overflow.*force_fp16"):
        configured(values, host)
    assert configured({**values, "training.force_fp16": True}, host).config.training.precision == "fp16"
    assert configured({**values, "training.precision": "bf16"}, host).config.training.precision == "bf16"
    assert configured({**values, "model.type": "lab-dry"}, host).config.training.precision == "fp16"
