# ruff: noqa: TID253
"""From a detector to an ONNX file."""

from __future__ import annotations

import contextlib
import logging
import tempfile
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from detloom.deploy import INPUT, DeployGraph, deploy_graph, output_names, sample_input
from detloom.errors import ExportError, PluginError
from detloom.files import atomic_path

from .settings import OnnxSettings

if TYPE_CHECKING:
    from detloom.detector import Detector
    from detloom.specs import ExportRequest

TRACE_BATCH = 2
"""Traced with two images where the batch is free: with one, a graph can mistake the batch for a constant 1."""


class OnnxExporter:
    """Writes with torch's tracing exporter: it keeps the batch size free for every family that was measured, which
    the newer one does not."""

    def __init__(self, settings: OnnxSettings) -> None:
        self.settings = settings
        require("onnx")

    def export(self, detector: Detector, request: ExportRequest) -> Path:
        """Raises ExportError, and PluginError when a package is not installed."""
        if request.simplify:
            require("onnxslim")
        import onnx

        model = self._trace(deploy_graph(detector, half=request.half), request.size)
        if request.simplify:
            model = _simplified(model)
        _describe(model, request.metadata)
        try:
            onnx.checker.check_model(model, full_check=True)
        except onnx.checker.ValidationError as error:
            raise ExportError(f"the ONNX graph is not valid: {_first_line(error)}", hint="try another opset") from error
        path = request.path.with_name(f"{request.path.name}.onnx")
        with atomic_path(path) as part:
            part.write_bytes(model.SerializeToString())
        return path

    def _trace(self, graph: DeployGraph, size: tuple[int, int]) -> Any:
        import onnx

        batch = TRACE_BATCH if self.settings.dynamic_batch else 1
        images = sample_input(size, batch)
        names = output_names(graph.detector)
        free = {name: {0: "batch"} for name in (INPUT, *names)} if self.settings.dynamic_batch else None
        try:
            with _quiet(), torch.no_grad(), tempfile.TemporaryDirectory() as folder:
                file = Path(folder) / "traced.onnx"
                shapes = [tuple(output.shape) for output in graph(images)]
                torch.onnx.export(
                    graph,
                    (images,),
                    file,
                    dynamo=False,
                    opset_version=self.settings.opset,
                    input_names=[INPUT],
                    output_names=list(names),
                    dynamic_axes=free,
                )
                model = onnx.load(file)
        except (RuntimeError, torch.onnx.errors.OnnxExporterError) as error:
            raise ExportError(
                f"torch cannot write this model as ONNX opset {self.settings.opset}: {_first_line(error)}",
                hint="try another opset with --set export.onnx.opset=18",
            ) from error
        _state_shapes(model, shapes)
        return model


def require(package: str) -> None:
    """Raises PluginError when a package of the extra is not installed."""
    from importlib.util import find_spec

    if find_spec(package) is None:
        raise PluginError(
            f"exporting to ONNX needs the package {package}, which is not installed",
            hint=f"install it with: pip install {package}",
        )


def _state_shapes(model: Any, shapes: list[tuple[int, ...]]) -> None:
    """The number of boxes and classes is known; the tracer leaves names such as `Concatboxes_dim_1` for them."""
    for output, shape in zip(model.graph.output, shapes, strict=True):
        for dim, size in zip(output.type.tensor_type.shape.dim[1:], shape[1:], strict=True):
            dim.dim_value = size


def _simplified(model: Any) -> Any:
    import onnxslim

    with _quiet():
        slim = onnxslim.slim(model)
    if slim is None:
        raise ExportError("onnxslim could not simplify the graph", hint="export without --simplify")
    return slim


def _describe(model: Any, metadata: Mapping[str, str]) -> None:
    import onnx

    model.doc_string = ""
    onnx.helper.set_model_props(model, dict(metadata))


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Tracing warns about each Python number it turns into a constant, and that a newer exporter exists. The proof of
    an export is its comparison with the checkpoint, not the absence of such warnings."""
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "onnxslim")]
    levels = [logger.level for logger in loggers]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            for logger in loggers:
                logger.setLevel(logging.ERROR)
            yield
        finally:
            for logger, level in zip(loggers, levels, strict=True):
                logger.setLevel(level)


def _first_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return lines[0][:300] if lines else type(error).__name__
