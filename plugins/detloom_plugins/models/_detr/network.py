# ruff: noqa: TID253
"""Initialisation, frozen norms and layer groups of the library's networks."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

import torch
from torch import nn

from detloom.detector import LayerGroup

PRIOR = 0.01
"""Probability that every query starts with for every class (Lin et al. 2017, section 3.3)."""
NORMS = (nn.BatchNorm2d, nn.SyncBatchNorm)
OWN_START = ("sampling_offsets", "attention_weights")
"""Linear layers whose first values mean something: where a query looks, and how evenly."""


@torch.no_grad()
def reset_parameters(network: nn.Module) -> None:
    """Start values with which the network learns from scratch.

    The library draws batch-norm weights from a normal around 0 (RT-DETR) or convolutions so small that the features
    vanish (D-FINE): with neither does a random network learn. Here norms are 1 and 0, convolutions are He et al. 2015
    (fan-out), linear layers Glorot and Bengio 2010. Heads come after this: `reset_class_layer`, `reset_box_layer`.
    """
    for name, module in network.named_modules():
        if isinstance(module, (*NORMS, nn.LayerNorm, nn.GroupNorm)):
            module.reset_parameters()
        elif isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
            if module.bias is not None:
                nn.init.zeros_(module.bias)
        elif isinstance(module, nn.Linear) and name.rpartition(".")[2] not in OWN_START:
            nn.init.xavier_uniform_(module.weight)
            if module.bias is not None:
                nn.init.zeros_(module.bias)


@torch.no_grad()
def reset_class_layer(layer: nn.Module) -> None:
    """A linear layer of class scores, or an embedding of classes with a last row for padding."""
    if isinstance(layer, nn.Embedding):
        nn.init.normal_(layer.weight)
        if layer.padding_idx is not None:
            layer.weight[layer.padding_idx].zero_()
        return
    assert isinstance(layer, nn.Linear)
    nn.init.xavier_uniform_(layer.weight)
    nn.init.constant_(layer.bias, -math.log((1 - PRIOR) / PRIOR))


@torch.no_grad()
def reset_box_layer(layer: nn.Module) -> None:
    """The last layer of a box head: boxes start at their anchors."""
    assert isinstance(layer, nn.Linear)
    nn.init.zeros_(layer.weight)
    nn.init.zeros_(layer.bias)


def batch_norms(module: nn.Module) -> list[nn.Module]:
    return [inner for inner in module.modules() if isinstance(inner, NORMS)]


def chain_of_groups(
    backbone: Sequence[tuple[str, nn.Module]],
    body: Sequence[tuple[str, Iterable[nn.Module]]],
    head: Iterable[nn.Module],
) -> list[LayerGroup]:
    """Groups from the input to the output: stages of the backbone, parts of the body, the class layers as head."""
    groups = [LayerGroup(name, (module,), depth, is_backbone=True) for depth, (name, module) in enumerate(backbone)]
    for name, modules in body:
        groups.append(LayerGroup(name, tuple(modules), len(groups)))
    return [*groups, LayerGroup("head", tuple(head), len(groups), is_head=True)]


class GroupRest:
    """Hands out the children of a module that no group took yet, so that none is forgotten."""

    def __init__(self, parent: nn.Module) -> None:
        self._parent = parent
        self._left = dict(parent.named_children())

    def take(self, *names: str) -> list[nn.Module]:
        """Those of these children that exist."""
        return [self._left.pop(name) for name in names if name in self._left]

    def rest(self) -> list[nn.Module]:
        left = list(self._left.values())
        self._left = {}
        return left


def outermost(network: nn.Module, endings: tuple[str, ...]) -> list[nn.Module]:
    """Modules whose class has a name that ends so, without those that lie inside another one."""
    found: list[nn.Module] = []
    for child in network.children():
        found += [child] if type(child).__name__.endswith(endings) else outermost(child, endings)
    return found
