"""Small DETR detectors, the proof that one learns, and what is counted while it does."""

from __future__ import annotations

import copy
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from detloom.boxes import pairwise_iou
from detloom.detector import Detector, Targets
from detloom.discovery import first_party_candidates
from detloom.geometry import Detections
from detloom.host import PluginHost
from detloom.specs import (
    ExporterSpec,
    ExportRequest,
    LossSpec,
    ModelContext,
    ModelSpec,
    RuntimeRequest,
    RuntimeSpec,
)
from detloom.train.ema import ModelEMA
from detloom.train.optimizer import Rates, parameter_groups
from detloom.train.seeding import seed_torch

NAMES = ("disc", "square", "bar")
COLOURS = ((230, 60, 40), (40, 90, 220), (250, 220, 60))
HOST = PluginHost(first_party_candidates())


# ---- building -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Family:
    """How tests build a small detector. spec: a published size, for the losses that the family takes. build: gets
    settings and context. settings: changed from the family's defaults. size: that the small one is made for; wide:
    another one that it takes."""

    spec: str
    build: Callable[[Any, ModelContext], Detector]
    settings: Mapping[str, Any] = field(default_factory=dict)
    size: tuple[int, int] = (128, 128)
    wide: tuple[int, int] = (96, 160)


def build(
    family: Family,
    classes: Sequence[str] = NAMES,
    size: tuple[int, int] | None = None,
    losses: Mapping[str, str] | None = None,
    **settings: Any,
) -> Detector:
    """losses: by role, other ones than the family's own."""
    spec = HOST.get(ModelSpec, family.spec)
    chosen = {role: HOST.get(LossSpec, (losses or {}).get(role, own)) for role, own in spec.loss_roles.items()}
    weights: dict[str, Any] = {
        name: spec.recipe.get(f"loss.{name}_weight", default)
        for name, default in (("classification", 1.0), ("box", 2.0))
    }
    context = ModelContext(
        tuple(classes),
        size or family.size,
        {role: loss.build(loss.settings()) for role, loss in chosen.items()},
        weights,
        chosen["classification"].quality,
    )
    own = type(spec.settings()).model_validate({**family.settings, **settings})
    return family.build(own, context)


# ---- data ---------------------------------------------------------------------------------------------------------


