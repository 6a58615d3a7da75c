# ruff: noqa: TID253
"""The parts of a training, each built from the configuration."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from detloom.counting import counted
from detloom.data.dataset import ClassMap
from detloom.detector import Detector, ElementLoss, TransferReport
from detloom.errors import CheckpointError, ConfigError, Mistake, UnreachableError, WeightsError
from detloom.files import sha256_of
from detloom.host import PluginHost, discover
from detloom.model import build_detector, build_losses, input_size
from detloom.progress import Reading, say
from detloom.specs import LossSpec, ModelSpec, WeightsFile
from detloom.train.checkpoint import BEST, read_checkpoint
from detloom.train.ema import ModelEMA, ModelSWA
from detloom.train.freezing import NOTHING_FROZEN, Freezing, plan_freezing, untrained
from detloom.train.lookahead import Lookahead
from detloom.train.loop import BatchSource, Hooks, Loop, LoopParts, LoopPlan, Stateful
from detloom.train.lora import add_adapters
from detloom.train.optimizer import build_optimizer
from detloom.train.recompute import recompute_activations
from detloom.train.scales import ScalePlan, check_sizes, scale_sizes
from detloom.train.schedule import Schedule, plan_of
from detloom.train.seeding import seed_torch
from detloom.train.siblings import Weights, load_weights
from detloom.weights import read_weights
from detloom.weights_download import arrival_of, fetch_weights
from detloom_schemas.config import LOSS_ROLES, RunConfig, TrainingConfig

if TYPE_CHECKING:
    from torch import Tensor

    from detloom.config import ResolvedConfig


def choose_device(name: str) -> torch.device:
    """`auto`: the first GPU, else the processor. Raises ConfigError for a device that is not here."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    device = torch.device(name)
    here = {
        "cpu": True,
        "cuda": torch.cuda.is_available() and (device.index or 0) < torch.cuda.device_count(),
    }
    if not here[device.type]:
        found = [f"cuda:{i}" for i in range(torch.cuda.device_count())] or ["no CUDA device"]
        raise ConfigError([Mistake("training.device", "", f"{name!r} is not here", f"found: cpu, {', '.join(found)}")])
    return device


def place(detector: Detector, device: torch.device, config: TrainingConfig) -> None:
    """To its device, its tensors in the order in memory that the training wants."""
    detector.to(device)
    if config.channels_last:
        detector.to(memory_format=torch.channels_last)  # type: ignore[call-overload]


def choose_precision(config: TrainingConfig, device: torch.device) -> torch.dtype:
    """16 bits where asked for, or bf16 where `auto` meets a GPU that has it."""
    if config.precision == "auto":
        fast = device.type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False)
        return torch.bfloat16 if fast else torch.float32
    return {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}[config.precision]


@dataclasses.dataclass(frozen=True, slots=True)
class BuiltModel:
    """losses: those it was built with, by qualified name. weights: what was loaded, copied and reset, for people;
    transfer: the same with all names, None for random weights. notes: what else was done to it, for people; warnings:
    what a person should know about it. origin: address or absolute path of the weights it began with, empty for random
    ones. freezing: what is trained when."""

    detector: Detector
    spec: ModelSpec
    losses: Mapping[str, ElementLoss] = dataclasses.field(default_factory=dict)
    weights: tuple[str, ...] = ()
    transfer: TransferReport | None = None
    notes: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()
    origin: str = ""
    freezing: Freezing = NOTHING_FROZEN


def create_model(
    resolved: ResolvedConfig, class_names: Sequence[str], host: PluginHost | None = None, *, pretrained: bool = True
) -> Detector:
    """The detector that a configuration describes, ready to be trained: weights loaded, adapters added, frozen parts
    frozen. host: None finds the plugins that are here. pretrained: false leaves the weights random.

    Raises DetloomError for whatever keeps it from being built.
    """
    return build_model(resolved, host or discover(), tuple(class_names), pretrained=pretrained).detector


