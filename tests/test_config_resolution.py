"""Who wins, what plugins add, what `auto` means, and what is refused."""

from __future__ import annotations

import itertools
import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from config_tools import Net, candidate, mistakes, own, resolved, small_host, third_party, typed, written
from detloom.config import Layer, ResolvedConfig, file_layer, iter_leaves, load_saved, mapping_layer, resolve
from detloom.config.explanation import explain
from detloom.errors import ConfigError, DetloomError, PluginError
from detloom.specs import AugmentationSpec, LoggerSpec, LossSpec, ModelSpec
from detloom_schemas.config import RunConfig
from detloom_schemas.presets import PRESETS


def value(config: ResolvedConfig, key: str) -> Any:
    return config.values()[key]


def origin(config: ResolvedConfig, key: str) -> str:
    return str(config.origins[key])


# --- precedence ---


def test_each_origin_stands_above_the_one_before_it() -> None:
    key = "training.ema_decay"  # default 0.9999, recipe 0.5, preset 0.9999
    steps = [
        (resolved(typed("model.type=yolox-l")), 0.9999, "default"),
        (resolved(), 0.5, "recipe yolox-nano"),
        (resolved(typed("preset=plan")), 0.9999, "preset plan"),
        (resolved(typed("preset=plan")).with_data({key: 0.6}), 0.6, "data"),
        (resolved(typed("preset=plan"), written({key: 0.7})), 0.7, "file run.yaml"),
        (resolved(written({key: 0.7}), typed(f"{key}=0.8")), 0.8, "command line --set"),
        (resolved(written({key: 0.7}), typed(f"{key}=0.8")).with_tracker({key: "0.85"}), 0.85, "tracker tracker"),
    ]
    for config, expected, who in steps:
        assert (value(config, key), origin(config, key)) == (expected, who)


def test_the_order_of_layers_does_not_matter_but_the_order_of_files_does() -> None:
    first, second = written({"training.seed": 1}), written({"training.seed": 2})
    for layers in itertools.permutations([first, typed("training.seed=3")]):
        assert value(resolved(*layers), "training.seed") == 3
    assert value(resolved(first, second), "training.seed") == 2


def test_auto_takes_the_recipe_again_also_above_a_file_and_a_preset() -> None:
    config = resolved(written({"training.ema_decay": 0.1}), typed("preset=plan", "training.ema_decay=auto"))
    assert value(config, "training.ema_decay") == 0.5
    assert origin(config, "training.ema_decay") == "recipe yolox-nano (auto in command line --set)"


def test_auto_without_a_recipe_takes_the_default_and_fields_that_know_auto_keep_it() -> None:
    config = resolved(written({"training": {"epochs": "auto", "precision": "auto"}, "data.num_workers": "auto"}))
    assert (value(config, "training.epochs"), config.origins["training.epochs"].kind) == (100, "default")
    assert (value(config, "training.precision"), config.origins["training.precision"].kind) == ("auto", "file")
    assert value(config, "data.num_workers") == "auto"
    assert value(resolved(written({"model.type": "auto"})), "model.type") == "yolox-nano"


def test_the_defaults_of_a_variant_are_its_own_also_beside_a_set_value() -> None:
    config = resolved(written({"model.yolox.depth": 5}))
    assert (value(config, "model.yolox.width"), value(config, "model.yolox.depth")) == (0.25, 5)


# --- plugins and their sections ---


def test_a_section_carries_the_settings_of_its_chosen_plugins_and_only_theirs() -> None:
    keys = set(resolved(written({"augmentation.transforms": ["flip", "window"]})).values())
    assert {"augmentation.flip.prob", "augmentation.window.low", "model.yolox.width", "data.local.path"} <= keys
    assert not any(key.startswith(("augmentation.hflip", "loss.focal")) for key in keys)


def test_the_recipe_may_choose_plugins_and_set_their_values() -> None:
    config = resolved(typed("model.type=yolox-l"))
    assert value(config, "augmentation.transforms") == ["window"]
    assert "augmentation.window.low" in config.values()
    config = resolved(typed("augmentation.transforms=flip"))
    assert (value(config, "augmentation.flip.prob"), origin(config, "augmentation.flip.prob")) == (
        0.9,
        "recipe yolox-nano",
    )


