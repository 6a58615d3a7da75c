"""Settings of the YOLOX family: `model.yolox`."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field  # noqa: TID253 - imported only when somebody asks for the settings

from detloom_schemas.base import Settings


class YoloxSettings(Settings):
    """YOLOX: assignment and losses (Ge et al. 2021). The defaults are the original's, but for
    `norm_momentum`."""

    objectness_weight: Annotated[float, Field(ge=0, description="factor of the objectness term")] = 1.0
    candidate_topk: Annotated[
        int, Field(ge=1, le=100, description="SimOTA: most anchors that one object can be given")
    ] = 10
    center_radius: Annotated[
        float,
        Field(gt=0, le=10, description="SimOTA: candidates lie this close to the object's centre, in strides"),
    ] = 1.5
    l1_frac: Annotated[
        float,
        Field(ge=0, le=1, description="share of the epochs, at the end, that add an L1 term on box sides"),
    ] = 0.05
    norm_momentum: Annotated[
        float,
        Field(
            gt=0,
            le=1,
            description="batch norm: share of the newest batch in the running statistics; the original's 0.03 is for "
            "trainings of 100,000 steps, and lags in one of a few hundred",
        ),
    ] = 0.1


class YoloxSegSettings(YoloxSettings):
    """YOLOX with masks (Bolya et al. 2019)."""

    mask_weight: Annotated[float, Field(ge=0, description="factor of the masks' cross-entropy")] = 6.125
    mask_candidates: Annotated[
        int,
        Field(ge=1, le=3000, description="anchors with the best scores that get a mask and enter the suppression"),
    ] = 200
