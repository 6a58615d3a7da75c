"""RF-DETR over the modules of the original package: the same numbers, and everything else as ever.

`make test-native` runs these in an environment of their own, which has the package and torchvision.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import Tensor

from conftest import IMPORT_ROOTS
from detloom.cli import main
from detloom.detector import Detector
from detloom.discovery import Candidate, first_party_candidates
from detloom.errors import PluginError
from detloom.hookspecs import hookimpl
from detloom.host import PluginHost
from detloom.specs import ModelSpec
from detloom.train.seeding import seed_torch
from detloom.weights import read_weights
from detloom_plugins.models import rf_detr
from detloom_plugins.models.rf_detr.native import package
from detloom_plugins.models.rf_detr.variants import VARIANTS, Variant
from detr_tools import HOST, NAMES, Family, build, check_learned, overfit
from mask_tools import write_data
from rf_detr_tools import BOXES, MASKS, SETTINGS, ellipses
from torchvision_shim import usable_torchvision

pytestmark = pytest.mark.native


@pytest.fixture(scope="module", autouse=True)
def torchvision() -> None:
    assert usable_torchvision(), "these tests are for the environment that `make test-native` makes"
    package()


@pytest.fixture(scope="module")
def small_sizes(torchvision: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """The small sizes of the tests, built of the package's modules: it knows published ones alone."""
    import rfdetr.config
    from rfdetr.models.backbone import dinov2

    eyes = dinov2.get_config("small", False) | {"hidden_size": 64, "num_hidden_layers": 3, "num_attention_heads": 4}
    file = tmp_path_factory.mktemp("eyes") / "tiny.json"
    file.write_text(json.dumps(eyes))
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(dinov2.size_to_config, "tiny", str(file))
        patch.setitem(dinov2.size_to_width, "tiny", 64)
        for name, base in (("Tiny", "Nano"), ("SegTiny", "SegNano")):
            given: dict[str, Any] = {
                "encoder": "dinov2_windowed_tiny",
                "hidden_dim": 64,
                "patch_size": 8,
                "num_windows": 2,
            }
            given |= {"positional_encoding_size": 12, "dec_layers": 2, "sa_nheads": 4, "ca_nheads": 4}
            given |= {"out_feature_indexes": [1, 3]}
            kind = getattr(rfdetr.config, f"RFDETR{base}Config")
            fields = {**given, "__annotations__": dict.fromkeys(given, Any), "__module__": __name__}
            patch.setattr(rfdetr.config, f"RFDETR{name}Config", type("Small", (kind,), fields), raising=False)
        yield


def small(variant: Variant) -> Family:
    # The package has one width of these layers for all its sizes.
    return Family("rf_detr-nano", partial(rf_detr.build, replace(variant, ffn=2048)), SETTINGS, (96, 96), (96, 144))


SMALL_BOXES, SMALL_MASKS = small(BOXES), replace(small(MASKS), spec="rf_detr-seg-nano")


