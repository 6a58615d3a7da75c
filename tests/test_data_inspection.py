"""What `detloom check` says of data that are sound: numbers by hand, and the training that it suggests."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from data_tools import document, edit, look, picture, sound_data, write_split
from detloom.config import mapping_layer, resolve
from detloom.data.inspect import Inspection, Spread
from detloom.host import discover
from detloom.specs import ModelSpec


def inspected(root: Path, **data: Any) -> Inspection:
    found = look(root, **data).inspection
    assert found is not None
    return found


def masked(content: dict[str, Any], every: int = 1) -> None:
    """A polygon around each box, or around some."""
    for entry in content["annotations"][::every]:
        x, y, w, h = entry["bbox"]
        entry["segmentation"] = [[x, y, x + w, y, x + w, y + h, x, y + h]]


def lopsided(root: Path) -> Path:
    """Twelve cats in each of 30 pictures; one dog in all of the training split."""
    for split, images, seed in (("train", 30, 0), ("valid", 2, 100)):
        content = document(images, seed)
        content["annotations"] = [
            {"id": 100 * n + k, "image_id": n + 1, "category_id": 3, "bbox": [5 * k, 3, 4, 6], "iscrowd": 0}
            for n in range(images)
            for k in range(12)
        ]
        content["annotations"].append(
            {"id": 99999, "image_id": 1, "category_id": 7, "bbox": [10, 20, 30, 20], "iscrowd": 0}
        )
        write_split(root / split, content, seed)
    return root


def test_numbers_are_those_that_can_be_counted_by_hand(tmp_path: Path) -> None:
    root = sound_data(tmp_path)
    wide = root / "train" / "p3.png"
    Image.fromarray(picture(3, 96, 48)).save(wide)
    edit(root, lambda content: content["images"][3].update(width=96))
    edit(root, lambda content: content["annotations"].pop(0))
    edit(root, lambda content: content["annotations"][0].update(iscrowd=1))
    found = inspected(root)
    whole, train = found.whole, found.by_split["train"]
    assert (whole.images, whole.objects, train.images, train.objects) == (6, 11, 4, 7)
    assert dict(whole.image_sizes) == {"64x48": 5, "96x48": 1}
    assert train.width_px == Spread(64, 64, 72, 96)
    assert train.aspect == Spread(1.333, 1.333, 1.5, 2)
    assert train.objects_per_image == Spread(1, 2, 1.75, 2)
    assert found.by_split["val"].objects_per_image == Spread(2, 2, 2, 2)
    # Cats are 20 x 10 and dogs 16 x 12: sides of 14.142 and 13.856.
    assert (whole.box_side_px.min, whole.box_side_px.max) == (13.856, 14.142)
    assert (whole.small, whole.medium, whole.large, whole.crowd, whole.masks) == (11, 0, 0, 1, 0)
    assert (found.imbalance, found.without_masks) == (1.2, 10)
    assert json.loads(json.dumps(found.to_dict()))["class_mapping"] == {"3": 0, "7": 1}


def test_a_rare_class_calls_for_balance_and_equal_classes_do_not(tmp_path: Path) -> None:
    advice = inspected(lopsided(tmp_path / "rare")).recommendation
    assert dict(advice.settings) == {"data.balance": "repeat-factor"}
    assert any("dog is in 3.3% of the training images, and cat has 360 times as many" in note for note in advice.notes)
    advice = inspected(sound_data(tmp_path / "equal")).recommendation
    assert not advice.settings and not advice.notes


def test_masks_for_all_objects_are_recommended_a_model_of_masks_and_mixed_ones_are_explained(tmp_path: Path) -> None:
    for every, folder in ((1, "all"), (2, "mixed")):
        root = sound_data(tmp_path / folder)
        for split in ("train", "valid"):
            edit(root, lambda content, every=every: masked(content, every), split)
    whole, mixed = inspected(tmp_path / "all"), inspected(tmp_path / "mixed")
    assert whole.recommendation.model == "rf_detr-seg-nano" and not whole.recommendation.notes
    assert (mixed.has_masks, mixed.without_masks, mixed.whole.masks) == (True, 6, 6)
    assert mixed.recommendation.model == "yolox-nano"
    assert "6 of 12 objects have no mask" in mixed.recommendation.notes[0]
    report = look(tmp_path / "mixed")
    (finding,) = [finding for finding in report.findings if finding.code == "partial-masks"]
    assert "a model of masks needs one for each object" in finding.remedy


def test_keypoints_are_shown_and_said_to_train_nothing(tmp_path: Path) -> None:
    root = sound_data(tmp_path)
    edit(root, lambda content: content["annotations"][0].update(keypoints=[1, 2, 2], num_keypoints=1))
    found = inspected(root)
    assert found.has_keypoints
    assert "keypoints are not trained on: boxes are" in found.recommendation.notes


def test_objects_that_vanish_at_the_suggested_size_are_counted(tmp_path: Path) -> None:
    """Pictures 2600 pixels wide are halved by the largest input that is suggested."""

    def widen(content: dict[str, Any]) -> None:
        for entry in content["images"]:
            entry["width"] = 2600
        for entry in content["annotations"][:3]:
            entry["bbox"][2:] = [1.0, 1.0]

    root = sound_data(tmp_path)
    for split in ("train", "valid"):
        edit(root, widen, split)
        for number, path in enumerate(sorted((root / split).glob("*.png"))):
            Image.fromarray(picture(number, 2600, 48)).save(path)
    advice = inspected(root, near_duplicates=False, allow=["leakage"]).recommendation
    assert max(advice.resolution) < 2600 / 2
    assert [note.partition(" (")[0] for note in advice.notes] == ["3 of 8 objects of train", "3 of 4 objects of val"]


@pytest.mark.parametrize("kind", ["plain", "masks", "rare"])
def test_what_is_suggested_is_a_configuration_that_is_accepted(tmp_path: Path, kind: str) -> None:
    root = lopsided(tmp_path) if kind == "rare" else sound_data(tmp_path)
    if kind == "masks":
        for split in ("train", "valid"):
            edit(root, masked, split)
    advice = inspected(root).recommendation
    values: dict[str, Any] = {"data.local.path": str(root), "model.type": advice.model, **advice.settings}
    config = resolve(discover(), [mapping_layer({**values, "training.resolution": list(advice.resolution)})])
    divisor = discover().get(ModelSpec, advice.model).size_divisor
    assert all(side % divisor == 0 for side in advice.resolution)
    assert config.config.data.balance == ("repeat-factor" if kind == "rare" else "none")


def test_the_command_line_shows_what_the_json_holds(tmp_path: Path, cli: Callable[..., Any]) -> None:
    root = lopsided(tmp_path / "d")
    shown = cli("check", root)
    assert shown.returncode == 0, shown.stderr
    assert "pictures  64x48 (32); width by height 1.33" in shown.stdout
    assert "objects   12 to 13 (median 12) an image, 0 images without" in shown.stdout
    assert "192 times as many objects as the rarest" in shown.stdout
    assert "--set data.balance=repeat-factor" in shown.stdout and "images with it are shown more often" in shown.stdout
    chosen = cli("check", root, "--set", "data.balance=weighted", "--json")
    answer = json.loads(chosen.stdout)
    assert answer["next"].count("data.balance") == 1 and "data.balance=weighted" in answer["next"]
    assert answer["inspection"]["whole"]["objects"] == 386
    assert answer["inspection"]["recommendation"]["settings"] == {"data.balance": "repeat-factor"}
