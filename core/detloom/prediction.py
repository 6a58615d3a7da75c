# ruff: noqa: TID253
"""Images in, detections out: the same steps around every runtime. Needs no torch unless the runtime does."""

from __future__ import annotations

import dataclasses
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from detloom.data.dataset import ClassMap, Split
from detloom.data.images import ImageError, read_image
from detloom.errors import DataError, DetloomError, UsageError, WeightsError
from detloom.geometry import Detections, InputRule, PostRule, finish
from detloom.manifest import manifest_beside, parse_manifest, rules_of
from detloom.specs import RuntimeRequest, RuntimeSpec

if TYPE_CHECKING:
    from detloom.host import PluginHost
    from detloom_schemas.manifest import ModelManifest


class Raw(NamedTuple):
    """What a network answers. boxes: float32 [B, N, 4] xyxy in pixels of the input; scores: float32 [B, N, C] in 0..1;
    masks: float32 [B, N, h, w], logits over the whole input, None for a model of boxes."""

    boxes: NDArray[np.float32]
    scores: NDArray[np.float32]
    masks: NDArray[np.float32] | None = None


def raw_of(outputs: Mapping[str, NDArray[Any]], classes: int | None) -> Raw:
    """The outputs of a file by their names. A file that finishes detections itself gives scores [B, K] and labels
    [B, K]: they become [B, K, C] with zeros for the other classes, on which the file's own rule changes nothing.

    classes: C by the manifest. Raises WeightsError when it is needed and unknown.
    """
    given = {name: outputs[name] for name in Raw._fields if name in outputs}
    if "labels" in outputs:
        if not classes:
            raise WeightsError("a file that gives labels must say what the classes are", hint="export the model again")
        labels = outputs["labels"].astype(np.int64)[..., None]
        spread = np.zeros((*labels.shape[:2], classes), dtype=np.float32)
        np.put_along_axis(spread, labels, given["scores"][..., None], axis=2)
        given["scores"] = spread
    return Raw(**given)


Answer = tuple[NDArray[np.float32], NDArray[np.float32]] | tuple[NDArray[np.float32], NDArray[np.float32], Any]
"""The fields of Raw; a runtime that knows no masks leaves them away."""


class Runtime(Protocol):
    """A loaded model file."""

    @property
    def batch_limit(self) -> int | None:
        """Most images it takes at once; None: any number."""
        ...

    @property
    def manifest(self) -> Mapping[str, Any] | None:
        """What the file says of itself (`detloom_schemas.manifest.ModelManifest`); None when it cannot hold text, or
        holds none: the manifest beside the file is read then."""
        ...

    def __call__(self, images: NDArray[np.uint8]) -> Answer:
        """images: RGB [B, 3, H, W], prepared by the input rule. Returns boxes, scores and, for a model that predicts
        them, masks, as in Raw."""
        ...


