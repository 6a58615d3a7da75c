"""What a batch holds: the same for any number of workers, any start and any order."""

from __future__ import annotations

import pickle
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from data_tools import document, edit, load, picture, sound_data, write_split
from detloom.data.dataset import Split
from detloom.data.images import read_image
from detloom.data.loader import Batch, EvalLoader, NamedTransform, TrainLoader, worker_count
from detloom.data.samples import SampleReader
from detloom.data.torch_dataset import COCODetectionDataset, collate_fn
from detloom.errors import DataError, PluginError
from detloom.geometry import InputRule
from detloom.sample import Sample

RULE = InputRule(size=(64, 64))


class Noise:
    """Shifts every pixel and box by random amounts: two samples that drew other numbers never look alike."""

    def __call__(self, sample: Sample, rng: np.random.Generator, extras: Sequence[Sample]) -> Sample:
        noise = rng.integers(0, 40, sample.image.shape, dtype=np.uint8)
        return replace(sample, image=sample.image // 2 + noise, boxes=sample.boxes + rng.random((1, 1), np.float32))


class Blend:
    """Wants two extras and takes half of each of their pictures, and their objects."""

    def __call__(self, sample: Sample, rng: np.random.Generator, extras: Sequence[Sample]) -> Sample:
        first, second = extras
        image = sample.image // 3 + first.image // 3 + second.image // 3
        boxes = np.concatenate([sample.boxes, first.boxes, second.boxes])
        labels = np.concatenate([sample.labels, first.labels, second.labels])
        return replace(sample, image=image, boxes=boxes, labels=labels)


TRANSFORMS = [NamedTransform("noise", Noise()), NamedTransform("blend", Blend(), 2), NamedTransform("noise", Noise())]


@pytest.fixture(scope="module")
def split(tmp_path_factory: pytest.TempPathFactory) -> Split:
    """11 images; one without objects, one crowd."""
    root = tmp_path_factory.mktemp("data")
    sound_data(root, images=11)
    edit(root, lambda c: c.update(annotations=[a for a in c["annotations"] if a["image_id"] != 5]))
    edit(root, lambda c: c["annotations"][0].update(iscrowd=1))
    return load(root).splits["train"]


def fingerprint(batches: Sequence[Batch]) -> list[tuple[bytes, ...]]:
    return [
        (
            batch.images.numpy().tobytes(),
            batch.targets.boxes.numpy().tobytes(),
            batch.targets.labels.numpy().tobytes(),
            repr((batch.indices, batch.sizes, batch.image_ids)).encode(),
        )
        for batch in batches
    ]


def train_loader(
    split: Split, workers: int = 0, transforms: Sequence[NamedTransform] = TRANSFORMS, **more: object
) -> TrainLoader:
    return TrainLoader(split, RULE, transforms, batch_size=3, seed=7, num_workers=workers, **more)  # type: ignore[arg-type]


@pytest.mark.parametrize("workers", [1, 2])
def test_workers_change_nothing(split: Split, workers: int) -> None:
    alone, helped = train_loader(split), train_loader(split, workers)
    for epoch in (0, 1):
        assert fingerprint(list(helped.epoch(epoch))) == fingerprint(list(alone.epoch(epoch)))


def test_workers_that_are_spawned_change_nothing(split: Split) -> None:
    spawned = train_loader(split, 1, [], start_method="spawn", persistent_workers=False)
    assert fingerprint(list(spawned.epoch(0))) == fingerprint(list(train_loader(split, 0, []).epoch(0)))


def test_an_epoch_that_starts_in_the_middle_goes_on_with_the_same_batches(split: Split) -> None:
    whole = fingerprint(list(train_loader(split).epoch(4)))
    for start in range(4):
        assert fingerprint(list(train_loader(split).epoch(4, start))) == whole[start:]
    helped = train_loader(split, 2)
    interrupted = helped.epoch(4)
    next(interrupted)
    assert fingerprint(list(helped.epoch(4, 1))) == whole[1:]


def test_the_order_in_which_epochs_are_read_changes_nothing(split: Split) -> None:
    loader = train_loader(split)
    late = fingerprint(list(loader.epoch(3)))
    loader_again = train_loader(split)
    list(loader_again.epoch(0))
    assert fingerprint(list(loader_again.epoch(3))) == late


def test_global_random_states_are_neither_used_nor_moved(split: Split) -> None:
    torch.manual_seed(0)
    np.random.seed(0)
    before = torch.random.get_rng_state(), np.random.get_state()[1].tobytes()  # type: ignore[union-attr]
    first = fingerprint(list(train_loader(split, 1).epoch(0)))
    assert torch.equal(torch.random.get_rng_state(), before[0])
    assert np.random.get_state()[1].tobytes() == before[1]  # type: ignore[union-attr]
    torch.manual_seed(99)
    assert fingerprint(list(train_loader(split, 1).epoch(0))) == first


def test_seed_epoch_and_place_in_the_list_each_change_the_numbers(split: Split) -> None:
    def image_of(seed: int, epoch: int, transforms: Sequence[NamedTransform]) -> bytes:
        image, _ = SampleReader(split, RULE, tuple(transforms), seed).read(epoch, 2)
        return image.numpy().tobytes()

    once = TRANSFORMS[:1]
    looks = {image_of(0, 0, once), image_of(1, 0, once), image_of(0, 1, once), image_of(0, 0, once * 2)}
    looks.add(image_of(0, 0, [NamedTransform("other", Noise())]))
    assert len(looks) == 5
    # Twice the same noise would be the same as drawing it once and adding it twice.
    reader = SampleReader(split, RULE, tuple(once * 2), 0)
    _, single = SampleReader(split, RULE, tuple(once), 0).read(0, 2)
    _, double = reader.read(0, 2)
    _, plain = SampleReader(split, RULE).read(0, 2)
    first = (single.boxes - plain.boxes)[0, 0].item()
    assert (double.boxes - plain.boxes)[0, 0].item() != pytest.approx(2 * first, abs=1e-3)


def test_every_image_comes_once_an_epoch_in_another_order(split: Split) -> None:
    loader = train_loader(split, 0, [], drop_last=False)
    assert loader.batches_per_epoch == 4
    orders = [[index for batch in loader.epoch(epoch) for index in batch.indices] for epoch in range(3)]
    assert all(sorted(order) == list(range(11)) for order in orders)
    assert len({tuple(order) for order in orders}) == 3
    assert orders[1] == loader.order(1)


def test_the_last_small_batch_is_left_out_unless_it_is_the_only_one(split: Split) -> None:
    loader = train_loader(split, 0, [])
    assert [len(batch.indices) for batch in loader.epoch(0)] == [3, 3, 3]
    assert loader.batches_per_epoch == 3
    large = TrainLoader(split, RULE, [], batch_size=100, num_workers=0)
    assert large.batches_per_epoch == 1
    assert [len(batch.indices) for batch in large.epoch(0)] == [11]


def test_evaluation_keeps_the_order_and_every_image(split: Split) -> None:
    for workers in (0, 1):
        loader = EvalLoader(split, RULE, batch_size=4, num_workers=workers)
        batches = list(loader)
        assert len(batches) == len(loader) == 3
        assert [index for batch in batches for index in batch.indices] == list(range(11))
        assert [size for batch in batches for size in batch.sizes] == [(48, 64)] * 11
        assert [own for batch in batches for own in batch.image_ids] == [image.id for image in split.images]
    assert batches[1].targets.valid[0].sum() == 0  # image 5 has no objects


def test_a_batch_holds_the_letterboxed_picture_and_its_boxes(split: Split) -> None:
    rule = InputRule(size=(96, 96), pad_value=7)
    batch = next(iter(EvalLoader(split, rule, batch_size=2, num_workers=0)))
    assert batch.images.shape == (2, 3, 96, 96)
    assert batch.images.dtype == torch.uint8
    expected = rule.prepare(read_image(split.images[1].path)).transpose(2, 0, 1)
    assert np.array_equal(batch.images[1].numpy(), expected)
    assert (batch.images[:, :, 72:] == 7).all()
    assert batch.targets.boxes[1, 0].tolist() == [6.0, 7.5, 36.0, 22.5]
    assert batch.targets.boxes.dtype == torch.float32
    # The crowd of the first image is not a target; the row is padding.
    assert batch.targets.labels.tolist() == [[1, -1], [0, 1]]
    assert batch.targets.boxes[0, 1].tolist() == [0.0] * 4


def test_a_batch_without_any_object_has_one_row_of_padding(split: Split) -> None:
    batch = list(EvalLoader(split, RULE, batch_size=1, num_workers=0))[4]
    assert batch.targets.labels.tolist() == [[-1]]


def test_masks_follow_their_picture(tmp_path: Path) -> None:
    root = sound_data(tmp_path / "data")
    polygon = [[4, 5, 24, 5, 24, 15, 4, 15]]
    edit(root, lambda c: c["annotations"][0].update(segmentation=polygon))
    masked = load(root).splits["train"]
    batch = next(iter(EvalLoader(masked, InputRule(size=(96, 128)), batch_size=2, num_workers=0, masks=True)))
    assert batch.targets.masks is not None
    assert batch.targets.masks.shape == (2, 2, 96, 128)
    expected = torch.zeros(96, 128, dtype=torch.uint8)
    expected[10:30, 8:48] = 1
    assert torch.equal(batch.targets.masks[0, 0], expected)
    assert batch.targets.masks[0, 1].sum() == 0  # has only a box


def test_objects_below_a_pixel_of_the_input_are_no_targets(tmp_path: Path) -> None:
    root = sound_data(tmp_path / "data")
    edit(root, lambda c: c["annotations"][0].update(bbox=[10, 10, 3, 3], area=9))
    small = load(root).splits["train"]
    _, target = SampleReader(small, InputRule(size=(16, 16))).read(0, 0)
    assert target.labels.tolist() == [1]


@pytest.mark.parametrize("workers", [0, 1])
def test_a_picture_that_breaks_during_the_run_is_named(tmp_path: Path, workers: int) -> None:
    root = sound_data(tmp_path / "data")
    broken = load(root).splits["train"]
    path = root / "train" / "p2.png"
    path.write_bytes(path.read_bytes()[:50])
    with pytest.raises(DataError, match=r"p2\.png") as caught:
        list(train_loader(broken, workers, []).epoch(0))
    assert "Traceback" not in str(caught.value)
    Image.fromarray(picture(2, 32, 32)).save(path)
    with pytest.raises(DataError, match="changed since"):
        list(train_loader(broken, workers, []).epoch(0))


class Broken:
    def __init__(self, kind: str) -> None:
        self.kind = kind

    def __call__(self, sample: Sample, rng: np.random.Generator, extras: Sequence[Sample]) -> Sample:
        if self.kind == "raises":
            raise KeyError("oops")
        if self.kind == "float":
            return replace(sample, image=sample.image.astype(np.float32))  # type: ignore[arg-type]
        if self.kind == "large":
            return replace(sample, image=np.zeros((999, 999, 3), np.uint8))
        return replace(sample, boxes=sample.boxes * np.float32("nan"))


@pytest.mark.parametrize("kind", ["raises", "float", "large", "nan"])
@pytest.mark.parametrize("workers", [0, 1])
def test_a_broken_transform_is_named_with_its_image(split: Split, kind: str, workers: int) -> None:
    loader = train_loader(split, workers, [NamedTransform("acme:wobble", Broken(kind))])
    with pytest.raises(PluginError, match=r"acme:wobble failed on p\d"):
        list(loader.epoch(0))


def test_extras_come_from_the_same_split_and_passed_the_same_transforms(tmp_path: Path) -> None:
    root = sound_data(tmp_path / "data")
    plain = load(root).splits["train"]
    seen: list[list[int]] = []

    class Mark:
        def __call__(self, sample: Sample, rng: np.random.Generator, extras: Sequence[Sample]) -> Sample:
            return replace(sample, image=np.full_like(sample.image, 200))

    class Spy:
        def __call__(self, sample: Sample, rng: np.random.Generator, extras: Sequence[Sample]) -> Sample:
            seen.append([int(extra.image.max()) for extra in extras] + [int(extra.image.min()) for extra in extras])
            return sample

    reader = SampleReader(plain, RULE, (NamedTransform("mark", Mark()), NamedTransform("spy", Spy(), 3)))
    reader.read(0, 0)
    assert seen == [[200] * 6]


def test_the_map_style_dataset_reads_through_the_same_code(tmp_path: Path) -> None:
    root = sound_data(tmp_path / "data")
    dataset = COCODetectionDataset(root, [Noise()], split="train", size=(64, 64), seed=7)
    named = [NamedTransform("Noise", Noise())]
    loader = train_loader(load(root).splits["train"], 0, named)
    dataset.epoch = 2
    batch = next(iter(loader.epoch(2)))
    assert fingerprint([collate_fn([dataset[index] for index in batch.indices])]) == fingerprint([batch])
    assert len(dataset) == 4
    assert dataset.class_map.names == ("cat", "dog")
    assert len(list(dataset)) == 4  # type: ignore[arg-type]
    batches = torch.utils.data.DataLoader(dataset, batch_size=2, collate_fn=collate_fn)
    assert [len(batch.indices) for batch in batches] == [2, 2]
    with pytest.raises(DataError, match="no split 'test'"):
        COCODetectionDataset(root, split="test")


def test_auto_uses_no_workers_for_few_images_or_few_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.sched_getaffinity", lambda _: set(range(16)), raising=False)
    assert worker_count("auto", 10_000) == 12
    assert worker_count("auto", 20) == 0
    assert worker_count(3, 20) == 3
    monkeypatch.setattr("os.sched_getaffinity", lambda _: {0, 1}, raising=False)
    assert worker_count("auto", 10_000) == 0


def test_rectangular_inputs_are_filled_row_by_row(tmp_path: Path) -> None:
    write_split(tmp_path / "train", document(3, 0), 0)
    write_split(tmp_path / "valid", document(2, 9), 9)
    wide = load(tmp_path).splits["train"]
    batch = next(iter(EvalLoader(wide, InputRule(size=(48, 96)), batch_size=3, num_workers=0)))
    assert batch.images.shape == (3, 3, 48, 96)
    assert np.array_equal(batch.images[0, :, :, :64].numpy().transpose(1, 2, 0), picture(0))


def test_a_split_travels_to_other_processes(split: Split) -> None:
    copy = pickle.loads(pickle.dumps(split))
    assert np.array_equal(copy.boxes, split.boxes) and copy.images == split.images
