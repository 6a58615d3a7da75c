"""Settings of the families whose boxes are distributions."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field  # noqa: TID253 - imported only when somebody asks for the settings

from detloom_plugins.models._detr.settings import DenoisingSettings, NotNegative


class DistributionSettings(DenoisingSettings):
    """With sides of boxes as distributions, weighted by `loss.distribution_weight` (D-FINE's FDR and GO-LSD)."""

    distillation_weight: Annotated[
        NotNegative, Field(description="factor of the term by which the last decoder layer teaches the others; 0: none")
    ] = 1.5
    matching_union: Annotated[
        bool,
        Field(
            description="boxes of a decoder layer learn from the pairs of all layers; false: from its own pairs only"
        ),
    ] = True
