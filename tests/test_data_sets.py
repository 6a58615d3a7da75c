"""Layouts, splits, digests, writing, and the real data."""

from __future__ import annotations

import json
import random
import shutil
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from data_tools import codes, document, edit, load, look, picture, save, sound_data, write_split
from detloom.data.findings import DataRefusedError
from detloom.data.masks import decode_rle
from detloom.data.splitting import SplitShares, assign_splits
from detloom.errors import UsageError
from detloom.host import discover
from detloom.specs import FormatSpec, SourceSpec


def counts(root: Path, **data: Any) -> dict[str, int]:
    return {name: len(split) for name, split in load(root, **data).splits.items()}


# ---- layouts


def test_one_json_for_everything_is_split(tmp_path: Path) -> None:
    write_split(tmp_path / "all", document(20, 0), 0)
    json_file = tmp_path / "all" / "_annotations.coco.json"
    for root in (json_file, tmp_path / "all"):
        report = look(root)
        assert [finding.code for finding in report.findings] == ["split-made"]
        assert report.dataset is not None
        sizes = {name: len(split) for name, split in report.dataset.splits.items()}
        assert sizes["train"] + sizes["val"] == 20
        assert 1 <= sizes["val"] <= 9
    assert counts(json_file, split__val=0.3, split__test=0.3).keys() == {"train", "val", "test"}
    assert list(load(json_file, for_training=False).splits) == ["all"]


def test_named_files_and_a_folder_of_images_are_relative_to_the_data(tmp_path: Path) -> None:
    for name, seed in (("a", 0), ("b", 50)):
        write_split(tmp_path / name, document(3, seed), seed)
        (tmp_path / "labels").mkdir(exist_ok=True)
        (tmp_path / name / "_annotations.coco.json").rename(tmp_path / "labels" / f"{name}.json")
    (tmp_path / "pictures").mkdir()
    for path in tmp_path.glob("[ab]/*.png"):
        path.rename(tmp_path / "pictures" / path.name)
    found = counts(tmp_path, local__train="labels/a.json", local__val="labels/b.json", local__images="pictures")
    assert found == {"train": 3, "val": 3}


def test_a_named_file_elsewhere_brings_the_images_beside_it(tmp_path: Path) -> None:
    write_split(tmp_path / "data" / "a", document(3, 0), 0)
    write_split(tmp_path / "elsewhere", document(2, 50), 50)
    other = tmp_path / "elsewhere" / "_annotations.coco.json"
    found = counts(tmp_path / "data", local__train="a/_annotations.coco.json", local__val=str(other))
    assert found == {"train": 3, "val": 2}


def test_wide_pictures_are_recommended_a_wide_input(tmp_path: Path) -> None:
    for split, seed in (("train", 0), ("valid", 9)):
        content = document(2, seed)
        for entry in content["images"]:
            entry.update(width=960, height=320)
        write_split(tmp_path / split, content, seed)
        for n, entry in enumerate(content["images"]):
            Image.fromarray(picture(seed + n, 960, 320)).save(tmp_path / split / entry["file_name"])
    report = look(tmp_path)
    assert report.inspection is not None
    height, width = report.inspection.recommendation.resolution
    assert width > 2 * height and height % 32 == width % 32 == 0


@pytest.mark.parametrize(
    "names",
    [
        ("train.json", "val.json"),
        ("train.json", "valid.json"),
        ("annotations/instances_train2017.json", "annotations/instances_val2017.json"),
    ],
)
def test_json_files_named_by_split_are_found(tmp_path: Path, names: tuple[str, str]) -> None:
    for name, seed in zip(names, (0, 50), strict=True):
        (tmp_path / "images").mkdir(exist_ok=True)
        write_split(tmp_path / "images", document(2, seed), seed)
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / "images" / "_annotations.coco.json").rename(tmp_path / name)
    assert counts(tmp_path) == {"train": 2, "val": 2}


