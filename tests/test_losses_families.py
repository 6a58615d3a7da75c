"""What the families give the losses that are chosen for them."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from detloom.detector import Targets
from detloom.specs import QUALITY_FLOOR
from detloom.train.assemble import create_model
from run_tools import ChosenDetector, configured, lab_host
from yolox_tools import LOSSES, build


@pytest.mark.parametrize(
    ("name", "wanted"), [(None, False), ("ce", False), ("varifocal", True), ("mal", True), ("ia_bce", True)]
)
def test_a_family_is_told_that_the_chosen_loss_learns_overlaps(name: str | None, wanted: bool) -> None:
    host = lab_host()
    resolved = configured({"model.type": "lab-losses", "loss.classification": name, "training.resolution": 64}, host)
    model = create_model(resolved, ["cat", "dog"], host)
    assert isinstance(model, ChosenDetector) and model.context.quality_targets is wanted
    assert model.context.loss_weights == {"classification": 1.0, "box": 5.0, "distribution": 1.5}


def given_by_yolox(quality: bool, shift: float) -> tuple[float, float, int]:
    """Of what a class loss is given for matched anchors: how many values are above 0, their sum, and the matches.
    shift: of each proposed box, in cells."""
    torch.manual_seed(1)
    images = torch.randint(0, 256, (1, 3, 64, 96), dtype=torch.uint8)
    truth = Targets(torch.tensor([[[8.0, 8, 40, 40], [50, 20, 70, 60]]]), torch.tensor([[2, 0]]))
    found = []
    for seen in (lambda logits, targets: (targets > 0).float(), lambda logits, targets: targets):
        losses = {**LOSSES, "classification": seen}
        model = build(classes=("a", "b", "c"), losses=losses, quality_targets=quality).train()
        for layer in model.head.reg_preds:
            assert isinstance(layer, nn.Conv2d) and layer.bias is not None
            nn.init.zeros_(layer.weight)
            layer.bias.data = torch.tensor([shift, 0, 1.5, 1.5])
        terms = model.loss(model(images), truth)
        found.append(float(terms.terms["loss_cls"].detach()))
    return found[0], found[1], int(terms.normaliser)


def test_yolox_gives_overlaps_to_every_loss() -> None:
    plain, asked = given_by_yolox(False, 0.0), given_by_yolox(True, 0.0)
    assert plain == asked
    count, total, matches = plain
    assert count == matches >= 2, "one value a match"
    assert 0.1 * matches < total < matches


def test_yolox_keeps_overlaps_above_nothing_for_losses_that_ask() -> None:
    """Boxes far off match all the same: each object learns from one anchor at least."""
    count, total, matches = given_by_yolox(False, 40.0)
    assert (count, total) == (0, 0) and matches == 2
    count, total, matches = given_by_yolox(True, 40.0)
    assert count == matches == 2 and total == pytest.approx(2 * QUALITY_FLOOR)
