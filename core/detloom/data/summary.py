"""What is known of a run's data: data.json, and the same for loggers."""
# ruff: noqa: TID253

from __future__ import annotations

import dataclasses
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from detloom.data.dataset import Dataset, Split
from detloom.files import write_json
from detloom_schemas.run_files import (
    ClassStatistics,
    DataIdentity,
    DataRecord,
    FindingRecord,
    SourceRecord,
    SplitStatistics,
)

if TYPE_CHECKING:
    from detloom.logging_fanout import LoggerFanout


def record_data(path: Path, dataset: Dataset) -> DataRecord:
    """Statistics and findings, written to `path` too."""
    classes = tuple(
        ClassStatistics(
            id=class_id,
            name=name,
            objects={s.name: int((s.labels == index).sum()) for s in dataset.splits.values()},
            images={s.name: len(set(s.image_index[s.labels == index].tolist())) for s in dataset.splits.values()},
        )
        for index, (class_id, name) in enumerate(zip(dataset.class_map.ids, dataset.class_map.names, strict=True))
    )
    findings = tuple(FindingRecord.model_validate(dataclasses.asdict(finding)) for finding in dataset.findings)
    record = DataRecord(
        **dict(identity_of(dataset)),
        has_masks=dataset.has_masks,
        splits={name: _split_statistics(split) for name, split in dataset.splits.items()},
        classes=classes,
        findings=findings,
    )
    write_json(path, record.to_json())
    return record


def identity_of(dataset: Dataset) -> DataIdentity:
    """Which data these are, and from where."""
    return DataIdentity(
        name=dataset.name,
        digest=dataset.digest,
        source=dataset.source,
        revision=dataset.revision,
        sources=tuple(SourceRecord.model_validate(dataclasses.asdict(use)) for use in dataset.sources),
    )


def log_data(record: DataRecord, fanout: LoggerFanout, step: int) -> None:
    """Tables of the classes and of what the check found."""
    splits = list(record.splits)
    header = ["class", "id", *(f"{name} {what}" for name in splits for what in ("objects", "images"))]
    rows = [
        [c.name, c.id, *(counts.get(name, 0) for name in splits for counts in (c.objects, c.images))]
        for c in record.classes
    ]
    fanout.table("data/classes", header, rows, step)
    if record.findings:
        columns = ["code", "severity", "count", "message", "where", "remedy"]
        rows = [[getattr(finding, column) for column in columns] for finding in record.findings]
        fanout.table("data/findings", columns, rows, step)


def _split_statistics(split: Split) -> SplitStatistics:
    counts = np.diff(split.starts)
    sides = np.sqrt(np.maximum(split.boxes[:, 2] - split.boxes[:, 0], 0) * (split.boxes[:, 3] - split.boxes[:, 1]))
    areas = np.array([image.width * image.height for image in split.images], dtype=np.float64)
    shares = sides / np.sqrt(areas[split.image_index]) if len(sides) else sides
    small, large = int((split.area < 32**2).sum()), int((split.area > 96**2).sum())
    return SplitStatistics(
        images=len(split),
        objects=len(split.labels),
        crowds=int(split.crowd.sum()),
        empty_images=int((counts == 0).sum()),
        objects_per_image=dict(sorted(Counter(counts.tolist()).items())),
        size_shares=tuple(np.histogram(shares, bins=10, range=(0, 1))[0].tolist()),
        small=small,
        medium=len(split.labels) - small - large,
        large=large,
        image_sizes=dict(Counter(f"{image.width}x{image.height}" for image in split.images).most_common(8)),
    )
