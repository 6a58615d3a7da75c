"""Run a detector over a split and evaluate what it finds."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from detloom.data.dataset import ClassMap, Split, select_images
from detloom.evaluate.coco import evaluate_with_masks
from detloom.evaluate.results import Evaluation
from detloom.geometry import Detections, PostRule

if TYPE_CHECKING:
    import torch
    from torch import nn

    from detloom.data.loader import Batch
    from detloom.detector import Detector, LossTerms


@dataclass(frozen=True, slots=True)
class PassOptions:
    """How the model is run. rule: post-processing, the model's own when None; autocast: 16-bit type or None; loss:
    also compute the loss; progress(done_images, total_images)."""

    rule: PostRule | None = None
    autocast: torch.dtype | None = None
    loss: bool = False
    progress: Callable[[int, int], None] = lambda done, total: None


class COCOEvaluator:
    """Collects the detections of a split and evaluates them.

    masks: also evaluate the masks. Only images that were seen count (`Evaluation.images` says how many), so that a
    part of a split can be evaluated.
    """

    def __init__(self, split: Split, class_map: ClassMap, *, masks: bool = False, max_detections: int = 100) -> None:
        self.split = split
        self.class_map = class_map
        self.masks = masks
        self.max_detections = max_detections
        self.losses: dict[str, float] = {}
        self._seen: dict[int, Detections] = {}

    def evaluate(self, model: Detector, loader: Iterable[Batch], options: PassOptions | None = None) -> Evaluation:
        """One pass over the loader, from a clean start. Afterwards `detections` holds what was found and, when asked
        for, `losses` the mean loss by term and `loss` as their sum. The model's training mode is restored."""
        chosen = options or PassOptions()
        self.reset()
        tally = _LossTally()
        with _evaluation_mode(model):
            for batch in loader:
                self.update(batch.indices, self._run(model, batch, chosen, tally))
                chosen.progress(len(self._seen), len(self.split))
        self.losses = tally.means()
        return self.compute()

    def _run(self, model: Detector, batch: Batch, options: PassOptions, tally: _LossTally) -> list[Detections]:
        import torch

        device = next(model.parameters()).device
        images = batch.images.to(device, non_blocking=True)
        with torch.autocast(device.type, dtype=options.autocast, enabled=options.autocast is not None):
            outputs = model(images)
            if options.loss:
                tally.add(model.loss(outputs, batch.targets.to(device)))
        return model.predict(outputs, batch.sizes, options.rule)

    def update(self, positions: Sequence[int], detections: Sequence[Detections]) -> None:
        """What was found in some images. positions: in split.images; an image given again replaces itself."""
        self._seen.update(zip(positions, detections, strict=True))

    def evaluate_image(self, position: int, detections: Detections) -> Evaluation:
        """One image alone; what was collected stays as it is."""
        return evaluate_with_masks(
            select_images(self.split, [position]),
            self.class_map,
            [detections],
            masks=self.masks,
            max_detections=self.max_detections,
        )

    def compute(self) -> Evaluation:
        """Boxes, and in `segm` the masks where they were asked for. Raises DetloomError for detections that are not
        finite."""
        return evaluate_with_masks(
            self.seen_split,
            self.class_map,
            self.detections,
            masks=self.masks,
            max_detections=self.max_detections,
        )

    def reset(self) -> None:
        self._seen.clear()
        self.losses = {}

    @property
    def detections(self) -> list[Detections]:
        """In the order of `seen_split.images`."""
        return [self._seen[position] for position in sorted(self._seen)]

    @property
    def seen_split(self) -> Split:
        """The images that were seen, in the order of the split; the split itself when all were."""
        if len(self._seen) == len(self.split):
            return self.split
        return select_images(self.split, sorted(self._seen))


class _LossTally:
    """Sums of the terms and of the normaliser, kept on the device until the end: reading each would stall a GPU."""

    def __init__(self) -> None:
        self._sums: dict[str, torch.Tensor] = {}
        self._normaliser: torch.Tensor | None = None

    def add(self, terms: LossTerms) -> None:
        for name, value in terms.terms.items():
            self._sums[name] = self._sums[name] + value.detach() if name in self._sums else value.detach()
        normaliser = terms.normaliser.detach()
        self._normaliser = normaliser if self._normaliser is None else self._normaliser + normaliser

    def means(self) -> dict[str, float]:
        if self._normaliser is None:
            return {}
        normaliser = max(float(self._normaliser), 1.0)  # as in training
        means = {name: float(value) / normaliser for name, value in self._sums.items()}
        return {"loss": sum(means.values()), **means}


@contextlib.contextmanager
def _evaluation_mode(model: nn.Module) -> Iterator[None]:
    """eval() and inference mode; every module gets its own mode back (frozen ones may have been in eval before)."""
    import torch

    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        with torch.inference_mode():
            yield
    finally:
        for module, training in modes:
            module.training = training