def build_model(
    resolved: ResolvedConfig, host: PluginHost, class_names: tuple[str, ...], *, pretrained: bool = True
) -> BuiltModel:
    """The chosen model for the classes of the data, seeded before it is built, with its pretrained weights."""
    config = resolved.config
    spec = host.get(ModelSpec, config.model.type)
    seed_torch(config.training.seed, "weights")
    losses = build_losses(config, spec, resolved, host)
    chosen = {
        role: host.get(LossSpec, getattr(config.loss, role, None) or own) for role, own in spec.loss_roles.items()
    }
    named = {host.qualified(loss): losses[role] for role, loss in chosen.items()}
    with host.blamed(spec):
        detector = build_detector(
            spec,
            resolved.settings(spec),
            class_names,
            input_size(config.training.resolution, spec),
            losses=losses,
            loss_weights={role: getattr(config.loss, f"{role}_weight") for role in LOSS_ROLES},
            quality_targets="classification" in chosen and chosen["classification"].quality,
            validation=config.validation,
        )
    scales = _scales(detector, spec, config.training)
    # A resumed run takes its weights from its state: the file they once came from may be gone.
    begun = _load_weights(detector, spec, resolved, host) if pretrained else _Begun()
    notes: list[str] = []
    warnings = list(begun.warnings)
    side, wanted = detector.input_rule.size[0], config.training.resolution
    if isinstance(wanted, int) and side != wanted:
        warnings.append(f"{spec.name} takes multiples of {spec.size_divisor} pixels: {wanted} becomes {side}")
    if scales is not None and len(scales.sizes) == 1:
        limits = f"training.scale_min and training.scale_max leave no other multiple of {spec.size_divisor} pixels"
        warnings.append(f"training.multi_scale changes nothing: {limits}")
    freezing = _prepare(detector, config, notes, host.qualified(spec))
    return BuiltModel(
        detector, spec, named, begun.lines, begun.transfer, tuple(notes), tuple(warnings), begun.origin, freezing
    )


def _prepare(detector: Detector, config: RunConfig, notes: list[str], model: str) -> Freezing:
    """Adapters, frozen parts and recomputed activations, in this order."""
    frozen: list[str] = []
    fixed = untrained(detector)
    if config.model.lora.rank:
        seed_torch(config.training.seed, "adapters")
        frozen, line = add_adapters(detector, config.model.lora)
        notes.append(line)
    freezing = plan_freezing(detector, config, frozen=frozen, fixed=fixed)
    notes.extend(freezing.lines)
    freezing.apply(detector, 0)
    if config.training.gradient_checkpointing:
        count = recompute_activations(detector, model)
        notes.append(f"activations of {counted(count, 'part')} are computed again in the backward pass")
    return freezing


@dataclasses.dataclass(frozen=True, slots=True)
class LoopNeeds:
    """What a loop is built around. keep_warmup: the user wrote the warm-up's length."""

    loader: BatchSource
    plan: LoopPlan
    hooks: Hooks
    device: torch.device
    precision: torch.dtype
    keep_warmup: bool = False
    plugins: Mapping[str, Stateful] = dataclasses.field(default_factory=dict)


def build_loop(model: BuiltModel, config: TrainingConfig, needs: LoopNeeds) -> Loop:
    """The loop of a training with everything that the configuration asks for. The detector is on its device."""
    detector, plan = model.detector, needs.plan
    trained = model.freezing.ever_trained(detector)
    optimizer = build_optimizer(detector, config, trained)
    schedule = plan_of(config, plan.total_steps, plan.steps_per_epoch, keep_warmup=needs.keep_warmup)
    parts = LoopParts(
        swa=ModelSWA(detector) if config.use_swa else None,
        lookahead=Lookahead(detector, trained, config.lookahead_steps, config.lookahead_alpha)
        if config.use_lookahead
        else None,
        # Losses are sums over a batch: a smaller first scale than torch's saves the first steps from overflow.
        scaler=torch.amp.GradScaler(needs.device.type, init_scale=2.0**12)
        if needs.precision == torch.float16
        else None,
        freezing=model.freezing,
        scales=_scales(detector, model.spec, config),
    )
    return Loop(
        detector,
        optimizer,
        Schedule(optimizer, schedule),
        ModelEMA(detector, config.ema_decay, config.ema_warmup_steps) if config.use_ema else None,
        needs.loader,
        config,
        plan,
        needs.hooks,
        device=needs.device,
        precision=needs.precision,
        parts=parts,
        plugins=needs.plugins,
    )


def _scales(detector: Detector, spec: ModelSpec, config: TrainingConfig) -> ScalePlan | None:
    """Raises ConfigError when the detector cannot be trained at one of the sizes."""
    if not config.multi_scale:
        return None
    sizes = scale_sizes(detector.input_rule.size, spec.size_divisor, config.scale_min, config.scale_max)
    check_sizes(detector, sizes)
    return ScalePlan(sizes, config.seed)


