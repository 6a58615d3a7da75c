"""What is wrong with a search, found before anything starts: every value is tried on the base task's configuration."""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from difflib import get_close_matches
from typing import Any

from detloom.config import ResolvedConfig, load_saved
from detloom.errors import ConfigError, DetloomError, Mistake
from detloom.host import PluginHost
from detloom_integrations.clearml.events import title_and_series
from detloom_integrations.clearml.parameters import read_edits
from detloom_integrations.clearml.space import Between, Dimension

COMBINATIONS = 60
"""So many random combinations are tried, beside every value by itself."""

_ONLY_SEEN = "experiment."


class SearchError(ConfigError):
    """All mistakes of a search at once."""

    def __init__(self, mistakes: Sequence[Mistake]) -> None:
        super().__init__(mistakes)
        count = "1 mistake" if len(mistakes) == 1 else f"{len(mistakes)} mistakes"
        lines = "\n".join(f"  {mistake}" for mistake in mistakes)
        self.message = f"{count} in the search; nothing was started:\n{lines}"


@dataclass(frozen=True, slots=True)
class Base:
    """The task that trials are cloned from, as the server has it."""

    record: Mapping[str, Any]

    @property
    def id(self) -> str:
        return str(self.record["id"])

    @property
    def name(self) -> str:
        return str(self.record.get("name") or self.id)

    @property
    def reported(self) -> list[str]:
        """Names of the scalars that it has reported, as `title/series`."""
        return [f"{curve['metric']}/{curve['variant']}" for curve in curves(self.record)]

    def resolved(self, host: PluginHost) -> ResolvedConfig:
        """The configuration that a clone without changes would run. Raises DetloomError."""
        reply = read_edits(self.record.get("hyperparams") or {}, self.record.get("configuration") or {})
        assert reply.document is not None
        return load_saved(reply.document, host).with_edits(reply.edits, reply.mistakes)


