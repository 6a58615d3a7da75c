"""What a plugin hands over: frozen descriptions, cheap to create and to list.

`settings` is a function without arguments that returns an instance of the plugin's own pydantic settings
(a `detloom_schemas.Settings`): one settings class serves many variants, and listing plugins imports no
pydantic. `build` does its heavy imports inside. Nothing in this module imports torch, numpy or pydantic.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Protocol, runtime_checkable

if TYPE_CHECKING:
    import argparse

    import numpy as np

    from detloom.data.dataset import Dataset
    from detloom.data.records import ClassRecord, DataTree, Finding, ImageRecord, Sniff, SourcePlan
    from detloom.detector import Detector, ElementLoss
    from detloom.errors import Mistake
    from detloom.geometry import PostRule
    from detloom.host import PluginHost
    from detloom.prediction import Runtime
    from detloom.sample import Sample
    from detloom_schemas.base import Settings

API_VERSION = (0, 1)
"""Major and minor version of the plugin contract. A plugin states the one it was written for."""

QUALITY_FLOOR = 1e-6
"""Smallest target of a matched object for a loss that learns overlaps: 0 means that nothing is there."""

LossRole = Literal["classification", "box", "distribution", "mask", "distillation"]


def no_settings() -> Settings:
    """The settings of a plugin that has none."""
    from detloom_schemas.base import Settings

    return Settings()


def nothing_refused(name: str) -> str:
    """Of a family of which nothing is known that cannot be had."""
    del name
    return ""


@dataclass(frozen=True, kw_only=True, eq=False)
class Spec:
    """name: unique within its kind; lower case letters, digits, `-` and `_`. summary: one line.

    Specs are equal when they are the same object: functions and mappings have no other equality, and a generated one
    would cost a tenth of the time of `detloom --help`.
    """

    kind: ClassVar[str] = ""
    hook: ClassVar[str] = ""

    name: str
    summary: str
    settings: Callable[[], Settings] = no_settings

    @property
    def settings_key(self) -> str:
        """Where the settings stand in their section: `augmentation.<settings_key>`."""
        return self.name


@dataclass(frozen=True, slots=True)
class WeightsFile:
    """An official weights file: where it is, what it must hash to, whose licence it carries.

    class_names: the names of the classes in the order of the head's rows.
    """

    name: str
    url: str
    licence: str
    class_names: tuple[str, ...]
    sha256: str = ""


@dataclass(frozen=True, slots=True)
class ModelContext:
    """What a model is built for. class_names in the order of class indices; size: network input (height, width)
    in pixels; losses: built loss terms by role, as chosen in the `loss` section; loss_weights by role.
    quality_targets: the loss of class scores wants overlaps as targets (LossSpec.quality)."""

    class_names: tuple[str, ...]
    size: tuple[int, int]
    losses: Mapping[str, ElementLoss] = field(default_factory=dict)
    loss_weights: Mapping[str, float] = field(default_factory=dict)
    quality_targets: bool = False


@dataclass(frozen=True, kw_only=True, eq=False)
class ModelSpec(Spec):
    """A detector: one variant of a family, named `family-variant`.

    recipe: dotted configuration keys and the values that this family trains well with (used wherever the user
    wrote nothing or `auto`). weights: official files, the first is the default; empty when there are none.
    loss_roles: the roles this family takes, each with the loss that its recipe means.
    size_divisor: height and width of the network input must be multiples of it. rounds_resolution: one number that is
    none means the nearest (for divisors that nobody knows by heart); a pair must always fit. fp16: it can be trained in
    16-bit floats; false for families that are known to overflow in them. aliases: other names for it, where no model is
    called so. refused: why a name that people ask this family for cannot be had, empty for any other name; one function
    serves all variants.
    """

    kind: ClassVar[str] = "model"
    hook: ClassVar[str] = "detloom_models"

    family: str
    licence: str
    build: Callable[[Any, ModelContext], Detector]
    recipe: Mapping[str, object] = field(default_factory=dict)
    weights: tuple[WeightsFile, ...] = ()
    loss_roles: Mapping[LossRole, str] = field(default_factory=dict)
    size_divisor: int = 32
    rounds_resolution: bool = False
    masks: bool = False
    prompts: bool = False
    fp16: bool = True
    aliases: tuple[str, ...] = ()
    refused: Callable[[str], str] = nothing_refused

    @property
    def settings_key(self) -> str:
        return self.family


@runtime_checkable
class Source(Protocol):
    """Where bytes come from. A source never parses annotations."""

    def plan(self) -> SourcePlan:
        """Identity, revision and sizes; downloads nothing. Raises DataError or UnreachableError."""
        ...

    def fetch(self, plan: SourcePlan, dest: Path, context: FetchContext) -> DataTree:
        """Bring the data to this machine: into `dest` (atomically) or, for local data, where it already is."""
        ...


@dataclass(frozen=True, slots=True)
class FetchContext:
    """deadline_s: seconds for the whole fetch. progress(done_bytes, total_bytes). cancelled(): stop when true."""

    deadline_s: float = 3600.0
    progress: Callable[[int, int], None] = lambda done, total: None
    cancelled: Callable[[], bool] = lambda: False


@dataclass(frozen=True, kw_only=True, eq=False)
class SourceSpec(Spec):
    """A place that data is fetched from; its settings sit at `data.<name>`."""

    kind: ClassVar[str] = "source"
    hook: ClassVar[str] = "detloom_sources"

    build: Callable[[Any], Source]


@runtime_checkable
class Format(Protocol):
    """How annotations are written."""

    def sniff(self, tree: DataTree) -> Sniff:
        """How sure this format is that it can read the tree, and why."""
        ...

    def read(self, tree: DataTree) -> Iterator[ClassRecord | ImageRecord | Finding]:
        """Stream what the tree holds. Faults are yielded as findings, not raised; a class comes before the first image
        that uses it."""
        ...


@runtime_checkable
class WritableFormat(Format, Protocol):
    """May also have `losses(dataset) -> Sequence[Finding]`: what of this dataset the format cannot carry, with
    counts."""

    def write(self, dataset: Dataset, dest: Path, copy_images: bool = False) -> Sequence[Path]:
        """Write the dataset below `dest`, images as links where possible or as copies; returns the annotation
        files."""
        ...


@dataclass(frozen=True, kw_only=True, eq=False)
class FormatSpec(Spec):
    """A format of annotations, found by `sniff` or named in `data.format`."""

    kind: ClassVar[str] = "format"
    hook: ClassVar[str] = "detloom_formats"

    build: Callable[[Any], Format]


@runtime_checkable
class Transform(Protocol):
    """A change of one training sample.

    Gets the keyed random generator of this (seed, epoch, sample, transform) and as many extra samples as its spec
    asks for. Returns a new sample; arrays of the one it was given may be reused, never those of the extras.
    """

    def __call__(self, sample: Sample, rng: np.random.Generator, extras: Sequence[Sample]) -> Sample: ...


@dataclass(frozen=True, kw_only=True, eq=False)
class AugmentationSpec(Spec):
    """A transform of training samples. extras: how many other samples it wants (mosaic 3, mixup 1)."""

    kind: ClassVar[str] = "augmentation"
    hook: ClassVar[str] = "detloom_augmentations"

    build: Callable[[Any], Transform]
    extras: int = 0


@dataclass(frozen=True, kw_only=True, eq=False)
class LossSpec(Spec):
    """An element-wise loss for one role.

    classification: (logits [N, C], targets [N, C] in 0..1) -> [N, C].
    box: (predicted [N, 4], target [N, 4], both xyxy in pixels) -> [N].
    distribution: (logits [N, K] of the bins 0..K-1, target [N], a place between them, 0 <= target <= K - 1) -> [N].

    quality: a classification loss whose target is, for the class of a matched object, the overlap (IoU) of the box
    with it, and 0 elsewhere. A family gives such a loss overlaps of at least QUALITY_FLOOR: what is above 0 is matched.
    Other losses get what the family's own recipe means, as a rule 1.
    """

    kind: ClassVar[str] = "loss"
    hook: ClassVar[str] = "detloom_losses"

    role: LossRole
    build: Callable[[Any], ElementLoss]
    quality: bool = False


@runtime_checkable
class Exporter(Protocol):
    def export(self, detector: Detector, request: ExportRequest) -> Path:
        """Write the deployable file and return its path. Raises ExportError."""
        ...


@dataclass(frozen=True, slots=True)
class ExportRequest:
    """path: where to write, without suffix. size: network input (height, width). half: store weights and compute
    in 16 bits. simplify: fold constants and drop dead nodes. metadata: to embed in the file where it can hold text.
    finish: the rule that the file itself applies, so that it gives detections; None: it gives all boxes and scores.
    """

    path: Path
    size: tuple[int, int]
    half: bool
    simplify: bool
    metadata: Mapping[str, str]
    finish: PostRule | None = None


@dataclass(frozen=True, kw_only=True, eq=False)
class ExporterSpec(Spec):
    """Writes a deployable file. runtime: the name of the runtime that can run the file (used by the gate). half: it can
    write 16-bit files. finishes: it can put post-processing into the file.

    companions: suffixes of files that belong to the file, lie beside it under the same name and are moved with it. The
    file itself must say which companions it was written with: its runtime refuses others.
    """

    kind: ClassVar[str] = "exporter"
    hook: ClassVar[str] = "detloom_exporters"

    suffix: str
    runtime: str
    build: Callable[[Any], Exporter]
    half: bool = True
    finishes: bool = False
    companions: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class RuntimeRequest:
    """What a runtime is asked to load. device: `auto`, `cpu`, `cuda`, `cuda:1`. host: for runtimes that need another
    plugin, such as the model's family."""

    path: Path
    device: str
    host: PluginHost


