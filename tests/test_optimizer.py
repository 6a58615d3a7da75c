from __future__ import annotations

import pytest
import torch
from torch import nn

from detloom.detector import LayerGroup
from detloom.train.freezing import freeze
from detloom.train.optimizer import Rates, build_llrd_optimizer, build_optimizer, parameter_groups
from detloom_schemas.config import TrainingConfig
from tiny import TinyDetector


def rate_of(optimizer: torch.optim.Optimizer, parameter: nn.Parameter) -> float:
    return next(g["lr"] for g in optimizer.param_groups if any(p is parameter for p in g["params"]))


def decay_of(optimizer: torch.optim.Optimizer, parameter: nn.Parameter) -> float:
    return next(g["weight_decay"] for g in optimizer.param_groups if any(p is parameter for p in g["params"]))


def test_layer_wise_rates_follow_the_formula_and_the_head_is_ten_times_faster() -> None:
    detector = TinyDetector(["a"])
    optimizer = build_llrd_optimizer(detector, 1e-3, 0.9)
    assert isinstance(optimizer, torch.optim.AdamW)
    assert rate_of(optimizer, detector.stem[0].weight) == pytest.approx(1e-3 * 0.9**2)
    assert rate_of(optimizer, detector.body[0].weight) == pytest.approx(1e-3 * 0.9)
    assert rate_of(optimizer, detector.head.weight) == pytest.approx(1e-2)


def test_the_backbone_learns_slower_on_top_of_layer_wise_decay() -> None:
    detector = TinyDetector(["a"])
    values = TrainingConfig(lr=1e-3, use_llrd=True, llrd_decay=0.5, backbone_lr_multiplier=0.1)
    optimizer = build_optimizer(detector, values)
    assert rate_of(optimizer, detector.stem[0].weight) == pytest.approx(1e-3 * 0.25 * 0.1)
    assert rate_of(optimizer, detector.body[0].weight) == pytest.approx(1e-3 * 0.5)
    assert rate_of(optimizer, detector.head.weight) == pytest.approx(1e-3)


def test_biases_and_norms_do_not_decay() -> None:
    detector = TinyDetector(["a"])
    optimizer = build_optimizer(detector, TrainingConfig(weight_decay=0.05))
    assert decay_of(optimizer, detector.stem[0].weight) == 0.05
    assert decay_of(optimizer, detector.stem[0].bias) == 0
    assert decay_of(optimizer, detector.stem[1].weight) == 0
    assert decay_of(optimizer, detector.stem[1].bias) == 0
    assert len(optimizer.param_groups) == 2, "equal groups are merged"


@pytest.mark.parametrize("name", ["adamw", "adam", "sgd"])
def test_the_fused_optimizers_equal_torchs_plain_loop(name: str) -> None:
    torch.manual_seed(1)
    ours, plain = TinyDetector(["a"]), TinyDetector(["a"])
    plain.load_state_dict(ours.state_dict())
    config = TrainingConfig(optimizer=name, lr=0.01, weight_decay=0.01, momentum=0.8)
    optimizer = build_optimizer(ours, config)
    kinds = {"adamw": torch.optim.AdamW, "adam": torch.optim.Adam}
    groups = [
        {"params": [p for p in plain.parameters() if p.ndim > 1], "weight_decay": 0.01},
        {"params": [p for p in plain.parameters() if p.ndim <= 1], "weight_decay": 0.0},
    ]
    reference = (
        torch.optim.SGD(groups, lr=0.01, momentum=0.8, nesterov=True, foreach=False)
        if name == "sgd"
        else kinds[name](groups, lr=0.01, betas=(0.8, 0.999), foreach=False)
    )
    for _ in range(4):
        for mine, theirs in zip(ours.parameters(), plain.parameters(), strict=True):
            mine.grad = torch.randn_like(mine)
            theirs.grad = mine.grad.clone()
        optimizer.step()
        reference.step()
    for mine, theirs in zip(ours.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-5, atol=1e-7)


def test_a_family_that_forgets_a_layer_is_refused_by_name() -> None:
    class Forgetful(TinyDetector):
        def layer_groups(self) -> list[LayerGroup]:
            return super().layer_groups()[:2]

    with pytest.raises(ValueError, match=r"no layer group holds head\.weight"):
        parameter_groups(Forgetful(["a"]), Rates(1e-3))


def test_a_frozen_backbone_has_no_gradient_and_no_group() -> None:
    detector = TinyDetector(["a"])
    assert freeze(detector, "stem") == {"stem.0.weight", "stem.0.bias", "stem.1.weight", "stem.1.bias"}
    optimizer = build_optimizer(detector, TrainingConfig())
    held = {id(p) for g in optimizer.param_groups for p in g["params"]}
    assert id(detector.stem[0].weight) not in held
    assert id(detector.head.weight) in held
