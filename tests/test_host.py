"""The plugin host: discovery, refusal of broken plugins, look-up, observers."""

from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from detloom.errors import PluginError
from detloom.events import EpochFinished
from detloom.hookspecs import hookimpl
from detloom.host import HOOKS, discover
from detloom.specs import AugmentationSpec, CommandSpec, LossSpec, ModelSpec
from detloom.testing import host_with, host_with_first_party, problems

ROOT = Path(__file__).resolve().parent.parent


def loss(name: str, **changes: Any) -> LossSpec:
    return LossSpec(**{"name": name, "summary": "a loss", "role": "box", "build": lambda settings: None, **changes})


def plugin(api: object = (0, 1), **hooks: Callable[..., Any]) -> ModuleType:
    """A plugin module made in memory; each hook is marked with hookimpl."""
    module = ModuleType("made_here")
    if api is not None:
        module.detloom_api = api  # type: ignore[attr-defined]
    for name, function in hooks.items():
        setattr(module, name, hookimpl(function))
    return module


def reason_of(module: object) -> str:
    (info,) = host_with(it=module).plugins
    assert info.status == "broken" and info.provides == {}
    return info.reason


# --- what is refused ---


@pytest.mark.parametrize(
    ("api", "words"),
    [
        (None, "does not state the plugin API"),
        ((1, 0), "another major version"),
        ((0, 2), "upgrade detloom"),
        ("0.1", "must be two numbers"),
        ((0, 1, 0), "must be two numbers"),
        ((False, True), "must be two numbers"),
    ],
)
def test_a_plugin_of_another_api_is_refused_with_a_sentence(api: object, words: str) -> None:
    assert words in reason_of(plugin(api, detloom_losses=lambda: [loss("mine")]))


def test_an_older_minor_version_is_accepted() -> None:
    (info,) = host_with(it=plugin((0, 0), detloom_losses=lambda: [loss("mine")])).plugins
    assert info.status == "ok"


def test_a_misspelt_hook_is_refused_with_the_right_name() -> None:
    def detloom_modls() -> list[ModelSpec]:
        return []

    assert "did you mean detloom_models?" in reason_of(plugin(detloom_modls=detloom_modls))


def test_a_hook_without_the_mark_is_refused() -> None:
    module = plugin()
    module.detloom_losses = lambda: [loss("mine")]  # type: ignore[attr-defined]
    assert "not marked with @hookimpl" in reason_of(module)


def test_a_hook_with_wrong_arguments_is_refused() -> None:
    assert "detloom_epoch_finished" in reason_of(plugin(detloom_epoch_finished=lambda evnt: None))


def test_settings_that_a_sub_module_has_replaced_are_refused() -> None:
    assert "is a module" in reason_of(plugin(detloom_losses=lambda: [loss("mine", settings=json)]))


def test_a_wrapper_around_other_plugins_is_refused() -> None:
    def detloom_losses() -> Iterator[None]:
        yield

    module = plugin()
    module.detloom_losses = hookimpl(wrapper=True)(detloom_losses)  # type: ignore[attr-defined]
    assert "wrapper" in reason_of(module)


def raises_late() -> Iterator[LossSpec]:
    yield loss("first")
    raise RuntimeError("half way")


@pytest.mark.parametrize(
    ("hook", "words"),
    [
        (lambda: 1 / 0, "ZeroDivisionError"),
        (raises_late, "RuntimeError: half way"),
        (lambda: [loss("good"), "bad"], "gave 'bad'"),
        (lambda: 3, "returned int"),
        (lambda: [loss("No Good")], "'No Good' is no name"),
        (lambda: [loss("twice"), loss("twice")], "'twice' twice"),
        (lambda: sys.exit(3), "SystemExit"),
    ],
)
def test_a_plugin_that_fails_to_register_loses_all_its_kinds(hook: Callable[[], Any], words: str) -> None:
    command = CommandSpec(name="mine", summary="a command", run=lambda args: 0)
    host = host_with(bad=plugin(detloom_losses=hook, detloom_commands=lambda: [command]), good=plugin())
    statuses = {info.name: (info.status, info.reason) for info in host.plugins}
    assert statuses["bad"][0] == "broken" and words in statuses["bad"][1]
    assert statuses["good"] == ("ok", "")
    assert host.specs(LossSpec) == [] and host.specs(CommandSpec) == []


