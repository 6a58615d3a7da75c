# ruff: noqa: TID253
"""Names of weights: of the original package, turned into the library's and back, and of older files of the library."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping

import torch
from torch import Tensor

from detloom_plugins.models._detr.keys import Renames, renamed, split_attention

from .network import resampled

ORIGINAL = ("backbone.0.", "transformer.", "refpoint_embed.")
"""What the names of the original package begin with."""

KEYPOINTS = "_kp_active_mask"
"""No weight: what the original package keeps for its models of keypoints, empty for all others."""

FROM_ORIGINAL: Renames = (
    (r"^backbone\.0\.encoder\.encoder\.", "model.backbone.backbone."),
    (r"^backbone\.0\.projector\.stages\.0\.0\.", "model.backbone.projector.projector_layer."),
    (r"^backbone\.0\.projector\.stages\.0\.1\.", "model.backbone.projector.layer_norm."),
    (r"\bprojector_layer\.m\.(\d+)\.", r"projector_layer.bottlenecks.\1."),
    (r"(\bprojector_layer\..*)cv([12])\.conv\.", r"\1conv\2.conv."),
    (r"(\bprojector_layer\..*)cv([12])\.bn\.", r"\1conv\2.norm."),
    (r"^transformer\.decoder\.norm\.", "model.decoder.layernorm."),
    (r"^transformer\.", "model."),
    (r"^refpoint_embed\.", "model.reference_point_embed."),
    (r"^query_feat\.", "model.query_feat."),
    (r"(decoder\.layers\.\d+)\.norm1\.", r"\1.self_attn_layer_norm."),
    (r"(decoder\.layers\.\d+)\.norm2\.", r"\1.cross_attn_layer_norm."),
    (r"(decoder\.layers\.\d+)\.norm3\.", r"\1.layer_norm."),
    (r"(decoder\.layers\.\d+)\.linear([12])\.", r"\1.mlp.fc\2."),
    (r"^segmentation_head\.query_features_block\.layers\.0\.", "query_features_block.mlp.fc1."),
    (r"^segmentation_head\.query_features_block\.layers\.2\.", "query_features_block.mlp.fc2."),
    (r"^segmentation_head\.query_features_block\.norm_in\.", "query_features_block.norm."),
    (r"^segmentation_head\.blocks\.(\d+)\.norm\.", r"blocks.\1.layernorm."),
    (r"^segmentation_head\.blocks\.(\d+)\.dwconv\.", r"blocks.\1.depthwise_conv."),
    (r"^segmentation_head\.blocks\.(\d+)\.pwconv1\.", r"blocks.\1.pointwise_conv."),
    (r"^segmentation_head\.bias$", "segmentation_bias"),
    (r"^segmentation_head\.", ""),
)

FROM_OLDER: Renames = (
    (r"\.attention\.attention\.query\.", ".attention.q_proj."),
    (r"\.attention\.attention\.key\.", ".attention.k_proj."),
    (r"\.attention\.attention\.value\.", ".attention.v_proj."),
    (r"\.attention\.output\.dense\.", ".attention.o_proj."),
    (r"\.self_attn\.out_proj\.", ".self_attn.o_proj."),
)
"""Names that the original and older files of the library have in common."""

_TABLE = "backbone.backbone.embeddings.position_embeddings"
_QUERIES = ("query_feat.weight", "reference_point_embed.weight")
_OF_GROUP = re.compile(r"\.(enc_output|enc_output_norm|enc_out_class_embed|enc_out_bbox_embed)\.(\d+)\.")


def from_original(state: Mapping[str, Tensor], *, masks: bool) -> dict[str, Tensor]:
    """Names of the original package become the library's; others stay. masks: the network is a segmenter, whose names
    wrap those of the detector once more."""
    if not any(name.startswith(ORIGINAL) for name in state):
        return dict(state)
    return _library_named({name: tensor for name, tensor in state.items() if name != KEYPOINTS}, masks)


def to_original(state: Mapping[str, Tensor], own: Mapping[str, Tensor], *, masks: bool) -> dict[str, Tensor]:
    """The way back. own: a network of the original package, whose names those of the library become; others stay."""
    left = dict(state)
    out: dict[str, Tensor] = {}
    for name, tensor in own.items():
        # Torch's attention has one tensor where the library has three.
        parts = list(_library_named(renamed(split_attention({name: tensor}), FROM_OLDER), masks))
        if all(part in left for part in parts):
            taken = [left.pop(part) for part in parts]
            out[name] = taken[0] if len(taken) == 1 else torch.cat(taken)
    return out | left


def _library_named(state: Mapping[str, Tensor], masks: bool) -> dict[str, Tensor]:
    head = {name: tensor for name, tensor in state.items() if name.startswith("segmentation_head.")}
    body = renamed({name: tensor for name, tensor in state.items() if name not in head}, FROM_ORIGINAL)
    inside = "model." if masks else ""
    return {**{f"{inside}{name}": tensor for name, tensor in body.items()}, **renamed(head, FROM_ORIGINAL)}


def fitted(state: Mapping[str, Tensor], own: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Tensors whose size is a choice and not an architecture, made to fit ours.

    Fewer queries or groups than the file has: the first of each. Another table of positions (a training at another
    resolution): resampled.
    """
    groups = 1 + max((int(match[2]) for name in state if (match := _OF_GROUP.search(name))), default=0)
    kept = 1 + max((int(match[2]) for name in own if (match := _OF_GROUP.search(name))), default=0)
    out: dict[str, Tensor] = {}
    for name, tensor in state.items():
        match = _OF_GROUP.search(name)
        if match and int(match[2]) >= kept:
            continue
        other = name in own and tensor.shape != own[name].shape
        out[name] = _refitted(name, tensor, own[name], (groups, kept)) if other else tensor
    return out


def _refitted(name: str, tensor: Tensor, own: Tensor, groups: tuple[int, int]) -> Tensor:
    """groups: of the file and of ours. What cannot be made to fit stays as it is and is reported as of another
    shape."""
    if name.endswith(_TABLE) and tensor.ndim == 3 and tensor.shape[2] == own.shape[2]:
        side, wanted = math.isqrt(tensor.shape[1] - 1), math.isqrt(own.shape[1] - 1)
        return resampled(tensor, wanted, wanted) if side * side == tensor.shape[1] - 1 else tensor
    if name.endswith(_QUERIES) and len(tensor) % groups[0] == 0:
        rows = torch.unflatten(tensor, 0, (groups[0], -1))
        queries = len(own) // groups[1]
        if groups[0] >= groups[1] and rows.shape[1] >= queries:
            return rows[: groups[1], :queries].flatten(0, 1)
    return tensor
