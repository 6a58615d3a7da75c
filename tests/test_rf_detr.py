"""RF-DETR against the library's own network and loss."""

from __future__ import annotations

import os
from typing import Any

import pytest
import torch
from torch import Tensor

from detloom.boxes import to_cxcywh
from detloom.detector import Targets
from detloom.errors import ConfigError, PluginError
from detloom.model import input_size
from detloom.specs import ModelSpec
from detloom_plugins.models.rf_detr.detector import RfDetrDetector
from detloom_plugins.models.rf_detr.network import configuration
from detloom_plugins.models.rf_detr.variants import refusal
from detloom_schemas.config import TrainingConfig
from detr_tools import HOST, build, drawn_batch
from loop_tools import Recorder, batches, make_loop
from rf_detr_tools import BOXES, FAMILY, MASKS, SEG_FAMILY, SETTINGS, ellipses

os.environ.setdefault("HF_HUB_OFFLINE", "1")
import transformers


def library_network(detector: RfDetrDetector) -> Any:
    """The library's own module, untouched, with the detector's weights."""
    kind = transformers.RfDetrForInstanceSegmentation if detector.masks else transformers.RfDetrForObjectDetection
    variant = MASKS if detector.masks else BOXES
    settings = HOST.get(ModelSpec, "rf_detr-seg-nano" if detector.masks else "rf_detr-nano").settings()
    network = kind(configuration(transformers, variant, settings.model_copy(update=SETTINGS), 3))
    network.load_state_dict(detector.network.state_dict(), strict=True)
    return network.train(detector.training)


def stirred(detector: Any) -> Any:
    """Heads that give every query scores and boxes of its own, as trained ones do."""
    torch.manual_seed(5)
    for layer in detector.class_layers().values():
        torch.nn.init.normal_(layer.weight, std=0.3)
    for head in (detector.detection.bbox_embed, *detector.detection.model.enc_out_bbox_embed):
        torch.nn.init.normal_(head.layers[-1].weight, std=0.05)
    return detector


def labels_of(targets: Targets, size: tuple[int, int]) -> list[dict[str, Tensor]]:
    """As the library wants them."""
    found = []
    scale = torch.tensor([size[1], size[0], size[1], size[0]])
    for boxes, labels in zip(targets.boxes, targets.labels, strict=True):
        kept = labels >= 0
        found.append({"class_labels": labels[kept], "boxes": to_cxcywh(boxes[kept]) / scale})
    return found


# --- the network ---


@pytest.mark.parametrize("family", [FAMILY, SEG_FAMILY], ids=["boxes", "masks"])
def test_a_square_picture_gives_the_librarys_outputs(family: Any) -> None:
    detector = stirred(build(family)).eval()
    images, _ = ellipses()
    with torch.inference_mode():
        ours = detector(images)
        theirs = library_network(detector)(detector.normalise(images))
    torch.testing.assert_close(ours.logits, theirs.logits)
    torch.testing.assert_close(ours.boxes, theirs.pred_boxes)
    if detector.masks:
        assert ours.masks.shape == (2, 20, 24, 24)
        torch.testing.assert_close(ours.masks, theirs.pred_masks)


