"""Fine-tuning over every family: rates by depth, freezing, adapters, recomputed activations, sizes and memory."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from detloom.data.batch import Batch
from detloom.detector import Detector
from detloom.specs import ModelSpec
from detloom.train.assemble import BuiltModel
from detloom.train.footprint import Scene, bare_loop, measure_footprint
from detloom.train.freezing import plan_freezing, untrained
from detloom.train.lora import add_adapters, merged_state
from detloom.train.memory import TensorCounter
from detloom.train.optimizer import build_llrd_optimizer
from detloom.train.recompute import recompute_activations
from detloom.train.scales import scale_sizes, scaled_batch
from detloom_schemas.config import LoraConfig, ModelConfig, RunConfig, TrainingConfig
from detr_tools import HOST, build, drawn_batch
from families import FAMILIES
from loop_tools import assert_same

BOXES = {name: family for name, family in FAMILIES.items() if "seg" not in name}
pytest.importorskip("transformers")


@pytest.fixture(scope="module", params=sorted(BOXES))
def case(request: pytest.FixtureRequest) -> tuple[str, Detector]:
    torch.manual_seed(1)
    return BOXES[request.param].spec, build(BOXES[request.param])


def batch_of(detector: Detector, size: tuple[int, int] | None = None) -> Batch:
    size = size or detector.input_rule.size
    images, targets = drawn_batch(size, (2, 1))
    targets.masks = None
    return Batch(images, targets, [0, 1], [size, size])


def with_statistics(detector: Detector) -> Detector:
    """A copy whose batch norms fit its random weights: without, their outputs all but vanish in evaluation."""
    detector = copy.deepcopy(detector).train()
    for module in detector.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = 1.0
    with torch.no_grad():
        detector(batch_of(detector).images)
    return detector.eval()


def gradients(detector: Detector, batch: Batch) -> dict[str, Tensor]:
    torch.manual_seed(4)
    loss = detector.loss(detector(batch.images, batch.targets), batch.targets)
    assert bool(loss.total.isfinite())
    loss.total.backward()
    return {name: p.grad.clone() for name, p in detector.named_parameters() if p.grad is not None}


def test_rates_fall_from_the_output_to_the_input_and_the_head_is_ten_times_faster(case: tuple[str, Detector]) -> None:
    _, detector = case
    optimizer = build_llrd_optimizer(detector, 1e-3, 0.9)
    rates = {id(p): group["lr"] for group in optimizer.param_groups for p in group["params"]}
    decays = {id(p): group["weight_decay"] for group in optimizer.param_groups for p in group["params"]}
    groups = detector.layer_groups()
    deepest = max(group.depth for group in groups)
    backbone = [group for group in groups if group.is_backbone]
    assert len({group.depth for group in backbone}) == len(backbone) >= 4, "stages have rates of their own"
    for group in groups:
        wanted = 1e-3 * 0.9 ** (deepest - group.depth) * (10 if group.is_head else 1)
        own = [p for module in group.modules for p in module.parameters() if p.requires_grad]
        assert own and [rates[id(p)] for p in own] == pytest.approx([wanted] * len(own)), group.name
    assert set(rates) == {id(p) for p in detector.parameters() if p.requires_grad}
    for module in detector.modules():
        if isinstance(module, (nn.LayerNorm, nn.BatchNorm2d, nn.Embedding)):
            assert all(decays[id(p)] == 0 for p in module.parameters(recurse=False) if p.requires_grad)
        if isinstance(module, (nn.Linear, nn.Conv2d)) and module.weight.requires_grad:
            assert decays[id(module.weight)] == 1e-4
            assert module.bias is None or decays[id(module.bias)] == 0


def test_a_frozen_backbone_is_thawed_stage_by_stage_from_the_output(case: tuple[str, Detector]) -> None:
    detector = copy.deepcopy(case[1])
    stages = [group.name for group in detector.layer_groups() if group.is_backbone]
    config = RunConfig(model=ModelConfig(freeze_backbone=True), training=TrainingConfig(unfreeze=[1, 2]))
    freezing = plan_freezing(detector, config, fixed=untrained(detector))
    assert freezing.lines[0] == f"frozen: {', '.join(stages)}"
    for epoch, thawed in ((0, 0), (1, 1), (2, 2)):
        freezing.apply(detector, epoch)
        groups = {group.name: group for group in detector.layer_groups()}
        seen = [any(p.requires_grad for m in groups[name].modules for p in m.parameters()) for name in stages]
        assert seen == [False] * (len(stages) - thawed) + [True] * thawed


def test_recomputed_activations_give_the_same_gradients_with_less_memory(case: tuple[str, Detector]) -> None:
    name, detector = case
    results: list[Any] = []
    for forget in (False, True):
        own = copy.deepcopy(detector).train()
        if forget:
            assert recompute_activations(own, name) > 2
        batch = batch_of(own)
        with TensorCounter([*own.parameters(), *own.buffers()]) as counter:
            found = gradients(own, batch)
        results.append((found, {n: b.clone() for n, b in own.named_buffers()}, counter.peak))
    assert_same(results[0][0], results[1][0])
    assert_same(results[0][1], results[1][1])
    assert results[1][2] < 0.85 * results[0][2]


def test_a_fresh_adapter_changes_nothing_and_only_it_and_the_heads_learn(case: tuple[str, Detector]) -> None:
    pytest.importorskip("peft")
    detector = copy.deepcopy(case[1]).eval()
    batch = batch_of(detector)
    with torch.no_grad():
        before = detector(batch.images)
    plain = {name: tensor.clone() for name, tensor in detector.state_dict().items()}
    heads = {id(p) for g in detector.layer_groups() if g.is_head for m in g.modules for p in m.parameters()}
    add_adapters(detector, LoraConfig(rank=2))
    with torch.no_grad():
        after = detector(batch.images)
    assert torch.equal(before.logits, after.logits) and torch.equal(before.boxes, after.boxes)
    assert_same(plain, merged_state(detector))
    names = {id(p): name for name, p in detector.named_parameters()}
    learned = set(gradients(detector.train(), batch))
    wanted = {names[p] for p in heads} | {name for name in names.values() if ".lora_B." in name}
    assert learned <= wanted | {name for name in names.values() if ".lora_A." in name}
    body = {names[id(p)] for g in detector.layer_groups() if g.is_backbone for m in g.modules for p in m.parameters()}
    assert any(".lora_B." in name for name in learned & body)
    # The head's rows of classes get a gradient in every family.
    assert any(name in learned for name in (names[p] for p in heads))
    trained = sum(p.numel() for p in detector.parameters() if p.requires_grad)
    assert trained < 0.5 * sum(p.numel() for p in detector.parameters())


def test_merged_adapters_compute_what_the_adapted_network_computes(case: tuple[str, Detector]) -> None:
    pytest.importorskip("peft")
    start = with_statistics(case[1]).double()
    plain, detector = copy.deepcopy(start), copy.deepcopy(start)
    add_adapters(detector, LoraConfig(rank=2))
    torch.manual_seed(3)
    with torch.no_grad():
        for name, parameter in detector.named_parameters():
            if ".lora_B." in name:
                parameter.normal_(std=0.02)
    plain.load_saved_state(merged_state(detector))
    images = batch_of(detector).images
    with torch.no_grad():
        mine, theirs = detector(images).logits.sort(1).values, plain(images).logits.sort(1).values
    torch.testing.assert_close(mine, theirs, rtol=1e-4, atol=1e-4)
    with torch.no_grad():
        assert (theirs - start(images).logits.sort(1).values).abs().max() > 0.01


def test_every_size_of_multi_scale_training_is_taken(case: tuple[str, Detector]) -> None:
    """The truth goes with the pixels: at each size, boxes in parts of the image are the same."""
    name, detector = copy.deepcopy(case)
    spec = HOST.get(ModelSpec, name)
    whole = batch_of(detector)
    sizes = scale_sizes(detector.input_rule.size, spec.size_divisor, 64, 192)
    assert len(sizes) > 1
    for size in (sizes[0], sizes[-1]):
        batch = scaled_batch(whole, size)
        outputs = detector.train()(batch.images, batch.targets)
        loss = detector.loss(outputs, batch.targets)
        assert bool(loss.total.isfinite())
        boxes = detector.decode(outputs).boxes
        assert boxes[..., 2].max() > 0.5 * size[1] and boxes[..., 3].max() > 0.3 * size[0]


def test_the_memory_of_a_batch_is_predicted_within_a_fifth(case: tuple[str, Detector]) -> None:
    name, detector = case
    config = TrainingConfig(gradient_clip=0.1)
    device = torch.device("cpu")
    spec = HOST.get(ModelSpec, name)
    predicted = measure_footprint(BuiltModel(copy.deepcopy(detector), spec), config, 4, device)
    own = copy.deepcopy(detector).train()
    with TensorCounter([*own.parameters(), *own.buffers()]) as counter:
        loop = bare_loop(BuiltModel(own, spec), config, device)
        scene = Scene(own.input_rule.size, len(own.class_names), 4)
        loop.step([scene.batch(6)])
        counter.reset_peak()
        loop.step([scene.batch(6)])
    assert abs(predicted.tensors_at(6) / counter.peak - 1) < 0.1


@pytest.mark.parametrize("name", ["rt_detr-r18", "rt_detr_v2-r50", "d_fine-n"])
def test_families_that_overflow_in_16_bits_say_so(name: str) -> None:
    assert not HOST.get(ModelSpec, name).fp16 and HOST.get(ModelSpec, "yolox-nano").fp16
