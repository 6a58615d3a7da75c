# ruff: noqa: TID253
"""The detector contract: forward, loss, decode and predict apart, so that every family has the same shape."""

from __future__ import annotations

import abc
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Self

import torch
from torch import Tensor, nn

from detloom.counting import some_of
from detloom.errors import PluginError
from detloom.geometry import Detections, InputRule, MaskRows, PostRule, finish

ElementLoss = Callable[[Tensor, Tensor], Tensor]

NO_MASKS = ("the model says that it predicts masks, and decodes none", "`decode` must fill `Decoded.masks`")


@dataclass(slots=True)
class Targets:
    """Truth of a batch, padded to the fullest image so that no host read is needed to use it.

    boxes: float32 [B, G, 4] xyxy in pixels of the network input, zeros where padded.
    labels: int64 [B, G] class indices, -1 where padded. masks: uint8 [B, G, H, W] of 0 and 1 in the size of the
    network input, zeros where padded; None for a detector of boxes. G >= 1.
    """

    boxes: Tensor
    labels: Tensor
    masks: Tensor | None = None

    @property
    def valid(self) -> Tensor:
        """bool [B, G]: true where a row is an object."""
        return self.labels >= 0

    def to(self, device: torch.device) -> Self:
        masks = None if self.masks is None else self.masks.to(device, non_blocking=True)
        return type(self)(self.boxes.to(device, non_blocking=True), self.labels.to(device, non_blocking=True), masks)

    def slice(self, rows: slice) -> Self:
        """The targets of some images of the batch (a micro-batch)."""
        masks = None if self.masks is None else self.masks[rows]
        return type(self)(self.boxes[rows], self.labels[rows], masks)


@dataclass(slots=True)
class Outputs:
    """What a forward pass gives. logits: [B, N, C]; boxes: [B, N, 4] as the family regresses them (its own coding);
    masks: as the family codes them; features: named tensors for distillation; extra: whatever else its loss needs."""

    logits: Tensor
    boxes: Tensor
    masks: Tensor | None = None
    features: dict[str, Tensor] = field(default_factory=dict)
    extra: dict[str, Any] = field(default_factory=dict)


@dataclass(slots=True)
class LossTerms:
    """Summed, weighted terms (scalars, with gradient) and the one number that their sum is divided by.

    The loop divides by the normaliser of the whole effective batch: accumulation, several processes and a halved
    micro-batch then give the gradient of the large batch.
    """

    terms: dict[str, Tensor]
    normaliser: Tensor

    @property
    def total(self) -> Tensor:
        return torch.stack(list(self.terms.values())).sum()


@dataclass(slots=True)
class Decoded:
    """boxes: float32 [B, N, 4] xyxy in pixels of the network input; scores: float32 [B, N, C] in 0..1.

    masks: logits [B, N, h, w] over the whole network input, at any resolution; inside above 0. None for a detector of
    boxes.
    """

    boxes: Tensor
    scores: Tensor
    masks: Tensor | None = None


@dataclass(frozen=True, slots=True)
class LayerGroup:
    """Parameters that share a learning rate, ordered from the input to the output.

    depth counts from the input (0) upwards and drives layer-wise decay; is_head: new layers that learn faster;
    is_backbone: what `model.freeze_backbone` freezes.
    """

    name: str
    modules: tuple[nn.Module, ...]
    depth: int
    is_head: bool = False
    is_backbone: bool = False


@dataclass(frozen=True, slots=True)
class TransferReport:
    """What became of pretrained weights. loaded: tensors taken as they are; copied: class names whose rows were
    taken by name; reset: class names that start anew; mismatched: tensors of another shape, with both shapes;
    missing: tensors of the model that the file lacks; unexpected: tensors of the file that the model lacks; fits: names
    of other models that the file fits whole, where it does not fit this one."""

    source: str
    loaded: int
    total: int
    copied: tuple[str, ...] = ()
    reset: tuple[str, ...] = ()
    mismatched: tuple[str, ...] = ()
    missing: tuple[str, ...] = ()
    unexpected: tuple[str, ...] = ()
    fits: str = ""

    def lines(self) -> list[str]:
        """For people: what was loaded, copied, reset; of long lists the first names."""
        text = [f"weights: {self.source}: {self.loaded} of {self.total} tensors loaded"]
        for word, names, shown in (
            ("class rows copied by name", self.copied, 8),
            ("class rows reset", self.reset, 8),
            ("of another shape", self.mismatched, 3),
            ("missing in the file", self.missing, 3),
            ("not used", self.unexpected, 3),
        ):
            if names:
                text.append(f"  {word}: {some_of(names, shown)}")
        if self.fits:
            text.append(f"  the file is one of {self.fits}, which it fits whole")
        return text


