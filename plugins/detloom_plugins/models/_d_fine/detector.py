# ruff: noqa: TID253
"""What the detectors of D-FINE and DEIMv2 share."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

import torch
from torch import nn

from detloom.detector import LayerGroup, LossTerms, Outputs, Targets
from detloom.geometry import InputRule
from detloom.specs import ModelContext
from detloom_plugins.models._detr.criterion import truth_of
from detloom_plugins.models._detr.denoising import Noise
from detloom_plugins.models._detr.detector import DetrDetector
from detloom_plugins.models._detr.network import GroupRest, chain_of_groups, reset_class_layer

from .criterion import DFineCriterion, SideWeights
from .network import reset_network

if TYPE_CHECKING:
    from .settings import DistributionSettings


class DistributionDetector(DetrDetector):
    """What D-FINE and DEIMv2 share: a decoder that predicts distributions of the sides of its boxes, and their loss.

    Outputs.extra holds `found` (Predictions) and, in a training forward with denoising, `noisy` (Predictions and their
    number of groups).
    """

    def __init__(
        self, name: str, network: nn.Module, settings: DistributionSettings, context: ModelContext, rule: InputRule
    ) -> None:
        super().__init__(name, network, settings, context, rule)
        base = self.criterion
        sides = SideWeights(
            context.loss_weights.get("distribution", 0.15), settings.distillation_weight, settings.matching_union
        )
        self.distributions = DFineCriterion(
            self.family, base.losses, base.weights, base.costs, quality=base.quality, sides=sides
        )
        self.noise = Noise(settings.num_denoising, settings.label_noise, settings.box_noise)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        reset_network(self.network)
        for layer in self.class_layers().values():
            reset_class_layer(layer)

    def loss(self, outputs: Outputs, targets: Targets) -> LossTerms:
        # Logarithms of scores and costs of the matching need float32, whatever the forward pass used.
        with torch.autocast(outputs.boxes.device.type, enabled=False):
            truth = truth_of(targets, outputs.extra["size"])
            return self.distributions.evaluate(outputs.extra["found"], truth, outputs.extra.get("noisy"))

    def class_layers(self) -> dict[str, nn.Module]:
        model = self.network.model
        heads = {f"model.decoder.class_embed.{i}": layer for i, layer in enumerate(model.decoder.class_embed)}
        return {
            "model.denoising_class_embed": model.denoising_class_embed,
            "model.enc_score_head": model.enc_score_head,
            **heads,
        }

    def groups_behind(
        self, stages: Sequence[tuple[str, nn.Module]], projections: Iterable[nn.Module]
    ) -> list[LayerGroup]:
        """stages: of the backbone; projections: between it and the encoder. The rest is the decoder's."""
        model = self.network.model
        parts, decoder = GroupRest(model), GroupRest(model.decoder)
        parts.take("backbone", "conv_encoder", "encoder_input_proj", "decoder")
        heads = [*parts.take("denoising_class_embed", "enc_score_head"), *decoder.take("class_embed")]
        encoder = [*projections, *parts.take("encoder")]
        return chain_of_groups(stages, [("encoder", encoder), ("decoder", [*parts.rest(), *decoder.rest()])], heads)
