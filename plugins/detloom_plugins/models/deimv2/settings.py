"""Settings of the DEIMv2 family: `model.deimv2`."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field  # noqa: TID253 - imported only when somebody asks for the settings

from detloom_plugins.models._d_fine.settings import DistributionSettings


class Deimv2Settings(DistributionSettings):
    """DEIMv2 (Huang et al. 2025). The defaults are the original's of the middle sizes."""

    late_matching: Annotated[
        float,
        Field(
            ge=0,
            le=1,
            description="share of the epochs, at the end, in which objects go to the queries with the highest product "
            "of class score and IoU to the power of 4; 0: never",
        ),
    ] = 0.2