@dataclass(frozen=True, kw_only=True, eq=False)
class RuntimeSpec(Spec):
    """Runs a model file: uint8 network inputs in, decoded boxes and scores out.

    suffixes: of the files it can load, such as `.onnx`. build raises DetloomError for a file that is none, and
    PluginError for a library that is not installed.
    """

    kind: ClassVar[str] = "runtime"
    hook: ClassVar[str] = "detloom_runtimes"

    suffixes: tuple[str, ...]
    build: Callable[[Any, RuntimeRequest], Runtime]


class Logger(Protocol):
    """Where numbers and pictures of a run go. A logger that raises is reported and the run goes on."""

    def scalars(self, values: Mapping[str, float], step: int, epoch: int) -> None: ...
    def plot(self, name: str, series: Mapping[str, Sequence[tuple[float, float]]], step: int) -> None: ...
    def image(self, name: str, path: Path, step: int) -> None: ...
    def table(self, name: str, header: Sequence[str], rows: Sequence[Sequence[object]], step: int) -> None: ...
    def artifact(self, name: str, path: Path) -> None: ...
    def model(self, name: str, path: Path, metrics: Mapping[str, float], labels: Mapping[str, int]) -> None: ...
    def close(self, status: str) -> None: ...


@dataclass(frozen=True, slots=True)
class LoggerContext:
    """run_dir: the run's folder. total_steps, total_epochs: planned length. tracker: what this logger's spec opened
    before the run, or None.

    resume_step: optimizer steps that are done already; records of later steps, left by a run that was cut off, are
    written again and must not stand twice. 0: a new run. base_weights: address or file of the weights that it began
    with, empty for random ones and for a resumed run.
    """

    run_dir: Path
    run_name: str
    total_steps: int
    total_epochs: int
    resume_step: int = 0
    tracker: Tracker | None = None
    base_weights: str = ""