def test_a_broken_plugin_hears_no_events() -> None:
    heard: list[object] = []

    def hear(event: object) -> None:
        heard.append(event)

    bad = plugin(detloom_losses=lambda: 1 / 0, detloom_epoch_finished=hear)
    host_with(bad=bad).notify("epoch_finished", EpochFinished(Path(), 0, 1, {}))
    assert heard == []


# --- look-up ---


def test_a_wrong_name_is_answered_with_suggestions_and_with_the_broken_plugins() -> None:
    host = host_with(mine=plugin(detloom_losses=lambda: [loss("focal")]), bad=plugin((9, 0)))
    with pytest.raises(PluginError) as caught:
        host.get(LossSpec, "mine:focl")
    text = str(caught.value)
    assert "no loss named 'mine:focl'" in text and "did you mean mine:focal?" in text
    assert "bad (bad 0) was left out" in text and "another major version" in text


def test_look_up_is_typed_by_the_kind() -> None:
    host = host_with(mine=plugin(detloom_losses=lambda: [loss("focal")]))
    assert host.get(LossSpec, "focal").role == "box"
    with pytest.raises(PluginError, match="no model named 'focal'"):
        host.get(ModelSpec, "focal")


def test_a_first_party_spec_keeps_its_bare_name_and_a_clash_needs_the_plugin_name() -> None:
    host = host_with_first_party(mine=plugin(detloom_losses=lambda: [loss("giou"), loss("other")]))
    assert host.qualified(host.get(LossSpec, "giou")) == "giou"
    assert host.plugin_of(host.get(LossSpec, "giou")).origin == "first-party"
    assert host.plugin_of(host.get(LossSpec, "mine:giou")).name == "mine"
    assert host.qualified(host.get(LossSpec, "other")) == "mine:other"


def test_two_third_parties_with_one_name_must_be_told_apart() -> None:
    host = host_with(a=plugin(detloom_losses=lambda: [loss("x")]), b=plugin(detloom_losses=lambda: [loss("x")]))
    with pytest.raises(PluginError, match="a:x, b:x"):
        host.get(LossSpec, "x")
    assert host.qualified(host.get(LossSpec, "b:x")) == "b:x"


def test_first_party_plugins_are_found_by_their_folder() -> None:
    host = discover()
    by_name = {info.name: info for info in host.plugins if info.origin == "first-party"}
    assert {info.status for info in by_name.values()} == {"ok"}, host.plugins
    folders = ROOT / "plugins" / "detloom_plugins"
    found = {f"{path.parent.name}.{path.stem}" for path in folders.glob("*/*") if not path.name.startswith(("_", "."))}
    assert set(by_name) == found and len(found) > 8
    assert host.get(ModelSpec, "yolox-nano").family == "yolox"
    assert host.qualified(host.get(ModelSpec, "yolox-nano")) == "yolox-nano"


