"""Who goes where: shares, classes, groups, records, and images that are added."""

from __future__ import annotations

import itertools
import json
import random
import shutil
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from data_tools import codes, document, edit, load, look, save, sound_data, write_split
from detloom.data.splitting import SplitShares, assign_splits
from detloom.errors import ConfigError, DataError

Classes = list[frozenset[int]]
SPLITS = ("train", "val", "test")


def drawn(images: int, classes: int, seed: int) -> tuple[list[str], Classes]:
    """Images with none to four classes, of which the later ones are ever rarer."""
    dice = random.Random(seed)
    weights = [1 / (rank + 1) for rank in range(classes)]
    labels = [frozenset(dice.choices(range(classes), weights, k=dice.randint(0, 4))) for _ in range(images)]
    return [f"{seed}-{number}" for number in range(images)], labels


def worst(labels: Sequence[frozenset[int]], places: Sequence[str], shares: SplitShares) -> float:
    """Of all splits and classes, the most images that are too many or too few."""
    return max(
        abs(
            sum(label in held and place == split for held, place in zip(labels, places, strict=True))
            - shares.of(split) * sum(label in held for held in labels)
        )
        for label in set().union(*labels)
        for split in SPLITS
    )


def sechidis(labels: Sequence[frozenset[int]], shares: SplitShares, seed: int) -> list[str]:
    """Iterative stratification as the paper has it (Sechidis, Tsoumakas, Vlahavas 2011, algorithm 1), with sets."""
    dice = random.Random(seed)
    places = [""] * len(labels)
    left = set(range(len(labels)))
    wanted = {split: shares.of(split) * len(labels) for split in SPLITS}
    due = {
        (split, label): shares.of(split) * sum(label in held for held in labels)
        for split in SPLITS
        for label in set().union(*labels)
    }

    def put(number: int, split: str) -> None:
        places[number] = split
        left.discard(number)
        wanted[split] -= 1
        for label in labels[number]:
            due[split, label] -= 1

    while any(labels[number] for number in left):
        counts = Counter(label for number in left for label in labels[number])
        rarest = min(counts, key=lambda label: (counts[label], label))
        for number in sorted(number for number in left if rarest in labels[number]):
            best = max(SPLITS, key=lambda split: (due[split, rarest], wanted[split], dice.random()))
            put(number, best)
    for number in sorted(left):
        put(number, max(SPLITS, key=lambda split: wanted[split]))
    return places


# ---- shares of every class ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(("images", "classes"), [(60, 5), (300, 10), (1500, 20)])
def test_stratified_splits_are_as_even_as_those_of_an_independent_implementation(images: int, classes: int) -> None:
    shares = SplitShares(0.2, 0.1, 0, stratify=True)
    ours, theirs, content = [], [], []
    for seed in range(4):
        hashes, labels = drawn(images, classes, seed)
        ours.append(worst(labels, assign_splits(hashes, labels, shares), shares))
        theirs.append(worst(labels, sechidis(labels, shares, seed), shares))
        content.append(worst(labels, assign_splits(hashes, labels, SplitShares(0.2, 0.1, 0)), shares))
    assert max(ours) <= max(theirs) + 0.5
    assert max(ours) < 2 < max(content)


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10**6), images=st.integers(6, 9))
@example(seed=268, images=7)
def test_stratified_splits_of_a_few_images_are_near_the_best_there_are(seed: int, images: int) -> None:
    """Every possible split of up to nine images is tried; ours is at most one image worse than the best of those that
    also leave no class of two images out of training or validation."""
    shares = SplitShares(0.34, 0.0, 0, stratify=True)
    hashes, labels = drawn(images, 3, seed)
    if not any(labels):
        return

    def whole(places: Sequence[str]) -> bool:
        several = [label for label in range(3) if sum(label in held for held in labels) > 1]
        return {*places} == {"train", "val"} and all(
            {place for held, place in zip(labels, places, strict=True) if label in held} == {"train", "val"}
            for label in several
        )

    every = itertools.product(("train", "val"), repeat=images)
    best = min((worst(labels, places, shares) for places in every if whole(places)), default=float(images))
    assert worst(labels, assign_splits(hashes, labels, shares), shares) <= best + 1.0


