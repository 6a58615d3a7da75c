from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import nn

from detloom.errors import ConfigError, UsageError
from detloom.train.freezing import Freezing, freeze, keep_frozen_in_eval, plan_freezing, unfreeze
from detloom.train.optimizer import build_optimizer
from detloom_schemas.config import ModelConfig, RunConfig, TrainingConfig
from loop_tools import Recorder, assert_same, batches, make_loop
from tiny import TinyDetector
from yolox_tools import build


def asked(freeze: Any = (), unfreeze: Any = None, *, backbone: bool = False) -> RunConfig:
    model = ModelConfig(freeze=freeze, freeze_backbone=backbone)
    return RunConfig(model=model, training=TrainingConfig(unfreeze=unfreeze or {}))


def trained(detector: nn.Module) -> set[str]:
    return {name for name, parameter in detector.named_parameters() if parameter.requires_grad}


def refusal(config: RunConfig, detector: Any = None) -> str:
    with pytest.raises(ConfigError) as caught:
        plan_freezing(detector or TinyDetector(["a"]), config)
    return str(caught.value)


@pytest.mark.parametrize(
    ("names", "frozen"),
    [
        (["stem"], {"stem.0.weight", "stem.0.bias", "stem.1.weight", "stem.1.bias"}),
        (["*.bias"], {"stem.0.bias", "stem.1.bias", "body.0.bias", "head.bias"}),
        (["stem.1.*", "body"], {"stem.1.weight", "stem.1.bias", "body.0.weight", "body.0.bias"}),
        (["s*m"], {"stem.0.weight", "stem.0.bias", "stem.1.weight", "stem.1.bias"}),
    ],
)
def test_layer_groups_and_patterns_freeze_what_they_name(names: list[str], frozen: set[str]) -> None:
    detector = TinyDetector(["a", "b"])
    everything = trained(detector)
    plan_freezing(detector, asked(names)).apply(detector, 0)
    assert everything - trained(detector) == frozen


def test_a_frozen_part_stays_bit_equal_with_the_statistics_of_its_batch_norms() -> None:
    """A norm alone can be frozen: its statistics are held although its group is trained."""
    network = TinyDetector(["a", "b"])
    freezing = plan_freezing(network, asked(["stem.1.*"]))
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    config = TrainingConfig(epochs=2, lr=0.1, use_ema=False)
    make_loop(config, batches(2), Recorder(), detector=network, freezing=freezing).run()
    after = network.state_dict()
    held = [name for name in before if name.startswith("stem.1.")]
    assert {"stem.1.weight", "stem.1.running_mean", "stem.1.running_var", "stem.1.num_batches_tracked"} < set(held)
    assert_same({name: before[name] for name in held}, {name: after[name] for name in held})
    assert not torch.equal(before["stem.0.weight"], after["stem.0.weight"])


def test_stages_of_yolox_have_names_and_a_frozen_backbone_is_all_of_them() -> None:
    detector = build("nano", ("a",))
    by_name, by_flag = copy.deepcopy(detector), copy.deepcopy(detector)
    plan_freezing(by_name, asked(["stem", "dark?"])).apply(by_name, 0)
    freezing = plan_freezing(by_flag, asked(backbone=True))
    freezing.apply(by_flag, 0)
    assert trained(by_name) == trained(by_flag)
    assert all(not name.startswith("backbone.backbone.") for name in trained(by_flag)) and trained(by_flag)
    assert freezing.lines == ("frozen: stem, dark2, dark3, dark4, dark5",)
    by_flag.train()
    keep_frozen_in_eval(by_flag)
    modes = {name: m.training for name, m in by_flag.named_modules() if isinstance(m, nn.BatchNorm2d)}
    assert {name for name, mode in modes.items() if not mode} == {
        name for name in modes if name.startswith("backbone.backbone.")
    }


def test_a_name_that_matches_nothing_is_refused_with_what_there_is() -> None:
    told = refusal(asked(["stem", "neck", "*.gamma"]))
    assert "model.freeze: 'neck' matches nothing" in told and "'*.gamma' matches nothing" in told
    assert "layer groups here: stem, body, head; or a pattern of parameter names such as 'stem.0.bias'" in told


def test_a_training_of_nothing_is_refused() -> None:
    assert "nothing is left to train" in refusal(asked(["*"]))
    assert "nothing is left to train" in refusal(asked(["stem", "body", "head"], {1: "head"}))


def test_a_family_without_a_backbone_says_so() -> None:
    class Flat(TinyDetector):
        def layer_groups(self) -> Any:
            return [type(g)(g.name, g.modules, g.depth, g.is_head) for g in super().layer_groups()]

    assert "marked as backbone" in refusal(asked(backbone=True), Flat(["a"]))


def test_freezing_and_unfreezing_by_hand_undo_each_other() -> None:
    detector = TinyDetector(["a"])
    everything = trained(detector)
    assert freeze(detector, "stem", "head.bias") == {
        "stem.0.weight", "stem.0.bias", "stem.1.weight", "stem.1.bias", "head.bias",
    }  # fmt: skip
    assert trained(detector) == {"body.0.weight", "body.0.bias", "head.weight"}
    unfreeze(detector, "*")
    assert trained(detector) == everything
    with pytest.raises(UsageError, match="'nose' matches nothing"):
        freeze(detector, "nose")


def test_what_is_never_trained_is_not_in_the_optimizer() -> None:
    detector = TinyDetector(["a"])
    freezing = plan_freezing(detector, asked(["stem", "body"], {3: "body"}))
    assert isinstance(freezing, Freezing)
    freezing.apply(detector, 0)
    optimizer = build_optimizer(detector, TrainingConfig(), freezing.ever_trained(detector))
    names = {id(parameter): name for name, parameter in detector.named_parameters()}
    held = {names[id(parameter)] for group in optimizer.param_groups for parameter in group["params"]}
    assert held == {"body.0.weight", "body.0.bias", "head.weight", "head.bias"}
