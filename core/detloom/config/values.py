"""From what was written to a value of the field's type, and sentences about what a field takes."""

# ruff: noqa: TID253

from __future__ import annotations

import json
import re
import types
import typing
from collections.abc import Iterator, Mapping, Sequence
from difflib import get_close_matches
from enum import Enum
from pathlib import Path
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel, ConfigDict, TypeAdapter, ValidationError
from pydantic.fields import FieldInfo

from detloom.config.files import parse_flow
from detloom.config.layers import Text

_NULLS = {"", "null", "none", "~"}
_TRUTHS = {"true": True, "yes": True, "on": True, "false": False, "no": False, "off": False}
_INT = re.compile(r"[-+]?(0|[1-9][0-9]*(_[0-9]+)*)")
DEEPEST = 100
_FLOAT = re.compile(r"[-+]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][-+]?[0-9]+)?")


class ValueRefusedError(Exception):
    """A value that its field does not take. hint: may be empty."""

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint


def convert(raw: Any, info: FieldInfo, owner: type[BaseModel]) -> Any:
    """The plain value (what JSON could hold, or what the caller gave) that the field accepts for `raw`.

    Raises ValueRefusedError with a sentence for people.
    """
    adapter = _adapter(info, owner)
    errors: list[Any] = []
    for candidate in _readings(raw, info.annotation):
        try:
            value = adapter.validate_python(candidate)
        except ValidationError as error:
            errors = errors or error.errors(include_url=False)
            continue
        if not _truth_became_number(candidate, value):
            return candidate
    raise _problem(raw, info, errors)


def as_text(value: Any, info: FieldInfo, owner: type[BaseModel]) -> str:
    """The text that `convert` reads as this value, plain where it can be: `adamw`, `none`, `["hflip", "vflip"]`.

    value: as JSON could hold it. Text that would be read as something else (a run called `none`) is quoted.
    """
    if value is None:
        return "none"
    if isinstance(value, str):
        try:
            plain = value == value.strip() and convert(Text(value), info, owner) == value and value != "auto"
        except ValueRefusedError:
            plain = False
        return value if plain else json.dumps(value, ensure_ascii=False)
    return json.dumps(value, ensure_ascii=False)


def _adapter(info: FieldInfo, owner: type[BaseModel]) -> TypeAdapter[Any]:
    settings = ConfigDict(allow_inf_nan=owner.model_config.get("allow_inf_nan", True))
    field: Any = Annotated[info.annotation, info]
    return TypeAdapter(field, config=settings)


def as_mapping(value: Any, info: FieldInfo, owner: type[BaseModel]) -> dict[str, Any]:
    """What a field makes of a value that it takes, as JSON could hold it: `5, 10` becomes `{"5": ..., "10": ...}`.
    Empty where there is no mapping."""
    adapter = _adapter(info, owner)
    plain = adapter.dump_python(adapter.validate_python(value), mode="json")
    return plain if isinstance(plain, dict) else {}


def says_nothing(raw: Any) -> bool:
    """Whether this is nothing, or one of its names: null, `none`, no text at all."""
    return raw is None or (isinstance(raw, str) and raw.strip().lower() in _NULLS)


def _readings(raw: Any, annotation: Any) -> Iterator[Any]:
    """What typed text may mean, the likeliest first; text comes last, so that `123` can be a name."""
    wants_list = takes_list(annotation)
    if (wants_list or mapping_depth(annotation)) and says_nothing(natural(raw)):
        # Never `["none"]`, in quotes neither: what is called so stands in a list, `[none]`.
        yield None
        yield [] if wants_list else {}
        return
    if isinstance(raw, Text) and wants_list and "," in raw and not raw.lstrip().startswith(("[", "{", '"', "'")):
        parts = [Text(part.strip()) for part in raw.split(",")]
        yield natural(parts)
        yield literal(parts)
    yield natural(raw)
    yield literal(raw)
    if isinstance(raw, Text):
        yield str(raw)


def natural(raw: Any) -> Any:
    """Text to what it looks like: number, truth, nothing, list; anything else stays text."""
    if isinstance(raw, list):
        return [natural(item) for item in raw]
    if isinstance(raw, dict):
        return {key: natural(item) for key, item in raw.items()}
    if not isinstance(raw, Text):
        return raw
    text = raw.strip()
    if text.lower() in _NULLS:
        return None
    if text.lower() in _TRUTHS:
        return _TRUTHS[text.lower()]
    if _INT.fullmatch(text) and len(text) < 400:  # Python refuses to read integers of some thousand digits
        return int(text)
    if _FLOAT.fullmatch(text):
        return float(text)
    if text.startswith(("[", "{", '"', "'")):
        try:
            return natural(parse_flow(text))
        except ValueError:
            return str(raw)
    return str(raw)


def literal(raw: Any) -> Any:
    """Text stays text, also inside lists."""
    if isinstance(raw, Text):
        if raw.lstrip().startswith(("[", "{")):
            try:
                return literal(parse_flow(raw))
            except ValueError:
                return str(raw)
        return str(raw)
    if isinstance(raw, list):
        return [literal(item) for item in raw]
    if isinstance(raw, dict):
        return {key: literal(item) for key, item in raw.items()}
    return raw


