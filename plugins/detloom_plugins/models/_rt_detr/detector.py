# ruff: noqa: TID253
"""The RT-DETR detector, over the library's modules."""

from __future__ import annotations

from types import ModuleType
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn

from detloom.detector import LayerGroup, Outputs
from detloom.geometry import InputRule
from detloom.specs import ModelContext
from detloom_plugins.models._detr.denoising import Noise
from detloom_plugins.models._detr.detector import DetrDetector, make_noise, outputs_of_layers
from detloom_plugins.models._detr.keys import HUB_RENAMES, ORIGINAL_RENAMES
from detloom_plugins.models._detr.library import transformers
from detloom_plugins.models._detr.matching import Truth
from detloom_plugins.models._detr.network import (
    GroupRest,
    chain_of_groups,
    reset_box_layer,
    reset_class_layer,
    reset_parameters,
)
from detloom_plugins.models._detr.two_stage import two_stage

if TYPE_CHECKING:
    from detloom_plugins.models._detr.settings import DenoisingSettings

    from .variants import Variant


class RtDetrDetector(DetrDetector):
    """RGB in 0..1 in, stretched to the input's size; boxes and class scores of `num_queries` queries out."""

    family = "rt_detr"
    renames = (*ORIGINAL_RENAMES, *HUB_RENAMES)

    def __init__(self, variant: Variant, settings: DenoisingSettings, context: ModelContext) -> None:
        network = self.library_network(transformers(self.family), variant, settings, len(context.class_names))
        rule = InputRule(size=context.size, resize="stretch", scale=1 / 255)
        super().__init__(f"{self.family}-{variant.name}", network, settings, context, rule)
        self.noise = Noise(settings.num_denoising, settings.label_noise, settings.box_noise)
        self.reset_parameters()

    @staticmethod
    def library_network(library: ModuleType, variant: Variant, settings: DenoisingSettings, classes: int) -> nn.Module:
        network: nn.Module = library.RTDetrForObjectDetection(
            library.RTDetrConfig(**network_config(library, variant, settings, classes))
        )
        return network

    def reset_parameters(self) -> None:
        reset_parameters(self.network)
        model = self.network.model
        for layer in self.class_layers().values():
            reset_class_layer(layer)
        for head in (model.enc_bbox_head, *model.decoder.bbox_embed):
            reset_box_layer(head.layers[-1])

    def run(self, pixels: Tensor, truth: Truth | None) -> Outputs:
        model = self.network.model
        features = model.backbone.model(pixels).feature_maps
        noisy = make_noise(truth, model.denoising_class_embed, self.noise)
        stages = two_stage(model, features, noisy)
        decoder = stages.decoder
        return outputs_of_layers(
            decoder.intermediate_logits,
            decoder.intermediate_reference_points,
            (stages.logits, stages.boxes),
            noisy,
        )

    def backbone(self) -> nn.Module:
        found: nn.Module = self.network.model.backbone
        return found

    def class_layers(self) -> dict[str, nn.Module]:
        model = self.network.model
        heads = {f"model.decoder.class_embed.{i}": layer for i, layer in enumerate(model.decoder.class_embed)}
        return {
            "model.denoising_class_embed": model.denoising_class_embed,
            "model.enc_score_head": model.enc_score_head,
            **heads,
        }

    def layer_groups(self) -> list[LayerGroup]:
        model = self.network.model
        body = model.backbone.model
        stages = [("stem", body.embedder), *((f"stage{i}", s) for i, s in enumerate(body.encoder.stages, 1))]
        parts, decoder = GroupRest(model), GroupRest(model.decoder)
        parts.take("backbone", "decoder")
        heads = [*parts.take("denoising_class_embed", "enc_score_head"), *decoder.take("class_embed")]
        encoder = parts.take("encoder_input_proj", "encoder")
        return chain_of_groups(stages, [("encoder", encoder), ("decoder", [*parts.rest(), *decoder.rest()])], heads)


def network_config(library: ModuleType, variant: Variant, settings: DenoisingSettings, classes: int) -> dict[str, Any]:
    """Arguments of the library's configuration."""
    backbone = library.RTDetrResNetConfig(
        embedding_size=variant.stem_width,
        depths=list(variant.depths),
        hidden_sizes=list(variant.widths),
        layer_type="bottleneck" if variant.bottleneck else "basic",
        out_indices=[2, 3, 4],
    )
    return {
        "backbone_config": backbone,
        "num_labels": classes,
        "num_queries": settings.num_queries,
        # The embedding of classes is always there, so that every file fits; the noise itself is ours.
        "num_denoising": 1,
        # Frozen norms are the detector's own doing (`freeze_norm`): the names of the weights do not depend on it.
        "freeze_backbone_batch_norms": False,
        "encoder_in_channels": list(variant.widths[1:]),
        "encoder_hidden_dim": variant.encoder_width,
        "encoder_ffn_dim": variant.encoder_ffn,
        "hidden_expansion": variant.expansion,
        "decoder_in_channels": [variant.encoder_width] * 3,
        "decoder_layers": variant.decoder_layers,
        "d_model": variant.decoder_width,
        "decoder_ffn_dim": variant.decoder_ffn,
    }
