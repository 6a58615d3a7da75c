"""Numbers and their nouns: one is never many, wherever people read it."""

from __future__ import annotations

from pathlib import Path

import pytest

from data_tools import document, load, sound_data, write_split
from detloom.cli import main
from detloom.config import mapping_layer, resolve
from detloom.counting import counted, plural, some_of
from detloom.data.advice import recommend
from detloom.host import discover
from detloom.train.planning import length_of
from run_tools import lab_host, observe


@pytest.mark.parametrize(
    ("count", "noun", "text"),
    [
        (1, "step", "1 step"), (0, "step", "0 steps"), (1200, "image", "1,200 images"), (1, "class", "1 class"),
        (3, "class", "3 classes"), (2, "batch", "2 batches"), (2, "other image", "2 other images"),
        (2, "epoch", "2 epochs"), (2, "loss", "2 losses"),
    ],
)  # fmt: skip
def test_a_noun_follows_its_number(count: int, noun: str, text: str) -> None:
    assert counted(count, noun) == text and plural(noun, count) == text.partition(" ")[2]


def test_of_a_long_list_the_first_names_and_a_count_are_shown() -> None:
    assert some_of(["a", "b", "c"]) == "a, b, c"
    assert some_of([f"n{i}" for i in range(5000)]) == "n0, n1, n2 and 4,997 more"


SMALLEST = {
    "model.type": "lab-dry", "model.pretrain_weights": "none", "data.num_workers": 0, "training.epochs": 1,
    "training.resolution": 32, "training.batch_size": 1, "training.gradient_accumulation": 1,
    "experiment.logging.loggers": ["jsonl"], "validation.pictures": 0, "export.format": [],
}  # fmt: skip


@pytest.mark.parametrize(
    ("batch", "accumulation", "plan"),
    [
        (1, 1, "plan     1 epoch, 3 steps of 1 image\n"),
        (3, 1, "plan     1 epoch, 1 step of 3 images\n"),
        (
            2,
            1,
            "plan     1 epoch, 1 step of 2 images (each epoch leaves 1 other image out: it does not fill a batch)\n",
        ),
        (1, 3, "plan     1 epoch, 1 step of 3 images\n"),
    ],
)
def test_a_training_says_its_length(
    batch: int, accumulation: int, plan: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = sound_data(tmp_path / "data", images=3)
    values = {
        "data.local.path": str(data),
        "training.batch_size": batch,
        "training.gradient_accumulation": accumulation,
    }
    assert not observe({**SMALLEST, **values}, tmp_path, lab_host())["error"]
    assert plan in capsys.readouterr().out


def test_a_plan_of_one_image_says_so(tmp_path: Path) -> None:
    split = load(sound_data(tmp_path, images=1)).splits["train"]
    values = {"model.type": "yolox-nano", "training.batch_size": 1, "training.epochs": 1}
    config = resolve(discover(), [mapping_layer(values)]).config
    assert length_of(config, split).line() == "1 of 1 image: 1 epoch of 1 (1 image)"


@pytest.mark.parametrize(
    ("images", "objects", "told"),
    [
        (1, 1, ("1 of 1 image usable (train 1), 1 object, 1 class\n", "side 14 px;")),
        (2, 2, ("2 of 2 images usable (train 2), 4 objects, 2 classes\n", "has as many objects")),
    ],
)
def test_the_check_says_how_much_there_is(
    images: int, objects: int, told: tuple[str, ...], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    content = document(images, 0)
    content["annotations"] = [one for one in content["annotations"] if objects > 1 or one["category_id"] == 3]
    content["categories"] = content["categories"][:objects]
    write_split(tmp_path / "train", content, 0)
    main(["check", str(tmp_path), "--set", "data.split.val=0"])
    shown = capsys.readouterr().out
    assert [words for words in told if words not in shown] == [], shown


@pytest.mark.parametrize(
    ("images", "told"), [(1, "1 training image of 64x48 px"), (2, "2 training images of 64x48 px")]
)
def test_advice_says_for_how_many_images_it_is(images: int, told: str, tmp_path: Path) -> None:
    assert recommend(load(sound_data(tmp_path, images=images)), discover()).why.startswith(told)
