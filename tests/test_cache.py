"""Decoded images that are read once: the same batches, shared by processes, never stale, never half there."""

from __future__ import annotations

import gc
import json
import multiprocessing
import os
import shutil
import threading
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from data_tools import document, load, picture, sound_data, write_split
from detloom.data import caching
from detloom.data.caching import CacheKind, PixelStore, build_stores, free_memory
from detloom.data.dataset import Split
from detloom.data.images import read_image
from detloom.data.loader import EvalLoader, NamedTransform, TrainLoader
from detloom.errors import DataError, DetloomError, RunInterrupted
from detloom.geometry import InputRule
from detloom.sample import Sample
from test_loader import Noise, fingerprint

RULE = InputRule(size=(48, 80))


class Patch:
    """Writes a piece of another sample into the array that it was given."""

    def __call__(self, sample: Sample, rng: np.random.Generator, extras: Sequence[Sample]) -> Sample:
        height, width = (min(a, b) // 2 for a, b in zip(sample.image.shape[:2], extras[0].image.shape[:2], strict=True))
        sample.image[:height, :width] = extras[0].image[:height, :width]
        return sample


TRANSFORMS = [NamedTransform("patch", Patch(), 1), NamedTransform("noise", Noise())]
KINDS: tuple[CacheKind, ...] = ("ram", "disk")


@pytest.fixture
def split(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Split:
    """Nine images of several sizes and kinds of file; one is larger than the input, one smaller, one has its size."""
    monkeypatch.setenv("DETLOOM_CACHE", str(tmp_path / "cache"))
    sound_data(tmp_path / "data", images=9)
    content = document(9, 0)
    for number, (width, height) in enumerate([(200, 100), (30, 20), (80, 48), (48, 200)]):
        Image.fromarray(picture(number, width, height)).save(tmp_path / "data" / "train" / f"p{number}.png")
        content["images"][number].update(width=width, height=height)
    Image.fromarray(picture(4)).save(tmp_path / "data" / "train" / "p4.png", format="JPEG", quality=90)
    (tmp_path / "data" / "train" / "_annotations.coco.json").write_text(json.dumps(content))
    return load(tmp_path / "data").splits["train"]


def stores(split: Split, kind: CacheKind, rule: InputRule = RULE, **more: Any) -> PixelStore:
    (store,) = build_stores([split], rule, kind, **more)
    assert store is not None
    return store


def folders(split: Split) -> list[Path]:
    cache = Path(os.environ["DETLOOM_CACHE"])
    return sorted(path for path in (cache / "pixels").glob("*") if path.is_dir())


def train_batches(split: Split, store: PixelStore | None, workers: int = 0, method: str | None = None) -> Any:
    transforms = TRANSFORMS if method is None else []
    loader = TrainLoader(
        split, RULE, transforms, batch_size=4, seed=3, num_workers=workers, pixels=store, start_method=method,
        persistent_workers=False,
    )  # fmt: skip
    return [fingerprint(list(loader.epoch(epoch))) for epoch in (0, 1)]


# ---- the same batches ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_batches_are_the_same_bit_for_bit_with_and_without_a_cache(split: Split, kind: CacheKind) -> None:
    plain = train_batches(split, None)
    store = stores(split, kind)
    assert train_batches(split, store) == plain
    assert train_batches(split, store) == plain, "and reading changes nothing in it"
    assert train_batches(split, store, workers=2) == plain
    alone, helped = (fingerprint(list(EvalLoader(split, RULE, batch_size=4, pixels=s))) for s in (None, store))
    assert alone == helped


@pytest.mark.parametrize("kind", KINDS)
def test_processes_that_are_started_afresh_map_the_same_cache(split: Split, kind: CacheKind) -> None:
    assert train_batches(split, stores(split, kind), 1, "spawn") == train_batches(split, None, 0, "spawn")


def test_what_is_kept_is_the_resized_picture(split: Split) -> None:
    store = stores(split, "ram")
    for number, image in enumerate(split.images):
        expected = RULE.resize_image(read_image(image.path))
        assert np.array_equal(store.read(number), expected) and store.read(number).flags.writeable
    assert store.bytes == sum(store.read(number).nbytes for number in range(9)) and len(store) == 9


def test_the_pictures_are_read_once(split: Split, monkeypatch: pytest.MonkeyPatch) -> None:
    reads: list[Path] = []
    real = Path.read_bytes

    def noting(path: Path) -> bytes:
        reads.append(path)
        return real(path)

    store = stores(split, "disk")
    monkeypatch.setattr(Path, "read_bytes", noting)
    train_batches(split, store)
    assert stores(split, "disk").path == store.path
    assert not reads


# ---- never stale --------------------------------------------------------------------------------------------------


def test_other_content_size_or_rule_make_another_cache(split: Split, tmp_path: Path) -> None:
    first = stores(split, "disk").path
    assert stores(split, "disk", InputRule(size=(48, 96))).path != first
    assert stores(split, "disk", InputRule(size=(48, 80), resize="stretch")).path != first
    assert stores(split, "disk", InputRule(size=(48, 80), mean=(1.0, 1.0, 1.0))).path == first, "not the pixels' matter"
    Image.fromarray(picture(99)).save(tmp_path / "data" / "train" / "p7.png")
    changed = load(tmp_path / "data").splits["train"]
    other = stores(changed, "disk")
    assert other.path != first
    assert np.array_equal(other.read(7), RULE.resize_image(picture(99)))
    assert len(folders(split)) == 4


@pytest.mark.parametrize("kind", KINDS)
def test_a_picture_that_changed_since_the_check_is_refused_by_name(
    split: Split, kind: CacheKind, tmp_path: Path
) -> None:
    Image.fromarray(picture(99)).save(tmp_path / "data" / "train" / "p7.png")
    with pytest.raises(DataError, match=r"p7\.png has changed since the data were checked"):
        stores(split, kind)
    (tmp_path / "data" / "train" / "p7.png").unlink()
    with pytest.raises(DataError, match=r"p7\.png cannot be read"):
        stores(split, kind)
    assert not folders(split) or not (folders(split)[0] / "pixels.bin").is_file() or kind == "disk"


# ---- whole or not at all ------------------------------------------------------------------------------------------


def test_a_cache_that_was_cut_off_is_made_again(split: Split) -> None:
    path = stores(split, "disk").path
    whole = path.read_bytes()
    os.truncate(path, len(whole) // 2)
    assert stores(split, "disk").path.read_bytes() == whole
    shutil.rmtree(path.parent)
    with pytest.raises(RunInterrupted, match="stopped while the images were cached"):
        stores(split, "disk", stop_requested=iter([False] * 5 + [True] * 9).__next__)
    assert not path.exists()
    assert stores(split, "disk").path.read_bytes() == whole


def _build(root: str, results: Any) -> None:
    os.environ["DETLOOM_CACHE"] = f"{root}/cache"
    split = load(Path(root) / "data").splits["train"]
    results.put(stores(split, "disk").path.read_bytes())


def test_two_processes_that_want_the_same_cache_make_one(split: Split, tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    results: Any = context.Queue()
    both = [context.Process(target=_build, args=(str(tmp_path), results)) for _ in range(2)]
    for process in both:
        process.start()
    found = [results.get(timeout=120) for _ in both]
    for process in both:
        process.join(60)
    assert found[0] == found[1] and len(folders(split)) == 1
    assert found[0] == stores(split, "ram").path.read_bytes()


def test_equal_splits_share_one_cache_and_empty_ones_have_none(split: Split) -> None:
    nothing = replace(split, name="test", images=())
    train, val, test = build_stores([split, replace(split, name="val"), nothing], RULE, "ram")
    assert train is val and test is None
    assert build_stores([split], RULE, "none") == [None]


def open_files() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


def test_memory_is_given_back_with_the_store(split: Split) -> None:
    gc.collect()
    before = open_files()
    store = stores(split, "ram")
    store.read(0)
    assert open_files() > before
    path = store.path
    del store
    gc.collect()
    assert open_files() <= before and not path.exists()


def test_where_the_system_has_no_files_in_memory_a_passing_file_does(
    split: Split, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delattr(os, "memfd_create")
    monkeypatch.setattr(caching.tempfile, "tempdir", str(tmp_path))
    store = stores(split, "ram")
    assert store.path.parent == tmp_path and train_batches(split, store) == train_batches(split, None)
    path = store.path
    del store
    gc.collect()
    assert not path.exists()


# ---- size ---------------------------------------------------------------------------------------------------------


def test_the_size_is_told_before_and_what_is_there_already_counts(
    split: Split, capsys: pytest.CaptureFixture[str]
) -> None:
    size = sum(h * w * 3 for h, w in (RULE.content_size((image.height, image.width)) for image in split.images))
    stores(split, "disk")
    told = capsys.readouterr().out
    assert told.startswith(f"cache    {size / 1e6:.1f} MB for 9 images in {os.environ['DETLOOM_CACHE']}/pixels (")
    stores(split, "disk")
    assert f"{size / 1e6:.1f} MB of it there already" in capsys.readouterr().out


def test_too_little_memory_or_disk_is_refused_before_a_picture_is_read(
    split: Split, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(caching, "free_memory", lambda: 50_000)
    with pytest.raises(DetloomError, match=r"data\.cache=ram is too large here: 0\.1 MB .*\(0\.1 MB free\)") as caught:
        stores(split, "ram")
    assert "data.cache=disk or data.cache=none" in caught.value.hint
    stores(split, "disk")
    monkeypatch.setattr(caching, "_free_disk", lambda folder: 50_000)
    stores(split, "disk")  # it is there: nothing more is needed
    with pytest.raises(DetloomError, match=r"data\.cache=disk is too large here") as caught:
        stores(split, "disk", InputRule(size=(64, 96)))
    assert "0.1 MB of other data or sizes lie there (detloom cache clear --kind pixels)" in caught.value.hint
    assert len(folders(split)) == 1


def system(root: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    return root


def test_free_memory_is_that_of_the_machine_or_of_the_container_where_it_is_less(tmp_path: Path) -> None:
    machine = {"proc/meminfo": "MemTotal: 900 kB\nMemAvailable:     500 kB\n"}
    assert free_memory(system(tmp_path / "plain", machine)) == 500 * 1024
    second = {
        **machine,
        "sys/fs/cgroup/memory.max": "300000\n",
        "sys/fs/cgroup/memory.current": "200000\n",
        "sys/fs/cgroup/memory.stat": "anon 5\ninactive_file 50000\n",
    }
    assert free_memory(system(tmp_path / "v2", second)) == 150_000
    endless = {**second, "sys/fs/cgroup/memory.max": "max\n"}
    assert free_memory(system(tmp_path / "max", endless)) == 500 * 1024
    first = {
        **machine,
        "sys/fs/cgroup/memory/memory.limit_in_bytes": "100000\n",
        "sys/fs/cgroup/memory/memory.usage_in_bytes": "90000\n",
        "sys/fs/cgroup/memory/memory.stat": "total_inactive_file 1000\n",
    }
    assert free_memory(system(tmp_path / "v1", first)) == 11_000
    assert free_memory(tmp_path / "nothing") is None


def test_a_store_can_be_read_by_many_threads(split: Split) -> None:
    store = stores(split, "ram")
    expected = [store.read(number).copy() for number in range(9)]
    wrong: list[int] = []

    def read(numbers: Sequence[int]) -> None:
        wrong.extend(n for n in numbers for _ in range(20) if not np.array_equal(store.read(n), expected[n]))

    threads = [threading.Thread(target=read, args=(range(9),)) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def test_masks_are_the_same_with_a_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DETLOOM_CACHE", str(tmp_path / "cache"))
    content = document(2, 0)
    content["annotations"][0]["segmentation"] = [[4, 5, 24, 5, 24, 15, 4, 15]]
    write_split(tmp_path / "data" / "train", content, 0)
    split = load(tmp_path / "data", for_training=False).splits["train"]
    store = stores(split, "ram")
    alone, helped = (
        next(iter(EvalLoader(split, RULE, batch_size=2, masks=True, pixels=one))).targets.masks for one in (None, store)
    )
    assert alone is not None and helped is not None and bool((alone == helped).all()) and int(alone.sum()) > 0
