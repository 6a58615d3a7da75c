"""The plugin host: finds plugins, keeps broken ones apart, and answers "which model is called yolox-nano?".

First-party plugins are the modules directly below `detloom_plugins/<kind>/`, named `<kind>.<module>`; everybody
else's come from the entry-point group `detloom`. A plugin counts as a whole: when anything in it fails, none of its
parts is used, and it is listed with the reason. Light: nothing heavy is imported here or in the front of a plugin.
"""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from types import FunctionType, ModuleType
from typing import Any, Literal, TypeVar

import pluggy

from detloom import hookspecs
from detloom.counting import plural
from detloom.discovery import Candidate, Origin, entry_point_candidates, first_party_candidates
from detloom.errors import DetloomError, PluginError
from detloom.specs import API_VERSION, SPEC_TYPES, ModelSpec, Spec

S = TypeVar("S", bound=Spec)
Status = Literal["ok", "broken", "blocked"]

BLOCK_VARIABLE = "DETLOOM_BLOCK_PLUGINS"
OBSERVERS = (
    "run_started",
    "epoch_started",
    "validation_finished",
    "epoch_finished",
    "checkpoint_saved",
    "run_finished",
)
HOOKS = tuple(kind.hook for kind in SPEC_TYPES) + tuple(f"detloom_{name}" for name in OBSERVERS)
_SPEC_NAME = re.compile(r"[a-z0-9][a-z0-9_-]*")
_PLUGIN_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")


@dataclass(frozen=True, slots=True)
class PluginInfo:
    """What `detloom plugins list` shows. provides: kind to names of its specs; hooks: the hooks it implements."""

    name: str
    distribution: str
    version: str
    origin: Origin
    status: Status
    reason: str = ""
    provides: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    hooks: tuple[str, ...] = ()

    @property
    def label(self) -> str:
        """`my-plugin (my-distribution 1.2)`."""
        return f"{self.name} ({self.distribution} {self.version})"


class _RefusedError(Exception):
    """Why a plugin is left out: one sentence for its author or its user."""


@dataclass(frozen=True, slots=True, eq=False)
class _Entry:
    """One spec and the plugin that gave it."""

    spec: Spec
    plugin: str
    first_party: bool


class _Manager(pluggy.PluginManager):
    """Looks at functions alone: pluggy's careful look at every name of a module takes longer than its import."""

    def parse_hookimpl_opts(self, plugin: object, name: str) -> pluggy.HookimplOpts | None:
        value = vars(plugin).get(name) if isinstance(plugin, ModuleType) else None
        skipped = isinstance(plugin, ModuleType) and not isinstance(value, FunctionType)
        return None if skipped else super().parse_hookimpl_opts(plugin, name)