def test_settings_are_handed_out_as_the_plugins_own_type() -> None:
    host = small_host()
    config = resolved(typed("model.yolox.depth=7"), host=host)
    nano, large = host.get(ModelSpec, "yolox-nano"), host.get(ModelSpec, "yolox-l")
    assert config.settings(nano) == Net(width=0.25, depth=7)
    assert config.settings(large) == Net(width=1.0)  # not chosen: its own defaults
    assert config.specs(ModelSpec) == [nano] and config.specs(LoggerSpec)[0].name == "console"


def test_a_third_partys_settings_stand_in_their_own_corner_under_a_qualified_name() -> None:
    host = small_host(third_party())
    config = resolved(
        typed("augmentation.transforms=[swirl, mine:flip, flip]", "augmentation.plugins.swirl.prob=0.1"), host=host
    )
    assert value(config, "augmentation.transforms") == ["mine:swirl", "mine:flip", "flip"]
    assert value(config, "augmentation.plugins.swirl.prob") == 0.1
    assert value(config, "augmentation.plugins.flip.prob") == 0.5
    assert value(config, "augmentation.flip.prob") == 0.9
    assert config.settings(host.get(AugmentationSpec, "mine:swirl")).model_dump() == {"prob": 0.1}


def test_two_third_parties_with_one_settings_name_do_not_share_settings() -> None:
    host = small_host(third_party("a"), third_party("b"))
    config = resolved(written({"augmentation.transforms": ["a:swirl", "b:swirl"]}), host=host)
    keys = [key for key in config.values() if "swirl" in key]
    assert keys == ["augmentation.plugins.swirl.prob", "augmentation.plugins.b:swirl.prob"]


def test_a_plugin_whose_name_is_a_method_of_pydantic_keeps_its_key() -> None:
    host = small_host(candidate("odd", "entry point", "detloom_augmentations", own(AugmentationSpec, ["copy", "json"])))
    config = resolved(written({"augmentation.transforms": ["copy", "json", "copy-paste"]}), host=host)
    assert "augmentation.copy-paste.low" in config.values()


def test_a_setting_of_an_unchosen_plugin_is_refused_with_the_reason() -> None:
    found = mistakes(typed("augmentation.window.low=1", "loss.focal.gamma=3", "augmentation.transforms=flip"))
    assert "window is not in augmentation.transforms (which is flip)" in found["augmentation.window.low"].message
    assert "focal is not in loss.classification (which is empty)" in found["loss.focal.gamma"].message


def test_auto_frees_a_setting_whose_plugin_is_no_longer_chosen() -> None:
    written_before = written({"augmentation": {"transforms": ["window"], "window": {"low": -1}}})
    config = resolved(written_before)
    with pytest.raises(ConfigError, match=r"augmentation\.window\.low"):
        config.with_tracker({"augmentation.transforms": "[flip]"})
    freed = config.with_tracker({"augmentation.transforms": "[flip]", "augmentation.window.low": "auto"})
    assert "augmentation.window.low" not in freed.values()


def test_dictionaries_are_gathered_from_dotted_keys() -> None:
    config = resolved(
        written({"augmentation": {"transforms": ["window"], "window": {"table": {"a": 1, "b": 2}}}}),
    )
    assert value(config, "augmentation.window.table") == {"a": 1, "b": 2}
    config = resolved(typed("augmentation.transforms=window", "augmentation.window.table.c=3"))
    assert value(config, "augmentation.window.table") == {"c": 3}


# --- mistakes ---


