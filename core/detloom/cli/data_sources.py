"""What a data set is made of, for people and for programs."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from detloom.cli import console

if TYPE_CHECKING:
    from detloom.data.dataset import Dataset
    from detloom.data.manifest import SourceUse


def sources_text(dataset: Dataset) -> str:
    """A table of the sources, and how their names of classes were changed; empty for a single source that gave its
    classes as they are."""
    uses = dataset.sources
    if len(uses) < 2 and not any(use.renamed for use in uses):
        return ""
    rows = [
        (
            u.name,
            u.type,
            u.format,
            str(sum(u.images.values())),
            str(sum(u.objects.values())),
            u.revision[:12],
            u.identity,
        )
        for u in uses
    ]
    lines = [console.table(("source", "type", "format", "images", "objects", "revision", "from"), rows)]
    for use in uses:
        if use.renamed:
            changes = ", ".join(f"{name} -> {ours or 'left out'}" for name, ours in use.renamed.items())
            lines.append(f"classes of {use.name}: {changes}")
    return "\n".join(lines)


def _sums(use: SourceUse) -> tuple[int, int]:
    return sum(use.images.values()), sum(use.objects.values())


def sources_json(dataset: Dataset) -> list[dict[str, Any]]:
    return [asdict(use) for use in dataset.sources]
