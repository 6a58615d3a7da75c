"""OpenVINO models: two files that belong together, proved like every export, and run in the precision that is asked."""

from __future__ import annotations

import copy
import json
import shutil
import socket
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

pytest.importorskip("openvino", reason="the extra `openvino` is not installed")

import openvino

from cells import CLASSES, SIZE, CellDetector, cells_host, draw_data, draw_picture, write_run
from detloom.cli import main
from detloom.config import load_saved
from detloom.data.load import load_dataset
from detloom.deploy import DetectorRuntime, sample_input
from detloom.errors import DetloomError, ExportError, PluginError, UsageError, WeightsError
from detloom.export import export_model
from detloom.files import sha256_of
from detloom.hookspecs import hookimpl
from detloom.model import load_model
from detloom.prediction import open_predictor
from detloom.specs import ExporterSpec, ExportRequest, RuntimeRequest, RuntimeSpec
from detloom_plugins.runtimes.openvino.model import OpenVinoRuntime
from detloom_schemas.config import ExportConfig
from detloom_schemas.manifest import WEIGHTS_KEY, ExportManifest
from yolox_tools import build

pytestmark = pytest.mark.openvino


@pytest.fixture(scope="module")
def host():
    return cells_host()


@pytest.fixture(scope="module")
def run(tmp_path_factory, host):
    root = tmp_path_factory.mktemp("openvino")
    return write_run(root / "run", draw_data(root / "data"), host)


@pytest.fixture(scope="module")
def split(run, host):
    return load_dataset(load_saved(run, host), host).splits["val"]


@pytest.fixture(scope="module")
def exported(run, host, split):
    return export(run, host, run / "exports", split)


def export(run, host, dest, split, *, kind="openvino", **config):
    spec = host.get(ExporterSpec, kind)
    return export_model(load_model(run, host), spec, spec.settings(), dest, ExportConfig(**config), split, host)


@pytest.fixture
def pair(exported, tmp_path):
    """A copy of both files, without the manifest beside them."""
    for path in (exported.path, *exported.companions):
        shutil.copy(path, tmp_path / path.name)
    return tmp_path / exported.path.name


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


# ---- what is written --------------------------------------------------------------------------------------------


def test_both_files_lie_beside_one_manifest_that_states_them(exported):
    assert names(exported.path.parent) == ["cells-one.bin", "cells-one.xml", "cells-one.xml.json"]
    manifest = ExportManifest.model_validate(json.loads(exported.manifest_path.read_text()))
    assert (manifest.file, manifest.sha256) == ("cells-one.xml", sha256_of(exported.path))
    weights = exported.path.with_suffix(".bin")
    (companion,) = manifest.companions
    assert (companion.file, companion.sha256, companion.bytes) == (
        "cells-one.bin", sha256_of(weights), weights.stat().st_size,
    )  # fmt: skip
    assert exported.companions == (weights,)
    assert exported.lines[0].startswith(f"{exported.path} and cells-one.bin (")
    assert (manifest.exporter, manifest.runtime, manifest.gate.passed) == ("openvino", "openvino", True)


def test_the_gate_proves_it_on_annotated_images_and_other_batch_sizes(exported):
    gate = exported.manifest["gate"]
    assert gate["checkpoint_ap"] == gate["exported_ap"] == pytest.approx(1.0)
    assert gate["max_box_px"] < 1e-3 and gate["max_score"] < 1e-5
    assert gate["batch_sizes"] == [1, 3, 3]


def test_others_can_read_it_and_find_the_tensors_by_name(exported):
    model = openvino.Core().read_model(exported.path)
    (given,) = model.inputs
    assert (given.any_name, str(given.partial_shape)) == ("images", "[?,3,64,96]")
    assert {"boxes", "scores"} <= {name for output in model.outputs for name in output.names}


def test_sixteen_bits_halve_the_weights_and_have_their_own_limits(run, host, split, exported, tmp_path):
    half = export(run, host, tmp_path, split, half=True)
    assert names(tmp_path) == ["cells-one-fp16.bin", "cells-one-fp16.xml", "cells-one-fp16.xml.json"]
    full = exported.companions[0].stat().st_size
    assert 0.45 * full < half.companions[0].stat().st_size < 0.65 * full
    assert half.manifest["gate"]["tolerance"] == 0.01 and half.manifest["half"]