def test_all_mistakes_of_all_layers_come_at_once(tmp_path: Path) -> None:
    file = tmp_path / "run.yaml"
    file.write_text(
        "training:\n  epoch: 50\n  lr: fast\n  optimizer: adamv\nmodel:\n  type: yolo-nano\n"
        "augmentation:\n  transforms: [hflop]\nzebra:\n  x: 1\n"
    )
    (tmp_path / "two.json").write_text('{"training": {"batch_size": 0}}')
    found = mistakes(
        file_layer(file), file_layer(tmp_path / "two.json"), file_layer("gone.yaml"), typed("export.half=maybe", "lr=1")
    )
    expected = {
        "training.epoch": (f"{file}:2:3", "no such key", "training.epochs"),
        "training.lr": (f"{file}:3:3", "found 'fast'; allowed: a number above 0", ""),
        "training.optimizer": (f"{file}:4:3", "one of adamw, adam, sgd", "did you mean adam"),
        "model.type": (f"{file}:6:3", "no model named 'yolo-nano'", "did you mean yolox-nano"),
        "augmentation.transforms": (f"{file}:8:3", "no augmentation named 'hflop'", "did you mean hflip"),
        "zebra.x": (f"{file}:10:3", "no such key", "the sections: "),
        "training.batch_size": (f"{tmp_path / 'two.json'}:1:15", "of at least 1", ""),
        "gone.yaml": ("--config", "there is no such file", ""),
        "export.half": ("--set", "true or false", ""),
        "lr": ("--set", "no such key", "training.lr"),
    }
    assert set(found) == set(expected)
    for key, (place, message, hint) in expected.items():
        assert found[key].place == place, key
        assert message in found[key].message and hint in found[key].hint, key


def test_a_value_that_loses_is_checked_too() -> None:
    assert set(mistakes(written({"training.lr": "fast"}), typed("training.lr=0.1"))) == {"training.lr"}


def test_rules_between_the_fields_of_a_plugin_speak_with_a_place() -> None:
    found = mistakes(written({"augmentation": {"transforms": ["window"], "window": {"low": 5}}}, "run.yaml:4:5"))
    assert found["augmentation.window"].message == "low (5.0) is above high (1.0)"
    assert found["augmentation.window"].place == "run.yaml:4:5"


@pytest.mark.parametrize(
    ("key", "text", "words"),
    [
        ("loss.box", "focal", "is a classification loss; allowed: ciou, giou"),
        ("training.resolution", "400", "takes multiples of 32"),
        ("training.resolution", "[416, 401]", "takes multiples of 32"),
        ("experiment.clearml.mode", "required", "no logger named 'clearml'"),
        ("data.split.val", "0.99", "leave no images to train on"),
        ("training", "5", "is a section, not a value"),
        ("training.lr.x", "5", "found {'x': '5'}; allowed: a number above 0"),
        ("preset", "plam", "allowed: plan, or none"),
        ("model.password", "x", "a secret has no place here"),
        ("data.cvat.api_key", "x", "a secret has no place here"),
        ("token", "x", "a secret has no place here"),
    ],
)
def test_what_cannot_be_is_refused(key: str, text: str, words: str) -> None:
    found = mistakes(typed(f"{key}={text}", "data.split.test=0.01"))
    assert any(words in mistake.message for mistake in found.values()), found


def test_a_missing_plugin_of_the_defaults_is_named_with_its_reason() -> None:
    host = small_host()
    blocked = type(host)([], [])
    with pytest.raises(ConfigError, match="there is no model named 'yolox-nano'"):
        resolve(blocked, [])


def test_a_recipe_with_a_wrong_key_or_value_is_the_plugins_fault() -> None:
    from config_tools import model

    for recipe, words in (({"training.lrr": 1}, "training.lrr"), ({"training.lr": "x"}, "training.lr")):
        broken = candidate("b", "entry point", "detloom_models", [model("broken-s", 1, **recipe)])
        with pytest.raises(PluginError, match=words):
            resolved(typed("model.type=broken-s"), host=small_host(broken))


def test_settings_that_cannot_be_made_are_the_plugins_fault() -> None:
    def broken() -> Any:
        raise RuntimeError("no settings today")

    plugin = candidate("b", "entry point", "detloom_augmentations", own(AugmentationSpec, ["odd"], broken))
    with pytest.raises(PluginError, match="no settings today"):
        resolved(typed("augmentation.transforms=odd"), host=small_host(plugin))


# --- data and tracker ---


