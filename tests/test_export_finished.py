"""Post-processing inside exported files: the same detections as outside, whatever the boxes, and proved by the gate."""

from __future__ import annotations

import copy
import dataclasses
import json

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import TensorProto, helper

from cells import SIZE, CellDetector, cells_host, draw_data, draw_picture, write_run
from detloom.config import load_saved, resolve, text_layer
from detloom.data.load import load_dataset
from detloom.deploy import deploy_graph
from detloom.errors import ConfigError, ExportError, WeightsError
from detloom.export import export_model
from detloom.export.finishing import finish_graph
from detloom.export.onnx_graph import onnx_graph
from detloom.export.parity import _agreement, _largest_of_detections
from detloom.geometry import Detections, PostRule
from detloom.hookspecs import hookimpl
from detloom.model import load_model
from detloom.prediction import open_predictor, raw_of
from detloom.specs import ExporterSpec
from detloom_schemas.config import ExportConfig
from detloom_schemas.manifest import ExportManifest

# ---- the graph, against loops over single boxes ------------------------------------------------------------------


def passing(boxes: int, classes: int, opset: int, masks: bool) -> onnx.ModelProto:
    """A graph that gives what it is given, in the form that detectors have."""
    shapes = {"boxes": [boxes, 4], "scores": [boxes, classes], **({"masks": [boxes, 2, 3]} if masks else {})}
    infos = {name: [*shape] for name, shape in shapes.items()}
    inputs = [helper.make_tensor_value_info(f"{n}_in", TensorProto.FLOAT, ["batch", *s]) for n, s in infos.items()]
    outputs = [helper.make_tensor_value_info(n, TensorProto.FLOAT, ["batch", *s]) for n, s in infos.items()]
    nodes = [helper.make_node("Identity", [f"{name}_in"], [name]) for name in shapes]
    graph = helper.make_graph(nodes, "passing", inputs, outputs)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)


def finished(rule: PostRule, values: dict[str, np.ndarray], opset: int = 17) -> dict[str, np.ndarray]:
    count, classes = values["scores"].shape[1:]
    model = passing(count, classes, opset, "masks" in values)
    finish_graph(model, rule)
    onnx.checker.check_model(model, full_check=True)
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    found = session.run(names, {f"{name}_in": value for name, value in values.items()})
    return dict(zip(names, found, strict=True))


def overlap(a: np.ndarray, b: np.ndarray) -> float:
    width = min(a[2], b[2]) - max(a[0], b[0])
    height = min(a[3], b[3]) - max(a[1], b[1])
    shared = max(width, 0.0) * max(height, 0.0)
    both = (a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1])
    return shared / (both - shared) if both > shared else 0.0


def by_hand(boxes: np.ndarray, scores: np.ndarray, rule: PostRule) -> list[tuple[float, int, int]]:
    """(score, class, row), best first: one pair after the other, as one would on paper."""
    if rule.kind == "topk":
        pairs = [(float(s), c, row) for row, line in enumerate(scores) for c, s in enumerate(line)]
        return sorted((one for one in pairs if one[0] > rule.score_threshold), reverse=True)[: rule.max_detections]
    best = [(float(line.max()), int(line.argmax()), row) for row, line in enumerate(scores)]
    waiting = sorted((one for one in best if one[0] > rule.score_threshold), reverse=True)[: rule.candidates]
    kept: list[tuple[float, int, int]] = []
    for score, label, row in waiting:
        rivals = [other for _, own, other in kept if own == label]
        if all(overlap(boxes[row], boxes[other]) <= rule.nms_threshold for other in rivals):
            kept.append((score, label, row))
    return kept[: rule.max_detections]


RULES = [
    PostRule(kind="nms", score_threshold=0.01, nms_threshold=0.65, max_detections=100),
    PostRule(kind="nms", score_threshold=0.4, nms_threshold=0.3, max_detections=7),
    PostRule(kind="nms", score_threshold=0.0, nms_threshold=0.0, max_detections=100, candidates=20),
    PostRule(kind="nms", score_threshold=0.999, max_detections=5),
    PostRule(kind="topk", score_threshold=0.0, max_detections=30),
    PostRule(kind="topk", score_threshold=0.7, max_detections=300),
    PostRule(kind="topk", score_threshold=0.5, max_detections=1),
]