@dataclass(frozen=True, slots=True)
class Package:
    """An installed distribution that a run needs. requirement: the line with which pip installs the same one elsewhere
    (`name==1.2`, `name @ git+https://...@commit`); empty when it exists only here. where: a folder, a git address, or
    `index`. plugins: names of the plugins that it brings."""

    distribution: str
    version: str
    requirement: str
    where: str
    plugins: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class TrackedConfig:
    """A configuration as a tracker sees it, by dotted key: values as text that `--set` would take, who set each of
    them, what they mean and what they may be.

    document: the same configuration with its origins, as plain values; a tracker that is asked to run it again gives
    it back. identity: what this tracker said of itself in the run that is being continued; empty for a new run.
    packages: Detloom and every plugin distribution in use. command: how the run was asked for.
    """

    values: Mapping[str, str]
    origins: Mapping[str, str]
    descriptions: Mapping[str, str]
    allowed: Mapping[str, str]
    document: Mapping[str, Any]
    packages: tuple[Package, ...] = ()
    identity: Mapping[str, str] = field(default_factory=dict)
    command: str = ""


@dataclass(frozen=True, slots=True)
class TrackerReply:
    """What was decided afar. edits: (dotted key, text, where it was written).

    document: the configuration that the edits are edits of, for a process that was started without arguments; None:
    the one that was shown. mistakes: what cannot be an edit of anything; reported together with edits that do not fit.
    """

    edits: tuple[tuple[str, str, str], ...] = ()
    document: Mapping[str, Any] | None = None
    mistakes: tuple[Mistake, ...] = ()


