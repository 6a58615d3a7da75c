"""Data to this machine: the source plans, the cache has them or gets them."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from detloom.data.facts import cache_dir
from detloom.data.records import SourcePlan

if TYPE_CHECKING:
    from detloom.config import ResolvedConfig
    from detloom.data.records import DataTree
    from detloom.host import PluginHost

log = logging.getLogger("detloom")
_MB = 1_000_000


@dataclass(frozen=True, slots=True)
class Fetched:
    """Data on this machine, and what they were at their source."""

    tree: DataTree
    plan: SourcePlan


def fetch_tree(config: ResolvedConfig, host: PluginHost, before: SourcePlan | None = None) -> Fetched:
    """Bring the data to this machine. before: what they were for an earlier run; when the cache still has that, it is
    what is used, and nobody is asked."""
    from detloom.progress import Reading
    from detloom.specs import FetchContext, SourceSpec

    spec = host.get(SourceSpec, config.config.data.source)
    cache = cache_dir() / "sources" / host.plugin_of(spec).name / spec.name
    with host.blamed(spec), Reading("fetching the data (MB)") as reading:
        source = spec.build(config.settings(spec))
        kept = before is not None and (cache / folder_name(before)).is_dir()
        plan = before if kept and before is not None else source.plan()
        context = FetchContext(
            deadline_s=config.config.data.fetch_deadline,
            progress=lambda done, total: reading.update(done // _MB, total // _MB),
        )
        tree = source.fetch(plan, cache / folder_name(plan), context)
    log.info("data from %s, revision %s, are in %s", plan.identity, plan.revision, tree.root)
    return Fetched(tree, plan)


def folder_name(plan: SourcePlan) -> str:
    """One folder for each revision of each source; both are words of the source, so they do not become paths."""
    return hashlib.sha256(f"{plan.identity}\x1f{plan.revision}".encode()).hexdigest()[:32]


def plan_of_run(place: Path, config: ResolvedConfig) -> SourcePlan | None:
    """What the data of a run were. place: its folder, or a file in it (a checkpoint, an export).

    None when it is not known, or when the configuration now names other data than the run's.
    """
    from pydantic import ValidationError

    from detloom_schemas.run_files import RunRecord

    for folder in (place, place.parent, place.parent.parent):
        file = folder / "run.json"
        if file.is_file():
            try:
                record = RunRecord.model_validate_json(file.read_text(encoding="utf-8"))
            except (OSError, UnicodeDecodeError, ValidationError):
                return None
            same = _of_source(record.configuration) == _of_source(config.values())
            known = record.data.source and record.data.revision and same
            return SourcePlan(record.data.source, record.data.revision) if known else None
    return None


def _of_source(values: Mapping[str, Any]) -> dict[str, Any]:
    """The source and its settings."""
    keys = [
        key for key in values if key.startswith("data.") and key.count(".") > 1 and not key.startswith("data.split.")
    ]
    return {key: values[key] for key in ("data.source", *keys) if key in values}
