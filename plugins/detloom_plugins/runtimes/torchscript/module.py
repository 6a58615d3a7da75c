# ruff: noqa: TID253
"""A TorchScript module behind the runtime protocol."""

from __future__ import annotations

import json
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from detloom.deploy import torch_device
from detloom.errors import WeightsError
from detloom.prediction import Raw
from detloom_schemas.manifest import EMBEDDED_KEY


class TorchScriptRuntime:
    """Boxes, scores and masks of an exported TorchScript file; see detloom.prediction.Runtime."""

    batch_limit: int | None = None

    def __init__(self, path: Path, device: str) -> None:
        """Raises WeightsError for a file that is no TorchScript module, UsageError for a device that is not there."""
        self._device = torch_device(device)
        extra: dict[str, Any] = {f"{EMBEDDED_KEY}.json": ""}
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # that other formats are preferred nowadays
                self._module = torch.jit.load(  # type: ignore[no-untyped-call]
                    str(path), map_location=self._device, _extra_files=extra
                )
        except (RuntimeError, ValueError) as error:
            raise WeightsError(
                f"{path} cannot be loaded as TorchScript: {str(error).strip().splitlines()[0][:200]}",
                hint="it may be truncated, or hold something else",
            ) from error
        text = extra[f"{EMBEDDED_KEY}.json"]
        try:
            self.manifest: Mapping[str, Any] | None = json.loads(text) if text else None
        except ValueError as error:
            raise WeightsError(f"the manifest inside {path} is no JSON: {error}", hint="export again") from error

    def __call__(self, images: NDArray[np.uint8]) -> Raw:
        with torch.inference_mode():
            return Raw(*(tensor.cpu().numpy() for tensor in self._module(torch.from_numpy(images).to(self._device))))
