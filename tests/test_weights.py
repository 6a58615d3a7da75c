"""Reading files of weights."""

from __future__ import annotations

import io
import json
import struct
import sys
from pathlib import Path

import pytest
import torch

from detloom.errors import PluginError, WeightsError
from detloom.weights import read_weights


def saved(value: object) -> bytes:
    buffer = io.BytesIO()
    torch.save(value, buffer)
    return buffer.getvalue()


WEIGHTS = saved({"a.weight": torch.arange(6.0).reshape(2, 3)})
TENSOR = torch.arange(3.0)


@pytest.mark.parametrize(
    "content",
    [
        {"w": TENSOR},
        {"model": {"w": TENSOR}, "epoch": 3},
        {"ema": {"module": {"w": TENSOR}}, "model": {"w": TENSOR + 1}},
        {"state_dict": {"module.w": TENSOR}},
    ],
)
def test_checkpoints_are_unwrapped(tmp_path: Path, content: object) -> None:
    path = tmp_path / "weights.pth"
    path.write_bytes(saved(content))
    found = read_weights(path)
    assert list(found) == ["w"] and torch.equal(found["w"], TENSOR)


def safetensors() -> bytes:
    header = json.dumps({"w": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}}).encode()
    return struct.pack("<Q", len(header)) + header + bytes(4)


@pytest.mark.parametrize("name", ["model.safetensors", "renamed.pth"])
def test_safetensors_files_are_read_whatever_they_are_called(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    path.write_bytes(safetensors())
    found = read_weights(path)
    assert list(found) == ["w"] and torch.equal(found["w"], torch.zeros(1))


def test_without_safetensors_the_package_to_install_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "model.safetensors"
    path.write_bytes(safetensors())
    monkeypatch.setitem(sys.modules, "safetensors", None)
    with pytest.raises(PluginError, match=r"safetensors file.*\n.*detloom\[detr\]"):
        read_weights(path)


class Anything:
    pass


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("cut.pth", WEIGHTS[: len(WEIGHTS) // 2], "damaged, cut off"),
        ("cut.pt", saved(TENSOR)[:40], "damaged, cut off"),
        ("old.pth", b"\x80\x02garbage", "damaged, cut off"),
        ("empty.pth", b"", "is empty"),
        ("photo.pth", b"\xff\xd8\xff\xe0 JFIF", "neither a PyTorch nor a safetensors file"),
        ("page.pth", b"\n<html><body>404</body>", "web page"),
        ("pointer.pth", b"version https://git-lfs.github.com/spec/v1\noid", "Git LFS pointer"),
        ("cut.safetensors", safetensors()[:-2], "damaged, cut off"),
        ("renamed.pth", safetensors()[:40], "damaged, cut off"),
        ("page.safetensors", b"<html>", "web page"),
        ("model.onnx", b"\x08\x07\x12\x07pytorch", "ONNX graph"),
        ("list.pth", saved([TENSOR]), "a value of type list, not named tensors"),
        ("one.pth", saved(TENSOR), r"one tensor of shape \[3\]"),
        ("none.pth", saved({}), "holds nothing"),
        ("mixed.pth", saved({"w": TENSOR, "step": 4}), "`step` in it is a value of type int"),
        ("code.pth", saved({"w": Anything()}), "Python objects besides tensors"),
    ],
)
def test_anything_but_weights_is_named(tmp_path: Path, name: str, content: bytes, message: str) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(WeightsError, match=message) as caught:
        read_weights(path)
    assert name in caught.value.message and caught.value.hint


def test_a_scripted_model_is_no_file_of_weights(tmp_path: Path) -> None:
    path = tmp_path / "scripted.pt"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("warnings.warn", lambda *args, **kwargs: None)
        torch.jit.save(torch.jit.trace(torch.nn.Linear(2, 2), torch.zeros(1, 2)), str(path))
    with pytest.raises(WeightsError, match="TorchScript"):
        read_weights(path)


def test_a_missing_file_and_a_folder_are_named(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match="there is no weights file"):
        read_weights(tmp_path / "nothing.pth")
    with pytest.raises(WeightsError, match="is a folder"):
        read_weights(tmp_path)