@dataclass(frozen=True, slots=True)
class Predictor:
    """A runtime with the rules around it. runtime_name: of its spec; path: of the file that it runs; manifest: what
    that file says of itself."""

    runtime: Runtime
    input_rule: InputRule
    post_rule: PostRule
    class_map: ClassMap
    runtime_name: str = ""
    path: Path | None = None
    manifest: ModelManifest | None = None

    @property
    def masks(self) -> bool:
        """Whether its detections have masks, by the manifest."""
        return self.manifest is not None and self.manifest.masks

    def predict(self, images: Sequence[NDArray[np.uint8]]) -> list[Detections]:
        """images: uint8 RGB [H, W, 3] of any sizes. Returns detections in pixels of each image, best first.

        All images pass the network together, at most `batch_limit` at a time. Raises DetloomError when the network
        answers with numbers that are none.
        """
        found: list[Detections] = []
        step = self.runtime.batch_limit or max(len(images), 1)
        for start in range(0, len(images), step):
            part = images[start : start + step]
            found += self._finish(self.decode(part), part)
        if not all(np.isfinite(one.boxes).all() for one in found):
            raise DetloomError(
                f"{self.path or 'the model'} answers with boxes that are not numbers",
                hint="its weights have diverged, or 16 bits are too few for it",
            )
        return found

    def _finish(self, raw: Raw, images: Sequence[NDArray[np.uint8]]) -> list[Detections]:
        sizes = [(image.shape[0], image.shape[1]) for image in images]
        masks = raw.masks
        rows = None if masks is None else lambda image, kept: masks[image][kept]
        return finish(raw.boxes, raw.scores, sizes, self.input_rule, self.post_rule, masks=rows)

    def decode(self, images: Sequence[NDArray[np.uint8]]) -> Raw:
        """What the runtime gives for at most `batch_limit` images. Raises WeightsError when masks are missing."""
        prepared = np.stack([self.input_rule.prepare(image) for image in images])
        raw = Raw(*self.runtime(np.ascontiguousarray(prepared.transpose(0, 3, 1, 2))))
        if self.masks and raw.masks is None:
            raise WeightsError(
                f"{self.path or 'the model'} predicts masks by its manifest, and {self.runtime_name or 'its runtime'} "
                "gives none",
                hint="use another runtime, or a newer version of it",
            )
        return raw

    def with_rule(
        self, score: float | None = None, nms: float | None = None, max_detections: int | None = None
    ) -> Predictor:
        """The same with other thresholds; None keeps what the file says. Raises UsageError for a file that has chosen
        its detections itself, when that would have to be undone."""
        given = {"score_threshold": score, "nms_threshold": nms, "max_detections": max_detections}
        changes: dict[str, Any] = {name: value for name, value in given.items() if value is not None}
        rule = dataclasses.replace(self.post_rule, **changes)
        if self.manifest is not None and self.manifest.finished:
            _refuse_undoing(self.post_rule, rule, self.path)
        return dataclasses.replace(self, post_rule=rule)


def _refuse_undoing(inside: PostRule, wanted: PostRule, path: Path | None) -> None:
    """inside: what the file itself applies. Raises UsageError for what it has dropped already."""
    faults = []
    if wanted.score_threshold < inside.score_threshold:
        faults.append(f"scores below {inside.score_threshold:g}")
    if wanted.max_detections > inside.max_detections:
        faults.append(f"more than {inside.max_detections} detections an image")
    if inside.kind == "nms" and wanted.nms_threshold != inside.nms_threshold:
        faults.append(f"another suppression than at an IoU of {inside.nms_threshold:g}")
    if faults:
        raise UsageError(
            f"{path or 'the file'} chooses its detections itself: {' and '.join(faults)} cannot be had from it",
            hint="use the run or its checkpoint, or export without `export.postprocess`",
        )


def open_predictor(path: Path, host: PluginHost, runtime: str = "auto", device: str = "cpu") -> Predictor:
    """A run's folder (its best checkpoint), a checkpoint, or an exported file with its manifest.

    runtime: a name, or `auto`: by the file's suffix. Raises UsageError for what is no model, PluginError for a
    runtime that is missing, WeightsError for a file without a manifest, and whatever the runtime raises.
    """
    file = model_file(path)
    spec = _choose(file, host, runtime)
    with host.blamed(spec):
        loaded = spec.build(spec.settings(), RuntimeRequest(file, device, host))
    stated = loaded.manifest
    if stated is None:
        stated = manifest_beside(file)
    if stated is None:
        raise WeightsError(
            f"{file} holds no manifest, and none lies beside it ({file.name}.json): its classes, its input and its "
            "post-processing are unknown",
            hint="only files exported by Detloom can be used here; export the run with `detloom export`",
        )
    manifest = parse_manifest(stated, str(file))
    rules = rules_of(manifest)
    return Predictor(loaded, rules.input_rule, rules.post_rule, rules.class_map, spec.name, file, manifest)


def model_file(path: Path) -> Path:
    """The file itself, or the best checkpoint of a run's folder. Raises UsageError."""
    if path.is_file():
        return path
    if not path.exists():
        raise UsageError(f"there is no model at {path}", hint="give a run's folder, a checkpoint or an exported file")
    for best in (path / "checkpoints" / "best.pt", path / "best.pt"):
        if best.is_file():
            return best
    raise UsageError(
        f"{path} is no run's folder: it holds no checkpoints/best.pt",
        hint="give a run's folder, a checkpoint or an exported file",
    )


