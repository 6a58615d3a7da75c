"""Data to this machine: the sources plan, the cache has them or gets them."""

from __future__ import annotations

import contextlib
import hashlib
import logging
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from detloom.data.before import Before, located
from detloom.data.cache_use import hold, release
from detloom.data.records import SourcePlan
from detloom.errors import DetloomError
from detloom.files import cache_dir
from detloom.redaction import redacted

if TYPE_CHECKING:
    from detloom.config import ResolvedConfig
    from detloom.config.elements import Element
    from detloom.data.records import DataTree
    from detloom.host import PluginHost
    from detloom.specs import Source

log = logging.getLogger("detloom")
_MB = 1_000_000


@dataclass(frozen=True, slots=True)
class Fetched:
    """Data of one source on this machine, and what they were there."""

    element: Element
    tree: DataTree
    plan: SourcePlan


def chosen_sources(config: ResolvedConfig) -> list[Element]:
    """The sources of the configuration: those that `data.sources` lists, or the one of `data.source`."""
    from detloom.config.elements import Element
    from detloom.specs import FormatSpec, SourceSpec

    listed = config.elements()
    if listed:
        return listed
    spec = config.host.get(SourceSpec, config.config.data.source)
    wanted = config.config.data.format
    chosen = None if wanted == "auto" else config.host.get(FormatSpec, wanted)
    below = None if chosen is None else config.settings(chosen)
    return [Element(spec, config.settings(spec), "", chosen, below)]


def fetch_trees(config: ResolvedConfig, host: PluginHost, before: Before | None = None) -> list[Fetched]:
    """Bring the data of every source to this machine; all are planned before anything is fetched.

    before: what they were for an earlier run; where the cache still has that, it is what is used, and nobody is asked.
    Raises DataError or UnreachableError, with the source's name where there are several.
    """
    before = before or Before()
    elements = chosen_sources(config)
    fits = len(before.plans) == len(elements)
    known: list[SourcePlan | None] = [*before.plans] if fits else [None] * len(elements)
    planned: list[tuple[Element, Source, SourcePlan]] = []
    for number, (element, old) in enumerate(zip(elements, known, strict=True)):
        with host.blamed(element.spec), _named(element, number, len(elements)):
            source = element.spec.build(located(element.settings, before.folders))
            kept = old is not None and (_cache(element, host) / folder_name(old)).is_dir()
            planned.append((element, source, old if kept and old is not None else source.plan()))
    fetched = []
    for number, (element, source, plan) in enumerate(planned):
        with _named(element, number, len(elements)):
            fetched.append(_fetched(element, source, plan, config, host))
    return fetched


def _fetched(element: Element, source: Source, plan: SourcePlan, config: ResolvedConfig, host: PluginHost) -> Fetched:
    from detloom.progress import Reading
    from detloom.specs import FetchContext

    label = f"fetching the data{f' of {element.name}' if element.name else ''} (MB)"
    with host.blamed(element.spec), Reading(label) as reading:
        context = FetchContext(
            deadline_s=config.config.data.fetch_deadline,
            progress=lambda done, total: reading.update(done // _MB, total // _MB),
        )
        dest = _cache(element, host) / folder_name(plan)
        hold(dest, redacted(plan.identity))  # before it is looked at: from now on nobody clears it
        tree = source.fetch(plan, dest, context)
        if not dest.exists():  # data that stay where they are
            release(dest)
    log.info("data from %s, revision %s, are in %s", plan.identity, plan.revision, tree.root)
    return Fetched(element, tree, plan)


def _cache(element: Element, host: PluginHost) -> Path:
    return cache_dir() / "sources" / host.plugin_of(element.spec).name / element.spec.name


@contextlib.contextmanager
def _named(element: Element, number: int, of: int) -> Iterator[None]:
    """Says in an error which of several sources it is about."""
    try:
        yield
    except DetloomError as error:
        if of > 1:
            error.message = f"data.sources[{number}]{f' ({element.name})' if element.name else ''}: {error.message}"
        raise


def folder_name(plan: SourcePlan) -> str:
    """One folder for each revision of each source; both are words of the source, so they do not become paths."""
    return hashlib.sha256(f"{plan.identity}\x1f{plan.revision}".encode()).hexdigest()[:32]