@pytest.mark.parametrize("images", [14, 30, 60])
def test_few_images_are_shared_out_as_well_as_many_and_decided_places_stay(images: int) -> None:
    shares = SplitShares(0.2, 0.1, 0, stratify=True)
    ours, theirs = [], []
    for seed in range(4):
        hashes, labels = drawn(images, images // 4, seed)
        ours.append(worst(labels, assign_splits(hashes, labels, shares), shares))
        theirs.append(worst(labels, sechidis(labels, shares, seed), shares))
        fixed = ["test", "val", "", "train", *[""] * (images - 4)]
        places = assign_splits(hashes, labels, SplitShares(0.3, 0.0, 0, stratify=True), fixed=fixed)
        assert [places[n] for n in (0, 1, 3)] == ["test", "val", "train"] and places.count("test") == 1
    assert max(ours) <= max(theirs) + 0.5


def test_by_content_alone_added_images_move_nothing_and_stratified_they_move_few() -> None:
    hashes, labels = drawn(660, 12, 5)
    for shares, moving in ((SplitShares(0.2, 0.1, 3), 0), (SplitShares(0.2, 0.1, 3, stratify=True), 600 * 0.08)):
        before = assign_splits(hashes[:600], labels[:600], shares)
        after = assign_splits(hashes, labels, shares)[:600]
        assert sum(a != b for a, b in zip(before, after, strict=True)) <= moving
    fixed = [*before, *[""] * 60]
    kept = assign_splits(hashes, labels, shares, fixed=fixed)
    assert kept[:600] == before
    assert worst(labels, kept, shares) < 4, "what is added makes up for what cannot move"


def test_the_order_of_the_images_moves_nothing() -> None:
    hashes, labels = drawn(200, 8, 1)
    shares = SplitShares(0.2, 0.2, 0, stratify=True)
    places = dict(zip(hashes, assign_splits(hashes, labels, shares), strict=True))
    order = random.Random(0).sample(range(200), 200)
    again = assign_splits([hashes[n] for n in order], [labels[n] for n in order], shares)
    assert again == [places[hashes[n]] for n in order]


# ---- what stays together ------------------------------------------------------------------------------------------


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 10**6), stratify=st.booleans())
def test_groups_and_equal_pictures_never_part(seed: int, stratify: bool) -> None:
    hashes, labels = drawn(60, 5, seed)
    dice = random.Random(seed)
    hashes[55:] = hashes[:5]  # some pictures are there twice, and tie two groups together
    groups = [dice.choice(["", *(f"video {n}" for n in range(15))]) for _ in hashes]
    places = assign_splits(hashes, labels, SplitShares(0.3, 0.1, seed, stratify), groups=groups)
    for names in (hashes, groups):
        for name in {*names} - {""}:
            assert len({place for place, other in zip(places, names, strict=True) if other == name}) == 1
    assert set(places) >= {"train", "val"}


def frames(root: Path) -> Path:
    """Five videos of six frames each, with the number of the video as a field too, in one json."""
    content = document(30, 0)
    for number, entry in enumerate(content["images"]):
        entry["file_name"] = f"cam{number % 5}_{number:03d}.png"
        entry["video_id"] = number % 5
    write_split(root / "all", content, 0)
    return root / "all"


def videos(root: Path, **data: Any) -> dict[str, set[str]]:
    """Split to the videos that have frames in it."""
    splits = load(root, **data).splits
    return {name: {image.file_name[:4] for image in split.images} for name, split in splits.items()}


@pytest.mark.parametrize("rule", [r"^(cam\d)_", r"cam\d", "field:video_id"])
def test_frames_of_one_video_stay_in_one_split(tmp_path: Path, rule: str) -> None:
    where = frames(tmp_path)
    apart = videos(where)
    assert apart["train"] & apart["val"], "without a rule they part"
    for seed in range(3):
        together = videos(where, split__group=rule, split__val=0.4, split__seed=seed)
        assert together["train"] and together["val"] and not together["train"] & together["val"]
        assert together["train"] | together["val"] == {f"cam{n}" for n in range(5)}


