# ruff: noqa: TID253
"""From a detector to a TorchScript file."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from detloom.deploy import deploy_graph, sample_input
from detloom.errors import ExportError
from detloom.files import atomic_path

if TYPE_CHECKING:
    from detloom.detector import Detector
    from detloom.specs import ExportRequest


class TorchScriptExporter:
    """Traces with two images and freezes: weights become constants, batch norm is folded into convolutions.

    Freezing is what `simplify` asks for, and is always done. Metadata become extra files `<key>.json`.
    """

    def export(self, detector: Detector, request: ExportRequest) -> Path:
        """Raises ExportError."""
        if request.half:
            raise ExportError(
                "TorchScript files are written in 32 bits only",
                hint="leave export.half away, or export to onnx",
            )
        path = request.path.with_name(f"{request.path.name}.torchscript")
        with warnings.catch_warnings(), torch.no_grad():
            warnings.simplefilter("ignore")  # each Python number that becomes a constant
            try:
                # Not traced twice to compare: the gate runs the file, and caches may legitimately change the graph.
                traced: torch.jit.ScriptModule = torch.jit.trace(  # type: ignore[no-untyped-call]
                    deploy_graph(detector), sample_input(request.size, 2), check_trace=False
                )
                frozen = torch.jit.freeze(traced.eval())
            except RuntimeError as error:
                reason = str(error).strip().splitlines()[0][:300]
                raise ExportError(f"torch cannot trace this model: {reason}", hint="export to onnx") from error
            with atomic_path(path) as part:
                extra = {f"{key}.json": value for key, value in request.metadata.items()}
                torch.jit.save(frozen, str(part), _extra_files=extra)
        return path