def published(name: str) -> Family:
    """Of a published size with few queries, for a small square and a small rectangle."""
    variant = next(variant for variant in VARIANTS if variant.name == name)
    side = variant.divisor * -(-6 * variant.backbone.patch // variant.divisor)
    spec = HOST.get(ModelSpec, variant.full_name)
    return Family(
        spec.name, spec.build, {"num_queries": 20, "group_detr": 2}, (side, side), (side, side + variant.divisor)
    )


def stirred(detector: Detector) -> Any:
    """Weights that give every query scores, boxes and masks of its own, as trained ones do."""
    generator = torch.Generator().manual_seed(5)
    scales = {"bbox_embed": 0.05, "class_embed": 0.3, "refpoint_embed": 0.05, "segmentation_head": 0.02}
    with torch.no_grad():
        for name, value in detector.named_parameters():
            for part, scale in scales.items():
                if part in name:
                    value.add_(torch.randn(value.shape, generator=generator) * scale)
    return detector


def both(chosen: Family) -> tuple[Any, Any]:
    """The package's network and that of transformers with its weights, in 64 bits: a tie of scores is none there."""
    native = stirred(build(chosen, backend="rfdetr"))
    ours = build(chosen)
    report = ours.load_pretrained(native.state_dict(), NAMES, "native")
    assert report.loaded == report.total and not (report.missing or report.unexpected or report.mismatched)
    return native.double(), ours.double()


# --- the same numbers ---


@pytest.mark.parametrize("name", ["nano", "base", "seg-nano"])
def test_the_packages_network_and_that_of_transformers_say_the_same(name: str) -> None:
    """A square and a rectangle; and the weights come back as they were."""
    chosen = published(name)
    native, ours = both(chosen)
    native.eval()
    ours.eval()
    for size in (chosen.size, chosen.wide):
        images = torch.randint(0, 256, (1, 3, *size), dtype=torch.uint8)
        with torch.inference_mode():
            theirs, found = native(images), ours(images)
        # The package lays its anchors in 32 bits.
        torch.testing.assert_close(found.logits, theirs.logits, rtol=0, atol=5e-5)
        torch.testing.assert_close(found.boxes, theirs.boxes, rtol=0, atol=2e-7)
        assert (found.masks is not None) == native.masks
        if native.masks:
            torch.testing.assert_close(found.masks, theirs.masks, rtol=0, atol=1e-4)
    back, before = native.canonical(ours.state_dict()), native.network.state_dict()
    assert back.keys() == before.keys() and all(torch.equal(back[key], before[key]) for key in before)


@pytest.mark.parametrize("name", [variant.name for variant in VARIANTS])
def test_every_published_size_has_the_same_tensors_under_other_names(name: str) -> None:
    chosen = published(name)
    with torch.device("meta"):
        native: Any = build(chosen, backend="rfdetr")
        ours: Any = build(chosen)
    named = native.library_named(native.network.state_dict())
    assert {key: value.shape for key, value in named.items()} == {
        key: value.shape for key, value in ours.network.state_dict().items()
    }
    learning = [sum(value.numel() for value in one.parameters() if value.requires_grad) for one in (native, ours)]
    assert learning[0] == learning[1] > 25e6


@pytest.mark.usefixtures("small_sizes")
@pytest.mark.parametrize("chosen", [SMALL_BOXES, SMALL_MASKS], ids=["boxes", "masks"])
def test_nothing_of_the_package_is_changed_and_its_files_load_whole(chosen: Family, tmp_path: Path) -> None:
    """Its own network as it builds it, in its own forward pass; and a checkpoint as it writes one, in both backends."""
    import rfdetr.config
    from rfdetr.models import build_model_from_config

    native = stirred(build(chosen, backend="rfdetr")).eval()
    kind = rfdetr.config.RFDETRSegTinyConfig if native.masks else rfdetr.config.RFDETRTinyConfig
    config = kind(num_classes=2, pretrain_weights="/none", device="cpu", **SETTINGS)
    untouched = build_model_from_config(config).eval()
    untouched.load_state_dict(native.network.state_dict(), strict=False)
    pixels = torch.randn(2, 3, *chosen.size)
    with torch.inference_mode():
        theirs, found = untouched(pixels), native.run(pixels, None)
    assert torch.equal(found.logits, theirs["pred_logits"]) and torch.equal(found.boxes, theirs["pred_boxes"])
    if native.masks:
        torch.testing.assert_close(found.masks, theirs["pred_masks"])

    path = tmp_path / "checkpoint.pth"
    torch.save({"model": untouched.state_dict(), "args": argparse.Namespace(encoder="dinov2_windowed_small")}, path)
    for backend in ("rfdetr", "transformers"):
        detector = build(chosen, backend=backend)
        report = detector.load_pretrained(read_weights(path), NAMES, path.name)
        assert report.loaded == report.total
        assert not (report.missing or report.unexpected or report.mismatched or report.reset)
        named = native.canonical(detector.state_dict())
        assert all(torch.equal(named[key], value) for key, value in native.network.state_dict().items())


@pytest.mark.usefixtures("small_sizes")
@pytest.mark.parametrize("chosen", [SMALL_BOXES, SMALL_MASKS], ids=["boxes", "masks"])
def test_a_training_step_has_the_same_loss_and_the_same_gradient(chosen: Family) -> None:
    native, ours = both(chosen)
    images, targets = ellipses(native.input_rule.size)
    terms: list[dict[str, Tensor]] = []
    for detector in (native, ours):
        seed_torch(0, "points of the masks")
        detector.train()
        found = detector.loss(detector(images, targets), targets)
        (found.total / found.normaliser).backward()
        terms.append({key: value.detach() for key, value in found.terms.items()})
    torch.testing.assert_close(terms[0], terms[1], rtol=1e-5, atol=1e-5)
    wanted = {key: value.grad for key, value in native.network.named_parameters() if value.grad is not None}
    given = {f"network.{key}": value.grad for key, value in ours.network.named_parameters() if value.grad is not None}
    named = native.canonical(given)
    assert named.keys() == wanted.keys() and len(wanted) > 100
    for key, gradient in wanted.items():
        torch.testing.assert_close(named[key], gradient, rtol=1e-3, atol=1e-6)


# --- it learns ---


@pytest.mark.usefixtures("small_sizes")
def test_one_batch_is_learned_and_averaged_saved_and_exported(tmp_path: Path) -> None:
    torch.manual_seed(0)
    learned = overfit(build(SMALL_MASKS, backend="rfdetr"), steps=220, lr=2e-3, batch=ellipses())
    check_learned(learned, lambda: build(SMALL_MASKS, backend="rfdetr"), tmp_path)


@pytest.mark.usefixtures("small_sizes")
def test_every_parameter_is_in_one_group_and_activations_can_be_computed_again() -> None:
    from detloom.train.recompute import recompute_activations

    detector = build(SMALL_MASKS, backend="rfdetr").train()
    grouped = [id(value) for group in detector.layer_groups() for m in group.modules for value in m.parameters()]
    assert sorted(grouped) == sorted(id(value) for value in detector.parameters())
    other = [group.name for group in build(SMALL_MASKS).layer_groups()]
    assert [group.name for group in detector.layer_groups()] == other
    images, targets = ellipses()
    gradients = []
    for again in (False, True):
        if again:
            assert recompute_activations(detector, "small") == 3 + 2
        seed_torch(0, "step")
        detector.zero_grad()
        detector.loss(detector(images, targets), targets).total.backward()
        gradients.append([value.grad.clone() for value in detector.parameters() if value.grad is not None])
    torch.testing.assert_close(gradients[0], gradients[1])


# --- a whole run ---


def small_host() -> PluginHost:
    """With the small size of masks as a model `small`, whose settings are `model.plugins.small`."""

    @hookimpl
    def detloom_models() -> list[ModelSpec]:
        spec = HOST.get(ModelSpec, SMALL_MASKS.spec)
        settings = type(spec.settings())
        return [
            replace(
                spec,
                name="small",
                family="small",
                aliases=(),
                refused={},
                weights=(),
                settings=lambda: settings.model_validate(SETTINGS),
                build=SMALL_MASKS.build,
            )
        ]

    module = ModuleType("small")
    module.__dict__.update(detloom_api=(0, 1), detloom_models=detloom_models)
    return PluginHost([*first_party_candidates(), Candidate("small", "small", "1", "entry point", lambda: module)])


def line(folder: Path, **more: str) -> list[str]:
    """Of a training of one epoch. more: with `__` for a point."""
    values = {
        "model.pretrain_weights": "none",
        "data.num_workers": "0",
        "data.near_duplicates": "false",
        "training.resolution": "96",
        "training.batch_size": "2",
        "training.epochs": "1",
        "augmentation.transforms": "[]",
        "export.format": "[]",
        "experiment.output_dir": str(folder / "runs"),
        "experiment.name": "run",
    }
    values.update({key.replace("__", "."): value for key, value in more.items()})
    given = [text for key, value in values.items() for text in ("--set", f"{key}={value}")]
    return ["train", str(folder / "data"), *given]


def called(*arguments: str | Path) -> int:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("detloom.host.discover", small_host)
        try:
            return main([str(argument) for argument in arguments])
        finally:
            logging.getLogger("detloom").handlers.clear()


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory, small_sizes: None) -> Path:
    folder = tmp_path_factory.mktemp("native")
    write_data(folder / "data", (4, 2, 2))
    chosen = {"model__type": "small", "model__plugins__small__backend": "rfdetr"}
    assert called(*line(folder, **chosen, export__format="[onnx, torchscript]")) == 0
    return folder


