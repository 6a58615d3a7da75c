# ruff: noqa: TID253
"""Names of published files, turned into the names that the library gives its tensors today."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from torch import Tensor

Renames = Sequence[tuple[str, str]]
"""(pattern, replacement) of `re.sub`, applied in order to every name."""

HUB_RENAMES: Renames = (
    (r"out_proj", "o_proj"),
    (r"layers\.(\d+)\.fc([12])\b", r"layers.\1.mlp.fc\2"),
    (r"encoder\.encoder\.(\d+)\.layers", r"encoder.aifi.\1.layers"),
    (r"^(class_embed|bbox_embed)\.", r"model.decoder.\1."),
)
"""Files of RT-DETR and RT-DETRv2 on the hub were written by version 4 of the library; version 2 of the model also names
its heads twice, once outside the decoder."""

ORIGINAL_RENAMES: Renames = (
    # the backbone
    (r"^backbone\.conv1\.conv1_1\.", r"model.backbone.model.embedder.embedder.0."),
    (r"^backbone\.conv1\.conv1_2\.", r"model.backbone.model.embedder.embedder.1."),
    (r"^backbone\.conv1\.conv1_3\.", r"model.backbone.model.embedder.embedder.2."),
    (r"^backbone\.res_layers\.(\d+)\.blocks\.", r"model.backbone.model.encoder.stages.\1.layers."),
    (r"\.branch2a\.", ".layer.0."),
    (r"\.branch2b\.", ".layer.1."),
    (r"\.branch2c\.", ".layer.2."),
    (r"\.short\.conv\.(conv|norm)\.", r".shortcut.1.\1."),
    (r"\.short\.(conv|norm)\.", r".shortcut.\1."),
    (r"^(model\.backbone\..*)\.conv\.", r"\1.convolution."),
    (r"^(model\.backbone\..*)\.norm\.", r"\1.normalization."),
    # projections, a list of two layers in the one version and a named pair in the other
    (r"^(en|de)coder\.input_proj\.(\d+)\.(?:conv|0)\.", r"model.\1coder_input_proj.\2.0."),
    (r"^(en|de)coder\.input_proj\.(\d+)\.(?:norm|1)\.", r"model.\1coder_input_proj.\2.1."),
    (r"^decoder\.enc_output\.(?:proj|0)\.", "model.enc_output.0."),
    (r"^decoder\.enc_output\.(?:norm|1)\.", "model.enc_output.1."),
    # heads
    (r"^decoder\.dec_score_head\.", "model.decoder.class_embed."),
    (r"^decoder\.dec_bbox_head\.", "model.decoder.bbox_embed."),
    (r"^decoder\.(denoising_class_embed|enc_score_head|enc_bbox_head)\.", r"model.\1."),
    (r"^decoder\.query_pos_head\.", "model.decoder.query_pos_head."),
    # transformer layers
    (r"^encoder\.encoder\.(\d+)\.layers\.", r"model.encoder.aifi.\1.layers."),
    (r"^encoder\.(lateral_convs|fpn_blocks|downsample_convs|pan_blocks)\.", r"model.encoder.\1."),
    (r"^decoder\.decoder\.layers\.", "model.decoder.layers."),
    (r"\.norm1\.", ".self_attn_layer_norm."),
    (r"(aifi\..*)\.norm2\.", r"\1.final_layer_norm."),
    (r"(decoder\..*)\.norm2\.", r"\1.encoder_attn_layer_norm."),
    (r"\.norm3\.", ".final_layer_norm."),
    (r"\.linear([12])\.", r".mlp.fc\1."),
    (r"\.cross_attn\.", ".encoder_attn."),
    (r"\.num_points_scale$", ".n_points_scale"),
    (r"\.self_attn\.out_proj\.", ".self_attn.o_proj."),
)
"""Checkpoints of the original repository (lyuwenyu/RT-DETR, both versions)."""

COMPUTED = ("decoder.anchors", "decoder.valid_mask")
"""Tensors of the original repository that are no weights: we compute them for the size at hand."""


def split_attention(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Torch's attention keeps the projections of queries, keys and values in one tensor; the library has three."""
    out: dict[str, Tensor] = {}
    for name, tensor in state.items():
        prefix, packed, part = name.rpartition("in_proj_")
        if packed:
            rows = zip(("q", "k", "v"), tensor.chunk(3), strict=True)
            out.update({f"{prefix}{letter}_proj.{part}": rows_of for letter, rows_of in rows})
        else:
            out[name] = tensor
    return out


def without_computed(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: tensor for name, tensor in state.items() if name not in COMPUTED}


def renamed(state: Mapping[str, Tensor], renames: Renames) -> dict[str, Tensor]:
    """A name that two tensors would get (tied heads are stored twice) goes to the first."""
    out: dict[str, Tensor] = {}
    for name, tensor in state.items():
        out.setdefault(new_name(name, renames), tensor)
    return out


def new_name(name: str, renames: Renames) -> str:
    for pattern, replacement in renames:
        name = re.sub(pattern, replacement, name)
    return name


def without_prefix(state: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """The prefix taken off when every name has it (a detector's own state), else the same."""
    if all(name.startswith(prefix) for name in state):
        return {name.removeprefix(prefix): tensor for name, tensor in state.items()}
    return dict(state)
