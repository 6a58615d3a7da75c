# ruff: noqa: TID253
"""What is not trained, and from which epoch on it is."""

from __future__ import annotations

from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass
from fnmatch import fnmatchcase

from torch import nn

from detloom.counting import counted
from detloom.detector import Detector
from detloom.errors import ConfigError, Mistake, UsageError
from detloom_schemas.base import NEXT
from detloom_schemas.config import RunConfig


@dataclass(frozen=True, slots=True)
class Freezing:
    """thawed_at: by parameter name, the epoch (0-based) from which it is trained; None: never. Parameters that are not
    named are always trained. lines: for people, on what is frozen at the start; thaws: epochs and what they thaw."""

    thawed_at: Mapping[str, int | None]
    lines: tuple[str, ...] = ()
    thaws: tuple[tuple[int, str], ...] = ()

    def apply(self, detector: Detector, epoch: int) -> None:
        """Freeze and thaw for an epoch: a function of the epoch alone, so that a resumed run is the same run."""
        for name, parameter in detector.named_parameters():
            key = plain_name(name)
            if key in self.thawed_at and not is_adapter(name):
                since = self.thawed_at[key]
                is_trained = since is not None and epoch >= since
                parameter.requires_grad_(is_trained)
                if not is_trained:
                    parameter.grad = None

    def thaws_within(self, epochs: int) -> list[str]:
        """A line for each thaw that a run of so many epochs comes to."""
        return [f"thaws after {counted(since, 'epoch')}: {parts}" for since, parts in self.thaws if since < epochs]

    def unreached(self, epochs: int) -> list[str]:
        """A warning for each thaw that a run of so many epochs does not come to."""
        run, way = f"the run has {counted(epochs, 'epoch')}", "name an earlier epoch, or train longer (training.epochs)"
        return [
            f"training.unfreeze: epoch {since}, counted from 0, is not reached: {run}, and what it thaws ({parts}) "
            f"stays frozen; {way}"
            for since, parts in self.thaws
            if since >= epochs
        ]

    def ever_trained(self, detector: Detector) -> set[int]:
        """Ids of the parameters that are trained now or in a later epoch: what the optimizer holds."""
        later = {name for name, since in self.thawed_at.items() if since is not None}
        return {
            id(parameter)
            for name, parameter in detector.named_parameters()
            if parameter.requires_grad or (plain_name(name) in later and not is_adapter(name))
        }


NOTHING_FROZEN = Freezing({})


def untrained(detector: Detector) -> frozenset[str]:
    """Plain names of the parameters that have no gradient now."""
    return frozenset(plain_name(name) for name, p in detector.named_parameters() if not p.requires_grad)


def plain_name(name: str) -> str:
    """The name that a parameter has without adapters around it."""
    return name.replace(".base_layer.", ".")


def is_adapter(name: str) -> bool:
    return ".lora_" in name


def plan_freezing(
    detector: Detector, config: RunConfig, *, frozen: Sequence[str] = (), fixed: Set[str] = frozenset()
) -> Freezing:
    """What `model.freeze`, `model.freeze_backbone` and `training.unfreeze` ask for.

    frozen: names of parameters that are frozen already (by adapters); they too can be thawed. fixed: those that the
    family itself never trains. Raises ConfigError for names that match nothing, with what there is, for a schedule that
    thaws what is not frozen, and when nothing is left to train.
    """
    groups = {name: own - fixed for name, own in parameters_by_group(detector).items()}
    mistakes: list[Mistake] = []
    held = set(frozen) - fixed
    if config.model.freeze_backbone:
        own = [group.name for group in detector.layer_groups() if group.is_backbone]
        if not own:
            message = "this family has no layer group that is marked as backbone"
            mistakes.append(Mistake("model.freeze_backbone", "", message, f"use model.freeze; {_offer(groups)}"))
        held |= {name for group in own for name in groups[group]}
    for pattern in config.model.freeze:
        matched = _matching(pattern, groups)
        if not matched:
            mistakes.append(Mistake("model.freeze", "", f"{pattern!r} matches nothing", _offer(groups)))
        held |= matched
    thawed_at: dict[str, int | None] = dict.fromkeys(sorted(held))
    lines = [f"frozen: {_summary(held, groups)}"] if held else []
    thaws: list[tuple[int, str]] = []
    if not mistakes:
        thaws = _schedule(thawed_at, config.training.unfreeze, groups, mistakes)
    if not mistakes and held >= set().union(*groups.values()) and not _has_adapters(detector):
        mistakes.append(Mistake("model.freeze", "", "nothing is left to train at the start", "freeze less"))
    if mistakes:
        raise ConfigError(mistakes)
    return Freezing(thawed_at, tuple(lines), tuple(thaws))


