# ruff: noqa: TID253
"""The RT-DETR line (RT-DETR, RT-DETRv2, D-FINE, DEIMv2): encoder, choice of queries, decoder.

The library's own forward makes its denoising queries by reading the targets on the host and keeps its anchors in the
precision of the features (16 bits cannot tell neighbouring cells apart). This walks over the same modules.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from .denoising import NoisyQueries, attention_mask

GRID_SIZE = 0.05
"""Side of the anchors of the finest level, as a fraction of the image; doubled from level to level."""


@dataclass(slots=True)
class TwoStage:
    """decoder: the library's decoder output, whose queries are the noisy ones (if any) and then the chosen ones.
    logits: [B, Q, C] and boxes: [B, Q, 4] cxcywh in 0..1 of the encoder, for the chosen queries. memory: flattened
    features [B, N, E]; references: where the decoder began, before the sigmoid."""

    decoder: Any
    logits: Tensor
    boxes: Tensor
    memory: Tensor
    references: Tensor


def two_stage(model: Any, features: Sequence[Tensor], noisy: NoisyQueries | None) -> TwoStage:
    """model: the library's `RTDetrModel` or one of the same build; features: maps of its backbone, fine to coarse."""
    pairs = zip(model.encoder_input_proj, features, strict=False)
    maps = [with_own_layout(layer(feature)) for layer, feature in pairs]
    return decoded(model, list(model.encoder(maps).last_hidden_state), noisy)


def decoded(
    model: Any, encoded: Sequence[Tensor], noisy: NoisyQueries | None, decoder: Callable[..., Any] | None = None
) -> TwoStage:
    """encoded: maps of the encoder, fine to coarse. decoder: called as the library's; None: the model's."""
    sources = [with_own_layout(source) for source in decoder_sources(model, encoded)]
    shapes = [(int(source.shape[-2]), int(source.shape[-1])) for source in sources]
    memory = torch.cat([source.flatten(2).transpose(1, 2) for source in sources], 1)
    chosen = choose_queries(model, memory, shapes)
    content, references, mask = chosen.content, chosen.references, None
    if noisy is not None:
        content = torch.cat((noisy.content.to(content), content), 1)
        references = torch.cat((noisy.reference.to(references), references), 1)
        mask = attention_mask(noisy, chosen.content.shape[1])
    output = (decoder or model.decoder)(
        inputs_embeds=content,
        encoder_hidden_states=memory,
        encoder_attention_mask=mask,
        reference_points=references.detach(),
        # Only shapes are read of it, from the list: numbers would have to be copied to the device.
        spatial_shapes=torch.empty(len(shapes), 2, dtype=torch.long, device=memory.device),
        spatial_shapes_list=shapes,
        level_start_index=None,
    )
    return TwoStage(output, chosen.logits, chosen.references.sigmoid(), memory, references)


def decoder_sources(model: Any, encoded: Sequence[Tensor]) -> list[Tensor]:
    """Feature maps as the decoder takes them; levels beyond the encoder's are made from its coarsest one."""
    projections = list(model.decoder_input_proj)
    sources = [layer(feature) for layer, feature in zip(projections, encoded, strict=False)]
    sources += [layer(encoded[-1]) for layer in projections[len(encoded) : model.config.num_feature_levels]]
    return sources


def with_own_layout(maps: Tensor) -> Tensor:
    """The same maps, whose gradient will lie in memory as they do.

    Flattened to a sequence they get a transposed gradient, and for one image torch's batch norm misreads that on the
    processor (2.13: its gradients are wrong, without a word, when the batch is 1 and its stride is arbitrary).
    """
    if maps.requires_grad and maps.device.type == "cpu" and maps.shape[0] == 1:
        shape, stride = maps.shape, maps.stride()
        maps.register_hook(lambda given: given.new_empty_strided(shape, stride).copy_(given))  # type: ignore[no-untyped-call]
    return maps


@dataclass(slots=True)
class Chosen:
    """content: [B, Q, E], without gradient; references: [B, Q, 4] before the sigmoid; logits: [B, Q, C]."""

    content: Tensor
    references: Tensor
    logits: Tensor


def choose_queries(model: Any, memory: Tensor, shapes: Sequence[tuple[int, int]]) -> Chosen:
    """The places of the feature maps with the best class scores (Zhao et al. 2024, section 4.2).

    memory: [B, N, E]. A picture with fewer places than queries gives as many queries as it has places.
    """
    dtype = _weight_dtype(model.enc_score_head)
    anchors, inside = model.generate_anchors(tuple(shapes), grid_size=GRID_SIZE, device=memory.device, dtype=dtype)
    output = model.enc_output(inside.to(memory.dtype) * memory)
    logits = model.enc_score_head(output)
    count = min(model.config.num_queries, sum(height * width for height, width in shapes))
    best = logits.max(-1).values.topk(count, dim=1).indices.unsqueeze(-1)

    def take(values: Tensor) -> Tensor:
        return values.gather(1, best.expand(-1, -1, values.shape[-1]))

    content = take(output)
    # Boxes of the chosen places alone: the library computes those of all, 28 times as many at 640 px.
    references = model.enc_bbox_head(content).to(dtype) + take(anchors.expand(memory.shape[0], -1, -1))
    return Chosen(content.detach(), references, take(logits))


def _weight_dtype(layer: nn.Module) -> torch.dtype:
    """What boxes are computed in: 32 bits under autocast, 16 only in a network that was halved."""
    return next(layer.parameters()).dtype
