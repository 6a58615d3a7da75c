"""Pretrained weights of YOLOX: what is taken, copied by class name, reset or refused."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

from detloom.errors import WeightsError
from detloom.weights import read_weights
from detloom_plugins.models._coco_names import COCO_NAMES
from yolox_tools import build

PRIOR_LOGIT = -4.59511985


@pytest.fixture(scope="module")
def donor() -> dict[str, Tensor]:
    """State of a small trained-looking model with the classes cat, dog, bird."""
    torch.manual_seed(1)
    model = build(classes=("cat", "dog", "bird"))
    with torch.no_grad():
        for tensor in model.state_dict().values():
            if tensor.is_floating_point():
                tensor.add_(torch.rand_like(tensor))
    return {key: value.clone() for key, value in model.state_dict().items()}


def test_the_official_file_loads_whole_for_the_same_classes(data_dir: Path) -> None:
    file = data_dir / "weights/yolox_nano_coco.pth"
    state = read_weights(file)
    model = build()
    report = model.load_pretrained(state, COCO_NAMES, file.name)
    assert (report.loaded, report.total) == (642, 642)
    assert report.lines() == ["weights: yolox_nano_coco.pth: 642 of 642 tensors loaded"]
    assert all(torch.equal(value, state[key]) for key, value in model.state_dict().items())


def test_class_rows_follow_their_names(donor: dict[str, Tensor]) -> None:
    model = build(classes=("Bird ", "zebra", "CAT"))
    report = model.load_pretrained(donor, ("cat", "dog", "bird"), "file")
    assert (report.loaded, report.total) == (636, 642)
    assert report.copied == ("Bird ", "CAT") and report.reset == ("zebra",)
    for level in range(3):
        for part in ("weight", "bias"):
            own, file = model.state_dict()[f"head.cls_preds.{level}.{part}"], donor[f"head.cls_preds.{level}.{part}"]
            assert torch.equal(own[0], file[2]) and torch.equal(own[2], file[0])
        assert float(model.state_dict()[f"head.cls_preds.{level}.bias"][1]) == pytest.approx(PRIOR_LOGIT)


def test_rows_of_new_classes_start_anew_even_in_a_trained_model(donor: dict[str, Tensor]) -> None:
    model = build(classes=("zebra", "dog"))
    with torch.no_grad():
        for layer in model.head.cls_preds:
            for parameter in layer.parameters():
                parameter.fill_(7.0)
    model.load_pretrained(donor, ("cat", "dog", "bird"), "file")
    for layer in model.head.cls_preds:
        weight, bias = layer.state_dict()["weight"], layer.state_dict()["bias"]
        assert float(weight[0].abs().max()) < 1 and float(bias[0]) == pytest.approx(PRIOR_LOGIT)


def test_unknown_class_names_reset_the_class_rows(donor: dict[str, Tensor]) -> None:
    report = build(classes=("cat", "dog", "bird")).load_pretrained(donor, (), "file")
    assert report.loaded == 636 and report.copied == () and report.reset == ("cat", "dog", "bird")


def test_missing_odd_and_unexpected_tensors_are_reported(donor: dict[str, Tensor]) -> None:
    state = dict(donor, extra=torch.zeros(1))
    del state["head.reg_preds.0.bias"]
    state["head.reg_preds.1.bias"] = torch.zeros(5)
    report = build(classes=("cat", "dog", "bird")).load_pretrained(state, ("cat", "dog", "bird"), "file")
    assert report.loaded == 640
    assert report.missing == ("head.reg_preds.0.bias",) and report.unexpected == ("extra",)
    assert report.mismatched == ("head.reg_preds.1.bias [5], not [4]",)


def test_another_variant_is_refused_and_the_model_stays_as_it_was() -> None:
    torch.manual_seed(0)
    model = build("nano", classes=("a",))
    before = {key: value.clone() for key, value in model.state_dict().items()}
    for other in ("tiny", "s"):
        state = build(other, classes=("a",)).state_dict()
        with pytest.raises(
            WeightsError, match=r"does not hold weights of yolox-nano.*\n.*backbone\.backbone"
        ) as caught:
            model.load_pretrained(state, ("a",), "file.pth")
        assert "file.pth" in str(caught.value) and "other shape: backbone.backbone.stem" in str(caught.value)
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())


def test_the_smaller_of_two_alike_variants_is_refused() -> None:
    with torch.device("meta"):
        small, large = build("tiny", classes=("a",)), build("s", classes=("a",))
    with pytest.raises(WeightsError, match="not hold weights of yolox-s"):
        large.load_pretrained(small.state_dict(), ("a",), "tiny.pth")


def test_weights_of_another_family_are_refused(data_dir: Path) -> None:
    state = read_weights(data_dir / "weights/fastestdet_coco_ap05_0.2532.pth")
    with pytest.raises(WeightsError, match="532 tensors are missing"):
        build().load_pretrained(state, COCO_NAMES, "fastestdet.pth")


def test_class_rows_of_unknown_names_are_reset_and_the_rest_is_taken(donor: dict[str, Tensor]) -> None:
    """A file that somebody trained on three classes of their own: the 80 published names are not its."""
    model = build(classes=("person",))
    report = model.load_pretrained(donor, COCO_NAMES, "file")
    assert (report.loaded, report.copied, report.reset) == (636, (), ("person",))
    assert torch.equal(
        model.state_dict()["backbone.backbone.stem.conv.conv.weight"], donor["backbone.backbone.stem.conv.conv.weight"]
    )


def test_weights_that_are_not_finite_are_refused(donor: dict[str, Tensor]) -> None:
    state = {key: value.clone() for key, value in donor.items()}
    state["head.reg_preds.0.bias"][0] = torch.nan
    with pytest.raises(WeightsError, match=r"head\.reg_preds\.0\.bias holds values that are not finite"):
        build(classes=("a",)).load_pretrained(state, (), "file")
