"""Cross-entropy of class scores with label smoothing (Szegedy et al. 2016)."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from detloom.hookspecs import hookimpl
from detloom.specs import LossSpec

if TYPE_CHECKING:
    from detloom.detector import ElementLoss

    from .settings import CrossEntropySettings

detloom_api = (0, 1)


def ce_settings() -> CrossEntropySettings:
    from .settings import CrossEntropySettings

    return CrossEntropySettings()


def build(chosen: CrossEntropySettings) -> ElementLoss:
    """(logits [N, C], targets [N, C] in 0..1) -> [N, C].

    Of sigmoids, one a class: every family here reads its scores so, and a softmax would leave their level open.
    """
    from functools import partial

    from detloom.losses import smooth_cross_entropy

    return partial(smooth_cross_entropy, label_smoothing=chosen.label_smoothing)


@hookimpl
def detloom_losses() -> Iterable[LossSpec]:
    return [
        LossSpec(
            name="ce",
            summary="binary cross-entropy of class scores with label smoothing",
            role="classification",
            settings=ce_settings,
            build=build,
        )
    ]
