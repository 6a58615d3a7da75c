"""What the entry point names. Light: nothing heavy is imported until a run builds something."""

from daylight.best_note import detloom_epoch_finished
from daylight.dim import detloom_augmentations
from daylight.smooth_l1 import detloom_losses

detloom_api = (0, 1)

__all__ = ["detloom_api", "detloom_augmentations", "detloom_epoch_finished", "detloom_losses"]