class PluginHost:
    """The loaded plugins. Built once by `discover` and handed on; it never changes afterwards."""

    def __init__(self, candidates: Iterable[Candidate], block: Sequence[str] = ()) -> None:
        self._manager = _Manager("detloom")
        self._manager.add_hookspecs(hookspecs)
        self._entries: dict[type[Spec], list[_Entry]] = {kind: [] for kind in SPEC_TYPES}
        self._infos: dict[str, PluginInfo] = {}
        self._clashes: list[PluginInfo] = []
        for candidate in candidates:
            self._admit(candidate, block)

    # --- what is there ---

    @property
    def plugins(self) -> list[PluginInfo]:
        """Every plugin that was found, also broken and blocked ones; first-party first, then by name."""
        found = [*self._infos.values(), *self._clashes]
        return sorted(found, key=lambda info: (info.origin != "first-party", info.name))

    def specs(self, kind: type[S]) -> list[S]:
        """All specs of a kind: first-party ones first."""
        ordered = sorted(self._entries[kind], key=lambda entry: not entry.first_party)
        return [entry.spec for entry in ordered if isinstance(entry.spec, kind)]

    def find(self, kind: type[S], name: str) -> S | None:
        """Like `get`, but None when there is no such spec. Raises PluginError when the name is ambiguous, or refused by
        a plugin that knows it."""
        found = self._matches(kind, name)
        if len(found) > 1:
            choices = ", ".join(f"{entry.plugin}:{entry.spec.name}" for entry in found)
            raise PluginError(
                f"{len(found)} plugins provide a {kind.kind} named {name!r}", hint=f"write one of: {choices}"
            )
        spec = found[0].spec if found else None
        if spec is None:
            self._refuse(kind, name)
        return spec if isinstance(spec, kind) else None

    def get(self, kind: type[S], name: str) -> S:
        """The spec called `name` or `plugin:name`; a first-party one owns the bare name.

        Raises PluginError: says what exists, what was probably meant, and which plugins are broken and why.
        """
        spec = self.find(kind, name)
        if spec is None:
            raise PluginError(f"there is no {kind.kind} named {name!r}", hint="\n  ".join(self.advice(kind, name)))
        return spec

    def advice(self, kind: type[Spec], name: str) -> list[str]:
        """Sentences that help somebody who asked for a spec that is not there."""
        names = [self.qualified(spec) for spec in self.specs(kind)]
        lines, folder = [], kind.hook.removeprefix("detloom_")
        near = _close(name, names)
        if near:
            lines.append(f"did you mean {' or '.join(near)}?")
        lines.append(f"{plural(kind.kind, 2)} here: {', '.join(names) or 'none'}")
        for info in self.plugins:
            if info.status == "broken":
                lines.append(f"plugin {info.label} was left out: {info.reason}")
            elif info.status == "blocked" and (info.origin != "first-party" or info.name.startswith(f"{folder}.")):
                lines.append(f"plugin {info.name} is blocked")
        return lines

    def qualified(self, spec: Spec) -> str:
        """The name to store: bare for first-party specs, `plugin:name` for others."""
        entry = self._entry_of(spec)
        return spec.name if entry.first_party else f"{entry.plugin}:{spec.name}"

    def plugin_of(self, spec: Spec) -> PluginInfo:
        """The plugin that gave this spec."""
        return self._infos[self._entry_of(spec).plugin]

    @contextlib.contextmanager
    def blamed(self, spec: Spec) -> Iterator[None]:
        """Around calls into a plugin: a fault of its code becomes a PluginError that names it. What it says on purpose
        (a DetloomError) passes."""
        try:
            yield
        except DetloomError:
            raise
        except Exception as error:
            raise PluginError(
                f"the {spec.kind} {self.qualified(spec)} failed: {describe(error)[:500]}",
                hint=f"report this to the author of {self.plugin_of(spec).label}; --debug shows where it happened",
            ) from error

    # --- observers ---

    def notify(self, name: str, event: object) -> None:
        """Tell every observer of `name` (`epoch_finished`). An observer that raises is logged; the run goes on."""
        if name not in OBSERVERS:
            raise ValueError(f"no observer is called {name!r}; there are {', '.join(OBSERVERS)}")
        hook = f"detloom_{name}"
        for info in self.plugins:
            if info.status != "ok" or hook not in info.hooks:
                continue
            try:
                self._only(hook, info.name)(event=event)
            except Exception as error:
                _warn(f"plugin {info.label} failed in {hook} and was ignored: {describe(error)}", error)

    # --- admission ---

    def _admit(self, candidate: Candidate, block: Sequence[str]) -> None:
        """Load one plugin whole, or note why not."""
        taken = self._infos.get(candidate.name)
        if taken is not None:
            reason = f"the name {candidate.name!r} is taken by {taken.distribution} {taken.version}"
            self._clashes.append(_info(candidate, "broken", reason))
            return
        if any(fnmatchcase(candidate.name, pattern) for pattern in block):
            self._infos[candidate.name] = _info(candidate, "blocked", "blocked on request")
            return
        try:
            if not _PLUGIN_NAME.fullmatch(candidate.name):
                raise _RefusedError("a plugin's name may hold letters, digits, dot, - and _ only")
            plugin = candidate.load()
            _check_api(plugin)
            hooks = self._register(plugin, candidate.name)
            specs = self._collect(candidate, hooks)
        except (Exception, SystemExit) as error:  # a plugin may fail in any way; the command line must not
            if self._manager.has_plugin(candidate.name):
                self._manager.unregister(name=candidate.name)
            reason = str(error) if isinstance(error, _RefusedError) else describe(error)
            self._infos[candidate.name] = _info(candidate, "broken", reason)
            return
        first_party = candidate.origin == "first-party"
        provides: dict[str, tuple[str, ...]] = {}
        for kind, members in specs.items():
            self._entries[kind] += [_Entry(spec, candidate.name, first_party) for spec in members]
            if members:
                provides[kind.kind] = tuple(spec.name for spec in members)
        self._infos[candidate.name] = PluginInfo(
            candidate.name, candidate.distribution, candidate.version, candidate.origin, "ok", "", provides, hooks
        )

    def _register(self, plugin: object, name: str) -> tuple[str, ...]:
        """Give the plugin to pluggy after looking at its hooks. Returns the hooks that it implements."""
        for attribute in dir(plugin):
            options = self._manager.parse_hookimpl_opts(plugin, attribute)
            if options is None:
                if attribute in HOOKS and callable(getattr(plugin, attribute)):
                    raise _RefusedError(f"{attribute} is not marked with @hookimpl, so it would never be called")
                continue
            _check_hook(options.get("specname") or attribute, options)
        self._manager.register(plugin, name)
        callers = self._manager.get_hookcallers(plugin) or []
        return tuple(hook for hook in HOOKS if any(caller.name == hook for caller in callers))

    def _collect(self, candidate: Candidate, hooks: tuple[str, ...]) -> dict[type[Spec], list[Spec]]:
        """Ask the plugin, alone, for all its specs."""
        collected: dict[type[Spec], list[Spec]] = {}
        for kind in SPEC_TYPES:
            if kind.hook not in hooks:
                continue
            members: list[Spec] = []
            for answer in self._only(kind.hook, candidate.name)():
                members += _checked(answer, kind)
            self._refuse_duplicates(candidate, kind, members)
            collected[kind] = members
        return collected

    def _refuse_duplicates(self, candidate: Candidate, kind: type[Spec], members: list[Spec]) -> None:
        names = [spec.name for spec in members]
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise _RefusedError(f"{kind.hook} gives the name {twice[0]!r} twice")
        if candidate.origin != "first-party":
            return
        owners = {entry.spec.name: entry.plugin for entry in self._entries[kind] if entry.first_party}
        for name in names:
            if name in owners:
                raise _RefusedError(f"the {kind.kind} {name!r} is already provided by {owners[name]}")

    def _only(self, hook: str, plugin_name: str) -> pluggy.HookCaller:
        """A caller of `hook` that reaches one plugin alone."""
        others = [plugin for name, plugin in self._manager.list_name_plugin() if name != plugin_name and plugin]
        return self._manager.subset_hook_caller(hook, others)

    def _matches(self, kind: type[Spec], name: str) -> list[_Entry]:
        plugin, colon, bare = name.rpartition(":")
        if colon:
            return [entry for entry in self._entries[kind] if entry.plugin == plugin and entry.spec.name == bare]
        found = [entry for entry in self._entries[kind] if entry.spec.name == name]
        found = found or [entry for entry in self._entries[kind] if name in getattr(entry.spec, "aliases", ())]
        return [entry for entry in found if entry.first_party] or found

    def _refuse(self, kind: type[Spec], name: str) -> None:
        for entry in self._entries[kind]:
            if isinstance(entry.spec, ModelSpec) and (reason := entry.spec.refused(name)):
                others = [spec for spec in self.specs(kind) if spec.settings_key == entry.spec.settings_key]
                names = ", ".join(self.qualified(spec) for spec in others)
                raise PluginError(reason, hint=f"{kind.kind}s of this family: {names}")

    def _entry_of(self, spec: Spec) -> _Entry:
        for entries in self._entries.values():
            for entry in entries:
                if entry.spec is spec:
                    return entry
        raise PluginError(f"the {spec.kind} {spec.name!r} does not belong to a loaded plugin")