def _choose(file: Path, host: PluginHost, runtime: str) -> RuntimeSpec:
    if runtime != "auto":
        spec = host.get(RuntimeSpec, runtime)
        if file.suffix.lower() not in spec.suffixes:
            raise UsageError(
                f"the runtime {runtime} cannot run {file.name}: it takes {', '.join(spec.suffixes)}",
                hint="leave --runtime away, and the file decides",
            )
        return spec
    specs = host.specs(RuntimeSpec)
    for spec in specs:
        if file.suffix.lower() in spec.suffixes:
            return spec
    known = sorted({suffix for spec in specs for suffix in spec.suffixes})
    missing = "\n  ".join(host.advice(RuntimeSpec, file.suffix.lstrip(".")))
    raise UsageError(
        f"{file} is no model file that can be run here",
        hint=f"files end in {', '.join(known) or 'nothing: no runtime is loaded'}\n  {missing}",
    )


def read_ahead(paths: Iterable[Path], ahead: int = 8) -> Iterator[tuple[Path, NDArray[np.uint8] | ImageError]]:
    """Images in order, decoded by two threads while the one before is in use; an error stands in for what cannot be
    read. ahead: pictures kept in memory."""
    with ThreadPoolExecutor(2, thread_name_prefix="detloom-read") as pool:
        waiting: deque[tuple[Path, Future[NDArray[np.uint8]]]] = deque()
        for path in paths:
            waiting.append((path, pool.submit(read_image, path)))
            if len(waiting) > ahead:
                yield _finished(*waiting.popleft())
        while waiting:
            yield _finished(*waiting.popleft())


def _finished(path: Path, future: Future[NDArray[np.uint8]]) -> tuple[Path, NDArray[np.uint8] | ImageError]:
    try:
        return path, future.result()
    except ImageError as error:
        return path, error


def detect_split(
    predictors: Sequence[Predictor],
    split: Split,
    class_map: ClassMap,
    *,
    batch_size: int = 8,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> list[list[Detections]]:
    """Each predictor over all images of a split, read once. Returns, for each predictor, detections in the order of
    split.images and with the labels of class_map, matched by name. Raises ImageError."""
    columns = [class_columns(predictor.class_map, class_map) for predictor in predictors]
    found: list[list[Detections]] = [[] for _ in predictors]
    batch: list[NDArray[np.uint8]] = []
    for number, (_, image) in enumerate(read_ahead(image.path for image in split.images), start=1):
        if isinstance(image, ImageError):
            raise image
        batch.append(image)
        if len(batch) == batch_size or number == len(split):
            for mine, predictor, order in zip(found, predictors, columns, strict=True):
                mine += [relabel(one, order) for one in predictor.predict(batch)]
            batch = []
            progress(number, len(split))
    return found


def check_classes(model: ClassMap, data: ClassMap, splits: Iterable[Split]) -> None:
    """Raises DataError naming the classes of objects that the model does not know. Order and ids do not matter."""
    counts = sum((np.bincount(split.labels, minlength=len(data)) for split in splits), np.zeros(len(data), np.int64))
    unknown = [
        f"{name} ({count} objects)"
        for name, count in zip(data.names, counts.tolist(), strict=True)
        if count and name not in model.names
    ]
    if unknown:
        raise DataError(
            f"the data have classes that the model does not know: {', '.join(unknown)}",
            hint=f"classes of the model: {', '.join(model.names[:20])}{', ...' if len(model) > 20 else ''}",
        )


def class_columns(model: ClassMap, data: ClassMap) -> NDArray[np.int64]:
    """For each class of the model, the index of the class with the same name in the data; -1: not there."""
    where = {name: index for index, name in enumerate(data.names)}
    return np.array([where.get(name, -1) for name in model.names], dtype=np.int64)


def relabel(found: Detections, columns: NDArray[np.int64]) -> Detections:
    """Detections in the class indices of the data; those of classes that the data do not know are left out."""
    labels = columns[found.labels]
    keep = labels >= 0
    masks = None if found.masks is None else tuple(m for m, k in zip(found.masks, keep, strict=True) if k)
    return Detections(found.boxes[keep], found.scores[keep], labels[keep], masks)