def test_a_run_trains_evaluates_and_exports_masks(place: Path) -> None:
    run = place / "runs" / "run"
    record = json.loads((run / "run.json").read_text())
    assert record["status"] == "completed" and "test/segm_AP" in record["metrics"]
    gates = [json.loads(path.read_text())["gate"] for path in run.glob("exports/*.json")]
    assert len(gates) == 2 and all(gate["passed"] for gate in gates)
    saved = torch.load(run / "checkpoints/best.pt", weights_only=True)
    assert saved["model"]["settings"]["backend"] == "rfdetr"
    assert "network.transformer.decoder.layers.0.self_attn.in_proj_weight" in saved["weights"]


def test_a_finished_run_predicts_by_itself_and_by_its_file(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (onnx,) = (place / "runs/run/exports").glob("*.onnx")
    boxes = []
    for model in (place / "runs/run", onnx):
        capsys.readouterr()
        assert called("predict", model, place / "data/test", "--score", "0.001", "--json") == 0
        rows = json.loads(capsys.readouterr().out)
        boxes.append([found["box"] for row in rows for found in row["detections"]])
    assert len(boxes[0]) > 10 and boxes[0] == [pytest.approx(box, abs=0.2) for box in boxes[1]]


def test_the_other_backend_begins_with_its_weights_and_does_not_go_on_with_it(
    place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = {"model__type": "small", "model__plugins__small__backend": "transformers"}
    weights = str(place / "runs/run/checkpoints/best.pt")
    begun = line(
        place, **other, experiment__name="other", model__pretrain_weights=weights, model__strict_weights="true"
    )
    assert called(*begun) == 0
    assert json.loads((place / "runs/other/run.json").read_text())["status"] == "completed"
    capsys.readouterr()
    assert called(*line(place, **other, training__epochs="2"), "--resume", place / "runs/run") != 0
    told = capsys.readouterr().err
    assert "it was written with model.rf_detr.backend=rfdetr, not transformers" in told and "Traceback" not in told


def test_a_torchvision_of_another_torch_ends_a_run_with_a_sentence(
    tmp_path: Path, cli: Callable[..., subprocess.CompletedProcess[str]]
) -> None:
    write_data(tmp_path / "data", (2, 2, 2))
    (tmp_path / "broken/torchvision").mkdir(parents=True)
    stop = "raise RuntimeError('operator torchvision::nms does not exist')"
    (tmp_path / "broken/torchvision/__init__.py").write_text(stop)
    paths = os.pathsep.join([str(tmp_path / "broken"), *IMPORT_ROOTS])
    chosen = {"model__type": "rf_detr-nano", "model__rf_detr__backend": "rfdetr", "training__resolution": "288"}
    finished = cli(*line(tmp_path, **chosen), env={"PYTHONPATH": paths})
    assert finished.returncode == PluginError.exit_code, finished.stderr
    assert "needs torchvision, which cannot be used here (operator torchvision::nms does not exist)" in finished.stderr
    assert "install torchvision built for torch" in finished.stderr and "Traceback" not in finished.stderr
