"""Where plugins are looked for. Finding a plugin imports nothing of it."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal

import detloom

ENTRY_POINT_GROUP = "detloom"
OWN_DISTRIBUTION = "detloom"
FIRST_PARTY_PACKAGE = "detloom_plugins"

Origin = Literal["first-party", "entry point"]


@dataclass(frozen=True, slots=True)
class Candidate:
    """A plugin that may be loaded: `load` imports it and returns its module or object."""

    name: str
    distribution: str
    version: str
    origin: Origin
    load: Callable[[], object]


def first_party_folder() -> Path:
    """The package of first-party plugins that belongs to the imported `detloom`: of the same clone or wheel."""
    package = Path(detloom.__file__).resolve().parent
    clone = package.parent.parent / "plugins" / FIRST_PARTY_PACKAGE
    return clone if package.parent.name == "core" and clone.is_dir() else package.parent / FIRST_PARTY_PACKAGE


def first_party_candidates(kinds: Sequence[str] | None = None) -> Iterator[Candidate]:
    """One candidate for each module or package directly below `detloom_plugins/<kind>/`. kinds: all when None."""
    folder = first_party_folder()
    if not folder.is_dir():
        return
    for kind in sorted(entry.name for entry in folder.iterdir() if entry.is_dir()):
        if kind.startswith(("_", ".")) or (kinds is not None and kind not in kinds):
            continue
        for name in sorted(_modules_below(folder / kind)):
            load = partial(_import_from, f"{FIRST_PARTY_PACKAGE}.{kind}.{name}", folder)
            yield Candidate(f"{kind}.{name}", OWN_DISTRIBUTION, detloom.__version__, "first-party", load)


def entry_point_candidates() -> Iterator[Candidate]:
    """One candidate for each entry point of the group `detloom`, ordered by distribution and name."""
    from detloom.entry_points import installed_entry_points

    found = [
        Candidate(point.name, point.distribution, point.version, "entry point", point.load)
        for point in installed_entry_points(ENTRY_POINT_GROUP)
        if point.key != OWN_DISTRIBUTION
    ]
    yield from sorted(found, key=lambda candidate: (candidate.distribution.lower(), candidate.name))


def _modules_below(folder: Path) -> Iterator[str]:
    for entry in folder.iterdir():
        if entry.name.startswith(("_", ".")):
            continue
        if entry.suffix == ".py":
            yield entry.stem
        elif (entry / "__init__.py").is_file():
            yield entry.name


def _import_from(module: str, folder: Path) -> object:
    """Import a first-party plugin, and only from the given folder: a clone beside an installed wheel must not run
    the wheel's plugins."""
    if FIRST_PARTY_PACKAGE not in sys.modules and str(folder.parent) not in sys.path:
        sys.path.insert(0, str(folder.parent))
    plugin = importlib.import_module(module)
    where = Path(str(plugin.__file__))
    if not (where.is_relative_to(folder) or where.resolve().is_relative_to(folder)):
        raise ImportError(f"{module} was imported from {where}, which is not beside this detloom ({folder})")
    return plugin
