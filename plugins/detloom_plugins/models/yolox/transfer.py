# ruff: noqa: TID253
"""Taking pretrained weights: tensors by name, class rows by the name of the class."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from detloom.detector import TransferReport
from detloom.errors import WeightsError

from .network import set_prior

if TYPE_CHECKING:
    from .detector import YoloxDetector

CLASS_PREFIX = "head.cls_preds."
SHOWN = 3


def transfer(
    model: YoloxDetector, state: Mapping[str, Tensor], class_names: Sequence[str], source: str
) -> TransferReport:
    """Fill the model. Raises WeightsError, with the model as it was, when the file is of another architecture."""
    own = model.state_dict()
    body = [key for key in own if not key.startswith(CLASS_PREFIX)]
    missing = tuple(key for key in body if key not in state)
    mismatched = tuple(
        f"{key} {list(state[key].shape)}, not {list(own[key].shape)}"
        for key in body
        if key in state and state[key].shape != own[key].shape
    )
    fitting = [key for key in body if key in state and state[key].shape == own[key].shape]
    _refuse_other_architecture(model, own, fitting, (missing, mismatched), source)
    _refuse_damaged(state, source)
    rows = _class_rows(state, class_names)

    with torch.no_grad():
        for key in fitting:
            own[key].copy_(state[key])
        pairs = _pairs(model.class_names, rows)
        loaded = len(fitting) + _fill_class_rows(model, state, pairs, len(rows))
    all_rows = loaded > len(fitting)
    return TransferReport(
        source=source,
        loaded=loaded,
        total=len(own),
        copied=() if all_rows else tuple(model.class_names[target] for target, _ in pairs),
        reset=tuple(name for i, name in enumerate(model.class_names) if i not in dict(pairs)),
        mismatched=mismatched,
        missing=missing,
        unexpected=tuple(key for key in state if key not in own),
    )


def _refuse_other_architecture(
    model: YoloxDetector,
    own: Mapping[str, Tensor],
    fitting: Sequence[str],
    faults: tuple[Sequence[str], Sequence[str]],
    source: str,
) -> None:
    """Another variant shares many names and even shapes of small tensors: what counts is the share of numbers."""
    total = sum(tensor.numel() for key, tensor in own.items() if not key.startswith(CLASS_PREFIX))
    share = sum(own[key].numel() for key in fitting) / total
    if share >= 0.5:
        return
    missing, mismatched = faults
    details = [f"  missing: {key}" for key in missing[:SHOWN]]
    details += [f"  other shape: {text}" for text in mismatched[:SHOWN]]
    raise WeightsError(
        f"{source} does not hold weights of {model.variant_name}: {len(missing)} tensors are missing and "
        f"{len(mismatched)} have another shape; the first:\n" + "\n".join(details),
        hint="choose the model that the file was made for (`--model`), or another file "
        "(`model.pretrain_weights`; `none` starts from random weights)",
    )


def _refuse_damaged(state: Mapping[str, Tensor], source: str) -> None:
    for key, tensor in state.items():
        if tensor.is_floating_point() and not bool(tensor.isfinite().all()):
            raise WeightsError(
                f"{source} is damaged: {key} holds values that are not finite",
                hint="the training that wrote it may have diverged; use an earlier file",
            )


def _class_rows(state: Mapping[str, Tensor], class_names: Sequence[str]) -> Sequence[str]:
    """Names of the file's class rows; empty when they are unknown: not given, or of another count than the rows (a
    plain file that somebody trained on other classes than the published ones)."""
    first = state.get(f"{CLASS_PREFIX}0.weight")
    return class_names if first is not None and len(class_names) == len(first) else ()


def _normalised(name: str) -> str:
    return " ".join(name.replace("_", " ").replace("-", " ").casefold().split())


def _pairs(wanted: Sequence[str], rows: Sequence[str]) -> list[tuple[int, int]]:
    """(own row, row of the file) of the classes that both have."""
    places: dict[str, int] = {}
    for place, name in enumerate(rows):
        places.setdefault(_normalised(name), place)
    names = [_normalised(name) for name in wanted]
    return [(target, places[name]) for target, name in enumerate(names) if name in places]


def _fill_class_rows(
    model: YoloxDetector, state: Mapping[str, Tensor], pairs: Sequence[tuple[int, int]], rows: int
) -> int:
    """Reset the class layers and copy the shared rows. Returns how many tensors were taken as they are."""
    targets, places = [target for target, _ in pairs], [place for _, place in pairs]
    for level, layer in enumerate(model.head.cls_preds):
        assert isinstance(layer, nn.Conv2d) and layer.bias is not None
        layer.reset_parameters()
        set_prior(layer)
        if pairs:
            layer.weight[targets] = state[f"{CLASS_PREFIX}{level}.weight"][places].to(layer.weight)
            layer.bias[targets] = state[f"{CLASS_PREFIX}{level}.bias"][places].to(layer.bias)
    same = targets == places == list(range(rows)) and len(model.class_names) == rows
    return 2 * len(model.head.cls_preds) if same else 0
