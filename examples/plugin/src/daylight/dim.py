"""An augmentation with a setting: `augmentation.plugins.dim.strength`."""

from dataclasses import replace

import detloom


class Dim:
    def __init__(self, strength):
        self.strength = strength

    def __call__(self, sample, rng, extras):
        light = 1 - self.strength * rng.random()
        return replace(sample, image=(sample.image * light).astype("uint8"))


def settings():
    from daylight.settings import DimSettings

    return DimSettings()


@detloom.hookimpl
def detloom_augmentations():
    yield detloom.AugmentationSpec(
        name="dim", summary="less light", settings=settings, build=lambda settings: Dim(settings.strength)
    )
