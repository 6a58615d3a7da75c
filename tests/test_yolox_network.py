"""The YOLOX network: official names and numbers, geometry, export, training."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch

from detloom.detector import Outputs, Targets
from detloom.specs import ModelContext, ModelSpec
from detloom.weights import read_weights
from detloom_plugins.models import yolox
from detloom_plugins.models._coco_names import COCO_NAMES
from detloom_plugins.models.yolox.detector import YoloxDetector
from detloom_plugins.models.yolox.settings import YoloxSettings
from yolox_tools import VARIANTS, build

WEIGHTS = Path("weights/yolox_nano_coco.pth")
GRAPH = Path("weights/yolox_nano_coco.onnx")
PHOTOS = [f"bccd/JPEGImages/BloodImage_00{number}.jpg" for number in ("000", "042", "123", "337")]


def official(data_dir: Path, size: tuple[int, int] = (416, 416)) -> YoloxDetector:
    model = build(size=size).eval()
    model.load_pretrained(read_weights(data_dir / WEIGHTS), COCO_NAMES, "official")
    return model


def read(data_dir: Path, model: YoloxDetector) -> torch.Tensor:
    """uint8 RGB [4, 3, 416, 416] of real photographs."""
    pictures = [cv2.imread(str(data_dir / name))[..., ::-1] for name in PHOTOS]
    return torch.from_numpy(np.stack([model.input_rule.prepare(p).transpose(2, 0, 1) for p in pictures]))


def reference_outputs(data_dir: Path, pixels: np.ndarray) -> np.ndarray:
    """What the independent graph computes for float BGR pixels: [B, 3549, 85] with raw scores."""
    onnx = pytest.importorskip("onnx")
    runtime = pytest.importorskip("onnxruntime")
    graph = onnx.load(str(data_dir / GRAPH))
    inputs = {node.output[0]: node.input[0] for node in graph.graph.node if node.op_type == "Sigmoid"}
    heads = [list(node.input) for node in graph.graph.node if node.op_type == "Concat"][-4:-1]
    names = [name for box, objectness, classes in heads for name in (box, inputs[objectness], inputs[classes])]
    graph.graph.output.extend(onnx.helper.make_empty_tensor_value_info(name) for name in names)
    options = runtime.SessionOptions()
    options.intra_op_num_threads = 1
    session = runtime.InferenceSession(graph.SerializeToString(), options, providers=["CPUExecutionProvider"])
    rows = []
    for picture in pixels:
        maps = session.run(names, {"images": picture[None]})
        levels = [np.concatenate(maps[level : level + 3], axis=1)[0] for level in (0, 3, 6)]
        rows.append(np.concatenate([level.reshape(85, -1).T for level in levels]))
    return np.stack(rows)


def raw(outputs: Outputs) -> torch.Tensor:
    return torch.cat((outputs.boxes, outputs.extra["objectness"], outputs.logits), dim=-1)


def test_names_and_shapes_are_those_of_the_official_checkpoint(data_dir: Path) -> None:
    file = torch.load(data_dir / WEIGHTS, map_location="cpu", weights_only=True)
    own = build().state_dict()
    assert len(file) == 642
    assert {key: value.shape for key, value in own.items()} == {key: value.shape for key, value in file.items()}


def test_raw_outputs_equal_the_independent_graph_on_photographs(data_dir: Path) -> None:
    model = official(data_dir)
    images = read(data_dir, model)
    expected = reference_outputs(data_dir, images.flip(1).numpy().astype(np.float32))
    with torch.no_grad():
        found = raw(model(images))
        # The well-known mistake: RGB scaled by the statistics of ImageNet.
        mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
        wrong_pixels = (images / 255 - mean.view(3, 1, 1)) / std.view(3, 1, 1)
        logits, boxes, objectness = model.head(model.backbone(wrong_pixels))
        wrong = torch.cat((boxes, objectness, logits), dim=-1)
    difference = (found - torch.from_numpy(expected)).abs().amax()
    print(f"largest difference of raw outputs on {len(images)} photographs: {float(difference):.2e}")
    assert difference <= 1e-3
    assert (wrong - torch.from_numpy(expected)).abs().amax() > 1


def test_decoded_boxes_and_scores_equal_the_independent_graph(data_dir: Path) -> None:
    model = official(data_dir)
    images = read(data_dir, model)
    expected = reference_outputs(data_dir, images.flip(1).numpy().astype(np.float32))
    cells, strides = [], []
    for stride in (8, 16, 32):
        for index in range((416 // stride) ** 2):
            row, column = divmod(index, 416 // stride)
            cells.append((column, row))
            strides.append(stride)
    step = np.array(strides)[:, None]
    centre = (expected[..., :2] + np.array(cells)) * step
    half = np.exp(expected[..., 2:4]) * step / 2
    logistic = 1 / (1 + np.exp(-expected[..., 4:].astype(np.float64)))
    with torch.no_grad():
        decoded = model.decode(model(images))
    np.testing.assert_allclose(decoded.boxes, np.concatenate((centre - half, centre + half), -1), atol=0.02)
    np.testing.assert_allclose(decoded.scores, logistic[..., 1:] * logistic[..., :1], atol=1e-5)


@pytest.mark.parametrize(
    ("name", "millions"), [("nano", 0.91), ("tiny", 5.06), ("s", 8.97), ("m", 25.3), ("l", 54.2), ("x", 99.1)]
)
def test_each_variant_has_the_published_number_of_parameters(name: str, millions: float) -> None:
    with torch.device("meta"):
        model = build(name)
    count = sum(parameter.numel() for parameter in model.parameters()) / 1e6
    decimals = 2 if millions < 10 else 1
    assert round(count, decimals) == millions


@pytest.mark.parametrize("name", ["nano", "tiny", "s"])
def test_a_rectangular_input_trains(name: str) -> None:
    torch.manual_seed(0)
    model = build(name, classes=("a", "b"), size=(64, 96))
    images = torch.randint(0, 256, (2, 3, 64, 96), dtype=torch.uint8)
    boxes = torch.tensor([[[8.0, 8, 40, 40], [30, 20, 90, 60]], [[0, 0, 0, 0], [0, 0, 0, 0]]])
    outputs = model(images)
    assert outputs.logits.shape == (2, 126, 2) and outputs.boxes.shape == (2, 126, 4)
    terms = model.loss(outputs, Targets(boxes, torch.tensor([[0, 1], [-1, -1]])))
    (terms.total / terms.normaliser).backward()
    for key, parameter in model.named_parameters():
        assert parameter.grad is not None and bool(parameter.grad.isfinite().all()), key


def test_fresh_scores_start_at_the_prior() -> None:
    torch.manual_seed(0)
    model = build(classes=("a", "b", "c"))
    for layer in (*model.head.cls_preds, *model.head.obj_preds):
        assert layer.bias is not None
        torch.testing.assert_close(layer.bias.sigmoid(), torch.full_like(layer.bias, 0.01))


def test_batch_norms_have_the_originals_epsilon_and_the_momentum_that_is_set() -> None:
    for momentum in (0.03, 0.2):
        model = build(classes=("a",), settings=YoloxSettings(norm_momentum=momentum))
        norms = [module for module in model.modules() if isinstance(module, torch.nn.BatchNorm2d)]
        assert {(norm.eps, norm.momentum) for norm in norms} == {(1e-3, momentum)}


@pytest.mark.parametrize("name", list(VARIANTS))
def test_layer_groups_hold_each_parameter_once_from_input_to_output(name: str) -> None:
    with torch.device("meta"):
        model = build(name)
    groups = model.layer_groups()
    assert [group.name for group in groups] == ["stem", "dark2", "dark3", "dark4", "dark5", "neck", "head"]
    assert [group.depth for group in groups] == list(range(7))
    assert [group.is_backbone for group in groups] == [True] * 5 + [False] * 2
    assert [group.is_head for group in groups] == [False] * 6 + [True]
    grouped = [id(p) for group in groups for module in group.modules for p in module.parameters()]
    assert sorted(grouped) == sorted(id(p) for p in model.parameters())


def test_a_grid_made_for_inference_serves_training() -> None:
    model = build(classes=("a",))
    images = torch.zeros(1, 3, 64, 96, dtype=torch.uint8)
    with torch.inference_mode():
        model(images)
    outputs = model(images)
    model.decode(outputs).boxes.sum().backward()
    assert "grid" not in " ".join(model.state_dict())


def test_the_legacy_exporter_writes_a_graph_for_any_batch(recwarn: pytest.WarningsRecorder) -> None:
    pytest.importorskip("onnx")
    runtime = pytest.importorskip("onnxruntime")

    class Exported(torch.nn.Module):
        def __init__(self, model: YoloxDetector) -> None:
            super().__init__()
            self.model = model

        def forward(self, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            decoded = self.model.decode(self.model(images))
            return decoded.boxes, decoded.scores

    torch.manual_seed(0)
    model = build(classes=("a", "b")).eval()
    buffer = io.BytesIO()
    example = torch.randint(0, 256, (1, 3, 64, 96), dtype=torch.uint8)
    axes = {name: {0: "batch"} for name in ("images", "boxes", "scores")}
    with torch.no_grad():
        torch.onnx.export(
            Exported(model).eval(), (example,), buffer, opset_version=17, dynamo=False,
            input_names=["images"], output_names=["boxes", "scores"], dynamic_axes=axes,
        )  # fmt: skip
    assert [str(warning.message) for warning in recwarn if "detloom_plugins" in warning.filename] == []
    session = runtime.InferenceSession(buffer.getvalue(), providers=["CPUExecutionProvider"])
    images = torch.randint(0, 256, (3, 3, 64, 96), dtype=torch.uint8)
    boxes, scores = session.run(None, {"images": images.numpy()})
    with torch.no_grad():
        decoded = model.decode(model(images))
    np.testing.assert_allclose(boxes, decoded.boxes, atol=1e-3)
    np.testing.assert_allclose(scores, decoded.scores, atol=1e-5)


def drawn() -> tuple[torch.Tensor, Targets]:
    """Two pictures with a bright rectangle and a dark ellipse each, on noise."""
    rng = np.random.default_rng(5)
    pictures = rng.integers(100, 140, (2, 128, 160, 3)).astype(np.uint8)
    boxes = np.array([[[10, 12, 70, 60], [90, 50, 150, 120]], [[80, 8, 140, 70], [12, 60, 62, 118]]], dtype=np.float32)
    for picture, (first, second) in zip(pictures, boxes.astype(int), strict=True):
        picture[first[1] : first[3], first[0] : first[2]] = (240, 220, 30)
        centre = ((second[:2] + second[2:]) // 2).tolist()
        half = ((second[2:] - second[:2]) // 2).tolist()
        cv2.ellipse(picture, centre, half, 0, 0, 360, (20, 30, 90), -1)
    return torch.from_numpy(pictures.transpose(0, 3, 1, 2).copy()), Targets(
        torch.from_numpy(boxes), torch.tensor([[0, 1], [0, 1]])
    )


def test_two_pictures_are_learnt_by_heart() -> None:
    torch.manual_seed(0)
    model = build(classes=("rectangle", "ellipse"), size=(128, 160))
    images, targets = drawn()
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3)
    model.train()
    for step in range(100):
        model.begin_epoch(step, 100)
        terms = model.loss(model(images), targets)
        optimizer.zero_grad()
        (terms.total / terms.normaliser.clamp(min=1)).backward()
        optimizer.step()
    # Still in training mode: what is tested is the learning, not the lag of running statistics.
    with torch.no_grad():
        found = model.predict(model(images), [(128, 160), (128, 160)])
    for detections, boxes in zip(found, targets.boxes.numpy(), strict=True):
        best = detections.above(0.6)
        assert sorted(best.labels.tolist()) == [0, 1]
        for box, label in zip(best.boxes, best.labels, strict=True):
            low, high = np.maximum(box[:2], boxes[label][:2]), np.minimum(box[2:], boxes[label][2:])
            shared = np.prod(high - low)
            union = np.prod(box[2:] - box[:2]) + np.prod(boxes[label][2:] - boxes[label][:2]) - shared
            assert shared / union > 0.85


def test_the_plugin_describes_six_variants_with_complete_recipes() -> None:
    specs: dict[str, Any] = {spec.name: spec for spec in yolox.detloom_models() if not spec.masks}
    assert list(specs) == [f"yolox-{name}" for name in ("nano", "tiny", "s", "m", "l", "x")]
    for spec in specs.values():
        assert isinstance(spec, ModelSpec)
        assert spec.weights[0].class_names == COCO_NAMES and len(set(COCO_NAMES)) == 80
        assert spec.loss_roles == {"classification": "bce", "box": "iou"}
    spec = specs["yolox-tiny"]
    model = spec.build(spec.settings(), ModelContext(("a",), (64, 64)))
    assert isinstance(model, YoloxDetector)
    assert model.input_rule.channels == "bgr" and model.input_rule.scale == 1.0
