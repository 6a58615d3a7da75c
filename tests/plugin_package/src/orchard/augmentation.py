"""An augmentation that wants one other sample and lays it over the picture."""

from dataclasses import replace

import detloom


def settings():
    from typing import Annotated

    from pydantic import Field

    class BlendSettings(detloom.Settings):
        """Blend."""

        strength: Annotated[float, Field(ge=0, le=1, description="share of the other picture")] = 0.5

    return BlendSettings()


class Blend:
    """Counts what it was given; the count is saved with the run."""

    def __init__(self, settings):
        self.strength, self.samples, self.extras = settings.strength, 0, 0

    def __call__(self, sample, rng, extras):
        (other,) = extras
        self.samples, self.extras = self.samples + 1, self.extras + len(extras)
        height, width = (min(a, b) for a, b in zip(sample.image.shape[:2], other.image.shape[:2], strict=True))
        image, share = sample.image.copy(), self.strength * rng.random()
        image[:height, :width] = (1 - share) * image[:height, :width] + share * other.image[:height, :width]
        return replace(sample, image=image)

    def state_dict(self):
        return {"samples": self.samples, "extras": self.extras}

    def load_state_dict(self, state):
        self.samples, self.extras = state["samples"], state["extras"]


@detloom.hookimpl
def detloom_augmentations():
    yield detloom.AugmentationSpec(
        name="blend", summary="another picture shines through", settings=settings, build=Blend, extras=1
    )
