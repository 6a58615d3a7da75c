"""The one door to transformers, which is imported only when a model of it is built."""

from __future__ import annotations

import importlib
import logging
import os
from types import ModuleType

from detloom.errors import PluginError

EXTRA = "pip install 'detloom[detr]'"


def transformers(family: str) -> ModuleType:
    """The library. Raises PluginError that says how to install it.

    Nothing is ever downloaded by it: weights come through `detloom.weights`. Its checks of tensor shapes are switched
    off: each reads a number from the device and makes the processor wait, once a decoder layer.
    """
    os.environ.setdefault("TRANSFORMERS_DISABLE_TORCH_CHECK", "1")
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    logging.getLogger("transformers.modeling_utils").addFilter(_without_loss_type)
    try:
        return importlib.import_module("transformers")
    except ImportError as error:
        raise PluginError(f"{family} needs transformers, which is not installed ({error})", hint=EXTRA) from error


def _without_loss_type(record: logging.LogRecord) -> bool:
    """Tracing reads every property of the library's model; that of its loss, which is never used, warns."""
    return not record.getMessage().startswith("`loss_type=None`")
