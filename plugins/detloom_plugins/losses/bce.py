"""Binary cross-entropy for class scores."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from detloom.hookspecs import hookimpl
from detloom.specs import LossSpec

if TYPE_CHECKING:
    from detloom.detector import ElementLoss
    from detloom_schemas.base import Settings

detloom_api = (0, 1)


def build(settings: Settings) -> ElementLoss:
    """(logits [N, C], targets [N, C] in 0..1) -> [N, C]."""
    from functools import partial

    from torch.nn.functional import binary_cross_entropy_with_logits

    return partial(binary_cross_entropy_with_logits, reduction="none")


@hookimpl
def detloom_losses() -> Iterable[LossSpec]:
    return [LossSpec(name="bce", summary="binary cross-entropy of class scores", role="classification", build=build)]
