# ruff: noqa: TID253
"""Low-rank adapters on any family (Hu et al. 2021), by the library peft.

Adapters exist while a run trains. What a checkpoint offers as its weights is the network with the adapters added to the
weights that they belong to, under the names of the plain network: evaluation, export and everybody else need no peft.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from fnmatch import fnmatchcase
from typing import Any

from torch import Tensor, nn

from detloom.counting import counted
from detloom.detector import Detector
from detloom.errors import ConfigError, Mistake, PluginError
from detloom.train.freezing import is_adapter, plain_name
from detloom_schemas.config import LoraConfig

ADAPTER = "default"


def add_adapters(detector: Detector, config: LoraConfig) -> tuple[list[str], str]:
    """Put adapters around the targets and freeze everything else but the heads.

    Returns the names of the frozen parameters and a line for people. The adapters' first output is zero: the detector
    computes what it computed before. Raises ConfigError when nothing can be adapted, PluginError without peft.
    """
    targets = adapter_targets(detector, config)
    try:
        from peft import LoraConfig as PeftConfig
        from peft import inject_adapter_in_model
    except ImportError as error:
        raise PluginError(
            f"model.lora needs the library peft, which cannot be imported: {error}",
            hint="pip install 'detloom[lora]'; or model.lora.rank=0",
        ) from error
    heads = {
        id(parameter)
        for group in detector.layer_groups()
        if group.is_head
        for module in group.modules
        for parameter in module.parameters()
    }
    inject_adapter_in_model(
        PeftConfig(
            r=config.rank,
            lora_alpha=config.alpha,  # type: ignore[arg-type]
            lora_dropout=config.dropout,
            target_modules=targets,
            bias="none",
        ),
        detector,
        adapter_name=ADAPTER,
    )
    frozen: list[str] = []
    for name, parameter in detector.named_parameters():
        trained = is_adapter(name) or id(parameter) in heads
        parameter.requires_grad_(trained)
        if not trained:
            frozen.append(plain_name(name))
    count = sum(p.numel() for p in detector.parameters() if p.requires_grad)
    total = sum(p.numel() for p in detector.parameters())
    layers = counted(len(targets), "layer")
    line = f"adapters of rank {config.rank} on {layers}: {count:,} of {total:,} parameters are trained"
    return frozen, line


def adapter_targets(detector: Detector, config: LoraConfig) -> list[str]:
    """Names of the layers that get adapters. Raises ConfigError."""
    in_heads = {
        id(inner)
        for group in detector.layer_groups()
        if group.is_head
        for module in group.modules
        for inner in module.modules()
    }
    able = [name for name, module in detector.named_modules() if id(module) not in in_heads and _can_be_adapted(module)]
    if not able:
        raise ConfigError(
            [Mistake("model.lora.rank", "", "this model has no layer that could have an adapter", "write 0")]
        )
    if not config.targets:
        return able
    mistakes = []
    chosen: set[str] = set()
    for pattern in config.targets:
        matched = {name for name in able if fnmatchcase(name, pattern) or fnmatchcase(name, f"{pattern}.*")}
        if not matched:
            hint = f"layers that can have one: {', '.join(able[:6])}" + (f", ... ({len(able)})" if able[6:] else "")
            mistakes.append(Mistake("model.lora.targets", "", f"{pattern!r} matches no such layer", hint))
        chosen |= matched
    if mistakes:
        raise ConfigError(mistakes)
    return [name for name in able if name in chosen]


def _can_be_adapted(module: nn.Module) -> bool:
    """Grouped convolutions have next to no weights that a low rank could save."""
    return type(module) is nn.Linear or (isinstance(module, nn.Conv2d) and module.groups == 1)


def _adapted_layers(detector: nn.Module) -> Iterator[tuple[str, Any]]:
    """(name, peft's layer) of each; found by form, so that peft need not be imported where there is none."""
    for name, module in detector.named_modules():
        if hasattr(module, "base_layer") and hasattr(module, "get_delta_weight"):
            yield name, module


def has_adapters(detector: nn.Module) -> bool:
    return any(True for _ in _adapted_layers(detector))


def merged_state(detector: Detector) -> dict[str, Tensor]:
    """The weights of the plain network that computes the same; the detector stays as it is."""
    added = {f"{name}.weight": layer.get_delta_weight(ADAPTER).detach() for name, layer in _adapted_layers(detector)}
    state: dict[str, Tensor] = {}
    for name, tensor in detector.saved_state().items():
        if is_adapter(name):
            continue
        plain = plain_name(name)
        state[plain] = tensor + added[plain].to(tensor.dtype) if plain in added else tensor
    return state


def without_adapters(detector: Detector) -> Detector:
    """The plain network with the merged weights; the same object when there are no adapters."""
    if not has_adapters(detector):
        return detector
    weights = {name: tensor.detach().clone() for name, tensor in merged_state(detector).items()}
    plain = copy.deepcopy(detector)
    for name, layer in list(_adapted_layers(plain)):
        above, _, own = name.rpartition(".")
        setattr(plain.get_submodule(above), own, layer.base_layer)
    plain.load_saved_state(weights)
    return plain
