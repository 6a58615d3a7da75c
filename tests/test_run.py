"""One whole run through the command line, and everything it promises to leave behind."""

from __future__ import annotations

import hashlib
import importlib.util
import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from conftest import ROOT
from detloom.config import load_saved
from detloom.host import discover
from processes import Finished, Place
from run_tools import trained_digest, weights_digest

LINE = (
    *("train", "shapes", "--weights", "none", "--resolution", "64", "--epochs", "3", "--batch-size", "4"),
    *("--export-format", "onnx", "torchscript", "--tags", "small", "drawn", "--project-name", "tests", "--no-clearml"),
    *("--set", "validation.save_predictions=true", "--set", "validation.pictures=4", "--set", "data.num_workers=0"),
    *("--set", "experiment.logging.log_interval=1"),
)
NUMBERS = ("AP", "AP50", "AP75", "APs", "AR1", "AR10", "AR100", "ARs")
"""Those of the twelve that small pictures have; medium and large objects do not exist in them."""


def draw(folder: Path, size: int, **splits: int) -> None:
    spec = importlib.util.spec_from_file_location("draw_shapes", ROOT / "examples" / "draw_shapes.py")
    assert spec is not None and spec.loader is not None
    drawer = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(drawer)
    for split, images in splits.items():
        drawer.write_split(folder / split, split, images, size, 0)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Place:
    folder = tmp_path_factory.mktemp("here")
    draw(folder / "shapes", 64, train=8, valid=4, test=4)
    return Place(folder, tmp_path_factory.mktemp("cache"))


@pytest.fixture(scope="module")
def finished(place: Place) -> Finished:
    done = place.run(*LINE)
    assert done.code == 0, done
    return done


@pytest.fixture(scope="module")
def run(place: Place, finished: Finished) -> Path:
    (folder,) = (place.folder / "runs").iterdir()
    return folder


def read(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))


