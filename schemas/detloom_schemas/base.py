"""The base of every section of the configuration and of every plugin's settings."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field


class Settings(BaseModel):
    """Frozen; unknown keys are errors; every field has a description (`detloom config explain` prints it)."""

    model_config = ConfigDict(
        extra="forbid", frozen=True, validate_default=True, allow_inf_nan=False, protected_namespaces=()
    )


def choice(kind: str, description: str) -> Any:
    """A field whose value names plugins of a kind. The settings of the chosen plugins, and only theirs, appear
    beside it: a field exists only when it acts."""
    return Field(description=description, json_schema_extra={"plugin_kind": kind})


def plugin_list(kind: str, description: str) -> Any:
    """A field that lists plugins of a kind, each with its own settings: `{type: NAME, ...}`. `detloom.config` checks
    every element by the settings of its plugin."""
    return Field(description=description, json_schema_extra={"lists_plugins": kind})


def local_path(description: str, words: tuple[str, ...] = ()) -> Any:
    """A field whose value is a file or folder of the machine that runs, so that another machine may not have it.
    words: values that are no path."""
    return Field(description=description, json_schema_extra={"local_path": True, "words": list(words)})


def _one_or_more(value: Any) -> Any:
    """`onnx` means `[onnx]`; a list stays a list."""
    if isinstance(value, str):
        return (value,)
    return tuple(value) if isinstance(value, list) else value


Names = Annotated[tuple[str, ...], BeforeValidator(_one_or_more)]


def _one_or_more_numbers(value: Any) -> Any:
    """`7` means `[7]`; `7, 8` means `[7, 8]`."""
    if isinstance(value, str):
        return tuple(part for part in re.split(r"[\s,]+", value.strip()) if part)
    return (value,) if isinstance(value, int) and not isinstance(value, bool) else value


Numbers = Annotated[tuple[Annotated[int, Field(ge=1)], ...], BeforeValidator(_one_or_more_numbers)]
Positive = Annotated[int, Field(ge=1)]
NotNegative = Annotated[float, Field(ge=0)]
Probability = Annotated[float, Field(ge=0, le=1)]


def _size(value: Any) -> Any:
    """`480x640` means height 480 and width 640."""
    if isinstance(value, str) and (sides := re.fullmatch(r"(\d+)x(\d+)", value.strip())):
        return int(sides[1]), int(sides[2])
    return tuple(value) if isinstance(value, list) else value


Resolution = Annotated[
    Annotated[int, Field(ge=32, le=8192)]
    | tuple[Annotated[int, Field(ge=32, le=8192)], Annotated[int, Field(ge=32, le=8192)]],
    BeforeValidator(_size),
]


def class_key(name: str) -> str:
    """What two spellings of a class name have in common: case, blanks, underscores and hyphens do not count."""
    return " ".join(unicodedata.normalize("NFKC", name).casefold().replace("_", " ").replace("-", " ").split())


def _without_circle(aliases: dict[str, str]) -> dict[str, str]:
    """Raises ValueError for aliases that lead back to themselves, or for one spelling with two meanings."""
    keys: dict[str, str] = {}
    for name, to in aliases.items():
        if not class_key(name) or not class_key(to):
            raise ValueError("a class needs a name")
        if keys.setdefault(class_key(name), class_key(to)) != class_key(to):
            raise ValueError(f"{name!r} has two meanings")
    for start in keys:
        seen = [start]
        while (following := keys.get(seen[-1])) is not None and following not in seen:
            seen.append(following)
        if following is not None and following != seen[-1]:
            raise ValueError(f"{start!r} leads back to itself")
    return aliases


Aliases = Annotated[dict[str, str], AfterValidator(_without_circle)]


def _compiled(rule: str) -> str:
    if rule.startswith("field:"):
        if not rule.removeprefix("field:").strip():
            raise ValueError("field: needs the name of a field")
        return rule
    try:
        re.compile(rule)
    except re.error as error:
        raise ValueError(f"is no regular expression: {error}") from None
    return rule


GroupRule = Annotated[str, AfterValidator(_compiled)]


def _by_epoch(value: Any) -> Any:
    """`5, 10` and `{10: dark5}` to `{"5": ["next"], "10": ["next"]}` and `{"10": ["dark5"]}`."""
    if isinstance(value, str):
        value = [part for part in re.split(r"[\s,]+", value.strip()) if part]
    if isinstance(value, int) and not isinstance(value, bool):
        value = [value]
    if isinstance(value, list | tuple):
        value = dict.fromkeys(value, NEXT)
    if not isinstance(value, Mapping):
        return value
    return {str(epoch): names for epoch, names in value.items()}


def _epochs_are_numbers(schedule: dict[str, tuple[str, ...]]) -> dict[str, tuple[str, ...]]:
    for epoch, names in schedule.items():
        if not re.fullmatch(r"[1-9][0-9]{0,6}", epoch):
            raise ValueError(
                f"{epoch!r} is no epoch: whole numbers from 1 on (epoch 0 is the start: leave it unfrozen)"
            )
        if not all(name.strip() for name in names) or not names:
            raise ValueError(f"nothing is named for epoch {epoch}")
    return dict(sorted(schedule.items(), key=lambda item: int(item[0])))


NEXT = "next"
"""In a schedule of unfreezing: the next frozen layer group, counted from the output."""

UnfreezeSchedule = Annotated[dict[str, Names], BeforeValidator(_by_epoch), AfterValidator(_epochs_are_numbers)]
