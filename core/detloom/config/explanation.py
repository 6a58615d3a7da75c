"""What a key means, what it takes, and why it has its value."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from detloom.config.advice import looks_like_secret, unknown_key
from detloom.config.compose import LeafField, choice_fields, fitting, leaves_of, settings_of, settings_path
from detloom.config.layers import Origin, flatten
from detloom.config.resolved import ResolvedConfig
from detloom.config.values import describe
from detloom.errors import ConfigError, Mistake
from detloom.specs import ModelSpec


@dataclass(frozen=True, slots=True)
class LeafInfo:
    """All about one key. plugin: the plugin whose setting it is, or empty; kind: of the plugins it names, or empty.

    recipe: what the chosen family recommends, or None. acts: false for a setting of a plugin that is not chosen;
    value and origin are then its default.
    """

    key: str
    description: str
    allowed: str
    annotation: Any
    default: Any
    recipe: Any
    value: Any
    origin: Origin
    plugin: str = ""
    kind: str = ""
    acts: bool = True
    note: str = ""


@dataclass(frozen=True, slots=True)
class _State:
    """What is so now: value, who set it, whose setting it is, and when it would act if it does not."""

    value: Any
    origin: Origin
    plugin: str = ""
    note: str = ""


def iter_leaves(resolved: ResolvedConfig) -> Iterator[LeafInfo]:
    """Every key of a resolved configuration, in the order of the schema."""
    values = resolved.values()
    for leaf in leaves_of(type(resolved.config), type(resolved.config)()):
        pick = next((pick for pick in resolved.chosen if leaf.key.startswith(f"{pick.path}.")), None)
        plugin = resolved.host.plugin_of(pick.spec).name if pick else ""
        yield _info(resolved, leaf, _State(values[leaf.key], resolved.origins[leaf.key], plugin))


def explain(resolved: ResolvedConfig, key: str) -> LeafInfo:
    """All about this key, also when it belongs to a plugin that is not chosen now.

    Raises ConfigError with a suggestion when there is no such key.
    """
    for info in iter_leaves(resolved):
        if info.key == key:
            return info
    for choice in choice_fields():
        for spec in fitting(resolved.host, choice):
            path = settings_path(resolved.host, choice, spec)
            if not key.startswith(f"{path}."):
                continue
            settings = settings_of(resolved.host, spec)
            for leaf in leaves_of(type(settings), settings, f"{path}."):
                if leaf.key == key:
                    plugin = resolved.host.plugin_of(spec).name
                    note = f"acts when {resolved.host.qualified(spec)} is in {choice.key}"
                    return _info(resolved, leaf, _State(leaf.default, Origin("default"), plugin, note))
    if looks_like_secret(key):
        raise ConfigError([Mistake(key, "", "secrets are read from the environment alone")])
    leaves = {leaf.key: leaf for leaf in leaves_of(type(resolved.config))}
    below = [name for name in leaves if name.startswith(f"{key}.")]
    message, hint = unknown_key(resolved.host, key, leaves, resolved.chosen)
    if below:
        message, hint = "is a section", f"its keys: {', '.join(below)}"
    raise ConfigError([Mistake(key, "", message, hint)])


def _info(resolved: ResolvedConfig, leaf: LeafField, state: _State) -> LeafInfo:
    allowed = describe(leaf.info.annotation, leaf.info.metadata)
    if leaf.plugin_kind:
        names = ", ".join(resolved.host.qualified(spec) for spec in fitting(resolved.host, leaf))
        allowed += f"; here: {names or 'none'}"
    return LeafInfo(
        key=leaf.key,
        description=leaf.info.description or "",
        allowed=allowed,
        annotation=leaf.info.annotation,
        default=leaf.default,
        recipe=_recipe(resolved).get(leaf.key),
        value=state.value,
        origin=state.origin,
        plugin=state.plugin,
        kind=leaf.plugin_kind,
        acts=not state.note,
        note=state.note,
    )


def _recipe(resolved: ResolvedConfig) -> dict[str, Any]:
    models = resolved.specs(ModelSpec)
    return dict(flatten(models[0].recipe)) | dict(models[0].recipe) if models else {}