@pytest.mark.parametrize("batch", [1, 2, 5])
def test_yolox_gives_the_same_numbers_for_any_batch(tmp_path_factory, host, batch):
    folder = tmp_path_factory.getbasetemp() / "yolox-openvino"
    torch.manual_seed(3)
    detector = build("nano", ("a", "b"), (64, 96)).eval()
    path = folder / "yolox.xml"
    if not path.exists():
        folder.mkdir()
        spec = host.get(ExporterSpec, "openvino")
        spec.build(spec.settings()).export(detector, ExportRequest(folder / "yolox", (64, 96), False, False, {}))
    images = sample_input((64, 96), batch).numpy()
    ours, theirs = DetectorRuntime(detector)(images), OpenVinoRuntime(path, "cpu")(images)
    np.testing.assert_allclose(theirs.boxes, ours.boxes, atol=1e-3)
    np.testing.assert_allclose(theirs.scores, ours.scores, atol=1e-6)
    assert theirs.masks is None


def test_an_export_that_is_refused_leaves_the_accepted_pair_alone(run, split, tmp_path):
    host = cells_host(saboteur=Saboteur())
    good = export(run, host, tmp_path, split)
    before = {path.name: path.read_bytes() for path in (good.path, *good.companions)}
    with pytest.raises(ExportError, match="does not equal its checkpoint"):
        export(run, host, tmp_path, split, kind="spoiled")
    assert {name: (tmp_path / name).read_bytes() for name in before} == before
    rejected = tmp_path / "cells-one.rejected.xml"
    assert {"cells-one.rejected.bin", "cells-one.rejected.xml.json"} <= set(names(tmp_path))
    told = json.loads(Path(f"{rejected}.json").read_text())
    assert [one["file"] for one in told["companions"]] == ["cells-one.rejected.bin"]
    assert open_predictor(rejected, host).predict([np.zeros((64, 96, 3), np.uint8)])
    export(run, host, tmp_path, split)
    assert not list(tmp_path.glob("*rejected*"))


class Saboteur:
    """Writes a sound pair of another model."""

    detloom_api = (0, 1)

    @hookimpl
    def detloom_exporters(self):
        class Spoiled:
            def export(self, detector, request):
                other = copy.deepcopy(detector)
                with torch.no_grad():
                    other.colour.bias.add_(3.0)
                spec = cells_host().get(ExporterSpec, "openvino")
                return spec.build(spec.settings()).export(other, request)

        return [
            ExporterSpec(
                name="spoiled", summary="another model", suffix=".xml", companions=(".bin",), runtime="openvino",
                build=lambda settings: Spoiled(),
            )
        ]  # fmt: skip


# ---- what is run ------------------------------------------------------------------------------------------------


def test_it_finds_the_squares_where_they_were_drawn(pair, host):
    rng = np.random.default_rng(5)
    pictures = [draw_picture(rng, scale) for scale in (1, 2, 3)]
    predictor = open_predictor(pair, host).with_rule(score=0.3)
    assert (predictor.runtime_name, predictor.class_map) == ("openvino", CLASSES)
    for (_, objects), found in zip(pictures, predictor.predict([p for p, _ in pictures]), strict=True):
        drawn = {(name, x, y, x + w, y + h) for name, (x, y, w, h) in objects}
        rows = zip(found.labels.tolist(), found.boxes.tolist(), strict=True)
        assert {(CLASSES.names[label], *(round(v) for v in box)) for label, box in rows} == drawn


