# ruff: noqa: TID253
"""One onnxruntime session behind the runtime protocol."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from detloom.cores import inference_threads
from detloom.errors import PluginError, UsageError, WeightsError
from detloom.prediction import Raw, raw_of
from detloom_schemas.manifest import EMBEDDED_KEY

try:
    import onnxruntime
except ImportError as error:
    raise PluginError(
        f"running ONNX files needs the package onnxruntime, which cannot be imported: {error}",
        hint="install it with: pip install onnxruntime",
    ) from error


OUTPUTS = (*Raw._fields, "labels")


class OnnxRuntime:
    """Boxes, scores and masks of an exported ONNX file; see detloom.prediction.Runtime."""

    def __init__(self, path: Path, device: str) -> None:
        """Raises WeightsError for a file that is no ONNX graph, UsageError for a device that is not there."""
        providers = _providers(device)
        try:
            self._session: Any = onnxruntime.InferenceSession(str(path), _options(), providers=providers)
        except Exception as error:  # onnxruntime raises a dozen kinds of its own, all of them about the file
            raise WeightsError(
                f"{path} cannot be loaded as ONNX: {_short(error)}", hint="it may be truncated, or hold something else"
            ) from error
        self.manifest = _manifest(self._session, path)
        self._input, self._fixed = _layout(self._session, path)
        self._outputs = [output.name for output in self._session.get_outputs() if output.name in OUTPUTS]
        self._classes = len((self.manifest or {}).get("classes", ()))

    @property
    def batch_limit(self) -> int | None:
        return self._fixed

    def __call__(self, images: NDArray[np.uint8]) -> Raw:
        count = len(images)
        if self._fixed is not None and count < self._fixed:
            images = np.concatenate([images, np.repeat(images[-1:], self._fixed - count, axis=0)])
        found = self._session.run(self._outputs, {self._input: images})
        outputs = {name: output[:count] for name, output in zip(self._outputs, found, strict=True)}
        return raw_of(outputs, self._classes)


def _options() -> Any:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = inference_threads()
    options.inter_op_num_threads = 1
    # Spinning threads burn the cores that decode the next images.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.log_severity_level = 3
    return options


def _providers(device: str) -> list[Any]:
    kind, _, index = device.partition(":")
    if kind not in ("auto", "cpu", "cuda") or not (index.isdecimal() or not index):
        raise UsageError(f"{device!r} is no device of onnxruntime", hint="allowed: auto, cpu, cuda, cuda:1")
    has_cuda = "CUDAExecutionProvider" in onnxruntime.get_available_providers()
    if kind == "cuda" and not has_cuda:
        raise UsageError(
            f"device {device} was asked for; the installed onnxruntime has no CUDA",
            hint="install onnxruntime-gpu instead of onnxruntime, or use --device cpu",
        )
    cuda = ("CUDAExecutionProvider", {"device_id": int(index or 0)})
    return [cuda, "CPUExecutionProvider"] if has_cuda and kind != "cpu" else ["CPUExecutionProvider"]


def _manifest(session: Any, path: Path) -> Mapping[str, Any] | None:
    text = session.get_modelmeta().custom_metadata_map.get(EMBEDDED_KEY)
    if text is None:
        return None
    try:
        values = json.loads(text)
    except ValueError as error:
        raise WeightsError(f"the manifest inside {path} is no JSON: {error}", hint="export the model again") from error
    return values if isinstance(values, dict) else None


def _layout(session: Any, path: Path) -> tuple[str, int | None]:
    """Name of the input, and the fixed batch size or None. Raises WeightsError for a graph of another shape."""
    inputs, outputs = session.get_inputs(), {output.name for output in session.get_outputs()}
    if len(inputs) != 1 or inputs[0].type != "tensor(uint8)" or not {"boxes", "scores"} <= outputs:
        seen = ", ".join(f"{i.name} {i.type} {i.shape}" for i in inputs)
        raise WeightsError(
            f"{path} is not a graph exported by Detloom: it takes {seen} and gives {', '.join(sorted(outputs))}; "
            "needed are one tensor(uint8) [batch, 3, H, W] and the outputs boxes and scores",
            hint="export the run with `detloom export`",
        )
    batch = inputs[0].shape[0]
    return inputs[0].name, batch if isinstance(batch, int) else None


def _short(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return lines[0][:300] if lines else type(error).__name__
