"""What a run says when its model cannot do what the data ask for."""

from __future__ import annotations

import json
import logging
from pathlib import Path

import pytest

from data_tools import Document, edit, load, sound_data
from detloom.config import mapping_layer, resolve
from detloom.errors import DataError
from detloom.run import train_run
from run_tools import SHORT_RUN, NotingDetector, lab_host


@pytest.mark.parametrize("most", [None, 1])
def test_a_run_warns_of_images_with_more_objects_than_its_model_finds(
    most: int | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = sound_data(tmp_path / "data")
    assert any((split.starts[1:] - split.starts[:-1]).max() > 1 for split in load(data).splits.values())
    monkeypatch.setattr(NotingDetector, "most_objects", most)
    monkeypatch.chdir(tmp_path)
    warnings = warnings_of_a_run(data)
    assert any("than the 1 queries of the model can find" in text for text in warnings) == (most == 1)


def shrunk(content: Document, objects: int) -> None:
    for annotation in content["annotations"][:objects]:
        annotation["bbox"][2:] = [1.0, 1.0]


@pytest.mark.parametrize(("resolution", "counts"), [(64, {}), (32, {"train": "3 of 8", "val": "1 of 4"})])
def test_objects_below_a_pixel_of_the_network_input_are_counted_before_the_first_step(
    resolution: int, counts: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = sound_data(tmp_path / "data")
    edit(data, lambda content: shrunk(content, 3))
    edit(data, lambda content: shrunk(content, 1), "valid")
    monkeypatch.chdir(tmp_path)
    small = [text for text in warnings_of_a_run(data, **{"training.resolution": resolution}) if "below 1 pixel" in text]
    assert len(small) == len(counts)
    for text, (split, count) in zip(small, counts.items(), strict=True):
        assert text.startswith(f"{count} objects of {split} (") and text.endswith("raise training.resolution")


def test_a_training_without_one_object_that_can_be_seen_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = sound_data(tmp_path / "data")
    edit(data, lambda content: shrunk(content, 8))
    monkeypatch.chdir(tmp_path)
    with pytest.raises(DataError, match="at 32x32 none of the 8 objects of train") as refused:
        warnings_of_a_run(data, **{"training.resolution": 32})
    assert "training.resolution" in str(refused.value.hint)
    assert not (tmp_path / "runs").exists()


def warnings_of_a_run(data: Path, **settings: object) -> list[str]:
    """What run.json keeps of a run below the working directory."""
    host = lab_host()
    try:
        train_run(resolve(host, [mapping_layer({**SHORT_RUN, "data.local.path": str(data), **settings})]), host)
    finally:
        logging.getLogger("detloom").handlers.clear()
    found: list[str] = json.loads(Path("runs/run/run.json").read_text())["warnings"]
    return found
