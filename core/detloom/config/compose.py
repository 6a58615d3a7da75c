"""The model of a configuration: the sections of the schema, each with the settings of its chosen plugins."""

# ruff: noqa: TID253

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel, Field, create_model
from pydantic.fields import FieldInfo

from detloom.errors import PluginError
from detloom.host import PluginHost, describe
from detloom.specs import SPEC_TYPES, LossSpec, Spec
from detloom_schemas.base import Settings
from detloom_schemas.config import RunConfig

SPEC_OF_KIND: Mapping[str, type[Spec]] = {kind.kind: kind for kind in SPEC_TYPES}


@dataclass(frozen=True, slots=True)
class LeafField:
    """One value of a configuration: its dotted key, its field, the class that the field belongs to."""

    key: str
    info: FieldInfo
    owner: type[BaseModel]
    default: Any

    @property
    def plugin_kind(self) -> str:
        """The kind of plugin that the value names; empty for ordinary fields."""
        extra = self.info.json_schema_extra
        return str(extra.get("plugin_kind", "")) if isinstance(extra, dict) else ""

    @property
    def lists_plugins(self) -> bool:
        """Whether the value is a list of plugins with their settings (detloom.config.elements)."""
        extra = self.info.json_schema_extra
        return isinstance(extra, dict) and bool(extra.get("lists_plugins"))

    @property
    def section(self) -> str:
        return self.key.rpartition(".")[0]


@dataclass(frozen=True, slots=True)
class Chosen:
    """A plugin that the configuration names. field: the key that names it; path: where its settings stand."""

    spec: Spec
    field: str
    path: str
    settings: Settings


def leaves_of(model: type[BaseModel], defaults: BaseModel | None = None, prefix: str = "") -> Iterator[LeafField]:
    """Every value below a model class. defaults: an instance whose values are the defaults (a variant's)."""
    for name, info in model.model_fields.items():
        key = f"{prefix}{info.alias or name}"
        default = getattr(defaults, name) if defaults is not None else info.get_default(call_default_factory=False)
        section = info.annotation
        if isinstance(section, type) and issubclass(section, BaseModel):
            yield from leaves_of(section, default if isinstance(default, BaseModel) else None, f"{key}.")
        else:
            yield LeafField(key, info, model, default)


def choice_fields() -> list[LeafField]:
    """The fields that name plugins, in the order of the schema."""
    return [leaf for leaf in leaves_of(RunConfig) if leaf.plugin_kind]


def fitting(host: PluginHost, leaf: LeafField) -> list[Spec]:
    """The plugins that a choice field may name: `loss.box` takes losses whose role is `box`."""
    role = leaf.key.rpartition(".")[2]
    specs = host.specs(SPEC_OF_KIND[leaf.plugin_kind])
    return [spec for spec in specs if not isinstance(spec, LossSpec) or spec.role == role]


def choose(host: PluginHost, picks: Iterable[tuple[LeafField, Spec]]) -> list[Chosen]:
    """Give the settings of each picked plugin a place in its section.

    Raises PluginError when a plugin's settings cannot be made or two first-party plugins want one place.
    """
    chosen: list[Chosen] = []
    for leaf, spec in picks:
        if any(other.spec is spec and other.path.startswith(leaf.section) for other in chosen):
            continue
        path = settings_path(host, leaf, spec)
        if any(other.path == path for other in chosen):
            plugin = host.plugin_of(spec).name.replace(".", "-")
            path = f"{leaf.section}.plugins.{plugin}:{spec.settings_key}"
        chosen.append(Chosen(spec, leaf.key, path, settings_of(host, spec)))
    return chosen


def settings_path(host: PluginHost, leaf: LeafField, spec: Spec) -> str:
    """`augmentation.hflip` for a first-party plugin, `augmentation.plugins.flip` for others."""
    plugin = host.plugin_of(spec)
    middle = "" if plugin.origin == "first-party" else "plugins."
    return f"{leaf.section}.{middle}{spec.settings_key}"


def settings_of(host: PluginHost, spec: Spec) -> Settings:
    """The plugin's own defaults. Raises PluginError naming the plugin when they cannot be made."""
    label = host.plugin_of(spec).label
    try:
        settings = spec.settings()
    except Exception as error:
        raise PluginError(f"plugin {label}: the settings of {spec.name} cannot be made: {describe(error)}") from error
    if not isinstance(settings, Settings):
        raise PluginError(
            f"plugin {label}: the settings of {spec.name} are {type(settings).__name__}",
            hint="`settings` must return an instance of a subclass of detloom.Settings",
        )
    return settings


def compose(chosen: Sequence[Chosen]) -> type[RunConfig]:
    """A subclass of RunConfig whose sections carry the settings of the chosen plugins."""
    tree: dict[str, Any] = {}
    for pick in chosen:
        *sections, key = pick.path.split(".")
        node = tree
        for part in sections:
            node = node.setdefault(part, {})
        node[key] = pick.settings
    return _extend(RunConfig, tree, "")


def _extend(base: type[Any], tree: Mapping[str, Any], where: str) -> type[Any]:
    fields: dict[str, Any] = {}
    for key, node in tree.items():
        if isinstance(node, Settings):
            if key in base.model_fields:
                raise PluginError(f"the settings of a plugin cannot stand at {where}{key}: that is a field's own key")
            fields[_attribute(key, base)] = (type(node), Field(node, alias=key, description=_summary(type(node))))
        elif key in base.model_fields:
            section = base.model_fields[key]
            extended = _extend(section.annotation, node, f"{where}{key}.")
            fields[key] = (extended, Field(extended(), description=section.description))
        else:  # `plugins`, the corner of third parties
            corner = _extend(Settings, node, f"{where}{key}.")
            fields[key] = (corner, Field(corner(), description="settings of third-party plugins"))
    return create_model(base.__name__, __base__=base, __module__=base.__module__, **fields)


def _attribute(key: str, base: type[BaseModel]) -> str:
    """A Python name for a settings key: `copy-paste` becomes copy_paste, and `copy` may not hide a method."""
    name = re.sub(r"\W", "_", key)
    return f"{name}_" if hasattr(base, name) or not name.isidentifier() else name


def _summary(model: type[BaseModel]) -> str:
    return (model.__doc__ or model.__name__).strip().splitlines()[0]
