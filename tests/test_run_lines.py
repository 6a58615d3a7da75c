"""The lines that people type, as they are written in the contract.

Lines that would train for 100 epochs are carried out with a shorter end; what they mean in full is read from
`detloom config show`.
"""

from __future__ import annotations

import json
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import data_tools
from processes import RUN_TRAINING, Place, ended, environment

FOLDER = "--dataset-dir ./data/my-dataset --epochs 100 --batch-size 8"
CVAT = '--cvat-task-ids 123 456 789 --project-name "MyProject" --model-type large --epochs 150'
TENSORBOARD = "--dataset-dir ./data/my-dataset --no-clearml --tensorboard"
EVERYTHING = (
    '--cvat-task-ids 100 --project-name "ObjectDetection" --task-name "experiment-v1" --model-type base --epochs 200 '
    "--batch-size 4 --lr 0.0001 --resolution 640 --early-stopping --early-stopping-patience 20 --export-format onnx "
    '--tags "production" "v1.0"'
)
SHORTER = ("--set", "training.max_steps=2", "--resolution", "64")


@pytest.fixture
def place(tmp_path: Path) -> Place:
    """A folder with ./data/my-dataset."""
    (tmp_path / "here").mkdir()
    data_tools.sound_data(tmp_path / "here/data/my-dataset")
    return Place(tmp_path / "here", tmp_path / "cache")


def typed(line: str) -> list[str]:
    return shlex.split(line)


def shown(place: Place, line: str) -> dict[str, Any]:
    """Key to value as the line means it, and `origins`."""
    finished = place.run("config", "show", "--json", *typed(line))
    assert finished.code == 0, finished
    answer: dict[str, Any] = json.loads(finished.out)
    return answer


def record_of(place: Place) -> tuple[Path, dict[str, Any]]:
    (run,) = (place.folder / "runs").iterdir()
    return run, json.loads((run / "run.json").read_text())


def test_a_folder_of_images_is_trained_with_the_default_model(place: Place) -> None:
    finished = place.run(*typed(FOLDER), *SHORTER, script=RUN_TRAINING)
    assert finished.code == 0, finished
    # Without a network the published weights cannot be had: said loudly, on the screen and in the record.
    assert "warning: RANDOM WEIGHTS" in finished.err and "--weights official" in finished.err
    run, record = record_of(place)
    assert (record["status"], record["data"]["name"]) == ("completed", "my-dataset")
    assert record["model"]["type"] == "yolox-nano"
    assert record["warnings"][0].startswith("RANDOM WEIGHTS")
    assert record["command"].startswith("python run_training.py --dataset-dir ./data/my-dataset --epochs 100")
    assert (run / "exports/yolox-nano.onnx").is_file() and (run / "report.html").is_file()


def test_the_first_line_means_what_it_says(place: Place) -> None:
    answer = shown(place, FOLDER)
    values, origins = answer["values"], answer["origins"]
    assert values["data.local.path"] == "./data/my-dataset"
    assert (values["training.epochs"], values["training.batch_size"]) == (100, 8)
    assert origins["training.epochs"] == "command line --epochs"
    assert (values["model.type"], values["model.pretrain_weights"]) == ("yolox-nano", "auto")


def test_tensorboard_is_written_and_clearml_is_not_asked(place: Place) -> None:
    finished = place.run(*typed(TENSORBOARD), *SHORTER, script=RUN_TRAINING)
    assert finished.code == 0, finished
    run, record = record_of(place)
    assert "tensorboard" in [logger["name"] for logger in record["loggers"]]
    assert [path.name for path in run.rglob("*tfevents*")]
    values = shown(place, TENSORBOARD)["values"]
    assert values["experiment.clearml.mode"] == "off"
    assert values["experiment.logging.loggers"] == ["console", "jsonl", "tensorboard"]


def test_a_size_alone_means_rf_detr(place: Place) -> None:
    answer = shown(place, "--dataset-dir ./data/my-dataset --model-type segpreview")
    assert answer["values"]["model.type"] == "rf_detr-seg-preview"
    assert answer["origins"]["model.type"] == "command line --model-type"
    assert answer["values"]["training.lr"] == 1e-4 and answer["values"]["loss.box_weight"] == 2.0


