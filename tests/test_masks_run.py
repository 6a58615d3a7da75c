"""A package's model of masks, trained from hooks alone: numbers, files, pictures and commands after it."""

from __future__ import annotations

import contextlib
import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import simplejpeg
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from detloom.cli import main
from detloom.config import mapping_layer, resolve
from detloom.drawing import class_colour
from detloom.run import train_run
from mask_tools import draw_shapes, outline_host, write_data

Call = Callable[..., tuple[int, str, str]]
METRICS = ("AP", "AP50", "AP75", "APs", "APm", "APl", "AR1", "AR10", "AR100", "ARs", "ARm", "ARl")


def train(data: dict[str, Any], folder: Path, **more: Any) -> Path:
    values = {
        "model.type": "outline:outline-one",
        "training.batch_size": 8,
        "data.num_workers": 0,
        "experiment.output_dir": str(folder),
        "experiment.name": "run",
        **data,
        **more,
    }
    host = outline_host()
    train_run(resolve(host, [mapping_layer(values)]), host)
    return folder / "run"


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """data/ and the folder of a run of 14 epochs."""
    root = tmp_path_factory.mktemp("masks")
    data = {"data.local.path": str(write_data(root / "data")), "training.resolution": 64}
    more: dict[str, Any] = {
        "training.epochs": 14,
        "validation.interval": 7,
        "validation.save_predictions": True,
        "validation.pictures": 6,
        "augmentation.transforms": ["hflip", "affine"],
        "export.format": ["onnx", "torchscript"],
    }
    train(data, root, **more)
    return root


