"""The effective configuration of a run: every value, and who set it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

from detloom.config.compose import Chosen, leaves_of, settings_of
from detloom.config.elements import Element, elements_of
from detloom.config.layers import Layer, Origin, mapping_layer, nest, text_layer
from detloom.config.values import as_text, literal, natural
from detloom.errors import ConfigError, Mistake
from detloom.host import PluginHost
from detloom.specs import Spec
from detloom_schemas.base import Settings
from detloom_schemas.config import RunConfig

S = TypeVar("S", bound=Spec)

NOT_HASHED = ("preset", "experiment.")
"""Keys (or prefixes of keys) that change where a run is seen, not what it does."""


@dataclass(frozen=True, eq=False)
class ResolvedConfig:
    """config: validated sections, with the settings of chosen plugins. origins: dotted key to who set it.

    chosen: the plugins that it names, in the order of their fields. layers: what was written, so that everything
    else can be derived again.
    """

    config: RunConfig
    origins: Mapping[str, Origin]
    host: PluginHost = field(repr=False)
    chosen: tuple[Chosen, ...] = field(repr=False)
    layers: tuple[Layer, ...] = field(repr=False)
    _resolve: Callable[[PluginHost, Sequence[Layer]], ResolvedConfig] = field(repr=False)

    @property
    def user_layers(self) -> tuple[Layer, ...]:
        """What the user wrote: files, command line, tracker."""
        return tuple(layer for layer in self.layers if layer.kind != "data")

    def values(self) -> dict[str, Any]:
        """Dotted key to JSON-able value, for every leaf."""
        nested = self.config.model_dump(mode="json", by_alias=True)
        return {leaf.key: _at(nested, leaf.key) for leaf in leaves_of(type(self.config))}

    def texts(self) -> dict[str, str]:
        """Dotted key to the text that `--set` would read as the same value, for every leaf."""
        values = self.values()
        return {leaf.key: as_text(values[leaf.key], leaf.info, leaf.owner) for leaf in leaves_of(type(self.config))}

    def local_paths(self) -> dict[str, str]:
        """The values that name files or folders of the machine that runs, by dotted key."""
        values, found = self.values(), {}
        for leaf in leaves_of(type(self.config)):
            extra: Any = leaf.info.json_schema_extra
            value = values[leaf.key]
            if isinstance(extra, dict) and extra.get("local_path") and value and value not in extra["words"]:
                found[leaf.key] = str(value)
        for number, element in enumerate(self.elements()):
            for leaf in leaves_of(type(element.settings)):
                extra = leaf.info.json_schema_extra
                value = _at(element.settings.model_dump(mode="json", by_alias=True), leaf.key)
                if isinstance(extra, dict) and extra.get("local_path") and value and value not in extra["words"]:
                    found[f"data.sources[{number}].{leaf.key}"] = str(value)
        return found

    def elements(self) -> list[Element]:
        """The sources that `data.sources` lists; empty where `data.source` is the only one."""
        return elements_of(self.host, self.config.data.sources, self.config.data.format)

    def nested(self) -> dict[str, Any]:
        """The same values by section."""
        return nest(self.values())

    def specs(self, kind: type[S]) -> list[S]:
        """The chosen plugins of a kind, in the order they were named."""
        return [pick.spec for pick in self.chosen if isinstance(pick.spec, kind)]

    def settings(self, spec: Spec) -> Settings:
        """The settings of this plugin: as configured when it is chosen, else its own defaults."""
        for pick in self.chosen:
            if pick.spec is spec:
                node: Any = self.config
                for part in pick.path.split("."):
                    node = _child(node, part)
                assert isinstance(node, Settings)
                return node
        return settings_of(self.host, spec)

    def hash(self) -> str:
        """Hex digest of what the run does: equal values give equal hashes, wherever and however they were written."""
        hashed = {key: value for key, value in self.values().items() if not key.startswith(NOT_HASHED)}
        text = json.dumps(hashed, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
        return hashlib.sha256(text.encode()).hexdigest()

    def with_data(self, derived: Mapping[str, Any], place: str = "") -> ResolvedConfig:
        """The same configuration, knowing what the data say (`model.num_classes`).

        Raises ConfigError when the user had written something else.
        """
        mistakes = []
        values = self.values()
        for key, value in derived.items():
            origin = self.origins.get(key)
            if origin is not None and origin.by_user and values[key] is not None and values[key] != value:
                message = f"found {values[key]}, but the data say {value}"
                mistakes.append(Mistake(key, origin.place, message, "leave it out: the data decide"))
        if mistakes:
            raise ConfigError(mistakes)
        layer = mapping_layer(derived, "data", place)
        return self._resolve(self.host, [layer, *self.user_layers])

    def with_tracker(self, edits: Mapping[str, str], place: str = "") -> ResolvedConfig:
        """The same configuration with leaves edited afar (dotted key to text); everything else is derived again.

        Raises ConfigError naming every edit that does not fit.
        """
        return self.with_edits([(key, text, place or "tracker") for key, text in edits.items()])

    def with_edits(self, edits: Sequence[tuple[str, str, str]], mistakes: Sequence[Mistake] = ()) -> ResolvedConfig:
        """The same as `with_tracker` for (dotted key, text, where it was written). mistakes: found with the edits, to
        be reported together with those that do not fit."""
        return self._resolve(self.host, [*self.user_layers, text_layer(edits, "tracker", mistakes)])

    def to_dict(self) -> dict[str, Any]:
        """Values by section and, under `origins`, who set each: [kind, place, place of `auto`]."""
        rows = {}
        for key, origin in self.origins.items():
            row = [origin.kind, origin.place, origin.auto]
            while row and not row[-1]:
                row.pop()
            rows[key] = row
        return {**self.nested(), "origins": rows}

    def to_yaml(self) -> str:
        """What a run keeps as config.yaml; `load_saved` reads it back, and `--config` takes its user's part."""
        return _to_yaml(self.to_dict())


def _at(nested: Mapping[str, Any], key: str) -> Any:
    node: Any = nested
    for part in key.split("."):
        node = node[part]
    return node


def _child(node: Any, key: str) -> Any:
    for name, info in type(node).model_fields.items():
        if (info.alias or name) == key:
            return getattr(node, name)
    raise KeyError(key)


def _to_yaml(document: Mapping[str, Any]) -> str:
    import yaml

    from detloom.config.layers import Text

    class Dumper(yaml.SafeDumper):
        pass

    def text(dumper: yaml.SafeDumper, value: str) -> yaml.ScalarNode:
        # What our reader would take for something else must be quoted: a project called `none`.
        plain = natural(Text(value)) == value == literal(Text(value))
        return dumper.represent_scalar("tag:yaml.org,2002:str", value, style=None if plain else '"')

    def row(dumper: yaml.SafeDumper, value: list[Any]) -> yaml.SequenceNode:
        return dumper.represent_sequence("tag:yaml.org,2002:seq", value, flow_style=True)

    Dumper.add_representer(str, text)
    Dumper.add_representer(list, row)
    head = "# The effective configuration of a run; `origins` says who set each value.\n"
    body: str = yaml.dump(dict(document), Dumper=Dumper, sort_keys=False, allow_unicode=True, width=4096)
    return head + body
