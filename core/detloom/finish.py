# ruff: noqa: TID253
"""After the last step: evaluate the best weights, draw, export with proof, report."""

from __future__ import annotations

import dataclasses
import logging
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from detloom.data.dataset import Dataset, Split
from detloom.data.images import read_image
from detloom.drawing import draw_detections, draw_objects, fit, save_jpeg, side_by_side
from detloom.errors import DetloomError, PluginError
from detloom.evaluate import Evaluation, best_and_worst, rank_images, to_coco_results
from detloom.files import write_json
from detloom.geometry import Detections
from detloom.host import describe
from detloom.model import load_model
from detloom.progress import say
from detloom.specs import ExporterSpec
from detloom.train.checkpoint import BEST
from detloom_schemas.run_files import (
    BestRecord,
    ClassStatistics,
    DataRecord,
    EvaluationRecord,
    FindingRecord,
    PictureRecord,
    Progress,
    SplitEvaluation,
    SplitStatistics,
)

if TYPE_CHECKING:
    from detloom.host import PluginHost
    from detloom.logging_fanout import LoggerFanout
    from detloom.train.session import Session

log = logging.getLogger("detloom")
PICTURE_PX = 640


def finish_run(session: Session, fanout: LoggerFanout) -> None:
    """From best.pt to report.html. Raises what kept a file from being exported, such as its gate, after
    everything else is done."""
    payload = session.use_best()
    results = evaluate_best(session)
    metrics = {name: value for evaluated in results for name, value in evaluated.scalars().items()}
    best = session.loop.best
    progress = session.loop.progress
    session.around.recorder.update(
        metrics=metrics,
        best=None
        if best.best is None
        else BestRecord(metric=session.plan.best_metric, value=best.best, epoch=best.best_epoch),
        progress=Progress(
            epoch=progress.epoch,
            step=progress.step,
            total_epochs=session.plan.total_epochs,
            total_steps=session.plan.total_steps,
        ),
    )
    names = session.around.dataset.class_map.names
    record_evaluation(session, results, fanout)
    refused = export_best(session, fanout)
    labels = {name: index for index, name in enumerate(names)}
    fanout.model("best", session.folder / "checkpoints" / BEST, dict(payload["metrics"]), labels)
    fanout.scalars(metrics, progress.step, max(progress.epoch - 1, 0))
    if refused is not None:
        raise refused


# ---- evaluation -------------------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True, slots=True)
class Evaluated:
    """One split with the best weights. detections: in the order of split.images."""

    name: str
    split: Split
    evaluation: Evaluation
    detections: Sequence[Detections]
    losses: Mapping[str, float]

    def scalars(self) -> dict[str, float]:
        """`test/AP50`, ... The validation is told apart from the curve of the epochs by `best/`."""
        prefix = "best/val" if self.name == "val" else self.name
        return self.evaluation.scalars(prefix)


def evaluate_best(session: Session) -> list[Evaluated]:
    """Validation and, where there is one, test; in 32 bits, as the exported file is compared."""
    splits = {"val": session.val_split}
    if "test" in session.around.dataset.splits:
        splits["test"] = session.around.dataset.splits["test"]
    found = []
    for name, split in splits.items():
        evaluation, detections, losses = session.evaluate_split(split, full_precision=True)
        found.append(Evaluated(name, split, evaluation, detections, losses))
        images, numbers = evaluation.lines()
        say(f"{name:<8} {numbers}  ({images})")
    return found


def record_evaluation(session: Session, results: Sequence[Evaluated], fanout: LoggerFanout) -> None:
    """evaluation.json, pictures, predictions, and what the loggers take of them."""
    step = session.loop.progress.step
    pictures: list[PictureRecord] = []
    try:
        pictures = draw_pictures(session, results[0])
    except Exception as error:  # a picture must not cost the numbers of a training
        session.around.recorder.warn(f"the pictures could not be drawn: {type(error).__name__}: {error}")
    record = EvaluationRecord(
        checkpoint=f"checkpoints/{BEST}",
        splits={
            one.name: SplitEvaluation.model_validate({**one.evaluation.to_dict(), "losses": dict(one.losses)})
            for one in results
        },
        pictures=tuple(pictures),
    )
    write_json(session.folder / "evaluation.json", record.to_json())
    for one in results:
        recalls = np.linspace(0, 1, 101).tolist()
        curves = {c.name: list(zip(recalls, c.curve, strict=True)) for c in one.evaluation.per_class if c.curve}
        fanout.plot(f"{one.name}/PR at IoU 0.5", curves, step)
        rows = [[c.name, c.AP, c.AP50, c.truths, c.detections, c.threshold] for c in one.evaluation.per_class]
        fanout.table(f"{one.name}/classes", ["class", "AP", "AP50", "objects", "detections", "threshold"], rows, step)
        if session.config.validation.save_predictions:
            path = session.folder / "predictions" / f"{one.name}.json"
            write_json(path, to_coco_results(one.split, session.around.dataset.class_map, one.detections))
            fanout.artifact(f"predictions/{one.name}", path)
    for picture in pictures:
        fanout.image(f"val/{picture.image}", session.folder / picture.file, step)


