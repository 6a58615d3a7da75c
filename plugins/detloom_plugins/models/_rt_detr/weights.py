"""Published files of RT-DETR and RT-DETRv2."""

from __future__ import annotations

from detloom.specs import WeightsFile
from detloom_plugins.models._coco_names import COCO_NAMES

HUB = "https://huggingface.co/PekingU"


def weights_file(repository: str) -> WeightsFile:
    # The hub gives no checksum in a stable place: the file is read whole before it is kept, and its hash recorded.
    return WeightsFile(
        name=f"{repository}.safetensors",
        url=f"{HUB}/{repository}/resolve/main/model.safetensors",
        licence="Apache-2.0",
        class_names=COCO_NAMES,
    )
