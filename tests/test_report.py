"""The report: complete, self-contained, escaped, bounded, and made from whatever a run has left so far."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import run_folders
from detloom.drawing import encode_jpeg
from detloom.errors import DataError, DetloomError
from detloom.report import load_report_data, write_report
from report_tools import Page, report


def section(page: Page, title: str, following: str) -> str:
    """What is shown from the last heading of this name to the last of the following one (the first are links)."""
    return page.shown.rpartition(f"{title} ")[2].rpartition(f" {following} ")[0]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Page:
    return report(run_folders.whole_run(tmp_path_factory.mktemp("run")))


# A whole run


def test_every_part_of_a_run_is_on_the_page(whole: Page) -> None:
    for text in (
        "yolox-nano-blood-1a2b3c4d",
        "completed",
        "random weights",
        "logger tensorboard: 3 of 93 calls were lost",
        "0.561",
        "0.867",
        "BloodImage_00001.jpg",
        "degenerate-box",
        "gate passed",
        "AP differs by 0.0312, more than 0.01",
        "636 of 642 tensors loaded",
        "training.lr",
        "command line --set",
        "my.yaml:3:3",
        "detloom train data/blood --model yolox-nano --set training.lr=1e-3",
        "0123abcd" * 5,
        "with uncommitted changes",
        "9f" * 32,
        "torch 2.9.0",
        "OMP_NUM_THREADS=2",
        "Where it goes wrong",
        "Where it goes well",
    ):
        assert text in whole.shown, text


def test_all_twelve_numbers_stand_for_each_split_and_an_absent_one_is_a_dash(whole: Page) -> None:
    for name in ("AP", "AP50", "AP75", "APs", "APm", "APl", "AR1", "AR10", "AR100", "ARs", "ARm", "ARl"):
        assert re.search(rf"\b{name} (mean|at|small|medium|large|recall)", whole.shown), name
    assert re.search(r"AP75 at IoU 0.75 0.623 0.643", whole.shown), "test first, then val"
    assert re.search(r"APs small objects, below 32² px – –", whole.shown)


def test_a_class_without_truth_has_dashes(whole: Page) -> None:
    assert re.search(r"never seen –( –){5} 0 0", whole.shown)


def test_what_was_set_comes_before_what_was_not(whole: Page) -> None:
    keys = re.findall(r"(training\.\w+|model\.type|experiment\.\w+)", section(whole, "Configuration", "Reproduce"))
    assert keys == [
        "training.lr",
        "training.epochs",
        "experiment.tags",
        "training.resolution",
        "model.type",
        "experiment.name",
    ]


def test_charts_have_curves_axes_and_values_on_hover(whole: Page) -> None:
    charts = {a["aria-label"] for a in whole.all("svg")}
    assert {"Loss", "Validation", "Terms of the training loss", "Learning rate", "Images a second"} <= charts
    assert {"Precision over recall at IoU 0.5, test", "Confusion matrix, test", "Confusion matrix, val"} <= charts
    assert "Objects of train by size" in charts
    assert "best AP" in whole.shown, "the best epoch is marked"
    assert re.search(r"<title>epoch 18\nAP: 0\.\d+\nAP50: 0\.\d+</title>", whole.text)


# Self-contained, valid, escaped


def test_the_page_asks_for_nothing_outside_itself(whole: Page) -> None:
    for tag, attributes in whole.tags:
        assert tag not in {"script", "iframe", "object", "embed", "base", "form"}
        for name, value in attributes.items():
            if name in {"src", "href", "srcset", "data", "action", "poster", "xlink:href", "background"}:
                assert (value or "").startswith(("data:", "#")), (tag, value)
            assert not name.startswith("on"), f"{name} on <{tag}>"
    style = whole.text.split("<style>")[1].split("</style>")[0]
    assert "url(" not in style
    assert "@import" not in style
    assert not re.search(r"https?:", whole.text)
    policy = next(a["content"] for a in whole.all("meta") if a.get("http-equiv") == "Content-Security-Policy")
    assert policy == "default-src 'none'; img-src data:; style-src 'unsafe-inline'"


def test_the_page_is_a_document_for_phones_and_screen_readers(whole: Page) -> None:
    assert whole.text.startswith("<!DOCTYPE html>")
    assert whole.all("html")[0]["lang"] == "en"
    assert any(a.get("name") == "viewport" and "width=device-width" in (a["content"] or "") for a in whole.all("meta"))
    assert len(whole.all("h1")) == 1
    images = whole.all("img")
    assert len(images) == 4
    assert all("truth on the left" in (a["alt"] or "") and a["width"] and a["height"] for a in images)
    assert all(a["role"] == "img" and a["aria-label"] and a["viewbox"] for a in whole.all("svg"))
    ids = {a["id"] for _, a in whole.tags if "id" in a}
    links = {(a["href"] or "").removeprefix("#") for a in whole.all("a")}
    assert links <= ids, f"dead links: {links - ids}"
    assert {link for link in links if not link.startswith(("good-", "bad-"))} == {
        "results", "pictures", "training", "data", "export", "weights", "configuration", "reproduce",
    }  # fmt: skip


def test_what_comes_from_data_and_configuration_is_shown_and_not_run(whole: Page) -> None:
    assert "<script" not in whole.text
    assert "<script>alert(1)</script>" in whole.shown
    assert "Größe <b>&\"'" in whole.shown
    assert "<em>were</em>" in whole.shown
    assert "<i>tag</i>" in whole.shown


def test_hostile_text_in_every_record_stays_text(tmp_path: Path) -> None:
    folder = run_folders.whole_run(tmp_path)
    bad = "\"'><script>alert(1)</script><img src=x onerror=alert(2)>{{ 7 * 7 }}"

    def poison(value: Any, key: str = "") -> Any:
        if isinstance(value, dict):
            return {k: poison(v, k) for k, v in value.items()}
        if isinstance(value, list):
            return [poison(v, key) for v in value]
        free = isinstance(value, str) and key not in {
            "status",
            "severity",
            "file",
            "sha256",
            "resize",
            "channels",
            "kind",
        }
        return bad if free else value

    for path in [folder / "run.json", folder / "data.json", folder / "evaluation.json", *folder.glob("exports/*.json")]:
        run_folders.write(path, poison(json.loads(path.read_text())))
    run_folders.write(folder / "config.yaml", {"a": {"b": bad}, "origins": {"a.b": ["file", bad, bad]}})
    with (folder / "metrics.jsonl").open("a") as file:
        file.write(json.dumps({"step": 601, "epoch": 20, "train/loss": 1, f"train/{bad}": 2.0}) + "\n")
    page = report(folder)
    assert not page.all("script")
    assert len(page.all("img")) == 4
    assert all(not name.startswith("on") for _, attributes in page.tags for name in attributes)
    assert "{{ 7 * 7 }}" in page.shown
    assert load_report_data(folder).problems == (), "every poisoned record was read"


def test_the_page_stays_below_three_megabytes_however_much_a_run_leaves(tmp_path: Path) -> None:
    """200 pictures of noise, the worst for a JPEG, and 1200 classes, as many as any public data set has."""
    folder = run_folders.whole_run(tmp_path, epochs=300)
    noise = encode_jpeg(np.random.default_rng(0).integers(0, 255, (700, 1500, 3), dtype=np.uint8), 95)
    evaluation = json.loads((folder / "evaluation.json").read_text())
    for number_ in range(200):
        (folder / "pictures" / f"val_{number_}.jpg").write_bytes(noise)
    one = evaluation["pictures"][0]
    evaluation["pictures"] = [{**one, "file": f"pictures/val_{n}.jpg", "good": n % 2 == 0} for n in range(200)]
    for split in evaluation["splits"].values():
        split["per_class"] = [{**split["per_class"][0], "index": n, "name": f"class number {n}"} for n in range(1200)]
    run_folders.write(folder / "evaluation.json", evaluation)
    data = json.loads((folder / "data.json").read_text())
    data["findings"] *= 5000
    run_folders.write(folder / "data.json", data)
    page = report(folder)
    assert len(page.text.encode()) < 3_000_000
    shown = len(page.all("img"))
    assert 2 <= shown < 200
    assert f"{200 - shown} more pictures are in the folder pictures/" in page.shown
    assert "9850 more are in data.json" in page.shown
    assert "1190 more are in the table" in page.shown


# Parts that are missing or broken


def test_a_run_that_has_just_begun_has_a_page(tmp_path: Path) -> None:
    run_folders.write(tmp_path / "run.json", {"name": "fresh", "progress": {"total_steps": 500}})
    page = report(tmp_path)
    assert "The run was not finished when this page was written (step 0 of 500)" in page.shown
    assert "No numbers were recorded yet" in page.shown
    assert not page.all("svg")


def test_an_interrupted_run_says_how_to_go_on(tmp_path: Path) -> None:
    run_folders.write(
        tmp_path / "run.json",
        {"name": "cut", "status": "interrupted", "progress": {"step": 120, "total_steps": 600, "total_epochs": 20}},
    )
    (tmp_path / "metrics.jsonl").write_text("\n".join(run_folders.metrics_lines(4, 30)))
    page = report(tmp_path)
    assert "stopped at step 120 of 600" in page.shown
    assert f"detloom train --resume {tmp_path}" in page.shown
    assert re.search(r"val AP 0\.\d{3} epoch 4", page.shown), "the last evaluation says where the run stands"


def test_a_failed_run_says_why(tmp_path: Path) -> None:
    run_folders.write(tmp_path / "run.json", {"name": "bad", "status": "failed", "error": "the loss is nan at step 7"})
    assert "The run failed. the loss is nan at step 7" in report(tmp_path).shown


@pytest.mark.parametrize(
    "missing",
    ["run.json", "metrics.jsonl", "evaluation.json", "data.json", "config.yaml", "exports/yolox-nano.onnx.json",
     "pictures/val_1.jpg"],
)  # fmt: skip
def test_each_part_may_be_missing(missing: str, tmp_path: Path) -> None:
    folder = run_folders.whole_run(tmp_path)
    (folder / missing).unlink()
    page = report(folder)
    assert page.all("svg") or missing == "metrics.jsonl"
    assert ("picture pictures/val_1.jpg could not be read" in page.shown) == (missing == "pictures/val_1.jpg")


@pytest.mark.parametrize("broken", ["run.json", "evaluation.json", "data.json", "config.yaml", "pictures/val_0.jpg"])
def test_a_broken_part_is_named_and_the_rest_shown(broken: str, tmp_path: Path) -> None:
    folder = run_folders.whole_run(tmp_path)
    (folder / broken).write_text('{"name": [3')
    page = report(folder)
    assert f"{broken} could not be read" in page.shown
    assert "Validation" in page.shown


def test_lines_that_were_cut_off_are_counted(tmp_path: Path) -> None:
    folder = run_folders.whole_run(tmp_path)
    with (folder / "metrics.jsonl").open("a") as file:
        file.write('{"step": 601, "ep')
    assert "metrics.jsonl: 1 lines could not be read" in report(folder).shown


def test_numbers_that_are_none_leave_gaps(tmp_path: Path) -> None:
    folder = run_folders.whole_run(tmp_path)
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    for record in lines[5:9]:
        record["train/loss"] = None
    for record in lines:
        if record["epoch"] == 3 and "val/AP" in record:
            record["val/AP"] = None
    (folder / "metrics.jsonl").write_text("\n".join(map(json.dumps, lines)))
    text = report(folder).text
    assert "nan" not in re.sub(r"data:image[^\"]*|nano", "", text.lower())
    loss = text.split('aria-label="Loss"')[1]
    assert loss.split('class="line" d="')[1].split('"')[0].count("M") == 2


def test_a_picture_outside_the_folder_is_not_read(tmp_path: Path) -> None:
    folder = run_folders.whole_run(tmp_path / "run")
    (tmp_path / "secret.jpg").write_bytes((folder / "pictures" / "val_0.jpg").read_bytes())
    evaluation = json.loads((folder / "evaluation.json").read_text())
    evaluation["pictures"][0]["file"] = "../secret.jpg"
    run_folders.write(folder / "evaluation.json", evaluation)
    page = report(folder)
    assert len(page.all("img")) == 3
    assert "../secret.jpg could not be read" in page.shown


def test_a_folder_that_is_no_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="not a run's folder"):
        load_report_data(tmp_path)
    with pytest.raises(DataError, match="not a run's folder"):
        load_report_data(tmp_path / "nowhere")


def test_a_report_that_cannot_be_written_leaves_the_old_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = run_folders.whole_run(tmp_path)
    target = folder / "report.html"
    target.write_text("old")

    def full(self: Path, *args: object, **kwargs: object) -> int:
        raise OSError(28, "No space left on device")

    data = load_report_data(folder)
    monkeypatch.setattr(Path, "write_text", full)
    with pytest.raises(DetloomError, match="No space left"):
        write_report(data, target)
    assert target.read_bytes() == b"old"
    assert not [path for path in folder.iterdir() if path.suffix == ".part"]
