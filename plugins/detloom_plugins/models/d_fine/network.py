# ruff: noqa: TID253
"""The library's network of D-FINE."""

from __future__ import annotations

from types import ModuleType
from typing import Any

from torch import nn

from detloom_plugins.models._d_fine.network import backbone_config, made_trainable

from .variants import Variant


def library_network(library: ModuleType, variant: Variant, queries: int, classes: int) -> nn.Module:
    network: nn.Module = library.DFineForObjectDetection(
        library.DFineConfig(**network_config(library, variant, queries, classes))
    )
    return made_trainable(network)


def network_config(library: ModuleType, variant: Variant, queries: int, classes: int) -> dict[str, Any]:
    """Arguments of the library's configuration."""
    levels = variant.levels
    return {
        "backbone_config": backbone_config(library, variant.backbone, levels),
        "num_labels": classes,
        "num_queries": queries,
        # The embedding of classes is always there, so that every file fits; the noise itself is ours.
        "num_denoising": 1,
        # Frozen norms are the detector's own doing (`freeze_norm`): the names of the weights do not depend on it.
        "freeze_backbone_batch_norms": False,
        "num_feature_levels": levels,
        "feat_strides": list(variant.strides),
        "encoder_in_channels": list(variant.backbone.outputs[-levels:]),
        "encoder_hidden_dim": variant.width,
        "encoder_ffn_dim": variant.feed_forward,
        "encoder_attention_heads": variant.heads,
        "encode_proj_layers": [levels - 1],
        "hidden_expansion": variant.expansion,
        "depth_mult": variant.depth,
        "d_model": variant.decoder_width,
        "decoder_in_channels": [variant.width] * levels,
        "decoder_ffn_dim": variant.decoder_feed_forward,
        "decoder_layers": variant.decoder_layers,
        "decoder_attention_heads": variant.heads,
        "decoder_n_points": list(variant.points),
        "reg_scale": variant.curvature,
    }
