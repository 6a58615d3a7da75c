# ruff: noqa: TID253
"""HGNetV2 as the library configures it, and start values of decoders that predict distributions."""

from __future__ import annotations

from types import ModuleType
from typing import Any

import torch
from torch import nn

from detloom_plugins.models._detr.network import reset_box_layer, reset_parameters

from .backbones import Backbone


def made_trainable(network: Any) -> nn.Module:
    """The library holds the decoder's heads under two names (averaging or saving them twice would undo itself), and two
    constants as parameters that no optimizer may have."""
    del network.class_embed, network.bbox_embed
    decoder = network.model.decoder
    for name in ("up", "reg_scale"):
        value = getattr(decoder, name).detach().clone()
        delattr(decoder, name)
        decoder.register_buffer(name, value)
    trainable: nn.Module = network
    return trainable


def backbone_config(library: ModuleType, backbone: Backbone, levels: int) -> Any:
    """levels: how many of the last stages hand out their maps."""
    stages = len(backbone.outputs)
    return library.HGNetV2Config(
        depths=[backbone.layers] * stages,
        hidden_sizes=list(backbone.outputs),
        stem_channels=list(backbone.stem),
        stage_in_channels=list(backbone.inputs),
        stage_mid_channels=list(backbone.middle),
        stage_out_channels=list(backbone.outputs),
        stage_num_blocks=list(backbone.blocks),
        stage_downsample=[stage > 0 for stage in range(stages)],
        stage_downsample_strides=[2] * stages,
        stage_light_block=[stage > 1 for stage in range(stages)],
        stage_kernel_size=list(backbone.kernels),
        stage_numb_of_layers=[backbone.layers] * stages,
        use_learnable_affine_block=backbone.affine,
        out_indices=list(range(stages - levels + 1, stages + 1)),
    )


@torch.no_grad()
def reset_network(network: Any) -> None:
    """Start values of everything but the class layers: all boxes begin as their anchors, gates half open, and the
    quality of a distribution changes no score (as the original begins)."""
    reset_parameters(network)
    model = network.model
    heads = [model.enc_bbox_head, model.decoder.pre_bbox_head, *model.decoder.bbox_embed]
    heads += [quality.reg_conf for quality in model.decoder.lqe_layers]
    for head in heads:
        reset_box_layer(head.layers[-1])
    for layer in model.decoder.layers:
        if layer.gateway is not None:
            reset_box_layer(layer.gateway.gate)
