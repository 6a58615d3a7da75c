from __future__ import annotations

import copy
from typing import Any

import pytest
import torch

from detloom.detector import Detector
from detloom.errors import ConfigError
from detloom.train.memory import TensorCounter
from detloom.train.recompute import recompute_activations
from detloom_schemas.config import TrainingConfig
from loop_tools import Recorder, assert_same, batches, make_loop
from tiny import TinyDetector, make_batch
from yolox_tools import build


def gradients(detector: Detector, batch: Any) -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]:
    """Gradients and buffers after one pass."""
    detector.train()
    torch.manual_seed(4)
    detector.loss(detector(batch.images, batch.targets), batch.targets).total.backward()
    found = {name: p.grad for name, p in detector.named_parameters() if p.grad is not None}
    return found, {name: tensor.clone() for name, tensor in detector.named_buffers()}


def test_gradients_and_statistics_are_bit_equal_with_and_without_it() -> None:
    """The batch norms of YOLOX see each batch twice and must count it once."""
    torch.manual_seed(1)
    plain = build("nano", ("a", "b"), size=(64, 64))
    forgetful = copy.deepcopy(plain)
    assert recompute_activations(forgetful, "yolox-nano") > 10
    batch = make_batch(torch.Generator().manual_seed(2), 3)
    expected, buffers = gradients(plain, batch)
    found, own = gradients(forgetful, batch)
    assert expected.keys() == {name for name, _ in plain.named_parameters()}
    assert_same(expected, found)
    assert_same(buffers, own)
    assert {norm.momentum for norm in forgetful.modules() if isinstance(norm, torch.nn.BatchNorm2d)} == {0.1}


def test_dropout_inside_a_recomputed_part_is_drawn_once() -> None:
    plain = TinyDetector(["a", "b"], dropout=0.5)
    forgetful = copy.deepcopy(plain)
    recompute_activations(forgetful, "tiny")
    batch = make_batch(torch.Generator().manual_seed(2), 3)
    assert_same(gradients(plain, batch), gradients(forgetful, batch))


def test_it_takes_less_memory() -> None:
    batch = make_batch(torch.Generator().manual_seed(2), 2, size=(128, 128))
    peaks = []
    for forget in (False, True):
        detector = build("nano", ("a", "b"), size=(128, 128))
        if forget:
            recompute_activations(detector, "yolox-nano")
        with TensorCounter() as counter:
            gradients(detector, batch)
        peaks.append(counter.peak)
    assert peaks[1] < 0.6 * peaks[0]


def test_a_copy_recomputes_its_own_weights() -> None:
    detector = TinyDetector(["a", "b"], dropout=0.0)
    recompute_activations(detector, "tiny")
    twin = copy.deepcopy(detector).train()
    with torch.no_grad():
        for parameter in detector.parameters():
            parameter.fill_(float("nan"))
    found, _ = gradients(twin, make_batch(torch.Generator().manual_seed(2), 2))
    assert all(bool(gradient.isfinite().all()) for gradient in found.values())


def test_names_of_weights_and_evaluation_stay_what_they_were() -> None:
    plain = TinyDetector(["a"]).eval()
    forgetful = copy.deepcopy(plain)
    recompute_activations(forgetful, "tiny")
    assert list(plain.state_dict()) == list(forgetful.state_dict())
    images = make_batch(torch.Generator().manual_seed(2), 2).images
    with torch.no_grad():
        assert torch.equal(plain(images).boxes, forgetful(images).boxes)


def test_a_whole_training_is_bit_equal() -> None:
    states = []
    for forget in (False, True):
        torch.manual_seed(3)
        detector = TinyDetector(["a", "b"])
        if forget:
            recompute_activations(detector, "tiny")
        loop = make_loop(TrainingConfig(epochs=2, lr=0.01), batches(3), Recorder(), detector=detector)
        loop.run()
        states.append(loop.state_dict()["model"])
    assert_same(*states)


def test_a_family_that_cannot_is_refused_with_what_to_do() -> None:
    class Rigid(TinyDetector):
        def recomputed_modules(self) -> Any:
            return Detector.recomputed_modules(self)

    with pytest.raises(ConfigError, match=r"(?s)gradient_checkpointing: tiny-s names no parts.*gradient_accumulation"):
        recompute_activations(Rigid(["a"]), "tiny-s")
