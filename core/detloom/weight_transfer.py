# ruff: noqa: TID253
"""Taking pretrained weights: tensors by name, class rows by the name of the class. Shared by all families."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from detloom.counting import some_of
from detloom.detector import TransferReport
from detloom.errors import WeightsError

SHOWN = 3
COUNTERS = "num_batches_tracked"
"""Of batch norms: no weight. Files of frozen norms lack them."""


@dataclass(frozen=True, slots=True)
class ClassTensors:
    """Tensors with one row a class in their first dimension; an embedding has further rows behind them (padding).

    names: in the model's state dict. reset: gives all of them the values that new classes start with.
    """

    names: tuple[str, ...]
    reset: Callable[[], None]


def transfer_weights(
    model: nn.Module,
    state: Mapping[str, Tensor],
    class_names: Sequence[str],
    source: str,
    *,
    model_name: str,
    own_names: Sequence[str],
    class_tensors: ClassTensors,
) -> TransferReport:
    """Fill the model. class_names: of the file's class rows; own_names: of the model's.

    Raises WeightsError, with the model as it was, when the file is of another architecture or damaged.
    """
    own = model.state_dict()
    heads = [key for key in class_tensors.names if key in own]
    body = [key for key in own if key not in set(heads)]
    fitting = [key for key in body if key in state and state[key].shape == own[key].shape]
    missing = tuple(key for key in own if key not in state and not key.endswith(COUNTERS))
    mismatched = tuple(
        f"{key} {list(state[key].shape)}, not {list(own[key].shape)}"
        for key in body
        if key in state and state[key].shape != own[key].shape
    )
    faults = ([key for key in missing if key not in set(heads)], mismatched)
    _refuse_other_architecture(model_name, {key: own[key] for key in body}, fitting, faults, source)
    _refuse_damaged(state, source)
    given = {key: state[key] for key in heads if key in state}
    counts = (len(own_names), len(class_names))
    known = _rows_known(own, given, counts)
    pairs = _pairs(own_names, class_names) if known else []
    with torch.no_grad():
        for key in fitting:
            own[key].copy_(state[key])
        class_tensors.reset()
        for key, tensor in given.items():
            _fill_rows(own[key], tensor, pairs, counts)
    same = known and counts[0] == counts[1] and pairs == [(i, i) for i in range(counts[0])]
    return TransferReport(
        source=source,
        loaded=len(fitting) + (len(given) if same else 0),
        total=sum(key in state or not key.endswith(COUNTERS) for key in own),
        copied=() if same else tuple(own_names[target] for target, _ in pairs),
        reset=tuple(name for i, name in enumerate(own_names) if i not in dict(pairs)),
        mismatched=mismatched,
        missing=missing,
        unexpected=tuple(key for key in state if key not in own and not key.endswith(COUNTERS)),
    )


def _refuse_other_architecture(
    model_name: str,
    body: Mapping[str, Tensor],
    fitting: Sequence[str],
    faults: tuple[Sequence[str], Sequence[str]],
    source: str,
) -> None:
    """Another variant shares many names and even shapes of small tensors: what counts is the share of numbers."""
    total = sum(tensor.numel() for tensor in body.values())
    share = sum(body[key].numel() for key in fitting) / total
    if share >= 0.5:
        return
    missing, mismatched = faults
    details = [f"  missing: {key}" for key in missing[:SHOWN]]
    details += [f"  other shape: {text}" for text in mismatched[:SHOWN]]
    raise WeightsError(
        f"{source} does not hold weights of {model_name}: {len(missing)} tensors are missing and "
        f"{len(mismatched)} have another shape; the first:\n" + "\n".join(details),
        hint="choose the model that the file was made for (`--model`), or another file "
        "(`model.pretrain_weights`; `none` starts from random weights)",
    )


def _refuse_damaged(state: Mapping[str, Tensor], source: str) -> None:
    for key, tensor in state.items():
        if tensor.is_floating_point() and not tensor.is_meta and not bool(tensor.isfinite().all()):
            raise WeightsError(
                f"{source} is damaged: {key} holds values that are not finite",
                hint="the training that wrote it may have diverged; use an earlier file",
            )


def why_unfit(error: Exception) -> str:
    """What `load_state_dict` says of a state of something else, without the thousands of names that torch lists."""
    first, *kinds = str(error).strip().splitlines() or [type(error).__name__]
    if not kinds:
        return first.strip()
    told = [f"{title}: {some_of(names)}" for title, names in map(_listed, kinds) if names]
    shapes = [line.strip().rstrip(".") for line in kinds if "size mismatch" in line]
    return "; ".join([*told, *([some_of(shapes, 1)] if shapes else [])]) or kinds[-1].strip()


def _listed(line: str) -> tuple[str, list[str]]:
    """First word and names of a line such as `Missing key(s) in state_dict: "a", "b". `; no names in any other."""
    title, colon, rest = line.strip().partition(": ")
    return title.partition(" ")[0].lower(), re.findall(r'"([^"]+)"', rest) if colon and "key(s)" in title else []


def _normalised(name: str) -> str:
    return " ".join(name.replace("_", " ").replace("-", " ").casefold().split())


def _pairs(wanted: Sequence[str], rows: Sequence[str]) -> list[tuple[int, int]]:
    """(own row, row of the file) of the classes that both have."""
    places: dict[str, int] = {}
    for place, name in enumerate(rows):
        places.setdefault(_normalised(name), place)
    names = [_normalised(name) for name in wanted]
    return [(target, places[name]) for target, name in enumerate(names) if name in places]


def _rows_known(own: Mapping[str, Tensor], given: Mapping[str, Tensor], counts: tuple[int, int]) -> bool:
    """counts: of the model's and the file's classes. False when the names do not fit the rows: they are unknown, or the
    file was trained on other classes than the published ones."""
    wanted, have = counts
    return have > 0 and all(
        len(tensor) == have + len(own[key]) - wanted and tensor.shape[1:] == own[key].shape[1:]
        for key, tensor in given.items()
    )


def _fill_rows(own: Tensor, given: Tensor, pairs: Sequence[tuple[int, int]], counts: tuple[int, int]) -> None:
    """Copy the rows of the shared classes, and whole what stands behind the classes."""
    if not pairs:
        return
    own[[target for target, _ in pairs]] = given[[place for _, place in pairs]].to(own)
    if len(own) > counts[0]:
        own[counts[0] :] = given[counts[1] :].to(own)