def find_weights(wanted: str, spec: ModelSpec) -> tuple[Path | None, WeightsFile | None, list[str]]:
    """The file that `model.pretrain_weights` means, its description where it is an official one, and warnings.

    Of several official files the first is what `official` means; each can be named. Raises UnreachableError when
    official weights were asked for and cannot be had; ConfigError for a path that is not there.
    """
    if wanted == "none":
        return None, None, ["the model starts from random weights: it needs many more epochs and images"]
    if wanted in {"auto", "official"}:
        if not spec.weights:
            if wanted == "auto":
                return None, None, [f"{spec.name} has no published weights: it starts from random weights"]
            raise ConfigError(
                [Mistake("model.pretrain_weights", "", f"{spec.name} has no published weights", "use a file or none")]
            )
        try:
            return _fetched(spec.weights[0]), spec.weights[0], []
        except UnreachableError as error:
            if wanted == "official":
                raise
            warning = (
                f"RANDOM WEIGHTS: the published weights of {spec.name} could not be had ({error.message}); "
                "results will be far below a fine-tuned model. Give a file with --weights, or --weights official to "
                "stop instead"
            )
            return None, None, [warning]
    path = Path(wanted).expanduser()
    if (path / "checkpoints").is_dir():  # a run's folder
        path = path / "checkpoints" / BEST
    known = next((file for file in spec.weights if path.name in {file.name, Path(file.name).stem}), None)
    if path.is_file():
        return path, known, []
    if known is not None:
        return _fetched(known), known, []
    others = "".join(f", {Path(file.name).stem}" for file in spec.weights[1:])
    hint = f"give a file, `official`, `auto` or `none`{others}"
    raise ConfigError([Mistake("model.pretrain_weights", "", f"there is no file {wanted}", hint)])


def _fetched(file: WeightsFile) -> Path:
    """The file on this machine. Whoever downloads it reads first under which licence."""
    with Reading(f"downloading {file.name}") as reading:
        return fetch_weights(
            file,
            progress=lambda done, total: reading.update(done, total or done),
            announce=lambda: say(f"weights  {file.url}, licence {file.licence}"),
        )


def weights_facts(path: Path, official: WeightsFile | None) -> list[str]:
    """Lines for the record of a run: which content the weights had, and where it came from."""
    lines = [f"  SHA-256 of the file: {sha256_of(path)}"]
    if official is not None:
        if revision := arrival_of(path).revision:
            lines.append(f"  revision: {revision}")
        lines.append(f"  licence of the weights: {official.licence}")
    return lines


@dataclasses.dataclass(frozen=True, slots=True)
class _Begun:
    """What a model begins with, as BuiltModel has it."""

    lines: tuple[str, ...] = ()
    transfer: TransferReport | None = None
    warnings: Sequence[str] = ()
    origin: str = ""


def _load_weights(detector: Detector, spec: ModelSpec, resolved: ResolvedConfig, host: PluginHost) -> _Begun:
    model = resolved.config.model
    path, official, warnings = find_weights(model.pretrain_weights, spec)
    if path is None:
        return _Begun(warnings=warnings)
    tensors, names = _read(path, official or next(iter(spec.weights), None))
    report = load_weights(detector, spec, Weights(tensors, names, str(path)), host)
    if model.strict_weights and (report.mismatched or report.missing or report.unexpected):
        raise WeightsError(
            f"model.strict_weights: {path} does not fit {spec.name} exactly",
            hint="\n  ".join([*report.lines(), "leave model.strict_weights off to go on with what fits"]),
        )
    notes = [*report.lines(), *weights_facts(path, official)]
    origin = official.url if official is not None else str(path.absolute())
    return _Begun(tuple(notes), report, warnings, origin)


def _read(path: Path, like: WeightsFile | None) -> tuple[Mapping[str, Tensor], tuple[str, ...]]:
    """Tensors of a file and the class names of its head: a checkpoint says them itself; a plain file is taken to hold
    the classes of the family's published weights (the family compares their number with the head's rows)."""
    try:
        payload = read_checkpoint(path)
    except CheckpointError:
        return read_weights(path), like.class_names if like is not None else ()
    return payload["weights"], ClassMap.from_list(payload["model"]["classes"]).names
