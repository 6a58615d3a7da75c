# ruff: noqa: TID253
"""How much memory a training will take: real steps on made-up batches of a few images, and a line through them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import torch

from detloom.data.batch import Batch
from detloom.detector import Targets
from detloom.train.assemble import BuiltModel, LoopNeeds, build_loop, choose_precision, place
from detloom.train.freezing import keep_frozen_in_eval
from detloom.train.loop import Hooks, Loop, LoopPlan
from detloom.train.memory import TensorCounter
from detloom_schemas.config import TrainingConfig

LARGEST_PROBE = 16
HEAP, SCRATCH = 1.2, 80e6
"""On a processor, a process takes this many times the bytes of its tensors, since freed memory is kept in pieces, and
this much for code and for the scratch memory of kernels: benchmarks/results/memory_plan.md."""


@dataclass(frozen=True, slots=True)
class Footprint:
    """Bytes of tensors as a line over the images of a batch. probes: (images, measured bytes). on_gpu: what its
    allocator holds was measured; else tensors that are alive were counted."""

    fixed: float
    per_image: float
    probes: tuple[tuple[int, int], ...]
    on_gpu: bool = False

    def tensors_at(self, images: int) -> int:
        """Predicted peak of all tensors of a training with this batch size, in bytes."""
        return round(self.fixed + self.per_image * images)

    def at(self, images: int) -> int:
        """Predicted peak of what the training takes: from the GPU, or from the operating system."""
        tensors = self.tensors_at(images)
        return tensors if self.on_gpu else round(HEAP * tensors + SCRATCH)

    def largest(self, limit: float) -> int:
        """The largest batch that stays below `limit` bytes; 0 when not even one image does."""
        tensors = limit if self.on_gpu else (limit - SCRATCH) / HEAP
        return max(int((tensors - self.fixed) // self.per_image), 0)

    @property
    def how(self) -> str:
        if self.on_gpu:
            return "real steps, the memory that the GPU's allocator held"
        return f"real steps, tensors alive; times {HEAP} plus {SCRATCH / 1e6:.0f} MB for what a process takes besides"


@dataclass(frozen=True, slots=True)
class Scene:
    """What a made-up image holds: as many objects as the fullest real one. masks: with a mask for each."""

    size: tuple[int, int]
    classes: int
    objects: int
    masks: bool = False

    def batch(self, images: int) -> Batch:
        generator = torch.Generator().manual_seed(images)
        height, width = self.size
        pixels = torch.randint(0, 256, (images, 3, height, width), dtype=torch.uint8, generator=generator)
        rows = max(self.objects, 1)
        corner = torch.rand(images, rows, 2, generator=generator) * 0.7
        side = torch.rand(images, rows, 2, generator=generator) * 0.25 + 0.04
        boxes = torch.cat([corner, corner + side], -1) * torch.tensor([width, height, width, height])
        labels = torch.randint(0, self.classes, (images, rows), generator=generator)
        masks = torch.zeros(images, rows, height, width, dtype=torch.uint8) if self.masks else None
        if masks is not None:
            for image in range(images):
                for row in range(rows):
                    left, top, right, bottom = boxes[image, row].long().tolist()
                    masks[image, row, top:bottom, left:right] = 1
        return Batch(pixels, Targets(boxes, labels, masks), list(range(images)), [self.size] * images)


def measure_footprint(
    model: BuiltModel, config: TrainingConfig, objects: int, device: torch.device, *, epoch: int = 0
) -> Footprint:
    """Trains the model for a few steps (it is spoiled by that), with everything that the configuration asks for.

    On a GPU its allocator is asked for the peak. Elsewhere the tensors that are alive are counted operation by
    operation: exact for tensors, blind for the scratch memory of kernels. objects: in the fullest image.
    epoch: whose frozen parts are frozen. Raises ConfigError for what no training could be built from.
    """
    model.freezing.apply(model.detector, epoch)
    place(model.detector, device, config)
    model.detector.train()
    keep_frozen_in_eval(model.detector)
    measure = _on_gpu if device.type == "cuda" else _by_counting
    points: list[tuple[int, int]] = []
    for probe in measure(model, config, objects, device):
        points.append(probe)
        if len(points) > 1:
            fixed, per_image = _line(points)
            # Where weights and their moments outweigh activations, the slope only shows with more images.
            if per_image * points[-1][0] > fixed or points[-1][0] >= LARGEST_PROBE:
                break
    return Footprint(*_line(points), tuple(points), device.type == "cuda")


def _line(points: list[tuple[int, int]]) -> tuple[float, float]:
    (few, less), (many, more) = points[-2:]
    per_image = max((more - less) / (many - few), 1.0)
    return more - per_image * many, per_image


def _probe_sizes() -> Iterator[int]:
    yield 1
    images = 2
    while images <= LARGEST_PROBE:
        yield images
        images *= 2


def _at_its_largest(model: BuiltModel, loop: Loop, objects: int) -> Scene:
    """The scene of the largest size that this training may draw; the loop draws none after that."""
    size = model.detector.input_rule.size if loop.parts.scales is None else loop.parts.scales.sizes[-1]
    loop.parts = replace(loop.parts, scales=None)
    return Scene(size, len(model.detector.class_names), objects, model.detector.masks)


def _by_counting(
    model: BuiltModel, config: TrainingConfig, objects: int, device: torch.device
) -> Iterator[tuple[int, int]]:
    with TensorCounter([*model.detector.parameters(), *model.detector.buffers()]) as counter:
        loop = bare_loop(model, config, device)
    scene = _at_its_largest(model, loop, objects)

    def peak_of(images: int) -> int:
        with counter:
            return _second_step(loop, scene, images, counter.reset_peak, lambda: counter.peak)

    yield from _probes(peak_of)


def _on_gpu(model: BuiltModel, config: TrainingConfig, objects: int, device: torch.device) -> Iterator[tuple[int, int]]:
    loop = bare_loop(model, config, device)
    scene = _at_its_largest(model, loop, objects)

    def peak_of(images: int) -> int:
        torch.cuda.empty_cache()
        return _second_step(
            loop,
            scene,
            images,
            lambda: torch.cuda.reset_peak_memory_stats(device),
            lambda: torch.cuda.max_memory_reserved(device),
        )

    yield from _probes(peak_of)


def _probes(peak_of: Callable[[int], int]) -> Iterator[tuple[int, int]]:
    """Peaks of growing batches. One image is too little for a batch norm whose map is a single pixel."""
    for images in _probe_sizes():
        try:
            peak = peak_of(images)
        except ValueError:
            if images > 1:
                raise
            continue
        yield images, peak


def _second_step(loop: Loop, scene: Scene, images: int, start: Callable[[], None], peak: Callable[[], int]) -> int:
    """The first step makes moments and caches; the second is like all others."""
    micro = [scene.batch(images) for _ in range(min(loop.config.gradient_accumulation, 2))]
    loop.step(micro)
    start()
    loop.step(micro)
    return peak()


def bare_loop(model: BuiltModel, config: TrainingConfig, device: torch.device) -> Loop:
    hooks = Hooks(
        log=lambda values, step, epoch: None,
        epoch_started=lambda epoch, step: None,
        evaluate=lambda epoch: {},
        epoch_finished=lambda epoch, step, metrics: None,
        save=lambda kind, metrics: None,
        stop_requested=lambda: False,
    )
    plan = LoopPlan(1000, 1000, 1, 1, 0, "AP", 1000)
    return build_loop(model, config, LoopNeeds(_Nothing(), plan, hooks, device, choose_precision(config, device)))


class _Nothing:
    batches_per_epoch = 1000

    def epoch(self, epoch: int, start_batch: int = 0) -> Iterator[Batch]:
        return iter(())
