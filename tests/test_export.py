"""An exported file carries its proof, and the proof is made with the file."""

from __future__ import annotations

import copy
import json
import sys
import warnings
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch

from cells import CLASSES, SIZE, CellDetector, cells_host, draw_data, write_run
from detloom.data.dataset import ClassMap
from detloom.data.images import read_image
from detloom.data.load import load_dataset
from detloom.deploy import DetectorRuntime, deploy_graph
from detloom.errors import DetloomError, ExportError, PluginError
from detloom.export import Evidence, export_model
from detloom.export.gate import stable_order
from detloom.export.parity import compare
from detloom.files import sha256_of
from detloom.hookspecs import hookimpl
from detloom.model import load_model
from detloom.prediction import Predictor, open_predictor
from detloom.specs import ExporterSpec, ExportRequest, ModelContext, ModelSpec, RuntimeRequest, RuntimeSpec
from detloom_schemas.config import ExportConfig
from detloom_schemas.manifest import ExportManifest


@pytest.fixture(scope="module")
def host():
    return cells_host()


@pytest.fixture(scope="module")
def run(tmp_path_factory, host):
    root = tmp_path_factory.mktemp("export")
    return write_run(root / "run", draw_data(root / "data"), host, digest="d" * 64)


@pytest.fixture(scope="module")
def dataset(run, host):
    from detloom.config import load_saved

    return load_dataset(load_saved(run, host), host)


def export(run, host, dest, split, *, kind="onnx", evidence=None, settings=None, **config):
    spec = host.get(ExporterSpec, kind)
    chosen = settings or spec.settings()
    return export_model(load_model(run, host), spec, chosen, dest, ExportConfig(**config), split, host, evidence)


def one_image(folder: Path) -> Evidence:
    return Evidence(images=sorted((folder.parent / "data" / "valid").glob("*.png"))[:1])


# ---- what is written --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["onnx", "torchscript"])
def test_an_exported_file_lies_beside_its_manifest_and_nothing_else_is_left(tmp_path, run, host, dataset, kind):
    result = export(run, host, tmp_path / "exports", dataset.splits["val"], kind=kind)
    assert sorted(path.name for path in (tmp_path / "exports").iterdir()) == [
        f"cells-one.{kind}", f"cells-one.{kind}.json",
    ]  # fmt: skip
    assert json.loads(result.manifest_path.read_text()) == result.manifest
    manifest = ExportManifest.model_validate(result.manifest)
    assert [(c.index, c.id, c.name) for c in manifest.classes] == [(0, 3, "blue"), (1, 9, "red")]
    assert manifest.file == result.path.name
    assert (manifest.sha256, manifest.bytes) == (sha256_of(result.path), result.path.stat().st_size)
    assert manifest.checkpoint.sha256 == sha256_of(run / "checkpoints" / "best.pt")
    assert (manifest.data.name, manifest.data.digest) == ("cells", "d" * 64)
    assert (manifest.model, manifest.licence, manifest.exporter) == ("cells-one", "Apache-2.0", kind)
    assert manifest.versions["torch"] == torch.__version__


def test_the_gate_measures_both_sides_on_the_validation_split(tmp_path, run, host, dataset):
    gate = export(run, host, tmp_path, dataset.splits["val"]).manifest["gate"]
    assert (gate["passed"], gate["split"], gate["images"], gate["tolerance"]) == (True, "val", 8, 0.001)
    assert gate["checkpoint_ap"] == pytest.approx(1.0)  # every square lies on a cell
    assert gate["exported_ap"] == pytest.approx(1.0)
    assert abs(gate["difference"]) < 1e-6
    assert gate["batch_sizes"] == [1, 3, 3]
    assert gate["max_box_px"] < 1e-3
    assert gate["max_score"] < 1e-5
    names = [tuple(case["images"]) for case in gate["parity"]]
    assert len(set(names)) == 3, "three batches of different content"
    assert all(case["detections"] > 0 and case["agreement"] == 1 for case in gate["parity"])


def test_the_manifest_is_inside_the_onnx_file_too(tmp_path, run, host, dataset):
    result = export(run, host, tmp_path, dataset.splits["val"])
    inside = json.loads({p.key: p.value for p in onnx.load(result.path).metadata_props}["detloom"])
    for key in inside:
        assert inside[key] == result.manifest[key], key
    assert "gate" not in inside
    assert inside["input_rule"]["channels"] == "bgr"


