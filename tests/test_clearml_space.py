"""What a search draws from: the notation, and every value tried on a configuration before anything starts."""

from __future__ import annotations

import functools
import json
import math
import sys
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from detloom.config import ResolvedConfig, resolve, text_layer
from detloom.errors import Mistake, PluginError
from detloom.host import PluginHost, discover
from detloom.tracking import tracked
from detloom_integrations.clearml.parameters import configuration_of, hyperparams_of
from detloom_integrations.clearml.space import Between, Choices, Dimension, read_space
from detloom_integrations.clearml.space_check import Base, SearchError, base_configuration, checked_space
from detloom_integrations.clearml.tuning import chosen_strategy


@functools.cache
def host() -> PluginHost:
    return discover()


def one(text: str) -> Dimension:
    space, mistakes = read_space([text], [])
    assert mistakes == []
    (dimension,) = space
    return dimension


def configured(**settings: str) -> ResolvedConfig:
    written = {"model.type": "yolox-nano", "data.local.path": "/data", **settings}
    return resolve(host(), [text_layer([(key, text, "test") for key, text in written.items()])])


def base_of(resolved: ResolvedConfig) -> Base:
    config = tracked(resolved, host())
    return Base({"id": "b", "hyperparams": hyperparams_of(config), "configuration": configuration_of(config)})


def checked(*params: str, grid: bool = False, **settings: str) -> tuple[list[Dimension], list[Mistake]]:
    space, mistakes = read_space(params, [])
    assert mistakes == []
    resolved = configured(**settings)
    return checked_space(space, base_of(resolved), resolved, grid=grid)


# ---- the notation ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("notation", "drawn"),
    [
        ("4,8,16", Choices(("4", "8", "16"))),
        ("10", Choices(("10",))),
        ("adamw, sgd", Choices(("adamw", "sgd"))),
        ("[320,320],[640,480]", Choices(("[320,320]", "[640,480]"))),
        ('"a,b",c', Choices(('"a,b"', "c"))),
        ("none,true", Choices(("none", "true"))),
        ("../data,./other", Choices(("../data", "./other"))),
        ("0..1", Between(Decimal(0), Decimal(1))),
        ("-1.5..2e3", Between(Decimal("-1.5"), Decimal(2000))),
        ("log:1e-5..1e-2", Between(Decimal("1e-5"), Decimal("0.01"), log=True)),
        ("0..1/0.25", Choices(("0", "0.25", "0.5", "0.75", "1"))),
        ("0.1..0.3/0.1", Choices(("0.1", "0.2", "0.3"))),
        ("0..10/3", Choices(("0", "3", "6", "9"))),
    ],
)
def test_the_notation_means(notation: str, drawn: object) -> None:
    assert one(f"training.lr={notation}").drawn == drawn


@pytest.mark.parametrize("name", ["augmentation.hsv.prob", "augmentation/hsv/prob"])
def test_a_parameter_may_be_named_as_in_files_or_as_on_the_task(name: str) -> None:
    dimension = one(f"{name}=0..1")
    assert (dimension.key, dimension.parameter) == ("augmentation.hsv.prob", "augmentation/hsv/prob")


def test_what_has_no_section_may_be_named_as_on_the_task() -> None:
    assert one("run/preset=a").key == one("preset=a").key == "preset"


@pytest.mark.parametrize(
    ("params", "said"),
    [
        (["training.lr"], "it takes KEY=VALUES"),
        ([], "nothing to search over"),
        (["training.lr=1..1"], "the first number must be less than the second"),
        (["training.lr=2..1"], "the first number must be less than the second"),
        (["training.lr=log:0..1"], "orders of magnitude need numbers above 0"),
        (["training.lr=log:1e-4,1e-3"], "found 'log:1e-4,1e-3'"),
        (["training.lr=log:1e-4..1e-2/2"], "log: takes no step"),
        (["training.lr=0..1/0"], "the step must be above 0"),
        (["training.lr=0..1/1e-9"], "1000 are the most"),
        (["training.lr=1,2,1"], "names '1' twice"),
        (["training.lr=1", "training/lr=2"], "is given twice"),
    ],
)
def test_a_notation_that_means_nothing_is_refused(params: list[str], said: str) -> None:
    _, mistakes = read_space(params, [])
    assert len(mistakes) == 1
    assert said in f"{mistakes[0].message} {mistakes[0].hint}"


