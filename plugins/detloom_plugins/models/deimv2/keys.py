"""Names of published files of DEIMv2: those of the original repository, which its files on the hub have as well."""

from __future__ import annotations

from detloom_plugins.models._d_fine.keys import DECODER
from detloom_plugins.models._detr.keys import Renames

CONVOLUTIONS: Renames = (
    (r"^backbone\.stem\.", "model.conv_encoder.model.embedder."),
    (r"^backbone\.stages\.", "model.conv_encoder.model.encoder.stages."),
    (r"^(model\.conv_encoder\.model\..*)\.conv\.weight$", r"\1.convolution.weight"),
    (r"^(model\.conv_encoder\.model\..*)\.bn\.", r"\1.normalization."),
)
TRANSFORMER: Renames = (
    (r"^backbone\.dinov3\.(?:_model\.)?", "model.conv_encoder.backbone."),
    (r"(conv_encoder\.backbone)\.patch_embed\.proj\.", r"\1.embeddings.patch_embeddings."),
    (r"(conv_encoder\.backbone)\.(cls_token|mask_token)$", r"\1.embeddings.\2"),
    (r"(conv_encoder\.backbone)\.storage_tokens$", r"\1.embeddings.register_tokens"),
    (r"(conv_encoder\.backbone)\.blocks\.", r"\1.model.layer."),
    (r"(conv_encoder\.backbone\..*)\.attn\.([qkv])_proj\.", r"\1.attention.\2_proj."),
    (r"(conv_encoder\.backbone\..*)\.attn\.proj\.", r"\1.attention.o_proj."),
    (r"(conv_encoder\.backbone\..*)\.mlp\.fc1\.", r"\1.mlp.up_proj."),
    (r"(conv_encoder\.backbone\..*)\.mlp\.fc2\.", r"\1.mlp.down_proj."),
    (r"(conv_encoder\.backbone\..*)\.mlp\.w1\.", r"\1.mlp.gate_proj."),
    (r"(conv_encoder\.backbone\..*)\.mlp\.w2\.", r"\1.mlp.up_proj."),
    (r"(conv_encoder\.backbone\..*)\.mlp\.w3\.", r"\1.mlp.down_proj."),
    (r"(conv_encoder\.backbone\..*)\.ls([12])\.gamma$", r"\1.layer_scale\2.lambda1"),
    # Convolutions beside the transformer: in lists whose first entry may be an activation.
    (r"^backbone\.sta\.stem\.0\.", "model.conv_encoder.spatial_tuning_adapter.stem_conv.conv."),
    (r"^backbone\.sta\.stem\.1\.", "model.conv_encoder.spatial_tuning_adapter.stem_conv.norm."),
    (r"^backbone\.sta\.conv2\.0\.", "model.conv_encoder.spatial_tuning_adapter.conv2.conv."),
    (r"^backbone\.sta\.conv2\.1\.", "model.conv_encoder.spatial_tuning_adapter.conv2.norm."),
    (r"^backbone\.sta\.conv([34])\.1\.", r"model.conv_encoder.spatial_tuning_adapter.conv\1.conv."),
    (r"^backbone\.sta\.conv([34])\.2\.", r"model.conv_encoder.spatial_tuning_adapter.conv\1.norm."),
    (r"^backbone\.convs\.(\d+)\.", r"model.conv_encoder.fusion_proj.\1.conv."),
    (r"^backbone\.norms\.(\d+)\.", r"model.conv_encoder.fusion_proj.\1.norm."),
)
ENCODER: Renames = (
    (r"^encoder\.encoder\.(\d+)\.", r"model.encoder.aifi.\1."),
    (r"(\.layers\.\d+)\.linear1\.", r"\1.mlp.layers.0."),
    (r"(\.layers\.\d+)\.linear2\.", r"\1.mlp.layers.1."),
    (r"^(model\.encoder\.aifi\..*)\.norm1\.", r"\1.self_attn_layer_norm."),
    (r"^(model\.encoder\.aifi\..*)\.norm2\.", r"\1.final_layer_norm."),
    (r"^encoder\.((?:fpn|pan)_blocks?(?:\.\d+)?)\.cv1\.", r"model.encoder.\1.conv1."),
    (r"^encoder\.((?:fpn|pan)_blocks?(?:\.\d+)?)\.cv4\.", r"model.encoder.\1.conv2."),
    (r"^encoder\.((?:fpn|pan)_blocks?(?:\.\d+)?)\.cv2\.0\.", r"model.encoder.\1.csp_rep1."),
    (r"^encoder\.((?:fpn|pan)_blocks?(?:\.\d+)?)\.cv2\.1\.", r"model.encoder.\1.csp_rep1.conv2."),
    (r"^encoder\.((?:fpn|pan)_blocks?(?:\.\d+)?)\.cv3\.0\.", r"model.encoder.\1.csp_rep2."),
    (r"^encoder\.((?:fpn|pan)_blocks?(?:\.\d+)?)\.cv3\.1\.", r"model.encoder.\1.csp_rep2.conv2."),
    (r"^encoder\.(downsample_convs\.\d+)\.0\.cv(\d)\.", r"model.encoder.\1.conv\2."),
    (r"^encoder\.down_sample([12])\.1\.", r"model.encoder.down_conv\1.conv."),
    (r"^encoder\.down_sample([12])\.2\.", r"model.encoder.down_conv\1.norm."),
    (r"^encoder\.bi_fusion\.cv\.", "model.encoder.bi_fusion_conv."),
)
LITE: Renames = ((r"^encoder\.input_proj\.", "model.encoder.input_proj."),)
"""A lite encoder has the projections itself; a whole one is given projected maps."""
WHOLE: Renames = ((r"^encoder\.input_proj\.", "model.conv_encoder.encoder_input_proj."),)

LAYERS: Renames = (
    (r"^encoder\.", "model.encoder."),
    (r"\.self_attn\.out_proj\.", ".self_attn.o_proj."),
    (r"(\.layers\.\d+)\.norm2\.scale$", r"\1.encoder_attn_layer_norm.weight"),
    (r"(\.layers\.\d+)\.norm1\.scale$", r"\1.self_attn_layer_norm.weight"),
    (r"(\.layers\.\d+)\.norm3\.scale$", r"\1.final_layer_norm.weight"),
    (r"\.gateway\.norm\.scale$", ".gateway.norm.weight"),
    (r"\.swish_ffn\.w1\.", ".mlp.gate_proj."),
    (r"\.swish_ffn\.w2\.", ".mlp.up_proj."),
    (r"\.swish_ffn\.w3\.", ".mlp.down_proj."),
    (r"^(class_embed|bbox_embed)\.", r"model.decoder.\1."),
)


ONE_HEAD: Renames = ((r"^model\.decoder\.bbox_embed\.\d+\.", "model.decoder.bbox_embed.0."),)
"""All layers of a lite decoder have the same box head, and some files hold it once a layer."""


def renames(lite: bool) -> Renames:
    return (
        *CONVOLUTIONS,
        *TRANSFORMER,
        *ENCODER,
        *(LITE if lite else WHOLE),
        *LAYERS,
        *DECODER,
        *(ONE_HEAD if lite else ()),
    )