@runtime_checkable
class Tracker(Protocol):
    """A logger's other half: opened before the run, it may edit the configuration, keep and bring back the run's
    state, and ask the run to stop. Only the process of global rank 0 has one."""

    def connect(self, config: TrackedConfig) -> TrackerReply:
        """Show the configuration; return what was edited afar."""
        ...

    def confirm(self, config: TrackedConfig, settings: Any) -> None:
        """The effective configuration, every edit taken and checked; settings: the tracker's own, as they are now."""
        ...

    def identity(self) -> Mapping[str, str]:
        """What run.json keeps, so that a resumed run goes on under the same entry; {} for nothing."""
        ...

    def keep_checkpoint(self, kind: Literal["last", "best"], path: Path, epoch: int, step: int) -> None:
        """A verified checkpoint was written; must return at once and never block."""
        ...

    def restore_checkpoint(self, kind: Literal["last", "best"], dest: Path) -> Path | None:
        """Fetch this checkpoint of the run that is being continued to the file `dest`; None: there is none."""
        ...

    def stop_requested(self) -> bool:
        """Polled by the loop after each step: must return at once and never block."""
        ...

    def close(self, status: str, error: str) -> None:
        """The run is over, perhaps before it began. status as in run.json; error: its sentence, or empty. Called once,
        after the logger's own `close`."""
        ...


@dataclass(frozen=True, slots=True)
class Submission:
    """What is asked of a tracker that shall have a run executed elsewhere. local_paths: keys whose values are files or
    folders of this machine; paths_exist_remotely: the user vouches for them."""

    queue: str
    config: TrackedConfig
    local_paths: Mapping[str, str]
    paths_exist_remotely: bool = False


@dataclass(frozen=True, kw_only=True, eq=False)
class LoggerSpec(Spec):
    """A logger; its settings sit at `experiment.logging.<name>`.

    A tracker also gives `tracker` (opens it, before the run's folder exists) and `claims` (this process was started
    by my agent, judged by the environment: the tracker is then used even when the configuration is empty).
    configured: judged by the environment, whether it can be used here without being asked for by name. submit: hands a
    run to a queue and returns the sentence to show; raises UsageError saying why it cannot.
    """

    kind: ClassVar[str] = "logger"
    hook: ClassVar[str] = "detloom_loggers"

    build: Callable[[Any, LoggerContext], Logger]
    tracker: Callable[[Any], Tracker] | None = None
    claims: Callable[[Mapping[str, str]], bool] | None = None
    configured: Callable[[Mapping[str, str]], bool] | None = None
    submit: Callable[[Any, Submission], str] | None = None


@dataclass(frozen=True, kw_only=True, eq=False)
class CommandSpec(Spec):
    """A subcommand of `detloom`. `add_arguments` fills its parser; `run` gets the parsed arguments and returns the
    exit code."""

    kind: ClassVar[str] = "command"
    hook: ClassVar[str] = "detloom_commands"

    run: Callable[[argparse.Namespace], int]
    add_arguments: Callable[[argparse.ArgumentParser], None] = lambda parser: None


SPEC_TYPES: tuple[type[Spec], ...] = (
    ModelSpec,
    SourceSpec,
    FormatSpec,
    AugmentationSpec,
    LossSpec,
    ExporterSpec,
    RuntimeSpec,
    LoggerSpec,
    CommandSpec,
)