def _truth_became_number(raw: Any, value: Any) -> bool:
    """pydantic would take `true` for 1."""
    if isinstance(raw, bool):
        return not isinstance(value, bool) and isinstance(value, (int, float))
    if isinstance(raw, (list, tuple)) and isinstance(value, (list, tuple)):
        return any(_truth_became_number(a, b) for a, b in zip(raw, value, strict=False))
    return False


def _problem(raw: Any, info: FieldInfo, errors: Sequence[Any]) -> ValueRefusedError:
    found = "nothing (null)" if raw is None else f"{literal(raw)!r}"
    said = [str(error["ctx"]["error"]) for error in errors if error["type"] == "value_error" and "ctx" in error]
    if said:
        return ValueRefusedError(f"found {found}: {'; '.join(dict.fromkeys(said))}")
    allowed = describe(info.annotation, info.metadata)
    near = get_close_matches(str(raw), literals(info.annotation), n=1, cutoff=0.6)
    return ValueRefusedError(f"found {found}; allowed: {allowed}", f"did you mean {near[0]}?" if near else "")


# --- what a field takes, in words ---


def describe(annotation: Any, metadata: Sequence[Any] = ()) -> str:
    """`a whole number of at least 1, or none`."""
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        inner = [
            item for extra in arguments[1:] for item in (extra.metadata if isinstance(extra, FieldInfo) else [extra])
        ]
        return describe(arguments[0], [*inner, *metadata])
    if origin in (Union, types.UnionType):
        parts = [describe(argument, () if argument is type(None) else metadata) for argument in arguments]
        parts.sort(key=lambda part: part == "none")
        return ", or ".join(parts)
    if origin is Literal:
        names = [str(argument) for argument in arguments]
        return names[0] if len(names) == 1 else f"one of {', '.join(names)}"
    if origin in (list, set, frozenset) or (origin is tuple and arguments[-1:] == (...,)):
        return f"a list, each {describe(arguments[0])}" + _length(metadata)
    if origin is tuple:
        return f"a list of {len(arguments)}: [{'; '.join(describe(argument) for argument in arguments)}]"
    return _plain(annotation) + _limits(metadata)


def _plain(annotation: Any) -> str:
    names = {
        bool: "true or false", int: "a whole number", float: "a number", str: "text", Path: "a path",
        type(None): "none", None: "none", Any: "anything",
    }  # fmt: skip
    origin = get_origin(annotation) or annotation
    if origin is dict:
        return "keys with values"
    if isinstance(annotation, type) and issubclass(annotation, Enum):
        return f"one of {', '.join(str(member.value) for member in annotation)}"
    return names.get(annotation, getattr(annotation, "__name__", str(annotation)))


def _limits(metadata: Sequence[Any]) -> str:
    """` from 1 to 9`, ` above 0 and below 1`, and the length and form of text."""

    def limit(name: str) -> Any:
        return next((found for item in metadata if (found := getattr(item, name, None)) is not None), None)

    said = []
    if limit("ge") is not None and limit("le") is not None:
        said.append(f"from {limit('ge')} to {limit('le')}")
    else:
        words = {"ge": "of at least", "gt": "above", "le": "of at most", "lt": "below"}
        said += [f"{word} {limit(name)}" for name, word in words.items() if limit(name) is not None]
    if limit("pattern") is not None:
        said.append(f"of the form {limit('pattern')}")
    return "".join(f" {part}" if n == 0 else f" and {part}" for n, part in enumerate(said)) + _length(metadata)


def _length(metadata: Sequence[Any]) -> str:
    text = ""
    for item in metadata:
        if getattr(item, "min_length", None):
            text += f", at least {item.min_length} long"
        if getattr(item, "max_length", None):
            text += f", at most {item.max_length} long"
    return text


def literals(annotation: Any) -> list[str]:
    """Every fixed word that a field takes."""
    if get_origin(annotation) is Literal:
        return [str(argument) for argument in get_args(annotation)]
    return [word for argument in get_args(annotation) if argument is not ... for word in literals(argument)]


def takes_list(annotation: Any) -> bool:
    origin = get_origin(annotation)
    if origin in (list, tuple, set, frozenset):
        return True
    if origin in (Union, types.UnionType, Annotated, typing.Optional):
        return any(takes_list(argument) for argument in get_args(annotation))
    return False


def mapping_depth(annotation: Any) -> int:
    """How many mappings stand inside each other: 0 for what is none; `dict[str, Any]` counts as deep as can be."""
    origin, arguments = get_origin(annotation) or annotation, get_args(annotation)
    if isinstance(origin, type) and issubclass(origin, Mapping):
        below = arguments[1] if len(arguments) > 1 else Any
        return DEEPEST if below is Any else 1 + mapping_depth(below)
    if origin in (Union, types.UnionType, Annotated, typing.Optional):
        return max((mapping_depth(argument) for argument in arguments), default=0)
    return 0
