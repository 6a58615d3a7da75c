"""Settings of the RF-DETR family: `model.rf_detr`."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field  # noqa: TID253 - imported only when somebody asks for the settings

from detloom_plugins.models._detr.settings import NotNegative, QuerySettings


class RfDetrSettings(QuerySettings):
    """RF-DETR (Robinson et al. 2025). The defaults are the original's."""

    backend: Annotated[
        Literal["transformers", "rfdetr"],
        Field(
            description="who builds the network: transformers, or the original package (`pip install "
            "'detloom[rfdetr]'`, with torchvision); weights of either load into both"
        ),
    ] = "transformers"
    group_detr: Annotated[
        int,
        Field(
            ge=1,
            le=50,
            description="sets of queries in training, each matched by itself (Group DETR); one is used afterwards",
        ),
    ] = 13


class RfDetrSegSettings(RfDetrSettings):
    """RF-DETR with masks: weights of the mask terms, in the loss and in the matching."""

    mask_weight: Annotated[NotNegative, Field(description="factor of the cross-entropy of mask points")] = 5.0
    dice_weight: Annotated[NotNegative, Field(description="factor of the dice term of masks")] = 5.0
    mask_cost: Annotated[NotNegative, Field(description="matching: weight of the masks' cross-entropy")] = 5.0
    dice_cost: Annotated[NotNegative, Field(description="matching: weight of the masks' dice distance")] = 5.0
    mask_point_ratio: Annotated[
        int, Field(ge=1, le=64, description="one point is looked at for this many pixels of the mask")
    ] = 16
