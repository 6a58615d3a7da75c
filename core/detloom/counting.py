"""Numbers and their nouns, for people."""

from __future__ import annotations

from collections.abc import Sequence


def counted(count: int, noun: str) -> str:
    """`1 image`, `2 images`, `1,200 steps`."""
    return f"{count:,} {plural(noun, count)}"


def plural(noun: str, count: int) -> str:
    """The noun as it stands behind so many. noun: its last word is the one that changes: `other image`."""
    if count == 1:
        return noun
    *before, last = noun.split(" ")
    ending = "es" if last.endswith(("s", "x", "tch")) else "s"
    return " ".join([*before, last + ending])


def some_of(names: Sequence[object], shown: int = 3) -> str:
    """The first names and how many more there are: `a, b, c and 97 more`."""
    rest = len(names) - shown
    return ", ".join(map(str, names[:shown])) + (f" and {rest:,} more" if rest > 0 else "")
