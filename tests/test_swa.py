from __future__ import annotations

import copy
import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.optim import swa_utils

from detloom.train.ema import ModelSWA
from detloom.train.loop import Loop
from detloom_schemas.config import TrainingConfig
from loop_tools import Recorder, assert_same_state, batches, interrupted_and_resumed, make_loop
from tiny import TinyDetector

CONFIG = TrainingConfig(
    epochs=4, lr=0.02, warmup_steps=2, scheduler="cosine", use_swa=True, swa_start=0.5, swa_lr_frac=0.3, seed=3,
    ema_warmup_steps=5,
)  # fmt: skip
DATA = batches(3)


def averaging_loop(recorder: Recorder, **changes: Any) -> Loop:
    return make_loop(CONFIG.model_copy(update=changes), DATA, recorder)


def test_the_average_and_its_statistics_equal_torchs_own() -> None:
    """torch.optim.swa_utils: AveragedModel of the models after the epochs, then update_bn over the same batches."""
    loop = averaging_loop(Recorder(), use_ema=False)
    network = copy.deepcopy(loop.detector)
    averaged = swa_utils.AveragedModel(network)
    after: list[dict[str, torch.Tensor]] = []

    def look(epoch: int) -> dict[str, float]:
        after.append(copy.deepcopy(loop.detector.state_dict()))
        return {"val/AP": 0.0}

    loop.hooks = dataclasses.replace(loop.hooks, evaluate=look)
    loop.run()
    for state in after[2:]:
        network.load_state_dict(state)
        averaged.update_parameters(network)
    swa_utils.update_bn([batch.images for batch in DATA], averaged)
    ours = loop.state_dict()["swa"]
    assert ours["updates"] == 2
    for name, tensor in averaged.module.state_dict().items():
        torch.testing.assert_close(ours["shadow"][name], tensor, rtol=1e-5, atol=1e-6, msg=name)
    assert not torch.equal(ours["shadow"]["head.weight"], loop.detector.state_dict()["head.weight"])


def test_the_statistics_can_be_averaged_like_the_weights() -> None:
    loop = averaging_loop(Recorder(), use_ema=False, swa_norm_batches=0, swa_start=0.75)
    loop.run()
    for name, tensor in loop.detector.state_dict().items():
        assert torch.equal(loop.state_dict()["swa"]["shadow"][name], tensor), "the mean of one model is that model"


def test_renewing_the_statistics_leaves_the_model_itself_as_it_is() -> None:
    network = TinyDetector(["a", "b"]).train()
    swa = ModelSWA(network)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.mul_(2)
    before = copy.deepcopy(network.state_dict())
    swa.renew_statistics(network, (network(batch.images) for batch in DATA))
    for name, tensor in network.state_dict().items():
        assert torch.equal(before[name], tensor)
    assert network.stem[1].momentum == 0.1
    assert not torch.equal(swa.state_dict()["shadow"]["stem.1.running_mean"], before["stem.1.running_mean"])


def test_the_rate_is_constant_from_the_start_of_the_averaging_on() -> None:
    recorder = Recorder()
    averaging_loop(recorder).run()
    rates = [values["train/lr"] for values, _, _ in recorder.logged]
    assert rates[6:] == pytest.approx([0.3 * 0.02] * 6)
    plain = Recorder()
    averaging_loop(plain, use_swa=False).run()
    assert rates[:6] == pytest.approx([values["train/lr"] for values, _, _ in plain.logged[:6]])


def test_the_average_is_what_is_evaluated_once_it_exists_and_the_moving_one_before() -> None:
    loop = averaging_loop(Recorder())
    judged: list[Any] = []

    def look(epoch: int) -> dict[str, float]:
        judged.append(loop.averaged)
        return {"val/AP": 0.0}

    loop.hooks = dataclasses.replace(loop.hooks, evaluate=look)
    loop.run()
    assert judged == [loop.ema, loop.ema, loop.parts.swa, loop.parts.swa]


def test_without_any_average_the_optimizers_weights_are_evaluated() -> None:
    assert averaging_loop(Recorder(), use_swa=False, use_ema=False).averaged is None


@pytest.mark.parametrize("stop_at", [5, 7, 9, 11])
def test_a_run_that_is_resumed_while_it_averages_equals_the_uninterrupted_one_bit_for_bit(
    stop_at: int, tmp_path: Path
) -> None:
    assert_same_state(*interrupted_and_resumed(averaging_loop, stop_at, tmp_path))


def test_a_longer_plan_forgets_the_average_of_the_shorter_one() -> None:
    """Four epochs average after the third and the fourth; of ten, the sixth is the first that is averaged."""
    shorter = averaging_loop(Recorder())
    shorter.run()
    assert shorter.averaged is shorter.parts.swa
    longer = averaging_loop(Recorder(), epochs=10, swa_norm_batches=0)
    longer.load_state_dict(copy.deepcopy(shorter.state_dict()))
    assert longer.averaged is longer.ema, "what is averaged so far is from before the new start"
    judged: list[Any] = []
    after: list[dict[str, torch.Tensor]] = []

    def look(epoch: int) -> dict[str, float]:
        judged.append(longer.averaged)
        after.append(copy.deepcopy(longer.detector.state_dict()))
        return {"val/AP": 0.0}

    longer.hooks = dataclasses.replace(longer.hooks, evaluate=look)
    longer.run()
    assert judged == [longer.ema, *[longer.parts.swa] * 5]
    ours = longer.state_dict()["swa"]
    assert ours["updates"] == 5
    mean = torch.stack([state["head.weight"] for state in after[1:]]).mean(0)
    torch.testing.assert_close(ours["shadow"]["head.weight"], mean, rtol=1e-5, atol=1e-6)


def test_the_last_epoch_is_always_averaged() -> None:
    loop = averaging_loop(Recorder(), epochs=1, swa_start=0.99)
    loop.run()
    assert loop.state_dict()["swa"]["updates"] == 1