def rows_of(run: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


# ---- the folder ---------------------------------------------------------------------------------------------------


def test_the_folder_holds_what_is_promised_and_nothing_else(run: Path) -> None:
    assert re.fullmatch(r"yolox-nano-shapes-[0-9a-f]{8}", run.name)
    files = {str(path.relative_to(run)) for path in run.rglob("*") if path.is_file()}
    pictures = {file for file in files if re.fullmatch(r"pictures/val_\d{5}\.jpg", file)}
    events = {file for file in files if file.startswith("tensorboard/events.out.tfevents")}
    assert (len(pictures), len(events)) == (4, 1)
    assert files - pictures - events == {
        ".lock",
        "config.yaml",
        "run.json",
        "data.json",
        "evaluation.json",
        "metrics.jsonl",
        "log.txt",
        "report.html",
        "checkpoints/best.pt",
        "checkpoints/last.pt",
        "checkpoints/previous.pt",
        "checkpoints/manifest.json",
        "predictions/val.json",
        "predictions/test.json",
        "exports/yolox-nano.onnx",
        "exports/yolox-nano.onnx.json",
        "exports/yolox-nano.torchscript",
        "exports/yolox-nano.torchscript.json",
    }


def test_run_json_says_what_ran_where_and_with_what(run: Path) -> None:
    record = read(run / "run.json")
    expected = {"name": run.name, "status": "completed", "error": "", "seed": 0, "project": "tests"}
    assert {name: record[name] for name in expected} == expected
    assert record["tags"] == ["small", "drawn"]
    assert record["device"] == "cpu" and record["precision"] == "float32"
    assert {"python", "torch", "numpy", "detloom"} <= set(record["versions"])
    assert {"models.yolox", "formats.coco"} & {plugin["name"] for plugin in record["plugins"]}
    told = read(run / "data.json")
    assert record["data"] == {name: told[name] for name in record["data"]}
    assert record["data"]["digest"] and record["data"]["name"] == "shapes"
    assert record["classes"] == ["disc", "square", "triangle", "star"]
    assert record["progress"] == {"epoch": 3, "step": 6, "total_epochs": 3, "total_steps": 6}
    assert record["started"] <= record["finished"] and record["duration_s"] > 0
    assert record["command"].startswith("detloom train shapes --weights none")
    assert [(logger["name"], logger["dropped"]) for logger in record["loggers"]] == [
        ("console", 0),
        ("jsonl", 0),
        ("tensorboard", 0),
    ]


def test_config_yaml_is_the_configuration_with_origins_and_starts_the_same_run(run: Path, place: Place) -> None:
    document = yaml.safe_load((run / "config.yaml").read_text())
    assert document["training"]["epochs"] == 3
    assert document["origins"]["training.epochs"] == ["command line", "--epochs"]
    assert document["origins"]["training.lr"][0] == "recipe"
    assert document["origins"]["model.num_classes"][0] == "data"
    saved = load_saved(run, discover())
    assert torch.load(run / "checkpoints/last.pt", weights_only=True)["config"] == saved.to_dict()
    shown = json.loads(place.run("config", "show", "--json", "--config", run / "config.yaml").out)
    assert shown["values"] == {**saved.values(), "model.num_classes": None}


def test_checkpoints_load_without_running_code_and_match_their_manifest(run: Path) -> None:
    folder = run / "checkpoints"
    entries = read(folder / "manifest.json")["checkpoints"]
    hashes = {entry["sha256"]: entry for entry in entries}
    for name, step in (("best.pt", None), ("last.pt", 6), ("previous.pt", 4)):
        entry = hashes[hashlib.sha256((folder / name).read_bytes()).hexdigest()]
        payload = torch.load(folder / name, weights_only=True)
        assert step is None or (payload["step"], entry["step"]) == (step, step)
        assert [row["name"] for row in payload["model"]["classes"]] == ["disc", "square", "triangle", "star"]
        assert [row["id"] for row in payload["model"]["classes"]] == [1, 2, 3, 4]
        assert payload["data"]["digest"] == read(run / "run.json")["data"]["digest"]
        assert payload["metrics"]["val/AP"] >= 0


def test_metrics_hold_losses_rates_speeds_and_the_coco_numbers(run: Path) -> None:
    rows = rows_of(run)
    training = [row for row in rows if "train/loss" in row and "val/AP" not in row]
    assert [row["step"] for row in training] == [1, 2, 3, 4, 5, 6]
    for name in (
        "loss",
        "loss_cls",
        "loss_obj",
        "loss_box",
        "lr",
        "grad_norm",
        "images_per_s",
        "data_wait",
        "memory_mb",
    ):
        assert all(isinstance(row[f"train/{name}"], float) for row in training), name
    epochs = [row for row in rows if "val/AP" in row]
    assert [row["epoch"] for row in epochs] == [0, 1, 2]
    truth = read(run.parent.parent / "shapes/valid/_annotations.coco.json")
    there = {row["category_id"] for row in truth["annotations"]}
    per_class = {f"val/AP/{row['name']}" for row in truth["categories"] if row["id"] in there}
    assert {f"val/{name}" for name in NUMBERS} | per_class | {"val/loss", "epoch/time_s"} <= set(epochs[0])
    assert len(per_class) == len([key for key in epochs[0] if key.startswith("val/AP/")]) > 1
    assert {f"test/{name}" for name in NUMBERS} | {"best/val/AP50"} <= set(rows[-1])
    assert read(run / "run.json")["metrics"]["test/AP50"] == rows[-1]["test/AP50"]


def test_tensorboard_reads_the_events(run: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(run / "tensorboard"))
    events.Reload()  # type: ignore[no-untyped-call]
    tags = events.Tags()["scalars"]  # type: ignore[no-untyped-call]
    assert {"train/loss", "val/AP50", "test/AP50"} <= set(tags)
    losses = [event.value for event in events.Scalars("train/loss")]  # type: ignore[no-untyped-call]
    written = [row["train/loss"] for row in rows_of(run) if "train/loss" in row]
    assert losses == pytest.approx(written, rel=1e-6)


def test_tensorboard_holds_the_data_the_confusion_matrix_and_where_the_models_are(run: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(run / "tensorboard"))
    events.Reload()  # type: ignore[no-untyped-call]

    def table(name: str) -> list[list[str]]:
        text = events.Tensors(f"{name}/text_summary")[0].tensor_proto.string_val[0].decode()  # type: ignore[no-untyped-call]
        return [line.strip("| ").split(" | ") for line in text.splitlines()]

    data = read(run / "data.json")
    header, _, *rows = table("data/classes")
    assert header == [
        "class",
        "id",
        *(f"{s} {what}" for s in ("train", "val", "test") for what in ("objects", "images")),
    ]
    assert [row[0] for row in rows] == ["disc", "square", "triangle", "star"]
    assert [int(row[2]) for row in rows] == [one["objects"]["train"] for one in data["classes"]]
    assert [int(row[7]) for row in rows] == [one["images"]["test"] for one in data["classes"]]
    header, _, *rows = table("val/confusion")
    assert header == ["truth", "disc", "square", "triangle", "star", "missed"]
    assert [row[0] for row in rows] == ["disc", "square", "triangle", "star", "background"]
    kept = {(row, column): count for row, column, count in read(run / "evaluation.json")["splits"]["val"]["confusion"]}
    assert [[int(cell) for cell in row[1:]] for row in rows] == [
        [kept.get((r, c), 0) for c in range(5)] for r in range(5)
    ]
    assert table("artifacts/config")[0] == [f"runs/{run.name}/config.yaml"]
    assert table("artifacts/data")[0] == [f"runs/{run.name}/data.json"]
    for name, file in (("onnx", "yolox-nano.onnx"), ("torchscript", "yolox-nano.torchscript")):
        model = {row[0]: row[1] for row in table(f"models/exports/{name}")[2:]}
        assert model["file"] == f"runs/{run.name}/exports/{file}" and model["classes"] == "disc, square, triangle, star"
        assert "val/AP" in model
        assert table(f"artifacts/exports/{name}.json")[0] == [f"runs/{run.name}/exports/{file}.json"]


def test_exports_passed_their_gates_and_match_their_hashes(run: Path, finished: Finished) -> None:
    for name in ("yolox-nano.onnx", "yolox-nano.torchscript"):
        manifest = read(run / "exports" / f"{name}.json")
        assert manifest["sha256"] == hashlib.sha256((run / "exports" / name).read_bytes()).hexdigest()
        assert manifest["gate"]["passed"] is True and manifest["gate"]["images"] == 4
        assert abs(manifest["gate"]["difference"]) <= 0.001
        assert f"exports/{name}" in finished.out


def test_the_report_is_one_file_that_loads_nothing(run: Path) -> None:
    page = (run / "report.html").read_text(encoding="utf-8")
    assert run.name in page and "AP50" in page and "training.lr" in page
    links = re.findall(r"""(?:src|href)\s*=\s*["']([^"']*)""", page) + re.findall(r"url\(([^)]*)\)", page)
    assert links and all(link.strip("\"'").startswith(("data:", "#")) for link in links)
    assert page.count("data:image/") >= 4


def test_the_log_tells_how_the_run_went(run: Path, finished: Finished) -> None:
    text = (run / "log.txt").read_text()
    assert "3 epochs, 6 steps of 4 images" in text and "random weights" in text
    assert f"detloom predict runs/{run.name}" in finished.out


# ---- numbers ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("split", "folder"), [("val", "valid"), ("test", "test")])
def test_pycocotools_finds_the_same_numbers_in_the_predictions(
    run: Path, place: Place, split: str, folder: str
) -> None:
    truth = place.folder / "shapes" / folder / "_annotations.coco.json"
    stats = referee(truth, run / "predictions" / f"{split}.json")
    numbers = read(run / "evaluation.json")["splits"][split]["metrics"]
    for place_in_stats, name in ((0, "AP"), (1, "AP50"), (2, "AP75"), (3, "APs"), (6, "AR1"), (8, "AR100")):
        assert numbers[name] == pytest.approx(stats[place_in_stats], abs=1e-9), name


def referee(truth: Path, predictions: Path) -> list[float]:
    """pycocotools' twelve; it cannot load an empty list of predictions."""
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    if not read(predictions):
        return [0.0] * 12
    coco = COCO(str(truth))
    judge = COCOeval(coco, coco.loadRes(str(predictions)), "bbox")
    judge.evaluate()
    judge.accumulate()
    judge.summarize()
    return [float(value) for value in judge.stats]


def test_the_same_line_gives_the_same_weights_in_a_folder_of_its_own(run: Path, place: Place) -> None:
    before = {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}
    assert place.run(*LINE).code == 0
    again = place.folder / "runs" / f"{run.name}-2"
    for name in ("best.pt", "last.pt"):
        assert weights_digest(again / "checkpoints" / name) == weights_digest(run / "checkpoints" / name)
    assert trained_digest(again / "checkpoints/last.pt") == trained_digest(run / "checkpoints/last.pt")
    assert read(again / "predictions/test.json") == read(run / "predictions/test.json")
    assert {path: path.read_bytes() for path in run.rglob("*") if path.is_file()} == before


def test_another_seed_gives_other_weights(run: Path, place: Place) -> None:
    short = ("--seed", "1", "--name", "other", "--set", "training.max_steps=1")
    line = [word for word in LINE if word not in ("--export-format", "onnx", "torchscript")]
    assert place.run(*line, *short, "--set", "export.format=[]").code == 0
    other = place.folder / "runs/other/checkpoints/last.pt"
    assert trained_digest(other) != trained_digest(run / "checkpoints/last.pt")


# ---- it learns ----------------------------------------------------------------------------------------------------


def test_five_images_are_learned_by_heart(tmp_path: Path) -> None:
    """Boxes and classes must match the truth, not only a loss become small: a detector that confuses coordinates,
    classes or their order can lower its loss as well."""
    draw(tmp_path / "shapes", 128, train=6, valid=1)
    place = Place(tmp_path, tmp_path / "cache")
    finished = place.call(
        *("train", "shapes", "--weights", "none", "--resolution", "128", "--batch-size", "5", "--epochs", "120"),
        *("--overfit-batches", "1", "--lr", "0.004", "--no-ema", "--set", "validation.interval=1000"),
        *("--set", "training.checkpoint_interval=1000", "--set", "validation.save_predictions=true"),
        *("--set", "export.format=[]", "--set", "experiment.logging.loggers=jsonl", "--name", "heart"),
    )
    assert finished.code == 0, finished
    truth = read(tmp_path / "shapes/train/_annotations.coco.json")
    learned = {image["id"] for image in truth["images"][:5]}
    objects = [row for row in truth["annotations"] if row["image_id"] in learned]
    found = [row for row in read(tmp_path / "runs/heart/predictions/val.json") if row["score"] >= 0.4]
    assert {row["image_id"] for row in found} == learned
    hits = sum(any(same_object(one, other) for other in found) for one in objects)
    alarms = sum(not any(same_object(one, other) for one in objects) for other in found)
    assert len(objects) >= 20
    assert hits / len(objects) >= 0.9 and alarms / len(found) <= 0.1
    five = tmp_path / "five.json"
    five.write_text(json.dumps({**truth, "images": truth["images"][:5], "annotations": objects}))
    stats = referee(five, tmp_path / "runs/heart/predictions/val.json")
    numbers = read(tmp_path / "runs/heart/evaluation.json")["splits"]["val"]["metrics"]
    assert [numbers["AP"], numbers["AP50"], numbers["AR100"]] == pytest.approx([stats[0], stats[1], stats[8]], abs=1e-9)
    assert stats[0] > 0.6
    right = confusion_of(tmp_path / "runs/heart", objects)
    assert right / len(objects) >= 0.9


def confusion_of(run: Path, objects: list[dict[str, Any]]) -> int:
    """Each object stands once in the row of its class, and each prediction above the score in the column of its own.
    Returns the sum of the diagonal."""
    record = read(run / "evaluation.json")["splits"]["val"]
    shown = [one for one in read(run / "predictions" / "val.json") if one["score"] >= record["threshold"]]
    for one in record["per_class"]:
        row = sum(count for truth, _, count in record["confusion"] if truth == one["index"])
        column = sum(count for _, predicted, count in record["confusion"] if predicted == one["index"])
        assert row == sum(annotation["category_id"] == one["id"] for annotation in objects)
        assert column == sum(prediction["category_id"] == one["id"] for prediction in shown)
    return sum(count for truth, predicted, count in record["confusion"] if truth == predicted)


def same_object(one: dict[str, Any], other: dict[str, Any]) -> bool:
    """Same image, same class, boxes that overlap by an IoU of 0.6."""
    if (one["image_id"], one["category_id"]) != (other["image_id"], other["category_id"]):
        return False
    (x1, y1, w1, h1), (x2, y2, w2, h2) = one["bbox"], other["bbox"]
    width = max(0.0, min(x1 + w1, x2 + w2) - max(x1, x2))
    height = max(0.0, min(y1 + h1, y2 + h2) - max(y1, y2))
    return width * height >= 0.6 * (w1 * h1 + w2 * h2 - width * height)