def test_a_rule_that_says_nothing_of_an_image_is_told_and_a_broken_one_refused(tmp_path: Path) -> None:
    where = frames(tmp_path)
    assert codes(look(where, split__group=r"^(cam[01])_"))["no-group"] == 18
    assert codes(look(where, split__group="field:patient"))["no-group"] == 30
    with pytest.raises(ConfigError, match=r"data\.split\.group: .*is no regular expression"):
        look(where, split__group="cam(")
    with pytest.raises(ConfigError, match="needs the name of a field"):
        look(where, split__group="field:")


# ---- splits that were decided before --------------------------------------------------------------------------------


def places(root: Path, **data: Any) -> dict[str, str]:
    splits = load(root, **data).splits
    return {image.file_name: name for name, split in splits.items() for image in split.images}


def test_images_that_a_list_names_go_where_it_says(tmp_path: Path) -> None:
    write_split(tmp_path / "all", document(10, 0), 0)
    lists = tmp_path / "lists"
    lists.mkdir()
    # As people write them: with a folder, without suffix, with the columns of PASCAL VOC, with a BOM.
    (lists / "valid.txt").write_text("images/p3.png\np4\n\n# these were checked twice\np5 -1\n", encoding="utf-8-sig")
    (lists / "test.txt").write_text("p6.png\n")
    found = places(tmp_path / "all", split__files=str(lists), split__val=0.0)
    assert [found[f"p{n}.png"] for n in (3, 4, 5, 6)] == ["val", "val", "val", "test"]
    assert {found[f"p{n}.png"] for n in (0, 1, 2, 7, 8, 9)} == {"train"}


def test_a_list_speaks_for_images_of_split_data_too(tmp_path: Path) -> None:
    sound_data(tmp_path / "data")
    (tmp_path / "val.txt").write_text("p0.png\n")
    found = places(tmp_path / "data", split__files=str(tmp_path))
    assert found == {"p0.png": "val"} | {f"p{n}.png": "train" for n in (1, 2, 3)} | {
        f"p{n}.png": "val" for n in (100, 101)
    }


def test_wrong_lists_are_refused_and_strange_names_told(tmp_path: Path) -> None:
    write_split(tmp_path / "all", document(6, 0), 0)
    shutil.copytree(tmp_path / "all", tmp_path / "two" / "a")
    lists = tmp_path / "lists"
    lists.mkdir()
    with pytest.raises(DataError, match=r"holds no train\.txt, val\.txt or test\.txt"):
        load(tmp_path / "all", split__files=str(lists))
    with pytest.raises(DataError, match="does not exist"):
        load(tmp_path / "all", split__files=str(tmp_path / "nowhere"))
    (lists / "val.txt").write_text("p1.png\nelsewhere.png\n")
    report = look(tmp_path / "all", split__files=str(lists))
    (finding,) = [finding for finding in report.findings if finding.code == "split-name-unknown"]
    assert finding.where == "val.txt:2 (elsewhere.png)"
    (lists / "train.txt").write_text("p2.png\np1.png\n")
    with pytest.raises(DataError, match=r"val\.txt:1: p1\.png is in train\.txt:2 too"):
        load(tmp_path / "all", split__files=str(lists))
    (lists / "train.txt").write_bytes(b"\xff\xfe\x00p")
    with pytest.raises(DataError, match=r"cannot read .*train\.txt"):
        load(tmp_path / "all", split__files=str(lists))
    for text in ("{", "[]", '{"splits": {"dev": [{"file_name": "a"}]}}', '{"splits": {"val": ["a"]}}'):
        (tmp_path / "split.json").write_text(text)
        with pytest.raises(DataError, match=r"split\.json"):
            load(tmp_path / "all", split__files=str(tmp_path / "split.json"))


def test_a_name_that_means_two_pictures_is_an_error(tmp_path: Path) -> None:
    content = document(4, 0)
    for number, entry in enumerate(content["images"]):
        entry["file_name"] = f"{'ab'[number % 2]}/{number // 2}.png"
    (tmp_path / "all" / "a").mkdir(parents=True)
    (tmp_path / "all" / "b").mkdir()
    write_split(tmp_path / "all", content, 0)
    (tmp_path / "val.txt").write_text("1.png\n")
    assert codes(look(tmp_path / "all", split__files=str(tmp_path)))["split-name-unclear"] == 1
    (tmp_path / "val.txt").write_text("b/1.png\n")
    assert places(tmp_path / "all", split__files=str(tmp_path))["b/1.png"] == "val"