@pytest.mark.parametrize(("line", "model"), [(CVAT, "rf_detr-large"), (EVERYTHING, "rf_detr-base")])
def test_the_lines_of_cvat_get_as_far_as_its_server(place: Place, line: str, model: str) -> None:
    finished = place.run(*typed(line), script=RUN_TRAINING)
    assert finished.code == 2, finished
    assert finished.err.startswith("error: no CVAT server was named")
    values = shown(place, line)["values"]
    assert (values["data.source"], values["model.type"]) == ("cvat", model)


@pytest.mark.parametrize(("flag", "size"), [("--model-type", "xlarge"), ("--model", "rf_detr-2xl")])
def test_sizes_under_another_licence_are_refused_with_the_reason(place: Place, flag: str, size: str) -> None:
    before = place.files()
    finished = place.run(*typed(f"--dataset-dir ./data/my-dataset {flag} {size}"), script=RUN_TRAINING)
    assert finished.code == 2, finished
    assert f"model.type ({flag}): {size} cannot be had" in finished.err and "Platform Model License" in finished.err
    assert "rf_detr-large" in finished.err and "Traceback" not in finished.err
    assert place.files() == before


def test_a_size_of_no_family_is_refused_before_cvat_is_asked(place: Place) -> None:
    before = place.files()
    finished = place.run(*typed(CVAT.replace("large", "huge")), script=RUN_TRAINING)
    assert finished.code == 2, finished
    assert "'huge' is a size without a family" in finished.err and "yolox-nano" in finished.err
    assert place.files() == before


def test_the_longest_line_means_what_it_says_where_its_source_is_a_folder(place: Place) -> None:
    line = EVERYTHING.replace("--cvat-task-ids 100", "--dataset-dir ./data/my-dataset")
    values = shown(place, line)["values"]
    assert values["experiment.project"] == "ObjectDetection"
    assert values["experiment.name"] == "experiment-v1"
    assert values["experiment.tags"] == ["production", "v1.0"]
    assert (values["model.type"], values["training.epochs"], values["training.batch_size"]) == ("rf_detr-base", 200, 4)
    assert (values["training.lr"], values["training.resolution"]) == (0.0001, 640)
    assert (values["training.early_stopping"], values["training.early_stopping_patience"]) == (True, 20)
    assert values["export.format"] == ["onnx"]


def test_without_an_argument_and_without_an_agent_the_data_are_asked_for(place: Place) -> None:
    finished = place.run(script=RUN_TRAINING)
    assert finished.code == 2
    assert "no data were named" in finished.err


def test_the_script_needs_no_python_path(place: Place) -> None:
    """`python run_training.py` in a bare clone, also when another folder is the current one."""
    variables = {k: v for k, v in environment(place.cache).items() if k != "PYTHONPATH"}
    done = subprocess.run(
        [sys.executable, RUN_TRAINING, "--help"],
        capture_output=True,
        text=True,
        cwd=place.folder,
        env=variables,
        check=False,
    )
    assert done.returncode == 0 and "--cvat-task-ids" in done.stdout


def test_uv_runs_the_script_too(place: Place) -> None:
    uv = shutil.which("uv")
    if uv is None:
        pytest.skip("uv is not installed")
    variables = {**environment(place.cache), "UV_PYTHON": sys.executable, "UV_OFFLINE": "1", "UV_NO_SYNC": "1"}
    process = subprocess.Popen(
        [uv, "run", "--no-project", RUN_TRAINING, *typed(CVAT)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=place.folder,
        env=variables,
    )
    finished = ended(process)
    assert finished.code == 2, finished
    assert "CVAT" in finished.err and "model.type" not in finished.err


def test_the_line_of_the_contract_fine_tunes_published_weights(place: Place, data_dir: Path) -> None:
    weights = data_dir / "weights" / "yolox_nano_coco.pth"
    line = (
        f"train data/my-dataset --model yolox-nano --weights {weights} --set training.max_steps=2 "
        "--set training.batch_size=4 --set training.resolution=320 --output-dir runs --no-clearml"
    )
    finished = place.run(*typed(line))
    assert finished.code == 0, finished
    assert "636 of 642 tensors loaded" in finished.out and "class rows copied by name: cat, dog" in finished.out
    run, record = record_of(place)
    assert record["status"] == "completed" and record["progress"]["step"] == 2
    assert record["model"]["resolution"] == [320, 320]
    lines = (run / "metrics.jsonl").read_text().splitlines()
    assert {"val/AP", "val/AP50"} <= set().union(*map(json.loads, lines))
