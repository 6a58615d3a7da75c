"""From a detector to the two files of an OpenVINO model."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from detloom.deploy import deploy_graph
from detloom.errors import ExportError, PluginError
from detloom.export.finishing import finish_graph
from detloom.export.onnx_graph import onnx_graph
from detloom.files import atomic_path, sha256_of
from detloom_schemas.manifest import WEIGHTS_KEY

try:
    import openvino
except ImportError as error:
    raise PluginError(
        f"exporting to OpenVINO needs the package openvino, which cannot be imported: {error}",
        hint="install it with: pip install 'detloom[openvino]'",
    ) from error

if TYPE_CHECKING:
    from detloom.detector import Detector
    from detloom.specs import ExportRequest


class OpenVinoExporter:
    """Converts the ONNX graph, which every family has, by OpenVINO's own reader.

    Folding constants is what `simplify` asks for, and is always done. `half` stores the weights in 16 bits; what it
    computes in is the runtime's choice. Metadata stand in the model's `rt_info`, with the SHA-256 of the weights: the
    .xml says which .bin it belongs to. Not `openvino.convert_model`: it reports its use to its maker.
    """

    def export(self, detector: Detector, request: ExportRequest) -> Path:
        """Raises ExportError, and PluginError when a package is not installed."""
        with tempfile.TemporaryDirectory() as folder:
            model = _converted(detector, request, Path(folder))
            file = Path(folder) / "model.xml"
            # Written twice: the hash of the weights is known when they are there.
            _save(model, file, half=request.half, about={})
            digest = sha256_of(file.with_suffix(".bin"))
            _save(model, file, half=request.half, about={**request.metadata, WEIGHTS_KEY: digest})
            path = request.path.with_name(f"{request.path.name}.xml")
            for suffix in (".bin", ".xml"):
                with atomic_path(path.with_name(f"{request.path.name}{suffix}")) as part:
                    shutil.copyfile(file.with_suffix(suffix), part)
        return path


def _converted(detector: Detector, request: ExportRequest, folder: Path) -> Any:
    model = onnx_graph(deploy_graph(detector), request.size)
    if request.finish is not None:
        finish_graph(model, request.finish)
    graph = folder / "graph.onnx"
    graph.write_bytes(model.SerializeToString())
    core = openvino.Core()
    core.set_property({"ENABLE_MMAP": False})  # the folder is removed, which Windows forbids for mapped files
    try:
        return core.read_model(graph)
    except RuntimeError as error:
        raise ExportError(
            f"OpenVINO cannot convert this model: {_reason(error)}", hint="export to onnx, or try another version"
        ) from error


def _save(model: Any, file: Path, *, half: bool, about: Mapping[str, str]) -> None:
    for key, text in about.items():
        model.set_rt_info(text, key)
    try:
        openvino.save_model(model, file, compress_to_fp16=half)
    except RuntimeError as error:
        raise ExportError(f"OpenVINO cannot write this model: {_reason(error)}", hint="is the disk full?") from error


def _reason(error: BaseException) -> str:
    """OpenVINO begins with the places of its own source."""
    lines = [line.strip() for line in str(error).splitlines()]
    told = [line for line in lines if line and not line.startswith("Exception from ")]
    return " ".join(told)[:300] or type(error).__name__
