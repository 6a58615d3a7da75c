"""RT-DETRv2 (Lv et al. 2024, arXiv 2407.17140): RT-DETR with a better recipe and separate offsets for each level."""

from __future__ import annotations

from collections.abc import Iterable
from functools import partial
from typing import TYPE_CHECKING

from detloom.hookspecs import hookimpl
from detloom.specs import ModelContext, ModelSpec
from detloom_plugins.models._rt_detr.recipe import recipe
from detloom_plugins.models._rt_detr.variants import VARIANTS, Variant
from detloom_plugins.models._rt_detr.weights import weights_file

if TYPE_CHECKING:
    from .detector import RtDetrV2Detector
    from .settings import RtDetrV2Settings

detloom_api = (0, 1)

BACKBONE_SHARES = {"r18": 1.0, "r34": 0.5, "r50": 0.1, "r101": 0.01}
"""Learning rate of the backbone relative to the rest, as in the original's configuration files."""


def family_settings() -> RtDetrV2Settings:
    from .settings import RtDetrV2Settings

    return RtDetrV2Settings()


def build(variant: Variant, chosen: RtDetrV2Settings, context: ModelContext) -> RtDetrV2Detector:
    from .detector import RtDetrV2Detector

    return RtDetrV2Detector(variant, chosen, context)


@hookimpl
def detloom_models() -> Iterable[ModelSpec]:
    return [
        ModelSpec(
            name=f"rt_detr_v2-{variant.name}",
            summary=f"RT-DETRv2 {variant.name}, {variant.parameters} parameters, 640 px",
            family="rt_detr_v2",
            licence="Apache-2.0",
            settings=family_settings,
            build=partial(build, variant),
            recipe=recipe(BACKBONE_SHARES[variant.name]),
            weights=(weights_file(f"rtdetr_v2_{variant.name}vd"),),
            loss_roles={"classification": "varifocal", "box": "giou"},
            size_divisor=32,
            fp16=False,
        )
        for variant in VARIANTS
    ]