class Detector(nn.Module, abc.ABC):
    """Base of every detector. Images enter as uint8 RGB [B, 3, H, W], letterboxed by `input_rule`.

    masks: it predicts a mask for each box: its targets carry masks, and `decode` gives them. As its ModelSpec says.
    most_objects: that it can find in one image; None: more than anybody has.
    """

    masks: bool = False
    most_objects: int | None = None

    def __init__(self, class_names: Sequence[str], input_rule: InputRule, post_rule: PostRule) -> None:
        super().__init__()
        self.class_names = tuple(class_names)
        self.input_rule = input_rule
        self.post_rule = post_rule
        # Not in the state dict: official checkpoints do not hold them.
        self.register_buffer("_mean", torch.tensor(input_rule.mean).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("_std", torch.tensor(input_rule.std).view(1, 3, 1, 1), persistent=False)
        self._mean: Tensor
        self._std: Tensor

    def normalise(self, images: Tensor) -> Tensor:
        """uint8 RGB [B, 3, H, W] to what the first convolution wants."""
        pixels = images.float()
        if self.input_rule.channels == "bgr":
            pixels = pixels.flip(1)
        if self.input_rule.scale != 1.0:
            pixels = pixels * self.input_rule.scale
        if any(self.input_rule.mean) or any(value != 1.0 for value in self.input_rule.std):
            pixels = (pixels - self._mean) / self._std
        return pixels

    @abc.abstractmethod
    def forward(self, images: Tensor, targets: Targets | None = None, prompts: object | None = None) -> Outputs:
        """images: uint8 RGB [B, 3, H, W]. targets: only for families that train by denoising."""

    @abc.abstractmethod
    def loss(self, outputs: Outputs, targets: Targets) -> LossTerms: ...

    @abc.abstractmethod
    def decode(self, outputs: Outputs) -> Decoded:
        """Boxes in pixels, scores in 0..1 and mask logits: the end of an exported graph."""

    @abc.abstractmethod
    def layer_groups(self) -> list[LayerGroup]:
        """Every module that has parameters, once, from the input to the output."""

    @abc.abstractmethod
    def load_pretrained(self, state: Mapping[str, Tensor], class_names: Sequence[str], source: str) -> TransferReport:
        """Take the weights of a model with other classes: rows of shared class names are copied, others reset.

        class_names: of the rows of the file's head; empty when unknown (the head is then reset). Raises
        WeightsError when the file belongs to another architecture.
        """

    def recomputed_modules(self) -> Sequence[nn.Module]:
        """The parts whose activations `training.gradient_checkpointing` computes again instead of keeping them: stages
        and layers, none inside another. Empty for a family that cannot."""
        return ()

    def begin_epoch(self, epoch: int, epochs: int) -> None:
        """Called before each epoch (0-based): families whose recipe changes in time act here. Must depend on the
        arguments alone, so that a resumed run is the same run."""

    def check_size(self, size: tuple[int, int]) -> str:
        """size: (height, width) of an input in pixels, multiples of the family's divisor. Returns a sentence that says
        why it cannot be trained at, or nothing. Its own size is refused when it is built."""
        return ""

    def fix_size(self) -> None:
        """Called on the copy that is deployed: what depends on the size of the input may become a constant, since a
        deployed graph takes the size of `input_rule` alone. Its state dict need not stay the same."""

    def saved_state(self) -> dict[str, Tensor]:
        """What a checkpoint keeps: all weights, or only the adapters."""
        return self.state_dict()

    def load_saved_state(self, state: Mapping[str, Tensor]) -> None:
        self.load_state_dict(dict(state), strict=True)

    def predict(
        self, outputs: Outputs, sizes: Sequence[tuple[int, int]], rule: PostRule | None = None
    ) -> list[Detections]:
        """sizes: original (height, width) of each image. Boxes come back in pixels of the original images."""
        decoded = self.decode(outputs)
        return finish(
            decoded.boxes.float().cpu().numpy(),
            decoded.scores.float().cpu().numpy(),
            sizes,
            self.input_rule,
            rule or self.post_rule,
            masks=_mask_rows(decoded) if self.masks else None,
        )


def _mask_rows(decoded: Decoded) -> MaskRows:
    """Masks leave the device when they are chosen, not before. Raises PluginError when the family decodes none."""
    masks = decoded.masks
    if masks is None:
        raise PluginError(NO_MASKS[0], hint=NO_MASKS[1])
    return lambda image, rows: masks[image][torch.from_numpy(rows).to(masks.device)].float().cpu().numpy()
