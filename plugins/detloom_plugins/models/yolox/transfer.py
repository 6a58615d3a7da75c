# ruff: noqa: TID253
"""Taking pretrained weights: tensors by name, class rows by the name of the class."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from torch import Tensor, nn

from detloom.detector import TransferReport
from detloom.weight_transfer import ClassTensors, transfer_weights

from .network import set_prior

if TYPE_CHECKING:
    from .detector import YoloxDetector

CLASS_PREFIX = "head.cls_preds."


def transfer(
    model: YoloxDetector, state: Mapping[str, Tensor], class_names: Sequence[str], source: str
) -> TransferReport:
    """Fill the model. Raises WeightsError, with the model as it was, when the file is of another architecture."""

    def reset() -> None:
        for layer in model.head.cls_preds:
            assert isinstance(layer, nn.Conv2d)
            layer.reset_parameters()
            set_prior(layer)

    names = tuple(key for key in model.state_dict() if key.startswith(CLASS_PREFIX))
    return transfer_weights(
        model,
        state,
        class_names,
        source,
        model_name=model.variant_name,
        own_names=model.class_names,
        class_tensors=ClassTensors(names, reset),
    )