def test_a_split_folder_without_annotations_is_not_passed_over_in_silence(tmp_path: Path) -> None:
    root = sound_data(tmp_path / "data")
    (root / "valid" / "_annotations.coco.json").unlink()
    assert "split-without-annotations" in codes(look(root))


def test_a_split_whose_images_are_all_unusable_is_not_replaced_by_another(tmp_path: Path) -> None:
    root = sound_data(tmp_path / "data")
    for path in (root / "valid").glob("*.png"):
        path.unlink()
    report = look(root, allow=["missing-image"])
    assert {finding.code for finding in report.refused} == {"empty-split"}
    report = look(root, allow=["missing-image", "empty-split"])
    assert {finding.code for finding in report.refused} == {"no-validation-split"}


def test_a_test_split_stays_what_it_is_when_the_rest_is_split(tmp_path: Path) -> None:
    root = sound_data(tmp_path / "data", images=10)
    (root / "valid").rename(root / "test")
    found = counts(root, split__test=0.4)
    assert found["test"] == 2
    assert found["train"] + found["val"] == 10


def test_without_a_share_for_validation_a_training_is_refused(tmp_path: Path) -> None:
    root = sound_data(tmp_path / "data")
    shutil.rmtree(root / "valid")
    with pytest.raises(DataRefusedError, match="no-validation-split"):
        load(root, split__val=0, allow=["no-validation-split"])


# ---- splitting

HASHES = [f"{n:064x}" for n in range(400)]


def test_a_split_has_about_its_share_and_depends_on_the_seed() -> None:
    places = assign_splits(HASHES, [frozenset({0})] * 400, SplitShares(0.2, 0.1, 0))
    shares = Counter(places)
    # Binomial: 5 standard deviations around 80 and 40.
    assert abs(shares["val"] - 80) < 40 and abs(shares["test"] - 40) < 30
    assert places != assign_splits(HASHES, [frozenset({0})] * 400, SplitShares(0.2, 0.1, 1))


