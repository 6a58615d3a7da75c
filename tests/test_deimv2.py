"""DEIMv2: names of its published files, its numbers against the original, its matching, and that it learns."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from d_fine_tools import DEIMV2, LITE, TRANSFORMER, assert_like_the_original, original_state
from detloom.config import mapping_layer, resolve
from detloom.specs import ModelContext, ModelSpec
from detloom.train.seeding import seed_torch
from detloom_plugins.models import deimv2
from detloom_plugins.models._detr.matching import Costs, Stack, Truth, pair_costs
from detloom_plugins.models.deimv2.variants import VARIANTS, Variant
from detr_tools import HOST, Family, build, check_learned, overfit

ORIGINAL_NAMES = json.loads((Path(__file__).parent / "fixtures" / "original_names" / "deimv2.json").read_text())
every_size = pytest.mark.parametrize("variant", VARIANTS, ids=lambda variant: variant.name)

# Millions of parameters, as the original's table has them.
PUBLISHED_SIZES = {"atto": 0.5, "femto": 1.0, "pico": 1.5, "n": 3.6, "s": 9.7, "m": 18.1, "l": 32.2, "x": 50.3}


def empty_detector(variant: Variant) -> Any:
    """A published size without memory for its weights."""
    names = HOST.get(ModelSpec, f"deimv2-{variant.name}").weights[0].class_names
    with torch.device("meta"):
        return deimv2.build(variant, deimv2.family_settings(), ModelContext(names, (640, 640)))


# ---- names ----------------------------------------------------------------------------------------------------------


@every_size
def test_published_files_load_whole(variant: Variant) -> None:
    """The hub's files have the original's names; of a tensor that several parts share they hold one."""
    detector = empty_detector(variant)
    state = original_state(detector, ORIGINAL_NAMES[variant.name])
    report = detector.load_pretrained(state, detector.class_names, "file")
    assert (report.missing, report.unexpected, report.mismatched, report.reset) == ((), (), (), ())
    assert report.loaded == report.total


def test_a_shared_box_head_is_loaded_from_files_that_hold_it_once_a_layer() -> None:
    detector = empty_detector(VARIANTS[0])
    state = original_state(detector, ORIGINAL_NAMES["atto"])
    head = {name: value for name, value in state.items() if "dec_bbox_head.0." in name}
    assert head
    state.update({name.replace("head.0.", f"head.{i}."): value for name, value in head.items() for i in (1, 2)})
    report = detector.load_pretrained(state, detector.class_names, "file")
    assert not report.unexpected and report.loaded == report.total


def test_tensors_that_hold_several_are_taken_apart_in_the_original_order() -> None:
    detector: Any = build(TRANSFORMER)
    rows = torch.arange(6.0)[:, None]
    found = detector.canonical(
        {
            "backbone.dinov3._model.blocks.2.attn.qkv.weight": rows,
            "decoder.decoder.layers.1.swish_ffn.w12.weight": rows,
        }
    )
    layer = "model.conv_encoder.backbone.model.layer.2.attention"
    assert [found[f"{layer}.{letter}_proj.weight"].flatten().tolist() for letter in "qkv"] == [[0, 1], [2, 3], [4, 5]]
    gated = "model.decoder.layers.1.mlp"
    assert [found[f"{gated}.{name}_proj.weight"].flatten().tolist() for name in ("gate", "up")] == [
        [0, 1, 2],
        [3, 4, 5],
    ]


@every_size
def test_published_sizes_have_the_published_number_of_parameters(variant: Variant) -> None:
    count = sum(value.numel() for value in empty_detector(variant).parameters()) / 1e6
    assert count == pytest.approx(PUBLISHED_SIZES[variant.name], rel=0.03)
    assert count == pytest.approx(float(variant.parameters.split()[0]), abs=0.06)


def test_weights_over_dinov3_say_whose_licence_binds() -> None:
    licences = {spec.name: spec.weights[0].licence for spec in deimv2.detloom_models()}
    assert {name for name, licence in licences.items() if "DINOv3 License" in licence} == {
        f"deimv2-{size}" for size in "smlx"
    }


# ---- numbers --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", ["atto", "n", "s"])
def test_published_sizes_give_the_numbers_of_the_original(size: str) -> None:
    """A lite encoder, a whole one, and a transformer as backbone."""
    assert_like_the_original(f"deimv2-{size}", ORIGINAL_NAMES[size])


# ---- matching and recipe --------------------------------------------------------------------------------------------


def test_late_costs_are_the_score_times_the_overlap_to_the_fourth() -> None:
    truth = Truth(torch.tensor([[[0.5, 0.5, 0.4, 0.4]]]), torch.tensor([[1]]), (100, 100))
    boxes = torch.tensor([[0.5, 0.5, 0.4, 0.4], [0.5, 0.5, 0.4, 0.2], [0.1, 0.1, 0.1, 0.1]])
    logits = torch.tensor([[5.0, 0.0], [0.0, 2.0], [0.0, 9.0]])
    stack = Stack(logits[None, None], boxes[None, None], ("",))
    cost = pair_costs(stack, truth, Costs(product_power=4.0))[0, 0, :, 0]
    assert cost.tolist() == pytest.approx([-0.5, -torch.sigmoid(torch.tensor(2.0)).item() / 16, 0.0], abs=1e-5)


def test_the_last_epochs_match_by_score_and_overlap() -> None:
    detector: Any = build(DEIMV2, late_matching=0.25)
    powers = []
    for epoch in range(8):
        detector.begin_epoch(epoch, 8)
        powers.append(detector.distributions.costs.product_power)
    assert powers == [0.0] * 6 + [4.0] * 2
    never: Any = build(DEIMV2, late_matching=0.0)
    never.begin_epoch(7, 8)
    assert never.distributions.costs.product_power == 0.0


@every_size
def test_the_recipe_is_the_size_s_own(variant: Variant) -> None:
    values = resolve(HOST, [mapping_layer({"model.type": f"deimv2-{variant.name}"})]).values()
    lite = variant.name in {"atto", "femto", "pico"}
    assert values["model.deimv2.num_queries"] == {"atto": 100, "femto": 150, "pico": 200}.get(variant.name, 300)
    assert values["model.deimv2.matching_union"] is not lite
    assert (values["loss.distribution_weight"], values["model.deimv2.distillation_weight"]) == (
        (0.0, 0.0) if lite else (0.15, 1.5)
    )
    assert values["training.resolution"] == {"atto": 320, "femto": 416}.get(variant.name, 640)


# ---- learning -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("family", "side", "lr"),
    [(DEIMV2, 192, 2e-3), (LITE, 192, 3e-3), (TRANSFORMER, 160, 2e-3)],
    ids=["convolutions", "lite", "transformer"],
)
def test_it_learns_a_batch_from_random_weights_and_keeps_it(
    family: Family, side: int, lr: float, tmp_path: Path
) -> None:
    seed_torch(0, "weights")
    learned = overfit(build(family, size=(side, side)), steps=120, lr=lr, clip=1.0)
    check_learned(learned, lambda: build(family, size=(side, side)), tmp_path)