def test_blocked_plugins_are_listed_but_never_imported(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DETLOOM_BLOCK_PLUGINS", "augmentations.*, losses.giou")
    host = discover(["models.*"])
    blocked = {info.name for info in host.plugins if info.status == "blocked"}
    assert {"augmentations.hflip", "losses.giou", "models.yolox"} <= blocked and "losses.bce" not in blocked
    assert host.specs(AugmentationSpec) == [] and host.specs(ModelSpec) == []
    with pytest.raises(PluginError, match=r"plugin models\.yolox is blocked"):
        host.get(ModelSpec, "yolox-nano")


def test_a_pattern_that_blocks_nothing_is_reported(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, logger="detloom"):
        discover(["lossses.*"])
    assert "lossses.*" in caplog.text


# --- observers ---


def test_an_observer_that_raises_is_logged_by_name_and_the_others_hear(caplog: pytest.LogCaptureFixture) -> None:
    heard: list[int] = []
    host = host_with(
        angry=plugin(detloom_epoch_finished=lambda event: 1 / 0),
        calm=plugin(detloom_epoch_finished=lambda event: heard.append(event.epoch)),
    )
    with caplog.at_level(logging.WARNING, logger="detloom"):
        host.notify("epoch_finished", EpochFinished(Path(), 7, 1, {}))
    assert heard == [7]
    assert "angry" in caplog.text and "ZeroDivisionError" in caplog.text


def test_an_unknown_event_is_a_fault_of_the_caller() -> None:
    with pytest.raises(ValueError, match="epoch_finished"):
        host_with().notify("epoch_finishd", object())


# --- packages of others, as pip leaves them ---


@pytest.fixture
def installed(tmp_path: Path) -> Callable[..., Path]:
    """Lay out a distribution as an installer does: modules, dist-info, entry points. Returns the folder."""
    site = tmp_path / "site"

    def install(name: str, entry_points: dict[str, str], modules: dict[str, str], version: str = "1.2") -> Path:
        info = site / f"{name.replace('-', '_')}-{version}.dist-info"
        info.mkdir(parents=True)
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
        rows = "\n".join(f"{key} = {value}" for key, value in entry_points.items())
        (info / "entry_points.txt").write_text(f"[detloom]\n{rows}\n")
        for module, text in modules.items():
            (site / f"{module}.py").write_text(text)
        return site

    return install


def listed(
    site: Path, *extra: str, roots: tuple[str, ...] = ("core", "plugins", "schemas")
) -> dict[str, dict[str, Any]]:
    """`detloom plugins list --json` in a fresh process that sees the folder of packages."""
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join([*(str(ROOT / root) for root in roots), str(site), *extra]),
    }
    done = subprocess.run(
        [sys.executable, "-m", "detloom", "plugins", "list", "--json"],
        capture_output=True, text=True, env=environment, check=True,
    )  # fmt: skip
    return {row["name"]: row for row in json.loads(done.stdout)}


GOOD = """
import detloom
detloom_api = (0, 1)

@detloom.hookimpl
def detloom_losses():
    yield detloom.LossSpec(name="mine", summary="mine", role="box", build=lambda settings: None)
"""


def test_installed_packages_are_found_and_broken_ones_are_named_with_version_and_reason(
    installed: Callable[..., Path],
) -> None:
    installed("detloom-good", {"good": "good_plugin"}, {"good_plugin": GOOD})
    installed("detloom-gone", {"gone": "no_such_module"}, {}, version="3.0")
    installed("detloom-angry", {"angry": "angry_plugin"}, {"angry_plugin": "raise SystemExit('no')"})
    site = installed("another", {"good": "other_plugin"}, {"other_plugin": GOOD})
    rows = listed(site)
    assert rows["gone"]["version"] == "3.0" and "no_such_module" in rows["gone"]["reason"]
    assert rows["angry"]["status"] == "broken" and "SystemExit" in rows["angry"]["reason"]
    assert rows["models.yolox"]["status"] == "ok"
    # Two packages that claim one plugin name: the first by distribution keeps it.
    assert rows["good"]["status"] == "broken" and "taken by another 1.2" in rows["good"]["reason"]


def test_a_clone_beside_an_installed_wheel_registers_its_plugins_once(
    installed: Callable[..., Path], tmp_path: Path
) -> None:
    wheel = installed("detloom", {"models.yolox": "detloom_plugins.models.yolox"}, {}, version="0.1.0")
    foreign = wheel / "detloom_plugins" / "models"
    foreign.mkdir(parents=True)
    (wheel / "detloom_plugins" / "__init__.py").touch()
    (foreign / "__init__.py").touch()
    (foreign / "stranger.py").write_text("raise RuntimeError('the wheel was imported')")
    rows = listed(wheel)
    assert rows["models.yolox"]["status"] == "ok" and rows["models.yolox"]["origin"] == "first-party"
    assert "models.stranger" not in rows


def test_a_core_without_its_plugins_on_the_path_finds_those_of_its_own_clone(installed: Callable[..., Path]) -> None:
    site = installed("detloom-good", {"good": "good_plugin"}, {"good_plugin": GOOD})
    rows = listed(site, roots=("core", "schemas"))
    assert rows["models.yolox"]["status"] == "ok" and rows["good"]["provides"] == {"loss": ["mine"]}


