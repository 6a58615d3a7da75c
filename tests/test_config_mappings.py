"""Settings that are mappings: written whole or key by key, in files, on the command line and by a tracker."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Annotated, Any

import pytest
from pydantic import Field

from config_tools import candidate, mistakes, model, own, resolved, small_host, typed
from detloom.cli.options import add_run_arguments, rewrite_keys, run_layers
from detloom.config import Layer, explain, file_layer, load_saved, mapping_layer
from detloom.specs import AugmentationSpec, SourceSpec
from detloom_schemas.base import Settings

ALIASES, THAWS = "data.class_aliases", "training.unfreeze"
DOTTED = {"a": "cat", "a.b": "dog", "St. Bernard": "dog"}


def file(folder: Path, name: str, text: str) -> Layer:
    (folder / name).write_text(text)
    return file_layer(folder / name)


def aliases(*layers: Layer) -> dict[str, str]:
    return resolved(*layers).config.data.class_aliases


def origin(key: str, *layers: Layer) -> str:
    return str(resolved(*layers).origins[key])


# --- files ---


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("a.yaml", "data: {class_aliases: {a: cat, a.b: dog, St. Bernard: dog}}"),
        ("a.yaml", "data:\n  class_aliases:\n    St. Bernard: dog\n    a.b: dog\n    a: cat\n"),
        ("a.yaml", "data.class_aliases.a: cat\ndata.class_aliases.St. Bernard: dog\ndata: {class_aliases: {a.b: dog}}"),
        ("a.json", '{"data": {"class_aliases": {"a": "cat", "a.b": "dog", "St. Bernard": "dog"}}}'),
        ("a.json", '{"data": {"class_aliases": {"a.b": "dog", "St. Bernard": "dog", "a": "cat"}}}'),
        ("a.toml", '[data]\nclass_aliases = {a = "cat", "a.b" = "dog", "St. Bernard" = "dog"}\n'),
        ("a.toml", '[data.class_aliases]\n"a.b" = "dog"\na = "cat"\n"St. Bernard" = "dog"\n'),
    ],
)
def test_keys_of_a_mapping_may_hold_dots_and_none_of_them_is_lost(tmp_path: Path, name: str, text: str) -> None:
    assert aliases(file(tmp_path, name, text)) == DOTTED


def test_a_mapping_in_a_later_file_takes_the_place_of_that_of_an_earlier_one(tmp_path: Path) -> None:
    first = file(tmp_path, "one.yaml", "data: {class_aliases: {a: cat, b: dog}}")
    second = file(tmp_path, "two.yaml", "data: {class_aliases: {c: cow}}")
    assert aliases(first, second) == {"c": "cow"}
    assert origin(ALIASES, first, second) == f"file {tmp_path / 'two.yaml'}:1:24"
    assert aliases(first, file(tmp_path, "three.yaml", "data: {class_aliases: {}}")) == {}


@pytest.mark.parametrize(
    ("text", "place"),
    [
        ("training: {unfreeze: '5, 10'}\ntraining.unfreeze.3: dark4\n", "a.yaml:2:1"),
        ("training.unfreeze.3: dark4\ntraining: {unfreeze: '5, 10'}\n", "a.yaml:2:12"),
        ("training:\n  unfreeze:\n    3: dark4\n    3: {x: dark5}\n", "a.yaml:4:9"),
    ],
)
def test_one_file_gives_a_mapping_one_value(tmp_path: Path, text: str, place: str) -> None:
    (found,) = mistakes(file(tmp_path, "a.yaml", text)).values()
    assert "is written twice; first at" in found.message and found.place == str(tmp_path / place)


# --- words of the command line ---


def given(*flags: str) -> list[Layer]:
    """What these flags of `detloom train` say."""
    parser = argparse.ArgumentParser()
    add_run_arguments(parser)
    return run_layers(parser.parse_args(rewrite_keys([*flags])), small_host())


CAT = mapping_layer({ALIASES: {"a": "cat", "b": "dog"}, THAWS: {"2": "dark5"}}, "file", "run.yaml:1:1")


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["data.class_aliases.q=cow"], {"a": "cat", "b": "dog", "q": "cow"}),
        (["data.class_aliases.a=cow"], {"a": "cow", "b": "dog"}),
        (["data.class_aliases.a.b=cow"], {"a": "cat", "b": "dog", "a.b": "cow"}),
        (["data.class_aliases={z: dog}"], {"z": "dog"}),
        (["data.class_aliases.q=cow", "data.class_aliases={z: dog}"], {"z": "dog"}),
        (["data.class_aliases={z: dog}", "data.class_aliases.q=cow"], {"z": "dog", "q": "cow"}),
        (["data.class_aliases.q=1", "data.class_aliases={}", "data.class_aliases.q=2"], {"q": "2"}),
        (["data.class_aliases=", "data.class_aliases.q=none"], {"q": "none"}),
        (["data.class_aliases=auto"], {}),
    ],
)
def test_a_key_is_set_in_what_stands_and_a_whole_mapping_begins_anew(
    words: list[str], expected: dict[str, str]
) -> None:
    assert aliases(CAT, typed(*words)) == expected
    flags = [part for word in words for part in ("--set", word)]
    assert aliases(CAT, *given(*flags)) == expected


def test_a_schedule_of_thaws_takes_single_epochs_whichever_way_it_was_written() -> None:
    def thaws(*layers: Layer) -> dict[str, tuple[str, ...]]:
        return resolved(*layers).config.training.unfreeze

    assert thaws(CAT, typed("training.unfreeze.3=dark4")) == {"2": ("dark5",), "3": ("dark4",)}
    assert thaws(typed("training.unfreeze.2=dark5", "training.unfreeze={3: dark4}")) == {"3": ("dark4",)}
    listed = typed("training.unfreeze=5, 10", "training.unfreeze.10=[dark4, stem]")
    assert thaws(listed) == {"5": ("next",), "10": ("dark4", "stem")}


def test_the_origin_names_every_word_that_has_a_part_in_the_mapping() -> None:
    assert origin(ALIASES, CAT) == "file run.yaml:1:1"
    assert origin(ALIASES, CAT, typed("data.class_aliases={q: cow}")) == "command line --set"
    one, two = "data.class_aliases.q=cow", "data.class_aliases.r=cow"
    assert origin(ALIASES, CAT, typed(one, two)) == "command line --set, with file run.yaml:1:1"
    assert origin(ALIASES, CAT, typed("data.class_aliases.a=x", "data.class_aliases={}", one)) == "command line --set"
    assert origin(ALIASES, typed(one, two)) == "command line --set"


def test_a_key_that_does_not_fit_is_refused_by_its_name() -> None:
    (found,) = mistakes(CAT, typed("data.class_aliases.dog=b")).values()
    assert (found.key, found.place) == ("data.class_aliases.dog", "--set")
    assert "leads back to itself" in found.message
    (found,) = mistakes(CAT, typed("training.unfreeze.soon=dark4")).values()
    assert found.key == "training.unfreeze.soon" and "is no epoch" in found.message


# --- trackers and saved configurations ---


def test_an_edit_of_one_key_keeps_the_others_also_in_what_was_saved() -> None:
    saved = load_saved(resolved(CAT, typed("data.class_aliases.q=cow")).to_dict(), small_host())
    assert saved.config.data.class_aliases == {"a": "cat", "b": "dog", "q": "cow"}
    edited = saved.with_edits([(f"{ALIASES}.a.b", "hen", "task parameter")])
    assert edited.config.data.class_aliases == {"a": "cat", "b": "dog", "q": "cow", "a.b": "hen"}
    assert str(edited.origins[ALIASES]) == "tracker task parameter, with command line --set, with file run.yaml:1:1"
    whole = saved.with_edits([(ALIASES, "{zz: hen}", "object"), (f"{ALIASES}.qq", "hen", "parameter")])
    assert whole.config.data.class_aliases == {"zz": "hen", "qq": "hen"}


# --- plugins ---


class Tables(Settings):
    """Mappings of every shape."""

    path: Annotated[str, Field(description="folder")] = ""
    flat: Annotated[dict[str, int], Field(description="numbers")] = {"x.y": 1}  # noqa: RUF012
    deep: Annotated[dict[str, dict[str, int]], Field(description="numbers of things")] = {}  # noqa: RUF012
    maybe: Annotated[dict[str, Any] | None, Field(description="anything")] = None


def test_mappings_of_plugins_follow_the_same_rule() -> None:
    host = small_host(candidate("lab", "entry point", "detloom_augmentations", own(AugmentationSpec, ["t"], Tables)))

    def tables(*layers: Layer) -> dict[str, Any]:
        values = resolved(typed("augmentation.transforms=t"), *layers, host=host).values()
        return {
            key.rpartition(".")[2]: value for key, value in values.items() if key.startswith("augmentation.plugins")
        }

    here = "augmentation.plugins.t"
    assert tables(typed(f"{here}.flat.a.b=2"))["flat"] == {"x.y": 1, "a.b": 2}
    one = mapping_layer({here: {"deep": {"a.b": {"c": 1, "d.e": 2}}, "maybe": {"p": {"q": "r"}}}})
    assert tables(one)["deep"] == {"a.b": {"c": 1, "d.e": 2}} and tables(one)["maybe"] == {"p": {"q": "r"}}
    found = tables(one, typed(f"{here}.deep.f.d.e=3", f"{here}.maybe.p.s.t=4", f"{here}.flat={{}}"))
    assert found["deep"] == {"a.b": {"c": 1, "d.e": 2}, "f": {"d.e": 3}} and found["flat"] == {}
    assert found["maybe"] == {"p": {"q": "r", "s": {"t": 4}}}
    (wrong,) = mistakes(typed("augmentation.transforms=t", f"{here}.flat.a=x"), host=host).values()
    assert wrong.key == f"{here}.flat.a"


def test_the_default_mapping_of_a_saved_configuration_is_nobodys_word(tmp_path: Path) -> None:
    host = small_host(candidate("lab", "entry point", "detloom_augmentations", own(AugmentationSpec, ["t"], Tables)))
    here = "augmentation.plugins.t"
    config = resolved(typed("augmentation.transforms=t", f"{here}.deep.a.b=2"), host=host)
    again = resolved(file(tmp_path, "config.yaml", config.to_yaml()), host=host)
    assert again.values() == config.values()
    assert {key: again.origins[f"{here}.{key}"].kind for key in ("flat", "deep")} == {"flat": "default", "deep": "file"}


def test_a_source_in_a_list_may_have_mappings(tmp_path: Path) -> None:
    host = small_host(candidate("lab", "entry point", "detloom_sources", own(SourceSpec, ["depot"], Tables)))
    second = "{type: depot, flat: {b: 1, b.c: 2}, deep: {d: {e: 3}}}"
    text = f"data:\n  sources:\n    - {{type: depot, path: a}}\n    - {second}\n"
    config = resolved(file(tmp_path, "a.yaml", text), host=host)
    for way in (config, load_saved(config.to_dict(), host)):
        plain, full = (element.settings for element in way.elements())
        assert plain == Tables(path="a") and full == Tables(flat={"b": 1, "b.c": 2}, deep={"d": {"e": 3}})


def test_a_recipe_may_hold_a_mapping_to_which_keys_are_added() -> None:
    net = model("thawing-s", 1, **{THAWS: {"2": ["head"]}})
    host = small_host(candidate("lab", "entry point", "detloom_models", [net]))
    config = resolved(typed("model.type=thawing-s", "training.unfreeze.4=stem"), host=host)
    assert config.config.training.unfreeze == {"2": ("head",), "4": ("stem",)}
    assert str(config.origins[THAWS]) == "command line --set, with recipe lab:thawing-s"
    assert explain(config, THAWS).recipe == {"2": ["head"]}
    given_back = config.with_tracker({THAWS: "auto"})
    assert given_back.config.training.unfreeze == {"2": ("head",)}


# --- nothing, for lists and mappings ---


@pytest.mark.parametrize("key", ["data.drop_classes", "experiment.tags", "model.freeze", "model.lora.targets"])
@pytest.mark.parametrize("nothing", ["", "none", "null", "~", " None ", '"none"'])
def test_nothing_empties_a_list_wherever_it_is_written(tmp_path: Path, key: str, nothing: str) -> None:
    full, bare = mapping_layer({key: ["full"]}), nothing.strip('"')
    for layer in (
        typed(f"{key}={nothing}"),
        file(tmp_path, "a.yaml", f"{key}: {nothing}\n"),
        file(tmp_path, "a.toml", f"{key} = {json.dumps(bare)}\n"),
        file(tmp_path, "a.json", json.dumps({key: bare})),
        file(tmp_path, "b.json", json.dumps({key: None})),
        Layer("tracker", typed(f"{key}={nothing}").entries),
    ):
        assert resolved(full, layer).values()[key] == []


@pytest.mark.parametrize("text", ["[none]", '["none"]'])
def test_what_is_called_none_stands_in_a_list(text: str) -> None:
    config = resolved(typed(f"experiment.tags={text}"))
    assert config.config.experiment.tags == ("none",)
    assert config.with_tracker(config.texts()).config.experiment.tags == ("none",)


def test_nothing_means_no_sources_no_transforms_and_no_thaws() -> None:
    layer = mapping_layer({THAWS: "3", "augmentation.transforms": ["flip"], "data.sources": []})
    config = resolved(layer, typed(f"{THAWS}=none", "augmentation.transforms=", "data.sources=none")).config
    assert config.training.unfreeze == {} and config.augmentation.transforms == () and config.data.sources == ()


def test_a_flag_adds_its_logger_to_none() -> None:
    layers = given("--set", "experiment.logging.loggers=none", "--tensorboard")
    assert resolved(*layers).config.experiment.logging.loggers == ("tensorboard",)
