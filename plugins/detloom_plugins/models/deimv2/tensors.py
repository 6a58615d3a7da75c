"""Tensors of published files that the library divides otherwise."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

UNUSED = (".rope_embed.periods", ".qkv.bias_mask", ".dinov3.mask_token")
"""Constants, and what only the pretraining of the transformer needed."""


def plain_tensors(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The original keeps query, key and value of a transformer in one tensor, and gate and input of a gated layer too.

    A mask beside the bias says that keys have none: their part of it was never trained and is left out.
    """
    out: dict[str, Tensor] = {}
    for name, tensor in state.items():
        if name.endswith(UNUSED):
            continue
        if ".attn.qkv." in name:
            masked = name.endswith(".bias") and f"{name}_mask" in state
            parts = zip("qkv", tensor.chunk(3), strict=True)
            out.update({name.replace("qkv.", f"{p}_proj."): rows for p, rows in parts if not (masked and p == "k")})
        elif ".swish_ffn.w12." in name:
            gate, value = tensor.chunk(2)
            out[name.replace("w12.", "w1.")], out[name.replace("w12.", "w2.")] = gate, value
        else:
            out[name] = tensor
    return out
