"""Rules across several values and plugins, checked when each value is right on its own."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from difflib import get_close_matches
from typing import TypeVar

from detloom.config.layers import Origin
from detloom.data.codes import CODES
from detloom.errors import Mistake, PluginError
from detloom.host import PluginHost
from detloom.specs import ExporterSpec, FormatSpec, LoggerSpec, LossRole, LossSpec, ModelSpec, Spec
from detloom_schemas.config import LOSS_ROLES, LossConfig, RunConfig

S = TypeVar("S", bound=Spec)


def check_rules(host: PluginHost, config: RunConfig, origins: Mapping[str, Origin]) -> list[Mistake]:
    """Every rule that this configuration breaks."""
    model = _find(host, ModelSpec, config.model.type)
    found: list[Mistake] = []
    if model is not None:
        found += _losses(host, config, model, origins)
        found += _resolution(config, model, origins)
        found += _precision(config, model, origins)
    found += _scales(config, origins)
    demanded = config.experiment.clearml.mode not in {"auto", "off"}
    if demanded and not any(spec.name == "clearml" for spec in host.specs(LoggerSpec)):
        place = _place(origins, "experiment.clearml.mode")
        hint = "install a plugin that provides it, or write off"
        found.append(Mistake("experiment.clearml.mode", place, "there is no logger named 'clearml' here", hint))
    found += _exports(host, config, origins)
    if config.data.split.val + config.data.split.test >= 1:
        message = f"val ({config.data.split.val}) and test ({config.data.split.test}) leave no images to train on"
        found.append(Mistake("data.split", _place(origins, "data.split.val", "data.split.test"), message))
    found += _allowed_codes(host, config, origins)
    return found


def _find(host: PluginHost, kind: type[S], name: str) -> S | None:
    """None also for a name that is ambiguous or refused: that is reported where it stands."""
    try:
        return host.find(kind, name)
    except PluginError:
        return None


def _exports(host: PluginHost, config: RunConfig, origins: Mapping[str, Origin]) -> Iterator[Mistake]:
    for spec in (_find(host, ExporterSpec, name) for name in config.export.format):
        if spec is not None and config.export.half and not spec.half:
            message = f"{host.qualified(spec)} files are written in 32 bits only"
            hint = "leave export.half away, or export to another format alone"
            yield Mistake("export.half", _place(origins, "export.half"), message, hint)
        if spec is not None and config.export.postprocess and not spec.finishes:
            message = f"{host.qualified(spec)} files cannot hold post-processing"
            hint = "leave export.postprocess away, or export to another format alone"
            yield Mistake("export.postprocess", _place(origins, "export.postprocess"), message, hint)


def _allowed_codes(host: PluginHost, config: RunConfig, origins: Mapping[str, Origin]) -> Iterator[Mistake]:
    """Formats of other people may have codes of their own; without such formats an unknown code is misspelt."""
    if any(host.plugin_of(spec).origin != "first-party" for spec in host.specs(FormatSpec)):
        return
    for code in config.data.allow:
        if code not in CODES:
            near = get_close_matches(code, CODES, n=1, cutoff=0.6)
            hint = f"did you mean {near[0]}?" if near else "`detloom check DATA` shows the codes of its findings"
            message = f"no finding of the data check has the code {code!r}"
            yield Mistake("data.allow", _place(origins, "data.allow"), message, hint)


def _losses(host: PluginHost, config: RunConfig, model: ModelSpec, origins: Mapping[str, Origin]) -> Iterator[Mistake]:
    for role in LOSS_ROLES:
        yield from _unused_weight(host, config, model, origins, role)
        name = getattr(config.loss, role)
        spec = _find(host, LossSpec, name) if name is not None else None
        if spec is None:
            continue
        key = f"loss.{role}"
        fitting = [host.qualified(other) for other in host.specs(LossSpec) if other.role == role]
        if spec.role != role:
            message = f"{name} is a {spec.role} loss; allowed: {', '.join(fitting) or 'none'}"
            yield Mistake(key, _place(origins, key), message)
        elif role not in model.loss_roles:
            roles = ", ".join(model.loss_roles) or "none"
            message = f"{host.qualified(model)} takes no {role} loss; it takes: {roles}"
            yield Mistake(key, _place(origins, key), message, "write auto to keep the family's own")


def _unused_weight(
    host: PluginHost, config: RunConfig, model: ModelSpec, origins: Mapping[str, Origin], role: LossRole
) -> Iterator[Mistake]:
    """A weight that somebody changed for a model without such a term. A written default stands in every saved
    configuration and harms nobody."""
    key = f"loss.{role}_weight"
    changed = getattr(config.loss, f"{role}_weight") != getattr(LossConfig(), f"{role}_weight")
    if role not in model.loss_roles and changed and origins[key].by_user:
        message = f"{host.qualified(model)} has no {role} loss whose weight this could be"
        yield Mistake(key, _place(origins, key), message, "remove the key")


def _resolution(config: RunConfig, model: ModelSpec, origins: Mapping[str, Origin]) -> Iterator[Mistake]:
    size = config.training.resolution
    sides = (size, size) if isinstance(size, int) else size
    step = model.size_divisor
    if any(side % step for side in sides) and not (model.rounds_resolution and isinstance(size, int)):
        near = [max(step, round(side / step) * step) for side in sides]
        shown = near[0] if isinstance(size, int) else near
        message = f"found {size if isinstance(size, int) else list(size)}; {model.name} takes multiples of {step}"
        yield Mistake("training.resolution", _place(origins, "training.resolution"), message, f"the nearest: {shown}")


def _precision(config: RunConfig, model: ModelSpec, origins: Mapping[str, Origin]) -> Iterator[Mistake]:
    if config.training.precision == "fp16" and not model.fp16 and not config.training.force_fp16:
        message = f"{model.name} is known to overflow in 16-bit floats: its loss becomes nan"
        hint = "write bf16 or fp32; training.force_fp16=true tries it anyway"
        yield Mistake("training.precision", _place(origins, "training.precision"), message, hint)


def _scales(config: RunConfig, origins: Mapping[str, Origin]) -> Iterator[Mistake]:
    smallest, largest = config.training.scale_min, config.training.scale_max
    if smallest is not None and largest is not None and smallest > largest:
        place = _place(origins, "training.scale_min", "training.scale_max")
        yield Mistake("training.scale_min", place, f"{smallest} is above training.scale_max ({largest})")


def _place(origins: Mapping[str, Origin], *keys: str) -> str:
    for key in keys:
        if origins[key].by_user:
            return origins[key].place
    return str(origins[keys[0]])