FILES = {
    "space.yaml": "training:\n  lr: log:1e-5..1e-2\n  batch_size: [4, 8]\naugmentation.hsv.prob: 0..1\n",
    "space.json": json.dumps(
        {"training": {"lr": "log:1e-5..1e-2", "batch_size": [4, 8]}, "augmentation": {"hsv": {"prob": "0..1"}}}
    ),
    "space.toml": '[training]\nlr = "log:1e-5..1e-2"\nbatch_size = [4, 8]\n[augmentation.hsv]\nprob = "0..1"\n',
}


@pytest.mark.parametrize("name", FILES)
def test_a_file_says_what_the_command_line_says(name: str, tmp_path: Path) -> None:
    (tmp_path / name).write_text(FILES[name])
    from_file, mistakes = read_space([], [tmp_path / name])
    assert mistakes == []
    typed, _ = read_space(["training.lr=log:1e-5..1e-2", "training.batch_size=4,8", "augmentation.hsv.prob=0..1"], [])
    assert [(d.key, d.drawn) for d in from_file] == [(d.key, d.drawn) for d in typed]


def test_the_command_line_wins_over_the_file_and_mistakes_of_both_are_told(tmp_path: Path) -> None:
    file = tmp_path / "space.yaml"
    file.write_text("training:\n  lr: 0..1\n  momentum: 2..1\n  betas: {a: []}\n")
    space, mistakes = read_space(["training.lr=log:1e-4..1e-2", "oops"], [file])
    assert [(d.key, d.notation) for d in space] == [("training.lr", "log:1e-4..1e-2")]
    assert [mistake.place for mistake in mistakes] == [f"{file}:3:3", f"{file}:4:11", ""]


def test_a_file_that_is_not_there_is_told(tmp_path: Path) -> None:
    _, (mistake,) = read_space([], [tmp_path / "space.yaml"])
    assert "there is no such file" in mistake.message


# ---- tried on the base run's configuration ---------------------------------------------------------------------


def test_ranges_are_whole_where_the_parameter_takes_nothing_else() -> None:
    (epochs, prob), mistakes = checked("training.epochs=1..8", "augmentation.hsv.prob=0..1")
    assert mistakes == []
    assert epochs.drawn == Between(Decimal(1), Decimal(8), whole=True) and epochs.size == 8
    assert prob.drawn == Between(Decimal(0), Decimal(1)) and prob.size is None


def test_every_value_is_tried_and_every_mistake_named() -> None:
    _, mistakes = checked(
        "training.lrr=1",
        "training.lr=0..1",
        "training.batch_size=4,x,0",
        "training.epochs=log:1..64",
        "training.optimizer=adamw,adamm",
        "experiment.name=a,b",
        "model.type=yolox-nano,yolox-giant",
    )
    told = {(mistake.key, mistake.message) for mistake in mistakes}
    assert {key for key, _ in told} == {
        "training.lrr",
        "training.lr",
        "training.batch_size",
        "training.epochs",
        "training.optimizer",
        "experiment.name",
        "model.type",
    }
    assert len([key for key, _ in told if key == "training.batch_size"]) == 2
    assert ("training.lrr", "there is no such key") in told


def test_a_number_in_the_middle_of_a_range_is_tried_too() -> None:
    """Sides that no network takes lie between sides that it takes."""
    _, mistakes = checked("training.resolution=320..640")
    assert mistakes and all(mistake.key == "training.resolution" for mistake in mistakes)
    _, mistakes = checked("training.resolution=320..640/32")
    assert mistakes == []


