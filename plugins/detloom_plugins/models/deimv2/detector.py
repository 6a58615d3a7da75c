# ruff: noqa: TID253
"""The DEIMv2 detector, over the library's modules."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from functools import partial
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
from detloom_plugins.models._detr.two_stage import decoded, with_own_layout

from .decoder import run_layers
from .keys import renames
from .network import library_network, reset_transformer
from .tensors import plain_tensors
from .variants import VisionTransformer

if TYPE_CHECKING:
    from .settings import Deimv2Settings
    from .variants import Variant

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
OVERLAP_POWER = 4.0
"""Of the IoU in the matching of the last epochs, as in the original."""


class Deimv2Detector(DistributionDetector):
    """RGB in 0..1 in (with a transformer as backbone, normalised as DINOv3 was trained), stretched to the input's size;
    boxes and class scores of `num_queries` queries out."""

    family = "deimv2"

    def __init__(self, variant: Variant, settings: Deimv2Settings, context: ModelContext) -> None:
        self._transformer = isinstance(variant.backbone, VisionTransformer)
        network = library_network(transformers(self.family), variant, settings.num_queries, len(context.class_names))
        rule = InputRule(size=context.size, resize="stretch", scale=1 / 255)
        if self._transformer:
            rule = dataclasses.replace(rule, mean=MEAN, std=STD)
        self.renames = renames(variant.lite)
        super().__init__(f"{self.family}-{variant.name}", network, settings, context, rule)
        self._early, self._late_share = self.distributions.costs, settings.late_matching

    def begin_epoch(self, epoch: int, epochs: int) -> None:
        """The last epochs match by how good a query already is, not by what it would cost."""
        late = epoch >= epochs - int(self._late_share * epochs + 0.5)
        power = OVERLAP_POWER if late else 0.0
        self.distributions.costs = dataclasses.replace(self._early, product_power=power)

    def reset_parameters(self) -> None:
        super().reset_parameters()
        if self._transformer:
            reset_transformer(self.network.model.conv_encoder.backbone)

    def run(self, pixels: Tensor, truth: Truth | None) -> Outputs:
        model = self.network.model
        noisy = make_noise(truth, model.denoising_class_embed, self.noise)
        projected = [with_own_layout(level) for level in model.conv_encoder(pixels)]
        maps = model.encoder(projected).feature_maps
        stages = decoded(model, maps, noisy, partial(run_layers, model.decoder))
        return outputs_of_decoder(stages, model.decoder, noisy)

    def canonical(self, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        return super().canonical(plain_tensors(state))

    def backbone(self) -> nn.Module:
        encoder = self.network.model.conv_encoder
        found: nn.Module = encoder.backbone if self._transformer else encoder.model
        return found

    def layer_groups(self) -> list[LayerGroup]:
        encoder = self.network.model.conv_encoder
        if self._transformer:
            body = encoder.backbone
            layers = [(f"layer{i}", layer) for i, layer in enumerate(body.model.layer, 1)]
            stages = [("patches", body.embeddings), *layers, ("norm", body.norm)]
            return self.groups_behind(stages, [encoder.spatial_tuning_adapter, encoder.fusion_proj])
        body = encoder.model
        stages = [("stem", body.embedder), *((f"stage{i}", s) for i, s in enumerate(body.encoder.stages, 1))]
        return self.groups_behind(stages, [encoder.encoder_input_proj])