def test_the_graph_takes_bytes_and_gives_boxes_and_scores(tmp_path, run, host, dataset):
    graph = onnx.load(export(run, host, tmp_path, dataset.splits["val"]).path).graph

    def told(value):
        kind = value.type.tensor_type
        return value.name, kind.elem_type, [dim.dim_param or dim.dim_value for dim in kind.shape.dim]

    assert [told(value) for value in graph.input] == [("images", onnx.TensorProto.UINT8, ["batch", 3, *SIZE])]
    assert [told(value) for value in graph.output] == [
        ("boxes", onnx.TensorProto.FLOAT, ["batch", 24, 4]),
        ("scores", onnx.TensorProto.FLOAT, ["batch", 24, 2]),
    ]


@pytest.mark.parametrize("opset", [13, 17, 20])
def test_the_opset_that_is_asked_for_is_written(tmp_path, run, host, opset):
    spec = host.get(ExporterSpec, "onnx")
    settings = type(spec.settings())(opset=opset)
    result = export(run, host, tmp_path, None, settings=settings, evidence=one_image(run))
    assert [s.version for s in onnx.load(result.path).opset_import if s.domain == ""] == [opset]


def test_without_annotated_images_the_manifest_says_that_ap_was_not_measured(tmp_path, run, host):
    result = export(run, host, tmp_path, None, evidence=one_image(run))
    gate = result.manifest["gate"]
    assert (gate["checkpoint_ap"], gate["exported_ap"], gate["difference"], gate["images"]) == (None, None, None, 0)
    assert gate["max_box_px"] is not None
    assert any("AP was not measured" in line for line in result.lines)


def test_without_any_image_there_is_no_export(tmp_path, run, host):
    with pytest.raises(ExportError, match="no images to compare"):
        export(run, host, tmp_path / "exports", None)
    assert list((tmp_path / "exports").iterdir()) == []


def test_exporting_leaves_the_detector_as_it_was(tmp_path):
    detector = CellDetector(CLASSES.names, SIZE).train()
    before = copy.deepcopy(detector.state_dict())
    host = cells_host()
    for half in (False, True):
        spec = host.get(ExporterSpec, "onnx")
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            spec.build(spec.settings()).export(detector, ExportRequest(tmp_path / "x", SIZE, half, True, {}))
    assert detector.training
    assert all(p.requires_grad and p.dtype == torch.float32 for p in detector.parameters())
    assert all(torch.equal(before[name], value) for name, value in detector.state_dict().items())


def test_sixteen_bits_halve_the_weights_and_stay_within_their_tolerance(tmp_path, run, host, dataset):
    val = dataset.splits["val"]
    full, half = export(run, host, tmp_path, val), export(run, host, tmp_path, val, half=True)
    assert half.path.name == "cells-one-fp16.onnx"
    assert half.manifest["gate"]["tolerance"] == 0.01
    sizes = [
        sum(len(w.raw_data) for w in onnx.load(r.path).graph.initializer if np.prod(w.dims) > 100) for r in (full, half)
    ]
    assert sizes[1] * 2 == sizes[0] > 0
    kinds = {w.data_type for w in onnx.load(half.path).graph.initializer if np.prod(w.dims) > 100}
    assert kinds == {onnx.TensorProto.FLOAT16}


def test_simplifying_keeps_the_results_and_the_manifest(tmp_path, run, host, dataset):
    result = export(run, host, tmp_path, dataset.splits["val"], simplify=True)
    assert result.manifest["simplified"] is True
    assert result.manifest["gate"]["max_score"] < 1e-5
    assert open_predictor(result.path, host).class_map == CLASSES


def test_the_number_of_gate_images_is_limited_by_content_not_by_order(tmp_path, run, host, dataset):
    from dataclasses import replace

    val = dataset.splits["val"]
    turned = replace(val, images=tuple(reversed(val.images)))
    first = {image.sha256 for image in stable_order(val, 3).images}
    assert first == {image.sha256 for image in stable_order(turned, 3).images}
    assert len(first) == 3
    assert export(run, host, tmp_path, val, gate_images=3).manifest["gate"]["images"] == 3


def test_a_place_that_cannot_be_written_is_named(tmp_path, run, host, dataset):
    blocked = tmp_path / "file"
    blocked.write_text("")
    with pytest.raises(DetloomError, match="cannot write into"):
        export(run, host, blocked / "exports", dataset.splits["val"])


@pytest.mark.parametrize(("package", "config"), [("onnx", {}), ("onnxslim", {"simplify": True})])
def test_a_missing_package_is_named_with_the_way_to_install_it(
    tmp_path, run, host, dataset, monkeypatch, package, config
):
    import importlib.util

    real = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *a: None if name == package else real(name, *a))
    with pytest.raises(PluginError, match=f"needs the package {package}") as caught:
        export(run, host, tmp_path, dataset.splits["val"], **config)
    assert f"pip install {package}" in caught.value.hint