def test_values_that_are_right_alone_and_wrong_together_are_told() -> None:
    fields = ("data.split.val=0.1,0.6", "data.split.test=0.2,0.5")
    assert [checked(field)[1] for field in fields] == [[], []]
    _, mistakes = checked(*fields)
    assert "(drawn together: data.split.val=0.6, data.split.test=0.5)" in mistakes[0].message


def test_a_grid_needs_numbers_that_can_be_counted() -> None:
    (dimension,), (mistake,) = checked("augmentation.hsv.prob=0..1", grid=True)
    assert "a grid needs a number of values" in mistake.message and dimension.size is None
    assert checked("augmentation.hsv.prob=0..1/0.5", "training.epochs=1..3", grid=True)[1] == []


def test_a_long_value_that_stands_as_a_configuration_object_cannot_be_searched() -> None:
    """The optimizer writes parameters; the object would be read, and the drawn value ignored."""
    milestones = json.dumps([round(n / 120, 4) for n in range(1, 120)])
    base = base_of(configured(**{"training.lr_milestones": milestones}))
    assert "training/lr_milestones" in base.record["configuration"]
    _, (mistake,) = checked("training.lr_milestones=[0.5],[0.9]", **{"training.lr_milestones": milestones})
    assert "configuration object" in mistake.message


def test_a_base_whose_own_clones_would_fail_is_refused_by_name() -> None:
    record: dict[str, Any] = json.loads(json.dumps(base_of(configured()).record))
    record["hyperparams"]["training"]["lr"]["value"] = "fast"
    with pytest.raises(SearchError, match=r"training.lr \(base task, task parameter training/lr\): found 'fast'"):
        base_configuration(Base(record), host())


def test_a_base_that_was_edited_is_searched_as_it_stands() -> None:
    record: dict[str, Any] = json.loads(json.dumps(base_of(configured()).record))
    record["hyperparams"]["training"]["epochs"]["value"] = "7"
    assert base_configuration(Base(record), host()).values()["training.epochs"] == 7


# ---- what ClearML makes of it ----------------------------------------------------------------------------------


def drawn_by_clearml(param: str, count: int) -> list[Any]:
    from detloom_integrations.clearml.sdk import quiet_sdk

    with quiet_sdk():
        from detloom_integrations.clearml.strategies import parameter_of

        (dimension,), mistakes = checked(param)
        assert mistakes == []
        parameter = parameter_of(dimension)
        return [parameter.get_value()[dimension.parameter] for _ in range(count)]


def test_clearml_draws_whole_numbers_with_both_ends() -> None:
    assert set(drawn_by_clearml("training.epochs=2..5", 300)) == {2, 3, 4, 5}


def test_clearml_draws_the_texts_that_were_written() -> None:
    assert set(drawn_by_clearml("training.optimizer=adamw,sgd", 100)) == {"adamw", "sgd"}


def test_clearml_draws_evenly_over_the_orders_of_magnitude() -> None:
    values = drawn_by_clearml("training.lr=log:1e-6..1e-2", 2000)
    assert all(1e-6 * (1 - 1e-9) <= value <= 1e-2 * (1 + 1e-9) for value in values)
    shares = [sum(math.floor(math.log10(value)) == power for value in values) / 2000 for power in (-6, -5, -4, -3)]
    assert all(abs(share - 0.25) < 0.05 for share in shares), shares  # 5 standard deviations of 2000 draws


# ---- the strategy ----------------------------------------------------------------------------------------------


def test_without_optuna_values_are_drawn_at_random_and_it_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "optuna", None)
    said: list[str] = []
    assert chosen_strategy("auto", said.append) == "random"
    assert said == ["optuna is not installed: values are drawn at random"]


def test_optuna_asked_for_by_name_is_not_replaced(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "optuna", None)
    with pytest.raises(PluginError, match="pip install optuna"):
        chosen_strategy("optuna", lambda line: None)


def test_optuna_is_taken_where_it_is_installed() -> None:
    pytest.importorskip("optuna")
    assert chosen_strategy("auto", lambda line: None) == "optuna"
