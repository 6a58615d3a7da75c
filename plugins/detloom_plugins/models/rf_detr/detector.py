# ruff: noqa: TID253
"""The RF-DETR detectors: boxes, and boxes with masks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from detloom.detector import Decoded, LayerGroup, LossTerms, Outputs, Targets
from detloom.errors import ConfigError, DataError, Mistake
from detloom.geometry import InputRule
from detloom.specs import ModelContext
from detloom_plugins.models._detr.criterion import by_name, truth_of
from detloom_plugins.models._detr.detector import PREFIX, DetrDetector
from detloom_plugins.models._detr.matching import Stack, Truth
from detloom_plugins.models._detr.network import chain_of_groups

from .keys import FROM_OLDER, fitted, from_original
from .masks import MaskLayers, MaskWeights, grouped, mask_costs, mask_logits, mask_terms
from .network import build_network, detection_part, reset_parameters

if TYPE_CHECKING:
    from .settings import RfDetrSegSettings, RfDetrSettings
    from .variants import Variant

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
BACKENDS = ("transformers", "rfdetr")


@dataclass(frozen=True, slots=True)
class Found:
    """What a network says of a batch, whoever built it; N queries: those of all groups in training, else one group's.

    logits: [L, B, N, C] and boxes: [L, B, N, 4] cxcywh in 0..1 of the decoder's layers; first_logits: [B, N, C] and
    first_boxes: [B, N, 4] of the first stage; masks: of the first stage and the layers, None for boxes alone.
    """

    logits: Tensor
    boxes: Tensor
    first_logits: Tensor
    first_boxes: Tensor
    masks: MaskLayers | None = None


class RfDetrDetector(DetrDetector):
    """RGB normalised like ImageNet, stretched to the input's size; boxes and class scores of `num_queries` queries.

    In training each of `group_detr` groups of queries is matched and judged as a layer of its own, and the sums are
    divided by the number of groups (Chen et al. 2023, "Group DETR").
    """

    family = "rf_detr"
    renames = FROM_OLDER

    def __init__(self, variant: Variant, settings: RfDetrSettings, context: ModelContext) -> None:
        refuse_small(variant, settings.num_queries, context.size)
        network = self.started(variant, settings, len(context.class_names))
        rule = InputRule(size=context.size, resize="stretch", scale=1 / 255, mean=MEAN, std=STD)
        super().__init__(variant.full_name, network, settings, context, rule)
        self.variant, self.queries = variant, settings.num_queries

    @staticmethod
    def started(variant: Variant, settings: RfDetrSettings, classes: int) -> Any:
        """The network with random weights from which it learns."""
        network = build_network(variant, settings, classes)
        reset_parameters(network)
        return network

    @property
    def detection(self) -> Any:
        """The library's detector of boxes."""
        return detection_part(self.network)

    def run(self, pixels: Tensor, truth: Truth | None) -> Outputs:
        found = self.found(pixels)
        logits, boxes = found.logits, found.boxes
        all_logits = torch.cat((found.first_logits.unsqueeze(0).to(logits), logits))
        all_boxes = torch.cat((found.first_boxes.unsqueeze(0).to(boxes), boxes))
        groups = logits.shape[2] // self.queries
        names = ("encoder", *("aux",) * (len(logits) - 1), "")
        stack = Stack(
            _by_group(all_logits, groups),
            _by_group(all_boxes, groups),
            tuple(name for name in names for _ in range(groups)),
            scale=1 / groups,
        )
        outputs = Outputs(logits[-1, :, : self.queries], boxes[-1, :, : self.queries], extra={"stacks": [stack]})
        if found.masks is not None:
            layers = outputs.extra["mask_layers"] = found.masks
            if not self.training:
                outputs.masks = mask_logits(layers.queries[-1][:, : self.queries], layers.maps[-1], layers.bias)
        return outputs

    def found(self, pixels: Tensor) -> Found:
        """pixels: normalised [B, 3, H, W]."""
        found = self.detection.model(pixels)
        logits, boxes = self.detection.predict_class_and_boxes(
            found.intermediate_hidden_states, found.intermediate_reference_points
        )
        first = self.detection.predict_encoder_class_logits(found.enc_outputs_class)
        states = (found.enc_outputs_class, *found.intermediate_hidden_states.unbind(0))
        size = (int(pixels.shape[-2]), int(pixels.shape[-1]))
        masks = self.mask_layers(found.backbone_features, states, size)
        return Found(logits, boxes, first, found.enc_outputs_coord_logits, masks)

    def mask_layers(self, features: Tensor, states: Sequence[Tensor], size: tuple[int, int]) -> MaskLayers | None:
        """Of a detector that has masks. features: [B, E, h, w] of the backbone; states: [B, N, E] of the first stage
        and the decoder's layers; size: (height, width) of the input in pixels."""
        return None

    def check_size(self, size: tuple[int, int]) -> str:
        return too_small(self.variant, self.queries, size)

    def fix_size(self) -> None:
        patch = self.variant.backbone.patch
        height, width = self.input_rule.size
        self.backbone().embeddings.fix_size(height // patch, width // patch)

    def canonical(self, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        return fitted(self.library_named(state), self.network.state_dict())

    def load_state_dict(self, state_dict: Mapping[str, Any], strict: bool = True, assign: bool = False) -> Any:
        """Of a detector of the same backend: it goes on with a training. Raises RuntimeError for the other's."""
        given, own = (f"{PREFIX}transformer.decoder.norm.weight" in names for names in (state_dict, self.state_dict()))
        if given != own:
            raise RuntimeError(f"it was written with model.rf_detr.backend={BACKENDS[given]}, not {BACKENDS[own]}")
        return super().load_state_dict(state_dict, strict, assign)

    def library_named(self, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Weights of any source and either backend under the names of transformers."""
        return from_original(super().canonical(state), masks=self.masks)

    def backbone(self) -> Any:
        return self.detection.model.backbone.backbone

    def class_layers(self) -> dict[str, nn.Module]:
        inside = "model." if self.masks else ""
        first = self.detection.model.enc_out_class_embed
        return {
            f"{inside}class_embed": self.detection.class_embed,
            **{f"{inside}model.enc_out_class_embed.{number}": layer for number, layer in enumerate(first)},
        }

    def layer_groups(self) -> list[LayerGroup]:
        detection, model, body = self.detection, self.detection.model, self.backbone()
        blocks = [(f"block{number}", block) for number, block in enumerate(body.encoder.layer, 1)]
        backbone = [("embeddings", body.embeddings), *blocks, ("norm", body.layernorm)]
        decoder = [model.decoder, model.query_feat, model.reference_point_embed, model.enc_output]
        parts: list[tuple[str, list[nn.Module]]] = [
            ("projector", [model.backbone.projector]),
            ("decoder", [*decoder, model.enc_output_norm, model.enc_out_bbox_embed, detection.bbox_embed]),
        ]
        parts += self.mask_parts()
        return chain_of_groups(backbone, parts, [detection.class_embed, model.enc_out_class_embed])

    def mask_parts(self) -> list[tuple[str, list[nn.Module]]]:
        """Layer groups of a detector that has masks."""
        return []


class RfDetrSegmenter(RfDetrDetector):
    """RF-DETR with a mask for every query, at a quarter of the input's size."""

    masks = True

    def __init__(self, variant: Variant, settings: RfDetrSegSettings, context: ModelContext) -> None:
        super().__init__(variant, settings, context)
        self.mask_weights = MaskWeights(
            settings.mask_weight,
            settings.dice_weight,
            settings.mask_cost,
            settings.dice_cost,
            settings.mask_point_ratio,
        )

    def mask_layers(self, features: Tensor, states: Sequence[Tensor], size: tuple[int, int]) -> MaskLayers | None:
        network = self.network
        target = tuple(side // network.downsample_ratio for side in size)
        features = F.interpolate(features, size=target, mode="bilinear", align_corners=False)
        # The first stage's features are projected as all others are, by the original; the library (5.23) leaves it out.
        maps = [network.spatial_features_proj(features)]
        for block in network.blocks:
            features = block(features)
            maps.append(network.spatial_features_proj(features))
        queries = [network.query_features_proj(network.query_features_block(state)) for state in states]
        return MaskLayers(maps, queries, network.segmentation_bias)

    def loss(self, outputs: Outputs, targets: Targets) -> LossTerms:
        if targets.masks is None:
            raise DataError(f"{self.variant_name} learns masks, and the data have none", hint="choose a model of boxes")
        with torch.autocast(outputs.boxes.device.type, enabled=False):
            (stack,), layers = outputs.extra["stacks"], outputs.extra["mask_layers"]
            groups = round(1 / stack.scale)
            stack.cost = mask_costs(layers, targets.masks, groups, self.mask_weights, sampled=self.training)
            truth = truth_of(targets, outputs.extra["size"])
            (pairs,) = self.criterion.match([stack], truth)
            terms = self.criterion.terms(stack, pairs, truth)
            found = grouped(pairs.query, pairs.matched, groups, self.queries)
            sums = mask_terms(layers, targets.masks, found, self.mask_weights, sampled=self.training)
            by_layer = Stack(stack.logits, stack.boxes, stack.names[::groups], stack.scale)
            for name, value in by_name(sums, by_layer).items():
                terms[name] = terms[name] + value if name in terms else value
        return LossTerms(terms, truth.valid.sum().float())

    def decode(self, outputs: Outputs) -> Decoded:
        decoded = super().decode(outputs)
        decoded.masks = outputs.masks
        return decoded

    def mask_parts(self) -> list[tuple[str, list[nn.Module]]]:
        network = self.network
        head = [network.blocks, network.spatial_features_proj, network.query_features_block]
        return [("masks", [*head, network.query_features_proj, nn.ParameterList([network.segmentation_bias])])]


def _by_group(values: Tensor, groups: int) -> Tensor:
    """[L, B, groups * Q, D] to [L * groups, B, Q, D]: every group is a layer of its own."""
    return torch.unflatten(values, 2, (groups, -1)).transpose(1, 2).flatten(0, 1)


def too_small(variant: Variant, queries: int, size: tuple[int, int]) -> str:
    """Every query begins at a patch of its own. Returns a sentence when the input has too few, else nothing."""
    patch, patches = variant.backbone.patch, patches_of(variant, size)
    if patches >= queries:
        return ""
    message = f"{size[0]}x{size[1]} has {patches} patches of {patch} pixels, fewer than the {queries} queries"
    return f"{message} of {variant.full_name}"


def patches_of(variant: Variant, size: tuple[int, int]) -> int:
    patch = variant.backbone.patch
    return (size[0] // patch) * (size[1] // patch)


def refuse_small(variant: Variant, queries: int, size: tuple[int, int]) -> None:
    """Raises ConfigError when the input has fewer patches than there are queries, with the smallest that has enough."""
    message = too_small(variant, queries, size)
    if not message:
        return
    side = variant.divisor
    while patches_of(variant, (side, side)) < queries:
        side += variant.divisor
    fewer = f"lower model.rf_detr.num_queries to {patches_of(variant, size)} or less"
    hint = f"the smallest square is {side}x{side}; or {fewer}"
    raise ConfigError([Mistake("training.resolution", "", message, hint)])
