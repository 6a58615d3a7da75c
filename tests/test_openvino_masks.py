"""A training of masks that ends with an OpenVINO model: its proof, and the commands that take the file."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("openvino", reason="the extra `openvino` is not installed")

from detloom.cli import main
from detloom.config import mapping_layer, resolve
from detloom.data.masks import decode_rle
from detloom.host import discover
from detloom.run import train_run
from mask_tools import write_data

pytestmark = pytest.mark.openvino


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """data/ and the folder of a run, barely trained: it proposes boxes with masks wherever it likes."""
    root = tmp_path_factory.mktemp("openvino-masks")
    values = {
        "model.type": "yolox-seg-nano", "model.pretrain_weights": "none", "training.max_steps": 3,
        "training.batch_size": 4, "training.resolution": 64, "data.num_workers": 0, "validation.pictures": 0,
        "data.local.path": str(write_data(root / "data", (8, 4, 3))), "export.format": ["openvino"],
        "validation.confidence_threshold": 1e-5, "validation.max_detections": 10,
        "experiment.logging.loggers": ["jsonl"], "experiment.output_dir": str(root), "experiment.name": "run",
    }  # fmt: skip
    host = discover()
    assert train_run(resolve(host, [mapping_layer(values)]), host) == 0
    return root


def test_the_run_proves_the_masks_of_the_file(root: Path) -> None:
    names = sorted(path.name for path in (root / "run" / "exports").iterdir())
    assert names == ["yolox-seg-nano.bin", "yolox-seg-nano.xml", "yolox-seg-nano.xml.json"]
    manifest = json.loads((root / "run" / "exports" / "yolox-seg-nano.xml.json").read_text())
    assert (manifest["masks"], manifest["runtime"]) == (True, "openvino")
    assert [output["name"] for output in manifest["outputs"]] == ["boxes", "scores", "masks"]
    assert manifest["gate"]["passed"] and manifest["gate"]["max_mask"] < 1e-3
    assert manifest["gate"]["segm_difference"] is not None


def predicted(capsys: pytest.CaptureFixture[str], model: Path, pictures: Path, out: Path) -> list[dict[str, Any]]:
    assert main(["predict", str(model), str(pictures), "--coco", str(out), "--score", "0.00001"]) == 0
    capsys.readouterr()
    found: list[dict[str, Any]] = json.loads(out.read_text())["annotations"]
    return sorted(found, key=lambda one: (one["image_id"], -one["score"]))


def test_predict_finds_with_the_file_the_masks_of_the_checkpoint(
    root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pictures = root / "data" / "test"
    ours = predicted(capsys, root / "run", pictures, tmp_path / "ours.json")
    theirs = predicted(capsys, root / "run" / "exports" / "yolox-seg-nano.xml", pictures, tmp_path / "theirs.json")
    assert len(ours) == len(theirs) == 30
    assert sum(one["area"] > 0 for one in theirs) > 0
    for mine, other in zip(ours, theirs, strict=True):
        assert mine["bbox"] == pytest.approx(other["bbox"], abs=0.01)
        different = (decode_rle(mine["segmentation"]) != decode_rle(other["segmentation"])).sum()
        assert different <= 2


def test_evaluate_judges_the_masks_of_the_file(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = root / "run" / "exports" / "yolox-seg-nano.xml"
    assert main(["evaluate", str(model), str(root / "data"), "--json"]) == 0
    (split,) = json.loads(capsys.readouterr().out)["splits"].values()
    assert split["segm"]["truths"] == split["truths"] > 0
