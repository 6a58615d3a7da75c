# ruff: noqa: TID253
"""The network of the original package (`model.rf_detr.backend=rfdetr`); all around it is as with transformers."""

from __future__ import annotations

import importlib
import importlib.metadata
import logging
import warnings
from collections.abc import Mapping
from types import ModuleType
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from detloom.detector import LayerGroup, Outputs
from detloom.errors import PluginError
from detloom_plugins.models._detr.library import transformers
from detloom_plugins.models._detr.matching import Truth
from detloom_plugins.models._detr.network import chain_of_groups

from .detector import Found, RfDetrDetector, RfDetrSegmenter
from .keys import KEYPOINTS, fitted, to_original
from .masks import MaskLayers

if TYPE_CHECKING:
    from .settings import RfDetrSettings
    from .variants import Variant

CHOSEN, OTHER = "model.rf_detr.backend=rfdetr", "model.rf_detr.backend=transformers"
EXTRA = f"pip install 'detloom[rfdetr]', which brings torchvision; or {OTHER}"
SERIES = "1.11"
"""Of the package's versions: its modules, which are used one by one here, are no promise of it."""


class NativeDetector(RfDetrDetector):
    """RF-DETR over the package's own modules. Weights have the names of the package's files, with `network.` before
    them."""

    @staticmethod
    def started(variant: Variant, settings: RfDetrSettings, classes: int) -> Any:
        """The package's own start values: those that `reset_parameters` gives the other network."""
        return build_network(variant, settings, classes)

    def run(self, pixels: Tensor, truth: Truth | None) -> Outputs:
        if not self.network._export:
            return super().run(pixels, truth)
        boxes, logits, *masks = self.network(pixels)
        return Outputs(logits, boxes, masks[0] if masks else None)

    def found(self, pixels: Tensor) -> Found:
        padded = torch.zeros(pixels.shape[0], *pixels.shape[2:], dtype=torch.bool, device=pixels.device)
        said = self.network(_module("utilities.tensors").NestedTensor(pixels, padded, no_padding=True))
        first, layers = said["enc_outputs"], [*said["aux_outputs"], said]
        return Found(
            torch.stack([layer["pred_logits"] for layer in layers]),
            torch.stack([layer["pred_boxes"] for layer in layers]),
            first["pred_logits"],
            first["pred_boxes"],
            _mask_layers([layer["pred_masks"] for layer in (first, *layers)]) if self.masks else None,
        )

    def fix_size(self) -> None:
        """The package's mode for export, in which positions are a constant."""
        self.network.backbone[0].encoder.shape = self.input_rule.size
        self.network.export()
        for block in self.network.segmentation_head.blocks if self.masks else ():
            # The package's own function guards its backward pass, and TorchScript files can hold no such function.
            block._depthwise_conv = block.dwconv.forward

    def canonical(self, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        own = self.network.state_dict()
        named = fitted(self.library_named(state), self.library_named(own))
        return to_original(named, own, masks=self.masks)

    def backbone(self) -> Any:
        return self.network.backbone[0].encoder.encoder

    def class_layers(self) -> dict[str, nn.Module]:
        first = self.network.transformer.enc_out_class_embed
        named = {f"transformer.enc_out_class_embed.{number}": layer for number, layer in enumerate(first)}
        return {"class_embed": self.network.class_embed, **named}

    def layer_groups(self) -> list[LayerGroup]:
        network, transformer, body = self.network, self.network.transformer, self.backbone()
        blocks = [(f"block{number}", block) for number, block in enumerate(body.encoder.layer, 1)]
        backbone = [("embeddings", body.embeddings), *blocks, ("norm", body.layernorm)]
        decoder = [transformer.decoder, network.query_feat, network.refpoint_embed, transformer.enc_output]
        parts: list[tuple[str, list[nn.Module]]] = [
            ("projector", [network.backbone[0].projector]),
            ("decoder", [*decoder, transformer.enc_output_norm, transformer.enc_out_bbox_embed, network.bbox_embed]),
        ]
        if self.masks:
            parts.append(("masks", [network.segmentation_head]))
        return chain_of_groups(backbone, parts, [network.class_embed, transformer.enc_out_class_embed])

    def recomputed_modules(self) -> list[nn.Module]:
        return [*self.backbone().encoder.layer, *self.network.transformer.decoder.layers]


class NativeSegmenter(NativeDetector, RfDetrSegmenter):
    """With the package's masks."""


def build_network(variant: Variant, settings: RfDetrSettings, classes: int) -> Any:
    """The package's `LWDETR` with random weights. Downloads nothing."""
    package()
    kind = "".join(part.title() for part in variant.name.split("-"))
    config = getattr(_module("config"), f"RFDETR{kind}Config")(
        num_classes=classes - 1,  # it adds a row for nothing at all; a published head has that row as its first
        num_queries=settings.num_queries,
        group_detr=settings.group_detr,
        device="cpu",
        # Is not read here, but without a name the builder fetches weights of DINOv2.
        pretrain_weights="/none",
    )
    network = _module("models").build_model_from_config(config)
    network.register_buffer(KEYPOINTS, getattr(network, KEYPOINTS), persistent=False)
    body = network.backbone[0].encoder.encoder
    body.embeddings.mask_token.requires_grad_(False)  # of the backbone's own pretraining
    for block in body.encoder.layer[max(variant.backbone.features) :]:
        block.requires_grad_(False)  # nobody reads it
    head = network.segmentation_head
    if head is not None:
        # In evaluation, too, what masks are made of: our loss looks at points of them.
        head.forward = head.sparse_forward
    return network


def package() -> ModuleType:
    """`rfdetr`, imported when its network is built. Raises PluginError that says how to install it."""
    try:
        version = importlib.metadata.version("rfdetr")
    except importlib.metadata.PackageNotFoundError:
        raise PluginError(f"{CHOSEN} needs the package rfdetr, which is not installed", hint=EXTRA) from None
    if not version.startswith(f"{SERIES}."):
        raise PluginError(f"rfdetr {version} is installed; {CHOSEN} fits {SERIES}", hint=EXTRA)
    try:
        importlib.import_module("torchvision")
    except Exception as error:  # a torchvision of another torch raises RuntimeError, or OSError for a missing library
        raise PluginError(
            f"{CHOSEN} needs torchvision, which cannot be used here ({error})",
            hint=f"install torchvision built for torch {torch.__version__}, from the same index; or {OTHER}",
        ) from error
    transformers("rf_detr")  # which the package builds on: offline and quiet as for the others
    precision = torch.get_float32_matmul_precision()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # old ways of torch, and sizes that are sold under another licence
            found = importlib.import_module("rfdetr")
    except ImportError as error:
        raise PluginError(f"rfdetr {version} cannot be imported ({error})", hint=EXTRA) from error
    finally:
        torch.set_float32_matmul_precision(precision)  # the package lowers it for the whole process
    logging.getLogger("rf-detr").setLevel(logging.ERROR)  # it warns at every size that DINOv2 is not loaded
    return found


def _module(name: str) -> Any:
    return importlib.import_module(f"rfdetr.{name}")


def _mask_layers(said: list[dict[str, Tensor]]) -> MaskLayers:
    """said: by the package's head, of the first stage and of the decoder's layers."""
    maps, queries = [each["spatial_features"] for each in said], [each["query_features"] for each in said]
    return MaskLayers(maps, queries, said[0]["bias"])
