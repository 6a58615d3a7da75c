"""`detloom evaluate RUN|FILE [DATA]`."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from detloom.cli import console
from detloom.cli.data_options import (
    add_named_data_arguments,
    add_set_argument,
    data_config,
    data_files,
    named_data,
    names_data,
    read_dataset,
    saved_document,
    settings_of,
)
from detloom.counting import counted
from detloom.errors import DataError, DetloomError, UsageError

if TYPE_CHECKING:
    from detloom.data.dataset import Dataset, Split
    from detloom.evaluate import Evaluation
    from detloom.host import PluginHost
    from detloom.prediction import Predictor

SAME = 1e-9
"""What the evaluator may differ from its referee by."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", metavar="RUN|FILE", help="a run's folder, a checkpoint (.pt) or an exported file")
    parser.add_argument(
        "data",
        nargs="*",
        metavar="DATA",
        help="folder or COCO json; several are judged as one data set; without it: the run's own data",
    )
    add_named_data_arguments(parser)
    parser.add_argument(
        "--split",
        default="auto",
        choices=("auto", "train", "val", "test", "all"),
        help="auto: test, else val, else what there is; all: every split",
    )
    add_inference_arguments(parser)
    parser.add_argument("--per-class", action="store_true", help="the numbers of each class, too")
    parser.add_argument(
        "--referee", action="store_true", help="compute the numbers by pycocotools as well, and compare"
    )
    parser.add_argument("--json", action="store_true", help="for programs")
    parser.add_argument("--output", metavar="FILE", help="also write the results as JSON")
    add_set_argument(parser, "data.format=coco")


def add_inference_arguments(parser: argparse.ArgumentParser, score: str = "as in the model, 0.01 by default") -> None:
    parser.add_argument("--score", type=share, metavar="S", help=f"least score of a detection ({score})")
    parser.add_argument("--nms", type=share, metavar="IOU", help="overlap above which the weaker box is dropped")
    parser.add_argument("--max-detections", type=positive, metavar="N", help="most detections of an image")
    parser.add_argument("--runtime", default="auto", metavar="NAME", help="auto (by the file), torch, onnxruntime, ...")
    parser.add_argument("--device", default="auto", metavar="NAME", help="auto, cpu, cuda, cuda:1")
    parser.add_argument("--batch-size", type=positive, default=8, metavar="N", help="images at once (8)")


def share(text: str) -> float:
    value = float(text)
    if not 0 <= value <= 1:
        raise argparse.ArgumentTypeError(f"{text} is not between 0 and 1")
    return value


