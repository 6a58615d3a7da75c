"""Several data, on the command lines of those that read them: `convert`, `evaluate`, `export`, `check`; and in the
report."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import format_tools as tools
from cells import cells_host, draw_data, draw_split, write_run
from data_tools import codes, load, look
from detloom.cli import main
from detloom.data.dataset import Dataset
from detloom.report import load_report_data, write_report
from merge_tools import voc_data, yolo_data

Call = Callable[..., tuple[int, str, str]]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of a model that finds every square there is."""
    root = tmp_path_factory.mktemp("sources")
    write_run(root / "run", draw_data(root / "data"), cells_host())
    return root / "run"


@pytest.fixture
def call(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Call:
    """Run a command in a folder with two more data sets, one of which numbers the classes otherwise."""
    monkeypatch.setattr("detloom.host.discover", cells_host)
    monkeypatch.setenv("DETLOOM_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    draw_split(tmp_path / "a", 4, 9, ids={"blue": 77, "red": 12})
    draw_split(tmp_path / "b", 3, 5)

    def execute(*arguments: object) -> tuple[int, str, str]:
        code = main([str(argument) for argument in arguments])
        out, err = capsys.readouterr()
        assert "Traceback" not in err
        return code, out, err

    return execute


JSON_A, JSON_B = "a/_annotations.coco.json", "b/_annotations.coco.json"


# ---- evaluate and export


@pytest.mark.parametrize(
    "arguments",
    [
        ("{run}", JSON_A, JSON_B, "--json"),
        ("{run}", JSON_A, "--json", JSON_B),
        ("--json", "{run}", "--batch-size", "4", JSON_A, JSON_B),
        ("{run}", "--json", "--config", "both.yaml"),
        ("{run}", "--json", "--set", f"data.sources=[{{path: {JSON_A}}}, {{path: {JSON_B}}}]"),
    ],
)
def test_several_data_are_evaluated_as_one(call: Call, run: Path, tmp_path: Path, arguments: tuple[str, ...]) -> None:
    (tmp_path / "both.yaml").write_text(f"data:\n  sources: [{JSON_A}, {JSON_B}]\ntraining: {{epochs: 3}}\n")
    code, out, err = call("evaluate", *(run if argument == "{run}" else argument for argument in arguments))
    assert code == 0, err
    (split,) = json.loads(out)["splits"].values()
    assert (split["images"], split["metrics"]["AP"]) == (7, pytest.approx(1.0))
    assert "not what the run was trained on" not in err


def test_a_configuration_without_data_and_data_that_would_be_ignored_are_refused(
    call: Call, run: Path, tmp_path: Path
) -> None:
    (tmp_path / "other.yaml").write_text("training: {epochs: 3}\n")
    code, _, err = call("evaluate", run, "--config", "other.yaml")
    assert (code, "other.yaml says nothing of data" in err) == (2, True)
    code, _, err = call("export", run, "--parity-only", "a", "--data", JSON_A)
    assert (code, "leave one of the two away" in err) == (2, True)


def test_the_gate_of_an_export_measures_on_several_data(call: Call, run: Path) -> None:
    code, out, err = call("export", run, "--output", "out", "--data", JSON_A, JSON_B, "--json")
    assert code == 0, err
    (manifest,) = json.loads(out)
    assert manifest["gate"]["images"] == 7
    code, _, err = call("export", run, "--output", "more", "--data", "a", "--set", "data.format=yolo")
    assert (code, "no YOLO labels found" in err) == (3, True)


# ---- convert and check


def boxes(root: Path) -> list[Any]:
    return sorted(value for row in tools.boxes(load(root, for_training=False)).values() for value in row)


@pytest.mark.parametrize("target", ["coco", "yolo", "voc"])
def test_several_data_are_converted_into_one_place(call: Call, tmp_path: Path, target: str) -> None:
    yolo_data(tmp_path / "one", ("cat", "dog"), range(6), 2)
    voc_data(tmp_path / "two", ("cat", "dog"), range(3, 8))  # not split, with file names of the first
    kept = {path: path.read_bytes() for name in ("one", "two") for path in (tmp_path / name).rglob("*.png")}
    code, out, err = call("convert", "one", "two", "out", "--to", target, "--allow", "conflicting-labels", "--json")
    assert code == 0, err
    answer = json.loads(out)
    assert [source["name"] for source in answer["sources"]] == ["one", "two"]
    assert sum(answer["images"].values()) == 8, "three pictures are in both"
    after = load(tmp_path / "out")
    assert set(after.splits) == {"train", "val"}
    assert sum(len(split) for split in after.splits.values()) == 8
    assert {path: path.read_bytes() for path in kept} == kept


@pytest.mark.parametrize("target", ["coco", "yolo", "voc"])
def test_a_part_that_is_not_split_is_not_lost_beside_splits(call: Call, tmp_path: Path, target: str) -> None:
    tools.csv_sizes(tmp_path / "data")
    table = tmp_path / "data" / "boxes.csv"
    table.write_text(table.read_text().replace("p3.png,,,,,,val", "p3.png,,,,,,night"))
    code, _, err = call("convert", "data", "out", "--to", target)
    assert code == 0, err
    assert {name: len(split) for name, split in load(tmp_path / "out").splits.items()} == {"train": 3, "val": 1}
    report = look(tmp_path / "data", split__val=0)
    assert "part-not-split" not in codes(report), "for a training it is divided or becomes part of the training split"


def test_only_the_new_folder_is_typed_where_a_configuration_names_the_data(call: Call, tmp_path: Path) -> None:
    yolo_data(tmp_path / "one", ("cat", "dog"), range(4), 1)
    (tmp_path / "data.yaml").write_text("data: {sources: [one]}\n")
    assert call("convert", "out", "--to", "coco", "--config", "data.yaml")[0] == 0
    assert boxes(tmp_path / "out") == boxes(tmp_path / "one")
    assert call("convert", "more", "--to", "coco", "--set", "data.local.path=one")[0] == 0
    code, _, err = call("convert", "more", "--to", "coco")
    assert (code, "takes two places" in err) == (2, True)


def test_flags_may_stand_between_data_and_words_that_mean_nothing_are_refused(call: Call, tmp_path: Path) -> None:
    yolo_data(tmp_path / "one", ("cat", "dog"), range(4), 1)
    voc_data(tmp_path / "two", ("cat", "dog"), range(10, 14))
    code, out, err = call("check", "one", "--json", "two")
    assert code == 0, err
    assert json.loads(out)["images"]["used"] == 8
    code, _, err = call("check", "one", "--jsn", "two")
    assert (code, "unknown argument --jsn" in err) == (2, True)
    code, _, err = call("plugins", "list", "more")
    assert (code, "unknown argument more" in err) == (2, True)


def test_what_lies_there_is_never_written_over(tmp_path: Path) -> None:
    from detloom.data.placing import Names, place_images
    from detloom.errors import DetloomError

    voc_data(tmp_path / "two", ("cat", "dog"), range(3))
    data: Dataset = load(tmp_path / "two", for_training=False)
    (split,) = data.splits.values()
    place_images(split, tmp_path / "out", Names(), copy=False)
    before = [image.path.read_bytes() for image in split.images]
    with pytest.raises(DetloomError, match="is there already"):
        place_images(split, tmp_path / "out", Names(), copy=True)
    assert [image.path.read_bytes() for image in split.images] == before


# ---- the report


def test_the_report_lists_the_sources_with_what_they_were_and_gave(run: Path, tmp_path: Path) -> None:
    from dataclasses import replace

    from detloom_schemas.run_files import DataRecord, SourceRecord, SplitStatistics

    sources = (
        SourceRecord(
            name="depot",
            type="s3",
            format="yolo",
            identity="http://h:9000/crops/2024",
            revision="0123456789abcdef",
            images={"train": 11},
            objects={"train": 47},
            classes={"Kitten": "cat", "dog": "dog", "junk": None},
        ),
        SourceRecord(name="own", type="local", format="voc", identity="/data/<own>", revision="r2"),
    )
    found = DataRecord(splits={"train": SplitStatistics(images=11)}, sources=sources)
    write_report(replace(load_report_data(run), data=found), tmp_path / "report.html")
    page = (tmp_path / "report.html").read_text()
    for text in (
        "2 sources",
        "http://h:9000/crops/2024",
        "0123456789ab",
        "Kitten → cat, junk → left out",
        "/data/&lt;own",
    ):
        assert text in page, text
    assert "dog → dog" not in page