def curves(record: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    """The last, least and greatest value of every scalar of a task."""
    for variants in (record.get("last_metrics") or {}).values():
        yield from variants.values()


def checked_space(
    space: Sequence[Dimension], base: Base, resolved: ResolvedConfig, *, grid: bool
) -> tuple[list[Dimension], list[Mistake]]:
    """The space, ranges of whole numbers told apart, and what is wrong with it."""
    checked, mistakes = [], []
    for dimension in space:
        narrowed, found = _checked(dimension, base, resolved)
        if not found and grid and narrowed.size is None:
            hint = "give it a step (0..1/0.1) or list its values"
            message = f"found {narrowed.notation!r}; a grid needs a number of values"
            found = [Mistake(narrowed.key, narrowed.place, message, hint)]
        checked.append(narrowed)
        mistakes += found
    return checked, mistakes or _clashes(checked, resolved)


def _checked(dimension: Dimension, base: Base, resolved: ResolvedConfig) -> tuple[Dimension, list[Mistake]]:
    key, place = dimension.key, dimension.place
    if key.startswith(_ONLY_SEEN):
        message = "says where a run is seen, not what it does"
        return dimension, [Mistake(key, place, message, "search over data, model, training, augmentation or loss")]
    if dimension.parameter in (base.record.get("configuration") or {}):
        message = "is a configuration object of the base task, and the optimizer edits parameters only"
        return dimension, [Mistake(key, place, message, "make one base run for each of its values")]
    between = _between_whole_numbers(dimension.drawn)
    if between is not None:
        low = as_edit(dimension, str(int(between.low)))
        takes_fractions = not _refused(resolved, [as_edit(dimension, _half_above(between.low))])
        if not takes_fractions and not _refused(resolved, [low]):
            if between.log:
                message = f"found {dimension.notation!r}; this takes whole numbers, and log: draws fractions"
                return dimension, [Mistake(key, place, message, "list the values: 2,4,8,16")]
            dimension = dimension.narrowed()
    mistakes = [mistake for text in dimension.examples() for mistake in _refused(resolved, [as_edit(dimension, text)])]
    return dimension, list(dict.fromkeys(mistakes))


def as_edit(dimension: Dimension, text: str) -> tuple[str, str, str]:
    return dimension.key, text, dimension.place


def _between_whole_numbers(drawn: object) -> Between | None:
    whole = isinstance(drawn, Between) and drawn.low == int(drawn.low) and drawn.high == int(drawn.high)
    return drawn if whole and isinstance(drawn, Between) else None


def _half_above(number: Decimal) -> str:
    return f"{int(number)}.5" if number >= 0 else f"{float(number) + 0.5}"


def _refused(resolved: ResolvedConfig, edits: Sequence[tuple[str, str, str]]) -> list[Mistake]:
    """Why these edits, made together, would fail a trial."""
    try:
        resolved.with_edits(edits)
    except ConfigError as error:
        return list(error.mistakes)
    return []


def _clashes(space: Sequence[Dimension], resolved: ResolvedConfig) -> list[Mistake]:
    """Values that are right by themselves and wrong together: the first such combination."""
    rng = random.Random(0)
    for _ in range(COMBINATIONS if len(space) > 1 else 0):
        edits = [as_edit(dimension, rng.choice(dimension.examples())) for dimension in space]
        mistakes = _refused(resolved, edits)
        if mistakes:
            drawn = ", ".join(f"{key}={text}" for key, text, _ in edits)
            return [Mistake(m.key, m.place, f"{m.message} (drawn together: {drawn})", m.hint) for m in mistakes]
    return []


def objective_mistakes(objective: str, base: Base) -> list[Mistake]:
    """A scalar that the base run has not reported would never be reported by its clones."""
    reported = base.reported
    title, series = title_and_series(objective)
    if not reported or f"{title}/{series}" in reported:
        return []
    own = sorted(name for name in reported if not name.startswith((":monitor", "Summary/")))
    near = get_close_matches(objective, own, n=3, cutoff=0.5) or own[:12]
    message = f"the base run has reported no scalar {objective!r}"
    return [Mistake("--objective", "", message, f"it has reported, for example: {', '.join(near)}")]


def script_mistakes(base: Base, resolved: ResolvedConfig, paths_exist_remotely: bool) -> list[Mistake]:
    """What would fail every trial: code, packages or data that only the base run's machine has."""
    script = base.record.get("script") or {}
    found = []
    if not script.get("entry_point"):
        found.append(("it has no script that an agent could execute", "take a task that Detloom made"))
    elif not script.get("repository") and str(script.get("diff") or "").startswith("raise SystemExit("):
        found.append(("its code is in no repository that an agent could clone", "push it and run the base again"))
    lines = str((script.get("requirements") or {}).get("pip") or "").splitlines()
    remedy = "install it from an index or from git, and run the base again"
    found += [(line.removeprefix("# "), remedy) for line in lines if line.startswith("#") and "exists only in" in line]
    if not paths_exist_remotely and not _was_executed_by_agent(base):
        vouch = "name what agents reach, or vouch for it with --paths-exist-remotely"
        found += [(f"{key} names a path of its machine, {path}", vouch) for key, path in resolved.local_paths().items()]
    return [Mistake("base task", base.id, message, hint) for message, hint in found]


def _was_executed_by_agent(base: Base) -> bool:
    return bool((base.record.get("execution") or {}).get("queue")) and base.record.get("status") == "completed"


def base_configuration(base: Base, host: PluginHost) -> ResolvedConfig:
    """Raises DetloomError for a base whose own clones would fail."""
    try:
        return base.resolved(host)
    except ConfigError as error:
        raise SearchError(
            [Mistake(m.key, f"base task, {m.place}", m.message, m.hint) for m in error.mistakes]
        ) from None
    except DetloomError as error:
        raise DetloomError(f"trials cannot be made from task {base.id}: {error.message}", hint=error.hint) from error
