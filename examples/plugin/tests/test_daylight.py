"""Run with `pytest` where detloom and this package are installed."""

import daylight.plugin
import numpy as np
import torch

import detloom
from detloom.testing import host_with, problems


def test_the_plugin_keeps_the_contract():
    assert problems(daylight.plugin) == []


def test_dimming_takes_light_and_leaves_boxes_alone():
    host = host_with(daylight=daylight.plugin)
    spec = host.get(detloom.AugmentationSpec, "daylight:dim")
    dim = spec.build(spec.settings())
    boxes = np.array([[1, 1, 3, 3]], dtype=np.float32)
    sample = detloom.Sample(np.full((4, 4, 3), 200, np.uint8), boxes, np.zeros(1, np.int64), canvas=(4, 4))
    dimmed = dim(sample, np.random.default_rng(0), ())
    assert 100 <= dimmed.image.max() < 200 and (dimmed.boxes == boxes).all()


def test_the_loss_is_quadratic_below_a_pixel_and_linear_above():
    host = host_with(daylight=daylight.plugin)
    loss = host.get(detloom.LossSpec, "smooth-l1").build(None)
    target = torch.zeros(2, 4)
    predicted = torch.tensor([[0.5, 0.5, 0.5, 0.5], [3.0, 3.0, 3.0, 3.0]])
    assert loss(predicted, target).tolist() == [0.125, 2.5]
