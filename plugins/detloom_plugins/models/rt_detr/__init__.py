"""RT-DETR (Zhao et al. 2024, arXiv 2304.08069): four transformers for real time, from 20 to 77 million parameters."""

from __future__ import annotations

from collections.abc import Iterable
from functools import partial
from typing import TYPE_CHECKING

from detloom.hookspecs import hookimpl
from detloom.specs import ModelContext, ModelSpec, WeightsFile
from detloom_plugins.models._rt_detr.recipe import recipe
from detloom_plugins.models._rt_detr.variants import VARIANTS, Variant
from detloom_plugins.models._rt_detr.weights import weights_file

if TYPE_CHECKING:
    from detloom_plugins.models._rt_detr.detector import RtDetrDetector

    from .settings import RtDetrSettings

detloom_api = (0, 1)

BACKBONE_SHARES = {"r18": 0.1, "r34": 0.1, "r50": 0.1, "r101": 0.01}
"""Learning rate of the backbone relative to the rest, as in the original's configuration files."""


def family_settings() -> RtDetrSettings:
    from .settings import RtDetrSettings

    return RtDetrSettings()


def build(variant: Variant, chosen: RtDetrSettings, context: ModelContext) -> RtDetrDetector:
    from detloom_plugins.models._rt_detr.detector import RtDetrDetector

    return RtDetrDetector(variant, chosen, context)


def _weights(variant: Variant) -> tuple[WeightsFile, ...]:
    """COCO weights first, then those that saw Objects365 before, where they are published."""
    names = [f"rtdetr_{variant.name}vd"]
    if variant.name != "r34":
        names.append(f"rtdetr_{variant.name}vd_coco_o365")
    return tuple(weights_file(name) for name in names)


@hookimpl
def detloom_models() -> Iterable[ModelSpec]:
    return [
        ModelSpec(
            name=f"rt_detr-{variant.name}",
            summary=f"RT-DETR {variant.name}, {variant.parameters} parameters, 640 px",
            family="rt_detr",
            licence="Apache-2.0",
            settings=family_settings,
            build=partial(build, variant),
            recipe=recipe(BACKBONE_SHARES[variant.name]),
            weights=_weights(variant),
            loss_roles={"classification": "varifocal", "box": "giou"},
            size_divisor=32,
            fp16=False,
        )
        for variant in VARIANTS
    ]
