# ruff: noqa: TID253
"""The decoder of DEIMv2, walked over the library's modules.

The original embeds the places of the queries once, before the first layer; the library, which takes its loop from
D-FINE, does so before each. With published weights that gives other boxes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from detloom_plugins.models._d_fine.distribution import bin_places, boxes_of_offsets

LARGEST = 11.5129
"""log(1e5): where the original's inverse of the sigmoid ends."""


@dataclass(slots=True)
class DecoderOutput:
    """Named as the library's output: [B, L, Q, ...], with one entry more of logits and boxes in training, from the
    ordinary head before the first refinement."""

    intermediate_logits: Tensor
    intermediate_reference_points: Tensor
    intermediate_predicted_corners: Tensor
    initial_reference_points: Tensor


def run_layers(
    decoder: Any,
    *,
    inputs_embeds: Tensor,
    reference_points: Tensor,
    encoder_hidden_states: Tensor,
    encoder_attention_mask: Tensor | None,
    spatial_shapes: Tensor,
    spatial_shapes_list: list[tuple[int, int]],
    level_start_index: Tensor | None,
) -> DecoderOutput:
    """decoder: the library's; the rest as its `forward` takes them. reference_points: [B, Q, 4] before the sigmoid."""
    boxes = reference_points.sigmoid()
    places = decoder.query_pos_head(boxes).clamp(min=-10, max=10)
    bins = bin_places(decoder.max_num_bins, decoder.up, decoder.reg_scale)
    logits, found, sides = [], [], []
    states, before, corners = inputs_embeds, torch.zeros_like(inputs_embeds), torch.zeros(())
    first = initial = boxes
    last = len(decoder.layers) - 1
    for i, layer in enumerate(decoder.layers):
        states = layer(
            states,
            position_embeddings=places,
            reference_points=boxes.unsqueeze(2),
            spatial_shapes=spatial_shapes,
            spatial_shapes_list=spatial_shapes_list,
            encoder_hidden_states=encoder_hidden_states,
            encoder_attention_mask=encoder_attention_mask,
        )
        if i == 0:
            first = (decoder.pre_bbox_head(states) + reference_points.clamp(-LARGEST, LARGEST)).sigmoid()
            initial = first.detach()
            corners = decoder.bbox_embed[0](states)
        else:
            corners = decoder.bbox_embed[i](states + before) + corners
        refined = boxes_of_offsets(initial, decoder.integral(corners, bins), decoder.reg_scale)
        if decoder.training or i == last:
            scores = decoder.class_embed[i](states)
            if i == 0:
                logits.append(scores)
                found.append(first)
            logits.append(decoder.lqe_layers[i](scores, corners))
            found.append(refined)
            sides.append(corners)
        before, boxes = states.detach(), refined.detach()
    return DecoderOutput(torch.stack(logits, 1), torch.stack(found, 1), torch.stack(sides, 1), initial.unsqueeze(1))
