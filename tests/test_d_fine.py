"""D-FINE: names of its published files, its numbers against the library and the original, and that it learns."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from d_fine_tools import D_FINE, assert_like_the_original, original_state
from detloom.detector import Detector
from detloom.specs import ModelContext, ModelSpec
from detloom.train.seeding import seed_torch
from detloom.weights import read_weights
from detloom_plugins.models import d_fine
from detloom_plugins.models.d_fine.variants import VARIANTS, Variant
from detr_tools import HOST, build, check_learned, drawn_batch, overfit

ORIGINAL_NAMES = json.loads((Path(__file__).parent / "fixtures" / "original_names" / "d_fine.json").read_text())
every_size = pytest.mark.parametrize("variant", VARIANTS, ids=lambda variant: variant.name)

# Millions of parameters, as the paper's tables have them.
PUBLISHED_SIZES = {"n": 4, "s": 10, "m": 19, "l": 31, "x": 62}


def empty_detector(variant: Variant) -> Any:
    """A published size without memory for its weights."""
    names = HOST.get(ModelSpec, f"d_fine-{variant.name}").weights[0].class_names
    with torch.device("meta"):
        return d_fine.build(variant, d_fine.family_settings(), ModelContext(names, (640, 640)))


def build_published(size: str) -> Any:
    spec = HOST.get(ModelSpec, f"d_fine-{size}")
    return spec.build(spec.settings(), ModelContext(spec.weights[0].class_names, (192, 192)))


def filled(shapes: dict[str, torch.Size]) -> dict[str, Tensor]:
    """One number a tensor, spread over its shape, so that the largest model costs no memory."""
    return {name: torch.tensor(float(i)).expand(shape) for i, (name, shape) in enumerate(shapes.items())}


def assert_whole(detector: Detector, state: dict[str, Tensor]) -> None:
    report = detector.load_pretrained(state, detector.class_names, "file")
    assert (report.missing, report.unexpected, report.mismatched, report.reset) == ((), (), (), ())
    assert report.loaded == report.total


# ---- names ----------------------------------------------------------------------------------------------------------


@every_size
def test_files_of_the_hub_load_whole(variant: Variant) -> None:
    """The library says what it calls the tensors of a file today, and what the files on the hub call them. Its build
    differs from ours in the heads that it holds twice."""
    import transformers
    from transformers.core_model_loading import revert_weight_conversion

    from detloom_plugins.models.d_fine.network import network_config

    config = transformers.DFineConfig(**network_config(transformers, variant, 300, 80))
    with torch.device("meta"):
        model = transformers.DFineForObjectDetection(config)
    today = {name: value.shape for name, value in model.state_dict().items()}
    on_the_hub = {name: value.shape for name, value in revert_weight_conversion(model, model.state_dict()).items()}
    assert any("self_attn.out_proj" in name for name in on_the_hub) and set(on_the_hub) != set(today)
    for shapes in (today, on_the_hub):
        assert_whole(empty_detector(variant), filled(shapes))


@every_size
def test_checkpoints_of_the_original_repository_load_whole(variant: Variant) -> None:
    detector = empty_detector(variant)
    assert_whole(detector, original_state(detector, ORIGINAL_NAMES[variant.name]))


def test_a_checkpoint_of_the_original_s_training_gives_its_averaged_weights(tmp_path: Path) -> None:
    detector = build_published("n")
    state = original_state(detector, ORIGINAL_NAMES["n"], formula=True)
    file = tmp_path / "dfine_n_coco.pth"
    torch.save({"model": {name: value + 1 for name, value in state.items()}, "ema": {"module": state}}, file)
    assert_whole(detector, read_weights(file))
    head = detector.network.model.decoder.class_embed[2].bias
    assert torch.equal(head, state["decoder.dec_score_head.2.bias"])


@every_size
def test_published_sizes_have_the_published_number_of_parameters(variant: Variant) -> None:
    count = sum(value.numel() for value in empty_detector(variant).parameters()) / 1e6
    assert count == pytest.approx(PUBLISHED_SIZES[variant.name], rel=0.06)
    assert count == pytest.approx(float(variant.parameters.split()[0]), abs=0.06)


# ---- numbers --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [(128, 128), (96, 160)])
def test_the_network_computes_what_the_library_computes(size: tuple[int, int]) -> None:
    """All layers and their distributions, in training and in evaluation, also for a rectangle."""
    seed_torch(3)
    detector: Any = build(D_FINE, size=size)
    with torch.no_grad():
        for value in detector.parameters():
            value.add_(0.05 * torch.randn_like(value))
    images, _ = drawn_batch(size)
    model = detector.network.model
    for training in (True, False):
        detector.train(training)
        for module in detector.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.eval()
        with torch.no_grad():
            ours, theirs = detector(images), model(pixel_values=detector.normalise(images))
        found = ours.extra["found"]
        layers = theirs.intermediate_logits.transpose(0, 1)
        boxes = theirs.intermediate_reference_points.transpose(0, 1)
        torch.testing.assert_close(found.layers.logits, layers[int(training) :])
        torch.testing.assert_close(found.layers.boxes, boxes[int(training) :])
        torch.testing.assert_close(found.sides.logits, theirs.intermediate_predicted_corners.transpose(0, 1))
        torch.testing.assert_close(found.sides.initial, theirs.initial_reference_points[:, 0])
        torch.testing.assert_close(ours.logits, layers[-1])
        assert [stack.names for stack in found.others] == [("pre",), ("encoder",)][not training :]
        torch.testing.assert_close(found.others[-1].logits[0], theirs.enc_topk_logits)
        torch.testing.assert_close(found.others[-1].boxes[0], theirs.enc_topk_bboxes)
        if training:
            torch.testing.assert_close(found.others[0].logits[0], layers[0])


def test_the_smallest_size_gives_the_numbers_of_the_original() -> None:
    assert_like_the_original("d_fine-n", ORIGINAL_NAMES["n"])


def test_a_picture_with_fewer_places_than_queries_gives_as_many_boxes_as_it_has_places() -> None:
    detector = build(D_FINE, size=(64, 96)).eval()
    images, _ = drawn_batch((64, 96))
    with torch.inference_mode():
        decoded = detector.decode(detector(images))
    assert decoded.boxes.shape == (2, 4 * 6 + 2 * 3, 4)


# ---- learning -------------------------------------------------------------------------------------------------------


def test_it_learns_a_batch_from_random_weights_and_keeps_it(tmp_path: Path) -> None:
    seed_torch(0, "weights")
    learned = overfit(build(D_FINE), steps=100, lr=2e-3)
    check_learned(learned, lambda: build(D_FINE), tmp_path)