def draw_pictures(session: Session, evaluated: Evaluated) -> list[PictureRecord]:
    """Truth beside prediction: half of them images that went well, half that did not."""
    wanted = session.config.validation.pictures
    threshold = evaluated.evaluation.threshold
    class_map = session.around.dataset.class_map
    scores = rank_images(evaluated.split, class_map, evaluated.detections, threshold)
    good, bad = best_and_worst(scores, (wanted + 1) // 2)
    shown = {score.position for score in (*good, *bad)}
    # All good, or none: the others fill up.
    others = sorted((s for s in scores if s.position not in shown), key=lambda s: s.f1)[: max(wanted - len(shown), 0)]
    chosen = [*((s, False) for s in bad), *((s, s.f1 == 1) for s in others), *((s, True) for s in good)]
    records = []
    for score, is_good in chosen[:wanted]:
        info = evaluated.split.images[score.position]
        file = f"pictures/{evaluated.name}_{score.position:05d}.jpg"
        picture = _picture(evaluated, score.position, threshold, class_map.names)
        save_jpeg(picture, session.folder / file)
        records.append(
            PictureRecord(
                file=file,
                image=info.file_name,
                split=evaluated.name,
                good=is_good,
                hits=score.hits,
                false_alarms=score.false_alarms,
                misses=score.misses,
                threshold=threshold,
            )
        )
    return records


def _picture(evaluated: Evaluated, position: int, threshold: float, names: Sequence[str]) -> Any:
    split, found = evaluated.split, evaluated.detections[position].above(threshold)
    image, factor = fit(read_image(split.images[position].path), PICTURE_PX)
    rows = split.objects_of(position)
    labels = split.labels[rows]
    truth = draw_objects(image, split.boxes[rows] * factor, labels, [names[int(label)] for label in labels])
    scaled = Detections((found.boxes * factor).astype(np.float32), found.scores, found.labels)
    return side_by_side(truth, draw_detections(image, scaled, names))


# ---- export -----------------------------------------------------------------------------------------------------


def export_best(session: Session, fanout: LoggerFanout) -> DetloomError | None:
    """Every format of `export.format`, each with its gate. The first failure is returned, not raised: other formats
    and the report are still made."""
    from detloom.export import export_model

    refused: DetloomError | None = None
    model = load_model(session.folder / "checkpoints" / BEST, session.around.host)
    for spec in session.around.resolved.specs(ExporterSpec):
        try:
            result = export_model(
                model,
                spec,
                session.around.resolved.settings(spec),
                session.folder / "exports",
                session.config.export,
                session.val_split,
                session.around.host,
            )
        except Exception as fault:  # a plugin may fail in any way; the numbers of the training must not be lost
            error = fault if isinstance(fault, DetloomError) else _plugin_fault(session.around.host, spec, fault)
            log.error("%s", error)
            refused = refused or error
            continue
        for line in result.lines:
            say(line)
        fanout.artifact(f"exports/{spec.name}", result.path)
    return refused


def _plugin_fault(host: PluginHost, spec: ExporterSpec, fault: Exception) -> PluginError:
    log.debug("the export failed", exc_info=fault)
    return PluginError(
        f"the export to {host.qualified(spec)}, or running its file with {spec.runtime}, failed: "
        f"{describe(fault)[:300]}",
        hint=f"everything else is done; report this to the author of {host.plugin_of(spec).label}",
    )


# ---- data -------------------------------------------------------------------------------------------------------


def record_data(folder: Path, dataset: Dataset) -> None:
    """data.json: statistics and findings."""
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
        name=dataset.name,
        digest=dataset.digest,
        has_masks=dataset.has_masks,
        splits={name: _split_statistics(split) for name, split in dataset.splits.items()},
        classes=classes,
        findings=findings,
    )
    write_json(folder / "data.json", record.to_json())


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
