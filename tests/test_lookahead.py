from __future__ import annotations

import copy
from pathlib import Path

import pytest
import torch

from detloom.train.freezing import plan_freezing
from detloom.train.lookahead import Lookahead
from detloom.train.loop import Loop
from detloom_schemas.config import ModelConfig, RunConfig, TrainingConfig
from loop_tools import Recorder, assert_same_state, batches, interrupted_and_resumed, make_loop
from tiny import TinyDetector

CONFIG = TrainingConfig(
    epochs=4, lr=0.02, optimizer="sgd", momentum=0.0, weight_decay=0.0, scheduler="constant", warmup_steps=0,
    use_lookahead=True, lookahead_steps=3, lookahead_alpha=0.4, use_ema=False,
)  # fmt: skip
DATA = batches(4)


def slow_loop(recorder: Recorder) -> Loop:
    return make_loop(CONFIG, DATA, recorder, detector=TinyDetector(["a", "b"], norm=False, dropout=0.0))


def test_the_slow_weights_follow_algorithm_1_of_the_paper() -> None:
    """Zhang et al. 2019: k steps of the inner optimizer, then phi += alpha (theta - phi), theta = phi."""
    loop = slow_loop(Recorder())
    theta = copy.deepcopy(loop.detector).train()
    phi = [parameter.detach().clone() for parameter in theta.parameters()]
    loop.run()
    for step in range(16):
        batch = DATA[step % 4]
        loss = theta.loss(theta(batch.images), batch.targets)
        theta.zero_grad()
        (loss.total / loss.normaliser.clamp(min=1)).backward()
        with torch.no_grad():
            for parameter in theta.parameters():
                parameter.sub_(0.02 * parameter.grad)
            if (step + 1) % 3 == 0:
                for slow, fast in zip(phi, theta.parameters(), strict=True):
                    slow.add_(0.4 * (fast - slow))
                    fast.copy_(slow)
    for mine, theirs in zip(loop.detector.parameters(), theta.parameters(), strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-5, atol=1e-6)
    slow_state = loop.state_dict()["lookahead"]["slow"]
    for mine, theirs in zip(slow_state.values(), phi, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-5, atol=1e-6)
        assert not torch.equal(mine, torch.zeros_like(mine))


def test_the_slow_weights_are_evaluated_and_the_fast_ones_come_back() -> None:
    loop = slow_loop(Recorder())
    loop.run()
    slow = loop.parts.lookahead
    assert isinstance(slow, Lookahead) and loop.averaged is slow
    fast = copy.deepcopy(loop.detector.state_dict())
    wanted = slow.state_dict()["slow"]
    with slow.applied(loop.detector):
        inside = copy.deepcopy(loop.detector.state_dict())
    assert all(torch.equal(inside[name], tensor) for name, tensor in wanted.items())
    assert any(not torch.equal(inside[name], fast[name]) for name in wanted), "16 steps are no multiple of 3"
    assert all(torch.equal(loop.detector.state_dict()[name], tensor) for name, tensor in fast.items())


@pytest.mark.parametrize("stop_at", [2, 3, 7, 9])
def test_a_resumed_run_equals_the_uninterrupted_one_bit_for_bit(stop_at: int, tmp_path: Path) -> None:
    assert_same_state(*interrupted_and_resumed(slow_loop, stop_at, tmp_path))


def test_a_part_that_is_thawed_later_has_slow_weights_from_the_start() -> None:
    network = TinyDetector(["a", "b"])
    config = RunConfig(model=ModelConfig(freeze=["stem"]), training=TrainingConfig(unfreeze=[1]))
    loop = make_loop(CONFIG, DATA, Recorder(), detector=network, freezing=plan_freezing(network, config))
    loop.run()
    slow = loop.state_dict()["lookahead"]["slow"]
    assert "stem.0.weight" in slow
    torch.testing.assert_close(slow["stem.0.weight"], network.stem[0].weight.detach(), atol=0.1, rtol=0)
