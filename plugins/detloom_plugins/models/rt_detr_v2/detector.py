# ruff: noqa: TID253
"""The RT-DETRv2 detector: RT-DETR's, over the library's modules of version 2."""

from __future__ import annotations

from types import ModuleType
from typing import TYPE_CHECKING

from torch import nn

from detloom_plugins.models._rt_detr.detector import RtDetrDetector, network_config

if TYPE_CHECKING:
    from detloom_plugins.models._detr.settings import DenoisingSettings
    from detloom_plugins.models._rt_detr.variants import Variant


class RtDetrV2Detector(RtDetrDetector):
    """As RT-DETR; each level of the decoder's attention has offsets and weights of its own."""

    family = "rt_detr_v2"

    @staticmethod
    def library_network(library: ModuleType, variant: Variant, settings: DenoisingSettings, classes: int) -> nn.Module:
        network: nn.Module = library.RTDetrV2ForObjectDetection(
            library.RTDetrV2Config(**network_config(library, variant, settings, classes))
        )
        # The library holds the decoder's heads under two names; averaging or saving them twice would undo itself.
        del network.class_embed, network.bbox_embed
        return network