@pytest.fixture
def call(run, monkeypatch, tmp_path, capsys):
    monkeypatch.setattr("detloom.host.discover", cells_host)
    monkeypatch.setenv("DETLOOM_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    capsys.readouterr()

    def invoke(*arguments):
        code = main([str(argument) for argument in arguments])
        return code, *capsys.readouterr()

    return invoke


def average_precision(out: str) -> float:
    (split,) = json.loads(out)["splits"].values()
    return split["metrics"]["AP"]


def test_the_commands_take_it_like_any_other_model(run, exported, call):
    data = run.parent / "data"
    code, out, err = call("predict", exported.path, data / "valid", "--json")
    assert code == 0, err
    assert sum(len(row["detections"]) for row in json.loads(out)) > 8
    code, out, err = call("evaluate", exported.path, data, "--json")
    assert code == 0, err
    assert average_precision(out) == pytest.approx(1.0)


@pytest.mark.skipif(
    "BF16" not in openvino.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES"), reason="no bf16 on this processor"
)
def test_bf16_is_measured_by_its_own_name(run, exported, call, host):
    code, out, err = call("evaluate", exported.path, run.parent / "data", "--runtime", "openvino-bf16", "--json")
    assert code == 0, err
    assert average_precision(out) > 0.8
    exact, rough = (open_predictor(exported.path, host, name) for name in ("openvino", "openvino-bf16"))
    images = sample_input(SIZE, 2).numpy()
    assert 0 < np.abs(exact.runtime(images).scores - rough.runtime(images).scores).max() < 0.05


@pytest.mark.parametrize("capabilities", [["FP32", "INT8"], ["FP32", "BF16"]])
def test_the_precision_is_what_was_asked_for_and_refused_where_there_is_none(exported, monkeypatch, capabilities):
    asked = []
    real = openvino.Core.compile_model

    def noting(core, model, place, options):
        asked.append((place, options["INFERENCE_PRECISION_HINT"]))
        return real(core, model, place, {})

    monkeypatch.setattr(openvino.Core, "compile_model", noting)
    monkeypatch.setattr(openvino.Core, "get_property", lambda core, place, name: capabilities)
    OpenVinoRuntime(exported.path, "auto")
    assert asked == [("CPU", "f32")]
    if "BF16" in capabilities:
        OpenVinoRuntime(exported.path, "cpu", "bf16")
        assert asked[1:] == [("CPU", "bf16")]
    else:
        with pytest.raises(UsageError, match="cpu does not compute in bf16"):
            OpenVinoRuntime(exported.path, "cpu", "bf16")


@pytest.mark.parametrize("threads", ["1", "2"])
def test_it_takes_no_more_threads_than_it_is_allowed(exported, monkeypatch, threads):
    monkeypatch.setenv("OMP_NUM_THREADS", threads)
    monkeypatch.setattr("detloom.cores.usable_cores", lambda: 64)
    runtime = OpenVinoRuntime(exported.path, "cpu")
    assert runtime._compiled.get_property("INFERENCE_NUM_THREADS") == int(threads)
    assert runtime._compiled.get_property("INFERENCE_PRECISION_HINT").get_type_name() == "f32"


def test_a_fixed_batch_is_filled_up_and_never_passed(pair):
    images = sample_input(SIZE, 3).numpy()
    free = OpenVinoRuntime(pair, "cpu")
    expected = free(images)

    def fix(model):
        model.reshape([4, 3, *SIZE])
        # Whoever writes a model anew states its weights anew.
        model.set_rt_info("", WEIGHTS_KEY)

    rewrite(pair, fix)
    runtime = OpenVinoRuntime(pair, "cpu")
    assert (free.batch_limit, runtime.batch_limit) == (None, 4)
    found = runtime(images)
    assert found.boxes.shape == expected.boxes.shape
    np.testing.assert_allclose(found.scores, expected.scores, atol=1e-6)


# ---- what is refused --------------------------------------------------------------------------------------------


def swap_weights(path: Path) -> None:
    """Of the same size and another export: as when a machine stops between the two files."""
    weights = path.with_suffix(".bin")
    weights.write_bytes(weights.read_bytes()[::-1])


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def rewrite(path: Path, change) -> None:
    core = openvino.Core()
    core.set_property({"ENABLE_MMAP": False})  # its own files are written over
    model = core.read_model(path)
    change(model)
    openvino.save_model(model, path, compress_to_fp16=False)


def strange(path: Path) -> None:
    rewrite(path, lambda model: model.outputs[0].get_tensor().set_names({"something"}))


def unreadable_manifest(path: Path) -> None:
    rewrite(path, lambda model: model.set_rt_info("{not json", "detloom"))


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (swap_weights, "cells-one.bin belongs to another model than cells-one.xml"),
        (lambda path: path.with_suffix(".bin").unlink(), "cells-one.bin is missing: an OpenVINO model is two files"),
        (truncate, "cannot be loaded as OpenVINO"),
        (lambda path: path.write_text("<annotation><object/></annotation>"), "cannot be loaded as OpenVINO"),
        (strange, "is not a model exported by Detloom"),
        (unreadable_manifest, "the manifest inside"),
    ],
    ids=["weights of another", "no weights", "half a file", "another xml", "other outputs", "spoiled manifest"],
)
def test_what_is_not_one_whole_export_is_refused(pair, host, spoil, words):
    spoil(pair)
    with pytest.raises(WeightsError) as caught:
        open_predictor(pair, host)
    assert words in caught.value.message and caught.value.hint


