"""The same detections from every runtime, and what happens to files that are none."""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest

from cells import CLASSES, SIZE, CellDetector, cells_host, draw_data, draw_picture, write_run
from conftest import IMPORT_ROOTS
from detloom.data.dataset import ClassMap
from detloom.deploy import DetectorRuntime
from detloom.errors import DataError, DetloomError, PluginError, UsageError, WeightsError
from detloom.export import Evidence, export_model
from detloom.geometry import Detections, InputRule, PostRule
from detloom.manifest import manifest_path
from detloom.model import load_model
from detloom.prediction import Predictor, check_classes, class_columns, open_predictor, read_ahead, relabel
from detloom.specs import ExporterSpec
from detloom_schemas.config import ExportConfig


@pytest.fixture(scope="module")
def host():
    return cells_host()


@pytest.fixture(scope="module")
def run(tmp_path_factory, host):
    """A run's folder with exports/cells-one.onnx and exports/cells-one.torchscript."""
    root = tmp_path_factory.mktemp("prediction")
    folder = write_run(root / "run", draw_data(root / "data"), host)
    images = sorted((root / "data" / "valid").glob("*.png"))
    for name in ("onnx", "torchscript"):
        spec = host.get(ExporterSpec, name)
        export_model(
            load_model(folder, host), spec, spec.settings(), folder / "exports", ExportConfig(), None, host,
            Evidence(images=images),
        )  # fmt: skip
    return folder


@pytest.fixture(scope="module")
def pictures():
    rng = np.random.default_rng(5)
    return [draw_picture(rng, scale) for scale in (1, 2, 1, 3, 1)]


FILES = ("checkpoints/best.pt", "exports/cells-one.onnx", "exports/cells-one.torchscript")


def test_a_file_that_chose_its_detections_gives_no_others(run, host):
    predictor = open_predictor(run / "exports/cells-one.onnx", host)
    inside = predictor.post_rule
    finished = dataclasses.replace(predictor, manifest=predictor.manifest.model_copy(update={"finished": True}))
    for wanted, word in (
        ({"score": inside.score_threshold / 2}, "scores below"),
        ({"nms": inside.nms_threshold / 2}, "another suppression"),
        ({"max_detections": inside.max_detections + 1}, "more than"),
    ):
        with pytest.raises(UsageError, match=word):
            finished.with_rule(**wanted)
        assert predictor.with_rule(**wanted).post_rule != inside
    assert finished.with_rule(score=0.9, max_detections=1).post_rule.max_detections == 1


@pytest.mark.parametrize("file", ["", *FILES])
def test_every_runtime_finds_the_squares_where_they_were_drawn(run, host, pictures, file):
    predictor = open_predictor(run / file, host).with_rule(score=0.3)
    assert predictor.class_map == CLASSES
    for (_, objects), found in zip(pictures, predictor.predict([p for p, _ in pictures]), strict=True):
        drawn = {(name, x, y, x + w, y + h) for name, (x, y, w, h) in objects}
        seen = {
            (CLASSES.names[label], *(round(v) for v in box))
            for label, box in zip(found.labels.tolist(), found.boxes.tolist(), strict=True)
        }
        assert seen == drawn


@pytest.mark.parametrize("file", FILES[1:])
def test_an_exported_file_gives_the_detections_of_its_checkpoint(run, host, pictures, file):
    images = [picture for picture, _ in pictures]
    ours, theirs = open_predictor(run, host).predict(images), open_predictor(run / file, host).predict(images)
    for a, b in zip(ours, theirs, strict=True):
        # Two empty cells may look alike to the last bit: the places decide which detection is which.
        first, second = (np.lexsort(one.boxes.round().T) for one in (a, b))
        np.testing.assert_array_equal(a.labels[first], b.labels[second])
        np.testing.assert_allclose(a.boxes[first], b.boxes[second], atol=1e-3)
        np.testing.assert_allclose(a.scores[first], b.scores[second], atol=1e-5)


def test_images_one_by_one_give_what_they_give_together(run, host, pictures):
    predictor = open_predictor(run / FILES[1], host)
    images = [picture for picture, _ in pictures]
    together = predictor.predict(images)
    for image, expected in zip(images, together, strict=True):
        (alone,) = predictor.predict([image])
        np.testing.assert_allclose(alone.boxes, expected.boxes, atol=1e-4)
        np.testing.assert_allclose(alone.scores, expected.scores, atol=1e-6)
    assert predictor.predict([]) == []


def test_a_runtime_with_a_limit_never_gets_more_images_than_that(pictures):
    seen = []

    class Limited:
        batch_limit = 2
        manifest = None
        inner = DetectorRuntime(CellDetector(CLASSES.names, SIZE))

        def __call__(self, images):
            seen.append(len(images))
            return self.inner(images)

    rule = CellDetector(CLASSES.names, SIZE).input_rule
    found = Predictor(Limited(), rule, PostRule(kind="nms"), CLASSES).predict([p for p, _ in pictures])
    assert (len(found), seen) == (5, [2, 2, 1])


