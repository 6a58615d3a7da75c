"""Makes `import torchvision` work over a torch for processors.

Its wheels are built for CUDA, and their compiled part does not load without CUDA's libraries: then the two operators
whose shapes it declares in Python do not exist, and its import stops. Declared here, they let everything through that
is written in Python. Only for tests: nothing here is the product's business.
"""

from __future__ import annotations

import importlib
import importlib.util

import torch

_kept: list[torch.library.Library] = []


def usable_torchvision() -> bool:
    """False where there is no torchvision at all. A real one stays as it is."""
    if importlib.util.find_spec("torchvision") is None:
        return False
    if torch.version.cuda is None and not _kept:
        library = torch.library.Library("torchvision", "DEF")
        for name in ("nms", "qnms"):
            library.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        _kept.append(library)
    importlib.import_module("torchvision")
    return True
