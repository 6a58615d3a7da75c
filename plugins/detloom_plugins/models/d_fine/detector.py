# ruff: noqa: TID253
"""The D-FINE detector, over the library's modules."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import Tensor, nn

from detloom.detector import LayerGroup, Outputs
from detloom.geometry import InputRule
from detloom.specs import ModelContext
from detloom_plugins.models._d_fine.detector import DistributionDetector
from detloom_plugins.models._d_fine.outputs import outputs_of_decoder
from detloom_plugins.models._detr.detector import make_noise
from detloom_plugins.models._detr.library import transformers
from detloom_plugins.models._detr.matching import Truth
from detloom_plugins.models._detr.two_stage import two_stage

from .keys import HUB_RENAMES, ORIGINAL_RENAMES
from .network import library_network

if TYPE_CHECKING:
    from detloom_plugins.models._d_fine.settings import DistributionSettings

    from .variants import Variant


class DFineDetector(DistributionDetector):
    """RGB in 0..1 in, stretched to the input's size; boxes and class scores of `num_queries` queries out."""

    family = "d_fine"
    renames = (*ORIGINAL_RENAMES, *HUB_RENAMES)

    def __init__(self, variant: Variant, settings: DistributionSettings, context: ModelContext) -> None:
        network = library_network(transformers(self.family), variant, settings.num_queries, len(context.class_names))
        rule = InputRule(size=context.size, resize="stretch", scale=1 / 255)
        super().__init__(f"{self.family}-{variant.name}", network, settings, context, rule)

    def run(self, pixels: Tensor, truth: Truth | None) -> Outputs:
        model = self.network.model
        noisy = make_noise(truth, model.denoising_class_embed, self.noise)
        stages = two_stage(model, model.backbone.model(pixels).feature_maps, noisy)
        return outputs_of_decoder(stages, model.decoder, noisy)

    def backbone(self) -> nn.Module:
        found: nn.Module = self.network.model.backbone
        return found

    def layer_groups(self) -> list[LayerGroup]:
        body = self.network.model.backbone.model
        stages = [("stem", body.embedder), *((f"stage{i}", s) for i, s in enumerate(body.encoder.stages, 1))]
        return self.groups_behind(stages, [self.network.model.encoder_input_proj])
