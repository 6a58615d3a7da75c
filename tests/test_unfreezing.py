"""Parts that are frozen at first and trained later, after so many epochs."""

from __future__ import annotations

import dataclasses
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch

from data_tools import sound_data
from detloom.errors import ConfigError
from detloom.train.freezing import Freezing, plan_freezing
from detloom.train.loop import Loop
from detloom_schemas.config import ModelConfig, RunConfig, TrainingConfig
from loop_tools import Recorder, assert_same, assert_same_state, batches, interrupted_and_resumed, make_loop
from run_tools import lab_host, observe
from tiny import TinyDetector


def planned(frozen: list[str], schedule: Any, detector: TinyDetector | None = None) -> Freezing:
    training = TrainingConfig(unfreeze=schedule)
    return plan_freezing(
        detector or TinyDetector(["a", "b"]), RunConfig(model=ModelConfig(freeze=frozen), training=training)
    )


def groups_trained(freezing: Freezing, epoch: int) -> list[str]:
    detector = TinyDetector(["a", "b"])
    freezing.apply(detector, epoch)
    groups = {name: detector.get_submodule(name).parameters() for name in ("stem", "body", "head")}
    return [name for name, parameters in groups.items() if all(parameter.requires_grad for parameter in parameters)]


def test_epochs_alone_thaw_one_group_each_from_the_output_backwards() -> None:
    freezing = planned(["stem", "body"], [2, 5])
    assert [groups_trained(freezing, epoch) for epoch in (0, 1, 2, 4, 5, 9)] == [
        ["head"], ["head"], ["body", "head"], ["body", "head"], ["stem", "body", "head"], ["stem", "body", "head"],
    ]  # fmt: skip
    assert freezing.lines == ("frozen: stem, body",)
    assert freezing.thaws_within(6) == ["thaws after 2 epochs: body", "thaws after 5 epochs: stem"]


def test_names_thaw_what_they_name() -> None:
    freezing = planned(["stem", "body"], {"3": ["stem"], 4: "body"})
    assert [groups_trained(freezing, epoch) for epoch in (2, 3, 4)] == [
        ["head"], ["stem", "head"], ["stem", "body", "head"],
    ]  # fmt: skip


def test_parts_of_a_group_can_be_thawed_by_pattern() -> None:
    freezing = planned(["stem"], {2: "stem.1.*"})
    detector = TinyDetector(["a", "b"])
    freezing.apply(detector, 2)
    assert detector.stem[1].weight.requires_grad and not detector.stem[0].weight.requires_grad


def test_going_back_to_an_earlier_epoch_freezes_again() -> None:
    detector = TinyDetector(["a", "b"])
    freezing = planned(["stem"], [1])
    freezing.apply(detector, 1)
    freezing.apply(detector, 0)
    assert not detector.stem[0].weight.requires_grad


@pytest.mark.parametrize(
    ("frozen", "schedule", "told"),
    [
        (["stem"], {2: "neck"}, "'neck' (epoch 2) matches nothing"),
        (["stem"], {2: "body"}, "'body' is not frozen when epoch 2 should thaw it"),
        (["stem"], {2: "stem", 3: "stem"}, "'stem' is not frozen when epoch 3 should thaw it"),
        (["stem"], [1, 2], "nothing is frozen any more that epoch 2 could thaw"),
        ([], [1], "nothing is frozen any more that epoch 1 could thaw"),
    ],
)
def test_a_schedule_that_cannot_be_kept_is_refused(frozen: list[str], schedule: Any, told: str) -> None:
    with pytest.raises(ConfigError) as caught:
        planned(frozen, schedule)
    assert f"training.unfreeze: {told}" in str(caught.value)


