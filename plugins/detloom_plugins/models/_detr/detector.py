# ruff: noqa: TID253
"""The base of all DETR detectors: a family adds its network, its forward pass, its groups and its names."""

from __future__ import annotations

import abc
from collections.abc import Mapping, Sequence
from typing import Any, Self

import torch
from torch import Tensor, nn

from detloom import boxes as geometry
from detloom.detector import Decoded, Detector, LossTerms, Outputs, Targets, TransferReport
from detloom.geometry import InputRule, PostRule
from detloom.specs import ModelContext
from detloom.weight_transfer import ClassTensors, transfer_weights

from .criterion import DetrCriterion, TermWeights, truth_of
from .denoising import Noise, NoisyQueries, denoising_pairs, noisy_queries
from .keys import Renames, renamed, split_attention, without_computed, without_prefix
from .matching import Costs, Pairs, Stack, Truth
from .network import batch_norms, outermost, reset_class_layer
from .settings import QuerySettings

PREFIX = "network."
RECOMPUTED = (
    *("ResNetBasicLayer", "ResNetBottleNeckLayer", "HGNetV2BasicLayer", "Dinov2Layer", "ViTLayer"),
    *("AIFILayer", "CSPRepLayer", "RepNCSPELAN4", "RepNCSPELAN5", "C2FLayer", "DecoderLayer"),
)
"""How the library's classes end whose activations can be computed again: blocks of the backbone, layers of the encoder
and of the decoder."""