def discover(block: Sequence[str] = (), kinds: Sequence[str] | None = None) -> PluginHost:
    """Find and load every plugin on this machine.

    kinds: folders of first-party plugins to look into (`commands`); all when None. block: patterns of plugin names to
    leave out (`losses.*`), beside those in the environment variable DETLOOM_BLOCK_PLUGINS (separated by commas).
    Never raises because of a plugin.
    """
    named = [part.strip() for part in os.environ.get(BLOCK_VARIABLE, "").split(",")]
    patterns = [*block, *(part for part in named if part)]
    host = PluginHost([*first_party_candidates(kinds), *entry_point_candidates()], patterns)
    for pattern in patterns if kinds is None else ():
        if not any(fnmatchcase(info.name, pattern) for info in host.plugins):
            _warn(f"no plugin matches the blocked pattern {pattern!r}")
    return host


def describe(error: BaseException) -> str:
    """`ModuleNotFoundError: No module named 'x'`, on one line."""
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


def _warn(message: str, error: Exception | None = None) -> None:
    # Imported here, like difflib below: a machine without faults does not pay for them.
    import logging

    logging.getLogger("detloom").warning("%s", message, exc_info=error)


def _close(name: str, names: Sequence[str]) -> list[str]:
    from difflib import get_close_matches

    return get_close_matches(name, names, n=3, cutoff=0.6)


