"""What a report is made of, read from a run's folder alone."""
# ruff: noqa: TID253

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from detloom.errors import DataError
from detloom_schemas.manifest import ExportManifest
from detloom_schemas.run_files import DataRecord, EvaluationRecord, RunRecord

Record = TypeVar("Record", bound=BaseModel)


@dataclass(frozen=True, slots=True)
class ConfigRow:
    """One value of the configuration. kind: who set it (`default`, `recipe`, `file`, ...); place: where."""

    key: str
    value: Any
    kind: str
    place: str = ""


@dataclass(frozen=True, slots=True)
class ReportData:
    """Plain values. folder: pictures are read from it. steps, epochs: records of metrics.jsonl; an epoch's record has
    `epoch/time_s`. problems: what could not be read, for the reader of the report.
    """

    folder: Path
    run: RunRecord
    config: tuple[ConfigRow, ...] = ()
    steps: tuple[Mapping[str, Any], ...] = ()
    epochs: tuple[Mapping[str, Any], ...] = ()
    evaluation: EvaluationRecord | None = None
    data: DataRecord | None = None
    exports: tuple[ExportManifest, ...] = ()
    problems: tuple[str, ...] = ()


def load_report_data(run_dir: Path) -> ReportData:
    """Whatever the folder holds already: a run that still trains, or was killed, has a report too.

    Raises DataError when it is not a run's folder.
    """
    if not run_dir.is_dir() or not any((run_dir / name).is_file() for name in ("run.json", "config.yaml")):
        raise DataError(f"{run_dir} is not a run's folder (no run.json)", hint="give the folder of a run")
    problems: list[str] = []
    steps, epochs = _metrics(run_dir / "metrics.jsonl", problems)
    return ReportData(
        folder=run_dir,
        run=_record(run_dir / "run.json", RunRecord, problems) or RunRecord(name=run_dir.name),
        config=_config(run_dir / "config.yaml", problems),
        steps=steps,
        epochs=epochs,
        evaluation=_record(run_dir / "evaluation.json", EvaluationRecord, problems),
        data=_record(run_dir / "data.json", DataRecord, problems),
        exports=_exports(run_dir / "exports", problems),
        problems=tuple(problems),
    )


def _record(path: Path, kind: type[Record], problems: list[str]) -> Record | None:
    if not path.is_file():
        return None
    try:
        return kind.model_validate_json(path.read_bytes())
    except (OSError, ValidationError) as error:
        first = str(error).splitlines()
        problems.append(f"{path.name} could not be read: {' '.join(first[:2])}")
        return None


def _exports(folder: Path, problems: list[str]) -> tuple[ExportManifest, ...]:
    found = [_record(path, ExportManifest, problems) for path in sorted(folder.glob("*.json"))]
    return tuple(manifest for manifest in found if manifest is not None)


def _metrics(path: Path, problems: list[str]) -> tuple[tuple[Mapping[str, Any], ...], tuple[Mapping[str, Any], ...]]:
    steps: list[Mapping[str, Any]] = []
    epochs: list[Mapping[str, Any]] = []
    if not path.is_file():
        return (), ()
    bad = 0
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
        try:
            record = json.loads(line)
            if record["step"] >= 0 and record["epoch"] >= 0:
                (epochs if "epoch/time_s" in record else steps).append(record)
        except (ValueError, KeyError, TypeError):
            bad += 1
    if bad:
        problems.append(f"{path.name}: {bad} lines could not be read")
    return tuple(steps), tuple(epochs)


def _config(path: Path, problems: list[str]) -> tuple[ConfigRow, ...]:
    """Every value with its origin, as the run saved them."""
    import yaml

    if not path.is_file():
        return ()
    try:
        document = yaml.safe_load(path.read_text(encoding="utf-8"))
        return tuple(_config_row(document, key, origin) for key, origin in document["origins"].items())
    except (OSError, yaml.YAMLError, AttributeError, KeyError, TypeError) as error:
        problems.append(f"{path.name} could not be read: {error}")
        return ()


def _config_row(document: Any, key: str, origin: Sequence[Any]) -> ConfigRow:
    node = document
    for part in key.split("."):
        node = node[part]
    kind, place, auto = [*map(str, origin), "", "", ""][:3]
    return ConfigRow(key, node, kind, f"{place} (auto in {auto})" if auto else place)
