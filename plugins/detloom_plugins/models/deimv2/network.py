# ruff: noqa: TID253
"""The library's network of DEIMv2, put right where it is not the published one.

The library (transformers 5.23) differs from the original in parts that no weight tells: it puts a linear layer and a
norm before the choice of queries, rectifies in heads that were trained with SiLU and uses GELU in the gated layers of
x, leaves out the bias of the keys and normalises the last output of the transformers of s and m. With published weights
each of these gives other boxes. `corrected` and `transformer_config` put them right; the decoder's own is in `decoder`.
"""

from __future__ import annotations

from collections.abc import Iterator
from types import ModuleType
from typing import Any

import torch
from torch import nn

from detloom_plugins.models._d_fine.network import backbone_config as convolutions
from detloom_plugins.models._d_fine.network import made_trainable

from .variants import Variant, VisionTransformer


def library_network(library: ModuleType, variant: Variant, queries: int, classes: int) -> nn.Module:
    network = library.Deimv2ForObjectDetection(
        library.Deimv2Config(**network_config(library, variant, queries, classes))
    )
    return corrected(made_trainable(network), variant)


def network_config(library: ModuleType, variant: Variant, queries: int, classes: int) -> dict[str, Any]:
    """Arguments of the library's configuration."""
    levels, backbone = variant.levels, variant.backbone
    if isinstance(backbone, VisionTransformer):
        body, inputs = transformer_config(library, backbone), [variant.width] * levels
    else:
        taken = 1 if variant.lite else levels
        body, inputs = convolutions(library, backbone, taken), list(backbone.outputs[-taken:])
    return {
        "backbone_config": body,
        "spatial_tuning_adapter_inplanes": getattr(backbone, "detail", 16),
        "num_labels": classes,
        "num_queries": queries,
        # The embedding of classes is always there, so that every file fits; the noise itself is ours.
        "num_denoising": 1,
        # Frozen norms are the detector's own doing (`freeze_norm`): the names of the weights do not depend on it.
        "freeze_backbone_batch_norms": False,
        "num_feature_levels": levels,
        "feat_strides": list(variant.strides),
        "encoder_type": "lite" if variant.lite else "hybrid",
        "encoder_in_channels": inputs,
        "encoder_hidden_dim": variant.width,
        "encoder_ffn_dim": variant.feed_forward,
        "encoder_attention_heads": variant.heads,
        "encoder_layers": 0 if variant.lite else 1,
        "encode_proj_layers": [levels - 1],
        "encoder_has_trailing_conv": not isinstance(backbone, VisionTransformer),
        "hidden_expansion": variant.expansion,
        "depth_mult": variant.depth,
        "d_model": variant.width,
        "decoder_in_channels": [variant.width] * levels,
        "decoder_ffn_dim": variant.decoder_feed_forward,
        "decoder_layers": variant.decoder_layers,
        "decoder_attention_heads": variant.heads,
        "decoder_n_points": list(variant.points),
        "decoder_activation_function": "silu",
        "share_bbox_head": variant.lite,
        "use_gateway": not variant.lite,
    }


def transformer_config(library: ModuleType, backbone: VisionTransformer) -> Any:
    """The small ones have neither registers nor the scales and norms of DINOv3, but a bias of the keys."""
    small = backbone.registers == 0
    return library.DINOv3ViTConfig(
        hidden_size=backbone.width,
        num_attention_heads=backbone.heads,
        num_hidden_layers=backbone.layers,
        intermediate_size=backbone.feed_forward,
        use_gated_mlp=backbone.gated,
        hidden_act="silu" if backbone.gated else "gelu",
        num_register_tokens=backbone.registers,
        layerscale_value=1.0 if small else 1e-5,
        pos_embed_rescale=None if small else 2.0,
        key_bias=small,
        layer_norm_eps=1e-6 if small else 1e-5,
        apply_layernorm=not small,
        out_indices=list(backbone.stages),
        reshape_hidden_states=True,
    )


def corrected(network: Any, variant: Variant) -> nn.Module:
    model = network.model
    model.enc_output = nn.Identity()
    for head in _heads(model):
        head.act = nn.SiLU()
    if variant.lite:
        model.decoder.bbox_embed = OneHead(model.decoder.bbox_embed[0])
    if isinstance(variant.backbone, VisionTransformer):
        _without_pretraining(model.conv_encoder.backbone, small=variant.backbone.registers == 0)
    right: nn.Module = network
    return right


def _heads(model: Any) -> Iterator[Any]:
    yield model.enc_bbox_head
    yield model.decoder.pre_bbox_head
    yield from model.decoder.bbox_embed
    for quality in model.decoder.lqe_layers:
        yield quality.reg_conf


class OneHead(nn.ModuleList):
    """One box head for all decoder layers, held once: averaging or saving it several times would undo itself."""

    def __init__(self, head: nn.Module) -> None:
        super().__init__([head])

    def __getitem__(self, index: Any) -> Any:
        return super().__getitem__(0)


def _without_pretraining(transformer: Any, small: bool) -> None:
    """Take out what only its own training needs, and from the small ones what they never had."""
    del transformer.embeddings.mask_token
    if not small:
        return
    transformer.norm = nn.Identity()
    for layer in transformer.model.layer:
        layer.layer_scale1, layer.layer_scale2 = nn.Identity(), nn.Identity()
    none = transformer.embeddings.register_tokens.detach().new_zeros(1, 0, transformer.config.hidden_size)
    del transformer.embeddings.register_tokens
    transformer.embeddings.register_buffer("register_tokens", none, persistent=False)


@torch.no_grad()
def reset_transformer(transformer: Any) -> None:
    """Start values of a transformer without pretraining: Touvron et al. 2021, as the library has them; what another
    reset made of its linear layers is taken back."""
    for module in transformer.modules():
        if isinstance(module, (nn.Linear, nn.Conv2d)):
            nn.init.trunc_normal_(module.weight, std=0.02)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
