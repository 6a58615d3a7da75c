"""What the families give the losses that are chosen for them."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from detloom.boxes import pairwise_iou
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


@pytest.mark.parametrize("quality", [False, True])
@pytest.mark.parametrize("off", [False, True], ids=["boxes that fit", "boxes far off"])
def test_yolox_gives_overlaps_and_keeps_them_above_nothing_for_losses_that_ask(quality: bool, off: bool) -> None:
    seen: list[Tensor] = []

    def noting(logits: Tensor, targets: Tensor) -> Tensor:
        seen.append(targets.detach())
        return logits * 0

    torch.manual_seed(1)
    losses = {**LOSSES, "classification": noting}
    model = build(classes=("a", "b", "c"), losses=losses, quality_targets=quality).train()
    for layer in model.head.reg_preds:
        assert isinstance(layer, nn.Conv2d) and layer.bias is not None
        nn.init.zeros_(layer.weight)
        layer.bias.data = torch.tensor([40.0 if off else 0.0, 0, 1, 1])
    truth = torch.tensor([[[8.0, 8, 40, 40], [50, 20, 70, 60]]])
    images = torch.randint(0, 256, (1, 3, 64, 96), dtype=torch.uint8)
    outputs = model(images)
    terms = model.loss(outputs, Targets(truth, torch.tensor([[2, 0]])))

    (targets,) = seen
    matched = targets.sum(-1) > 0
    assert not bool(targets[:, 1].any()), "no object is of this class"
    if off:
        assert int(matched.sum()) == (int(terms.normaliser) if quality else 0)
        assert not quality or set(targets[matched].sum(-1).tolist()) == {pytest.approx(QUALITY_FLOOR)}
        return
    assert int(matched.sum()) == int(terms.normaliser) >= 2
    overlaps = pairwise_iou(truth[0], model.decode(outputs).boxes[0])
    for column, row in ((2, 0), (0, 1)):
        values = targets[targets[:, column] > 0, column]
        assert len(values) and all(float((overlaps[row] - value).abs().min()) < 1e-5 for value in values)
