"""Settings that all DETR families have."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field  # noqa: TID253 - imported only when somebody asks for the settings

from detloom_schemas.base import Settings

NotNegative = Annotated[float, Field(ge=0)]


class QuerySettings(Settings):
    """A transformer with a fixed number of queries: matching and weights of its terms (Carion et al. 2020)."""

    num_queries: Annotated[
        int, Field(ge=1, le=3000, description="boxes that the decoder proposes; more than the fullest image has")
    ] = 300
    l1_weight: Annotated[NotNegative, Field(description="factor of the L1 term on box centres and sides")] = 5.0
    class_cost: Annotated[NotNegative, Field(description="matching: weight of the class score")] = 2.0
    l1_cost: Annotated[NotNegative, Field(description="matching: weight of the L1 distance of the boxes")] = 5.0
    overlap_cost: Annotated[NotNegative, Field(description="matching: weight of the generalised IoU")] = 2.0


class DetrSettings(QuerySettings):
    """With a convolutional backbone: its batch norms can be frozen."""

    freeze_norm: Annotated[
        bool,
        Field(
            description="keep the backbone's batch norms as they were loaded: for batches of few images; leave it off "
            "when training starts from random weights"
        ),
    ] = False


class DenoisingSettings(DetrSettings):
    """With denoising: noisy copies of the objects are queries that the decoder has to put right."""

    num_denoising: Annotated[
        int, Field(ge=0, le=1000, description="denoising: about this many noisy copies in an image; 0: none")
    ] = 100
    label_noise: Annotated[
        float, Field(ge=0, le=1, description="denoising: half of this share of the copies gets a random class")
    ] = 0.5
    box_noise: Annotated[
        NotNegative, Field(description="denoising: how far edges move, in halves of the box's side")
    ] = 1.0