def test_the_file_states_the_weights_that_it_was_written_with(exported):
    stated = openvino.Core().read_model(exported.path).get_rt_info(WEIGHTS_KEY).value
    assert stated == sha256_of(exported.path.with_suffix(".bin"))


def test_an_unknown_device_is_refused_with_those_that_are_here(exported, host):
    with pytest.raises(UsageError, match="no device 'cuda' here") as caught:
        open_predictor(exported.path, host, device="cuda")
    assert caught.value.hint.startswith("allowed: auto, cpu")


@pytest.mark.parametrize("what", ["exporters.openvino.writer", "runtimes.openvino.model"])
def test_a_missing_package_is_named_with_the_way_to_install_it(run, host, exported, split, tmp_path, monkeypatch, what):
    monkeypatch.setitem(sys.modules, "openvino", None)
    for name in [name for name in sys.modules if name.startswith(f"detloom_plugins.{what}")]:
        monkeypatch.delitem(sys.modules, name)
    with pytest.raises(PluginError, match="needs the package openvino") as caught:
        if what.startswith("exporters"):
            export(run, host, tmp_path, split)
        else:
            spec = host.get(RuntimeSpec, "openvino")
            spec.build(spec.settings(), RuntimeRequest(exported.path, "cpu", host))
    assert "detloom[openvino]" in caught.value.hint


def test_a_model_that_cannot_be_converted_says_why(run, host, split, tmp_path, monkeypatch):
    def failing(core, *arguments):
        raise RuntimeError("Exception from src/a.cpp:1:\nException from src/b.cpp:2:\nNo conversion rule for Foo\n")

    monkeypatch.setattr(openvino.Core, "read_model", failing)
    with pytest.raises(ExportError, match="cannot convert this model: No conversion rule for Foo"):
        export(run, host, tmp_path, split)
    assert names(tmp_path) == []


def test_nothing_is_reported_to_its_maker(run, host, split, tmp_path, monkeypatch):
    telemetry = pytest.importorskip("openvino_telemetry")
    reported = []

    def refuse(*arguments):
        raise AssertionError(f"a connection is asked for: {arguments[1:]}")

    for name in ("send_event", "start_session", "send_error"):
        monkeypatch.setattr(telemetry.Telemetry, name, lambda self, *a, **k: reported.append(a))
    monkeypatch.setattr(socket.socket, "connect", refuse)
    result = export(run, host, tmp_path, split)
    open_predictor(result.path, host).predict([np.zeros((64, 96, 3), np.uint8)])
    assert reported == []


def test_a_place_without_room_leaves_nothing_half_written(host, tmp_path, monkeypatch):
    def full(source, target):
        raise OSError(28, "No space left on device")

    spec = host.get(ExporterSpec, "openvino")
    monkeypatch.setattr("detloom_plugins.exporters.openvino.writer.shutil", SimpleNamespace(copyfile=full))
    with pytest.raises(DetloomError, match="No space left"):
        detector = CellDetector(CLASSES.names, SIZE).eval()
        spec.build(spec.settings()).export(detector, ExportRequest(tmp_path / "m", SIZE, False, False, {}))
    assert names(tmp_path) == []


def test_listing_it_imports_nothing_heavy():
    code = (
        "import sys, detloom_plugins.exporters.openvino as a, detloom_plugins.runtimes.openvino as b; "
        "a.detloom_exporters(), b.detloom_runtimes(); "
        "print(sorted({'torch', 'numpy', 'onnx', 'openvino', 'pydantic'} & set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", f"import sys; sys.path[:] = {sys.path!r}; {code}"],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert done.stdout.strip() == "[]"