# ---- what the data say ----------------------------------------------------------------------------------------------


def test_all_may_be_split_anew_whatever_the_data_say(tmp_path: Path) -> None:
    sound_data(tmp_path, images=20)
    kept = places(tmp_path)
    assert Counter(kept.values()) == {"train": 20, "val": 2}
    anew = places(tmp_path, split__mode="anew", split__val=0.4, split__test=0.2, split__stratify=True)
    counts = Counter(anew.values())
    assert abs(counts["val"] - 8.8) <= 1 and abs(counts["test"] - 4.4) <= 1
    assert {anew["p100.png"], anew["p101.png"]} != {"val"} or kept != anew


def test_a_picture_that_is_there_twice_does_not_leak(tmp_path: Path) -> None:
    content = document(20, 0)
    twins = [
        {**entry, "id": entry["id"] + 100, "file_name": f"again_{entry['file_name']}"} for entry in content["images"]
    ]
    write_split(tmp_path / "all", content, 0)
    for entry, twin in zip(content["images"], twins, strict=True):
        shutil.copy(tmp_path / "all" / entry["file_name"], tmp_path / "all" / twin["file_name"])
    content["annotations"] += [
        {**item, "id": item["id"] + 500, "image_id": item["image_id"] + 100} for item in content["annotations"]
    ]
    content["images"] += twins
    save(tmp_path / "all", content)
    for stratify in (False, True):
        report = look(tmp_path / "all", split__stratify=stratify, split__val=0.4)
        assert "leakage" not in codes(report)
        assert report.dataset is not None and min(len(split) for split in report.dataset.splits.values()) >= 2


# ---- on disk --------------------------------------------------------------------------------------------------------


def written(out: Path, split: str) -> set[str]:
    entries = json.loads((out / f"{split}.json").read_text())["images"]
    return {Path(entry["file_name"]).name for entry in entries}


def test_split_writes_both_spellings_and_keeps_every_image_where_it_was(
    tmp_path: Path, cli: Callable[..., Any]
) -> None:
    write_split(tmp_path / "all", document(24, 0), 0)
    write_split(tmp_path / "more", document(36, 0), 0)
    edit(tmp_path, lambda content: content["images"].reverse(), "more")
    first, second = tmp_path / "first", tmp_path / "second"
    rules = ("--val", "0.25", "--test", "0.15", "--stratify")
    done = cli("split", tmp_path / "all", "--out", first, *rules)
    assert done.returncode == 0, done.stderr
    for split, folder in (("train", "train"), ("val", "valid"), ("test", "test")):
        beside = json.loads((first / folder / "_annotations.coco.json").read_text())
        assert {entry["file_name"] for entry in beside["images"]} == written(first, split)
        assert all((first / folder / entry["file_name"]).is_file() for entry in beside["images"])
    record = json.loads((first / "split.json").read_text())
    counts = {name: len(rows) for name, rows in record["splits"].items()}
    assert sum(counts.values()) == 24 and abs(counts["val"] - 6) <= 1 and abs(counts["test"] - 3.6) <= 1
    assert record["digest"] == load(first).digest and record["rules"]["stratify"] is True

    done = cli("split", tmp_path / "more", "--out", second, *rules, "--keep", first)
    assert done.returncode == 0, done.stderr
    for split in SPLITS:
        assert written(first, split) < written(second, split)
    assert abs(len(written(second, "val")) - 9) <= 1 and abs(len(written(second, "test")) - 5.4) <= 1
    assert cli("check", second).returncode == 0


def test_data_that_have_splits_are_split_again_only_when_asked(tmp_path: Path, cli: Callable[..., Any]) -> None:
    source = sound_data(tmp_path / "data", images=10)
    refused = cli("split", source, "--out", tmp_path / "out")
    assert refused.returncode == 2 and "--anew" in refused.stderr
    done = cli("split", source, "--anew", "--val", "0.5", "--out", tmp_path / "out")
    assert done.returncode == 0, done.stderr
    assert len(written(tmp_path / "out", "val")) > 2
