"""From a detector to an ONNX file."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from detloom.deploy import deploy_graph
from detloom.errors import ExportError
from detloom.export.finishing import finish_graph
from detloom.export.onnx_graph import first_line, onnx_graph, quiet, require
from detloom.files import atomic_path

from .settings import OnnxSettings

if TYPE_CHECKING:
    from detloom.detector import Detector
    from detloom.specs import ExportRequest


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

        graph = deploy_graph(detector, half=request.half)
        model = onnx_graph(graph, request.size, opset=self.settings.opset, dynamic_batch=self.settings.dynamic_batch)
        if request.finish is not None:
            finish_graph(model, request.finish)
        if request.simplify:
            model = _simplified(model)
        _describe(model, request.metadata)
        try:
            onnx.checker.check_model(model, full_check=True)
        except onnx.checker.ValidationError as error:
            raise ExportError(f"the ONNX graph is not valid: {first_line(error)}", hint="try another opset") from error
        path = request.path.with_name(f"{request.path.name}.onnx")
        with atomic_path(path) as part:
            part.write_bytes(model.SerializeToString())
        return path


def _simplified(model: Any) -> Any:
    import onnxslim

    with quiet():
        slim = onnxslim.slim(model)
    if slim is None:
        raise ExportError("onnxslim could not simplify the graph", hint="export without --simplify")
    return slim


def _describe(model: Any, metadata: Mapping[str, str]) -> None:
    import onnx

    model.doc_string = ""
    onnx.helper.set_model_props(model, dict(metadata))
