"""A family of detectors: `dots`, one box a cell."""

import detloom


def settings():
    from typing import Annotated

    from pydantic import Field

    class DotsSettings(detloom.Settings):
        """Dots."""

        channels: Annotated[int, Field(ge=1, description="width of the network")] = 8

    return DotsSettings()


def build(settings, context):
    from orchard.network import Dots

    return Dots(settings, context)


@detloom.hookimpl
def detloom_models():
    yield detloom.ModelSpec(
        name="dots-s",
        family="dots",
        summary="one box a cell of 16 pixels",
        licence="MIT",
        settings=settings,
        build=build,
        recipe={"training.lr": 0.01, "training.resolution": 64, "training.warmup_epochs": 0, "loss.box_weight": 2},
        loss_roles={"classification": "bce", "box": "giou"},
        size_divisor=16,
    )
