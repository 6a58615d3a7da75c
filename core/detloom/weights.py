# ruff: noqa: TID253
"""Reading a file of weights without running its code."""

from __future__ import annotations

import argparse
import pickle
import warnings
import zipfile
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from detloom.errors import PluginError, WeightsError

_WRAPPERS = ("ema", "model", "state_dict", "module")
"""Where training codes put the weights in their checkpoints; averaged weights first: they are the published ones."""


def read_weights(path: Path, source: str = "") -> dict[str, Tensor]:
    """The tensors of a weights file by name, on the CPU; no code of the file is run.

    A training checkpoint is unwrapped (averaged weights before the others) and the prefix that data-parallel training
    adds is taken off. source: what errors call the file, else its path. Raises WeightsError that says what the file is
    instead.
    """
    if not path.exists():
        raise WeightsError(f"there is no weights file {path}", hint="check `model.pretrain_weights`")
    if path.is_dir():
        raise WeightsError(f"{path} is a folder, not a weights file", hint="name the file inside it")
    return _read(path, source or str(path))


def is_web_page(path: Path) -> bool:
    """What a proxy or a login sends instead of a file."""
    return _head(path).lstrip().lower().startswith((b"<!doctype", b"<html", b"<?xml", b"<head"))


def _head(path: Path) -> bytes:
    with path.open("rb") as opened:
        return opened.read(512)


def _read(path: Path, source: str) -> dict[str, Tensor]:
    start = _start(path, source)
    if path.suffix == ".safetensors" or start[8:9] == b"{":
        return _tensors(_read_safetensors(path, source), source)
    _refuse_by_look(path, start, source)
    try:
        # Trainings keep their arguments beside the weights; a namespace holds values and runs nothing.
        with warnings.catch_warnings(), torch.serialization.safe_globals([argparse.Namespace]):
            warnings.simplefilter("ignore")
            content = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        if "unsupported global" not in str(error).lower():
            raise _damaged(source) from error
        raise WeightsError(
            f"{source} holds Python objects besides tensors; reading them could run any code",
            hint="if you trust it, load it where it was made and save only `model.state_dict()`",
        ) from error
    except PermissionError as error:
        raise WeightsError(f"{source} may not be read: {error.strerror}") from error
    except RuntimeError as error:
        if "TorchScript" not in str(error):
            raise _damaged(source) from error
        raise WeightsError(
            f"{source} is a TorchScript program, made to run and not to train",
            hint="name the checkpoint it came from",
        ) from error
    except (EOFError, ValueError, KeyError, OSError, zipfile.BadZipFile) as error:
        raise _damaged(source) from error
    return _tensors(content, source)


def _start(path: Path, source: str) -> bytes:
    """The first bytes. Raises WeightsError for what is no file of weights whatever its name says."""
    try:
        start = _head(path)
    except OSError as error:
        raise WeightsError(f"{source} cannot be read: {error.strerror}") from error
    if not start:
        raise WeightsError(f"{source} is empty", hint="the download or copy may have failed: fetch it again")
    if start.startswith(b"version https://git-lfs"):
        raise WeightsError(f"{source} is a Git LFS pointer, not the weights", hint="run `git lfs pull` there")
    if is_web_page(path):
        raise WeightsError(f"{source} is a web page, not weights", hint="download the file itself")
    return start


def _read_safetensors(path: Path, source: str) -> dict[str, Tensor]:
    try:
        from safetensors import SafetensorError
        from safetensors.torch import load_file
    except ImportError as error:
        raise PluginError(
            f"{source} is a safetensors file; reading it needs safetensors, which is not installed",
            hint="pip install 'detloom[detr]'",
        ) from error
    try:
        return load_file(path)
    except PermissionError as error:
        raise WeightsError(f"{source} may not be read: {error.strerror}") from error
    except (SafetensorError, OSError, ValueError, KeyError, RuntimeError) as error:
        raise _damaged(source) from error


def _refuse_by_look(path: Path, start: bytes, source: str) -> None:
    """What people hand over by mistake, told by the first bytes."""
    if path.suffix == ".onnx":
        raise WeightsError(
            f"{source} is an ONNX graph, made to run and not to train", hint="name the checkpoint it came from"
        )
    if not start.startswith((b"PK\x03\x04", b"\x80")):
        raise WeightsError(
            f"{source} is neither a PyTorch nor a safetensors file",
            hint="weights come as .pth, .pt or .safetensors files",
        )


def _damaged(source: str) -> WeightsError:
    return WeightsError(
        f"{source} is damaged, cut off, or not a file of weights",
        hint="fetch or copy it again and compare its size with the original",
    )


def _tensors(content: Any, source: str) -> dict[str, Tensor]:
    for _ in range(3):  # {"ema": {"module": {...}}} is the deepest that is known
        inner = next((content[key] for key in _WRAPPERS if _is_dict(content) and _is_dict(content.get(key))), None)
        if inner is None:
            break
        content = inner
    if not _is_dict(content) or not content:
        raise WeightsError(
            f"{source} holds {_describe(content)}, not named tensors",
            hint="save `model.state_dict()` with torch.save",
        )
    odd = next((key for key, value in content.items() if not isinstance(value, Tensor)), None)
    if odd is not None:
        raise WeightsError(
            f"{source} is not a file of weights: `{odd}` in it is {_describe(content[odd])}, not a tensor",
            hint="save `model.state_dict()` with torch.save",
        )
    prefix = "module." if all(str(key).startswith("module.") for key in content) else ""
    return {str(key).removeprefix(prefix): value for key, value in content.items()}


def _is_dict(value: Any) -> bool:
    return isinstance(value, dict)


def _describe(value: Any) -> str:
    if isinstance(value, Tensor):
        return f"one tensor of shape {list(value.shape)}"
    if value is None or (_is_dict(value) and not value):
        return "nothing"
    return f"a value of type {type(value).__name__}"
