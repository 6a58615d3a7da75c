from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

from detloom.train.ema import ModelEMA, ModelSWA


def model() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4))


def test_the_decay_warms_up_as_the_formula_says() -> None:
    ema = ModelEMA(model(), decay=0.9999, warmup_steps=2000)
    for updates in (1, 10, 2000, 100_000):
        assert ema.decay_at(updates) == pytest.approx(0.9999 * (1 - math.exp(-updates / 2000)), rel=1e-12)
    assert ema.decay_at(1) < 0.001
    assert ema.decay_at(100_000) == pytest.approx(0.9999)


def test_the_average_equals_the_textbook_recursion() -> None:
    network = model()
    ema = ModelEMA(network, decay=0.9, warmup_steps=5)
    expected = {name: tensor.clone().double() for name, tensor in network.state_dict().items()}
    for step in range(1, 8):
        with torch.no_grad():
            for parameter in network.parameters():
                parameter.add_(torch.randn_like(parameter))
        network(torch.randn(6, 3))  # moves the running statistics
        ema.update(network)
        decay = 0.9 * (1 - math.exp(-step / 5))
        for name, tensor in network.state_dict().items():
            if tensor.is_floating_point():
                expected[name] = expected[name] * decay + tensor.double() * (1 - decay)
            else:
                expected[name] = tensor.clone().double()
    for name, tensor in ema.state_dict()["shadow"].items():
        torch.testing.assert_close(tensor.double(), expected[name], rtol=1e-5, atol=1e-6)


class Tied(nn.Module):
    """Two names for one layer, as a family has that judges the encoder and the decoder by one head."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first, self.none = nn.Linear(3, 3), nn.Parameter(torch.zeros(0))
        self.second, self.nothing = self.first, nn.Parameter(torch.zeros(0))


@pytest.mark.parametrize("kind", [lambda model: ModelEMA(model, 0.5, 1), ModelSWA], ids=["EMA", "SWA"])
def test_tied_weights_are_averaged_and_brought_back_as_one(kind: Callable[[nn.Module], Any]) -> None:
    network = Tied()
    average = kind(network)
    with torch.no_grad():
        network.first.weight.add_(3.0)
    average.update(network, *([1] if isinstance(average, ModelSWA) else []))
    before = network.first.weight.detach().clone()
    with average.applied(network):
        mean = network.second.weight.detach().clone()
        assert not torch.equal(mean, before) or isinstance(average, ModelSWA)
    assert torch.equal(network.first.weight, before) and torch.equal(network.second.weight, before)
    with average.applied(network):
        assert torch.equal(network.first.weight, mean)
    again = kind(Tied())
    again.load_state_dict(average.state_dict())
    assert torch.equal(again.state_dict()["shadow"]["first.weight"], mean)


def test_restore_brings_the_weights_back_bit_for_bit() -> None:
    network = model()
    ema = ModelEMA(network, 0.5, 1)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.mul_(1.7)
    ema.update(network)
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    shadow = {name: tensor.clone() for name, tensor in ema.state_dict()["shadow"].items()}
    ema.apply_shadow(network)
    assert not torch.equal(network[0].weight, before["0.weight"])
    assert all(torch.equal(tensor, shadow[name]) for name, tensor in network.state_dict().items())
    ema.restore(network)
    assert all(torch.equal(tensor, before[name]) for name, tensor in network.state_dict().items())
    assert all(torch.equal(tensor, shadow[name]) for name, tensor in ema.state_dict()["shadow"].items())


def test_applying_twice_is_refused() -> None:
    network = model()
    ema = ModelEMA(network)
    ema.apply_shadow(network)
    with pytest.raises(RuntimeError, match="already applied"):
        ema.apply_shadow(network)
    ema.restore(network)
    with pytest.raises(RuntimeError, match="nothing to restore"):
        ema.restore(network)


def test_a_saved_average_goes_on_where_it_stopped() -> None:
    network = model()
    ema = ModelEMA(network, 0.9, 3)
    ema.update(network)
    other = ModelEMA(model(), 0.9, 3)
    other.load_state_dict(ema.state_dict())
    assert other.updates == 1
    with torch.no_grad():
        network[0].weight.add_(1)
    ema.update(network)
    other.update(network)
    for name, tensor in ema.state_dict()["shadow"].items():
        assert torch.equal(tensor, other.state_dict()["shadow"][name])
