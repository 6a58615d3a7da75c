from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from detloom.train.schedule import Plan, Schedule, build_scheduler


def optimizer(lr: float = 0.1) -> torch.optim.Optimizer:
    layer = nn.Linear(2, 2)
    return torch.optim.SGD([{"params": [layer.weight], "lr": lr}, {"params": [layer.bias], "lr": lr * 10}], lr=lr)


def test_warm_up_is_linear_and_the_cosine_ends_at_one_percent() -> None:
    schedule = build_scheduler(optimizer(), warmup_epochs=3, total_epochs=10, steps_per_epoch=5)
    rates = []
    for _ in range(50):
        rates.append(schedule.get_last_lr()[0])
        schedule.step()
    assert rates[:15] == pytest.approx([0.1 * (i + 1) / 15 for i in range(15)])
    assert max(rates) == pytest.approx(0.1)
    assert rates[49] == pytest.approx(0.001)
    assert rates[15:] == sorted(rates[15:], reverse=True)


def test_the_cosine_equals_torchs_own() -> None:
    steps = 40
    reference = optimizer()
    torchs = torch.optim.lr_scheduler.CosineAnnealingLR(reference, T_max=steps - 1, eta_min=0.0)
    ours = Schedule(optimizer(), Plan("cosine", steps, 10, min_frac=0.0))
    for _ in range(steps):
        assert ours.get_last_lr() == pytest.approx([group["lr"] for group in reference.param_groups], abs=1e-12)
        reference.step()
        torchs.step()
        ours.step()


def test_multistep_step_and_exponential_equal_torchs_own() -> None:
    pairs = [
        (
            Plan("multistep", 40, 10, min_frac=0, milestones=(0.5, 0.75), gamma=0.1),
            lambda o: torch.optim.lr_scheduler.MultiStepLR(o, [20, 30], gamma=0.1),
        ),
        (
            Plan("step", 40, 10, min_frac=0, gamma=0.3, step_epochs=1),
            lambda o: torch.optim.lr_scheduler.StepLR(o, 10, gamma=0.3),
        ),
        (
            Plan("exponential", 40, 10, min_frac=0, gamma=0.5),
            lambda o: torch.optim.lr_scheduler.ExponentialLR(o, 0.5 ** (1 / 10)),
        ),
    ]
    for plan, make in pairs:
        reference = optimizer()
        torchs, ours = make(reference), Schedule(optimizer(), plan)
        for _ in range(40):
            assert ours.get_last_lr() == pytest.approx([group["lr"] for group in reference.param_groups], rel=1e-9)
            reference.step()
            torchs.step()
            ours.step()


def test_a_loaded_schedule_is_at_the_same_rate() -> None:
    first = Schedule(optimizer(), Plan("cosine", 100, 10, warmup_steps=7))
    for _ in range(33):
        first.step()
    second = Schedule(optimizer(), Plan("cosine", 100, 10, warmup_steps=7))
    second.load_state_dict(first.state_dict())
    assert second.get_last_lr() == first.get_last_lr()
    assert math.isfinite(second.get_last_lr()[0])