@pytest.fixture
def call(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Call:
    """Run a command in an empty folder: (exit code, stdout, stderr)."""
    monkeypatch.setattr("detloom.host.discover", outline_host)
    monkeypatch.setenv("DETLOOM_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)

    def run(*arguments: object) -> tuple[int, str, str]:
        capsys.readouterr()
        code = main([str(argument) for argument in arguments])
        out, err = capsys.readouterr()
        return code, out, err

    return run


def annotations(place: Path, split: str) -> Path:
    return place / "data" / split / "_annotations.coco.json"


def judged_by_pycocotools(truth: Path, results: list[dict[str, Any]], kind: str) -> list[float]:
    """The 12 numbers of files; images and classes by the data's own ids."""
    with contextlib.redirect_stdout(io.StringIO()):
        dataset: Any = COCO(str(truth))
        found = dataset.loadRes([{k: v for k, v in r.items() if kind == "bbox" or k != "bbox"} for r in results])
        evaluator = COCOeval(dataset, found, kind)
        evaluator.evaluate()
        evaluator.accumulate()
        evaluator.summarize()
    return [float(value) for value in evaluator.stats]


def recorded(place: Path) -> Any:
    return json.loads((place / "run" / "evaluation.json").read_text())


# ---- the run ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("split", ["val", "test"])
def test_masks_are_found_where_they_were_drawn(place: Path, split: str) -> None:
    masks = recorded(place)["splits"][split]["segm"]
    assert masks["iou_type"] == "segm"
    assert masks["metrics"]["AP50"] > 0.8
    assert masks["metrics"]["AP75"] > 0.6, "a triangle's box as its mask would not reach IoU 0.75"
    assert all(one["AP50"] > 0.7 for one in masks["per_class"])


@pytest.mark.parametrize(("split", "folder"), [("val", "valid"), ("test", "test")])
def test_the_saved_predictions_give_the_recorded_numbers_by_pycocotools(place: Path, split: str, folder: str) -> None:
    results = json.loads((place / "run" / "predictions" / f"{split}.json").read_text())
    record = recorded(place)["splits"][split]
    for kind, one in (("bbox", record), ("segm", record["segm"])):
        stats = judged_by_pycocotools(annotations(place, folder), results, kind)
        ours = [one["metrics"].get(name, -1.0) for name in METRICS]
        assert ours == pytest.approx(stats, abs=1e-9), kind


def test_the_best_checkpoint_is_chosen_by_masks(place: Path) -> None:
    lines = [json.loads(line) for line in (place / "run" / "metrics.jsonl").read_text().splitlines()]
    by_epoch = {
        line["epoch"]: line["val/segm_AP"] for line in lines if "val/segm_AP" in line and "epoch/time_s" in line
    }
    record = json.loads((place / "run" / "run.json").read_text())
    best = max(by_epoch, key=lambda epoch: by_epoch[epoch])
    assert len(by_epoch) == 2
    assert record["best"] == {"metric": "segm_AP", "value": pytest.approx(by_epoch[best]), "epoch": best}
    assert record["metrics"]["best/val/segm_AP"] == recorded(place)["splits"]["val"]["segm"]["metrics"]["AP"]
    assert "test/segm_AP/triangle" in record["metrics"]
    assert any("val/segm_AP50" in line for line in lines)


def test_the_pictures_show_masks_of_truth_and_of_prediction(place: Path) -> None:
    """Pixels inside a drawn object are tinted on both sides; its picture is small and not scaled."""
    pictures = [one for one in recorded(place)["pictures"] if one["hits"]]
    assert pictures and all(one["iou_type"] == "segm" for one in pictures)
    shown = pictures[-1]
    pair = simplejpeg.decode_jpeg((place / "run" / shown["file"]).read_bytes(), colorspace="RGB").astype(float)
    source = cv2.imread(str(place / "data" / "valid" / shown["image"]))[..., ::-1].astype(float)
    height, width = source.shape[:2]
    head = pair.shape[0] - height
    rng = np.random.default_rng(1)
    shapes: list[tuple[str, Any]] = []
    for number in range(int(Path(shown["image"]).stem) + 1):
        _, shapes = draw_shapes(rng, (60, 80) if number % 2 else (88, 64))
    drawn = np.zeros((height, width), bool)
    for _, mask in shapes:
        drawn |= cv2.erode(mask.astype(np.uint8), np.ones((5, 5), np.uint8)).astype(bool)
    for left in (0, pair.shape[1] - width):
        panel = pair[head:, left : left + width]
        colours = [np.array(class_colour(index)) for index in range(2)]
        tinted = np.min([np.abs(panel - (source * 0.55 + colour * 0.45)).max(axis=2) for colour in colours], axis=0)
        # Names cover a part of small pictures.
        assert (tinted[drawn] < 30).mean() > 0.25
        assert (np.abs(panel - source).max(axis=2)[drawn] < 15).mean() < 0.2


def test_the_report_tells_masks_from_boxes(place: Path) -> None:
    page = (place / "run" / "report.html").read_text()
    masks = recorded(place)["splits"]["test"]["segm"]["metrics"]["AP"]
    for text in ("test AP of masks", "val, masks", "AP50 of masks", "found is a mask with IoU 0.5", f"{masks:.3f}"):
        assert text in page
    assert "Precision over recall at IoU 0.5, val, masks" in page


def test_every_export_passed_with_its_masks_measured(place: Path) -> None:
    files = sorted((place / "run" / "exports").glob("*.json"))
    assert [file.name for file in files] == ["outline-one.onnx.json", "outline-one.torchscript.json"]
    for file in files:
        gate = json.loads(file.read_text())["gate"]
        assert gate["passed"] and gate["max_mask"] < 0.01
        assert gate["checkpoint_segm_ap"] > 0.3
        assert abs(gate["segm_difference"]) <= 0.001


# ---- commands -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("model", ["run", "run/exports/outline-one.onnx", "run/exports/outline-one.torchscript"])
def test_evaluate_gives_both_columns_and_pycocotools_agrees(place: Path, call: Call, model: str) -> None:
    code, out, err = call("evaluate", place / model, place / "data", "--split", "val", "--referee", "--per-class")
    assert code == 0, err
    assert "pycocotools gives the same numbers of boxes" in err and "the same numbers of masks" in err
    assert "boxes" in out and "masks:" in out
    record = recorded(place)["splits"]["val"]
    row = next(line.split() for line in out.splitlines() if line.split()[:1] == ["AP"])
    assert row[1:] == [f"{record['metrics']['AP']:.4f}", f"{record['segm']['metrics']['AP']:.4f}"]


def test_evaluate_says_which_masks_are_missing_and_judges_boxes(place: Path, call: Call, tmp_path: Path) -> None:
    from mask_tools import write_shapes

    write_shapes(tmp_path / "plain" / "valid", 4, 1, masks=False)
    code, out, err = call("evaluate", place / "run", tmp_path / "plain", "--json")
    objects = len(json.loads((tmp_path / "plain" / "valid" / "_annotations.coco.json").read_text())["annotations"])
    assert code == 0
    assert f"masks are not evaluated: {objects} objects of " in err
    (split,) = json.loads(out)["splits"].values()
    assert split["segm"] is None and split["metrics"]["AP50"] > 0.5


def test_predict_writes_and_draws_masks(place: Path, call: Call, tmp_path: Path) -> None:
    code, out, _ = call(
        "predict", place / "run" / "exports" / "outline-one.onnx", place / "data" / "test", "--json",
        "--coco", "found.json", "--save", "drawn", "--score", "0.01",
    )  # fmt: skip
    assert code == 0
    rows = {Path(row["image"]).name: row for row in json.loads(out)}
    document = json.loads((tmp_path / "found.json").read_text())
    names = {image["id"]: image["file_name"] for image in document["images"]}
    truth = json.loads(annotations(place, "test").read_text())
    ids = {image["file_name"]: image["id"] for image in truth["images"]}
    assert len(document["annotations"]) == sum(len(row["detections"]) for row in rows.values())
    results = []
    for one in document["annotations"]:
        row = rows[names[one["image_id"]]]
        assert one["segmentation"]["size"] == [row["height"], row["width"]]
        results.append({**one, "image_id": ids[names[one["image_id"]]]})
    (tmp_path / "truth.json").write_text(json.dumps(truth))
    assert judged_by_pycocotools(annotations(place, "test"), results, "segm")[1] > 0.8
    assert any(one["area"] < 0.7 * one["bbox"][2] * one["bbox"][3] for one in document["annotations"])
    name = next(name for name, row in rows.items() if any(d["score"] > 0.5 for d in row["detections"]))
    picture = simplejpeg.decode_jpeg((tmp_path / "drawn" / f"{Path(name).stem}.jpg").read_bytes(), colorspace="RGB")
    source = cv2.imread(str(place / "data" / "test" / name))[..., ::-1]
    assert picture.shape == source.shape and np.abs(picture.astype(int) - source).mean() > 5


def test_export_again_proves_the_masks_too(place: Path, call: Call, tmp_path: Path) -> None:
    code, out, err = call("export", place / "run", "--format", "onnx", "--output", tmp_path / "again")
    assert code == 0, err
    assert "masks within" in out and "AP of masks: checkpoint" in out


# ---- real data ----------------------------------------------------------------------------------------------------


@pytest.mark.data
def test_nuclei_are_outlined_after_a_short_training(data_dir: Path, tmp_path: Path) -> None:
    """Four pictures with 184 nuclei, learned by heart: boxes, masks, letterbox and RLE fit together on real data."""
    root = data_dir / "nuclei_dsb2018"
    for split, count in (("train", 4), ("val", 2)):
        document = json.loads((root / "coco" / f"{split}.json").read_text())
        kept = [image for image in document["images"] if image["height"] == 256][:count]
        ids = {image["id"] for image in kept}
        chosen = [annotation for annotation in document["annotations"] if annotation["image_id"] in ids]
        (tmp_path / f"{split}.json").write_text(json.dumps({**document, "images": kept, "annotations": chosen}))
    data = {f"data.local.{split}": str(tmp_path / f"{split}.json") for split in ("train", "val")}
    data |= {"data.local.images": str(root / "images")}
    run = train(
        data, tmp_path,
        **{"training.resolution": 192, "training.batch_size": 4, "training.epochs": 50, "validation.interval": 50,
           "training.overfit_batches": 1, "export.format": [], "data.cache": "ram"},
    )  # fmt: skip
    masks = json.loads((run / "evaluation.json").read_text())["splits"]["val"]["segm"]
    assert masks["truths"] > 100
    assert masks["metrics"]["AP50"] > 0.5
