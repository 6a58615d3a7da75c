"""Weights of another model of the family: which one they are is said, whether they are refused or taken in part."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from data_tools import sound_data
from detloom.detector import Detector, TransferReport
from detloom.errors import WeightsError
from detloom.host import discover
from detloom.specs import ModelContext, ModelSpec
from detloom.train.siblings import Weights, load_weights
from detloom.weight_transfer import why_unfit
from run_tools import observe
from yolox_tools import build

HOST = discover()


def empty(name: str) -> Detector:
    """The published model, without memory."""
    spec = HOST.get(ModelSpec, name)
    side: Any = spec.recipe["training.resolution"]
    size = side if isinstance(side, tuple) else (side, side)
    with torch.device("meta"):
        return spec.build(spec.settings(), ModelContext(("cat", "dog"), size))


@cache
def file_of(name: str) -> dict[str, Tensor]:
    """Names and shapes of a model's tensors: values are not looked at."""
    return dict(empty(name).state_dict())


def offered(file: str, model: str) -> TransferReport:
    weights = Weights(file_of(file), ("cat", "dog"), f"{file}.pth")
    return load_weights(empty(model), HOST.get(ModelSpec, model), weights, HOST)


@pytest.mark.parametrize(
    ("file", "model"),
    [("rf_detr-nano", "rf_detr-seg-nano"), ("rf_detr-seg-preview", "rf_detr-nano"), ("yolox-s", "yolox-nano")],
)
def test_a_refused_file_is_called_by_the_model_that_it_was_made_for(file: str, model: str) -> None:
    with pytest.raises(WeightsError, match=f"does not hold weights of {model}") as caught:
        offered(file, model)
    assert str(caught.value.hint).startswith(f"the file fits {file}: choose that model (`--model`)")


@pytest.mark.parametrize(
    ("file", "model"),
    [
        ("rf_detr-small", "rf_detr-nano"),
        ("yolox-nano", "yolox-seg-nano"),
        ("yolox-seg-nano", "yolox-nano"),
    ],
)
def test_a_file_that_is_taken_in_part_is_called_by_the_model_that_it_fits_whole(file: str, model: str) -> None:
    report = offered(file, model)
    assert report.missing or report.unexpected or report.mismatched
    assert report.fits == file
    assert report.lines()[-1] == f"  the file is one of {file}, which it fits whole"


def test_a_file_that_fits_says_nothing_of_other_models() -> None:
    """Of the classes cat and dog, offered as it is."""
    report = offered("yolox-nano", "yolox-nano")
    assert report.fits == "" and report.loaded == report.total


def test_of_models_that_take_a_file_the_one_with_its_shapes_is_named() -> None:
    """Medium and large differ in the table of positions alone, which is resampled: both take either's file."""
    taken = offered("rf_detr-large", "rf_detr-medium")
    assert not (taken.missing or taken.unexpected or taken.mismatched)
    assert offered("rf_detr-large", "rf_detr-nano").fits == "rf_detr-large"


def test_a_file_of_nothing_known_is_refused_without_a_name() -> None:
    weights = Weights({"layer.weight": torch.zeros(3)}, (), "file.pth")
    with pytest.raises(WeightsError) as caught:
        load_weights(empty("yolox-nano"), HOST.get(ModelSpec, "yolox-nano"), weights, HOST)
    assert "fits" not in str(caught.value.hint) and "--model" in str(caught.value.hint)


# ---- how much of it is shown ----------------------------------------------------------------------------------------


def test_of_thousands_of_tensors_three_are_shown_and_the_rest_is_counted() -> None:
    names = tuple(f"backbone.stage.{n}.weight" for n in range(4000))
    report = TransferReport("file", 1, 4001, missing=names, unexpected=names, mismatched=names, reset=names)
    assert max(map(len, report.lines())) < 300
    first = "backbone.stage.0.weight, backbone.stage.1.weight, backbone.stage.2.weight"
    assert f"  missing in the file: {first} and 3,997 more" in report.lines()


def test_torchs_list_of_a_state_that_does_not_fit_is_cut_short() -> None:
    """torch's own message holds every name, all in one line."""
    many = nn.Sequential(*(nn.Linear(2, 2) for _ in range(300)))
    few = nn.Sequential(nn.Linear(3, 2), nn.Linear(2, 2, bias=False))
    with pytest.raises(RuntimeError) as caught:
        many.load_state_dict(few.state_dict())
    assert len(str(caught.value)) > 5000
    told = why_unfit(caught.value)
    assert told.startswith("missing: 1.bias, 2.weight, 2.bias and 594 more; size mismatch for 0.weight: ")
    assert len(told) < 250 and "\n" not in told
    assert why_unfit(ValueError("the optimizer is another one")) == "the optimizer is another one"


def test_a_run_shows_a_few_names_and_keeps_them_all(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    extra = {f"extra.{n}": torch.zeros(1) for n in range(40)}
    torch.save({**build("nano", ("cat", "dog"), (64, 64)).state_dict(), **extra}, tmp_path / "tiny.pth")
    values = {
        "model.type": "yolox-nano", "model.pretrain_weights": str(tmp_path / "tiny.pth"), "data.num_workers": 0,
        "data.local.path": str(sound_data(tmp_path / "data")), "training.max_steps": 1, "training.resolution": 64,
        "training.batch_size": 2, "experiment.logging.loggers": ["jsonl"], "validation.pictures": 0,
        "export.format": [],
    }  # fmt: skip
    seen = observe(values, tmp_path, HOST)
    assert not seen["error"]
    shown, record = capsys.readouterr().out, seen["record"]["model"]
    assert "  not used: extra.0, extra.1, extra.2 and 37 more" in shown and "extra.3" not in shown
    assert record["transfer"]["unexpected"] == list(extra)
    assert record["transfer"]["total"] - record["transfer"]["loaded"] == 6, "the class rows"
    assert not any("extra.3" in line for line in record["weights"])
