"""The base of every section of the configuration and of every plugin's settings."""

from __future__ import annotations

import re
from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field


class Settings(BaseModel):
    """Frozen; unknown keys are errors; every field has a description (`detloom config explain` prints it)."""

    model_config = ConfigDict(
        extra="forbid", frozen=True, validate_default=True, allow_inf_nan=False, protected_namespaces=()
    )


def choice(kind: str, description: str) -> Any:
    """A field whose value names plugins of a kind. The settings of the chosen plugins, and only theirs, appear
    beside it: a field exists only when it acts."""
    return Field(description=description, json_schema_extra={"plugin_kind": kind})


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
