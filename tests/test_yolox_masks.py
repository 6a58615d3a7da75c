"""YOLOX with masks: prototypes and coefficients against loops, learning, weights, files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from detloom.data.masks import decode_rle
from detloom.deploy import DetectorRuntime
from detloom.detector import Outputs, Targets
from detloom.specs import ExportRequest, ModelContext, ModelSpec
from detloom_plugins.exporters.onnx.settings import OnnxSettings
from detloom_plugins.exporters.onnx.writer import OnnxExporter
from detloom_plugins.models import yolox
from detloom_plugins.models._coco_names import COCO_NAMES
from detloom_plugins.models.yolox import segment
from detloom_plugins.models.yolox.detector import YoloxDetector
from detloom_plugins.models.yolox.segment import YoloxSegDetector
from detloom_plugins.models.yolox.settings import YoloxSegSettings
from detloom_plugins.runtimes.onnxruntime.session import OnnxRuntime
from detr_tools import drawn_batch, host_reads
from yolox_tools import LOSSES, VARIANTS
from yolox_tools import build as build_boxes

SIZE = (96, 128)
NAMES = ("red", "green", "blue")


def build(size: tuple[int, int] = SIZE, classes: tuple[str, ...] = NAMES, **settings: Any) -> YoloxSegDetector:
    torch.manual_seed(0)
    chosen = YoloxSegSettings(**settings)
    return yolox.build_seg(VARIANTS["nano"], chosen, ModelContext(classes, size, LOSSES))


def seen(model: YoloxSegDetector, images: Tensor) -> Outputs:
    """In evaluation, with values that are not all alike."""
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        outputs = model.eval()(images)
        assert outputs.masks is not None
        outputs.logits += torch.randn(outputs.logits.shape, generator=generator) * 3
        outputs.masks += torch.randn(outputs.masks.shape, generator=generator)
        outputs.boxes += torch.randn(outputs.boxes.shape, generator=generator) * 0.3
    return outputs


def test_the_best_anchors_keep_their_boxes_scores_and_masks() -> None:
    model, (images, _) = build(mask_candidates=7), drawn_batch(SIZE)
    outputs = seen(model, images)
    every = YoloxDetector.decode(model, outputs)
    found = model.decode(outputs)
    assert found.masks is not None and outputs.masks is not None
    assert found.boxes.shape == (2, 7, 4) and found.masks.shape == (2, 7, 24, 32)
    for image in range(2):
        rows = sorted(range(every.scores.shape[1]), key=lambda row: -float(every.scores[image, row].max()))[:7]
        torch.testing.assert_close(found.boxes[image], every.boxes[image, rows])
        torch.testing.assert_close(found.scores[image], every.scores[image, rows])
        for place, row in enumerate(rows):
            wanted = torch.zeros(24, 32) + outputs.masks[image, row, -1]
            for weight, picture in zip(outputs.masks[image, row], outputs.extra["prototypes"][image], strict=False):
                wanted += weight * picture
            left, top, right, bottom = every.boxes[image, row].tolist()
            for y, x in np.ndindex(24, 32):
                across, down = x * 4 + 2, y * 4 + 2
                inside = min(across - left, right - across, down - top, bottom - down)
                wanted[y, x] = min(float(wanted[y, x]), inside)
            torch.testing.assert_close(found.masks[image, place], wanted, rtol=1e-4, atol=1e-4)


def test_fewer_anchors_than_candidates_are_all_kept() -> None:
    model, (images, _) = build(), drawn_batch((32, 32), (1, 1))
    with torch.no_grad():
        assert model.eval().decode(model(images)).boxes.shape == (2, 16 + 4 + 1, 4)


def test_the_mask_term_is_the_mean_over_the_box_of_each_matched_anchor() -> None:
    model, (images, targets) = build(mask_weight=2.0), drawn_batch(SIZE, (3, 1))
    outputs = seen(model, images)
    terms = model.loss(outputs, targets)
    _, matches = model._loss.with_matches(outputs, targets, use_l1=False)
    assert outputs.masks is not None and targets.masks is not None
    total, count = 0.0, 0
    for image, place in matches.found.matched.nonzero().tolist():
        anchor, owner = int(matches.candidates.index[image, place]), int(matches.found.owner[image, place])
        logits = torch.einsum("k,khw->hw", outputs.masks[image, anchor, :-1], outputs.extra["prototypes"][image])
        logits = logits + outputs.masks[image, anchor, -1]
        truth = targets.masks[image, owner].float()
        small = (truth[1::4, 1::4] + truth[2::4, 2::4]) / 2
        left, top, right, bottom = targets.boxes[image, owner].tolist()
        pixels = [(y, x) for y, x in np.ndindex(24, 32) if left < x * 4 + 2 < right and top < y * 4 + 2 < bottom]
        values = [float(F.binary_cross_entropy_with_logits(logits[y, x], small[y, x])) for y, x in pixels]
        total, count = total + sum(values) / len(values), count + 1
    assert 4 <= count == int(terms.normaliser)
    assert float(terms.terms["loss_mask"]) == pytest.approx(2 * total, rel=1e-4)


def test_more_anchors_than_are_looked_at_count_as_many_as_they_are(monkeypatch: pytest.MonkeyPatch) -> None:
    """A sum over a few, enlarged: its mean over many choices is the sum over all."""
    model, (images, targets) = build(), drawn_batch(SIZE, (3, 3))
    outputs = seen(model, images)
    whole = float(model.loss(outputs, targets).terms["loss_mask"])
    monkeypatch.setattr(segment, "LEARNING", 2)
    model.training = True
    few = [float(model.loss(outputs, targets).terms["loss_mask"]) for _ in range(100)]
    assert np.std(few) > 0
    assert np.mean(few) == pytest.approx(whole, rel=0.1)


def test_a_training_step_reads_nothing_back_and_teaches_every_tensor() -> None:
    model, (images, targets) = build().train(), drawn_batch(SIZE)
    with host_reads() as reads:
        terms = model.loss(model(images, targets), targets)
        terms.total.backward()  # type: ignore[no-untyped-call]
    assert reads == []
    assert all(p.grad is not None and bool(p.grad.isfinite().all()) for p in model.parameters())
    head = model.mask_head
    shared = [*head.coarse.parameters(), *head.fine.parameters(), *head.prototypes.parameters()]
    assert all(float(p.grad.abs().sum()) > 0 for p in shared if p.grad is not None)
    levels = [
        sum(float(p.grad.abs().sum()) for p in level.parameters() if p.grad is not None) for level in head.coefficients
    ]
    assert max(levels) > 0


def test_images_without_objects_teach_no_masks() -> None:
    model, (images, _) = build(), drawn_batch(SIZE)
    nothing = Targets(torch.zeros(2, 1, 4), torch.full((2, 1), -1), torch.zeros(2, 1, *SIZE, dtype=torch.uint8))
    terms = model.train().loss(model(images), nothing)
    assert float(terms.terms["loss_mask"].detach()) == 0.0 and float(terms.normaliser) == 0.0
    terms.total.backward()  # type: ignore[no-untyped-call]
    assert all(bool(p.grad.isfinite().all()) for p in model.parameters() if p.grad is not None)


@pytest.fixture(scope="module")
def learned() -> tuple[YoloxSegDetector, Tensor, Targets]:
    """A batch of discs learned by heart; a disc fills four fifths of its box."""
    size = (128, 128)
    images, targets = drawn_batch(size, (2, 2), seed=4)
    assert targets.masks is not None
    y, x = np.mgrid[:128, :128] + 0.5
    for image, row in np.ndindex(2, 2):
        left, top, right, bottom = targets.boxes[image, row].tolist()
        across, down = (x - (left + right) / 2) / (right - left) * 2, (y - (top + bottom) / 2) / (bottom - top) * 2
        disc = torch.from_numpy(across**2 + down**2 <= 1)
        corner = targets.masks[image, row].bool() & ~disc
        images[image][:, corner] = 120
        targets.masks[image, row] = disc
    model = build(size)
    optimizer = torch.optim.AdamW(model.parameters(), lr=4e-3)
    model.train()
    for step in range(110):
        for group in optimizer.param_groups:
            group["lr"] = 4e-3 * (1 - step / 110) + 1e-5
        terms = model.loss(model(images, targets), targets)
        optimizer.zero_grad()
        (terms.total / terms.normaliser.clamp(min=1)).backward()
        optimizer.step()
    return model, images, targets


def test_a_batch_is_learned_by_heart_with_its_masks(learned: tuple[YoloxSegDetector, Tensor, Targets]) -> None:
    model, images, targets = learned
    assert targets.masks is not None
    # In training mode: what is tested is the learning, not the lag of running statistics.
    with torch.no_grad():
        found = model.train().predict(model(images), [(128, 128)] * 2)
    for image, detections in enumerate(found):
        best = detections.above(0.5)
        assert sorted(best.labels.tolist()) == sorted(targets.labels[image].tolist())
        assert best.masks is not None
        for rle, label in zip(best.masks, best.labels.tolist(), strict=True):
            row = targets.labels[image].tolist().index(label)
            mine, truth = decode_rle(rle).astype(bool), targets.masks[image, row].numpy().astype(bool)
            assert (mine & truth).sum() / (mine | truth).sum() > 0.85


def test_the_onnx_file_of_a_trained_model_gives_its_masks(
    learned: tuple[YoloxSegDetector, Tensor, Targets], tmp_path: Path
) -> None:
    model, images, _ = learned
    path = OnnxExporter(OnnxSettings()).export(model, ExportRequest(tmp_path / "m", (128, 128), False, False, {}))
    runtime = OnnxRuntime(path, "cpu")
    for count in (1, 2):
        ours, theirs = DetectorRuntime(model)(images[:count].numpy()), runtime(images[:count].numpy())
        assert ours.masks is not None and theirs.masks is not None
        assert theirs.masks.shape == ours.masks.shape == (count, 200, 32, 32)
        np.testing.assert_allclose(theirs.boxes[:, :10], ours.boxes[:, :10], atol=0.05)
        inside = ours.masks[:, :10] > 0
        assert inside.any() and ((theirs.masks[:, :10] > 0) != inside).mean() < 1e-3


def test_published_weights_of_boxes_fill_everything_but_the_mask_head() -> None:
    torch.manual_seed(1)
    donor = build_boxes("nano", COCO_NAMES).state_dict()
    model = build(classes=("person", "zebra", "nothing else"))
    report = model.load_pretrained(donor, COCO_NAMES, "a file")
    assert report.copied == ("person", "zebra") and report.reset == ("nothing else",)
    assert report.missing and all(name.startswith("mask_head.") for name in report.missing)
    assert report.mismatched == () and report.unexpected == ()
    state = model.state_dict()
    assert torch.equal(
        state["backbone.backbone.stem.conv.conv.weight"], donor["backbone.backbone.stem.conv.conv.weight"]
    )


def test_the_plugin_describes_six_variants_with_masks() -> None:
    specs: list[ModelSpec] = [spec for spec in yolox.detloom_models() if spec.masks]  # type: ignore[attr-defined]
    assert [spec.name for spec in specs] == [f"yolox-seg-{name}" for name in ("nano", "tiny", "s", "m", "l", "x")]
    for spec in specs:
        assert spec.recipe["validation.save_best_metric"] == "segm_AP"
        assert spec.weights[0].name == f"yolox_{spec.name.removeprefix('yolox-seg-')}.pth"
        assert isinstance(spec.settings(), YoloxSegSettings)
