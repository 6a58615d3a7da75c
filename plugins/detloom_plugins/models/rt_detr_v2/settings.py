"""Settings of the RT-DETRv2 family: `model.rt_detr_v2`."""

from __future__ import annotations

from detloom_plugins.models._detr.settings import DenoisingSettings


class RtDetrV2Settings(DenoisingSettings):
    """RT-DETRv2 (Lv et al. 2024). The defaults are the original's."""
