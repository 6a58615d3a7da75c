"""The search space of `detloom tune`: which parameters are drawn, and from what. Pure.

training.batch_size=4,8,16        one of these
training.epochs=10                always this
augmentation.hsv.prob=0..1        any number between; whole numbers where the parameter takes nothing else
training.warmup_epochs=0..5/0.5   in steps
training.lr=log:1e-5..1e-2        any number between, evenly over the orders of magnitude
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from decimal import Decimal
from pathlib import Path
from typing import Any

from detloom.config import file_layer
from detloom.config.layers import Text
from detloom.errors import Mistake
from detloom_integrations.clearml.parameters import key_at, place_of

_NUMBER = r"[-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?"
_RANGE = re.compile(rf"(?P<log>log:)?\s*(?P<low>{_NUMBER})\.\.(?P<high>{_NUMBER})(?:/(?P<step>{_NUMBER}))?")

MOST_STEPS = 1000
EXAMPLE = "for example: --param training.lr=log:1e-5..1e-2 --param training.batch_size=4,8,16"


@dataclass(frozen=True, slots=True)
class Choices:
    """One of these texts."""

    texts: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Between:
    """Any number from low to high. log: evenly over the orders of magnitude. whole: whole numbers alone."""

    low: Decimal
    high: Decimal
    log: bool = False
    whole: bool = False


@dataclass(frozen=True, slots=True)
class Dimension:
    """A parameter and what it is drawn from. notation: as written. place: where it was written."""

    key: str
    drawn: Choices | Between
    notation: str
    place: str

    @property
    def parameter(self) -> str:
        """`section/name`, as the task has it."""
        return "/".join(place_of(self.key))

    @property
    def size(self) -> int | None:
        """How many values there are; None: any number."""
        if isinstance(self.drawn, Choices):
            return len(self.drawn.texts)
        return int(self.drawn.high - self.drawn.low) + 1 if self.drawn.whole else None

    def examples(self, most: int = 50) -> list[str]:
        """Texts of this dimension, its ends among them; all of them when they are not more than `most`."""
        if isinstance(self.drawn, Choices):
            return list(self.drawn.texts)
        low, high = self.drawn.low, self.drawn.high
        if not self.drawn.whole:
            return [as_text(low), as_text(high)]
        last = int(high - low)
        numbers = range(last + 1) if last < most else sorted({round(n * last / (most - 1)) for n in range(most)})
        return [as_text(low + n) for n in numbers]

    def narrowed(self) -> Dimension:
        """For a parameter that takes whole numbers only."""
        assert isinstance(self.drawn, Between)
        return replace(self, drawn=replace(self.drawn, whole=True))


class _NotationError(ValueError):
    """What is wrong with a notation, in words; hint: what to write."""

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.hint = hint


def as_text(number: Decimal) -> str:
    """The shortest plain text of a number: `0.3`, `640`, `1e-05`."""
    return str(int(number)) if number == number.to_integral_value() and abs(number) < 10**15 else repr(float(number))


def read_space(params: Sequence[str], files: Sequence[Path]) -> tuple[list[Dimension], list[Mistake]]:
    """What the files and then the command line say; the command line wins over the files."""
    mistakes: list[Mistake] = []
    found: dict[str, Dimension] = {}
    for file in files:
        layer = file_layer(file)
        mistakes += [replace(mistake, place=mistake.place.replace("--config", "--space")) for mistake in layer.mistakes]
        for entry in layer.entries:
            _add(found, entry.key, entry.value, entry.place, mistakes)
    given: dict[str, Dimension] = {}
    for param in params:
        key, equals, text = param.partition("=")
        if equals and key.strip():
            _add(given, key, Text(text), "--param", mistakes)
        else:
            mistakes.append(Mistake("--param", "", f"found {param!r}; it takes KEY=VALUES", EXAMPLE))
    if not found and not given and not mistakes:
        mistakes.append(Mistake("--param", "", "nothing to search over", EXAMPLE))
    return list({**found, **given}.values()), mistakes


def _add(found: dict[str, Dimension], name: str, value: Any, place: str, mistakes: list[Mistake]) -> None:
    key = dotted(name)
    if key in found:
        mistakes.append(Mistake(key, place, "is given twice", f"keep one of them; first: {found[key].notation}"))
        return
    try:
        drawn, notation = _listed(value) if isinstance(value, list) else _parsed(value)
    except _NotationError as error:
        mistakes.append(Mistake(key, place, str(error), error.hint))
        return
    found[key] = Dimension(key, drawn, notation, place)


def dotted(name: str) -> str:
    """`training/lr` and `training.lr` are the same parameter."""
    section, slash, rest = name.strip().partition("/")
    return key_at(section, rest) if slash else section


def _parsed(value: Any) -> tuple[Choices | Between, str]:
    text = _flow(value).strip()
    found = _RANGE.fullmatch(text)
    if found is None and re.match(r"\s*log:", text):
        raise _NotationError(f"found {text!r}", "write it as log:1e-5..1e-2")
    if found is None:
        return Choices(_unequal(list(_split(text)))), text
    low, high = Decimal(found["low"]), Decimal(found["high"])
    if low >= high:
        raise _NotationError(f"found {text!r}: the first number must be less than the second")
    if found["step"] is not None:
        return Choices(_steps(low, high, Decimal(found["step"]), bool(found["log"]), text)), text
    if found["log"] and low <= 0:
        raise _NotationError(f"found {text!r}: orders of magnitude need numbers above 0")
    return Between(low, high, log=bool(found["log"])), text


def _steps(low: Decimal, high: Decimal, step: Decimal, log: bool, text: str) -> tuple[str, ...]:
    if log:
        raise _NotationError(f"found {text!r}: log: takes no step", "list the values: 1e-4,3e-4,1e-3")
    if step <= 0:
        raise _NotationError(f"found {text!r}: the step must be above 0")
    count = int((high - low) / step) + 1
    if count > MOST_STEPS:
        raise _NotationError(f"found {text!r}: that is {count} values, and {MOST_STEPS} are the most", "larger steps")
    return tuple(as_text(low + n * step) for n in range(count))


def _listed(values: list[Any]) -> tuple[Choices, str]:
    """A list in a file: its items are the values."""
    texts = _unequal([_flow(value) for value in values])
    return Choices(texts), ",".join(texts)


def _flow(value: Any, *, inside: bool = False) -> str:
    """A value of a file as `--set` would take it. inside: of a list, where text is quoted unless it was typed plain."""
    if isinstance(value, Text) or (isinstance(value, str) and not inside):
        return str(value)
    if isinstance(value, list):
        return f"[{', '.join(_flow(item, inside=True) for item in value)}]"
    if isinstance(value, dict):
        raise _NotationError("found keys and values", "write values: 4,8,16 or [4, 8, 16], 0..1, log:1e-5..1e-2")
    return json.dumps(value, ensure_ascii=False)


def _unequal(texts: list[str]) -> tuple[str, ...]:
    if not texts:
        raise _NotationError("found no value", EXAMPLE)
    for text in texts:
        if texts.count(text) > 1:
            raise _NotationError(f"names {text!r} twice")
    return tuple(texts)


def _split(text: str) -> Iterator[str]:
    """At commas that stand in no bracket and no quotes."""
    depth, quote, start = 0, "", 0
    for place, char in enumerate(text):
        if quote:
            quote = "" if char == quote else quote
        elif char in "\"'":
            quote = char
        elif char in "[{(":
            depth += 1
        elif char in ")}]":
            depth -= 1
        elif char == "," and depth == 0:
            yield text[start:place].strip()
            start = place + 1
    yield text[start:].strip()