def drawn_batch(
    size: tuple[int, int] = (192, 192), objects: Sequence[int] = (3, 2), seed: int = 0
) -> tuple[Tensor, Targets]:
    """Images with coloured rectangles on grey noise: a colour a class, no two of them overlapping."""
    rng = np.random.default_rng(seed)
    height, width = size
    most = max(1, *objects)
    images = rng.integers(90, 150, (len(objects), 3, height, width)).astype(np.uint8)
    boxes, labels = np.zeros((len(objects), most, 4), np.float32), np.full((len(objects), most), -1)
    masks = np.zeros((len(objects), most, height, width), np.uint8)
    for image, count in enumerate(objects):
        cells = rng.permutation(4)
        for row in range(count):
            top, left = cells[row] // 2 * height // 2, cells[row] % 2 * width // 2
            h, w = rng.integers(height // 5, height // 2 - 4), rng.integers(width // 5, width // 2 - 4)
            y, x = top + rng.integers(0, height // 2 - h), left + rng.integers(0, width // 2 - w)
            label = (image + row) % len(COLOURS)
            images[image, :, y : y + h, x : x + w] = np.array(COLOURS[label], np.uint8)[:, None, None]
            masks[image, row, y : y + h, x : x + w] = 1
            boxes[image, row], labels[image, row] = (x, y, x + w, y + h), label
    return torch.from_numpy(images), Targets(*map(torch.from_numpy, (boxes, labels, masks)))


# ---- the proof that it learns --------------------------------------------------------------------------------------


@dataclass
class Learned:
    detector: Detector
    ema: ModelEMA
    images: Tensor
    targets: Targets
    losses: list[float]


def overfit(
    detector: Detector,
    *,
    steps: int = 100,
    lr: float = 1e-3,
    clip: float = 0.5,
    seed: int = 0,
    batch: tuple[Tensor, Targets] | None = None,
) -> Learned:
    """Steps on one drawn batch, as the loop makes them: layer groups, one normaliser, clipping, averaged weights."""
    images, targets = batch or drawn_batch(detector.input_rule.size, seed=seed)
    optimizer = torch.optim.AdamW(parameter_groups(detector, Rates(lr)), lr=lr)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, lr, total_steps=steps, pct_start=0.15)
    ema = ModelEMA(detector, decay=0.9, warmup_steps=1.0)
    detector.train()
    losses = []
    for step in range(steps):
        seed_torch(seed, step)
        terms = detector.loss(detector(images, targets), targets)
        (terms.total / terms.normaliser).backward()
        torch.nn.utils.clip_grad_norm_(detector.parameters(), clip)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        schedule.step()
        ema.update(detector)
        losses.append(float(terms.total.detach() / terms.normaliser))
    return Learned(detector.eval(), ema, images, targets, losses)


def predict(detector: Detector, images: Tensor) -> list[Detections]:
    with torch.inference_mode():
        return detector.predict(detector(images), [detector.input_rule.size] * len(images))


def assert_found(found: Sequence[Detections], targets: Targets, *, overlap: float = 0.9) -> None:
    """The best predictions, as many as there are objects, are the objects: class and box."""
    for image, detections in enumerate(found):
        truth = targets.boxes[image][targets.valid[image]]
        labels = targets.labels[image][targets.valid[image]]
        best = detections.boxes[: len(truth)]
        overlaps = pairwise_iou(truth, torch.from_numpy(best))
        owners = overlaps.argmax(1)
        assert sorted(owners.tolist()) == list(range(len(truth))), f"image {image}: {overlaps}"
        assert detections.labels[owners.numpy()].tolist() == labels.tolist(), f"image {image}"
        assert bool((overlaps.max(1).values > overlap).all()), f"image {image}: {overlaps}"


def check_learned(learned: Learned, again: Callable[[], Detector], folder: Path) -> None:
    """What was learned is found by the weights, by their average, by a reloaded checkpoint and by an exported file.

    again: builds the same detector anew, with other random weights.
    """
    detector, images, targets = learned.detector, learned.images, learned.targets
    assert_found(predict(detector, images), targets)
    with learned.ema.applied(detector):
        assert_found(predict(detector, images), targets)

    torch.save(detector.saved_state(), folder / "weights.pt")
    twin = again().eval()
    twin.load_saved_state(torch.load(folder / "weights.pt", weights_only=True))
    expected = predict(detector, images)
    for mine, theirs in zip(predict(twin, images), expected, strict=True):
        assert np.array_equal(mine.boxes, theirs.boxes) and np.array_equal(mine.labels, theirs.labels)

    boxes, scores = exported(detector, images, folder)
    with torch.inference_mode():
        decoded = detector.decode(detector(images))
    size = max(detector.input_rule.size)
    assert np.abs(boxes - decoded.boxes.numpy()).max() / size < 1e-4
    assert np.abs(scores - decoded.scores.numpy()).max() < 1e-4


def exported(detector: Detector, images: Tensor, folder: Path) -> tuple[np.ndarray, np.ndarray]:
    """Boxes [B, N, 4] and scores [B, N, C] of the detector's ONNX file, the same for any number of images."""
    spec = HOST.get(ExporterSpec, "onnx")
    request = ExportRequest(folder / "model", detector.input_rule.size, half=False, simplify=False, metadata={})
    path = spec.build(spec.settings()).export(detector, request)
    runtime_spec = HOST.get(RuntimeSpec, "onnxruntime")
    runtime = runtime_spec.build(runtime_spec.settings(), RuntimeRequest(path, "cpu", HOST))
    boxes, scores = runtime(images.numpy())[:2]
    for row in range(len(images)):
        alone = runtime(images[row : row + 1].numpy())
        assert np.abs(alone[0] - boxes[row : row + 1]).max() < 0.05
        assert np.abs(alone[1] - scores[row : row + 1]).max() < 1e-4
    return boxes, scores


# ---- counting waits for the device ----------------------------------------------------------------------------------


class HostReads(TorchDispatchMode):
    """Counts what would make the processor wait for a GPU: tensors read as numbers, and results whose shape depends on
    values. `.cpu()` does nothing on a processor, so it is counted where it is called (`host_reads`)."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        name = func.overloadpacket.__name__
        reading = name in {"_local_scalar_dense", "nonzero", "masked_select", "_unique2", "unique_dim", "is_nonzero"}
        if name in {"index", "index_put", "index_put_", "_index_put_impl_"}:
            masks = [i for i in args[1] if i is not None and i.dtype in {torch.bool, torch.uint8}]
            reading = reading or bool(masks)
        if reading:
            self.found.append(name)
        return func(*args, **(kwargs or {}))


@contextmanager
def host_reads() -> Iterator[list[str]]:
    """Names of the reads within the block."""
    real = {name: getattr(Tensor, name) for name in ("cpu", "tolist", "numpy")}
    with HostReads() as mode:
        copied: list[int] = []

        def cpu(tensor: Tensor, *arguments: Any, **options: Any) -> Tensor:
            mode.found.append("cpu")
            copy_ = real["cpu"](tensor, *arguments, **options)
            copied.append(id(copy_))
            kept.append(copy_)
            return copy_  # type: ignore[no-any-return]

        def read(name: str) -> Any:
            def inner(tensor: Tensor, *arguments: Any, **options: Any) -> Any:
                if id(tensor) not in copied:
                    mode.found.append(name)
                return real[name](tensor, *arguments, **options)

            return inner

        kept: list[Tensor] = []
        Tensor.cpu = cpu  # type: ignore[method-assign,assignment]
        Tensor.tolist, Tensor.numpy = read("tolist"), read("numpy")  # type: ignore[method-assign]
        try:
            yield mode.found
        finally:
            for name, method in real.items():
                setattr(Tensor, name, method)


# ---- names ----------------------------------------------------------------------------------------------------------


def original_names(rules: Sequence[Sequence[str]], names: Sequence[str]) -> dict[str, str]:
    """Names of an original repository for the library's names. rules: (pattern of the original name, the library's name
    with its groups), as a conversion script has them; read backwards here."""
    backwards = [_reversed(pattern, target) for pattern, target in rules]
    found = {}
    for name in names:
        for pattern, template in backwards:
            if match := re.fullmatch(pattern, name):
                found[name] = re.sub(r"\\(\d+)", lambda group, match=match: match[f"g{group[1]}"], template)
                break
    return found


def _reversed(pattern: str, target: str) -> tuple[str, str]:
    groups = re.findall(r"\((?!\?)[^()]*\)", pattern)
    template = pattern.removeprefix("^").removesuffix("$")
    for number, group in enumerate(groups, 1):
        template = template.replace(group, f"\\{number}", 1)
    template = template.replace("\\.", ".")
    escaped = re.escape(target)
    for number, group in enumerate(groups, 1):
        once = f"(?P<g{number}>{group[1:-1]})"
        escaped = escaped.replace(re.escape(f"\\{number}"), once, 1)
    return escaped, template


def class_tensors(family: Family) -> list[str]:
    """Names in the state dict whose shape depends on the number of classes."""
    if family.spec not in _CLASS_TENSORS:
        three, five = (build(family, [str(i) for i in range(count)]).state_dict() for count in (3, 5))
        _CLASS_TENSORS[family.spec] = [name for name, tensor in three.items() if tensor.shape != five[name].shape]
    return _CLASS_TENSORS[family.spec]


_CLASS_TENSORS: dict[str, list[str]] = {}


def randomised(module: nn.Module, seed: int = 0) -> dict[str, Tensor]:
    """A copy of its state in which every floating number differs from what initialisation gives."""
    generator = torch.Generator().manual_seed(seed)
    state = copy.deepcopy(module.state_dict())
    for tensor in state.values():
        if tensor.is_floating_point():
            tensor.add_(torch.rand(tensor.shape, generator=generator))
    return state
