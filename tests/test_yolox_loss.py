"""Assignment and losses of YOLOX against the original's numbers (fixtures/yolox_reference.md)."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
import torch

from detloom.detector import LossTerms, Outputs, Targets
from detloom.errors import PluginError
from detloom.weights import read_weights
from detloom_plugins.models._coco_names import COCO_NAMES
from detloom_plugins.models.yolox import assign
from detloom_plugins.models.yolox.grid import make_grid
from detloom_plugins.models.yolox.settings import YoloxSettings
from yolox_tools import build, targets_from_labels

NAMES = ("loss_cls", "loss_obj", "loss_box", "loss_l1")
SIX = tuple("abcdef")


@pytest.fixture(scope="module")
def reference() -> Mapping[str, np.ndarray]:
    return dict(np.load(Path(__file__).parent / "fixtures" / "yolox_reference.npz"))


def outputs_of(raw: torch.Tensor, size: tuple[int, int]) -> Outputs:
    grid = make_grid(*size, torch.device("cpu"))
    return Outputs(raw[..., 5:], raw[..., :4], extra={"objectness": raw[..., 4:5], "grid": grid})


def reference_case(reference: Mapping[str, np.ndarray]) -> tuple[torch.Tensor, Targets, tuple[int, int]]:
    height, width = (int(value) for value in reference["size"])
    raw = torch.from_numpy(reference["raw"]).requires_grad_()
    return raw, targets_from_labels(reference["labels"]), (height, width)


def values(terms: LossTerms) -> list[float]:
    return [float(terms.terms[name].detach()) for name in NAMES]


def test_losses_and_gradients_equal_the_originals(reference: Mapping[str, np.ndarray]) -> None:
    raw, targets, size = reference_case(reference)
    model = build(classes=SIX)
    model.use_l1 = True
    terms = model.loss(outputs_of(raw, size), targets)
    assert int(terms.normaliser) == int(reference["matched"])
    np.testing.assert_allclose(values(terms), reference["terms"], rtol=1e-4)
    terms.total.backward()
    np.testing.assert_allclose(raw.grad, reference["gradient"], rtol=1e-3, atol=1e-4)


def test_the_l1_term_is_added_only_when_asked_for(reference: Mapping[str, np.ndarray]) -> None:
    raw, targets, size = reference_case(reference)
    terms = build(classes=SIX).loss(outputs_of(raw, size), targets)
    assert list(terms.terms) == list(NAMES[:3])


def test_without_any_object_only_objectness_learns(reference: Mapping[str, np.ndarray]) -> None:
    raw, _, size = reference_case(reference)
    model = build(classes=SIX)
    model.use_l1 = True
    terms = model.loss(outputs_of(raw, size), Targets(torch.zeros(4, 1, 4), torch.full((4, 1), -1)))
    np.testing.assert_allclose(values(terms), reference["empty_terms"], rtol=1e-5)
    assert float(terms.normaliser) == 0
    terms.total.backward()
    assert raw.grad is not None and bool(raw.grad.isfinite().all())
    assert not bool(raw.grad[..., [0, 1, 2, 3, 5]].any())


def test_the_official_network_and_its_loss_equal_the_originals(
    reference: Mapping[str, np.ndarray], data_dir: Path
) -> None:
    model = build(size=(160, 224)).eval()
    model.load_pretrained(read_weights(data_dir / "weights/yolox_nano_coco.pth"), COCO_NAMES, "file")
    model.use_l1 = True  # counts in training only
    blocks = reference["nano_blocks_bgr"][:, ::-1]
    images = torch.from_numpy(np.kron(blocks, np.ones((1, 1, 16, 16), dtype=np.uint8)))
    with torch.no_grad():
        outputs = model(images)
        judged = model.loss(outputs, targets_from_labels(reference["nano_labels"]))
        terms = model.train().loss(outputs, targets_from_labels(reference["nano_labels"]))
    assert "loss_l1" not in judged.terms, "a validation loss means the same in every epoch"
    assert int(terms.normaliser) == int(reference["nano_matched"])
    np.testing.assert_allclose(values(terms), reference["nano_terms"], rtol=1e-4)


def test_images_of_a_batch_do_not_disturb_each_other(reference: Mapping[str, np.ndarray]) -> None:
    raw, targets, size = reference_case(reference)
    model = build(classes=SIX)
    whole = model.loss(outputs_of(raw, size), targets)
    rows = [slice(index, index + 1) for index in range(4)]
    parts = [model.loss(outputs_of(raw[row], size), targets.slice(row)) for row in rows]
    torch.testing.assert_close(whole.total, torch.stack([part.total for part in parts]).sum())
    assert whole.normaliser == sum(part.normaliser for part in parts)


def test_padding_and_chunks_change_nothing(
    reference: Mapping[str, np.ndarray], monkeypatch: pytest.MonkeyPatch
) -> None:
    raw, targets, size = reference_case(reference)
    model = build(classes=SIX)
    expected = model.loss(outputs_of(raw, size), targets)
    padded = Targets(
        torch.cat((torch.zeros(4, 5, 4), targets.boxes), 1), torch.cat((torch.full((4, 5), -1), targets.labels), 1)
    )
    monkeypatch.setattr(assign, "PAIRS_AT_ONCE", 1)
    found = model.loss(outputs_of(raw, size), padded)
    assert found.normaliser == expected.normaliser
    torch.testing.assert_close(found.total, expected.total)


def test_an_object_whose_centre_lies_outside_the_input_is_no_error(reference: Mapping[str, np.ndarray]) -> None:
    raw, _, size = reference_case(reference)
    far = Targets(torch.tensor([[[500.0, 500, 600, 600]]]).repeat(4, 1, 1), torch.zeros(4, 1, dtype=torch.long))
    terms = build(classes=SIX).loss(outputs_of(raw, size), far)
    assert float(terms.normaliser) == 0 and bool(terms.total.isfinite())


def test_a_diverged_box_gives_finite_gradients(reference: Mapping[str, np.ndarray]) -> None:
    raw, targets, size = reference_case(reference)
    with torch.no_grad():
        raw[:, ::3, 2:4] = 200.0
    terms = build(classes=SIX).loss(outputs_of(raw, size), targets)
    terms.total.backward()
    assert raw.grad is not None and bool(raw.grad.isfinite().all())


def test_bfloat16_outputs_are_costed_in_float32(reference: Mapping[str, np.ndarray]) -> None:
    raw, targets, size = reference_case(reference)
    rounded = raw.detach().bfloat16()
    model = build(classes=SIX)
    expected = model.loss(outputs_of(rounded.float(), size), targets)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = model.loss(outputs_of(rounded, size), targets)
    assert found.total.dtype is torch.float32 and found.normaliser == expected.normaliser
    torch.testing.assert_close(found.total, expected.total)


def test_settings_and_weights_of_the_terms_act(reference: Mapping[str, np.ndarray]) -> None:
    raw, targets, size = reference_case(reference)

    def run(settings: YoloxSettings | None = None, **weights: float) -> LossTerms:
        model = build(classes=SIX, settings=settings, loss_weights=weights)
        return model.loss(outputs_of(raw, size), targets)

    plain = run()
    heavy = run(YoloxSettings(objectness_weight=3.0), classification=2.0, box=10.0)
    for name, factor in (("loss_cls", 2.0), ("loss_obj", 3.0), ("loss_box", 2.0)):
        torch.testing.assert_close(heavy.terms[name], plain.terms[name] * factor)
    assert run(YoloxSettings(candidate_topk=1)).normaliser < plain.normaliser
    assert run(YoloxSettings(center_radius=0.6)).normaliser != plain.normaliser


@pytest.mark.parametrize(
    ("l1_frac", "epochs", "first"),
    [(0.05, 300, 285), (0.05, 10, 9), (0.05, 1, 1), (0.05, 9, 9), (0.5, 1, 0), (0.0, 10, 10), (1.0, 4, 0)],
)
def test_the_last_epochs_use_the_l1_term(l1_frac: float, epochs: int, first: int) -> None:
    model = build(classes=SIX, settings=YoloxSettings(l1_frac=l1_frac))
    used = []
    for epoch in range(epochs):
        model.begin_epoch(epoch, epochs)
        used.append(model.use_l1)
    assert used == [epoch >= first for epoch in range(epochs)]


def test_a_missing_loss_is_named(reference: Mapping[str, np.ndarray]) -> None:
    raw, targets, size = reference_case(reference)
    with pytest.raises(PluginError, match="no loss was built for the role `classification`"):
        build(classes=SIX, losses={}).loss(outputs_of(raw, size), targets)


@pytest.mark.parametrize("radius", [0.7, 1.5, 2.5])
def test_candidates_are_the_anchors_near_any_centre(radius: float) -> None:
    generator = torch.Generator().manual_seed(3)
    grid = make_grid(96, 160, torch.device("cpu"))
    corner = torch.rand(3, 12, 2, generator=generator) * torch.tensor([160.0, 96.0])
    boxes = torch.cat((corner, corner + torch.rand(3, 12, 2, generator=generator) * 40), dim=-1)
    labels = torch.where(torch.rand(3, 12, generator=generator) < 0.7, 0, -1)
    found = assign.find_candidates(grid, Targets(boxes, labels), assign.Rule(radius=radius))
    for image in range(3):
        centres = (boxes[image, :, :2] + boxes[image, :, 2:])[labels[image] >= 0] / 2
        offset = (grid.centres[:, None] - centres).abs()
        near = (offset < grid.strides[:, None] * radius).all(-1).any(-1)
        assert found.index[image][found.used[image]].tolist() == near.nonzero().flatten().tolist()
