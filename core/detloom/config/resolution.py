"""From layers to one configuration: who wins for each value, and every mistake at once.

default < recipe of the family < preset < data < file < command line < tracker. `auto`, written by the user, takes
the value from below again: what the data say, else the recipe, else the default. Of a mapping, single keys may be set
(detloom.config.mappings).
"""

# ruff: noqa: TID253

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from pydantic import ValidationError

from detloom.config.advice import looks_like_secret, unknown_key
from detloom.config.compose import (
    SPEC_OF_KIND,
    Chosen,
    LeafField,
    choice_fields,
    choose,
    compose,
    fitting,
    leaves_of,
    settings_path,
)
from detloom.config.elements import convert_elements
from detloom.config.layers import Layer, Origin, flatten, nest
from detloom.config.mappings import Word, joint, with_key, words_below
from detloom.config.resolved import ResolvedConfig
from detloom.config.rules import check_rules
from detloom.config.values import ValueRefusedError, convert, literal
from detloom.errors import ConfigError, MissingPluginError, Mistake, PluginError
from detloom.host import PluginHost
from detloom.specs import ModelSpec, Spec
from detloom_schemas.config import RunConfig
from detloom_schemas.presets import PRESETS

Pinned = Mapping[str, tuple[Any, Origin]]

ORDER = ("data", "file", "command line", "tracker")
"""Kinds of layers; a later one stands above an earlier one."""

ONE_SOURCE, SOURCES = "data.source", "data.sources"


def resolve(host: PluginHost, layers: Sequence[Layer] = ()) -> ResolvedConfig:
    """The effective configuration of these layers, in any order of their kinds' precedence.

    Of two layers of one kind the later wins. Raises ConfigError with every mistake of every layer, and PluginError
    when a plugin's own settings or recipe are broken.
    """
    return _Resolution(host, layers, {}).result()


def restore(host: PluginHost, layers: Sequence[Layer], pinned: Pinned) -> ResolvedConfig:
    """A configuration as it was saved: pinned values stand as they are. layers: what its user had written."""
    return _Resolution(host, layers, pinned).result()


@dataclass(frozen=True, slots=True)
class _Winner:
    """The value of one key and who set it."""

    value: Any
    origin: Origin