@pytest.mark.parametrize(("epochs", "missed"), [(6, []), (5, [5]), (1, [1, 5])])
def test_epochs_of_the_schedule_that_are_never_reached_are_told(epochs: int, missed: list[int]) -> None:
    length = "1 epoch" if epochs == 1 else f"{epochs} epochs"
    freezing, thawed = planned(["stem", "body"], [1, 5]), {1: "body", 5: "stem"}
    assert freezing.unreached(epochs) == [
        f"training.unfreeze: epoch {epoch}, counted from 0, is not reached: the run has {length}, and what it thaws "
        f"({thawed[epoch]}) stays frozen; name an earlier epoch, or train longer (training.epochs)"
        for epoch in missed
    ]
    assert len(freezing.thaws_within(epochs)) == 2 - len(missed)


def test_a_run_says_what_of_its_schedule_and_its_sizes_comes_to_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = sound_data(tmp_path / "data", images=4)
    values = {
        "model.type": "lab-dry", "model.pretrain_weights": "none", "data.local.path": str(data),
        "data.num_workers": 0, "training.epochs": 1, "training.resolution": 32, "training.batch_size": 2,
        "model.freeze": ["stem"], "training.unfreeze": [5], "experiment.logging.loggers": ["jsonl"],
        "training.multi_scale": True, "validation.pictures": 0, "export.format": [],
    }  # fmt: skip
    seen = observe(values, tmp_path, lab_host())
    assert not seen["error"]
    told = seen["record"]["warnings"]
    assert [line for line in told if line.startswith("training.unfreeze: epoch 5, counted from 0, is not reached: ")]
    assert seen["record"]["model"]["trained"] == ["frozen: stem"], "nothing says that the stem is thawed"
    assert "thaw" not in capsys.readouterr().out
    assert [line for line in told if line.startswith("training.multi_scale changes nothing: ")]


CONFIG = TrainingConfig(epochs=4, lr=0.01, warmup_steps=2, ema_warmup_steps=5, seed=3)
DATA = batches(3)


def loop_that_thaws(recorder: Recorder, optimizer: str = "adamw") -> Loop:
    network = TinyDetector(["a", "b"])
    config = CONFIG.model_copy(update={"optimizer": optimizer})
    return make_loop(config, DATA, recorder, detector=network, freezing=planned(["stem", "body"], [1, 2], network))


def test_a_part_is_untouched_until_it_is_thawed_and_learns_from_there_on() -> None:
    seen: list[dict[str, torch.Tensor]] = []
    recorder = Recorder()
    loop = loop_that_thaws(recorder)
    start = {name: tensor.clone() for name, tensor in loop.detector.state_dict().items()}

    def look(epoch: int) -> dict[str, float]:
        seen.append({name: tensor.clone() for name, tensor in loop.detector.state_dict().items()})
        return {"val/AP": 0.0}

    loop.hooks = dataclasses.replace(loop.hooks, evaluate=look)
    loop.run()

    def changed(epoch: int, group: str) -> bool:
        before = start if epoch == 0 else seen[epoch - 1]
        return any(not torch.equal(before[name], seen[epoch][name]) for name in start if name.startswith(group))

    assert [[changed(epoch, group) for group in ("head", "body", "stem")] for epoch in range(4)] == [
        [True, False, False], [True, True, False], [True, True, True], [True, True, True],
    ]  # fmt: skip
    assert_same(
        {name: start[name] for name in start if "running" in name},
        {name: seen[1][name] for name in start if "running" in name},
    )
    steps = {name: loop.optimizer.state[parameter]["step"] for name, parameter in loop.detector.named_parameters()}
    assert (steps["head.weight"], steps["body.0.weight"], steps["stem.0.weight"]) == (12, 9, 6)


@pytest.mark.parametrize(("stop_at", "optimizer"), [(2, "adamw"), (3, "adamw"), (4, "sgd"), (6, "adam"), (8, "adamw")])
def test_a_run_that_is_resumed_across_a_thaw_equals_the_uninterrupted_one_bit_for_bit(
    stop_at: int, optimizer: str, tmp_path: Path
) -> None:
    assert_same_state(*interrupted_and_resumed(partial(loop_that_thaws, optimizer=optimizer), stop_at, tmp_path))
