"""The files that a run writes beside its weights, its configuration and its numbers by step.

    run.json         RunRecord          status, versions, device, data, weights, progress, warnings
    data.json        DataRecord         statistics of the data and findings of the check
    evaluation.json  EvaluationRecord   numbers and curves of each evaluated split, pictures

What lies beside an exported file is in detloom_schemas.manifest.

Every field that a run may not know yet has a default, so that the record of a run that was killed can be read. Keys
of a newer version are kept out of the way, not refused.
"""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

RunStatus = Literal["running", "completed", "stopped early", "interrupted", "failed"]


class RunFile(BaseModel):
    """Base of every record."""

    model_config = ConfigDict(extra="ignore", frozen=True, protected_namespaces=(), allow_inf_nan=False)

    def to_json(self) -> dict[str, Any]:
        """Plain values for `detloom.files.write_json`."""
        return self.model_dump(mode="json")


class SourceRecord(RunFile):
    """One source of the data. name: prefix of its file names where there are several; type, format: plugins; identity:
    where it is; revision: what it was, changing when its content changes; images, objects: what it gave, by split;
    classes: its names of classes and those of the data set, null for one that was left out."""

    name: str = ""
    type: str = ""
    format: str = ""
    identity: str = ""
    revision: str = ""
    images: dict[str, int] = Field(default_factory=dict)
    objects: dict[str, int] = Field(default_factory=dict)
    classes: dict[str, str | None] = Field(default_factory=dict)


class DataIdentity(RunFile):
    """Which data: name and content digest. source: where they came from; revision: what they were there, changing
    when their content changes; sources: the same of each, and what it gave."""

    name: str = ""
    digest: str = ""
    source: str = ""
    revision: str = ""
    sources: tuple[SourceRecord, ...] = ()


class GitState(RunFile):
    """commit: of the folder the run was started in; dirty: tracked files had changes."""

    commit: str = ""
    dirty: bool = False


class PluginUse(RunFile):
    """A plugin at work in the run."""

    name: str
    distribution: str = ""
    version: str = ""


class TransferRecord(RunFile):
    """What became of pretrained weights, with all names. source: the file; loaded: tensors of the model's total that
    were taken as they are; copied: classes whose rows were taken by name; reset: classes that started anew; mismatched:
    tensors of another shape; missing: tensors that the file lacks; unexpected: tensors of the file that were not used;
    fits: names of other models that the file fits whole, where it does not fit this one."""

    source: str = ""
    loaded: int = 0
    total: int = 0
    copied: tuple[str, ...] = ()
    reset: tuple[str, ...] = ()
    mismatched: tuple[str, ...] = ()
    missing: tuple[str, ...] = ()
    unexpected: tuple[str, ...] = ()
    fits: str = ""


class ModelRecord(RunFile):
    """type: family-variant; parameters: count; weights: lines of the transfer report, the first names the file;
    transfer: the whole of it, None for random weights; trained: lines on what is frozen, adapted and thawed when."""

    type: str = ""
    parameters: int | None = None
    resolution: tuple[int, int] | None = None
    licence: str = ""
    weights: tuple[str, ...] = ()
    transfer: TransferRecord | None = None
    trained: tuple[str, ...] = ()


class Progress(RunFile):
    """What is done of what was planned."""

    epoch: int = 0
    step: int = 0
    total_epochs: int = 0
    total_steps: int = 0


class BestRecord(RunFile):
    """The best checkpoint so far. epoch: 0-based."""

    metric: str
    value: float
    epoch: int


class LoggerRecord(RunFile):
    """flushed: calls that went through; dropped: calls that failed or came after the logger was switched off."""

    name: str
    flushed: int = 0
    dropped: int = 0
    error: str = ""


class RunRecord(RunFile):
    """run.json. started, finished: ISO 8601, UTC. command: starts the same run again; started_in: the folder that it
    was typed in, where relative paths of the configuration begin, and folder: that of the run, at that time; resumed:
    the commands that went on with it."""

    name: str = ""
    status: RunStatus = "running"
    error: str = ""
    started: str = ""
    finished: str = ""
    duration_s: float | None = None
    command: str = ""
    started_in: str = ""
    folder: str = ""
    resumed: tuple[str, ...] = ()
    project: str = ""
    tags: tuple[str, ...] = ()
    seed: int | None = None
    device: str = ""
    precision: str = ""
    versions: dict[str, str] = Field(default_factory=dict)
    environment: dict[str, str] = Field(default_factory=dict)
    plugins: tuple[PluginUse, ...] = ()
    git: GitState = GitState()
    data: DataIdentity = DataIdentity()
    classes: tuple[str, ...] = ()
    model: ModelRecord = ModelRecord()
    progress: Progress = Progress()
    best: BestRecord | None = None
    metrics: dict[str, float] = Field(default_factory=dict)
    loggers: tuple[LoggerRecord, ...] = ()
    trackers: dict[str, dict[str, str]] = Field(default_factory=dict)
    configuration: dict[str, Any] = Field(default_factory=dict)
    warnings: tuple[str, ...] = ()


