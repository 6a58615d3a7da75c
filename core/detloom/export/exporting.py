"""From a trained model to a file with its proof."""

from __future__ import annotations

import contextlib
import copy
import datetime
import shutil
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from detloom.errors import DetloomError, ExportError
from detloom.export.gate import GateInput, measure, stable_order
from detloom.files import sha256_of, write_json
from detloom.manifest import describe_model, manifest_path, with_exporter
from detloom.prediction import Predictor, open_predictor
from detloom.specs import ExportRequest

if TYPE_CHECKING:
    from detloom.data.dataset import ClassMap, Split
    from detloom.host import PluginHost
    from detloom.model import TrainedModel
    from detloom.specs import ExporterSpec
    from detloom_schemas.base import Settings
    from detloom_schemas.config import ExportConfig
    from detloom_schemas.manifest import GateEntry, ModelManifest


@dataclass(frozen=True, slots=True)
class ExportResult:
    """A file that its gate let through. manifest: as written beside it; lines: for people; companions: files that
    belong to it."""

    path: Path
    manifest_path: Path
    manifest: dict[str, Any]
    lines: list[str]
    companions: tuple[Path, ...] = ()


@dataclass(frozen=True, slots=True)
class Evidence:
    """What else an export is compared on. class_map: of the split, when it is not the model's own; images: for parity,
    when there is no annotated split. progress(done_images, total_images)."""

    class_map: ClassMap | None = None
    images: Sequence[Path] = ()
    progress: Callable[[int, int], None] = lambda done, total: None


def export_model(
    model: TrainedModel,
    spec: ExporterSpec,
    settings: Settings,
    dest_dir: Path,
    export_config: ExportConfig,
    split: Split | None,
    host: PluginHost,
    evidence: Evidence | None = None,
) -> ExportResult:
    """Write `<model><suffix>` and its manifest `<model><suffix>.json` into dest_dir, after running the file.

    split: annotated images that AP is measured on. Without it the numbers of single images are compared, on
    `evidence.images`, and the manifest says that AP was not measured. Raises ExportError when the gate refuses the
    file: it is kept, with its manifest, as `<model>.rejected<suffix>`, and a file that was accepted before stays. Also
    raises PluginError for missing packages and DetloomError when the place cannot be written.
    """
    from detloom_schemas.manifest import EMBEDDED_KEY

    given = evidence or Evidence()
    manifest = with_exporter(describe_model(model), spec, settings, export_config)
    parts = [model.spec.name, "fp16" if export_config.half else "", "finished" if export_config.postprocess else ""]
    with _staging(dest_dir) as folder:
        request = ExportRequest(
            path=folder / "-".join(part for part in parts if part),
            size=model.input_rule.size,
            half=export_config.half,
            simplify=export_config.simplify,
            metadata={EMBEDDED_KEY: manifest.model_dump_json()},
            finish=model.post_rule if export_config.postprocess else None,
        )
        with host.blamed(spec):
            written = spec.build(settings).export(model.detector, request)
        facts: dict[str, Any] = {**_facts(written), "companions": [_facts(one) for one in _companions(written, spec)]}
        # A format that cannot hold text is read with what lies beside it.
        write_json(manifest_path(written), {**manifest.model_dump(mode="json"), **facts})
        chosen = None if split is None else stable_order(split, export_config.gate_images)
        gate = measure(
            GateInput(
                checkpoint=_reference(model),
                exported=open_predictor(written, host, spec.runtime),
                class_map=given.class_map or model.class_map,
                images=tuple(image.path for image in chosen.images) if chosen else tuple(given.images),
                split=chosen,
                config=export_config,
                progress=given.progress,
            )
        )
        return _keep(written, dest_dir, manifest, {**facts, "runtime": spec.runtime}, gate)


def _facts(path: Path) -> dict[str, Any]:
    return {"file": path.name, "bytes": path.stat().st_size, "sha256": sha256_of(path)}


def _companions(path: Path, spec: ExporterSpec) -> list[Path]:
    return [path.with_suffix(suffix) for suffix in spec.companions]


