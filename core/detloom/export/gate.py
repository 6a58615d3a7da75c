"""Whether an exported file may be used in the checkpoint's place: measured, with the file itself."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from detloom.data.dataset import Split, select_images
from detloom.data.images import read_image
from detloom.errors import ExportError
from detloom.export.parity import ENOUGH_AGREEMENT, Difference, compare
from detloom.prediction import Predictor, detect_split

if TYPE_CHECKING:
    from detloom.data.dataset import ClassMap
    from detloom.evaluate import Evaluation
    from detloom_schemas.config import ExportConfig
    from detloom_schemas.manifest import GateEntry, ParityCase

FULL_TOLERANCE, REDUCED_TOLERANCE = 0.001, 0.01
"""Of AP: for 32 bits, and for 16 bits and below."""
FULL_LIMITS = {"max_box_px": 0.5, "max_score": 0.001, "max_mask": 0.01}
REDUCED_LIMITS = {"max_score": 0.1, "max_mask": 0.25}
ENOUGH_PAIRS = 0.5
"""Share of the surest boxes that both must have on one of the compared images, for the limits to mean anything."""
WORDS = {
    "max_box_px": "a box differs by {} px",
    "max_score": "a score differs by {}",
    "max_mask": "a mask differs by {} of probability",
}
"""What single numbers may differ by: an AP of 0 on both sides would prove nothing. Not judged when the user sets the
tolerance for fewer bits."""


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
    limits = _limits(given.config, masks=given.checkpoint.masks)
    reasons = _parity_reasons([case for _, case in cases], limits)
    finished = given.exported.manifest is not None and given.exported.manifest.finished
    if finished and limits is not None and not any(case.detections for _, case in cases):
        reasons.append("the model finds nothing on the compared images, and the file gives detections alone")
    values: dict[str, Any] = {}
    tolerance = given.config.tolerance
    if tolerance is None:
        tolerance = REDUCED_TOLERANCE if given.config.half else FULL_TOLERANCE
    if given.split is not None and len(given.split):
        before, after = _evaluate(given, given.split)
        values = _ap_entry(given.split, before, after)
        reasons += _ap_reasons("AP", before, after, given.split, tolerance)
        if before.segm is not None and after.segm is not None:
            reasons += _ap_reasons("AP of masks", before.segm, after.segm, given.split, tolerance)
    return GateEntry(
        passed=not reasons,
        reasons=tuple(reasons),
        tolerance=tolerance,
        max_box_px=_worst([case.max_box_px for _, case in cases]),
        max_score=_worst([case.max_score for _, case in cases]),
        max_mask=_worst([case.max_mask for _, case in cases]),
        parity_limits=limits,
        batch_sizes=tuple(min(len(names), given.exported.runtime.batch_limit or len(names)) for names, _ in cases),
        parity=tuple(_case_entry(names, case) for names, case in cases),
        **values,
    )


def _ap_reasons(what: str, before: Evaluation, after: Evaluation, split: Split, tolerance: float) -> list[str]:
    ours, theirs = before.metrics["AP"], after.metrics["AP"]
    if abs(theirs - ours) <= tolerance:
        return []
    return [
        f"{what} is {ours:.4f} by the checkpoint and {theirs:.4f} by the file on {len(split)} images of {split.name}: "
        f"it differs by {abs(theirs - ours):.2g}, at most {tolerance:g} is allowed"
    ]


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


def _worst(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return max(known) if len(known) == len(values) else None


def _limits(config: ExportConfig, *, masks: bool) -> dict[str, float] | None:
    limits = REDUCED_LIMITS if config.half else FULL_LIMITS
    if config.half and config.tolerance is not None:
        return None
    return {name: limit for name, limit in limits.items() if masks or name != "max_mask"}


def _parity_reasons(cases: Sequence[Difference], limits: dict[str, float] | None) -> list[str]:
    for case in cases:
        if limits is None or (case.detections and case.agreement >= ENOUGH_AGREEMENT):
            continue
        for name, limit in limits.items():
            value = getattr(case, name)
            if value is None:
                kind = "masks" if name == "max_mask" else "boxes and scores"
                return [f"the file's {kind} cannot be compared: other shapes, or not numbers"]
            if value > limit:
                return [f"{WORDS[name].format(f'{value:.4g}')} on the same image; at most {limit:g} is expected"]
    if limits is not None and max(case.paired for case in cases) < ENOUGH_PAIRS:
        return [
            "the boxes of the compared images are tied, so that the file may give others: name images that show "
            "objects, or train for longer"
        ]
    return []


def _evaluate(given: GateInput, split: Split) -> tuple[Evaluation, Evaluation]:
    from detloom.evaluate import evaluate_with_masks

    pair = (given.checkpoint, given.exported)
    found = detect_split(pair, split, given.class_map, progress=given.progress)
    cap = given.checkpoint.post_rule.max_detections
    masks = given.checkpoint.masks and not split.without_masks
    before, after = (evaluate_with_masks(split, given.class_map, one, masks=masks, max_detections=cap) for one in found)
    return before, after


def _ap_entry(split: Split, before: Evaluation, after: Evaluation) -> dict[str, Any]:
    return {
        "split": split.name,
        "images": len(split),
        "checkpoint_ap": before.metrics["AP"],
        "exported_ap": after.metrics["AP"],
        "difference": after.metrics["AP"] - before.metrics["AP"],
        "checkpoint_metrics": before.all_metrics(),
        "exported_metrics": after.all_metrics(),
        **_segm_entry(before.segm, after.segm),
    }


def _segm_entry(before: Evaluation | None, after: Evaluation | None) -> dict[str, float]:
    if before is None or after is None:
        return {}
    ours, theirs = before.metrics["AP"], after.metrics["AP"]
    return {"checkpoint_segm_ap": ours, "exported_segm_ap": theirs, "segm_difference": theirs - ours}


def _case_entry(names: tuple[str, ...], case: Difference) -> ParityCase:
    from detloom_schemas.manifest import ParityCase

    return ParityCase(
        images=names,
        max_box_px=case.max_box_px,
        max_score=case.max_score,
        max_mask=case.max_mask,
        agreement=case.agreement,
        detections=case.detections,
    )
