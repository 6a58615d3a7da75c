"""How often an epoch shows each image."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data_tools import document, edit, load, write_split
from detloom.data.balance import Balance, draw_epoch, epoch_length, image_rates
from detloom.data.dataset import Split
from detloom.data.loader import Batch, NamedTransform, TrainLoader
from detloom.geometry import InputRule
from test_loader import Noise, fingerprint

RULE = InputRule(size=(64, 64))
NOISE = [NamedTransform("noise", Noise())]


@pytest.fixture(scope="module")
def split(tmp_path_factory: pytest.TempPathFactory) -> Split:
    """20 images: all but the last have a cat, the first two a dog, one of them as a crowd, two birds on the third."""
    root = tmp_path_factory.mktemp("data")
    write_split(root / "train", document(20, 0), 0)

    def change(content: dict[str, Any]) -> None:
        kept = [
            a for a in content["annotations"] if a["image_id"] < 20 and (a["category_id"] == 3 or a["image_id"] <= 2)
        ]
        kept[3]["iscrowd"] = 1  # the dog of the second image
        birds = [{**kept[0], "id": 900 + n, "image_id": 3, "category_id": 8, "bbox": [n, 30, 9, 9]} for n in (1, 20)]
        content["annotations"] = kept + birds
        content["categories"].append({"id": 8, "name": "bird"})

    edit(root, change)
    return load(root, split__val=0.0, for_training=False).splits["train"]


def rates(split: Split, kind: Balance, threshold: float = 0.2) -> list[float]:
    found = image_rates(split, kind, threshold)
    assert found is not None
    return found.round(6).tolist()


def test_repeat_factors_are_those_of_the_paper(split: Split) -> None:
    """LVIS, section 4.1: r(c) = max(1, sqrt(t / f(c))), and an image has that of its rarest class. By hand: dogs and
    birds are on one image of 20 (a crowd is not trained on), cats on 19."""
    rare = math.sqrt(0.2 / (1 / 20))
    assert rates(split, "repeat-factor") == [rare, 1, rare, *[1] * 17]
    assert rates(split, "repeat-factor", 0.05) == [1.0] * 20
    everything = math.sqrt(1 / (19 / 20))
    assert rates(split, "repeat-factor", 1.0)[3:] == pytest.approx([*[everything] * 16, 1.0], abs=1e-6)


def test_weights_are_as_the_rarest_class_is_rare_and_an_epoch_stays_as_long(split: Split) -> None:
    found = rates(split, "weighted")
    assert found[0] / found[1] == pytest.approx(19, rel=1e-4) and found[0] == found[2]
    assert found[19] == found[1], "an image without objects counts as the commonest class"
    assert sum(found) == pytest.approx(20, abs=1e-4) and epoch_length(np.array(found)) == 20


def test_without_a_rule_every_image_is_shown_once(split: Split) -> None:
    assert image_rates(split, "none", 0.5) is None


@settings(max_examples=60, deadline=None)
@given(values=st.lists(st.floats(0.05, 9.0), min_size=1, max_size=40), seed=st.integers(0, 10**6))
def test_an_epoch_has_always_as_many_images_and_each_as_often_as_its_rate_rounded_down_or_up(
    values: list[float], seed: int
) -> None:
    wanted = np.array(values)
    length = epoch_length(wanted)
    counts = Counter(draw_epoch(wanted, seed, 3))
    assert counts.total() == length
    for number, rate in enumerate(wanted * length / wanted.sum()):
        assert math.floor(rate - 1e-9) <= counts[number] <= math.ceil(rate + 1e-9)


def test_over_many_epochs_each_image_is_shown_as_often_as_its_rate_says() -> None:
    wanted = np.array([2.5, 1.0, 0.25, 0.25, 1.0])
    total: Counter[int] = Counter()
    for epoch in range(2000):
        total.update(draw_epoch(wanted, 1, epoch))
    # Counts of an epoch differ by at most one: five standard deviations of 2000 draws of 0 or 1.
    assert [total[n] / 2000 for n in range(5)] == pytest.approx(wanted.tolist(), abs=5 * 0.5 / math.sqrt(2000))


def loader(split: Split, kind: Balance, workers: int = 0, seed: int = 7) -> TrainLoader:
    return TrainLoader(
        split, RULE, NOISE, batch_size=4, seed=seed, num_workers=workers, rates=image_rates(split, kind, 0.3)
    )


def batches(one: TrainLoader, epoch: int, start: int = 0) -> Sequence[Batch]:
    return list(one.epoch(epoch, start))


@pytest.mark.parametrize("kind", ["repeat-factor", "weighted"])
def test_batches_are_a_function_of_seed_and_epoch_whatever_reads_them(split: Split, kind: Balance) -> None:
    one = loader(split, kind)
    whole = fingerprint(batches(one, 5))
    assert len(whole) == one.batches_per_epoch
    assert fingerprint(batches(loader(split, kind, workers=2), 5)) == whole
    for start in range(len(whole)):
        assert fingerprint(batches(loader(split, kind), 5, start)) == whole[start:], "as a resumed run goes on"
    assert fingerprint(batches(loader(split, kind), 6)) != whole
    assert fingerprint(batches(loader(split, kind, seed=8), 5)) != whole


def test_an_image_that_is_shown_again_is_augmented_differently(split: Split) -> None:
    shown: dict[int, list[bytes]] = {}
    for batch in batches(loader(split, "weighted"), 0):
        for index, image in zip(batch.indices, batch.images, strict=True):
            shown.setdefault(index, []).append(image.numpy().tobytes())
    again = [looks for looks in shown.values() if len(looks) > 1]
    assert again and all(len(set(looks)) == len(looks) for looks in again)


def test_a_rare_class_is_really_seen_more_often(split: Split) -> None:
    def birds(kind: Balance) -> float:
        one = loader(split, kind)
        seen = sum(int((batch.targets.labels == 2).sum()) for epoch in range(10) for batch in batches(one, epoch))
        return seen / sum(len(batch.indices) for epoch in range(10) for batch in batches(one, epoch))

    plain, factor, weighted = birds("none"), birds("repeat-factor"), birds("weighted")
    assert factor > 1.8 * plain and weighted > 5 * plain


def test_data_without_any_object_can_be_balanced(tmp_path: Path) -> None:
    content = document(4, 0)
    content["annotations"] = []
    write_split(tmp_path / "train", content, 0)
    split = load(tmp_path, for_training=False, allow=["no-annotations"]).splits["train"]
    for kind in ("repeat-factor", "weighted"):
        assert rates(split, kind) == [1.0] * 4
