# ruff: noqa: TID253
"""The library's network, with start values that learn and with embeddings for any height and width."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from detloom_plugins.models._detr.library import transformers
from detloom_plugins.models._detr.network import reset_box_layer, reset_class_layer

if TYPE_CHECKING:
    from .settings import RfDetrSettings
    from .variants import Variant


def build_network(variant: Variant, settings: RfDetrSettings, classes: int) -> Any:
    """`RfDetrForObjectDetection` or `RfDetrForInstanceSegmentation` with random weights. Downloads nothing."""
    library = transformers("rf_detr")
    kind = library.RfDetrForInstanceSegmentation if variant.masks else library.RfDetrForObjectDetection
    network = kind(configuration(library, variant, settings, classes))
    backbone = detection_part(network).model.backbone.backbone
    backbone.embeddings = WindowedEmbeddings(backbone.embeddings, variant.backbone.windows)
    for block in backbone.encoder.layer[max(variant.backbone.features) :]:
        block.requires_grad_(False)  # nobody reads it: the published files have it all the same
    return network


def detection_part(network: Any) -> Any:
    """The detector of boxes, which the segmenter wraps."""
    return network.model if hasattr(network, "segmentation_bias") else network


def configuration(library: Any, variant: Variant, settings: RfDetrSettings, classes: int) -> Any:
    """Of the published models (transformers' conversion script says the same numbers)."""
    eyes = variant.backbone
    backbone = library.RfDetrDinov2Config(
        hidden_size=eyes.width,
        num_hidden_layers=eyes.blocks,
        num_attention_heads=eyes.heads,
        image_size=eyes.table_px,
        patch_size=eyes.patch,
        num_windows=eyes.windows,
        out_features=[f"stage{number}" for number in eyes.features],
    )
    return library.RfDetrConfig(
        backbone_config=backbone,
        d_model=variant.width,
        dropout=0.0,
        decoder_ffn_dim=variant.ffn,
        decoder_n_points=2,
        decoder_layers=variant.layers,
        decoder_self_attention_heads=variant.self_heads,
        decoder_cross_attention_heads=variant.cross_heads,
        num_queries=settings.num_queries,
        group_detr=settings.group_detr,
        num_labels=classes,
        # The original's projection has four times the width of the decoder.
        intermediate_size=4 * variant.width,
        layer_norm_eps=1e-6,  # of the projector's norms alone: as the original has it, ten times finer than the library
    )


class WindowedEmbeddings(nn.Module):
    """Patches, positions and the division into windows, for any height and width; takes the library's tensors over.

    The library cuts windows as if the picture were square: with another ratio most patches end up at wrong places of
    the feature map. Squares are cut as it does.
    """

    def __init__(self, original: Any, windows: int) -> None:
        super().__init__()
        self.cls_token: nn.Parameter = original.cls_token
        self.mask_token: nn.Parameter = original.mask_token.requires_grad_(False)  # of the backbone's own pretraining
        self.position_embeddings: nn.Parameter = original.position_embeddings
        self.patch_embeddings: nn.Module = original.patch_embeddings
        self.patch: int = original.patch_size
        self.windows = windows
        self._fixed: Tensor | None
        self.register_buffer("_fixed", None, persistent=False)

    def forward(self, pixels: Tensor) -> Tensor:
        """pixels: [B, 3, H, W]. Returns [B * windows**2, 1 + patches of a window, width]."""
        height, width = pixels.shape[-2] // self.patch, pixels.shape[-1] // self.patch
        tokens = self.patch_embeddings(pixels)
        table = self.positions(height, width) if self._fixed is None else self._fixed
        tokens = tokens + table[:, 1:]
        side = self.windows
        if side > 1:
            tokens = tokens.view(-1, side, height // side, side, width // side, tokens.shape[-1]).transpose(2, 3)
            tokens = tokens.reshape(-1, (height // side) * (width // side), tokens.shape[-1])
        whole = (self.cls_token + table[:, :1]).expand(tokens.shape[0], -1, -1)
        return torch.cat((whole, tokens), dim=1)

    def positions(self, height: int, width: int) -> Tensor:
        """The table for a grid of patches, [1, 1 + height * width, C]: the learned one, resampled where the grid is
        another."""
        return resampled(self.position_embeddings, height, width)

    @torch.no_grad()
    def fix_size(self, height: int, width: int) -> None:
        """height, width: in patches. The table becomes a constant: a graph for one size needs no resampling, for which
        some formats have no operator."""
        self._fixed = self.positions(height, width).clone()


def resampled(table: Tensor, height: int, width: int) -> Tensor:
    """table: [1, 1 + side**2, C], the first row for the whole picture. Returns [1, 1 + height * width, C]; bicubic with
    antialiasing, as the original does."""
    side = math.isqrt(table.shape[1] - 1)
    if (height, width) == (side, side):
        return table
    grid = table[:, 1:].reshape(1, side, side, -1).permute(0, 3, 1, 2).float()
    grid = F.interpolate(grid, size=(height, width), mode="bicubic", align_corners=False, antialias=True)
    return torch.cat((table[:, :1], grid.flatten(2).transpose(1, 2).to(table)), dim=1)


@torch.no_grad()
def reset_parameters(network: Any) -> None:
    """Start values for a training without pretrained weights: the original's (Robinson et al. 2025), where the library
    draws nearly everything from a normal of 0.02.

    The transformer of the backbone keeps the library's: a truncated normal of 0.02 is what such backbones start from.
    """
    detection = detection_part(network)
    model = detection.model
    for part in (model.backbone.projector, model.decoder.ref_point_head, model.enc_output, model.enc_output_norm):
        _torch_defaults(part)
    for layer in model.decoder.layers:
        for matrix in (*layer.self_attn.parameters(), *layer.mlp.parameters()):
            nn.init.xavier_uniform_(matrix) if matrix.ndim > 1 else nn.init.zeros_(matrix)
    nn.init.normal_(model.query_feat.weight)
    nn.init.zeros_(model.reference_point_embed.weight)
    for head in (detection.bbox_embed, *model.enc_out_bbox_embed):
        _torch_defaults(head)
        reset_box_layer(head.layers[-1])
    for layer in (detection.class_embed, *model.enc_out_class_embed):
        reset_class_layer(layer)
    for name, part in network.named_children():
        if network is not detection and name != "model":
            _torch_defaults(part)


def _torch_defaults(part: nn.Module) -> None:
    for module in part.modules():
        reset = getattr(module, "reset_parameters", None)
        if callable(reset):
            reset()
