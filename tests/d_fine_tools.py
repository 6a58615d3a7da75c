"""Small networks of D-FINE and DEIMv2, and the numbers of the originals."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from detloom.detector import Targets
from detloom.specs import LossSpec, ModelContext, ModelSpec
from detloom_plugins.models import d_fine, deimv2
from detloom_plugins.models._d_fine.backbones import Backbone
from detloom_plugins.models.d_fine.variants import Variant
from detloom_plugins.models.deimv2.variants import Variant as Deimv2Variant
from detloom_plugins.models.deimv2.variants import VisionTransformer
from detr_tools import HOST, Family
from published_tools import BOXES, LABELS, names_of, picture, weight_of

STAGES = Backbone(
    stem=(3, 8, 16),
    inputs=(16, 32, 64, 128),
    middle=(8, 16, 24, 32),
    outputs=(32, 64, 128, 192),
    blocks=(1, 1, 1, 1),
    layers=2,
    affine=True,
)
SMALL = Variant(
    name="small",
    parameters="0.4 M",
    backbone=STAGES,
    levels=2,
    width=64,
    feed_forward=64,
    expansion=0.34,
    depth=0.34,
    decoder_width=64,
    decoder_feed_forward=64,
    decoder_layers=2,
    points=(4, 4),
    heads=4,
)
D_FINE = Family("d_fine-n", partial(d_fine.build, SMALL), {"num_queries": 40, "num_denoising": 20})
DEIMV2_SMALL = Deimv2Variant(
    name="small",
    parameters="0.4 M",
    backbone=STAGES,
    levels=2,
    width=64,
    feed_forward=64,
    expansion=0.34,
    depth=0.34,
    decoder_feed_forward=64,
    decoder_layers=2,
    points=(4, 4),
    heads=4,
)
THREE_STAGES = replace(
    STAGES,
    inputs=STAGES.inputs[:3],
    middle=STAGES.middle[:3],
    outputs=STAGES.outputs[:3],
    blocks=STAGES.blocks[:3],
    kernels=STAGES.kernels[:3],
)
DEIMV2_LITE = replace(DEIMV2_SMALL, backbone=THREE_STAGES, lite=True, points=(4, 2))
DEIMV2_TRANSFORMER = replace(
    DEIMV2_SMALL,
    backbone=VisionTransformer(width=48, heads=3, feed_forward=96, stages=(1, 2, 3), layers=3),
    levels=3,
    points=(2, 4, 2),
)
DEIMV2 = Family("deimv2-n", partial(deimv2.build, DEIMV2_SMALL), {"num_queries": 40, "num_denoising": 20})
LITE = Family(
    "deimv2-atto",
    partial(deimv2.build, DEIMV2_LITE),
    {"num_queries": 40, "num_denoising": 20, "matching_union": False, "distillation_weight": 0.0},
)
TRANSFORMER = Family("deimv2-s", partial(deimv2.build, DEIMV2_TRANSFORMER), {"num_queries": 40, "num_denoising": 20})


# ---- the originals --------------------------------------------------------------------------------------------------

OUTPUTS = Path(__file__).parent / "fixtures" / "original_outputs.json"
CONSTANTS = {"up": 0.5, "reg_scale": 4.0}


def original_state(detector: Any, lines: Sequence[str], *, formula: bool = False) -> dict[str, Tensor]:
    """A checkpoint of the original repository. lines: its names (published_tools). formula: with values, else without
    memory for them."""
    shapes = {name.removeprefix("network."): value.shape for name, value in detector.state_dict().items()}
    state = {}
    for name in names_of(lines):
        parts = list(detector.canonical({name: torch.zeros(6)}))
        if not parts:  # the original keeps some constants beside its weights
            state[name] = torch.ones(1)
            continue
        rows, *rest = shapes[parts[0]]
        shape = (rows * len(parts), *rest)
        last = name.rpartition(".")[2]
        if not formula:
            state[name] = torch.zeros(()).expand(shape)
        elif last in CONSTANTS:
            state[name] = torch.full(shape, CONSTANTS[last])
        else:
            state[name] = torch.from_numpy(weight_of(name, shape))
    return state


def assert_like_the_original(model: str, lines: Sequence[str]) -> None:
    """With weights by formula: the eight best queries and every loss term equal what the original repository's own
    network and criterion gave for them (`original_outputs.json`, computed once)."""
    expected = json.loads(OUTPUTS.read_text())[model]
    spec = HOST.get(ModelSpec, model)
    chosen = {role: HOST.get(LossSpec, own) for role, own in spec.loss_roles.items()}
    context = ModelContext(
        spec.weights[0].class_names,
        (192, 192),
        {role: loss.build(loss.settings()) for role, loss in chosen.items()},
        {role: float(spec.recipe[f"loss.{role}_weight"]) for role in chosen},  # type: ignore[arg-type]
        chosen["classification"].quality,
    )
    prefix = f"model.{spec.settings_key}."
    own = {key.removeprefix(prefix): value for key, value in spec.recipe.items() if key.startswith(prefix)}
    settings = type(spec.settings()).model_validate({**own, "num_queries": 60, "num_denoising": 0})
    detector: Any = spec.build(settings, context)
    detector.load_pretrained(original_state(detector, lines, formula=True), detector.class_names, "formula")
    images = torch.from_numpy(picture(192))
    with torch.no_grad():
        found = detector.eval()(images)
        best = found.logits[0].max(-1).values.argsort(descending=True)[:8]
        assert np.allclose(found.logits[0][best][:, :5], expected["logits"], atol=3e-4)
        assert np.allclose(found.boxes[0][best], expected["boxes"], atol=5e-5)
        detector.train()
        for module in detector.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.eval()
        targets = Targets(torch.tensor([BOXES]), torch.tensor([LABELS]))
        terms = detector.loss(detector(images, targets), targets).terms
    assert {name: value.item() / len(LABELS) for name, value in terms.items()} == pytest.approx(
        expected["losses"], rel=2e-3
    )