@pytest.mark.parametrize("size", [(96, 96), (96, 144), (144, 96), (32, 192)])
def test_every_patch_comes_out_where_it_went_in(size: tuple[int, int]) -> None:
    """The library's way back from windows undoes our way in, for every ratio."""
    backbone: Any = build(FAMILY).backbone()
    embeddings = backbone.embeddings
    pixels = torch.randn(2, 3, *size)
    windows = embeddings(pixels)
    rows, columns = size[0] // 8, size[1] // 8
    assert windows.shape == (8, 1 + rows * columns // 4, 64)
    back = backbone.window_unpartition(windows[:, 1:], *size).reshape(2, rows * columns, 64)
    wanted = embeddings.patch_embeddings(pixels) + embeddings.positions(rows, columns)[:, 1:]
    torch.testing.assert_close(back, wanted)
    # A window is a piece of the picture: the first one begins in its top left corner and goes on below it.
    first = wanted[0].view(rows, columns, 64)[: rows // 2, : columns // 2].flatten(0, 1)
    torch.testing.assert_close(windows[0, 1:], first)


@pytest.mark.parametrize("size", [(96, 96), (192, 96), (48, 160)])
def test_positions_for_other_sizes_are_resampled_as_the_library_does(size: tuple[int, int]) -> None:
    detector: Any = build(FAMILY)
    torch.nn.init.normal_(detector.backbone().embeddings.position_embeddings)
    rows, columns = size[0] // 8, size[1] // 8
    ours = detector.backbone().embeddings.positions(rows, columns)
    theirs = library_network(detector).model.backbone.backbone.embeddings
    wanted = theirs.interpolate_pos_encoding(torch.zeros(1, 1 + rows * columns, 64), *size)
    torch.testing.assert_close(ours, wanted)


def test_a_fixed_size_computes_the_same() -> None:
    detector: Any = stirred(build(FAMILY, size=(96, 144))).eval()
    images = torch.randint(0, 256, (2, 3, 96, 144), dtype=torch.uint8)
    with torch.inference_mode():
        before = detector(images)
        detector.fix_size()
        after = detector(images)
    torch.testing.assert_close(after.boxes, before.boxes, rtol=0, atol=0)
    assert not any("_fixed" in name for name in detector.state_dict())


# --- the loss ---


def test_the_loss_of_boxes_and_its_gradient_are_the_librarys() -> None:
    """Matching, groups, first stage and earlier layers included."""
    detector: Any = stirred(build(FAMILY)).train()
    images, targets = drawn_batch((96, 96), objects=(3, 1))
    network = library_network(detector)
    theirs = network(detector.normalise(images), labels=labels_of(targets, (96, 96)))
    terms = detector.loss(detector(images, targets), targets)
    total = terms.total / terms.normaliser
    total.backward()
    theirs.loss.backward()
    torch.testing.assert_close(total, theirs.loss)
    parts = theirs.loss_dict
    wanted = {"loss_cls": parts["loss_ce"], "loss_l1": 5 * parts["loss_bbox"], "loss_box": 2 * parts["loss_giou"]}
    for name, suffix in (("loss_aux", "_0"), ("loss_encoder", "_enc")):
        wanted[name] = parts[f"loss_ce{suffix}"] + 5 * parts[f"loss_bbox{suffix}"] + 2 * parts[f"loss_giou{suffix}"]
    assert terms.terms.keys() == wanted.keys()
    for name, value in wanted.items():
        torch.testing.assert_close(terms.terms[name] / terms.normaliser, value)
    ours = dict(detector.network.named_parameters())
    for name, parameter in network.named_parameters():
        if parameter.grad is not None:
            torch.testing.assert_close(ours[name].grad, parameter.grad, rtol=1e-3, atol=1e-5)


def test_one_group_is_judged_in_evaluation() -> None:
    detector: Any = stirred(build(FAMILY)).eval()
    images, targets = drawn_batch((96, 96), objects=(2, 2))
    with torch.inference_mode():
        terms = detector.loss(detector(images), targets)
        network = library_network(detector)
        network.config.group_detr = 1  # the library's loss cuts the one group of an evaluation into all of them
        theirs = network(detector.normalise(images), labels=labels_of(targets, (96, 96)))
    torch.testing.assert_close(terms.total / terms.normaliser, theirs.loss)


def test_the_number_of_groups_does_not_change_the_scale_of_the_loss() -> None:
    images, targets = drawn_batch((96, 96))
    totals = []
    for groups in (1, 8):
        torch.manual_seed(0)
        detector = build(FAMILY, group_detr=groups).train()
        with torch.no_grad():
            totals.append(float(detector.loss(detector(images, targets), targets).total))
    assert totals[1] == pytest.approx(totals[0], rel=0.2)


@pytest.mark.parametrize("family", [FAMILY, SEG_FAMILY], ids=["boxes", "masks"])
def test_pictures_without_objects_teach_that_nothing_is_there(family: Any) -> None:
    detector = build(family).train()
    images, _ = ellipses()
    targets = Targets(torch.zeros(2, 1, 4), torch.full((2, 1), -1), torch.zeros(2, 1, 96, 96, dtype=torch.uint8))
    terms = detector.loss(detector(images, targets), targets)
    assert float(terms.normaliser) == 0
    assert float(terms.terms["loss_cls"].detach()) > 0
    assert all(float(terms.terms[f"loss_{name}"].detach()) == 0 for name in ("l1", "box"))
    terms.total.backward()
    assert all(p.grad is None or bool(p.grad.isfinite().all()) for p in detector.parameters())


# --- sizes ---


@pytest.mark.parametrize(
    ("name", "size", "smallest"),
    [("rf_detr-nano", (256, 256), "288x288"), ("rf_detr-base", (224, 224), "280x280")],
)
def test_an_input_with_fewer_patches_than_queries_is_refused_with_the_smallest(
    name: str, size: tuple[int, int], smallest: str
) -> None:
    spec = HOST.get(ModelSpec, name)
    from detloom.specs import ModelContext

    with pytest.raises(ConfigError) as raised:
        spec.build(spec.settings(), ModelContext(("a",), size))
    assert f"smallest square is {smallest}" in str(raised.value) and "300 queries" in str(raised.value)


def test_sizes_are_multiples_of_patches_and_windows() -> None:
    divisors = {spec.name: spec.size_divisor for spec in HOST.specs(ModelSpec) if spec.family == "rf_detr"}
    assert divisors == {
        "rf_detr-nano": 32,
        "rf_detr-small": 32,
        "rf_detr-medium": 32,
        "rf_detr-base": 56,
        "rf_detr-large": 32,
        "rf_detr-seg-nano": 12,
        "rf_detr-seg-small": 24,
        "rf_detr-seg-medium": 24,
        "rf_detr-seg-large": 24,
        "rf_detr-seg-preview": 24,
    }
    for spec in HOST.specs(ModelSpec):
        if spec.family == "rf_detr":
            assert int(str(spec.recipe["training.resolution"])) % spec.size_divisor == 0


def test_a_number_that_does_not_fit_becomes_the_nearest_and_a_pair_is_refused() -> None:
    base, yolox = HOST.get(ModelSpec, "rf_detr-base"), HOST.get(ModelSpec, "yolox-s")
    assert input_size(640, base) == (616, 616) and input_size(650, base) == (672, 672)
    assert input_size((560, 1008), base) == (560, 1008)
    with pytest.raises(ConfigError, match="the nearest is 616x1008"):
        input_size((640, 1008), base)
    with pytest.raises(ConfigError, match="the nearest is 640x640"):
        input_size(650, yolox)


def test_multi_scale_training_below_the_smallest_size_is_refused_before_it_starts() -> None:
    detector = build(FAMILY)
    assert [bool(detector.check_size(size)) for size in ((32, 32), (32, 40), (40, 40), (96, 96))] == [
        True, False, False, False,
    ]  # fmt: skip
    config = TrainingConfig(multi_scale=True, scale_min=32)
    with pytest.raises(ConfigError) as raised:
        make_loop(config, batches(1), Recorder(), detector=detector)
    told = "32x32 cannot be trained at: 32x32 has 16 patches of 8 pixels, fewer than the 20 queries"
    assert f"training.scale_min: {told}" in str(raised.value)
    assert "the smallest that can is 48" in str(raised.value)
    loop = make_loop(config.model_copy(update={"scale_min": 48}), batches(1), Recorder(), detector=detector)
    assert loop.parts.scales is not None and min(loop.parts.scales.sizes) == (48, 48)


# --- names ---


@pytest.mark.parametrize(
    ("alias", "name"),
    [
        ("nano", "rf_detr-nano"),
        ("small", "rf_detr-small"),
        ("medium", "rf_detr-medium"),
        ("base", "rf_detr-base"),
        ("large", "rf_detr-large"),
        ("segpreview", "rf_detr-seg-preview"),
        ("seg-preview", "rf_detr-seg-preview"),
        ("seg-nano", "rf_detr-seg-nano"),
    ],
)
def test_a_size_alone_names_a_model(alias: str, name: str) -> None:
    assert HOST.get(ModelSpec, alias) is HOST.get(ModelSpec, name)


@pytest.mark.parametrize("name", ["rf_detr-xl", "rf_detr-2xl", "rf_detr-seg-xlarge", "xlarge", "seg-2xl", "xxlarge"])
def test_the_sizes_under_another_licence_are_refused_by_name(name: str) -> None:
    with pytest.raises(PluginError, match="Platform Model License") as raised:
        HOST.get(ModelSpec, name)
    assert name in raised.value.message and "rf_detr-large" in str(raised.value.hint)


def test_every_way_of_writing_the_sizes_under_another_licence_is_known_and_no_other_name_is() -> None:
    sizes = {"XL": ("xl", "xlarge"), "2XL": ("2xl", "2xlarge", "xxl", "xxlarge")}
    for size, names in sizes.items():
        for name in (f"{prefix}{name}" for prefix in ("rf_detr-", "rf_detr-seg-", "seg-", "seg", "") for name in names):
            assert f"{name} cannot be had: RF-DETR {size} is published" in refusal(name)
    for other in ("large", "rf_detr-large", "yolox-xl", "xlx", "d_fine-xlarge", "x", "seg", "rf_detr-seg-preview"):
        assert refusal(other) == ""