class _Resolution:
    """One pass: choices first (they decide which keys exist), then all values, then rules across values."""

    def __init__(self, host: PluginHost, layers: Sequence[Layer], pinned: Pinned) -> None:
        self.host = host
        self.pinned = pinned
        self.layers = tuple(sorted(layers, key=lambda layer: ORDER.index(layer.kind)))
        self.mistakes = [mistake for layer in self.layers for mistake in layer.mistakes]
        self.written: dict[str, list[Word]] = {}
        for layer in self.layers:
            for entry in layer.entries:
                self.written.setdefault(entry.key, []).append(Word(layer, entry))
        self.recipe: dict[str, Any] = {}
        self.recipe_place = ""
        self.preset_name = ""
        self.preset: Mapping[str, object] = {}
        self.unresolved: set[str] = set()
        self.source_of: _Winner | None = None
        self.missing: list[Mistake] = []

    def result(self) -> ResolvedConfig:
        chosen = choose(self.host, self._picks())
        model = compose(chosen)
        leaves = {leaf.key: leaf for leaf in leaves_of(model, model())}
        self._place_entries(leaves, chosen)
        winners = {key: self._winner(leaf) for key, leaf in leaves.items()}
        config = self._validated(model, winners)
        if config is not None:
            self.mistakes += check_rules(self.host, config, {key: won.origin for key, won in winners.items()})
        if self.mistakes or config is None:
            raise (MissingPluginError if self.mistakes == self.missing else ConfigError)(self.mistakes)
        origins = {key: won.origin for key, won in winners.items()}
        return ResolvedConfig(config, origins, self.host, tuple(chosen), self.layers, resolve)

    # --- choices ---

    def _picks(self) -> list[tuple[LeafField, Spec]]:
        """The plugins that the configuration names. The model comes first: its recipe may make other choices."""
        self._take_preset()
        picks: list[tuple[LeafField, Spec]] = []
        for leaf in sorted(choice_fields(), key=lambda leaf: leaf.plugin_kind != ModelSpec.kind):
            for spec in [] if leaf.key == ONE_SOURCE and self._lists_sources(leaf) else self._pick(leaf):
                picks.append((leaf, spec))
                if isinstance(spec, ModelSpec):
                    self.recipe = dict(flatten(spec.recipe)) | dict(spec.recipe)
                    self.recipe_place = self.host.qualified(spec)
        return picks

    def _take_preset(self) -> None:
        leaf = next(leaf for leaf in leaves_of(RunConfig) if leaf.key == "preset")
        self.preset_name = self._winner(leaf, quietly=True).value or ""
        self.preset = PRESETS.get(self.preset_name, {})

    def _lists_sources(self, leaf: LeafField) -> bool:
        """Whether `data.sources` says where the data are. leaf: of `data.source`, which then must not."""
        several = next(other for other in leaves_of(RunConfig) if other.key == SOURCES)
        listed, one = self._winner(several, quietly=True), self._winner(leaf, quietly=True)
        self.source_of = listed if listed.value else one
        if listed.value and one.origin.by_user and _rank(one.origin) >= _rank(listed.origin):
            message = f"has no effect: data.sources lists the sources ({listed.origin.place})"
            self.mistakes.append(Mistake(leaf.key, one.origin.place, message, "keep one of the two"))
        return bool(listed.value)

    def _pick(self, leaf: LeafField) -> Iterator[Spec]:
        won = self._winner(leaf, quietly=True)
        names = [won.value] if isinstance(won.value, str) else list(won.value or ())
        kind = SPEC_OF_KIND[leaf.plugin_kind]
        for name in names:
            if name == "auto" and leaf.default == "auto":
                continue
            try:
                spec = self.host.find(kind, name)
            except PluginError as error:
                self._refuse_choice(leaf, won, error.message, error.hint)
                continue
            if spec is None:
                message = f"there is no {kind.kind} named {name!r}"
                self._refuse_choice(leaf, won, message, "\n    ".join(self.host.advice(kind, name)))
            else:
                yield spec

    def _refuse_choice(self, leaf: LeafField, won: _Winner, message: str, hint: str) -> None:
        self.unresolved.add(leaf.section)
        place = won.origin.place if won.origin.by_user else str(won.origin)
        mistake = Mistake(leaf.key, place, message, hint)
        self.mistakes.append(mistake)
        if not won.origin.by_user:
            self.missing.append(mistake)

    # --- values ---

    def _winner(self, leaf: LeafField, quietly: bool = False) -> _Winner:
        """Who sets this value. quietly: mistakes are left for the second look, when every leaf is known."""
        if leaf.key in self.pinned:
            return _Winner(*self.pinned[leaf.key])
        won, problems = None, list[Mistake]()
        for word in self.written.get(leaf.key, []):
            if word.layer.kind != "data":
                won = self._after(leaf, won, word, problems)
        if not quietly:
            self.mistakes += problems
        return won or self._derived(leaf, use_preset=True)

    def _after(self, leaf: LeafField, before: _Winner | None, word: Word, problems: list[Mistake]) -> _Winner:
        """Who sets this value once this word is said; a word that loses later is checked too. before: by earlier
        words, or None."""
        origin, value = Origin(word.layer.kind, word.entry.place), word.entry.value
        if value == "auto" and not word.below:
            return self._handed_back(leaf, origin)
        if leaf.lists_plugins:
            listed, found = convert_elements(self.host, leaf, word.entry, self._default_format())
            problems += found
            return _Winner(self._qualified(leaf, listed), origin)
        standing = _Winner(leaf.default, Origin("default"))
        try:
            if word.below:
                standing = before or self._derived(leaf, use_preset=True)
                value = with_key(standing.value, word, leaf)
                origin = joint(origin, standing.origin) if len(value) > 1 else origin
            return _Winner(self._qualified(leaf, convert(value, leaf.info, leaf.owner)), origin)
        except ValueRefusedError as problem:
            problems.append(Mistake(word.entry.key, word.entry.place, problem.message, problem.hint))
            return standing

    def _handed_back(self, leaf: LeafField, origin: Origin) -> _Winner:
        """What `auto` means, written at this origin."""
        won = self._derived(leaf, use_preset=False)
        if won.origin.kind == "default" and _accepts_auto(leaf):
            return _Winner("auto", origin)
        return _Winner(won.value, replace(won.origin, auto=str(origin)))

    def _default_format(self) -> str:
        """Of sources that name none."""
        leaf = next(other for other in choice_fields() if other.key == "data.format")
        return str(self._winner(leaf, quietly=True).value)

    def _derived(self, leaf: LeafField, use_preset: bool) -> _Winner:
        """What holds when the user wrote nothing: data, preset, recipe, default."""
        for word in self.written.get(leaf.key, []):
            if word.layer.kind == "data":
                return _Winner(word.entry.value, Origin("data", word.entry.place))
        if use_preset and leaf.key in self.preset:
            value, origin = self.preset[leaf.key], Origin("preset", self.preset_name)
        elif leaf.key in self.recipe:
            value, origin = self.recipe[leaf.key], Origin("recipe", self.recipe_place)
        else:
            return _Winner(self._qualified(leaf, leaf.default), Origin("default"))
        try:
            return _Winner(self._qualified(leaf, convert(value, leaf.info, leaf.owner)), origin)
        except ValueRefusedError as problem:
            raise PluginError(f"the {origin} has a wrong value for {leaf.key}: {problem.message}") from problem

    def _qualified(self, leaf: LeafField, value: Any) -> Any:
        """Names of plugins as they are stored: `plugin:name` for those of third parties."""
        if not leaf.plugin_kind or value is None:
            return value
        names = [value] if isinstance(value, str) else list(value)
        full = []
        for name in names:
            try:
                spec = self.host.find(SPEC_OF_KIND[leaf.plugin_kind], name)
            except PluginError:
                spec = None
            full.append(self.host.qualified(spec) if spec else name)
        return full[0] if isinstance(value, str) else tuple(full)

    # --- keys ---

    def _place_entries(self, leaves: Mapping[str, LeafField], chosen: Sequence[Chosen]) -> None:
        """Refuse keys that do not exist, and see `a.b.c` as a word about the mapping `a.b`."""
        sections = {key.rpartition(".")[0] for key in leaves} | {pick.path for pick in chosen}
        sections |= {".".join(key.split(".")[:n]) for key in sections for n in range(1, key.count(".") + 2)}
        mappings: dict[str, LeafField] = {}
        for key in list(self.written):
            for word in self.written[key]:
                if looks_like_secret(key) and word.layer.kind != "data" and not _in_mapping(key, leaves):
                    hint = "write secrets to .env or the environment; a configuration is shown, stored and shared"
                    self.mistakes.append(Mistake(key, word.entry.place, "a secret has no place here", hint))
            if key in leaves or (looks_like_secret(key) and not _in_mapping(key, leaves)):
                continue
            if key in sections:
                self._check_section(key, sections, leaves)
            elif (leaf := _leaf_above(key, leaves)) is not None:
                mappings[leaf.key] = leaf
            else:
                self._refuse_key(key, leaves, chosen)
        for leaf in mappings.values():
            self.written[leaf.key], found = words_below(leaf, self.layers)
            self.mistakes += found
        self._check_recipe(leaves)

    def _check_section(self, key: str, sections: set[str], leaves: Mapping[str, LeafField]) -> None:
        below = [name.removeprefix(f"{key}.") for name in leaves if name.startswith(f"{key}.")]
        for word in self.written[key]:
            entry = word.entry
            if literal(entry.value) not in ("", "null", "~", None, {}, "auto"):
                hint = f"its keys: {', '.join(below)}"
                message = f"is a section, not a value; found {literal(entry.value)!r}"
                self.mistakes.append(Mistake(key, entry.place, message, hint))

    def _refuse_key(self, key: str, leaves: Mapping[str, LeafField], chosen: Sequence[Chosen]) -> None:
        words = self.written[key]
        if words[-1].entry.value == "auto" or words[-1].layer.kind == "data":
            return
        section = next((name for name in self.unresolved if key.startswith(f"{name}.")), "")
        if section and key.removeprefix(f"{section}.").count("."):
            return  # may well belong to the plugin that could not be found; that mistake comes first
        message, hint = unknown_key(self.host, key, leaves, chosen)
        for word in words:
            if word.layer.kind == "data" or self._belongs_to_a_source_left_below(key, word.layer):
                continue
            if key.startswith("data.") and self.source_of is not None and isinstance(self.source_of.value, list):
                message, hint = self._beside_a_list(key, message, hint)
            self.mistakes.append(Mistake(key, word.entry.place, message, hint))

    def _belongs_to_a_source_left_below(self, key: str, layer: Layer) -> bool:
        """A file may name a folder, and the command line or an edit other data instead: then the folder is history."""
        won = self.source_of
        if won is None or not won.origin.by_user or ORDER.index(layer.kind) >= _rank(won.origin):
            return False
        return any(key.startswith(f"{path}.") for path in self._places_of_sources())

    def _beside_a_list(self, key: str, message: str, hint: str) -> tuple[str, str]:
        assert self.source_of is not None
        if any(key.startswith(f"{path}.") for path in self._places_of_sources()):
            message = f"has no effect: data.sources lists the sources ({self.source_of.origin.place})"
            hint = "write it into an element of that list, or leave the list out"
        return message, hint

    def _places_of_sources(self) -> list[str]:
        """Where the settings of each source would stand, were it `data.source`."""
        leaf = next(other for other in choice_fields() if other.key == ONE_SOURCE)
        return [settings_path(self.host, leaf, spec) for spec in fitting(self.host, leaf)]

    def _check_recipe(self, leaves: Mapping[str, LeafField]) -> None:
        """A recipe may speak of plugins that are not chosen, not of keys that cannot exist."""
        corners = {leaf.section for leaf in choice_fields()}
        for key in self.recipe:
            corner = next((name for name in corners if key.startswith(f"{name}.")), None)
            foreign = corner is not None and "." in key.removeprefix(f"{corner}.")
            parts = isinstance(self.recipe[key], Mapping) or _in_mapping(key, leaves)
            if key not in leaves and not foreign and not parts:
                raise PluginError(f"the recipe of {self.recipe_place} sets {key}, which does not exist")

    def _validated(self, model: type[RunConfig], winners: Mapping[str, _Winner]) -> RunConfig | None:
        """The whole configuration at once: rules across the fields of one section speak here."""
        try:
            return model.model_validate(nest({key: won.value for key, won in winners.items()}))
        except ValidationError as error:
            for fault in error.errors(include_url=False):
                key = ".".join(str(part) for part in fault["loc"])
                origin = _origin_near(key, winners)
                said = str(fault.get("ctx", {}).get("error", fault["msg"]))
                # A value refused on its own was reported before, with more words.
                if not any(mistake.key and key.startswith(mistake.key) for mistake in self.mistakes):
                    self.mistakes.append(Mistake(key or "configuration", origin, said))
            return None


def _accepts_auto(leaf: LeafField) -> bool:
    if leaf.plugin_kind:
        return bool(leaf.default == "auto")
    try:
        return bool(convert("auto", leaf.info, leaf.owner) == "auto")
    except ValueRefusedError:
        return False


def _rank(origin: Origin) -> int:
    return ORDER.index(origin.kind) if origin.kind in ORDER else -1


def _in_mapping(key: str, leaves: Mapping[str, LeafField]) -> bool:
    """Whether this is a key inside a value, such as the name of a class, and no key of the configuration."""
    return key not in leaves and _leaf_above(key, leaves) is not None


def _leaf_above(key: str, leaves: Mapping[str, LeafField]) -> LeafField | None:
    parts = key.split(".")
    for length in range(len(parts) - 1, 0, -1):
        leaf = leaves.get(".".join(parts[:length]))
        if leaf is not None:
            return leaf
    return None


def _origin_near(key: str, winners: Mapping[str, _Winner]) -> str:
    """Where the value stands, or the first value below it that a user wrote."""
    won = winners.get(key)
    if won is not None:
        return won.origin.place
    below = [won.origin for name, won in winners.items() if name.startswith(f"{key}.") and won.origin.by_user]
    return below[0].place if below else ""