def test_the_data_fill_what_nobody_wrote_and_contradict_what_was_written_wrong() -> None:
    config = resolved(typed("model.num_classes=3"))
    assert value(config.with_data({"model.num_classes": 3}), "model.num_classes") == 3
    with pytest.raises(ConfigError, match="found 3, but the data say 4"):
        config.with_data({"model.num_classes": 4})
    config = resolved().with_data({"model.num_classes": 4}, "coco.json")
    assert (value(config, "model.num_classes"), origin(config, "model.num_classes")) == (4, "data coco.json")


def test_a_changed_model_does_not_drag_the_old_recipe_along() -> None:
    before = resolved(typed("training.seed=5")).with_data({"model.num_classes": 4})
    after = before.with_tracker({"model.type": "yolox-l"})
    assert (value(after, "training.lr"), value(after, "training.seed")) == (0.005, 5)
    assert value(after, "augmentation.transforms") == ["window"]
    assert value(after, "model.yolox.width") == 1.0
    assert value(after, "model.num_classes") is None  # the new run's data speak again


def test_tracker_edits_are_typed_and_wrong_ones_are_all_named() -> None:
    config = resolved().with_tracker(
        {
            "training.lr": "1e-3",
            "experiment.tags": '["a", "1"]',
            "training.max_steps": "null",
            "experiment.project": '"p"',
        }
    )
    assert [value(config, key) for key in ("training.lr", "experiment.tags", "training.max_steps")] == [
        1e-3,
        ["a", "1"],
        None,
    ]
    assert value(config, "experiment.project") == "p"
    with pytest.raises(ConfigError) as caught:
        resolved().with_tracker({"training.lr": "fast", "trainig.epochs": "3"})
    assert [mistake.key for mistake in caught.value.mistakes] == ["trainig.epochs", "training.lr"]


def test_every_leaf_survives_the_way_to_a_tracker_and_back_as_text() -> None:
    host = small_host(third_party())
    layers = [
        typed("augmentation.transforms=[window, swirl]", "loss.classification=focal", "training.resolution=[64, 96]")
    ]
    config = resolve(host, layers)
    texts = {key: json.dumps(leaf) for key, leaf in config.values().items()}
    assert config.with_tracker(texts).values() == config.values()


# --- presets, hash, saving ---


def test_the_preset_plan_holds_and_its_keys_exist() -> None:
    config = resolved(typed("preset=plan"))
    for key, expected in PRESETS["plan"].items():
        assert value(config, key) == expected and origin(config, key) == "preset plan"


def test_the_hash_is_about_what_a_run_does() -> None:
    base = resolved().hash()
    assert (
        resolved(typed("experiment.name=x", "experiment.output_dir=y", "experiment.logging.log_interval=3")).hash()
        == base
    )
    assert resolved(written({"training.lr": 0.02})).hash() == base  # the recipe's value, written out
    assert resolved(typed("training.lr=0.021")).hash() != base
    assert resolved(typed("training.seed=1")).hash() != base


def test_a_saved_configuration_comes_back_whole_and_can_be_derived_again(tmp_path: Path) -> None:
    host = small_host(third_party())
    layers = [
        written({"training": {"epochs": 7, "lr": "auto"}, "experiment": {"project": "none", "tags": ["1.0", "a"]}}),
        typed("augmentation.transforms=[window, swirl]", "augmentation.window.table={a: 1}", "preset=plan"),
    ]
    config = resolve(host, layers).with_data({"model.num_classes": 3})
    (tmp_path / "config.yaml").write_text(config.to_yaml())
    for source in (tmp_path, tmp_path / "config.yaml", config.to_dict()):
        back = load_saved(source, host)
        assert (back.values(), back.origins, back.hash()) == (config.values(), config.origins, config.hash())
        assert back.config.model_dump() == config.config.model_dump()
    again = resolve(host, load_saved(tmp_path, host).user_layers).with_data({"model.num_classes": 3})
    assert (again.values(), again.origins) == (config.values(), config.origins)


def test_a_saved_value_stands_even_when_the_recipe_has_changed_since() -> None:
    document = resolved().to_dict()
    document["training"]["lr"] = 0.123  # as an older recipe said
    back = load_saved(document, small_host())
    assert value(back, "training.lr") == 0.123
    assert value(back.with_tracker({"training.seed": "1"}), "training.lr") == 0.02