def positive(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{text} is not 1 or more")
    return value


def run(args: argparse.Namespace) -> int:
    from detloom.host import discover
    from detloom.prediction import check_classes, open_predictor

    host = discover()
    predictor = open_predictor(Path(args.model), host, args.runtime, args.device)
    predictor = predictor.with_rule(args.score, args.nms, args.max_detections)
    dataset = _dataset(args, host)
    trained_on = ((predictor.runtime.manifest or {}).get("data") or {}).get("digest")
    if not names_data(args) and trained_on and trained_on != dataset.digest:
        console.warning(
            f"{dataset.name} is not what the run was trained on: other data lie there, or they have changed"
        )
    splits = choose_splits(dataset, args.split)
    check_classes(predictor.class_map, dataset.class_map, splits)
    results = {split.name: _evaluate(predictor, split, dataset, args) for split in splits}
    report = _report(predictor, dataset, results)
    if args.output:
        from detloom.files import write_json

        write_json(Path(args.output), report)
    if args.json:
        console.write_json(report)
    else:
        for name, evaluation in results.items():
            console.write(_text(f"{dataset.name}, {name}", evaluation, args.per_class))
    return 0


def _dataset(args: argparse.Namespace, host: PluginHost) -> Dataset:
    written = [*named_data(args, host), *settings_of(args, ("data.",))]
    config = data_config(written, saved_document(Path(args.model)), host, data_files(args))
    named = names_data(args)
    return read_dataset(config, host, as_trained=not named, model=None if named else Path(args.model))


def choose_splits(dataset: Dataset, wanted: str) -> list[Split]:
    """Raises UsageError for a split that the data do not have, DataError for one without images."""
    there = dataset.splits
    if wanted == "all":
        return [split for split in there.values() if len(split)]
    if wanted == "auto":
        wanted = next(
            (name for name in ("test", "val", "all") if name in there and len(there[name])), next(iter(there))
        )
    if wanted not in there:
        raise UsageError(f"{dataset.name} has no split {wanted!r}", hint=f"splits: {', '.join(there)}")
    if not len(there[wanted]):
        raise DataError(f"split {wanted} of {dataset.name} holds no images", hint="choose another with --split")
    return [there[wanted]]


def _evaluate(predictor: Predictor, split: Split, dataset: Dataset, args: argparse.Namespace) -> Evaluation:
    from detloom.evaluate import evaluate_with_masks, referee
    from detloom.prediction import detect_split
    from detloom.progress import Reading

    with Reading(f"evaluating {split.name}") as reading:
        found = detect_split(
            [predictor], split, dataset.class_map, batch_size=args.batch_size, progress=reading.update
        )[0]
    cap = predictor.post_rule.max_detections
    evaluation = evaluate_with_masks(
        split, dataset.class_map, found, masks=_has_masks(predictor, split), max_detections=cap
    )
    for one in (evaluation, evaluation.segm) if args.referee else ():
        if one is not None:
            masks = one.iou_type == "segm"
            theirs = referee(split, dataset.class_map, found, masks=masks, max_detections=cap)
            _compare(one.metrics, theirs.metrics, "masks" if masks else "boxes")
    return evaluation


def _has_masks(predictor: Predictor, split: Split) -> bool:
    """Whether masks can be judged; says why not where the model predicts them."""
    if predictor.masks and split.without_masks:
        console.warning(
            f"masks are not evaluated: {counted(split.without_masks, 'object')} of {split.name} "
            f"{'has' if split.without_masks == 1 else 'have'} none to compare with"
        )
    return predictor.masks and not split.without_masks


def _compare(ours: Mapping[str, float], theirs: Mapping[str, float], what: str) -> None:
    worst = max((abs(ours.get(name, -1) - theirs.get(name, -1)) for name in {*ours, *theirs}), default=0.0)
    if worst > SAME:
        raise DetloomError(
            f"pycocotools says otherwise: the numbers of {what} differ by up to {worst:.2g}",
            hint="this is a fault of Detloom: please report it with the data",
        )
    console.note(f"pycocotools gives the same numbers of {what} (within {worst:.1g})")


def _report(predictor: Predictor, dataset: Dataset, results: Mapping[str, Evaluation]) -> dict[str, Any]:
    return {
        "model": str(predictor.path),
        "runtime": predictor.runtime_name,
        "post_rule": predictor.post_rule.to_dict(),
        "data": {"name": dataset.name, "digest": dataset.digest},
        "splits": {name: evaluation.to_dict() for name, evaluation in results.items()},
    }


def _text(title: str, evaluation: Evaluation, per_class: bool) -> str:
    from detloom.evaluate import METRICS

    head = f"{title}: {evaluation.counts()}"
    judged = [one for one in (evaluation, evaluation.segm) if one is not None]
    columns = ("value",) if len(judged) == 1 else ("boxes", "masks")
    rows = [(name, *(_number(one.metrics.get(name)) for one in judged)) for name in METRICS]
    parts = [head, console.table(("metric", *columns), rows)]
    if per_class:
        for one in judged:
            parts += ["masks:"] if one.iou_type == "segm" else []
            parts.append(_class_table(one))
    return "\n".join(parts)


def _class_table(evaluation: Evaluation) -> str:
    return console.table(
        ("class", "id", "objects", "detections", "AP", "AP50", "precision", "recall", "at score"),
        [
            (c.name, str(c.id), str(c.truths), str(c.detections), _number(c.AP), _number(c.AP50),
             _number(c.precision), _number(c.recall), _number(c.threshold))
            for c in evaluation.per_class
        ],
    )  # fmt: skip


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.4f}"
