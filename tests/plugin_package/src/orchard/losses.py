"""Two losses: `brier` for classes, `sides` for boxes. Each counts its calls; the counts are saved with the run."""

import detloom


class Counted:
    def __init__(self, settings):
        self.settings, self.calls = settings, 0

    def state_dict(self):
        return {"calls": self.calls}

    def load_state_dict(self, state):
        self.calls = state["calls"]


class Brier(Counted):
    def __call__(self, logits, targets):
        self.calls += 1
        return (logits.sigmoid() - targets) ** 2


class Sides(Counted):
    def __call__(self, predicted, target):
        self.calls += 1
        return (predicted - target).abs().mean(dim=-1) / self.settings.unit_px


def sides_settings():
    from typing import Annotated

    from pydantic import Field

    class SidesSettings(detloom.Settings):
        """Sides."""

        unit_px: Annotated[float, Field(gt=0, description="distance that costs 1")] = 32.0

    return SidesSettings()


@detloom.hookimpl
def detloom_losses():
    yield detloom.LossSpec(name="brier", summary="Brier score", role="classification", build=Brier)
    yield detloom.LossSpec(
        name="sides", summary="distance of the sides", role="box", settings=sides_settings, build=Sides
    )
