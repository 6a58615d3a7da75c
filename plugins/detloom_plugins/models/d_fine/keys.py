"""Names of published files of D-FINE: those on the hub and those of the original repository."""

from __future__ import annotations

from detloom_plugins.models._d_fine.keys import DECODER
from detloom_plugins.models._detr.keys import Renames

HUB_RENAMES: Renames = (
    (r"out_proj", "o_proj"),
    (r"layers\.(\d+)\.fc1\b", r"layers.\1.mlp.layers.0"),
    (r"layers\.(\d+)\.fc2\b", r"layers.\1.mlp.layers.1"),
    (r"encoder\.encoder\.(\d+)\.layers", r"encoder.aifi.\1.layers"),
    (r"^(class_embed|bbox_embed)\.", r"model.decoder.\1."),
)
"""The hub's files were written by version 4 of the library, and name the decoder's heads twice."""

BACKBONE: Renames = (
    (r"^backbone\.stem\.", "model.backbone.model.embedder."),
    (r"^backbone\.stages\.", "model.backbone.model.encoder.stages."),
    (r"^(model\.backbone\..*)\.conv\.weight$", r"\1.convolution.weight"),
    (r"^(model\.backbone\..*)\.bn\.", r"\1.normalization."),
)
ENCODER: Renames = (
    (r"^encoder\.input_proj\.(\d+)\.conv\.", r"model.encoder_input_proj.\1.0."),
    (r"^encoder\.input_proj\.(\d+)\.norm\.", r"model.encoder_input_proj.\1.1."),
    (r"^encoder\.encoder\.(\d+)\.", r"model.encoder.aifi.\1."),
    (r"(\.layers\.\d+)\.linear1\.", r"\1.mlp.layers.0."),
    (r"(\.layers\.\d+)\.linear2\.", r"\1.mlp.layers.1."),
    (r"^(model\.encoder\.aifi\..*)\.norm1\.", r"\1.self_attn_layer_norm."),
    (r"^(model\.encoder\.aifi\..*)\.norm2\.", r"\1.final_layer_norm."),
    (r"^encoder\.((?:fpn|pan)_blocks\.\d+)\.cv([14])\.", r"model.encoder.\1.conv\2."),
    (r"^encoder\.((?:fpn|pan)_blocks\.\d+)\.cv2\.0\.", r"model.encoder.\1.csp_rep1."),
    (r"^encoder\.((?:fpn|pan)_blocks\.\d+)\.cv2\.1\.", r"model.encoder.\1.conv2."),
    (r"^encoder\.((?:fpn|pan)_blocks\.\d+)\.cv3\.0\.", r"model.encoder.\1.csp_rep2."),
    (r"^encoder\.((?:fpn|pan)_blocks\.\d+)\.cv3\.1\.", r"model.encoder.\1.conv3."),
    (r"^encoder\.(downsample_convs\.\d+)\.0\.cv(\d)\.", r"model.encoder.\1.conv\2."),
    (r"^encoder\.", "model.encoder."),
    (r"\.self_attn\.out_proj\.", ".self_attn.o_proj."),
)
ORIGINAL_RENAMES: Renames = (*BACKBONE, *ENCODER, *DECODER)
"""Checkpoints of the original repository (Peterande/D-FINE). It keeps two constants of the decoder twice."""
