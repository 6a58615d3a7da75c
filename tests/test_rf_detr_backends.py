"""The other builder of RF-DETR where it cannot be had, and the names of its weights."""

from __future__ import annotations

import importlib.metadata
from pathlib import Path
from typing import Any

import pytest
import torch

from detloom.errors import PluginError
from detloom_plugins.models.rf_detr.keys import from_original, to_original
from detr_tools import build, randomised
from rf_detr_tools import FAMILY, SEG_FAMILY
from test_rf_detr_weights import original_file


@pytest.fixture
def nothing_built(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise AssertionError("a part of a network was built")

    monkeypatch.setattr(torch.nn.Module, "__init__", refuse)


def found(monkeypatch: pytest.MonkeyPatch, version: str | None) -> None:
    """version: of the installed package; None: there is none."""
    real = importlib.metadata.version

    def answer(name: str) -> str:
        if name != "rfdetr":
            return real(name)
        if version is None:
            raise importlib.metadata.PackageNotFoundError(name)
        return version

    monkeypatch.setattr(importlib.metadata, "version", answer)


@pytest.mark.usefixtures("nothing_built")
@pytest.mark.parametrize("family", [FAMILY, SEG_FAMILY], ids=["boxes", "masks"])
def test_without_the_package_the_setting_says_what_to_install(family: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    found(monkeypatch, None)
    with pytest.raises(PluginError) as raised:
        build(family, backend="rfdetr")
    assert "model.rf_detr.backend=rfdetr needs the package rfdetr, which is not installed" in raised.value.message
    assert "pip install 'detloom[rfdetr]', which brings torchvision" in str(raised.value.hint)
    assert "model.rf_detr.backend=transformers" in str(raised.value.hint)


@pytest.mark.usefixtures("nothing_built")
@pytest.mark.parametrize("version", ["1.9.0", "1.110.0", "2.0.0"])
def test_another_version_of_the_package_is_named(version: str, monkeypatch: pytest.MonkeyPatch) -> None:
    found(monkeypatch, version)
    with pytest.raises(PluginError, match=rf"rfdetr {version} is installed; .* fits 1\.11"):
        build(FAMILY, backend="rfdetr")


@pytest.mark.usefixtures("nothing_built")
def test_a_torchvision_that_cannot_be_imported_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    found(monkeypatch, "1.11.2")
    (tmp_path / "torchvision").mkdir()
    (tmp_path / "torchvision/__init__.py").write_text("raise RuntimeError('operator torchvision::nms does not exist')")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(PluginError, match="torchvision::nms does not exist") as raised:
        build(FAMILY, backend="rfdetr")
    assert f"install torchvision built for torch {torch.__version__}" in str(raised.value.hint)


@pytest.mark.parametrize("family", [FAMILY, SEG_FAMILY], ids=["boxes", "masks"])
def test_names_of_the_package_come_back_from_those_of_the_library(family: Any, tmp_path: Path) -> None:
    trained = build(family)
    trained.load_state_dict(randomised(trained))
    original = original_file(trained, tmp_path)
    library: Any = trained.network.state_dict()
    back = to_original({**library, "unknown": torch.ones(1)}, original, masks=trained.masks)
    assert list(back) == [*original, "unknown"]
    assert all(torch.equal(back[name], value) for name, value in original.items())
    # What the package keeps beside its weights is none.
    named = from_original({**original, "_kp_active_mask": torch.zeros(0, 0)}, masks=trained.masks)
    assert "_kp_active_mask" not in named


def test_a_training_of_the_other_backend_is_not_gone_on_with(tmp_path: Path) -> None:
    detector = build(FAMILY)
    other = {f"network.{name}": value for name, value in original_file(detector, tmp_path).items()}
    with pytest.raises(RuntimeError, match=r"written with model\.rf_detr\.backend=rfdetr, not"):
        detector.load_saved_state(other)
