"""`detloom predict`, `evaluate` and `export` as a user calls them."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest

from cells import cells_host, draw_data, draw_split, write_run
from detloom.cli import main
from detloom.cli.predict import find_images


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """run/ with an exported file, and data/."""
    root = tmp_path_factory.mktemp("cli")
    host = cells_host()
    write_run(root / "run", draw_data(root / "data"), host)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("detloom.host.discover", cells_host)
        assert main(["export", str(root / "run")]) == 0
    return root


@pytest.fixture
def call(place, monkeypatch, tmp_path, capsys):
    """Run a command in an empty folder: (exit code, stdout, stderr)."""
    monkeypatch.setattr("detloom.host.discover", cells_host)
    monkeypatch.setenv("DETLOOM_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    capsys.readouterr()

    def run(*arguments):
        code = main([str(argument) for argument in arguments])
        out, err = capsys.readouterr()
        assert "Traceback" not in err
        return code, out, err

    return run


ONNX = "run/exports/cells-one.onnx"


def truth(place: Path, split: str) -> dict[str, list[tuple[int, list[float]]]]:
    """File name to (class id, xywh) as drawn."""
    document = json.loads((place / "data" / split / "_annotations.coco.json").read_text())
    names = {image["id"]: image["file_name"] for image in document["images"]}
    found = {name: [] for name in names.values()}
    for one in document["annotations"]:
        found[names[one["image_id"]]].append((one["category_id"], [float(v) for v in one["bbox"]]))
    return {name: sorted(rows) for name, rows in found.items()}


# ---- predict ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("model", ["run", ONNX, "run/checkpoints/best.pt"])
def test_predictions_carry_the_ids_and_names_of_the_data(place, call, model):
    code, out, _ = call("predict", place / model, place / "data" / "valid", "--json")
    assert code == 0
    rows = json.loads(out)
    drawn = truth(place, "valid")
    assert {Path(row["image"]).name for row in rows} == set(drawn)
    for row in rows:
        seen = []
        for found in row["detections"]:
            left, top, right, bottom = found["box"]
            seen.append((found["class_id"], [float(round(v)) for v in (left, top, right - left, bottom - top)]))
        assert sorted(seen) == drawn[Path(row["image"]).name]
        assert {(d["class_id"], d["class_name"]) for d in row["detections"]} <= {(3, "blue"), (9, "red")}
        assert all(d["score"] >= 0.3 for d in row["detections"])


def test_the_coco_file_can_be_read_by_pycocotools_and_names_the_pictures(place, call, tmp_path, capsys):
    from pycocotools.coco import COCO

    assert call("predict", place / ONNX, place / "data" / "test", "--coco", "out/found.json")[0] == 0
    read = COCO(str(tmp_path / "out" / "found.json"))
    capsys.readouterr()
    drawn = truth(place, "test")
    assert {image["file_name"] for image in read.imgs.values()} == set(drawn)
    assert {number: one["name"] for number, one in read.cats.items()} == {3: "blue", 9: "red"}
    for number, image in read.imgs.items():
        rows = read.loadAnns(read.getAnnIds([number]))
        seen = sorted((row["category_id"], [float(round(v)) for v in row["bbox"]]) for row in rows)
        assert seen == drawn[image["file_name"]]


def test_saved_pictures_show_the_boxes_and_keep_their_size(place, call, tmp_path):
    code, out, err = call("predict", place / ONNX, place / "data" / "valid", "--save", "drawn")
    assert code == 0
    saved = sorted((tmp_path / "drawn").iterdir())
    assert [path.name for path in saved] == [f"picture {n}.jpg" for n in range(8)]
    original = cv2.imread(str(place / "data" / "valid" / "picture 1.png"))
    drawn = cv2.imread(str(saved[1]))
    assert drawn.shape == original.shape
    assert (np.abs(drawn.astype(int) - original) > 60).any()
    assert "red" in out and "pictures in drawn" in err


def test_save_without_a_folder_goes_to_predictions(place, call, tmp_path):
    assert call("predict", place / ONNX, place / "data" / "test" / "picture 0.png", "--save")[0] == 0
    assert [path.name for path in (tmp_path / "predictions").iterdir()] == ["picture 0.jpg"]


def test_pictures_of_one_name_in_two_folders_do_not_replace_each_other(place, call, tmp_path):
    files = [place / "data" / split / "picture 0.png" for split in ("valid", "test")]
    assert call("predict", place / ONNX, *files, "--save", "drawn")[0] == 0
    assert sorted(path.name for path in (tmp_path / "drawn").iterdir()) == ["picture 0-2.jpg", "picture 0.jpg"]


def test_a_broken_picture_is_reported_at_the_end_and_the_others_are_done(place, call, tmp_path):
    shutil.copytree(place / "data" / "test", tmp_path / "mixed")
    whole = (tmp_path / "mixed" / "picture 2.png").read_bytes()
    (tmp_path / "mixed" / "picture 2.png").write_bytes(whole[: len(whole) // 2])
    code, out, err = call("predict", place / ONNX, "mixed", "--save", "drawn", "--batch-size", 2)
    assert code == 3
    assert "picture 2.png" in err and "1 of 5 pictures could not be read" in err
    assert len(out.splitlines()) == len(list((tmp_path / "drawn").iterdir())) == 4


def test_thresholds_change_what_is_found(place, call):
    picture = place / "data" / "valid" / "picture 0.png"
    counts = [
        len(json.loads(call("predict", place / ONNX, picture, "--json", *flags)[1])[0]["detections"])
        for flags in ((), ("--score", "0"), ("--score", "1"), ("--max-detections", "1"))
    ]
    assert counts[0] == len(truth(place, "valid")["picture 0.png"])
    assert counts[1] == 24  # one a cell
    assert counts[2:] == [0, 1]


def test_the_runtime_can_be_chosen(place, call):
    picture = place / "data" / "valid" / "picture 0.png"
    assert call("predict", place / "run", picture, "--runtime", "torch", "--device", "cpu")[0] == 0
    code, _, err = call("predict", place / ONNX, picture, "--runtime", "torch")
    assert (code, "cannot run cells-one.onnx" in err) == (2, True)


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["gone.onnx", "{data}"], 2, "there is no model at gone.onnx"),
        (["{data}", "{data}"], 2, "is no run's folder"),
        (["{onnx}", "gone.jpg"], 3, "there is no picture at gone.jpg"),
        (["{onnx}", "empty"], 3, "empty holds no pictures"),
        (["{onnx}", "*.jpeg"], 3, "there is no picture at *.jpeg"),
        (["{onnx}", "{data}", "--score", "7"], 2, "--score: 7 is not between 0 and 1"),
        (["{onnx}", "{data}", "--score", "high"], 2, "--score"),
        (["{onnx}", "{data}", "--batch-size", "0"], 2, "--batch-size: 0 is not 1 or more"),
        (["{onnx}", "{data}", "--device", "cuda:99"], 2, "cuda:99"),
        (["{onnx}", "{data}", "--save", "in the way"], 2, "a file is in the way"),
        (["{onnx}", "{data}", "--coco", "in the way/found.json"], 1, "cannot write"),
        (["{onnx}"], 2, "IMAGE"),
        (["text.onnx", "{data}"], 1, "text.onnx cannot be loaded as ONNX"),
    ],
)
def test_a_mistake_gets_a_sentence_and_its_exit_code(place, call, tmp_path, arguments, code, message):
    (tmp_path / "empty").mkdir()
    (tmp_path / "in the way").write_text("")
    (tmp_path / "text.onnx").write_text("this is text")
    names = {"{data}": place / "data" / "test", "{onnx}": place / ONNX}
    found, _, err = call("predict", *(names.get(argument, argument) for argument in arguments))
    assert found == code, err
    assert message in err


def test_folders_patterns_and_files_name_each_picture_once(tmp_path):
    for name in ("a.png", "b.JPG", "notes.txt", "deep/c.png", "deep/er/d.png"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"")

    def names(*given, recursive=False):
        return [
            path.relative_to(tmp_path).as_posix() for path in find_images(list(map(str, given)), recursive=recursive)
        ]

    assert names(tmp_path) == ["a.png", "b.JPG"]
    assert names(tmp_path, recursive=True) == ["a.png", "b.JPG", "deep/c.png", "deep/er/d.png"]
    assert names(tmp_path / "*.png", tmp_path / "a.png") == ["a.png"]
    assert names(tmp_path / "deep" / "**" / "*.png") == ["deep/c.png", "deep/er/d.png"]
    assert names(tmp_path / "notes.txt") == ["notes.txt"], "a file that is named is read, or reported"


# ---- evaluate ---------------------------------------------------------------------------------------------------


def test_a_run_is_evaluated_on_its_own_test_data(place, call):
    code, out, err = call("evaluate", place / "run", "--json", "--referee")
    assert code == 0
    report = json.loads(out)
    assert list(report["splits"]) == ["test"]
    assert report["splits"]["test"]["metrics"]["AP"] == pytest.approx(1.0)
    assert report["splits"]["test"]["images"] == 5
    assert report["runtime"] == "torch"
    assert "pycocotools gives the same numbers" in err


def test_an_exported_file_of_a_run_gives_the_same_numbers(place, call):
    by_torch, by_onnx = (json.loads(call("evaluate", place / model, "--json")[1]) for model in ("run", ONNX))
    ours, theirs = (one["splits"]["test"]["metrics"] for one in (by_torch, by_onnx))
    assert ours == pytest.approx(theirs, abs=1e-9)
    assert by_onnx["runtime"] == "onnxruntime"


def test_the_table_shows_the_twelve_numbers_and_each_class(place, call, tmp_path):
    code, out, _ = call("evaluate", place / ONNX, "--split", "val", "--per-class", "--output", "deep/numbers.json")
    assert code == 0
    lines = out.splitlines()
    assert lines[0].startswith("data, val: 8 images")
    assert [line.split()[0] for line in lines[2:14]] == [
        "AP", "AP50", "AP75", "APs", "APm", "APl", "AR1", "AR10", "AR100", "ARs", "ARm", "ARl",
    ]  # fmt: skip
    assert {tuple(line.split()[:2]) for line in lines[15:]} == {("blue", "3"), ("red", "9")}
    written = json.loads((tmp_path / "deep" / "numbers.json").read_text())
    assert f"{written['splits']['val']['metrics']['AP']:.4f}" == lines[2].split()[1]


def test_every_split_is_evaluated_when_all_are_asked_for(place, call):
    report = json.loads(call("evaluate", place / ONNX, "--split", "all", "--json")[1])
    assert {name: one["images"] for name, one in report["splits"].items()} == {"train": 4, "val": 8, "test": 5}


def test_other_data_may_number_the_classes_otherwise(place, call, tmp_path):
    draw_split(tmp_path / "other", 4, 9, ids={"blue": 77, "red": 12})
    code, out, _ = call(
        "evaluate", place / ONNX, tmp_path / "other" / "_annotations.coco.json", "--json", "--per-class"
    )
    assert code == 0
    (split,) = json.loads(out)["splits"].values()
    assert split["metrics"]["AP"] == pytest.approx(1.0)
    assert {one["name"]: one["id"] for one in split["per_class"]} == {"blue": 77, "red": 12}


def test_a_file_away_from_its_run_needs_data_to_be_named(place, call, tmp_path):
    (tmp_path / "alone").mkdir()
    shutil.copy(place / ONNX, tmp_path / "alone" / "model.onnx")
    code, _, err = call("evaluate", "alone/model.onnx")
    assert (code, "no data were named" in err) == (2, True)
    assert call("evaluate", "alone/model.onnx", place / "data")[0] == 0


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["gone"], 2, "there is no model at gone"),
        (["{onnx}", "gone"], 3, "gone does not exist"),
        (["{onnx}", "empty"], 3, "empty is an empty folder"),
        (["{onnx}", "{json}", "--split", "val"], 2, "has no split 'val'"),
        (["{onnx}", "--split", "dev"], 2, "'dev' is none of"),
        (["{onnx}", "--set", "training.lr=1"], 2, "--set training.lr changes nothing in this command"),
        (["{onnx}", "--set", "data.bogus=1"], 2, "data.bogus"),
        (["{onnx}", "--output", "file/numbers.json"], 1, "cannot write"),
    ],
)
def test_a_mistake_of_an_evaluation_gets_a_sentence_and_its_exit_code(place, call, tmp_path, arguments, code, message):
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").write_text("")
    names = {"{json}": place / "data" / "test" / "_annotations.coco.json", "{onnx}": place / ONNX}
    found, _, err = call("evaluate", *(names.get(argument, argument) for argument in arguments))
    assert found == code, err
    assert message in err


def test_objects_of_an_unknown_class_refuse_the_data_by_name(place, call, tmp_path):
    draw_split(tmp_path / "other", 3, 2)
    file = tmp_path / "other" / "_annotations.coco.json"
    file.write_text(file.read_text().replace('"red"', '"green"'))
    code, _, err = call("evaluate", place / ONNX, file)
    assert code == 3
    assert "classes that the model does not know: green (" in err


# ---- export -----------------------------------------------------------------------------------------------------


def test_an_export_goes_into_the_run_and_says_what_was_measured(place, call):
    folder = place / "run" / "exports"
    code, out, _ = call("export", place / "run", "--format", "torchscript")
    assert code == 0
    assert (folder / "cells-one.torchscript").is_file()
    assert "8 images of val: checkpoint 1.0000, file 1.0000" in out


def test_export_settings_come_from_flags_and_keys(place, call):
    code, out, _ = call(
        "export", place / "run", "--half", "--simplify", "--gate-images", "4", "--tolerance", "0.2",
        "--set", "export.onnx.opset=18", "--output", "elsewhere", "--json",
    )  # fmt: skip
    assert code == 0
    (manifest,) = json.loads(out)
    assert (manifest["half"], manifest["simplified"], manifest["exporter_settings"]["opset"]) == (True, True, 18)
    assert (manifest["gate"]["images"], manifest["gate"]["tolerance"]) == (4, 0.2)
    assert Path("elsewhere/cells-one-fp16.onnx").is_file()


def test_a_spoiled_export_exits_1_with_the_numbers(place, call, monkeypatch):
    from test_export import Saboteur

    monkeypatch.setattr("detloom.host.discover", lambda: cells_host(saboteur=Saboteur()))
    code, _, err = call("export", place / "run", "--format", "saboteur:class-order", "--output", "out")
    assert code == 1
    assert "AP is 1.0000 by the checkpoint and 0.0000 by the file on 8 images of val" in err
    assert sorted(path.name for path in Path("out").iterdir()) == [
        "cells-one.rejected.onnx", "cells-one.rejected.onnx.json",
    ]  # fmt: skip


def test_without_the_data_of_the_run_parity_alone_can_be_asked_for(place, call, tmp_path):
    shutil.copytree(place / "run", tmp_path / "moved")
    config = tmp_path / "moved" / "config.yaml"
    config.write_text(config.read_text())
    away = place / "data away"
    (place / "data").rename(away)
    try:
        code, _, err = call("export", "moved")
        assert code == 3
        assert "the data of this run cannot be read" in err and "--parity-only" in err
        code, out, _ = call("export", "moved", "--parity-only", away / "valid")
        assert (code, "AP was not measured" in out) == (0, True)
        assert call("export", "moved", "--data", away)[0] == 0
    finally:
        away.rename(place / "data")


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["gone"], 2, "there is no model at gone"),
        (["{onnx}"], 1, "cannot be read as a checkpoint"),
        (["{run}", "--format", "onxn"], 2, "did you mean onnx"),
        (["{run}", "--set", "export.onnx.opset=3"], 2, "export.onnx.opset"),
        (["{run}", "--set", "export.onnx.opsett=17"], 2, "export.onnx.opsett"),
        (["{run}", "--tolerance", "much"], 2, "export.tolerance"),
        (["{run}", "--set", "training.lr=3"], 2, "changes nothing in this command"),
        (["{run}", "--output", "file/deep"], 1, "cannot write into"),
        (["{run}", "--format", "torchscript", "--half", "--output", "out"], 2, "32 bits only"),
    ],
)
def test_a_mistake_of_an_export_gets_a_sentence_and_its_exit_code(place, call, tmp_path, arguments, code, message):
    (tmp_path / "file").write_text("")
    names = {"{run}": place / "run", "{onnx}": place / ONNX}
    found, _, err = call("export", *(names.get(argument, argument) for argument in arguments))
    assert found == code, err
    assert message in err
