"""What an exported file says of itself, and the proof that lies beside it.

`ModelManifest` is embedded in the file where the format can hold text; `ExportManifest` (`<file>.json`, beside the
file) adds what is known only afterwards: the file's hash and how it compares with the checkpoint.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

EMBEDDED_KEY = "detloom"
"""The name under which the manifest stands among a file's own metadata."""

WEIGHTS_KEY = "detloom_weights_sha256"
"""The name under which a file that keeps its weights in another one states that one's hash."""

Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


class Record(BaseModel):
    """Frozen; keys that a later version added are passed over."""

    model_config = ConfigDict(extra="ignore", frozen=True, allow_inf_nan=False, protected_namespaces=())


class ClassEntry(Record):
    """index: of the column in `scores`; id: the dataset's own."""

    index: Annotated[int, Field(ge=0)]
    id: int
    name: str


class TensorEntry(Record):
    """One input or output of the graph. shape: `batch` where the size is free."""

    name: str
    dtype: str
    shape: tuple[int | str, ...]
    meaning: str


class InputRuleEntry(Record):
    """How an image becomes the input. channels, scale, mean and std are applied inside the graph."""

    size: tuple[Annotated[int, Field(ge=1)], Annotated[int, Field(ge=1)]]
    resize: Literal["letterbox", "stretch"]
    pad_value: Annotated[int, Field(ge=0, le=255)]
    channels: Literal["rgb", "bgr"]
    scale: float
    mean: tuple[float, float, float]
    std: tuple[float, float, float]


class PostRuleEntry(Record):
    """How boxes and scores become detections."""

    kind: Literal["nms", "topk"]
    score_threshold: float
    nms_threshold: float
    max_detections: Annotated[int, Field(ge=1)]
    candidates: Annotated[int, Field(ge=1)]


class DataEntry(Record):
    """What the model was trained on: name and content digest."""

    name: str = ""
    digest: str = ""


class CheckpointEntry(Record):
    """metrics: of the validation when the checkpoint was written."""

    file: str
    sha256: Sha256
    metrics: Mapping[str, float]


class ModelManifest(Record):
    """What a model is, what goes in and what comes out. exporter: empty for a checkpoint.

    masks: an output gives a mask for each box. finished: post_rule is applied inside the file; simplified: constants
    folded and dead nodes removed; half: 16-bit weights and arithmetic.
    """

    format: Literal[1] = 1
    model: str
    family: str
    licence: str
    classes: Annotated[tuple[ClassEntry, ...], Field(min_length=1)]
    input: TensorEntry
    outputs: tuple[TensorEntry, ...]
    masks: bool = False
    input_rule: InputRuleEntry
    post_rule: PostRuleEntry
    data: DataEntry
    checkpoint: CheckpointEntry
    exporter: str = ""
    exporter_settings: Mapping[str, Any] = {}
    half: bool = False
    simplified: bool = False
    finished: bool = False
    versions: Mapping[str, str]


class ParityCase(Record):
    """One batch of images through the checkpoint and through the file.

    max_box_px, max_score, max_mask: largest absolute differences among the 100 boxes of each image that the checkpoint
    is surest of, of masks between the probabilities of a pixel of the network's own resolution; None when they cannot
    be compared (other shapes, or not numbers), and max_mask for a model of boxes. agreement: share of the detections of
    either that the other has too: same class, IoU of boxes at least 0.9 or their sides within 0.5 px, IoU of masks at
    least 0.9, scores within 0.01. Of a finished file the detections themselves are compared: one without a partner
    counts by how far its score lies above what is left out.
    """

    images: tuple[str, ...]
    max_box_px: float | None
    max_score: float | None
    max_mask: float | None = None
    agreement: float
    detections: int


class GateEntry(Record):
    """The file, run by its own runtime and its own rules, against its checkpoint.

    AP in 0..1 on `images` images of `split`, by one evaluator; None when there were no annotated images. The numbers of
    masks, `segm_...`, are None for a model of boxes and where the data have no masks; the metrics hold them too, under
    the same names. max_box_px, max_score, max_mask: over all parity cases; parity_limits: what they may be, None where
    they are recorded and not judged. reasons: why the file was refused.
    """

    passed: bool
    reasons: tuple[str, ...] = ()
    tolerance: float
    split: str = ""
    images: int = 0
    checkpoint_ap: float | None = None
    exported_ap: float | None = None
    difference: float | None = None
    checkpoint_segm_ap: float | None = None
    exported_segm_ap: float | None = None
    segm_difference: float | None = None
    checkpoint_metrics: Mapping[str, float] = {}
    exported_metrics: Mapping[str, float] = {}
    max_box_px: float | None
    max_score: float | None
    max_mask: float | None = None
    parity_limits: Mapping[str, float] | None
    batch_sizes: tuple[int, ...]
    parity: tuple[ParityCase, ...]


class CompanionEntry(Record):
    """A file without which the exported one is not complete."""

    file: str
    bytes: Annotated[int, Field(ge=0)]
    sha256: Sha256


class ExportManifest(ModelManifest):
    """The whole story of one exported file. companions: files that belong to it; runtime: what ran the file in the
    gate; created: ISO 8601, UTC."""

    file: str
    bytes: Annotated[int, Field(ge=0)]
    sha256: Sha256
    companions: tuple[CompanionEntry, ...] = ()
    created: str
    runtime: str
    gate: GateEntry
