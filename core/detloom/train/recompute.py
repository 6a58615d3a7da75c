# ruff: noqa: TID253
"""Gradient checkpointing (Chen et al. 2016): activations inside chosen modules are computed again in the backward pass
instead of being kept. Gradients and batch norm statistics stay what they are without it."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.checkpoint import checkpoint

from detloom.detector import Detector
from detloom.errors import ConfigError, Mistake


def recompute_activations(detector: Detector, model: str) -> int:
    """Make the modules that the family names forget their activations while they train; returns how many.

    Raises ConfigError when the family names none.
    """
    modules = detector.recomputed_modules()
    if not modules:
        raise ConfigError(
            [
                Mistake(
                    "training.gradient_checkpointing",
                    "",
                    f"{model} names no parts whose activations could be computed again",
                    "leave it off; a smaller training.batch_size with training.gradient_accumulation also saves memory",
                )
            ]
        )
    _refuse_nested(modules)
    for module in modules:
        # An attribute of the instance: names of parameters, hooks and isinstance stay as they are.
        module.forward = _Recomputing(module)
    return len(modules)


def _refuse_nested(modules: Sequence[nn.Module]) -> None:
    inside = {id(child) for module in modules for child in module.modules() if child is not module}
    if any(id(module) in inside for module in modules):
        raise ValueError("a recomputed module lies inside another one")


class _Recomputing:
    """Stands in for the `forward` of a module. An object and not a closure, so that a copied detector has its own."""

    def __init__(self, module: nn.Module) -> None:
        self.module = module

    def __call__(self, *inputs: Any, **options: Any) -> Any:
        if not (self.module.training and torch.is_grad_enabled()):
            return self._forward(*inputs, **options)
        return checkpoint(self._forward, *inputs, use_reentrant=False, context_fn=self._contexts, **options)

    def _forward(self, *inputs: Any, **options: Any) -> Any:
        return type(self.module).forward(self.module, *inputs, **options)

    def _contexts(self) -> tuple[contextlib.AbstractContextManager[None], contextlib.AbstractContextManager[None]]:
        return contextlib.nullcontext(), _statistics_held(self.module)


@contextlib.contextmanager
def _statistics_held(module: nn.Module) -> Iterator[None]:
    """Batch norms see the batch a second time, and must not count it twice."""
    norms = [
        norm for norm in module.modules() if isinstance(norm, _BatchNorm) and norm.training and norm.track_running_stats
    ]
    before = [norm.momentum for norm in norms]
    counts = [None if n.num_batches_tracked is None else n.num_batches_tracked.clone() for n in norms]
    for norm in norms:
        norm.momentum = 0.0
    try:
        yield
    finally:
        for norm, momentum, count in zip(norms, before, counts, strict=True):
            norm.momentum = momentum
            if count is not None and norm.num_batches_tracked is not None:
                norm.num_batches_tracked.copy_(count)
