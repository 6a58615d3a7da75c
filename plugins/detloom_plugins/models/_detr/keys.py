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