def test_a_saved_configuration_survives_new_and_vanished_keys() -> None:
    document = resolved().to_dict()
    del document["training"]["seed"], document["origins"]["training.seed"]
    document["training"]["gone"], document["origins"]["training.gone"] = 1, ["default"]
    assert value(load_saved(document, small_host()), "training.seed") == 0
    document["origins"]["training.gone"] = ["file", "run.yaml:1:1"]
    with pytest.raises(ConfigError, match=r"training\.gone"):
        load_saved(document, small_host())


def test_a_saved_configuration_can_be_given_as_a_file_and_brings_only_its_users_values(tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text(resolved(typed("training.epochs=7", "experiment.name=true")).to_yaml())
    layer = file_layer(tmp_path / "config.yaml")
    assert {entry.key for entry in layer.entries} == {"training.epochs", "experiment.name"}
    assert value(resolved(layer), "experiment.name") == "true"


@pytest.mark.parametrize("text", ["- 1", "a: [", "training: {}", "origins: {preset: 3}"])
def test_what_is_no_saved_configuration_is_said(tmp_path: Path, text: str) -> None:
    (tmp_path / "config.yaml").write_text(text)
    with pytest.raises(DetloomError):
        load_saved(tmp_path, small_host())
    with pytest.raises(DetloomError, match="cannot read"):
        load_saved(tmp_path / "nowhere", small_host())


def test_the_saved_text_is_yaml_that_anybody_can_read() -> None:
    document = yaml.safe_load(resolved(typed("experiment.project=1e3", "experiment.tags=[on, 1]")).to_yaml())
    assert document["experiment"]["project"] == "1e3" and document["experiment"]["tags"] == ["on", "1"]
    assert document["origins"]["training.lr"] == ["recipe", "yolox-nano"]


# --- explanations ---


def test_every_leaf_is_described_and_its_default_is_allowed() -> None:
    config = resolved(typed("augmentation.transforms=[flip, window]"))
    leaves = list(iter_leaves(config))
    assert [leaf.key for leaf in leaves] == list(config.values())
    for leaf in leaves:
        assert leaf.description and leaf.allowed, leaf.key
    flip = next(leaf for leaf in leaves if leaf.key == "augmentation.flip.prob")
    assert (flip.default, flip.recipe, flip.value, flip.plugin) == (0.5, 0.9, 0.9, "augmentations")


def test_a_key_is_explained_also_when_it_does_not_act() -> None:
    info = explain(resolved(), "loss.focal.gamma")
    assert not info.acts and info.note == "acts when focal is in loss.classification"
    assert (info.default, info.plugin) == (2.0, "losses")
    with pytest.raises(ConfigError, match=r"did you mean training\.lr"):
        explain(resolved(), "training.lrr")
    with pytest.raises(ConfigError, match="is a section"):
        explain(resolved(), "data.split")


def test_no_section_of_the_schema_lacks_a_description() -> None:
    schema = RunConfig.model_json_schema()
    for name, definition in schema["$defs"].items():
        assert definition.get("description"), name


def test_a_written_layer_of_an_unknown_kind_of_value_is_refused() -> None:
    assert "training.lr" in mistakes(mapping_layer({"training.lr": object()}))
    assert Layer("file") == Layer("file")


def test_a_family_refuses_a_loss_role_that_it_does_not_take() -> None:
    spec = ModelSpec(
        name="boxless-s",
        family="boxless",
        summary="s",
        licence="MIT",
        build=lambda s, c: None,  # type: ignore[arg-type,return-value]
    )
    host = small_host(candidate("b", "entry point", "detloom_models", [spec]))
    written = ["loss.box=giou", "loss.distribution=giou"]
    written += ["loss.distribution_weight=3", "loss.classification_weight=1.0"]
    found = mistakes(typed("model.type=boxless-s", *written), host=host)
    assert "takes no box loss" in found["loss.box"].message
    assert "giou is a box loss" in found["loss.distribution"].message
    # A written default changes nothing: every saved configuration holds it.
    assert "no distribution loss" in found["loss.distribution_weight"].message
    assert "loss.classification_weight" not in found
    assert host.get(LossSpec, "giou").role == "box"
