"""Junk at random places of the annotations: no traceback, and every image and object is used or left out by a code."""

from __future__ import annotations

import copy
import json
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from data_tools import config, save, sound_data
from detloom.data.load import check
from detloom.errors import DataError
from detloom.host import discover

JUNK: list[Any] = [
    *(None, True, False, 0, 1, -1, 2, 7, 99, 1.5, 3.0, 10**30, float("inf"), float("nan"), "", "x", "1", "3"),
    *("../..", "p1.png", "P1.PNG", "\x00", "é", [], [1], [1, 2, 3, 4], [[1, 2, 3, 4, 5, 6]], [0, 0, 0, 0], {}),
    *([0, 0, 1e9, 1e9], {"a": 1}, {"size": [48, 64], "counts": [3072]}, {"size": [48, 64], "counts": "0"}),
]
LISTS = ("images", "annotations", "categories")


def places(node: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    if path:
        yield path
    for key in node if isinstance(node, dict) else range(len(node)) if isinstance(node, list) else ():
        yield from places(node[key], (*path, key))


def spoil(content: Any, rng: random.Random) -> None:
    """Something removed, doubled, turned round or replaced."""
    *way, last = rng.choice(list(places(content)))
    node = content
    for key in way:
        node = node[key]
    chance = rng.random()
    if chance < 0.2:
        node.pop(last)
    elif chance < 0.3 and isinstance(node, list):
        node.append(copy.deepcopy(node[last]))
    elif chance < 0.35 and isinstance(node, list):
        node.reverse()
    else:
        node[last] = copy.deepcopy(rng.choice(JUNK))


@pytest.mark.parametrize("seed", range(6))
def test_junk_anywhere_is_counted_and_never_a_traceback(seed: int, tmp_path: Path) -> None:
    root, plugins = sound_data(tmp_path / "data"), discover()
    sound = json.loads((root / "train" / "_annotations.coco.json").read_text())
    for number in range(40):
        rng = random.Random(1000 * seed + number)
        content = copy.deepcopy(sound)
        for _ in range(rng.choice([1, 1, 2, 4])):
            if content:
                spoil(content, rng)
        save(root / "train", content)
        policy = rng.choice(["strict", "repair", "lenient"])
        try:
            report = check(config(plugins, root, policy=policy, max_left_out=1.0), plugins)
        except DataError:
            continue
        if report.dataset is None or not all(isinstance(content.get(key), list) for key in LISTS):
            continue
        listed = (len(content["images"]) + 2, len(content["annotations"]) + 4)
        assert (report.images + report.images_left_out, report.objects + report.objects_left_out) == listed, number
        for split in report.dataset.splits.values():
            assert (split.boxes[:, 2:] > split.boxes[:, :2]).all()