def _info(candidate: Candidate, status: Status, reason: str) -> PluginInfo:
    return PluginInfo(candidate.name, candidate.distribution, candidate.version, candidate.origin, status, reason)


def _check_api(plugin: object) -> None:
    """The rule of the contract: same major version, and no newer minor than ours."""
    stated = getattr(plugin, "detloom_api", None)
    ours = ".".join(map(str, API_VERSION))
    if stated is None:
        raise _RefusedError(f"it does not state the plugin API it was written for: add `detloom_api = {API_VERSION}`")
    numbers = isinstance(stated, tuple) and len(stated) == 2 and all(type(part) is int for part in stated)
    if not numbers:
        raise _RefusedError(f"detloom_api is {stated!r}; it must be two numbers, such as {API_VERSION}")
    theirs = ".".join(map(str, stated))
    if stated[0] != API_VERSION[0]:
        raise _RefusedError(f"it was written for plugin API {theirs}; this Detloom has {ours}, another major version")
    if stated[1] > API_VERSION[1]:
        raise _RefusedError(f"it needs plugin API {theirs}; this Detloom has the older {ours}: upgrade detloom")


def _check_hook(name: str, options: Mapping[str, Any]) -> None:
    if name not in HOOKS:
        near = _close(name, HOOKS)
        meant = f"did you mean {near[0]}?" if near else f"the hooks are {', '.join(HOOKS)}"
        raise _RefusedError(f"there is no hook {name}; {meant}")
    if options.get("wrapper") or options.get("hookwrapper"):
        raise _RefusedError(f"{name} is a wrapper; a plugin may not wrap the hooks of others")


def _checked(answer: object, kind: type[S]) -> list[S]:
    """The specs of one answer of a registration hook. An exception inside a generator surfaces here."""
    if not isinstance(answer, Iterable):
        raise _RefusedError(f"{kind.hook} returned {type(answer).__name__}; it must return {kind.__name__} objects")
    members: list[S] = []
    for spec in answer:
        if not isinstance(spec, kind):
            raise _RefusedError(f"{kind.hook} gave {spec!r:.80}; it must give {kind.__name__} objects")
        keys = [spec.name, spec.family] if isinstance(spec, ModelSpec) else [spec.name]
        for key in keys:
            if not isinstance(key, str) or not _SPEC_NAME.fullmatch(key):
                raise _RefusedError(f"{kind.hook}: {key!r} is no name: lower case letters, digits, - and _ only")
        if not callable(spec.settings):
            # Importing `from .settings import X` sets `settings` in the package: a function of that name is gone.
            raise _RefusedError(f"`settings` of {spec.name} is a {type(spec.settings).__name__}, not a function")
        members.append(spec)
    return members