def test_a_file_of_a_fixed_batch_takes_any_number_of_images(tmp_path, run, host, pictures):
    spec = host.get(ExporterSpec, "onnx")
    settings = type(spec.settings())(dynamic_batch=False)
    images = sorted((run.parent / "data" / "valid").glob("*.png"))
    result = export_model(
        load_model(run, host), spec, settings, tmp_path, ExportConfig(), None, host, Evidence(images=images)
    )
    assert onnx.load(result.path).graph.input[0].type.tensor_type.shape.dim[0].dim_value == 1
    assert result.manifest["gate"]["batch_sizes"] == [1, 1, 1]
    predictor = open_predictor(result.path, host)
    assert predictor.runtime.batch_limit == 1
    assert [len(one) for one in predictor.with_rule(score=0.3).predict([p for p, _ in pictures])] == [
        len(objects) for _, objects in pictures
    ]


def test_thresholds_can_be_set_and_what_is_not_set_stays(run, host, pictures):
    predictor = open_predictor(run, host)
    changed = predictor.with_rule(score=0.9, max_detections=2)
    assert changed.post_rule == PostRule(kind="nms", score_threshold=0.9, max_detections=2)
    found = changed.predict([pictures[0][0]])[0]
    assert len(found) <= 2
    assert (found.scores >= 0.9).all()
    assert predictor.post_rule.score_threshold == 0.05


def test_boxes_that_are_no_numbers_are_an_error_not_a_detection():
    class Diverged:
        batch_limit = None
        manifest = None

        def __call__(self, images):
            return np.full((len(images), 1, 4), np.nan, np.float32), np.ones((len(images), 1, 1), np.float32)

    predictor = Predictor(Diverged(), InputRule(size=SIZE), PostRule(kind="nms"), ClassMap((1,), ("a",)))
    with pytest.raises(DetloomError, match="not numbers"):
        predictor.predict([np.zeros((64, 96, 3), np.uint8)])


# ---- files ------------------------------------------------------------------------------------------------------


def test_a_path_with_nothing_there_is_said_to_be_empty(tmp_path, host):
    with pytest.raises(UsageError, match="there is no model at"):
        open_predictor(tmp_path / "gone.onnx", host)
    with pytest.raises(UsageError, match="no run's folder"):
        open_predictor(tmp_path, host)


def test_a_file_of_an_unknown_kind_names_the_kinds_that_can_be_run(tmp_path, host):
    file = tmp_path / "model.tflite"
    file.write_bytes(b"x")
    with pytest.raises(UsageError, match=r"\.onnx, \.pt, \.torchscript"):
        open_predictor(file, host)


@pytest.mark.parametrize("suffix", [".onnx", ".torchscript", ".pt"])
@pytest.mark.parametrize("content", [b"", b"this is text, not a model", "half"])
def test_a_file_that_is_no_model_is_refused_in_a_sentence(tmp_path, run, host, suffix, content):
    whole = next(run / file for file in FILES if file.endswith(suffix)).read_bytes()
    file = tmp_path / f"broken{suffix}"
    file.write_bytes(whole[: len(whole) // 2] if content == "half" else content)
    with pytest.raises(DetloomError, match=f"broken{suffix} cannot be (loaded|read)") as caught:
        open_predictor(file, host)
    assert caught.value.hint


def test_a_foreign_onnx_file_is_told_what_it_lacks(tmp_path, host):
    shape = [1, 3, 32, 32]
    graph = onnx.helper.make_graph(
        [onnx.helper.make_node("Relu", ["data"], ["out"])],
        "foreign",
        [onnx.helper.make_tensor_value_info("data", onnx.TensorProto.FLOAT, shape)],
        [onnx.helper.make_tensor_value_info("out", onnx.TensorProto.FLOAT, shape)],
    )
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 17)], ir_version=8)
    onnx.save(model, tmp_path / "foreign.onnx")
    with pytest.raises(WeightsError, match=r"takes data tensor\(float\).*needed are one tensor\(uint8\)"):
        open_predictor(tmp_path / "foreign.onnx", host)


def stripped(run: Path, dest: Path) -> Path:
    """The exported ONNX file without the manifest inside."""
    model = onnx.load(run / FILES[1])
    del model.metadata_props[:]
    onnx.save(model, dest)
    return dest


def test_a_file_without_its_manifest_is_refused(tmp_path, run, host):
    with pytest.raises(WeightsError, match=r"holds no manifest, and none lies beside it \(bare\.onnx\.json\)"):
        open_predictor(stripped(run, tmp_path / "bare.onnx"), host)


def test_a_manifest_beside_the_file_serves_when_there_is_none_inside(tmp_path, run, host, pictures):
    from detloom.files import sha256_of

    file = stripped(run, tmp_path / "bare.onnx")
    values = json.loads(manifest_path(run / FILES[1]).read_text())
    manifest_path(file).write_text(json.dumps({**values, "sha256": sha256_of(file)}))
    found = open_predictor(file, host).with_rule(score=0.3).predict([pictures[0][0]])[0]
    assert len(found) == len(pictures[0][1])


