# ruff: noqa: TID253
"""After the last step: evaluate the best weights, draw, export with proof, report."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from detloom.data.dataset import Split
from detloom.data.images import read_image
from detloom.data.masks import scale_rle
from detloom.drawing import draw_detections, draw_objects, fit, save_jpeg, side_by_side
from detloom.errors import DetloomError, PluginError, RunInterrupted
from detloom.evaluate import Evaluation, best_and_worst, cells_of, confusion_matrix, rank_images, to_coco_results
from detloom.files import write_json
from detloom.geometry import Detections
from detloom.host import describe
from detloom.model import load_model
from detloom.progress import say
from detloom.specs import ExporterSpec
from detloom.train.checkpoint import BEST
from detloom_schemas.run_files import (
    BestRecord,
    EvaluationRecord,
    PictureRecord,
    Progress,
    SplitEvaluation,
)

if TYPE_CHECKING:
    from detloom.host import PluginHost
    from detloom.logging_fanout import LoggerFanout
    from detloom.train.session import Session

log = logging.getLogger("detloom")
PICTURE_PX = 640
MATRIX_CLASSES = 200
CONFUSED_PAIRS = 200


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
    record_evaluation(session, results, fanout)
    of_best = dict(payload["metrics"])
    refused = export_best(session, fanout, of_best)
    fanout.model("best", session.folder / "checkpoints" / BEST, of_best, labels_of(session))
    fanout.scalars(metrics, progress.step, max(progress.epoch - 1, 0))
    if refused is not None:
        raise refused


def labels_of(session: Session) -> dict[str, int]:
    """Class index by name."""
    return {name: index for index, name in enumerate(session.around.dataset.class_map.names)}


# ---- evaluation -------------------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True, slots=True)
class Evaluated:
    """One split with the best weights. detections: in the order of split.images; confusion: int64 [classes + 1,
    classes + 1] at the evaluation's threshold, see detloom.evaluate.confusion."""

    name: str
    split: Split
    evaluation: Evaluation
    detections: Sequence[Detections]
    losses: Mapping[str, float]
    confusion: NDArray[np.int64]

    def scalars(self) -> dict[str, float]:
        """`test/AP50`, ... The validation is told apart from the curve of the epochs by `best/`."""
        prefix = "best/val" if self.name == "val" else self.name
        return self.evaluation.scalars(prefix)

    def record(self) -> SplitEvaluation:
        """What `evaluation.json` keeps."""
        values = {**self.evaluation.to_dict(), "losses": dict(self.losses), "confusion": cells_of(self.confusion)}
        return SplitEvaluation.model_validate(values)


def evaluate_best(session: Session) -> list[Evaluated]:
    """Validation and, where there is one, test; in 32 bits, as the exported file is compared."""
    splits = {"val": session.val_split}
    if "test" in session.around.dataset.splits:
        splits["test"] = session.around.dataset.splits["test"]
    found = []
    for name, split in splits.items():
        evaluation, detections, losses = session.evaluate_split(split, full_precision=True)
        confusion = confusion_matrix(split, session.around.dataset.class_map, detections, evaluation.threshold)
        found.append(Evaluated(name, split, evaluation, detections, losses, confusion))
        images, numbers, *of_masks = evaluation.lines()
        say(f"{name:<8} {numbers}  ({images})")
        for line in of_masks:
            say(f"{'  masks':<8} {line}")
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
        splits={one.name: one.record() for one in results},
        pictures=tuple(pictures),
    )
    write_json(session.folder / "evaluation.json", record.to_json())
    for one in results:
        log_evaluation(one, record.splits[one.name], fanout, step)
        if session.config.validation.save_predictions:
            path = session.folder / "predictions" / f"{one.name}.json"
            write_json(path, to_coco_results(one.split, session.around.dataset.class_map, one.detections))
            fanout.artifact(f"predictions/{one.name}", path)
    for picture in pictures:
        fanout.image(f"val/{picture.image}", session.folder / picture.file, step)


