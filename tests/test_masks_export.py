"""Masks in exported files: what they give, and what the gate refuses."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from numpy.typing import NDArray

from detloom.config import mapping_layer, resolve
from detloom.data.dataset import Dataset
from detloom.data.images import read_image
from detloom.data.masks import decode_rle
from detloom.deploy import deploy_graph
from detloom.detector import Detector
from detloom.errors import ExportError, PluginError, WeightsError
from detloom.export import export_model
from detloom.hookspecs import hookimpl
from detloom.host import PluginHost
from detloom.model import describe, load_model
from detloom.prediction import open_predictor
from detloom.specs import ExporterSpec, ExportRequest, ModelSpec
from detloom.train.checkpoint import BEST, save_checkpoint
from detloom_plugins.exporters.onnx.settings import OnnxSettings
from detloom_plugins.exporters.onnx.writer import OnnxExporter
from detloom_schemas.config import ExportConfig
from mask_tools import (
    CLASSES,
    SIZE,
    ForgetfulDetector,
    OutlinePlugin,
    PrototypeDetector,
    dataset_at,
    outline_host,
    values_for,
    write_data,
)


@pytest.fixture(scope="module")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_data(tmp_path_factory.mktemp("shapes") / "data", (6, 8, 4))


@pytest.fixture(scope="module")
def dataset(drawn: Path, colour_host: PluginHost) -> Dataset:
    return dataset_at(drawn, colour_host)


class ColourDetector(PrototypeDetector):
    """Not trained: one prototype is blue, another red, so that the masks are the shapes that are drawn."""

    def __init__(self, class_names: Any = CLASSES, size: tuple[int, int] = SIZE) -> None:
        super().__init__(class_names, size)
        self.paint = torch.nn.Conv2d(3, 2, 1)
        with torch.no_grad():
            self.paint.weight[:, :, 0, 0] = torch.tensor([[-6.0, -3.0, 9.0], [9.0, -3.0, -6.0]])
            self.paint.bias.fill_(-3.0)

    def forward(self, images: Any, targets: Any = None, prompts: Any = None) -> Any:
        coarse = F.avg_pool2d(self.paint(self.normalise(images)), 2)
        seen = F.avg_pool2d(coarse.sigmoid(), 8).flatten(2).transpose(1, 2)
        outputs = super().forward(images)
        mixing = torch.zeros_like(outputs.masks) if outputs.masks is not None else outputs.logits
        mixing[..., :2] = (seen / seen.sum(-1, keepdim=True)).round()
        outputs.extra["prototypes"] = torch.cat([coarse, torch.zeros_like(coarse).repeat(1, 3, 1, 1)], 1)
        outputs.logits, outputs.masks = 12 * seen - 3, mixing
        outputs.boxes = outputs.boxes * 0 + 0.8
        return outputs


@pytest.fixture(scope="module")
def colour_host() -> PluginHost:
    class Colours(OutlinePlugin):
        detector = ColourDetector

    return outline_host(Colours())


@pytest.fixture(scope="module")
def checkpoint(
    tmp_path_factory: pytest.TempPathFactory, drawn: Path, colour_host: PluginHost, dataset: Dataset
) -> Path:
    torch.manual_seed(0)
    detector = ColourDetector()
    spec = colour_host.get(ModelSpec, "outline-one")
    config = resolve(colour_host, [mapping_layer(values_for(drawn))]).to_dict()
    about = describe(detector, colour_host.qualified(spec), spec.settings(), dataset.class_map, config, {})
    folder = tmp_path_factory.mktemp("run") / "checkpoints"
    save_checkpoint(folder, BEST, {**about, "weights": detector.saved_state(), "metrics": {}}, {})
    return folder / BEST


def export(checkpoint: Path, host: PluginHost, dest: Path, name: str, split: Any, **config: Any) -> Any:
    spec = host.get(ExporterSpec, name)
    return export_model(
        load_model(checkpoint, host), spec, spec.settings(), dest, ExportConfig(**config), split, host
    )  # fmt: skip


@pytest.fixture(scope="module")
def exported(
    checkpoint: Path, colour_host: PluginHost, dataset: Dataset, tmp_path_factory: pytest.TempPathFactory
) -> Any:
    dest = tmp_path_factory.mktemp("exports")
    return {
        name: export(checkpoint, colour_host, dest, name, dataset.splits["val"]) for name in ("onnx", "torchscript")
    }


@pytest.mark.parametrize("name", ["onnx", "torchscript"])
def test_an_exported_file_gives_the_masks_of_its_checkpoint(
    exported: Any, checkpoint: Path, colour_host: PluginHost, dataset: Dataset, name: str
) -> None:
    images = [read_image(image.path) for image in dataset.splits["val"].images]
    ours = open_predictor(checkpoint, colour_host).predict(images)
    file = open_predictor(exported[name].path, colour_host)
    assert file.masks
    theirs = file.predict(images)
    assert sum(len(one) for one in ours) > 8
    for mine, other, image in zip(ours, theirs, images, strict=True):
        assert mine.masks is not None and other.masks is not None and len(mine) == len(other)
        assert all(tuple(rle["size"]) == image.shape[:2] for rle in other.masks)
        for a, b in zip(mine.masks, other.masks, strict=True):
            assert (decode_rle(a) != decode_rle(b)).sum() <= 2


def test_the_manifest_names_the_third_output_and_the_gate_measures_it(exported: Any) -> None:
    for result in exported.values():
        assert result.manifest["masks"] is True
        assert [entry["name"] for entry in result.manifest["outputs"]] == ["boxes", "scores", "masks"]
        gate = result.manifest["gate"]
        assert gate["passed"] and gate["checkpoint_segm_ap"] > 0.1 and gate["max_mask"] < 1e-3
        assert gate["segm_difference"] == pytest.approx(gate["exported_segm_ap"] - gate["checkpoint_segm_ap"])
        assert gate["parity_limits"]["max_mask"] > 0
        assert gate["checkpoint_metrics"]["segm_AP"] == gate["checkpoint_segm_ap"]
        assert any("AP of masks" in line for line in result.lines)
    import onnx

    graph = onnx.load(exported["onnx"].path).graph
    assert [output.name for output in graph.output] == ["boxes", "scores", "masks"]
    shape = [dim.dim_param or dim.dim_value for dim in graph.output[2].type.tensor_type.shape.dim]
    assert shape == ["batch", 16, 32, 32]


def smudging_host(amount: float) -> PluginHost:
    """Its exporter writes everything as it is but the masks."""

    class Smudged(ColourDetector):
        def decode(self, outputs: Any) -> Any:
            decoded = super().decode(outputs)
            return dataclasses.replace(decoded, masks=decoded.masks - amount)

    class Exporter(OnnxExporter):
        def export(self, detector: Detector, request: ExportRequest) -> Path:
            other = Smudged()
            other.load_state_dict(detector.state_dict())
            return super().export(other.eval(), request)

    class Plugin(OutlinePlugin):
        detector = ColourDetector

        @hookimpl
        def detloom_exporters(self) -> Any:
            spec = ExporterSpec(
                name="smudge", summary="other masks", suffix=".onnx", runtime="onnxruntime",
                build=lambda settings: Exporter(OnnxSettings()),
            )  # fmt: skip
            return [spec]

    return outline_host(Plugin())


def test_a_file_with_other_masks_is_refused_though_its_boxes_are_right(
    checkpoint: Path, dataset: Dataset, tmp_path: Path
) -> None:
    with pytest.raises(ExportError, match=r"a mask differs by .* of probability") as refused:
        export(checkpoint, smudging_host(1.0), tmp_path, "smudge", dataset.splits["val"])
    manifest = json.loads((tmp_path / "outline-one.rejected.onnx.json").read_text())
    gate = manifest["gate"]
    assert gate["difference"] == 0 and gate["max_box_px"] < 0.01
    assert gate["max_mask"] > 0.1
    assert "does not equal its checkpoint" in str(refused.value)


def test_the_ap_of_masks_alone_refuses_a_file(checkpoint: Path, dataset: Dataset, tmp_path: Path) -> None:
    """With a tolerance of the user's and 16 bits, single numbers are recorded and not judged."""
    with pytest.raises(ExportError, match=r"AP of masks is .* by the checkpoint and 0\.0000 by the file"):
        export(checkpoint, smudging_host(99.0), tmp_path, "smudge", dataset.splits["val"], half=True, tolerance=0.05)


def test_a_runtime_without_the_masks_that_the_manifest_states_is_named(
    exported: Any, colour_host: PluginHost, dataset: Dataset
) -> None:
    whole = open_predictor(exported["onnx"].path, colour_host)

    class BoxesAlone:
        batch_limit, manifest = None, None

        def __call__(self, images: NDArray[np.uint8]) -> Any:
            return whole.runtime(images)[:2]

    without = dataclasses.replace(whole, runtime=BoxesAlone())
    with pytest.raises(WeightsError, match="predicts masks by its manifest, and onnxruntime gives none"):
        without.predict([read_image(dataset.splits["val"].images[0].path)])


def test_a_model_that_promises_masks_and_decodes_none_is_named() -> None:
    model = ForgetfulDetector(CLASSES, SIZE).eval()
    images = torch.zeros(1, 3, *SIZE, dtype=torch.uint8)
    with torch.no_grad(), pytest.raises(PluginError, match="decodes none"):
        model.predict(model(images), [SIZE])
    with torch.no_grad(), pytest.raises(PluginError, match="decodes none"):
        deploy_graph(model)(images)