def test_the_manifest_of_another_file_is_refused(tmp_path, run, host):
    file = stripped(run, tmp_path / "bare.onnx")
    manifest_path(file).write_text(manifest_path(run / FILES[1]).read_text())
    with pytest.raises(WeightsError, match="belongs to another file"):
        open_predictor(file, host)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda v: v.pop("classes"), "classes: field required"),
        (lambda v: v["input_rule"].update(size=[64]), r"input_rule\.size"),
        (lambda v: v.update(format=2), "manifest of format 2"),
    ],
)
def test_a_manifest_that_is_not_complete_names_the_field(tmp_path, run, host, change, message):
    model = onnx.load(run / FILES[1])
    values = json.loads(model.metadata_props[0].value)
    change(values)
    onnx.helper.set_model_props(model, {"detloom": json.dumps(values)})
    onnx.save(model, tmp_path / "odd.onnx")
    with pytest.raises(WeightsError, match=message):
        open_predictor(tmp_path / "odd.onnx", host)


@pytest.mark.parametrize("file", FILES)
def test_a_device_that_is_not_there_is_named(run, host, file):
    with pytest.raises(UsageError, match="cuda:77"):
        open_predictor(run / file, host, device="cuda:77")
    with pytest.raises(UsageError, match="'gpu' is no device"):
        open_predictor(run / file, host, device="gpu")


def test_a_runtime_that_cannot_take_the_file_is_refused(run, host):
    with pytest.raises(UsageError, match=r"torch cannot run cells-one\.onnx"):
        open_predictor(run / FILES[1], host, runtime="torch")
    with pytest.raises(PluginError, match="did you mean onnxruntime"):
        raise_with_hint(lambda: open_predictor(run / FILES[1], host, runtime="onxruntime"))


def raise_with_hint(call):
    try:
        call()
    except PluginError as error:
        raise PluginError(str(error)) from None


# ---- no torch ---------------------------------------------------------------------------------------------------


def test_an_onnx_file_is_run_without_importing_torch(run, tmp_path):
    picture = next((run.parent / "data" / "valid").glob("*.png"))
    code = f"""
import sys
from pathlib import Path
sys.modules["torch"] = None
from detloom.data.images import read_image
from detloom.host import discover
from detloom.prediction import open_predictor
found = open_predictor(Path({str(run / FILES[1])!r}), discover()).predict([read_image(Path({str(picture)!r}))])
print(len(found[0]) > 0)
"""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(IMPORT_ROOTS)}
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, env=environment, check=False
    )
    assert (done.returncode, done.stdout.strip()) == (0, "True"), done.stderr


def test_a_missing_onnxruntime_is_said_with_the_way_to_install_it(run, host, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    monkeypatch.delitem(sys.modules, "detloom_plugins.runtimes.onnxruntime.session", raising=False)
    with pytest.raises(PluginError) as caught:
        open_predictor(run / FILES[1], host)
    assert "pip install onnxruntime" in caught.value.hint
    monkeypatch.delitem(sys.modules, "detloom_plugins.runtimes.onnxruntime.session", raising=False)


# ---- classes ----------------------------------------------------------------------------------------------------


def test_classes_are_matched_by_name_whatever_their_order_and_ids():
    model, data = ClassMap((1, 2, 3), ("a", "b", "c")), ClassMap((5, 70), ("c", "a"))
    columns = class_columns(model, data)
    assert columns.tolist() == [1, -1, 0]
    found = Detections(np.zeros((3, 4), np.float32), np.array([0.9, 0.8, 0.7], np.float32), np.array([0, 1, 2]))
    assert relabel(found, columns).labels.tolist() == [1, 0]
    assert relabel(found, columns).scores.tolist() == pytest.approx([0.9, 0.7])


def test_objects_of_a_class_that_the_model_does_not_know_are_an_error(run, host):
    from types import SimpleNamespace

    data = ClassMap((1, 2, 3), ("red", "green", "never used"))
    split = SimpleNamespace(labels=np.array([0, 1, 1]))
    with pytest.raises(DataError, match=r"does not know: green \(2 objects\)\n") as caught:
        check_classes(CLASSES, data, [split])
    assert "blue, red" in caught.value.hint
    check_classes(CLASSES, ClassMap((1, 3), ("red", "never used")), [SimpleNamespace(labels=np.array([0, 0]))])


def test_images_are_read_in_order_and_a_broken_one_stands_in_its_place(tmp_path):
    import cv2

    from detloom.data.images import ImageError

    paths = [tmp_path / f"{number}.png" for number in range(20)]
    for number, path in enumerate(paths):
        cv2.imwrite(str(path), np.full((4, 4, 3), number, np.uint8))
    paths[7].write_bytes(b"broken")
    read = list(read_ahead(paths, ahead=3))
    assert [path for path, _ in read] == paths
    assert isinstance(read[7][1], ImageError)
    assert all(image[0, 0, 0] == number for number, (_, image) in enumerate(read) if number != 7)