class SplitStatistics(RunFile):
    """One split. empty_images: without any object. objects_per_image: images by their number of objects.

    size_shares: objects by the square root of box area over image area, in ten equal bins from 0 to 1.
    small, medium, large: objects by COCO's limits of 32 and 96 pixels.
    """

    images: int = 0
    objects: int = 0
    crowds: int = 0
    empty_images: int = 0
    objects_per_image: dict[int, int] = Field(default_factory=dict)
    size_shares: tuple[int, ...] = ()
    small: int = 0
    medium: int = 0
    large: int = 0
    image_sizes: dict[str, int] = Field(default_factory=dict)


class ClassStatistics(RunFile):
    """A class. objects: by split; images: by split, those that hold at least one."""

    id: int
    name: str
    objects: dict[str, int] = Field(default_factory=dict)
    images: dict[str, int] = Field(default_factory=dict)


class FindingRecord(RunFile):
    """One coded result of the data check. images, objects: how many of them were left out for it."""

    code: str
    severity: Literal["error", "warning", "info"] = "info"
    message: str = ""
    where: str = ""
    remedy: str = ""
    count: int = 1
    images: int = 0
    objects: int = 0


class DataRecord(DataIdentity):
    """data.json."""

    has_masks: bool = False
    splits: dict[str, SplitStatistics] = Field(default_factory=dict)
    classes: tuple[ClassStatistics, ...] = ()
    findings: tuple[FindingRecord, ...] = ()


class ClassEvaluation(RunFile):
    """Numbers of one class; see detloom.evaluate.ClassResult."""

    index: int
    id: int
    name: str
    AP: float | None = None
    AP50: float | None = None
    truths: int = 0
    detections: int = 0
    threshold: float = 0.0
    precision: float = 0.0
    recall: float = 0.0
    f1: float = 0.0
    curve: tuple[float, ...] = ()


class SplitEvaluation(RunFile):
    """Numbers of one split; see detloom.evaluate.Evaluation. metrics: the 12 COCO numbers, a size without truth
    left out.

    confusion: (row, column, count) of each count above zero at IoU 0.5 and `threshold`. Row and column are indices of
    `per_class`, the true class and the predicted one; the index behind the last class is the background as a row and
    `missed` as a column. How they were matched: detloom.evaluate.confusion. segm: the same detections judged by their
    masks, without a confusion and losses of its own; None where no masks were evaluated.
    """

    iou_type: Literal["bbox", "segm"] = "bbox"
    metrics: dict[str, float] = Field(default_factory=dict)
    per_class: tuple[ClassEvaluation, ...] = ()
    images: int = 0
    truths: int = 0
    detections: int = 0
    max_detections: int = 100
    threshold: float = 0.0
    precision: float = 0.0
    recall: float = 0.0
    f1: float = 0.0
    confusion: tuple[tuple[int, int, int], ...] = ()
    losses: dict[str, float] = Field(default_factory=dict)
    segm: SplitEvaluation | None = None

    def confused(self) -> list[tuple[int, int, int]]:
        """(true class, predicted class, count) of classes that were taken for another one, the most frequent first."""
        end = len(self.per_class)
        pairs = [cell for cell in self.confusion if cell[0] != cell[1] and cell[0] < end and cell[1] < end]
        return sorted(pairs, key=lambda cell: (-cell[2], cell))


class PictureRecord(RunFile):
    """A drawn image, truth beside prediction. file: relative to the run's folder; the counts are at `threshold` and
    IoU 0.5 of boxes or of masks, as iou_type says."""

    file: str
    image: str = ""
    split: str = "val"
    good: bool = True
    hits: int = 0
    false_alarms: int = 0
    misses: int = 0
    threshold: float = 0.0
    iou_type: Literal["bbox", "segm"] = "bbox"


class EvaluationRecord(RunFile):
    """evaluation.json. checkpoint: which weights were evaluated; splits: by name."""

    checkpoint: str = ""
    splits: dict[str, SplitEvaluation] = Field(default_factory=dict)
    pictures: tuple[PictureRecord, ...] = ()
