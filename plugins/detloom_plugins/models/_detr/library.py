"""The one door to transformers, which is imported only when a model of it is built."""

from __future__ import annotations

import importlib
import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType

from detloom.errors import PluginError

EXTRA = "pip install 'detloom[detr]'"


def transformers(family: str) -> ModuleType:
    """The library. Raises PluginError that says how to install it.

    Nothing is ever downloaded by it: weights come through `detloom.weights_download`. Its checks of tensor shapes are
    switched off: each reads a number from the device and makes the processor wait, once a decoder layer.
    """
    os.environ.setdefault("TRANSFORMERS_DISABLE_TORCH_CHECK", "1")
    logging.getLogger("transformers.modeling_utils").addFilter(_without_loss_type)
    try:
        with _offline():
            return importlib.import_module("transformers")
    except ImportError as error:
        raise PluginError(f"{family} needs transformers, which is not installed ({error})", hint=EXTRA) from error


@contextmanager
def _offline() -> Iterator[None]:
    """The hub's library reads this when it is imported. It is no word of the user's: our own downloads go on."""
    before = os.environ.get("HF_HUB_OFFLINE")
    os.environ["HF_HUB_OFFLINE"] = "1"
    try:
        yield
    finally:
        if before is None:
            del os.environ["HF_HUB_OFFLINE"]
        else:
            os.environ["HF_HUB_OFFLINE"] = before


def _without_loss_type(record: logging.LogRecord) -> bool:
    """Tracing reads every property of the library's model; that of its loss, which is never used, warns."""
    return not record.getMessage().startswith("`loss_type=None`")
