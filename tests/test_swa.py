from __future__ import annotations

import copy
import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.optim import swa_utils

from data_tools import sound_data
from detloom.config import mapping_layer, resolve
from detloom.run import resume_run, train_run
from detloom.train.ema import ModelSWA
from detloom.train.loop import Loop
from detloom_schemas.config import TrainingConfig
from loop_tools import Recorder, assert_same_state, batches, interrupted_and_resumed, make_loop
from run_tools import lab_host
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
    after = watched(loop)
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


def watched(loop: Loop) -> list[dict[str, torch.Tensor]]:
    """The weights after each epoch, filled while the loop runs."""
    after: list[dict[str, torch.Tensor]] = []

    def look(epoch: int) -> dict[str, float]:
        after.append(copy.deepcopy(loop.detector.state_dict()))
        return {"val/AP": 0.0}

    loop.hooks = dataclasses.replace(loop.hooks, evaluate=look)
    return after


def taken_on(state: dict[str, Any], **changes: Any) -> tuple[Loop, list[dict[str, torch.Tensor]]]:
    """A loop that goes on from a state with another configuration, and its weights after each of its epochs."""
    loop = averaging_loop(Recorder(), use_ema=False, swa_norm_batches=0, **changes)
    loop.load_state_dict(copy.deepcopy(state))
    after = watched(loop)
    return loop, after


def four_epochs() -> tuple[dict[str, Any], list[dict[str, torch.Tensor]]]:
    """State after 12 steps of which SWA averaged those after 9 and 12, and the weights after each epoch."""
    loop = averaging_loop(Recorder(), use_ema=False, swa_norm_batches=0)
    after = watched(loop)
    loop.run()
    return loop.state_dict(), after


def assert_mean(loop: Loop, models: list[dict[str, torch.Tensor]]) -> None:
    ours = loop.state_dict()["swa"]
    assert ours["updates"] == len(ours["steps"]) == len(models)
    for name in ("stem.0.weight", "head.weight"):
        mean = torch.stack([state[name] for state in models]).mean(0)
        torch.testing.assert_close(ours["shadow"][name], mean, rtol=1e-5, atol=1e-6, msg=name)


def test_a_longer_plan_with_the_same_models_goes_on_with_their_mean() -> None:
    state, before = four_epochs()
    loop, after = taken_on(state, epochs=5)
    loop.run()
    assert loop.problems == []
    assert_mean(loop, [*before[2:], *after])


def test_a_model_from_before_a_start_that_moved_leaves_no_trace_and_what_is_lost_with_it_is_told() -> None:
    """Of seven epochs the start is step 10: the model after step 9 is in the mean, and cannot be taken out of it."""
    state, _ = four_epochs()
    loop, after = taken_on(state, epochs=7)
    (told,) = loop.problems
    assert told.startswith("training.swa_start: SWA starts at step 10, and its mean lacks the model after step 12: ")
    assert "from step 9 on" in told and told.endswith("resume with training.swa_start=0.38")
    assert loop.averaged is None
    loop.run()
    assert_mean(loop, after)
    again, more = taken_on(state, epochs=7, swa_start=0.38)
    assert again.problems == []
    again.run()
    assert again.state_dict()["swa"]["steps"] == [9, 12, 15, 18, 21] and len(more) == 3


def test_an_earlier_start_cannot_bring_back_models_that_nobody_kept_and_says_so() -> None:
    state, before = four_epochs()
    loop, after = taken_on(state, epochs=5, swa_start=0.1)
    (told,) = loop.problems
    lacks = "its mean lacks the models after steps 3, 6: the run did not keep them when it was there"
    assert told == f"training.swa_start: SWA starts at step 1, and {lacks}"
    loop.run()
    assert_mean(loop, [*before[2:], *after])


def test_a_start_that_lies_ahead_empties_the_mean_without_a_word() -> None:
    state, _ = four_epochs()
    loop, after = taken_on(state, epochs=6, swa_start=0.7)
    assert loop.problems == [] and loop.averaged is None
    loop.run()
    assert_mean(loop, after)


def test_a_resumed_run_tells_what_its_mean_lacks(tmp_path: Path) -> None:
    data = sound_data(tmp_path / "data", images=4)
    values = {
        "model.type": "lab-dry", "model.pretrain_weights": "none", "data.local.path": str(data),
        "data.num_workers": 0, "training.epochs": 4, "training.resolution": 32, "training.batch_size": 2,
        "training.use_swa": True, "training.swa_start": 0.5, "experiment.logging.loggers": ["jsonl"],
        "experiment.output_dir": str(tmp_path / "runs"), "experiment.name": "one", "validation.pictures": 0,
        "export.format": [],
    }  # fmt: skip
    folder, host = tmp_path / "runs" / "one", lab_host()
    assert train_run(resolve(host, [mapping_layer(values)]), host) == 0
    assert resume_run(str(folder), [mapping_layer({"training.epochs": 7})], host) == 0
    warnings = json.loads((folder / "run.json").read_text())["warnings"]
    assert [line.partition(":")[0] for line in warnings if "mean lacks" in line] == ["training.swa_start"]
