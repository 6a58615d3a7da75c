"""Every family through OpenVINO: the numbers of its checkpoint, for other batch sizes too."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

pytest.importorskip("openvino", reason="the extra `openvino` is not installed")
pytest.importorskip("transformers", reason="the extra `detr` is not installed")

from detloom.deploy import DetectorRuntime
from detloom.specs import ExportRequest
from detloom_plugins.exporters.openvino.writer import OpenVinoExporter
from detloom_plugins.runtimes.openvino.model import OpenVinoRuntime
from detr_tools import build
from families import DETRS

pytestmark = pytest.mark.openvino


@pytest.mark.parametrize("name", list(DETRS))
def test_every_transformer_gives_its_own_numbers(name: str, tmp_path: Path) -> None:
    torch.manual_seed(4)
    family = DETRS[name]
    detector = build(family).eval()
    path = OpenVinoExporter().export(detector, ExportRequest(tmp_path / "model", family.size, False, False, {}))
    runtime = OpenVinoRuntime(path, "cpu")
    # Pictures with shapes in them: on plain noise the encoder's choice of queries is a tie.
    generator = np.random.default_rng(6)
    blocks = generator.integers(0, 256, (3, 3, family.size[0] // 16, family.size[1] // 16), dtype=np.uint8)
    images = np.ascontiguousarray(blocks.repeat(16, 2).repeat(16, 3))
    ours, theirs = DetectorRuntime(detector)(images), runtime(images)
    np.testing.assert_allclose(theirs.scores, ours.scores, atol=1e-4)
    np.testing.assert_allclose(theirs.boxes, ours.boxes, atol=0.05)
    assert (ours.masks is None) == (theirs.masks is None) == (not detector.masks)
    if ours.masks is not None and theirs.masks is not None:
        np.testing.assert_allclose(theirs.masks, ours.masks, atol=1e-2)
    (alone,) = runtime(images[1:2]).scores
    np.testing.assert_allclose(alone, ours.scores[1], atol=1e-4)
