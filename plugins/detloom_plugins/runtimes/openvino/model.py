# ruff: noqa: TID253
"""One compiled OpenVINO model behind the runtime protocol."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from detloom.cores import inference_threads
from detloom.errors import PluginError, UsageError, WeightsError
from detloom.files import sha256_of
from detloom.prediction import Raw, raw_of
from detloom_schemas.manifest import EMBEDDED_KEY, WEIGHTS_KEY

try:
    import openvino
except ImportError as error:
    raise PluginError(
        f"running OpenVINO files needs the package openvino, which cannot be imported: {error}",
        hint="install it with: pip install 'detloom[openvino]'",
    ) from error


class OpenVinoRuntime:
    """Boxes, scores and masks of an exported OpenVINO model; see detloom.prediction.Runtime."""

    def __init__(self, path: Path, device: str, precision: str = "f32") -> None:
        """precision: that it computes in, `f32` or `bf16`.

        Raises WeightsError for a file that is no such model, or whose .bin is missing or another model's; UsageError
        for a device or a precision that is not there.
        """
        core = openvino.Core()
        # A mapped file that somebody writes anew would end this process with a bus error.
        core.set_property({"ENABLE_MMAP": False})
        place = _device(core, device, precision)
        model = _read(core, path)
        self.manifest = _manifest(model, path)
        self._classes = len((self.manifest or {}).get("classes", ()))
        self._fixed, self._outputs = _layout(model, path)
        self._compiled: Any = core.compile_model(model, place, _options(place, precision))

    @property
    def batch_limit(self) -> int | None:
        return self._fixed

    def __call__(self, images: NDArray[np.uint8]) -> Raw:
        count = len(images)
        if self._fixed is not None and count < self._fixed:
            images = np.concatenate([images, np.repeat(images[-1:], self._fixed - count, axis=0)])
        found = self._compiled(images)
        return raw_of({name: found[name][:count] for name in self._outputs}, self._classes)


def _device(core: Any, name: str, precision: str) -> str:
    """`auto` and `cpu`, or what OpenVINO has here: `gpu`, `gpu.1`, `npu`."""
    here = list(core.available_devices)
    place = "CPU" if name == "auto" else name.upper()
    if place not in here:
        allowed = ", ".join(["auto", *(one.lower() for one in here)])
        raise UsageError(f"OpenVINO has no device {name!r} here", hint=f"allowed: {allowed}")
    if precision == "bf16" and "BF16" not in core.get_property(place, "OPTIMIZATION_CAPABILITIES"):
        raise UsageError(
            f"the device {place.lower()} does not compute in bf16", hint="use the runtime openvino, which takes 32 bits"
        )
    return place


def _options(place: str, precision: str) -> dict[str, Any]:
    options: dict[str, Any] = {"INFERENCE_PRECISION_HINT": precision}
    if place == "CPU":
        options |= {"INFERENCE_NUM_THREADS": inference_threads(), "NUM_STREAMS": 1, "ENABLE_CPU_PINNING": False}
    return options


def _read(core: Any, path: Path) -> Any:
    weights = path.with_suffix(".bin")
    if not weights.is_file():
        raise WeightsError(f"{weights} is missing: an OpenVINO model is two files", hint=f"copy it beside {path.name}")
    _refuse_others(path, weights)
    try:
        return core.read_model(path, weights)
    except RuntimeError as error:
        raise WeightsError(
            f"{path} cannot be loaded as OpenVINO: {_reason(error)}", hint="it may be truncated, or hold something else"
        ) from error


def _refuse_others(path: Path, weights: Path) -> None:
    """By the hash that the .xml states. Looked for in its text: with the weights of another model, reading it may fail
    in any way, or not at all."""
    found = re.search(rf'<{WEIGHTS_KEY} value="([0-9a-f]{{64}})"'.encode(), path.read_bytes())
    stated = found[1].decode() if found is not None else ""
    if stated and stated != sha256_of(weights):
        raise WeightsError(
            f"{weights.name} belongs to another model than {path.name}, which states SHA-256 {stated[:12]}...",
            hint="copy both files of one export, or export again",
        )


def _manifest(model: Any, path: Path) -> Mapping[str, Any] | None:
    if not model.has_rt_info(EMBEDDED_KEY):
        return None
    try:
        values = json.loads(str(model.get_rt_info(EMBEDDED_KEY).value))
    except ValueError as error:
        raise WeightsError(f"the manifest inside {path} is no JSON: {error}", hint="export the model again") from error
    return values if isinstance(values, dict) else None


def _layout(model: Any, path: Path) -> tuple[int | None, list[str]]:
    """The fixed batch size or None, and the names of the outputs. Raises WeightsError for a model of another shape."""
    inputs, given = model.inputs, {name for output in model.outputs for name in output.names}
    outputs = [name for name in (*Raw._fields, "labels") if name in given]
    if len(inputs) != 1 or inputs[0].element_type != openvino.Type.u8 or not {"boxes", "scores"} <= given:
        seen = ", ".join(f"{one.element_type.get_type_name()} {one.partial_shape}" for one in inputs)
        raise WeightsError(
            f"{path} is not a model exported by Detloom: it takes {seen} and gives {', '.join(sorted(given))}; needed "
            "are one u8 [batch, 3, H, W] and the outputs boxes and scores",
            hint="export the run with `detloom export`",
        )
    batch = inputs[0].partial_shape[0]
    return None if batch.is_dynamic else batch.get_length(), outputs


def _reason(error: BaseException) -> str:
    """OpenVINO begins with the places of its own source."""
    lines = [line.strip() for line in str(error).splitlines()]
    told = [line for line in lines if line and not line.startswith("Exception from ")]
    return " ".join(told)[:300] or type(error).__name__