def _schedule(
    thawed_at: dict[str, int | None],
    schedule: Mapping[str, Sequence[str]],
    groups: Mapping[str, set[str]],
    mistakes: list[Mistake],
) -> list[tuple[int, str]]:
    """Fill in the epochs at which parameters are thawed; returns each epoch and what it thaws, for people."""
    thaws: list[tuple[int, str]] = []

    def refuse(message: str, hint: str) -> None:
        mistakes.append(Mistake("training.unfreeze", "", message, hint))

    for epoch, patterns in schedule.items():
        for pattern in patterns:
            still = {name for name, since in thawed_at.items() if since is None}
            matched = _next_frozen(still, groups) if pattern == NEXT else _matching(pattern, groups)
            if pattern == NEXT and not matched:
                refuse(f"nothing is frozen any more that epoch {epoch} could thaw", "name fewer epochs or freeze more")
            elif not matched:
                refuse(f"{pattern!r} (epoch {epoch}) matches nothing", _offer(groups))
            elif not matched & still:
                hint = f"frozen then: {_summary(still, groups) or 'nothing'}"
                refuse(f"{pattern!r} is not frozen when epoch {epoch} should thaw it", hint)
            else:
                thawed_at.update(dict.fromkeys(matched & still, int(epoch)))
                thaws.append((int(epoch), _summary(matched & still, groups)))
    return thaws


def parameters_by_group(detector: Detector) -> dict[str, set[str]]:
    """Plain names of the parameters of each layer group, from the input to the output; adapters left out."""
    names = {id(parameter): name for name, parameter in detector.named_parameters()}
    found: dict[str, set[str]] = {}
    for group in sorted(detector.layer_groups(), key=lambda group: group.depth):
        own = {names[id(parameter)] for module in group.modules for parameter in module.parameters()}
        found.setdefault(group.name, set()).update(plain_name(name) for name in own if not is_adapter(name))
    return found


def _matching(pattern: str, groups: Mapping[str, set[str]]) -> set[str]:
    """A group's name means the group; anything else is a pattern of group or parameter names."""
    if pattern in groups:
        return set(groups[pattern])
    whole = {name for group, names in groups.items() if fnmatchcase(group, pattern) for name in names}
    return whole | {name for names in groups.values() for name in names if fnmatchcase(name, pattern)}


def _next_frozen(still: set[str], groups: Mapping[str, set[str]]) -> set[str]:
    for names in reversed(list(groups.values())):
        if names & still:
            return names & still
    return set()


def _summary(names: set[str], groups: Mapping[str, set[str]]) -> str:
    """Whole groups by their name, the rest by number."""
    whole = [group for group, own in groups.items() if own and own <= names]
    rest = len(names - set().union(*(groups[group] for group in whole), set()))
    return ", ".join([*whole, *([f"{rest} other parameters" if whole else f"{rest} parameters"] if rest else [])])


def _offer(groups: Mapping[str, set[str]]) -> str:
    example = next(iter(sorted(next(iter(groups.values()), {"body.0.weight"}))), "")
    return f"layer groups here: {', '.join(groups)}; or a pattern of parameter names such as {example!r}"


def _has_adapters(detector: Detector) -> bool:
    return any(is_adapter(name) for name, _ in detector.named_parameters())


def freeze(detector: Detector, *patterns: str) -> set[str]:
    """Stop the gradient of what the patterns name, as in `model.freeze`; returns the names of the parameters.

    Statistics of their batch norms are held by `keep_frozen_in_eval`, which the loop calls after each `train()`.
    Raises UsageError for a pattern that matches nothing.
    """
    return _require_gradient(detector, patterns, False)


def unfreeze(detector: Detector, *patterns: str) -> set[str]:
    """The way back."""
    return _require_gradient(detector, patterns, True)


def _require_gradient(detector: Detector, patterns: Sequence[str], wanted: bool) -> set[str]:
    groups = parameters_by_group(detector)
    chosen: set[str] = set()
    for pattern in patterns:
        matched = _matching(pattern, groups)
        if not matched:
            raise UsageError(f"{pattern!r} matches nothing", hint=_offer(groups))
        chosen |= matched
    for name, parameter in detector.named_parameters():
        if plain_name(name) in chosen and not is_adapter(name):
            parameter.requires_grad_(wanted)
    return chosen


def keep_frozen_in_eval(module: nn.Module) -> None:
    """Put every module whose parameters are all frozen into evaluation mode, with all that is in it: the statistics of
    its batch norms stay, and its dropout is off."""
    parameters = list(module.parameters())
    if parameters and not any(parameter.requires_grad for parameter in parameters):
        module.eval()
        return
    for child in module.children():
        keep_frozen_in_eval(child)