def crowd(seed: int, images: int = 3, count: int = 60, classes: int = 4) -> dict[str, np.ndarray]:
    """Boxes that pile up on a few places; some without a size, some turned inside out. Every score is another."""
    rng = np.random.default_rng(seed)
    centre = rng.integers(1, 5, (images, count, 2)) * 40 + rng.normal(0, 4, (images, count, 2))
    half = rng.uniform(8, 22, (images, count, 2))
    boxes = np.concatenate([centre - half, centre + half], 2).astype(np.float32)
    boxes[0, :3, 2:] = boxes[0, :3, :2]
    scores = rng.permutation(images * count * classes).reshape(images, count, classes) / (images * count * classes)
    masks = rng.normal(size=(images, count, 2, 3)).astype(np.float32)
    return {"boxes": boxes, "scores": scores.astype(np.float32), "masks": masks}


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: f"{rule.kind}-{rule.score_threshold}-{rule.max_detections}")
def test_the_graph_gives_what_one_finds_by_hand(rule):
    values = crowd(3)
    found = finished(rule, values)
    sizes = [len(by_hand(boxes, scores, rule)) for boxes, scores in zip(values["boxes"], values["scores"], strict=True)]
    assert found["boxes"].shape[1] == found["labels"].shape[1] >= max(sizes)
    for image, size in enumerate(sizes):
        expected = by_hand(values["boxes"][image], values["scores"][image], rule)
        rows = [row for _, _, row in expected]
        np.testing.assert_array_equal(found["scores"][image, :size], np.float32([score for score, _, _ in expected]))
        assert found["labels"][image, :size].tolist() == [label for _, label, _ in expected]
        np.testing.assert_array_equal(found["boxes"][image, :size], values["boxes"][image, rows])
        np.testing.assert_array_equal(found["masks"][image, :size], values["masks"][image, rows])
        assert not found["scores"][image, size:].any(), "what is over is 0"


@pytest.mark.parametrize("opset", [13, 18, 20])
@pytest.mark.parametrize("kind", ["nms", "topk"])
def test_older_and_newer_operator_sets_give_the_same(opset, kind):
    values = crowd(4, images=1)
    rule = PostRule(kind=kind, max_detections=20)
    for name, value in finished(rule, values, opset).items():
        np.testing.assert_array_equal(value, finished(rule, values)[name])


def test_rows_and_labels_become_scores_of_all_classes():
    outputs = {
        "boxes": np.zeros((1, 2, 4), np.float32),
        "scores": np.float32([[0.9, 0.4]]),
        "labels": np.int64([[2, 0]]),
    }
    assert raw_of(outputs, 3).scores.tolist() == [[[0, 0, np.float32(0.9)], [np.float32(0.4), 0, 0]]]
    with pytest.raises(WeightsError, match="must say what the classes are"):
        raw_of(outputs, 0)


# ---- whole exports ------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    root = tmp_path_factory.mktemp("finished")
    return write_run(root / "run", draw_data(root / "data"), cells_host())


@pytest.fixture(scope="module")
def split(run):
    host = cells_host()
    return load_dataset(load_saved(run, host), host).splits["val"]


def export(run, dest, split, kind="onnx", host=None, rule=None, **config):
    host = host or cells_host()
    model = load_model(run, host)
    if rule is not None:
        model.detector.post_rule = dataclasses.replace(model.detector.post_rule, **rule)
        model = dataclasses.replace(model, post_rule=model.detector.post_rule)
    spec = host.get(ExporterSpec, kind)
    return export_model(model, spec, spec.settings(), dest, ExportConfig(postprocess=True, **config), split, host)


@pytest.mark.parametrize("kind", ["onnx", pytest.param("openvino", marks=pytest.mark.openvino)])
@pytest.mark.parametrize("post", ["nms", "topk"])
def test_a_finished_file_gives_the_detections_of_its_checkpoint(run, split, tmp_path, kind, post):
    if kind == "openvino":
        pytest.importorskip("openvino")
    result = export(run, tmp_path, split, kind, rule={"kind": post, "max_detections": 12})
    manifest = ExportManifest.model_validate(result.manifest)
    assert manifest.finished and [one.name for one in manifest.outputs] == ["boxes", "scores", "labels"]
    assert result.path.stem == "cells-one-finished"
    assert manifest.gate.max_box_px is not None and manifest.gate.max_box_px < 1e-3
    assert manifest.gate.exported_ap == pytest.approx(1.0)
    rng = np.random.default_rng(8)
    pictures = [draw_picture(rng, scale)[0] for scale in (1, 2, 3)]
    ours = open_predictor(run, cells_host()).with_rule(score=0.3).predict(pictures)
    theirs = open_predictor(result.path, cells_host()).with_rule(score=0.3).predict(pictures)
    for mine, other in zip(ours, theirs, strict=True):
        assert len(mine) > 2 and ordered(mine) == ordered(other)


