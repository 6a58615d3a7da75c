"""A training on three sources of three formats, one of them in a bucket: checked, trained, interrupted, resumed."""

from __future__ import annotations

import contextlib
import json
import logging
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

import data_tools
from detloom import run as run_module
from detloom.config import mapping_layer, resolve
from detloom.data.load import check
from detloom.errors import CheckpointError, RunInterrupted
from detloom.host import PluginHost
from detloom.run import resume_run, train_run
from merge_tools import voc_data, yolo_data
from run_tools import lab_host, metrics_of, trained_digest, weights_digest
from s3_tools import KEY, SECRET, S3Server, contents

BUCKET = "merging"
Values = dict[str, Any]


@pytest.fixture
def values(tmp_path: Path, s3_server: S3Server, s3_keys: None, monkeypatch: pytest.MonkeyPatch) -> Values:
    """COCO here, VOC here, YOLO in a bucket; balanced, cached, augmented."""
    monkeypatch.setenv("DETLOOM_CACHE", str(tmp_path / "cache"))
    yolo_data(tmp_path / "yolo", ("DOG", "wild horse"), range(300, 307), 2)
    s3_server.put_folder(BUCKET, tmp_path / "yolo", "team/yolo")
    sources = [
        {"path": str(data_tools.sound_data(tmp_path / "coco")), "name": "north"},
        {"type": "s3", "endpoint": s3_server.endpoint, "bucket": BUCKET, "prefix": "team/yolo"},
        {"path": str(voc_data(tmp_path / "voc", ("Wild-Horse", "Kitten"), range(400, 410))), "name": "south"},
    ]
    return {
        "data.sources": sources,
        "data.class_aliases": {"kitten": "cat"},
        "data.split.stratify": True,
        "data.balance": "weighted",
        "data.cache": "disk",
        "data.num_workers": 0,
        "model.type": "lab-wet",
        "model.pretrain_weights": "none",
        "training.epochs": 3,
        "training.batch_size": 2,
        "training.resolution": 64,
        "augmentation.transforms": ["hflip", "affine"],
        "validation.pictures": 0,
        "export.format": [],
        "experiment.logging.loggers": ["jsonl"],
        "experiment.output_dir": str(tmp_path / "runs"),
    }


@pytest.fixture(autouse=True)
def _quiet() -> Iterator[None]:
    yield
    logging.getLogger("detloom").handlers.clear()


def trained(values: Values, host: PluginHost, name: str) -> Path:
    train_run(resolve(host, [mapping_layer({**values, "experiment.name": name})]), host)
    return Path(values["experiment.output_dir"]) / name


@contextlib.contextmanager
def interrupted_after(steps: int, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Ctrl-C, as the loop sees it, when it asks for the so-manieth time."""
    asked = iter([False] * steps)

    @contextlib.contextmanager
    def signals() -> Iterator[Any]:
        yield SimpleNamespace(is_set=lambda: next(asked, True))

    with monkeypatch.context() as patch:
        patch.setattr(run_module, "stop_signals", signals)
        yield


def test_three_sources_are_checked_trained_interrupted_and_resumed_bit_for_bit(
    values: Values, monkeypatch: pytest.MonkeyPatch
) -> None:
    host = lab_host()
    report = check(resolve(host, [mapping_layer(values)]), host)
    assert not report.refused and report.dataset is not None
    assert report.dataset.class_map.names == ("cat", "dog", "wild horse")

    whole = trained(values, host, "whole")
    with interrupted_after(11, monkeypatch), pytest.raises(RunInterrupted, match=r"stopped at step 1[01] of 24"):
        trained(values, host, "parts")
    parts = whole.parent / "parts"
    resume_run(str(parts), [], host)
    record = json.loads((parts / "run.json").read_text())
    assert (record["status"], record["progress"]["step"], len(record["resumed"])) == ("completed", 24, 1)
    for name in ("last.pt", "best.pt"):
        assert weights_digest(parts / "checkpoints" / name) == weights_digest(whole / "checkpoints" / name)
    assert trained_digest(parts / "checkpoints" / "last.pt") == trained_digest(whole / "checkpoints" / "last.pt")
    assert metrics_of(parts)[-1] == metrics_of(whole)[-1]
    plain = trained({**values, "data.cache": "none"}, host, "plain")
    assert trained_digest(plain / "checkpoints" / "last.pt") == trained_digest(whole / "checkpoints" / "last.pt")


def test_a_run_keeps_what_its_data_were_made_of_and_no_secret(values: Values, s3_server: S3Server) -> None:
    host = lab_host()
    folder = trained({**values, "training.epochs": 1}, host, "kept")
    record, data = (json.loads((folder / name).read_text()) for name in ("run.json", "data.json"))
    assert record["data"]["sources"] == data["sources"] and record["data"]["digest"] == data["digest"]
    north, bucket, south = data["sources"]
    assert bucket["type"] == "s3" and bucket["format"] == "yolo" and bucket["name"] == "yolo"
    assert bucket["identity"] == f"{s3_server.endpoint}/{BUCKET}/team/yolo" and len(bucket["revision"]) == 32
    assert bucket["classes"] == {"DOG": "dog", "wild horse": "wild horse"}
    assert south["classes"] == {"Kitten": "cat", "Wild-Horse": "wild horse"}
    assert north["images"] == {"train": 4, "val": 2} and bucket["images"] == {"train": 5, "val": 2}
    listed = {split: sum(use["images"][split] for use in data["sources"]) for split in ("train", "val")}
    assert listed == {split: statistics["images"] for split, statistics in data["splits"].items()}
    for content in contents(folder).values():
        assert SECRET.encode() not in content and KEY.encode() + b"\n" not in content


def test_a_resumed_run_takes_from_the_cache_what_is_no_longer_in_the_bucket_and_refuses_other_data(
    values: Values, s3_server: S3Server, tmp_path: Path
) -> None:
    host = lab_host()
    folder = trained({**values, "training.epochs": 1}, host, "later")
    s3_server.put(BUCKET, {"team/yolo/data.yaml": b"names: [a]\n"})
    resume_run(str(folder), [mapping_layer({"training.epochs": 2}, "command line")], host)
    assert json.loads((folder / "run.json").read_text())["status"] == "completed"
    data_tools.edit(tmp_path / "coco", lambda content: content["annotations"].pop())
    with pytest.raises(CheckpointError, match="the data have changed"):
        resume_run(str(folder), [mapping_layer({"training.epochs": 3}, "command line")], host)
