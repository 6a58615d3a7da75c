"""The detector contract, the same for every family: forward, loss, decode and predict apart."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from data_tools import load, sound_data
from detloom.data.batch import Batch
from detloom.detector import Detector, LossTerms, Targets
from detloom.errors import PluginError, WeightsError
from detloom.model_needs import check_detector, too_many_objects
from detloom.specs import ModelContext, ModelSpec
from detloom.train.loop import Loop
from detloom.train.optimizer import Rates, parameter_groups
from detloom.train.seeding import seed_torch
from detloom_schemas.config import TrainingConfig
from detr_tools import HOST, build, class_tensors, drawn_batch, host_reads, predict, randomised
from families import DETRS, FAMILIES
from loop_tools import Recorder, assert_same_state, interrupted_and_resumed, make_loop

every_family = pytest.mark.parametrize("family", FAMILIES)
every_detr = pytest.mark.parametrize("family", DETRS)


@pytest.fixture(scope="module")
def made() -> Callable[[str], Detector]:
    """A detector of a family, always the same; a copy, so that no test sees what another one did."""
    kept: dict[str, Detector] = {}

    def make(name: str) -> Detector:
        if name not in kept:
            seed_torch(0, "contract")
            kept[name] = build(FAMILIES[name])
        return copy.deepcopy(kept[name])

    return make


Made = Callable[[str], Detector]


def empty(images: int, width: int = 1) -> Targets:
    return Targets(torch.zeros(images, width, 4), torch.full((images, width), -1))


def judged(detector: Detector, images: Tensor, targets: Targets, seed: int = 0) -> LossTerms:
    seed_torch(seed)
    return detector.loss(detector(images, targets), targets)


def still(detector: Detector) -> Detector:
    """In training, but with batch norms that do not look at the batch, and without denoising, whose random numbers and
    groups depend on it: what remains must add up."""
    detector.train()
    for module in detector.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.eval()
    if hasattr(detector, "noise"):
        detector.noise = dataclasses.replace(detector.noise, queries=0)
    return detector


@every_family
def test_outputs_and_decoded_boxes_have_the_shapes_of_the_contract(family: str, made: Made) -> None:
    detector = made(family).eval()
    height, width = detector.input_rule.size
    images, _ = drawn_batch((height, width))
    with torch.inference_mode():
        outputs = detector(images)
        decoded = detector.decode(outputs)
    rows = outputs.logits.shape[1]
    assert outputs.logits.shape == (2, rows, 3) and outputs.boxes.shape == (2, rows, 4)
    assert decoded.boxes.shape == (2, rows, 4) and decoded.boxes.dtype == torch.float32
    assert decoded.scores.shape == (2, rows, 3) and decoded.scores.dtype == torch.float32
    assert float(decoded.scores.min()) >= 0 and float(decoded.scores.max()) <= 1
    assert float(decoded.boxes[..., 2:].max()) > 8, "boxes are in pixels"
    check_detector(detector, HOST.get(ModelSpec, FAMILIES[family].spec))


@every_family
def test_every_part_of_the_network_learns(family: str, made: Made) -> None:
    detector = made(family).train()
    images, targets = drawn_batch(detector.input_rule.size)
    terms = judged(detector, images, targets)
    assert all(
        value.ndim == 0 and bool(value.isfinite()) and float(value.detach()) >= 0 for value in terms.terms.values()
    )
    terms.total.backward()
    idle = [name for name, value in detector.named_parameters() if value.grad is None and value.requires_grad]
    assert idle == []
    assert all(bool(value.grad.isfinite().all()) for value in detector.parameters() if value.grad is not None)


@every_family
@pytest.mark.parametrize("objects", [(0, 0), (0, 3), (1, 0)])
def test_images_without_objects_are_fine(family: str, made: Made, objects: tuple[int, int]) -> None:
    detector = still(made(family))
    images, targets = drawn_batch(detector.input_rule.size, objects)
    detector.train()
    terms = judged(detector, images, targets)
    assert bool(terms.total.isfinite())
    assert (float(terms.normaliser) == 0) == (objects == (0, 0))
    terms.total.backward()
    assert all(bool(value.grad.isfinite().all()) for value in detector.parameters() if value.grad is not None)
    assert targets.masks is not None
    padded = Targets(
        torch.cat([targets.boxes, torch.zeros(2, 3, 4)], 1),
        torch.cat([targets.labels, torch.full((2, 3), -1)], 1),
        torch.cat([targets.masks, torch.zeros(2, 3, *targets.masks.shape[2:], dtype=torch.uint8)], 1),
    )
    wider = judged(still(made(family)), images, padded)
    narrow = judged(still(made(family)), images, targets)
    torch.testing.assert_close(wider.total, narrow.total, rtol=1e-4, atol=1e-3)


@every_family
def test_micro_batches_add_up_to_the_large_batch(family: str, made: Made) -> None:
    detector = still(made(family))
    images, targets = drawn_batch(detector.input_rule.size, (3, 0, 1))
    whole = judged(detector, images, targets)
    whole.total.backward()
    gradients = {name: value.grad.clone() for name, value in detector.named_parameters() if value.grad is not None}
    detector.zero_grad()
    parts = [judged(detector, images[rows], targets.slice(rows)) for rows in (slice(0, 1), slice(1, 3))]
    for part in parts:
        part.total.backward()
    torch.testing.assert_close(parts[0].normaliser + parts[1].normaliser, whole.normaliser)
    torch.testing.assert_close(parts[0].total + parts[1].total, whole.total, rtol=1e-4, atol=1e-3)
    for name, value in detector.named_parameters():
        if name in gradients and value.grad is not None:
            apart = float((value.grad - gradients[name]).norm() / (gradients[name].norm() + 1e-3))
            assert apart < 1e-2, (name, apart)


@every_family
def test_a_step_is_a_function_of_the_seed(family: str, made: Made) -> None:
    found = []
    for seed in (1, 1, 2):
        detector = made(family).train()
        images, targets = drawn_batch(detector.input_rule.size)
        terms = judged(detector, images, targets, seed)
        terms.total.backward()
        gradients = [value.grad for value in detector.parameters() if value.grad is not None]
        found.append((float(terms.total.detach()), torch.cat([value.flatten() for value in gradients])))
    assert found[0][0] == found[1][0] and torch.equal(found[0][1], found[1][1])
    if family in DETRS and hasattr(made(family), "noise"):
        assert found[0][0] != found[2][0], "denoising draws anew"


@every_family
def test_a_validation_loss_does_not_depend_on_random_numbers(family: str, made: Made) -> None:
    detector = made(family).eval()
    images, targets = drawn_batch(detector.input_rule.size)
    with torch.inference_mode():
        first, second = (float(judged(detector, images, targets, seed).total) for seed in (1, 2))
    assert first == second and np.isfinite(first)


@every_family
def test_a_training_step_waits_for_the_device_three_times_at_most(family: str, made: Made) -> None:
    """A whole step of the loop: also clipping, the optimizer, the schedule and the average."""
    detector = made(family).train()
    images, targets = drawn_batch(detector.input_rule.size)
    batch = Batch(images, targets, [0, 1], [detector.input_rule.size] * 2)
    loop = make_loop(TrainingConfig(epochs=1, gradient_clip=0.1), [batch] * 3, Recorder(), detector=detector)
    loop.step([batch])  # the first step fills caches
    with host_reads() as found:
        loop.step([batch])
    assert loop.ema is not None and loop.ema.updates == 2
    assert len(found) <= 3, found


@every_family
def test_a_training_goes_on_bit_for_bit_where_it_was_stopped(family: str, made: Made, tmp_path: Path) -> None:
    size = made(family).input_rule.size
    batch = Batch(*drawn_batch(size), [0, 1], [size] * 2)
    config = TrainingConfig(epochs=3, gradient_clip=0.1, seed=3)

    def make(recorder: Recorder) -> Loop:
        return make_loop(config, [batch], recorder, detector=made(family))

    assert_same_state(*interrupted_and_resumed(make, 2, tmp_path))


def test_the_counter_sees_what_waits() -> None:
    values = torch.rand(4)
    with host_reads() as found:
        values.max().item()
        bool(values.isfinite().all())
        values[values > 2]
        values.nonzero()
        values.cpu().numpy()
        values.exp().tolist()
    assert len(found) == 6, found


@every_family
def test_boxes_come_back_in_pixels_of_the_original(family: str, made: Made) -> None:
    detector = made(family).eval()
    height, width = detector.input_rule.size
    detector.post_rule = dataclasses.replace(detector.post_rule, score_threshold=0.0)
    images, _ = drawn_batch((height, width))
    with torch.inference_mode():
        outputs = detector(images)
        same, double = (detector.predict(outputs, [(k * height, k * width)] * 2) for k in (1, 2))
    for first, second in zip(same, double, strict=True):
        assert len(first) > 5
        assert np.allclose(2 * first.boxes, second.boxes, atol=1e-3)
        assert first.boxes.min() >= 0 and first.boxes[:, 2].max() <= width and first.boxes[:, 3].max() <= height
        assert set(first.labels.tolist()) <= {0, 1, 2}


@every_family
def test_rectangular_inputs_are_trained_and_read(family: str, made: Made) -> None:
    height, width = FAMILIES[family].wide
    wide = build(FAMILIES[family], size=(height, width))
    wide.load_state_dict(made(family).state_dict())
    images, targets = drawn_batch((height, width), (2, 1))
    # Built for another size, as multi-scale training uses it: the same numbers.
    for detector in (wide, made(family)):
        detector.train()
        terms = judged(detector, images, targets)
        terms.total.backward()
        detector.eval()
        with torch.inference_mode():
            decoded = detector.decode(detector(images))
        right, bottom = decoded.boxes[..., 2].max(), decoded.boxes[..., 3].max()
        assert bool(terms.total.isfinite()) and float(right) > float(bottom)
        if detector is wide:
            total, boxes = terms.total.detach(), decoded.boxes
    assert torch.equal(total, terms.total.detach()) and torch.equal(boxes, decoded.boxes)


@every_family
def test_layer_groups_hold_every_parameter_once_from_the_input_to_the_output(family: str, made: Made) -> None:
    detector = made(family)
    groups = detector.layer_groups()
    assert [group.depth for group in groups] == sorted(group.depth for group in groups)
    assert [group.is_backbone for group in groups] == sorted((group.is_backbone for group in groups), reverse=True)
    assert groups[0].is_backbone and groups[-1].is_head and sum(group.is_head for group in groups) == 1
    assert len({group.name for group in groups}) == len(groups) >= 4
    held = sum(len(group["params"]) for group in parameter_groups(detector, Rates(1e-3)))
    assert held == sum(parameter.requires_grad for parameter in detector.parameters())
    head = {id(value) for module in groups[-1].modules for value in module.parameters()}
    rows = class_tensors(FAMILIES[family])
    named = {id(value) for name, value in detector.named_parameters() if name in rows}
    assert named <= head, "layers with rows of classes are new: they belong to the head"


@every_family
def test_class_rows_follow_their_names(family: str) -> None:
    rows = class_tensors(FAMILIES[family])
    donor = randomised(build(FAMILIES[family], ("cat", "dog", "bird")))
    detector = build(FAMILIES[family], ("Bird ", "zebra", "CAT", "dog"))
    before = copy.deepcopy(detector.state_dict())
    report = detector.load_pretrained(donor, ("cat", "dog", "bird"), "file")
    after = detector.state_dict()
    assert report.copied == ("Bird ", "CAT", "dog") and report.reset == ("zebra",)
    assert not report.missing and not report.unexpected and not report.mismatched
    assert report.loaded == len(donor) - len(rows)
    assert rows
    for name, tensor in after.items():
        if name not in rows:
            assert torch.equal(tensor, donor[name]), name
        else:
            assert torch.equal(tensor[[0, 2, 3]], donor[name][[2, 0, 1]]), name
            assert float((tensor[1] - donor[name][1]).abs().max()) > 1e-3 and tensor[1].shape == before[name][1].shape
            assert torch.equal(tensor[4:], donor[name][3:]), f"{name}: rows behind the classes"


@every_family
def test_rows_of_unknown_names_start_anew_with_low_scores(family: str) -> None:
    donor = randomised(build(FAMILIES[family], ("cat", "dog")))
    detector = build(FAMILIES[family], ("cat", "dog"))
    report = detector.load_pretrained(donor, (), "file")
    assert report.copied == () and report.reset == ("cat", "dog")
    rows = class_tensors(FAMILIES[family])
    biases = [tensor for name, tensor in detector.state_dict().items() if name in rows]
    assert all(float(tensor.max()) < -2 for tensor in biases if tensor.ndim == 1)
    whole = build(FAMILIES[family], ("cat", "dog"))
    report = whole.load_pretrained(donor, ("cat", "dog"), "file")
    assert (report.loaded, report.total, report.reset) == (len(donor), len(donor), ())
    assert all(torch.equal(tensor, donor[name]) for name, tensor in whole.state_dict().items())


@every_family
def test_weights_of_another_architecture_are_refused_and_the_model_stays_as_it_was(family: str, made: Made) -> None:
    detector = made(family)
    before = copy.deepcopy(detector.state_dict())
    with pytest.raises(WeightsError, match=r"other\.pth does not hold weights of"):
        detector.load_pretrained({"conv.weight": torch.ones(3)}, (), "other.pth")
    assert all(torch.equal(value, before[name]) for name, value in detector.state_dict().items())


@every_family
def test_what_was_saved_predicts_the_same(family: str, made: Made) -> None:
    detector, other = made(family).eval(), build(FAMILIES[family]).eval()
    other.load_saved_state(detector.saved_state())
    images, _ = drawn_batch(detector.input_rule.size)
    for first, second in zip(predict(detector, images), predict(other, images), strict=True):
        assert np.array_equal(first.boxes, second.boxes) and np.array_equal(first.scores, second.scores)
    shared = [tensor.data_ptr() for tensor in detector.state_dict().values() if tensor.numel()]
    assert len(shared) == len(set(shared)), "a tensor under two names would be averaged twice"


@every_family
def test_a_step_in_bf16_is_close_to_one_in_32_bits(family: str, made: Made) -> None:
    detector = still(made(family))
    images, targets = drawn_batch(detector.input_rule.size)
    exact = judged(detector, images, targets)
    with torch.autocast("cpu", torch.bfloat16):
        outputs = detector(images, targets)
    rough = detector.loss(outputs, targets)
    assert all(value.dtype == torch.float32 for value in rough.terms.values())
    torch.testing.assert_close(rough.total, exact.total, rtol=0.1, atol=1.0)
    rough.total.backward()
    assert all(bool(value.grad.isfinite().all()) for value in detector.parameters() if value.grad is not None)


@every_family
def test_without_its_losses_a_detector_predicts_and_says_why_it_cannot_train(family: str) -> None:
    made = FAMILIES[family]
    settings = type(HOST.get(ModelSpec, made.spec).settings()).model_validate(made.settings)
    detector = made.build(settings, ModelContext(("a", "b"), made.size))
    images, targets = drawn_batch(made.size)
    targets.labels.clamp_(max=1)
    predict(detector.eval(), images)
    with pytest.raises(PluginError, match="no loss was built for the role"):
        judged(detector.train(), images, targets)


@every_detr
def test_images_with_more_objects_than_queries_are_said(family: str, made: Made, tmp_path: Path) -> None:
    detector = made(family)
    dataset = load(sound_data(tmp_path))
    fullest = max(
        int((split.image_index == row).sum()) for split in dataset.splits.values() for row in range(len(split))
    )
    assert detector.most_objects is not None and detector.most_objects > fullest > 1
    assert too_many_objects(detector, dataset) == []
    detector.most_objects = fullest - 1
    assert f"(up to {fullest}) than the {fullest - 1} queries" in too_many_objects(detector, dataset)[0]