def ordered(found: Detections) -> list[tuple[int, ...]]:
    rows = zip(found.labels.tolist(), found.boxes.round().astype(int).tolist(), strict=True)
    return sorted((label, *box) for label, box in rows)


def test_its_outputs_are_what_others_expect(run, split, tmp_path):
    session = onnxruntime.InferenceSession(export(run, tmp_path, split, rule={"max_detections": 12}).path)
    shapes = {output.name: (output.type, output.shape[1:]) for output in session.get_outputs()}
    assert shapes == {
        "boxes": ("tensor(float)", [12, 4]),
        "scores": ("tensor(float)", [12]),
        "labels": ("tensor(int64)", [12]),
    }
    images = np.zeros((2, 3, *SIZE), np.uint8)
    boxes, scores, labels = session.run(["boxes", "scores", "labels"], {"images": images})
    assert (boxes.shape, scores.shape, labels.shape) == ((2, 12, 4), (2, 12), (2, 12))


@pytest.mark.parametrize("config", [{"simplify": True}, {"half": True}], ids=["simplified", "16 bits"])
def test_it_can_be_simplified_and_halved(run, split, tmp_path, config):
    gate = export(run, tmp_path, split, **config).manifest["gate"]
    assert gate["passed"] and gate["exported_ap"] == pytest.approx(1.0)


class Saboteur:
    """Finished files of another rule, and of another model."""

    detloom_api = (0, 1)

    @hookimpl
    def detloom_exporters(self):
        def spec(name, rule, bias):
            class Spoiled:
                def export(self, detector, request):
                    other = copy.deepcopy(detector)
                    with torch.no_grad():
                        other.colour.bias.add_(bias)
                    finish = dataclasses.replace(request.finish, **rule)
                    real = cells_host().get(ExporterSpec, "onnx")
                    changed = dataclasses.replace(request, finish=finish)
                    return real.build(real.settings()).export(other, changed)

            return ExporterSpec(
                name=name, summary="another", suffix=".onnx", runtime="onnxruntime", finishes=True,
                build=lambda settings: Spoiled(),
            )  # fmt: skip

        return [
            spec("higher-threshold", {"score_threshold": 0.6}, 0.0),
            spec("fewer", {"max_detections": 2}, 0.0),
            spec("other-scores", {}, 0.3),
        ]


@pytest.mark.parametrize("kind", ["higher-threshold", "fewer", "other-scores"])
def test_a_finished_file_of_another_rule_or_model_is_refused(run, split, tmp_path, kind):
    with pytest.raises(ExportError, match="does not equal its checkpoint"):
        export(run, tmp_path, split, kind, host=cells_host(saboteur=Saboteur()))
    gate = json.loads((tmp_path / "cells-one-finished.rejected.onnx.json").read_text())["gate"]
    assert gate["max_score"] > 0.001 and any("a score differs" in reason for reason in gate["reasons"])


def test_a_finished_file_of_a_model_that_finds_nothing_proves_nothing(run, split, tmp_path):
    with pytest.raises(ExportError, match="finds nothing on the compared images"):
        export(run, tmp_path, split, rule={"score_threshold": 0.9999})


def test_a_format_that_cannot_hold_it_is_refused_before_anything_is_trained():
    typed = text_layer([("export.postprocess", "true", "--set"), ("export.format", "[onnx, torchscript]", "--set")])
    with pytest.raises(ConfigError, match="torchscript files cannot hold post-processing"):
        resolve(cells_host(), [typed])


def test_the_graph_of_a_detector_says_its_sizes():
    """What finish_graph builds on."""
    model = onnx_graph(deploy_graph(CellDetector(("blue", "red"), SIZE)), SIZE)
    sizes = {one.name: [dim.dim_value for dim in one.type.tensor_type.shape.dim[1:]] for one in model.graph.output}
    assert sizes == {"boxes": [24, 4], "scores": [24, 2]}


def test_equal_boxes_without_an_area_agree():
    """As when a box lies outside its image and is cut to its edge."""
    found = Detections(np.float32([[96, 10, 96, 30], [0, 0, 8, 8]]), np.float32([0.9, 0.8]), np.int64([1, 0]))
    assert _agreement(found, found) == 1.0
    rule = PostRule(kind="nms", score_threshold=0.05)
    assert _largest_of_detections([found], [found], rule) == (0.0, 0.0)
    # One that is missing counts by how far it lies above the threshold.
    box, score = _largest_of_detections([found], [found.above(0.85)], rule)
    assert (box, score) == (0.0, pytest.approx(0.75))