class DetrDetector(Detector):
    """Boxes of a fixed number of queries; no suppression.

    `network` is the library's module; the names in our state dict are the library's with `network.` before them.
    Outputs.logits: [B, Q, C] and Outputs.boxes: [B, Q, 4] cxcywh in 0..1 of the last layer. Outputs.extra: `stacks`
    (a list of Stack, all layers that are matched), `size` (height, width) of the input, and in a training forward
    with denoising `denoising` (a Stack) and `groups`.
    """

    family: str
    renames: Renames = ()
    """How names of published files become the library's."""

    def __init__(
        self, variant_name: str, network: nn.Module, settings: QuerySettings, context: ModelContext, rule: InputRule
    ) -> None:
        super().__init__(context.class_names, rule, PostRule(kind="topk", max_detections=300))
        self.variant_name = variant_name
        self.most_objects = settings.num_queries
        self.network: Any = network
        self.criterion = DetrCriterion(
            self.family,
            context.losses,
            TermWeights(
                classification=context.loss_weights.get("classification", 1.0),
                box=context.loss_weights.get("box", 2.0),
                l1=settings.l1_weight,
            ),
            self.costs(settings),
            quality=context.quality_targets,
        )
        self._frozen_norms = batch_norms(self.backbone()) if getattr(settings, "freeze_norm", False) else []
        for norm in self._frozen_norms:
            norm.requires_grad_(False)

    # ---- what a family says ------------------------------------------------------------------------------------

    @abc.abstractmethod
    def run(self, pixels: Tensor, truth: Truth | None) -> Outputs:
        """pixels: normalised [B, 3, H, W], in the network's precision; truth: given in training, for denoising.
        Returns Outputs as the class says; `size` is added by `forward`."""

    @abc.abstractmethod
    def backbone(self) -> nn.Module:
        """The part of `network` that `freeze_norm` freezes."""

    @abc.abstractmethod
    def class_layers(self) -> dict[str, nn.Module]:
        """Every layer that has a row a class, by its name in `network`: linear layers of scores, and embeddings with a
        last row for padding."""

    def canonical(self, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """A published file, or our own state, under the names of `network`."""
        plain = split_attention(without_computed(without_prefix(state, PREFIX)))
        return renamed(plain, self.renames)

    def costs(self, settings: QuerySettings) -> Costs:
        return Costs(settings.class_cost, settings.l1_cost, settings.overlap_cost)

    # ---- the detector ------------------------------------------------------------------------------------------

    def train(self, mode: bool = True) -> Self:
        super().train(mode)
        for norm in self._frozen_norms:
            norm.eval()
        return self

    def forward(self, images: Tensor, targets: Targets | None = None, prompts: object | None = None) -> Outputs:
        pixels = self.normalise(images).to(next(self.network.parameters()).dtype)
        size = (int(images.shape[-2]), int(images.shape[-1]))
        truth = truth_of(targets, size) if self.training and targets is not None else None
        outputs = self.run(pixels, truth)
        outputs.extra["size"] = size
        return outputs

    def loss(self, outputs: Outputs, targets: Targets) -> LossTerms:
        # Logarithms of scores and costs of the matching need float32, whatever the forward pass used.
        with torch.autocast(outputs.boxes.device.type, enabled=False):
            size = outputs.extra["size"]
            return self.criterion(outputs.extra["stacks"], targets, size, self._denoising(outputs, targets))

    def _denoising(self, outputs: Outputs, targets: Targets) -> list[tuple[Stack, Pairs]]:
        stack: Stack | None = outputs.extra.get("denoising")
        if stack is None:
            return []
        truth = truth_of(targets, outputs.extra["size"])
        return [(stack, denoising_pairs(stack, truth, outputs.extra["groups"]))]

    def decode(self, outputs: Outputs) -> Decoded:
        height, width = outputs.extra["size"]
        boxes = outputs.boxes.float()
        scale = torch.tensor([width, height, width, height], dtype=boxes.dtype, device=boxes.device)
        return Decoded(geometry.from_cxcywh(boxes) * scale, outputs.logits.float().sigmoid())

    def recomputed_modules(self) -> list[nn.Module]:
        return outermost(self.network, RECOMPUTED)

    def load_pretrained(self, state: Mapping[str, Tensor], class_names: Sequence[str], source: str) -> TransferReport:
        layers = self.class_layers()
        tensors = tuple(f"{name}.{part}" for name, layer in layers.items() for part, _ in layer.named_parameters())

        def reset() -> None:
            for layer in layers.values():
                reset_class_layer(layer)

        return transfer_weights(
            self.network,
            self.canonical(state),
            class_names,
            source,
            model_name=self.variant_name,
            own_names=self.class_names,
            class_tensors=ClassTensors(tensors, reset),
        )


def make_noise(truth: Truth | None, embed: nn.Embedding, noise: Noise) -> NoisyQueries | None:
    """Noisy queries of a training forward; None in any other."""
    return None if truth is None else noisy_queries(truth, embed, noise)


def outputs_of_layers(
    logits: Tensor, boxes: Tensor, encoder: tuple[Tensor, Tensor] | None, noisy: NoisyQueries | None
) -> Outputs:
    """Outputs of a decoder whose layers all predict.

    logits: [B, L, D + Q, C], boxes: [B, L, D + Q, 4], D noisy queries first; encoder: logits and boxes [B, Q, ...] of
    the first stage. The last layer's terms are `loss_cls`, `loss_l1`, `loss_box`; the others' sums are `loss_aux`,
    `loss_encoder` and `loss_denoising`.
    """
    skip = 0 if noisy is None else noisy.count
    layers = logits.shape[1]
    real_logits, real_boxes = logits[:, :, skip:].transpose(0, 1), boxes[:, :, skip:].transpose(0, 1)
    names = ("aux",) * (layers - 1) + ("",)
    extra: dict[str, Any] = {}
    if encoder is not None:
        real_logits = torch.cat((encoder[0].unsqueeze(0).to(real_logits), real_logits))
        real_boxes = torch.cat((encoder[1].unsqueeze(0).to(real_boxes), real_boxes))
        names = ("encoder", *names)
    extra["stacks"] = [Stack(real_logits, real_boxes, names)]
    if noisy is not None:
        early = logits[:, :, :skip].transpose(0, 1), boxes[:, :, :skip].transpose(0, 1)
        extra["denoising"] = Stack(*early, ("denoising",) * layers, scale=1.0 / noisy.groups)
        extra["groups"] = noisy.groups
    return Outputs(logits[:, -1, skip:], boxes[:, -1, skip:], extra=extra)
