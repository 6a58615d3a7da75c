"""Settings of the RT-DETR family: `model.rt_detr`."""

from __future__ import annotations

from detloom_plugins.models._detr.settings import DenoisingSettings


class RtDetrSettings(DenoisingSettings):
    """RT-DETR (Zhao et al. 2024). The defaults are the original's."""