def test_added_images_and_another_order_move_nothing() -> None:
    shares = SplitShares(0.2, 0.1, 3)
    few = dict(zip(HASHES[:100], assign_splits(HASHES[:100], [frozenset({0})] * 100, shares), strict=True))
    mixed = random.Random(0).sample(HASHES, 400)
    many = dict(zip(mixed, assign_splits(mixed, [frozenset({0})] * 400, shares), strict=True))
    assert all(many[content] == place for content, place in few.items())


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 10**6), images=st.integers(4, 25))
def test_every_class_of_two_pictures_is_in_training_and_validation(seed: int, images: int) -> None:
    """Of pictures with one class each, so that it is always possible."""
    classes = [frozenset({n % (images // 2)}) for n in range(images)]
    hashes = [f"{seed}-{n}" for n in range(images)]
    places = assign_splits(hashes, classes, SplitShares(0.2, 0.0, seed))
    for index in range(images // 2):
        assert {place for place, held in zip(places, classes, strict=True) if index in held} == {"train", "val"}


def test_equal_pictures_never_part() -> None:
    hashes = HASHES[:30] * 2
    places = assign_splits(hashes, [frozenset({0})] * 60, SplitShares(0.3, 0.2, 0))
    assert places[:30] == places[30:]


# ---- digest


def _shuffle_and_rename(root: Path) -> None:
    """Other ids, other order, other file names; the same pictures, class names and boxes."""

    def change(content: dict[str, Any]) -> None:
        for entry in content["images"]:
            entry["id"] += 1000
            entry["file_name"] = "renamed_" + entry["file_name"]
        for entry in content["annotations"]:
            entry["id"] += 5000
            entry["image_id"] += 1000
            entry["category_id"] = {3: 20, 7: 10}[entry["category_id"]]
        content["categories"] = [{"id": 10, "name": "dog"}, {"id": 20, "name": "cat"}]
        for key in ("images", "annotations"):
            random.Random(1).shuffle(content[key])

    for split in ("train", "valid"):
        edit(root, change, split)
        for path in (root / split).glob("*.png"):
            path.rename(path.with_name("renamed_" + path.name))


def test_the_digest_ignores_ids_order_and_names(tmp_path: Path) -> None:
    root = sound_data(tmp_path / "data")
    before = load(root)
    _shuffle_and_rename(root)
    after = load(root)
    assert before.class_map.names == ("cat", "dog") and after.class_map.names == ("dog", "cat")
    assert before.digest == after.digest


@pytest.mark.parametrize(
    "change",
    [
        lambda c: c["annotations"][0]["bbox"].__setitem__(0, 4.5),
        lambda c: c["annotations"][0].update(category_id=7),
        lambda c: c["annotations"][0].update(iscrowd=1),
        lambda c: c["annotations"].pop(),
        lambda c: c["images"].pop() and c.update(annotations=c["annotations"][:-2]),
        lambda c: c["annotations"][0].update(segmentation=[[4, 5, 24, 5, 24, 15]]),
    ],
)
def test_the_digest_sees_every_change_of_content(tmp_path: Path, change: Callable[[Any], Any]) -> None:
    root = sound_data(tmp_path / "data")
    before = load(root).digest
    edit(root, change)
    assert load(root).digest != before


# ---- writing


def test_what_is_written_reads_back_as_the_same_data(tmp_path: Path) -> None:
    root = sound_data(tmp_path / "data")
    polygon = [[4, 5, 24, 5, 24, 15, 4, 15]]
    edit(root, lambda c: c["annotations"][0].update(segmentation=polygon, iscrowd=1))
    edit(root, lambda c: c["images"][1].update(id=77) or c["annotations"][2].update(image_id=77))
    edit(root, lambda c: c["annotations"][3].update(image_id=77))
    before = load(root)
    plugins = discover()
    writer = plugins.get(FormatSpec, "coco").build(None)
    out = tmp_path / "out"
    writer.write(before, out)  # type: ignore[attr-defined]
    named = {"local__train": "train.json", "local__val": "val.json"}
    for after in (load(out), load(out, **named)):
        assert after.digest == before.digest
        for name, split in before.splits.items():
            other = after.splits[name]
            assert np.array_equal(other.boxes, split.boxes)
            assert other.object_ids == split.object_ids
            assert [image.id for image in other.images] == [image.id for image in split.images]
            assert other.area.tolist() == split.area.tolist()
            assert other.crowd.tolist() == split.crowd.tolist()
            assert other.rles == split.rles
    assert (out / "train" / "p0.png").stat().st_ino == (root / "train" / "p0.png").stat().st_ino
    copied = tmp_path / "copied"
    writer.write(before, copied, True)  # type: ignore[attr-defined]
    assert (copied / "train" / "p0.png").stat().st_ino != (root / "train" / "p0.png").stat().st_ino


def test_split_writes_all_or_nothing(tmp_path: Path, cli: Callable[..., Any]) -> None:
    write_split(tmp_path / "all", document(12, 0), 0)
    source = tmp_path / "all" / "_annotations.coco.json"
    out = tmp_path / "out"
    done = cli("split", source, "--out", out, "--val", "0.3", "--test", "0.2")
    assert done.returncode == 0, done.stderr
    for name in ("train", "val", "test"):
        assert (out / f"{name}.json").is_file()
    assert (out / "valid" / "_annotations.coco.json").is_file()
    assert sum(counts(out).values()) == 12
    assert cli("split", source, "--out", out).returncode == 2
    assert cli("split", out, "--out", tmp_path / "again").returncode == 2
    (tmp_path / "file").write_text("x")
    assert cli("split", source, "--out", tmp_path / "file" / "below").returncode == 1
    edit(tmp_path, lambda c: c["annotations"][0].update(category_id=9), "all")
    assert cli("split", source, "--out", tmp_path / "again").returncode == 3
    assert not (tmp_path / "again").exists()
    assert not list(tmp_path.glob(".again*"))


def test_a_failed_write_leaves_nothing_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from detloom.cli import data_output
    from detloom.errors import DetloomError

    class Broken:
        def write(self, dataset: object, dest: Path, copy_images: bool = False) -> list[Path]:
            (dest / "half").write_text("x")
            raise OSError(28, "No space left on device")

    with pytest.raises(DetloomError, match="No space left"):
        data_output.write_whole(None, Broken(), tmp_path / "out", False)  # type: ignore[arg-type]
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(UsageError):
        data_output.refuse_used(tmp_path.parent)


# ---- the source


def test_a_plan_reads_no_file_and_changes_with_the_data(tmp_path: Path) -> None:
    root = sound_data(tmp_path / "data")
    plugins = discover()
    spec = plugins.get(SourceSpec, "local")
    chosen = spec.settings().model_copy(update={"path": str(root)})
    first = spec.build(chosen).plan()
    assert first.files == 8
    assert first.bytes == sum(path.stat().st_size for path in root.rglob("*") if path.is_file())
    assert spec.build(chosen).plan() == first
    save(root / "train", {})
    assert spec.build(chosen).plan().revision != first.revision


# ---- real data

BCCD = {"local__images": "JPEGImages"} | {
    f"local__{split}": f"coco/roboflow_{name}.json"
    for split, name in (("train", "train"), ("val", "valid"), ("test", "test"))
}


@pytest.mark.data
def test_blood_cells_are_read_whole(data_dir: Path) -> None:
    report = look(data_dir / "bccd", **BCCD)
    assert report.inspection is not None and report.dataset is not None
    found = report.inspection
    assert found.splits == {"train": 255, "val": 73, "test": 36}
    assert (found.num_images, found.num_annotations, found.num_classes) == (364, 4886, 3)
    assert (found.has_boxes, found.has_masks, found.has_keypoints) == (True, False, False)
    assert found.class_mapping == {1: 0, 2: 1, 3: 2}
    assert report.refused == []
    truth = json.loads((data_dir / "bccd" / "coco" / "roboflow_train.json").read_text())
    train = report.dataset.splits["train"]
    written = {entry["id"]: entry for entry in truth["annotations"]}
    for row, own in enumerate(train.object_ids):
        x, y, w, h = written[own]["bbox"]  # type: ignore[index]
        assert train.boxes[row].tolist() == [x, y, x + w, y + h]
        assert report.dataset.class_map.ids[train.labels[row]] == written[own]["category_id"]  # type: ignore[index]
        assert train.images[train.image_index[row]].id == written[own]["image_id"]  # type: ignore[index]
    numbers = found.to_dict()
    assert json.loads(json.dumps(numbers)) == json.loads(json.dumps(found.to_dict()))
    assert numbers["by_split"]["test"]["objects"] == 471
    assert found.recommendation.resolution[0] % 32 == 0


@pytest.mark.data
def test_nuclei_have_the_pixels_of_their_label_maps(data_dir: Path) -> None:
    root = data_dir / "nuclei_dsb2018"
    names = {f"local__{name}": f"coco/{name}.json" for name in ("train", "val", "test")}
    dataset = load(root, local__images="images", **names)
    assert dataset.has_masks
    assert sum(len(split.labels) for split in dataset.splits.values()) == 16667
    val = dataset.splits["val"]
    for index, image in enumerate(val.images[:12]):
        label_map = next((root / "labels").glob(f"{Path(image.file_name).stem}.*"))
        pixels = cv2.imread(str(label_map), cv2.IMREAD_UNCHANGED)
        truth = sorted(np.bincount(pixels.ravel())[1:][np.unique(pixels)[1:] - 1].tolist())
        rows = val.objects_of(index)
        masks = [decode_rle(rle) for rle in val.rles[rows] if rle is not None]
        assert sorted(int(mask.sum()) for mask in masks) == truth
        assert sorted(val.area[rows].tolist()) == truth
        assert np.array_equal(np.sum(masks, axis=0) > 0, pixels > 0)
