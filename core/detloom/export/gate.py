"""Whether an exported file may be used in the checkpoint's place: measured, with the file itself."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from detloom.data.dataset import Split, select_images
from detloom.data.images import read_image
from detloom.errors import ExportError
from detloom.export.parity import Difference, compare
from detloom.prediction import Predictor, detect_split

if TYPE_CHECKING:
    from detloom.data.dataset import ClassMap
    from detloom.evaluate import Evaluation
    from detloom_schemas.config import ExportConfig
    from detloom_schemas.manifest import GateEntry, ParityCase

FULL_TOLERANCE, REDUCED_TOLERANCE = 0.001, 0.01
"""Of AP: for 32 bits, and for 16 bits and below."""
FULL_LIMITS = {"max_box_px": 0.5, "max_score": 0.001}
REDUCED_LIMITS = {"max_score": 0.1}
"""What single numbers may differ by: an AP of 0 on both sides would prove nothing. Not judged when the user sets the
tolerance for fewer bits."""
ENOUGH_AGREEMENT = 0.99
"""Families that choose their boxes by score may give them in another order; then the detections decide."""


@dataclass(frozen=True, slots=True)
class GateInput:
    """images: for parity; split: annotated, None when there is none; tolerance: of AP."""

    checkpoint: Predictor
    exported: Predictor
    class_map: ClassMap
    images: tuple[Path, ...]
    split: Split | None
    config: ExportConfig
    progress: Callable[[int, int], None]


def stable_order(split: Split, limit: int | None) -> Split:
    """The first `limit` images in an order that follows from their content alone."""
    ranked = sorted(range(len(split)), key=lambda row: (split.images[row].sha256, split.images[row].file_name))
    return select_images(split, ranked[:limit])


def measure(given: GateInput) -> GateEntry:
    """Run both, compare, judge."""
    from detloom_schemas.manifest import GateEntry

    cases = _parity(given)
    boxes, scores = [case[1].max_box_px for case in cases], [case[1].max_score for case in cases]
    limits = _limits(given.config)
    reasons = _parity_reasons([case for _, case in cases], limits)
    values: dict[str, Any] = {}
    tolerance = given.config.tolerance
    if tolerance is None:
        tolerance = REDUCED_TOLERANCE if given.config.half else FULL_TOLERANCE
    if given.split is not None and len(given.split):
        before, after = _evaluate(given, given.split)
        values = _ap_entry(given.split, before, after)
        if abs(values["difference"]) > tolerance:
            reasons.append(
                f"AP is {before.metrics['AP']:.4f} by the checkpoint and {after.metrics['AP']:.4f} by the file on "
                f"{len(given.split)} images of {given.split.name}: it differs by {abs(values['difference']):.2g}, "
                f"at most {tolerance:g} is allowed"
            )
    return GateEntry(
        passed=not reasons,
        reasons=tuple(reasons),
        tolerance=tolerance,
        max_box_px=None if None in boxes else max(value for value in boxes if value is not None),
        max_score=None if None in scores else max(value for value in scores if value is not None),
        parity_limits=limits,
        batch_sizes=tuple(min(len(names), given.exported.runtime.batch_limit or len(names)) for names, _ in cases),
        parity=tuple(_case_entry(names, case) for names, case in cases),
        **values,
    )


def _parity(given: GateInput) -> list[tuple[tuple[str, ...], Difference]]:
    """One image, then two batches of three with other content; few images are used again."""
    if not given.images:
        raise ExportError("there are no images to compare the file with its checkpoint", hint="name some: --images DIR")
    cases = []
    for rows in ((0,), (1, 2, 3), (4, 5, 6)):
        paths = [given.images[row % len(given.images)] for row in rows]
        images = [read_image(path) for path in paths]
        cases.append((tuple(path.name for path in paths), compare(given.checkpoint, given.exported, images)))
    return cases


def _limits(config: ExportConfig) -> dict[str, float] | None:
    if not config.half:
        return FULL_LIMITS
    return REDUCED_LIMITS if config.tolerance is None else None


def _parity_reasons(cases: Sequence[Difference], limits: dict[str, float] | None) -> list[str]:
    for case in cases:
        if limits is None or (case.detections and case.agreement >= ENOUGH_AGREEMENT):
            continue
        for name, limit in limits.items():
            value = getattr(case, name)
            what = "a box differs by {} px" if name == "max_box_px" else "a score differs by {}"
            if value is None:
                return ["the file's boxes and scores cannot be compared: other shapes, or not numbers"]
            if value > limit:
                return [f"{what.format(f'{value:.4g}')} on the same image; at most {limit:g} is expected"]
    return []


def _evaluate(given: GateInput, split: Split) -> tuple[Evaluation, Evaluation]:
    from detloom.evaluate import evaluate_detections

    pair = (given.checkpoint, given.exported)
    found = detect_split(pair, split, given.class_map, progress=given.progress)
    cap = given.checkpoint.post_rule.max_detections
    before, after = (evaluate_detections(split, given.class_map, one, max_detections=cap) for one in found)
    return before, after


def _ap_entry(split: Split, before: Evaluation, after: Evaluation) -> dict[str, Any]:
    return {
        "split": split.name,
        "images": len(split),
        "checkpoint_ap": before.metrics["AP"],
        "exported_ap": after.metrics["AP"],
        "difference": after.metrics["AP"] - before.metrics["AP"],
        "checkpoint_metrics": dict(before.metrics),
        "exported_metrics": dict(after.metrics),
    }


def _case_entry(names: tuple[str, ...], case: Difference) -> ParityCase:
    from detloom_schemas.manifest import ParityCase

    return ParityCase(
        images=names,
        max_box_px=case.max_box_px,
        max_score=case.max_score,
        agreement=case.agreement,
        detections=case.detections,
    )
