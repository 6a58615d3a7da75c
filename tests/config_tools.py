"""A host with small plugins whose every value is known, for tests of the configuration."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from types import ModuleType
from typing import Annotated, Any

from pydantic import Field, model_validator

from detloom.config import ResolvedConfig, mapping_layer, resolve, text_layer
from detloom.config.layers import Layer
from detloom.discovery import Candidate, Origin
from detloom.errors import ConfigError, Mistake
from detloom.hookspecs import hookimpl
from detloom.host import PluginHost
from detloom.specs import (
    AugmentationSpec,
    ExporterSpec,
    FormatSpec,
    LoggerSpec,
    LossSpec,
    ModelSpec,
    SourceSpec,
    Spec,
)
from detloom_schemas.base import Probability, Settings


class Flip(Settings):
    """Flip."""

    prob: Annotated[Probability, Field(description="share of the samples")] = 0.5


class Window(Settings):
    """Two numbers that must agree, and a table."""

    low: Annotated[float, Field(description="lower end")] = 0.0
    high: Annotated[float, Field(description="upper end")] = 1.0
    table: Annotated[dict[str, int], Field(description="free keys")] = {}  # noqa: RUF012

    @model_validator(mode="after")
    def _ordered(self) -> Window:
        if self.low > self.high:
            raise ValueError(f"low ({self.low}) is above high ({self.high})")
        return self


class Net(Settings):
    """Network."""

    width: Annotated[float, Field(gt=0, description="channels relative to the full family")] = 1.0
    depth: Annotated[int, Field(ge=1, description="layers")] = 3


class Focal(Settings):
    """Focal loss."""

    gamma: Annotated[float, Field(ge=0, description="how much easy examples are damped")] = 2.0
    alpha: Annotated[float, Field(ge=0, le=1, description="weight of positives")] = 0.25


class Local(Settings):
    """A folder."""

    path: Annotated[str, Field(description="folder")] = ""


def nothing(*arguments: object) -> Any:
    raise AssertionError("nothing is built here")


def candidate(name: str, origin: Origin, hook: str, specs: Sequence[Spec]) -> Candidate:
    module = ModuleType(name)
    module.detloom_api = (0, 1)  # type: ignore[attr-defined]
    setattr(module, hook, hookimpl(lambda: specs))
    return Candidate(name, "detloom" if origin == "first-party" else name, "1", origin, lambda: module)


def model(name: str, width: float, **recipe: object) -> ModelSpec:
    return ModelSpec(
        name=name,
        family="yolox",
        summary="a model",
        licence="MIT",
        build=nothing,
        settings=lambda: Net(width=width),
        loss_roles={"classification": "bce", "box": "ciou"},
        recipe=recipe,
    )


def own(kind: type[Any], names: Sequence[str], settings: Callable[[], Settings] = Settings, **more: Any) -> list[Any]:
    return [kind(name=name, summary="s", build=nothing, settings=settings, **more) for name in names]


def small_host(*others: Candidate) -> PluginHost:
    """First-party plugins under the names that the defaults want, and `others`."""
    nano = model(
        "yolox-nano",
        0.25,
        **{"training.lr": 0.02, "training.resolution": 416, "augmentation.flip.prob": 0.9, "training.ema_decay": 0.5},
    )
    large = model("yolox-l", 1.0, **{"training.lr": 0.005, "augmentation.transforms": ["window"]})
    losses = own(LossSpec, ["focal"], Focal, role="classification") + own(LossSpec, ["bce"], role="classification")
    window = own(AugmentationSpec, ["window", "copy-paste"], Window)
    kinds: dict[str, list[Spec]] = {
        "detloom_models": [nano, large],
        "detloom_losses": [*losses, *own(LossSpec, ["ciou", "giou"], role="box")],
        "detloom_augmentations": [*own(AugmentationSpec, ["hflip", "flip"], Flip), *window],
        "detloom_sources": own(SourceSpec, ["local"], Local),
        "detloom_formats": own(FormatSpec, ["coco"]),
        "detloom_exporters": own(ExporterSpec, ["onnx"], suffix=".onnx", runtime="onnxruntime"),
        "detloom_loggers": own(LoggerSpec, ["console", "jsonl", "tensorboard"]),
    }
    ours = [candidate(hook.removeprefix("detloom_"), "first-party", hook, specs) for hook, specs in kinds.items()]
    return PluginHost([*ours, *others])


def third_party(name: str = "mine") -> Candidate:
    """A package of somebody else with an augmentation of its own and one that clashes."""
    return candidate(name, "entry point", "detloom_augmentations", own(AugmentationSpec, ["flip", "swirl"], Flip))


def written(values: dict[str, Any], place: str = "run.yaml") -> Layer:
    return mapping_layer(values, "file", place)


def typed(*settings: str) -> Layer:
    return text_layer((*setting.split("=", 1), "--set") for setting in settings)  # type: ignore[misc]


def resolved(*layers: Layer, host: PluginHost | None = None) -> ResolvedConfig:
    return resolve(host or small_host(), layers)


def mistakes(*layers: Layer, host: PluginHost | None = None) -> dict[str, Mistake]:
    """Key to mistake of a configuration that must be refused."""
    try:
        resolved(*layers, host=host)
    except ConfigError as error:
        return {mistake.key: mistake for mistake in error.mistakes}
    raise AssertionError("this configuration was accepted")