def _reference(model: TrainedModel) -> Predictor:
    """The checkpoint's own detections, by torch."""
    from detloom.deploy import DetectorRuntime

    runtime = DetectorRuntime(copy.deepcopy(model.detector))
    rules = (model.input_rule, model.post_rule, model.class_map)
    return Predictor(runtime, *rules, path=model.path, manifest=describe_model(model))


@contextlib.contextmanager
def _staging(dest_dir: Path) -> Iterator[Path]:
    """A folder beside the destination, gone afterwards: nothing unproved is left behind."""
    try:
        dest_dir.mkdir(parents=True, exist_ok=True)
        folder = Path(tempfile.mkdtemp(dir=dest_dir, prefix=".export-"))
    except OSError as error:
        raise DetloomError(
            f"cannot write into {dest_dir}: {error.strerror or error}", hint="choose another place with --output"
        ) from error
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _keep(
    written: Path, dest_dir: Path, manifest: ModelManifest, facts: dict[str, Any], gate: GateEntry
) -> ExportResult:
    """Move the file to where it belongs, write its whole story beside it, and raise when it was refused."""
    from detloom_schemas.manifest import ExportManifest

    rejected = dest_dir / f"{written.stem}.rejected{written.suffix}"
    path = dest_dir / written.name if gate.passed else rejected
    created = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
    suffixes = [Path(one["file"]).suffix for one in facts["companions"]]
    moved = [{**one, "file": path.with_suffix(Path(one["file"]).suffix).name} for one in facts["companions"]]
    names = {"file": path.name, "companions": moved}
    whole = ExportManifest.model_validate(
        {**manifest.model_dump(), **facts, **names, "created": created, "gate": gate.model_dump()}
    )
    values = whole.model_dump(mode="json")
    # The file last: should the machine stop in between, an older file refuses the newer companion by its hash.
    for suffix in suffixes:
        written.with_suffix(suffix).replace(path.with_suffix(suffix))
    written.replace(path)
    write_json(manifest_path(path), values)
    if not gate.passed:
        raise ExportError(
            f"{written.name} does not equal its checkpoint: {'; '.join(gate.reasons)}",
            hint=f"it is kept for inspection as {path}; export.tolerance sets another limit for AP",
        )
    companions = tuple(path.with_suffix(suffix) for suffix in suffixes)
    for stale in (rejected, manifest_path(rejected), *(rejected.with_suffix(suffix) for suffix in suffixes)):
        stale.unlink(missing_ok=True)
    size = facts["bytes"] + sum(one["bytes"] for one in facts["companions"])
    return ExportResult(path, manifest_path(path), values, _lines(path, companions, size, gate), companions)


def _lines(path: Path, companions: Sequence[Path], size: int, gate: GateEntry) -> list[str]:
    batches = ", ".join(map(str, gate.batch_sizes))
    box = "incomparable" if gate.max_box_px is None else f"{gate.max_box_px:.2g} px"
    score = "incomparable" if gate.max_score is None else f"{gate.max_score:.2g}"
    mask = "" if gate.max_mask is None else f", masks within {gate.max_mask:.2g}"
    lines = [
        f"{path}{''.join(f' and {one.name}' for one in companions)} ({size / 1e6:.2f} MB)",
        f"parity with the checkpoint: boxes within {box}, scores within {score}{mask} (batches of {batches})",
    ]
    if gate.checkpoint_ap is None or gate.exported_ap is None or gate.difference is None:
        lines.append("AP was not measured: no annotated images were given")
    else:
        lines.append(
            f"AP on {gate.images} images of {gate.split}: checkpoint {gate.checkpoint_ap:.4f}, file "
            f"{gate.exported_ap:.4f}, difference {gate.difference:+.4f} (at most {gate.tolerance:g})"
        )
    if gate.checkpoint_segm_ap is not None and gate.segm_difference is not None:
        lines.append(
            f"AP of masks: checkpoint {gate.checkpoint_segm_ap:.4f}, file {gate.exported_segm_ap:.4f}, difference "
            f"{gate.segm_difference:+.4f}"
        )
    return lines