def log_evaluation(one: Evaluated, record: SplitEvaluation, fanout: LoggerFanout, step: int) -> None:
    """Curves and tables of a split. Of very many classes only the pairs that are confused most: a million cells are of
    no use to anybody."""
    recalls = np.linspace(0, 1, 101).tolist()
    for judged, kind in ((record, ""), (record.segm, " of masks")):
        if judged is None:
            continue
        curves = {c.name: list(zip(recalls, c.curve, strict=True)) for c in judged.per_class if c.curve}
        fanout.plot(f"{one.name}/PR{kind} at IoU 0.5", curves, step)
        rows: list[list[object]] = [
            [c.name, c.AP, c.AP50, c.truths, c.detections, c.threshold] for c in judged.per_class
        ]
        header = ["class", "AP", "AP50", "objects", "detections", "threshold"]
        fanout.table(f"{one.name}/classes{kind}", header, rows, step)
    names = [c.name for c in record.per_class]
    if len(names) <= MATRIX_CLASSES:
        rows = [[name, *counts] for name, counts in zip([*names, "background"], one.confusion.tolist(), strict=True)]
        fanout.table(f"{one.name}/confusion", ["truth", *names, "missed"], rows, step)
    else:
        rows = [[names[row], names[column], count] for row, column, count in record.confused()[:CONFUSED_PAIRS]]
        fanout.table(f"{one.name}/confused most", ["truth", "predicted", "count"], rows, step)


def draw_pictures(session: Session, evaluated: Evaluated) -> list[PictureRecord]:
    """Truth beside prediction: half of them images that went well, half that did not. A model of masks is judged by
    its masks."""
    wanted = session.config.validation.pictures
    judged = evaluated.evaluation.segm or evaluated.evaluation
    masks, threshold = judged.iou_type == "segm", judged.threshold
    class_map = session.around.dataset.class_map
    scores = rank_images(evaluated.split, class_map, evaluated.detections, threshold, masks=masks)
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
                iou_type=judged.iou_type,
            )
        )
    return records


def _picture(evaluated: Evaluated, position: int, threshold: float, names: Sequence[str]) -> Any:
    split, found = evaluated.split, evaluated.detections[position].above(threshold)
    image, factor = fit(read_image(split.images[position].path), PICTURE_PX)
    rows = split.objects_of(position)
    labels = split.labels[rows]
    size = (image.shape[0], image.shape[1])
    rles = None if found.masks is None else [rle and scale_rle(rle, size) for rle in split.rles[rows]]
    truth = draw_objects(image, split.boxes[rows] * factor, labels, [names[int(label)] for label in labels], rles)
    masks = None if found.masks is None else tuple(scale_rle(rle, size) for rle in found.masks)
    scaled = Detections((found.boxes * factor).astype(np.float32), found.scores, found.labels, masks)
    return side_by_side(truth, draw_detections(image, scaled, names))


# ---- export -----------------------------------------------------------------------------------------------------


def export_best(session: Session, fanout: LoggerFanout, metrics: Mapping[str, float]) -> DetloomError | None:
    """Every format of `export.format`, each with its gate. metrics: of the best checkpoint. The first failure is
    returned, not raised: other formats and the report are still made."""
    from detloom.export import export_model

    refused: DetloomError | None = None
    model = load_model(session.folder / "checkpoints" / BEST, session.around.host)
    for spec in session.around.resolved.specs(ExporterSpec):
        if session.around.stop_requested():
            raise RunInterrupted(
                f"stopped before the export to {spec.name}; the training is done and the state is saved",
                hint=f"go on with: detloom train --resume {session.folder}",
            )
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
        fanout.model(f"exports/{spec.name}", result.path, metrics, labels_of(session))
        for companion in result.companions:
            fanout.model(f"exports/{spec.name}{companion.suffix}", companion, metrics, labels_of(session))
        fanout.artifact(f"exports/{spec.name}.json", result.manifest_path)
    return refused


def _plugin_fault(host: PluginHost, spec: ExporterSpec, fault: Exception) -> PluginError:
    log.debug("the export failed", exc_info=fault)
    return PluginError(
        f"the export to {host.qualified(spec)}, or running its file with {spec.runtime}, failed: "
        f"{describe(fault)[:300]}",
        hint=f"everything else is done; report this to the author of {host.plugin_of(spec).label}",
    )
