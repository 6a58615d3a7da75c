"""Scale, move, turn and shear images at random."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from detloom.hookspecs import hookimpl
from detloom.specs import AugmentationSpec

if TYPE_CHECKING:
    from detloom.specs import Transform
    from detloom_schemas.base import Settings

detloom_api = (0, 1)


def _settings() -> Settings:
    from detloom_plugins.augmentations.affine.settings import RandomAffineSettings

    return RandomAffineSettings()


def _build(settings: Any) -> Transform:
    from detloom_plugins.augmentations.affine.transform import RandomAffine

    return RandomAffine(settings)


@hookimpl
def detloom_augmentations() -> Iterable[AugmentationSpec]:
    return [
        AugmentationSpec(
            name="affine", summary="random scale, translation, rotation and shear", settings=_settings, build=_build
        )
    ]
