"""Where a data set came from: each source, what it was then, what it gave, and what its classes became."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class SourceUse:
    """One source of a data set. name: prefix of its file names, empty for a source that is alone; type, format: the
    plugins; identity, revision: see SourcePlan; images, objects: what it gave to the data set, by split; classes: its
    names of classes and ours, None for one that was left out."""

    name: str
    type: str
    format: str
    identity: str
    revision: str
    images: Mapping[str, int] = field(default_factory=dict)
    objects: Mapping[str, int] = field(default_factory=dict)
    classes: Mapping[str, str | None] = field(default_factory=dict)

    @property
    def renamed(self) -> dict[str, str | None]:
        """The classes that are called otherwise here, or are left out."""
        return {name: ours for name, ours in self.classes.items() if name != ours}


def whole_identity(sources: Sequence[SourceUse]) -> tuple[str, str]:
    """Identity and revision of all sources together: those of the only one, or made of all."""
    if len(sources) == 1:
        return sources[0].identity, sources[0].revision
    revisions = "\x1f".join(f"{use.identity}\x1e{use.revision}" for use in sources)
    return " + ".join(use.identity for use in sources), hashlib.sha256(revisions.encode()).hexdigest()[:16]


def part_names(names: Sequence[str]) -> list[str]:
    """Names that are folders of file names, and different from each other also where capitals do not count."""
    given: list[str] = []
    taken: set[str] = set()
    for name in names:
        plain = re.sub(r"[^\w .+-]", "-", name).strip(". ") or "data"
        unique, number = plain, 2
        while unique.casefold() in taken:
            unique, number = f"{plain}-{number}", number + 1
        taken.add(unique.casefold())
        given.append(unique)
    return given


def whole_name(names: Sequence[str]) -> str:
    """What people call the data of several sources."""
    joined = "+".join(names)
    return joined if len(joined) <= 60 else f"{names[0]}+{len(names) - 1} more"
