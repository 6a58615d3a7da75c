# ruff: noqa: TID253
"""Lookahead (Zhang et al. 2019): slow weights that move, every k steps, part of the way to those of the optimizer."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn


class Lookahead:
    """Algorithm 1 of the paper: after `steps` updates, slow += alpha * (fast - slow), and fast = slow.

    Only trained parameters have slow weights; statistics of batch norms are those of the fast ones. Parameters that
    are thawed later start where they were frozen.
    """

    def __init__(self, model: nn.Module, parameters: set[int], steps: int = 5, alpha: float = 0.5) -> None:
        """parameters: ids of those that are ever trained."""
        self.steps, self.alpha = steps, alpha
        self.updates = 0
        named = [(name, tensor) for name, tensor in model.named_parameters() if id(tensor) in parameters]
        self._names = [name for name, _ in named]
        self._fast: list[Tensor] = [tensor.detach() for _, tensor in named]
        self._slow = [tensor.clone() for tensor in self._fast]

    @torch.no_grad()
    def update(self) -> None:
        """After each optimizer step."""
        self.updates += 1
        if self.updates % self.steps:
            return
        torch._foreach_lerp_(self._slow, self._fast, self.alpha)  # pyright: ignore[reportPrivateImportUsage]
        torch._foreach_copy_(self._fast, self._slow)  # pyright: ignore[reportPrivateImportUsage]

    @contextlib.contextmanager
    def applied(self, model: nn.Module) -> Iterator[None]:
        """The model with the slow weights, for the length of a block."""
        del model  # the one that was given at first
        with torch.no_grad():
            kept = [tensor.clone() for tensor in self._fast]
            torch._foreach_copy_(self._fast, self._slow)  # pyright: ignore[reportPrivateImportUsage]
        try:
            yield
        finally:
            with torch.no_grad():
                torch._foreach_copy_(self._fast, kept)  # pyright: ignore[reportPrivateImportUsage]

    def state_dict(self) -> dict[str, Any]:
        slow = {name: tensor.clone() for name, tensor in zip(self._names, self._slow, strict=True)}
        return {"updates": self.updates, "slow": slow}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Raises KeyError when the state belongs to another model."""
        for name, tensor in zip(self._names, self._slow, strict=True):
            tensor.copy_(state["slow"][name])
        self.updates = int(state["updates"])
