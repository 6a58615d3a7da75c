# ruff: noqa: TID253
"""A detector as it is deployed: pixels in; boxes, scores and masks out. What exporters write and runtimes run."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from detloom.detector import NO_MASKS, Detector
from detloom.errors import PluginError, UsageError
from detloom.prediction import Raw

INPUT, OUTPUTS, MASKS = "images", ("boxes", "scores"), "masks"


def output_names(detector: Detector) -> tuple[str, ...]:
    """Of its graph, in their order."""
    return (*OUTPUTS, MASKS) if detector.masks else OUTPUTS


class DeployGraph(nn.Module):
    """forward: uint8 RGB [batch, 3, H, W], letterboxed, to boxes float32 [batch, N, 4] xyxy in pixels of the input and
    scores float32 [batch, N, C] in 0..1; for a detector of masks also their logits float32 [batch, N, h, w] over the
    whole input. Normalisation and decoding are inside; only suppression is left outside."""

    def __init__(self, detector: Detector) -> None:
        super().__init__()
        self.detector = detector

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        outputs = self.detector(images)
        # Boxes reach hundreds of pixels, where 16 bits resolve half a pixel: decoding is always done in 32.
        outputs.logits, outputs.boxes = outputs.logits.float(), outputs.boxes.float()
        decoded = self.detector.decode(outputs)
        boxes, scores = decoded.boxes.float(), decoded.scores.float()
        if not self.detector.masks:
            return boxes, scores
        if decoded.masks is None:
            raise PluginError(NO_MASKS[0], hint=NO_MASKS[1])
        return boxes, scores, decoded.masks.float()


def deploy_graph(detector: Detector, *, half: bool = False) -> DeployGraph:
    """A copy on the CPU in evaluation mode; the detector itself stays as it is, also in the middle of a training.

    half: the network computes in 16 bits; normalisation and decoding stay in 32.
    """
    twin = copy.deepcopy(detector).cpu().to(memory_format=torch.contiguous_format)  # type: ignore[call-overload]
    twin.fix_size()
    if half:
        _halve(twin)
    return DeployGraph(twin).eval().requires_grad_(False)


def _halve(detector: Detector) -> None:
    mean, std, normalise = detector._mean, detector._std, detector.normalise
    detector.half()
    detector._mean, detector._std = mean, std
    detector.normalise = lambda images: normalise(images).half()  # type: ignore[method-assign]


def sample_input(size: tuple[int, int], batch: int) -> Tensor:
    """uint8 [batch, 3, H, W] of noise, always the same: to trace a graph with."""
    generator = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, (batch, 3, *size), dtype=torch.uint8, generator=generator)


def torch_device(name: str) -> torch.device:
    """`auto`, `cpu`, `cuda`, `cuda:1`, `mps`. Raises UsageError when this machine has no such device."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError:
        raise UsageError(f"{name!r} is no device", hint="allowed: auto, cpu, cuda, cuda:1, mps") from None
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        count = torch.cuda.device_count()
        raise UsageError(
            f"device {name} was asked for; torch sees {count} CUDA devices here", hint="use --device cpu or auto"
        )
    if device.type == "mps" and not torch.backends.mps.is_available():
        raise UsageError("device mps was asked for; this machine has none", hint="use --device cpu or auto")
    return device


class DetectorRuntime:
    """The runtime protocol over a detector in memory: what every other runtime is compared with."""

    batch_limit: int | None = None

    def __init__(self, detector: Detector, device: str = "cpu", manifest: Mapping[str, Any] | None = None) -> None:
        """detector: is moved to the device and put into evaluation mode."""
        self.manifest = manifest
        self._device = torch_device(device)
        self._graph = DeployGraph(detector).eval().to(self._device)

    def __call__(self, images: NDArray[np.uint8]) -> Raw:
        with torch.inference_mode():
            return Raw(*(tensor.cpu().numpy() for tensor in self._graph(torch.from_numpy(images).to(self._device))))
