# ruff: noqa: TID253
"""From a detector to an ONNX graph: what every exporter of ONNX, or of something that is converted from it, starts
from."""

from __future__ import annotations

import contextlib
import logging
import tempfile
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from detloom.deploy import INPUT, DeployGraph, output_names, sample_input
from detloom.errors import ExportError, PluginError

TRACE_BATCH = 2
"""Traced with two images where the batch is free: with one, a graph can mistake the batch for a constant 1."""


def onnx_graph(graph: DeployGraph, size: tuple[int, int], *, opset: int = 17, dynamic_batch: bool = True) -> Any:
    """An onnx.ModelProto with the input `images` and the outputs of the graph. size: network input (height, width).

    Raises ExportError when torch cannot write the model, PluginError when onnx is not installed.
    """
    require("onnx")
    import onnx

    batch = TRACE_BATCH if dynamic_batch else 1
    images = sample_input(size, batch)
    names = output_names(graph.detector)
    free = {name: {0: "batch"} for name in (INPUT, *names)} if dynamic_batch else None
    try:
        with quiet(), torch.no_grad(), tempfile.TemporaryDirectory() as folder:
            file = Path(folder) / "traced.onnx"
            shapes = [tuple(output.shape) for output in graph(images)]
            torch.onnx.export(
                graph,
                (images,),
                file,
                dynamo=False,
                opset_version=opset,
                input_names=[INPUT],
                output_names=list(names),
                dynamic_axes=free,
            )
            model = onnx.load(file)
    except (RuntimeError, torch.onnx.errors.OnnxExporterError) as error:
        raise ExportError(
            f"torch cannot write this model as ONNX opset {opset}: {first_line(error)}",
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


@contextlib.contextmanager
def quiet() -> Iterator[None]:
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


def first_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return lines[0][:300] if lines else type(error).__name__
