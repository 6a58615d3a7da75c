"""A box loss: smooth L1 of the four sides, in pixels (Girshick 2015, eq. 3)."""

import detloom


def build(settings):
    from torch.nn.functional import smooth_l1_loss

    return lambda predicted, target: smooth_l1_loss(predicted, target, reduction="none").mean(dim=-1)


@detloom.hookimpl
def detloom_losses():
    yield detloom.LossSpec(name="smooth-l1", summary="smooth L1 of the sides", role="box", build=build)