# --- the conformance check ---


def test_the_conformance_check_finds_what_would_hurt_users() -> None:
    def settings() -> Any:
        from pydantic import Field

        from detloom_schemas import Settings

        class Bare(Settings):
            strength: float = 1.0
            password: str = Field("", description="for the service")

        return Bare()

    bare = loss("bare", summary=" ", settings=settings)
    found = "\n".join(problems(plugin(detloom_losses=lambda: [bare])))
    assert "summary must be one line" in found
    assert "strength has no description" in found
    assert "password would hold a secret" in found


def test_the_conformance_check_tries_the_recipe_of_a_model() -> None:
    model = ModelSpec(
        name="m-s", family="m", summary="a model", licence="MIT", build=lambda s, c: None,  # type: ignore[arg-type,return-value]
        recipe={"training.lerning_rate": 1},
    )  # fmt: skip
    (problem,) = problems(plugin(detloom_models=lambda: [model]))
    assert "training.lerning_rate" in problem


def test_the_conformance_check_sees_settings_of_the_wrong_kind_and_plugins_without_hooks() -> None:
    wrong = loss("wrong", settings=lambda: {"a": 1})
    assert "settings of wrong are dict" in problems_text(plugin(detloom_losses=lambda: [wrong]))
    assert "no hook" in problems_text(plugin())


def problems_text(module: ModuleType) -> str:
    return "\n".join(problems(module))


def test_the_conformance_check_sees_heavy_imports(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "heavy_front.py").write_text("import numpy\n" + GOOD)
    (tmp_path / "light_front.py").write_text(GOOD)
    monkeypatch.syspath_prepend(tmp_path)
    import heavy_front  # type: ignore[import-not-found]
    import light_front  # type: ignore[import-not-found]

    assert "imports numpy" in problems_text(heavy_front)
    assert problems(light_front) == []


# --- other names, and names that cannot be had ---


def model(name: str, **changes: Any) -> ModelSpec:
    values = {"name": name, "summary": "a model", "family": "f", "licence": "MIT", "build": lambda s, c: None}
    return ModelSpec(**{**values, **changes})


def test_a_model_answers_to_its_other_names_where_nothing_is_called_so() -> None:
    first = plugin(detloom_models=lambda: [model("f-large", aliases=("large", "big"))])
    second = plugin(detloom_models=lambda: [model("large")])
    assert host_with(first=first).get(ModelSpec, "big").name == "f-large"
    assert host_with(first=first, second=second).get(ModelSpec, "large").name == "large"
    third = plugin(detloom_models=lambda: [model("g-large", aliases=("big",))])
    with pytest.raises(PluginError, match="2 plugins provide a model named 'big'") as raised:
        host_with(first=first, third=third).get(ModelSpec, "big")
    assert "first:f-large" in str(raised.value.hint) and "third:g-large" in str(raised.value.hint)


def test_a_name_that_cannot_be_had_is_refused_with_the_reason_wherever_it_is_asked_for() -> None:
    made = model("f-s", refused=lambda name: "f-xl is sold elsewhere" if name == "f-xl" else "")
    host = host_with(it=plugin(detloom_models=lambda: [made, model("other", family="o")]))
    for ask in (host.get, host.find):
        with pytest.raises(PluginError, match="f-xl is sold elsewhere") as raised:
            ask(ModelSpec, "f-xl")
        assert "it:f-s" in str(raised.value.hint) and "other" not in str(raised.value.hint)
    assert host.find(ModelSpec, "f-xxl") is None


@pytest.mark.parametrize("name", sorted(info.name for info in discover().plugins if info.origin == "first-party"))
def test_every_first_party_plugin_keeps_the_contract(name: str) -> None:
    import importlib

    module = importlib.import_module(f"detloom_plugins.{name}")
    assert problems(module) == []


def test_the_hooks_are_the_nine_kinds_and_six_observers() -> None:
    assert len(HOOKS) == 15