# ---- the gate ---------------------------------------------------------------------------------------------------


class Saboteur:
    """Exporters that write a good file and then spoil it, each in another way."""

    detloom_api = (0, 1)

    @hookimpl
    def detloom_exporters(self):
        def spec(name, spoil):
            def build(settings):
                return Spoiling(spoil)

            return ExporterSpec(name=name, summary="spoils", suffix=".onnx", runtime="onnxruntime", build=build)

        return [
            spec("one-weight", spoil_one_weight),
            spec("channels", spoil_channels),
            spec("class-order", spoil_class_order),
            spec("no-numbers", spoil_with_nan),
        ]


class Spoiling:
    def __init__(self, spoil):
        self.spoil = spoil

    def export(self, detector, request):
        spec = cells_host().get(ExporterSpec, "onnx")
        path = spec.build(spec.settings()).export(detector, request)
        model = onnx.load(path)
        self.spoil(model)
        onnx.save(model, path)
        return path


def weight(model, size):
    return next(w for w in model.graph.initializer if int(np.prod(w.dims)) == size)


def rewrite(tensor, change):
    values = onnx.numpy_helper.to_array(tensor).copy()
    change(values)
    tensor.CopyFrom(onnx.numpy_helper.from_array(values, tensor.name))


def spoil_one_weight(model):
    rewrite(weight(model, 2 * 3 * 256), lambda values: values.__setitem__((0, 2, 5, 5), 3.0))


def spoil_channels(model):
    """RGB where the network wants BGR: both weights see the channels the other way round."""
    for size in (2 * 3 * 256, 4 * 3 * 256):
        rewrite(weight(model, size), lambda values: values.__setitem__(slice(None), values[:, ::-1].copy()))


def spoil_class_order(model):
    values = json.loads(model.metadata_props[0].value)
    first, second = values["classes"]
    first["name"], second["name"] = second["name"], first["name"]
    onnx.helper.set_model_props(model, {"detloom": json.dumps(values)})


def spoil_with_nan(model):
    rewrite(weight(model, 4 * 3 * 256), lambda values: values.fill(np.nan))


@pytest.mark.parametrize("spoiled", ["one-weight", "channels", "class-order"])
def test_a_spoiled_export_is_refused_and_kept_apart_with_its_numbers(tmp_path, run, dataset, spoiled):
    host = cells_host(saboteur=Saboteur())
    with pytest.raises(ExportError, match="does not equal its checkpoint") as caught:
        export(run, host, tmp_path, dataset.splits["val"], kind=spoiled)
    assert caught.value.exit_code == 1
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "cells-one.rejected.onnx", "cells-one.rejected.onnx.json",
    ]  # fmt: skip
    gate = json.loads((tmp_path / "cells-one.rejected.onnx.json").read_text())["gate"]
    assert gate["passed"] is False
    assert gate["reasons"]
    assert gate["checkpoint_ap"] == pytest.approx(1.0)
    if spoiled in ("channels", "class-order"):
        assert gate["exported_ap"] < 0.5
        assert "AP is 1.0000 by the checkpoint" in caught.value.message


def test_boxes_that_are_no_numbers_are_refused(tmp_path, run, dataset):
    host = cells_host(saboteur=Saboteur())
    with pytest.raises(DetloomError, match="not numbers"):
        export(run, host, tmp_path, dataset.splits["val"], kind="no-numbers")
    assert list(tmp_path.iterdir()) == []


def test_a_refused_export_leaves_the_accepted_file_of_the_same_name_alone(tmp_path, run, dataset):
    host = cells_host(saboteur=Saboteur())
    good = export(run, host, tmp_path, dataset.splits["val"])
    before = good.path.read_bytes()
    with pytest.raises(ExportError):
        export(run, host, tmp_path, dataset.splits["val"], kind="channels")
    assert good.path.read_bytes() == before
    export(run, host, tmp_path, dataset.splits["val"])
    assert not list(tmp_path.glob("*rejected*")), "a file that passes replaces the refused one"


def test_a_model_that_finds_nothing_still_cannot_hide_a_spoiled_file(tmp_path, host, dataset):
    """AP is 0 on both sides: only the numbers themselves tell the two apart."""
    spoiled_host = cells_host(saboteur=Saboteur())
    blind = write_run(
        tmp_path / "blind", Path(dataset.splits["val"].images[0].path).parent.parent, host, sharpness=0.02
    )
    val = dataset.splits["val"]
    good = export(blind, host, tmp_path / "good", val).manifest["gate"]
    assert (good["checkpoint_ap"], good["exported_ap"], good["passed"]) == (0.0, 0.0, True)
    with pytest.raises(ExportError, match="a score differs by"):
        export(blind, spoiled_host, tmp_path / "bad", val, kind="one-weight")


