"""The sections of a run's configuration.

Defaults here are the last resort: a family's recipe stands above them, and whatever the user writes above both
(`auto` in any field means: as the recipe says). The settings of chosen plugins are added to their section by
`detloom.config`, under the plugin's name.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from detloom_schemas.base import (
    Names,
    NotNegative,
    Positive,
    Probability,
    Resolution,
    Settings,
    UnfreezeSchedule,
    choice,
    local_path,
)
from detloom_schemas.data_config import DataConfig

NO_SCHEDULE: dict[str, tuple[str, ...]] = {}


class TrainingConfig(Settings):
    """How the weights are trained."""

    epochs: Annotated[Positive, Field(description="passes over the training split")] = 100
    max_steps: Annotated[Positive | None, Field(description="length in optimizer steps, instead of `epochs`")] = None
    batch_size: Annotated[Positive, Field(description="images in one forward pass")] = 8
    gradient_accumulation: Annotated[
        Positive, Field(description="forward passes in one optimizer step; the gradient equals that of the large batch")
    ] = 1
    resolution: Annotated[Resolution, Field(description="network input in pixels: one number, or [height, width]")] = (
        640
    )
    optimizer: Annotated[Literal["adamw", "adam", "sgd"], Field(description="optimizer")] = "adamw"
    lr: Annotated[float, Field(gt=0, description="peak learning rate of the head-less body of the network")] = 1e-4
    momentum: Annotated[
        float, Field(ge=0, lt=1, description="momentum of sgd (Nesterov); first beta of adam and adamw")
    ] = 0.9
    weight_decay: Annotated[NotNegative, Field(description="weight decay; biases, norms and embeddings have none")] = (
        1e-4
    )
    use_llrd: Annotated[bool, Field(description="layer-wise decay of the learning rate")] = False
    llrd_decay: Annotated[float, Field(gt=0, le=1, description="factor from one layer group to the one before it")] = (
        0.9
    )
    head_lr_multiplier: Annotated[float, Field(gt=0, description="learning rate of the head relative to `lr`")] = 1.0
    backbone_lr_multiplier: Annotated[
        float, Field(gt=0, description="learning rate of the backbone relative to `lr`, on top of layer-wise decay")
    ] = 1.0
    scheduler: Annotated[
        Literal["cosine", "multistep", "exponential", "step", "constant"],
        Field(description="learning rate after the warm-up, updated at each step"),
    ] = "cosine"
    warmup_epochs: Annotated[NotNegative, Field(description="length of the linear warm-up")] = 3.0
    warmup_steps: Annotated[
        Annotated[int, Field(ge=0)] | None,
        Field(description="length of the linear warm-up in steps, instead of `warmup_epochs`"),
    ] = None
    min_lr_frac: Annotated[float, Field(ge=0, le=1, description="lowest learning rate, as a fraction of `lr`")] = 0.01
    lr_milestones: Annotated[
        tuple[Annotated[float, Field(gt=0, lt=1)], ...],
        Field(description="multistep: where the rate drops, as fractions of the training"),
    ] = (0.7, 0.9)
    lr_gamma: Annotated[
        float, Field(gt=0, le=1, description="multistep, step: factor of one drop; exponential: factor an epoch")
    ] = 0.1
    lr_step_epochs: Annotated[Positive, Field(description="step: epochs between two drops")] = 30
    gradient_clip: Annotated[
        Annotated[float, Field(gt=0)] | None, Field(description="largest norm of the gradient; none: no clipping")
    ] = None
    use_ema: Annotated[bool, Field(description="keep and evaluate an exponential moving average of the weights")] = True
    ema_decay: Annotated[float, Field(ge=0, lt=1, description="decay of the average after its warm-up")] = 0.9999
    ema_warmup_steps: Annotated[float, Field(gt=0, description="time constant of the average's warm-up, in steps")] = (
        2000
    )
    use_swa: Annotated[
        bool,
        Field(
            description="average the weights of the last epochs, at a constant rate (SWA); from its start on, this "
            "average is what is evaluated and exported"
        ),
    ] = False
    swa_start: Annotated[float, Field(ge=0, lt=1, description="SWA: where it starts, as a share of the training")] = (
        0.75
    )
    swa_lr_frac: Annotated[
        float, Field(gt=0, le=1, description="SWA: constant learning rate from its start on, as a fraction of `lr`")
    ] = 0.5
    swa_norm_batches: Annotated[
        int,
        Field(
            ge=0,
            description="SWA: batches with which the statistics of batch norms are computed for the averaged weights; "
            "0: the statistics are averaged like the weights",
        ),
    ] = 32
    use_lookahead: Annotated[
        bool,
        Field(
            description="slow weights that follow the optimizer's from time to time (Lookahead); they are what is "
            "evaluated and exported where there is neither EMA nor SWA"
        ),
    ] = False
    lookahead_steps: Annotated[Positive, Field(description="Lookahead: steps between moves of the slow weights")] = 5
    lookahead_alpha: Annotated[
        float, Field(gt=0, le=1, description="Lookahead: how far the slow weights move towards the fast ones")
    ] = 0.5
    unfreeze: Annotated[
        UnfreezeSchedule,
        Field(
            description="after how many epochs frozen parts are trained again: `{10: dark5, 20: [dark4, stem]}`, names "
            "as in `model.freeze`; or epochs alone, `5, 10, 15`: each thaws the next group, counted from the output"
        ),
    ] = NO_SCHEDULE
    multi_scale: Annotated[
        bool,
        Field(
            description="another size of the network input for each step, drawn among the multiples that the family "
            "takes; evaluation and export keep `resolution`"
        ),
    ] = False
    scale_min: Annotated[
        Annotated[int, Field(ge=32, le=8192)] | None,
        Field(description="multi_scale: smallest shorter side in pixels; none: 0.75 of the resolution's"),
    ] = None
    scale_max: Annotated[
        Annotated[int, Field(ge=32, le=8192)] | None,
        Field(description="multi_scale: largest shorter side in pixels; none: 1.25 of the resolution's"),
    ] = None
    gradient_checkpointing: Annotated[
        bool, Field(description="compute activations again in the backward pass: less memory, about a third slower")
    ] = False
    precision: Annotated[
        Literal["auto", "fp32", "bf16", "fp16"],
        Field(
            description="autocast: auto means bf16 where a GPU has it, else fp32; fp16 scales the loss, and some "
            "families overflow in it"
        ),
    ] = "auto"
    force_fp16: Annotated[
        bool, Field(description="take precision=fp16 also for a family that is known to overflow in it")
    ] = False
    device: Annotated[str, Field(pattern=r"^(auto|cpu|cuda(:\d+)?)$", description="auto, cpu, cuda or cuda:1")] = "auto"
    seed: Annotated[int, Field(ge=0, description="seed of everything random")] = 0
    early_stopping: Annotated[bool, Field(description="stop when the validation metric stands still")] = False
    early_stopping_patience: Annotated[
        Positive, Field(description="evaluations without improvement before stopping")
    ] = 10
    early_stopping_min_delta: Annotated[NotNegative, Field(description="smaller improvements do not count")] = 0.0
    overfit_batches: Annotated[
        int, Field(ge=0, description="debug: train and evaluate on these first N batches, without augmentation")
    ] = 0
    checkpoint_interval: Annotated[
        Positive, Field(description="epochs between two saves of `last`; the last epoch is always saved")
    ] = 1
    channels_last: Annotated[bool, Field(description="memory layout: faster convolutions on most hardware")] = False


class LoraConfig(Settings):
    """Low-rank adapters: a few weights beside frozen ones (Hu et al. 2021). Needs the extra `lora`."""

    rank: Annotated[
        int,
        Field(ge=0, le=1024, description="rank of the adapters; 0: none. Everything else is frozen, but for the heads"),
    ] = 0
    alpha: Annotated[float, Field(gt=0, description="the adapters' output is multiplied by alpha / rank")] = 16.0
    dropout: Annotated[float, Field(ge=0, lt=1, description="dropout before the adapters")] = 0.0
    targets: Annotated[
        Names,
        Field(
            description="layers that get adapters, as patterns of their names (`*.dark4.*`); none: every linear layer "
            "and every ungrouped convolution outside the heads"
        ),
    ] = ()


class ModelConfig(Settings):
    """What is trained, and from which weights."""

    type: Annotated[str, choice("model", "family and variant, as in `detloom plugins list`")] = "yolox-nano"
    pretrain_weights: Annotated[
        str,
        local_path(
            "a file; `official`: the model's published weights, downloaded once; the name of another published file "
            "of the model; `none`: random; `auto`: official where they can be had, else random with a warning",
            words=("official", "none", "auto"),
        ),
    ] = "auto"
    strict_weights: Annotated[
        bool, Field(description="fail when any tensor besides the class rows is missing, extra or of another shape")
    ] = False
    num_classes: Annotated[
        Positive | None, Field(description="checked against the data when given; the data decide")
    ] = None
    freeze: Annotated[
        Names,
        Field(
            description="what is kept as it was loaded: names of layer groups (`stem, dark2`), or patterns of "
            "parameter names (`*.bias`)"
        ),
    ] = ()
    freeze_backbone: Annotated[bool, Field(description="keep the backbone as it was loaded")] = False
    lora: Annotated[LoraConfig, Field(description="low-rank adapters")] = LoraConfig()


class AugmentationConfig(Settings):
    """What happens to training images. Settings of each transform stand beside this list."""

    transforms: Annotated[Names, choice("augmentation", "transforms in the order they are applied")] = ("hflip",)


LOSS_ROLES: tuple[Literal["classification", "box", "distribution"], ...] = ("classification", "box", "distribution")
"""The roles that a loss can be chosen for. Each has its weight in `loss.<role>_weight`."""


class LossConfig(Settings):
    """Loss terms of the families that let one choose; weights of their roles."""

    classification: Annotated[str | None, choice("loss", "loss of class scores; none: the family's own")] = None
    box: Annotated[str | None, choice("loss", "loss of boxes; none: the family's own")] = None
    distribution: Annotated[
        str | None, choice("loss", "loss of sides that are predicted as distributions; none: the family's own")
    ] = None
    classification_weight: Annotated[NotNegative, Field(description="factor of the classification term")] = 1.0
    box_weight: Annotated[NotNegative, Field(description="factor of the box term")] = 5.0
    distribution_weight: Annotated[NotNegative, Field(description="factor of the term of distributions")] = 1.5


class ValidationConfig(Settings):
    """How the model is evaluated while it trains, and which checkpoint is best."""

    interval: Annotated[Positive, Field(description="epochs between two evaluations; the last is always done")] = 1
    start_epoch: Annotated[int, Field(ge=0, description="no evaluation before this epoch")] = 0
    batch_size: Annotated[Positive | None, Field(description="images a forward pass; none: as in training")] = None
    confidence_threshold: Annotated[
        Probability, Field(description="detections below it are not evaluated; high values lower AP")
    ] = 0.01
    nms_threshold: Annotated[Probability, Field(description="IoU above which the weaker box is dropped")] = 0.65
    max_detections: Annotated[Positive, Field(description="detections kept for an image")] = 100
    save_best_metric: Annotated[
        Literal["AP", "AP50", "AP75", "APs", "APm", "APl", "AR100", "segm_AP", "segm_AP50", "segm_AP75", "loss"],
        Field(description="validation number that decides which checkpoint is best; segm_: of masks"),
    ] = "AP"
    use_ema: Annotated[bool, Field(description="evaluate the averaged weights when there are any")] = True
    save_predictions: Annotated[bool, Field(description="write predictions/ in COCO form for validation and test")] = (
        False
    )
    pictures: Annotated[
        int, Field(ge=0, le=200, description="images drawn for the report, truth beside prediction")
    ] = 12


class ExportConfig(Settings):
    """Deployable files and the proof that they equal the checkpoint."""

    format: Annotated[Names, choice("exporter", "file formats; an empty list exports nothing")] = ("onnx",)
    half: Annotated[bool, Field(description="16-bit weights and arithmetic")] = False
    simplify: Annotated[bool, Field(description="fold constants and remove dead nodes")] = False
    postprocess: Annotated[
        bool,
        Field(
            description="suppression, or the choice of the best, inside the file by the thresholds of `validation`: it "
            "gives detections instead of all boxes and scores"
        ),
    ] = False
    tolerance: Annotated[
        NotNegative | None,
        Field(description="largest difference in AP to the checkpoint; none: 0.001, or 0.01 for 16 bits and below"),
    ] = None
    gate_images: Annotated[
        Positive | None, Field(description="images of the validation split used by the gate; none: all")
    ] = None


class ClearMLConfig(Settings):
    """Tracking on a ClearML server: parameters that can be edited there, numbers, pictures, files and models."""

    mode: Annotated[
        Literal["auto", "required", "best-effort", "offline", "off"],
        Field(
            description="required: no run without the server; best-effort: the run goes on without it and is kept for "
            "later; offline: kept for later; auto: best-effort where ClearML is configured, else off"
        ),
    ] = "auto"
    output_uri: Annotated[
        str | None, Field(description="where models and files are stored (s3://..., a path); none: the server's own")
    ] = None
    checkpoint_interval: Annotated[
        Positive,
        Field(description="epochs between two uploads of the state that a run started again elsewhere goes on from"),
    ] = 10
    close_timeout: Annotated[
        float, Field(ge=1, description="seconds that the end of a run waits for the server at most")
    ] = 120.0
    spool_mb: Annotated[
        float, Field(gt=0, description="most that is kept on disk while the server does not answer, without files")
    ] = 256.0
    console: Annotated[bool, Field(description="send what the run prints")] = True
    resource_monitoring: Annotated[bool, Field(description="report the use of CPU, GPU, memory and disk")] = True


class LoggingConfig(Settings):
    """Where numbers go. Settings of each logger stand beside this list."""

    loggers: Annotated[Names, choice("logger", "loggers in use")] = ("console", "jsonl", "tensorboard")
    log_interval: Annotated[Positive, Field(description="optimizer steps between two records of the loss")] = 10


class ExperimentConfig(Settings):
    """What the run is called and where it is kept."""

    project: Annotated[str, Field(min_length=1, description="project the run belongs to")] = "detloom"
    name: Annotated[
        str | None, Field(description="name of the run; none: model, data and a hash of the configuration")
    ] = None
    tags: Annotated[Names, Field(description="labels kept with the run")] = ()
    output_dir: Annotated[str, Field(description="folder that gets the run's folder")] = "runs"
    clearml: ClearMLConfig = ClearMLConfig()
    logging: LoggingConfig = LoggingConfig()


class RunConfig(Settings):
    """A whole run. The sections of a resolved configuration also carry the settings of its chosen plugins."""

    preset: Annotated[
        Literal["plan"] | None,
        Field(description="named set of values that stands above the recipe and below whatever is written"),
    ] = None
    training: TrainingConfig = TrainingConfig()
    model: ModelConfig = ModelConfig()
    data: DataConfig = DataConfig()
    augmentation: AugmentationConfig = AugmentationConfig()
    loss: LossConfig = LossConfig()
    validation: ValidationConfig = ValidationConfig()
    export: ExportConfig = ExportConfig()
    experiment: ExperimentConfig = ExperimentConfig()