def test_a_tolerance_of_the_user_replaces_the_one_of_the_format(tmp_path, run, host, dataset):
    val = dataset.splits["val"]
    assert export(run, host, tmp_path, val, half=True, tolerance=0.5).manifest["gate"]["tolerance"] == 0.5


def test_the_data_may_number_and_order_the_classes_otherwise(tmp_path, run, host, dataset):
    """Red first and ids 40 and 41: the gate matches by name."""
    from dataclasses import replace

    val = dataset.splits["val"]
    other = ClassMap((40, 41), ("red", "blue"))
    turned = replace(val, labels=1 - val.labels)
    gate = export(run, host, tmp_path, turned, evidence=Evidence(class_map=other)).manifest["gate"]
    assert gate["checkpoint_ap"] == pytest.approx(1.0)
    assert gate["exported_ap"] == pytest.approx(1.0)


class Shuffled:
    """A runtime that gives the boxes in another order, as families that choose boxes by score may."""

    batch_limit = None
    manifest = None

    def __init__(self, inner):
        self.inner = inner

    def __call__(self, images):
        boxes, scores, _ = self.inner(images)
        return boxes[:, ::-1].copy(), scores[:, ::-1].copy()


def test_boxes_in_another_order_are_the_same_boxes(run, dataset):
    detector = CellDetector(CLASSES.names, SIZE)
    images = [read_image(image.path) for image in dataset.splits["val"].images[:3]]
    rule = detector.post_rule
    ours = Predictor(DetectorRuntime(detector), detector.input_rule, rule, CLASSES).with_rule(score=0.3)
    theirs = Predictor(Shuffled(DetectorRuntime(detector)), detector.input_rule, rule, CLASSES).with_rule(score=0.3)
    difference = compare(ours, theirs, images)
    assert (difference.max_box_px, difference.max_score, difference.paired) == (0.0, 0.0, 1.0)
    assert difference.agreement == 1.0
    assert difference.detections > 0


# ---- real weights -----------------------------------------------------------------------------------------------


@pytest.mark.data
@pytest.mark.parametrize("size", [(416, 416), (224, 352)])
def test_the_coco_weights_export_and_agree_on_real_pictures(data_dir, tmp_path, size):
    from detloom.model import build_detector

    host = cells_host()
    spec = host.get(ModelSpec, "yolox-nano")
    state = torch.load(data_dir / "weights" / "yolox_nano_coco.pth", weights_only=True)
    names = spec.weights[0].class_names
    assert isinstance(spec.build(spec.settings(), ModelContext(names, size)), torch.nn.Module)
    detector = build_detector(spec, spec.settings(), names, size)
    detector.load_state_dict(state.get("model", state))
    exporter, runtime = host.get(ExporterSpec, "onnx"), host.get(RuntimeSpec, "onnxruntime")
    files = sorted((data_dir / "bccd" / "JPEGImages").glob("*.jpg"))[:4]
    images = np.stack([detector.input_rule.prepare(read_image(path)) for path in files]).transpose(0, 3, 1, 2).copy()
    with torch.inference_mode():
        boxes, scores = (part.numpy() for part in deploy_graph(detector)(torch.from_numpy(images)))
    assert scores.max() > 0.3, "it sees something"
    path = exporter.build(exporter.settings()).export(
        detector, ExportRequest(tmp_path / "nano", size, False, False, {})
    )
    loaded = runtime.build(runtime.settings(), RuntimeRequest(path, "cpu", host))
    for rows in (slice(0, 1), slice(1, 4)):
        found, certain, _ = loaded(images[rows])
        near = scores[rows].max(axis=2) > 0.01
        np.testing.assert_allclose(found[near], boxes[rows][near], atol=0.01)
        np.testing.assert_allclose(certain, scores[rows], atol=1e-4)


def test_listing_exporters_imports_nothing_heavy():
    import subprocess

    code = (
        "import sys, detloom_plugins.exporters.onnx, detloom_plugins.exporters.torchscript, "
        "detloom_plugins.runtimes.onnxruntime, detloom_plugins.runtimes.torch, detloom_plugins.runtimes.torchscript; "
        "print(sorted({'torch', 'numpy', 'onnx', 'onnxruntime', 'pydantic'} & set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", f"import sys; sys.path[:] = {sys.path!r}; {code}"],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert done.stdout.strip() == "[]"
