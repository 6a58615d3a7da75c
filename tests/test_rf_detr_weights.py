"""Names and weights of RF-DETR: the library's, the original package's, and class rows by name."""

from __future__ import annotations

import argparse
import os
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from detloom.errors import WeightsError
from detloom.specs import ModelContext, ModelSpec
from detloom.weights import read_weights
from detloom_plugins.models.rf_detr.coco_rows import COCO_ROWS
from detr_tools import HOST, build, randomised
from rf_detr_tools import FAMILY, SEG_FAMILY
from test_rf_detr import library_network

os.environ.setdefault("HF_HUB_OFFLINE", "1")
import transformers

# As transformers' conversion script says them: size of the pictures that the table of positions stands for, patch,
# windows, layers of the backbone that are read, layers of the decoder, queries (of seg-large the original package's).
PUBLISHED = {
    "nano": (384, 16, 2, (3, 6, 9, 12), 2, 300),
    "small": (512, 16, 2, (3, 6, 9, 12), 3, 300),
    "medium": (576, 16, 2, (3, 6, 9, 12), 4, 300),
    "base": (518, 14, 4, (2, 5, 8, 11), 3, 300),
    "large": (704, 16, 2, (3, 6, 9, 12), 4, 300),
    "seg-nano": (312, 12, 1, (3, 6, 9, 12), 4, 100),
    "seg-small": (384, 12, 2, (3, 6, 9, 12), 4, 100),
    "seg-medium": (432, 12, 2, (3, 6, 9, 12), 5, 200),
    "seg-large": (504, 12, 2, (3, 6, 9, 12), 5, 200),
    "seg-preview": (432, 12, 2, (3, 6, 9, 12), 4, 200),
}


def published_network(name: str) -> Any:
    pixels, patch, windows, stages, layers, queries = PUBLISHED[name]
    config = transformers.RfDetrConfig(
        backbone_config={
            "model_type": "rf_detr_dinov2",
            "hidden_size": 384,
            "num_hidden_layers": 12,
            "num_attention_heads": 6,
            "mlp_ratio": 4,
            "image_size": pixels,
            "patch_size": patch,
            "num_windows": windows,
            "out_features": [f"stage{stage}" for stage in stages],
        },
        d_model=256,
        num_queries=queries,
        decoder_self_attention_heads=8,
        decoder_cross_attention_heads=16,
        decoder_n_points=2,
        decoder_layers=layers,
        num_labels=91,
    )
    kind = transformers.RfDetrForInstanceSegmentation if "seg" in name else transformers.RfDetrForObjectDetection
    return kind(config)


@pytest.mark.parametrize("name", PUBLISHED)
def test_every_size_has_the_names_and_shapes_of_the_librarys_own_build(name: str) -> None:
    spec = HOST.get(ModelSpec, f"rf_detr-{name}")
    resolution = int(str(spec.recipe["training.resolution"]))
    with torch.device("meta"):
        ours: Any = spec.build(spec.settings(), ModelContext(COCO_ROWS, (resolution, resolution)))
        theirs = published_network(name)
    shapes = {key: tensor.shape for key, tensor in ours.state_dict().items()}
    assert shapes == {f"network.{key}": tensor.shape for key, tensor in theirs.state_dict().items()}
    numbers = sum(parameter.numel() for parameter in ours.parameters())
    groups = [parameter for group in ours.layer_groups() for m in group.modules for parameter in m.parameters()]
    assert sum(parameter.numel() for parameter in groups) == numbers
    assert f"{numbers / 1e6:.1f} M" in spec.summary
    still = {name for name, parameter in ours.named_parameters() if not parameter.requires_grad}
    unread = [f"layer.{block}." for block in range(12) if block >= max(PUBLISHED[name][3])]
    assert all("mask_token" in key or any(part in key for part in unread) for key in still)
    assert bool(unread) == any("layer.11." in key for key in still) == (name == "base")


# --- the original package ---


def original_file(detector: Any, folder: Path) -> dict[str, Tensor]:
    """The detector's values under the original's names, as the library itself writes them."""
    library_network(detector).save_pretrained(folder, save_original_format=True)
    return load_file(folder / "model.safetensors")


@pytest.mark.parametrize("family", [FAMILY, SEG_FAMILY], ids=["boxes", "masks"])
def test_checkpoints_of_the_original_package_are_taken_whole(family: Any, tmp_path: Path) -> None:
    trained = build(family)
    trained.load_state_dict(randomised(trained))
    state = original_file(trained, tmp_path)
    assert "transformer.decoder.layers.0.self_attn.in_proj_weight" in state and "refpoint_embed.weight" in state
    path = tmp_path / "checkpoint.pth"
    torch.save({"model": state, "args": argparse.Namespace(encoder="dinov2_windowed_small", lr=1e-4)}, path)
    detector = build(family)
    report = detector.load_pretrained(read_weights(path), trained.class_names, "checkpoint.pth")
    assert (report.missing, report.unexpected, report.mismatched, report.reset) == ((), (), (), ())
    assert report.loaded == report.total
    for (name, ours), theirs in zip(detector.state_dict().items(), trained.state_dict().values(), strict=True):
        assert torch.equal(ours, theirs), name


@pytest.mark.parametrize("family", [FAMILY, SEG_FAMILY], ids=["boxes", "masks"])
def test_files_of_the_library_are_taken_whole_also_with_older_names(family: Any, tmp_path: Path) -> None:
    trained = build(family)
    trained.load_state_dict(randomised(trained))
    library_network(trained).save_pretrained(tmp_path, save_original_format=False)
    older = {}
    parts = {
        "q_proj": "attention.query",
        "k_proj": "attention.key",
        "v_proj": "attention.value",
        "o_proj": "output.dense",
    }
    for name, tensor in read_weights(tmp_path / "model.safetensors").items():
        before, found, after = name.partition(".attention.")
        part, _, kind = after.partition(".")
        older[f"{before}.attention.{parts[part]}.{kind}" if found else name] = tensor
    assert any(".attention.attention.query." in name for name in older)
    report = build(family).load_pretrained(older, trained.class_names, "model.safetensors")
    assert report.loaded == report.total and not report.unexpected


def test_another_table_of_positions_is_resampled_and_fewer_queries_are_the_first_of_each_group(tmp_path: Path) -> None:
    trained = build(FAMILY, num_queries=30, group_detr=5)
    trained.load_state_dict(randomised(trained))
    state = original_file_of(trained, tmp_path)
    name = "backbone.0.encoder.encoder.embeddings.position_embeddings"
    ramp = torch.linspace(0, 1, 16).view(1, 16, 1, 1).expand(1, 16, 16, 64).reshape(1, 256, 64)
    state[name] = torch.cat((torch.zeros(1, 1, 64), ramp), dim=1)
    detector: Any = build(FAMILY)
    report = detector.load_pretrained(state, trained.class_names, "file")
    assert (report.missing, report.unexpected, report.mismatched) == ((), (), ())
    own = detector.network.model
    rows = trained.network.model.query_feat.weight.detach().unflatten(0, (5, 30))
    assert torch.equal(own.query_feat.weight.detach().unflatten(0, (3, 20)), rows[:3, :20])
    table = detector.backbone().embeddings.position_embeddings.detach()[0, 1:, 0].view(12, 12)
    torch.testing.assert_close(table[:, 0], torch.linspace(0, 1, 12), rtol=0, atol=0.02)


def original_file_of(detector: Any, folder: Path) -> dict[str, Tensor]:
    """Of a detector with its own number of queries and groups."""
    from test_rf_detr import BOXES, configuration

    settings = HOST.get(ModelSpec, "rf_detr-nano").settings().model_copy(update={"num_queries": 30, "group_detr": 5})
    network = transformers.RfDetrForObjectDetection(configuration(transformers, BOXES, settings, 3))
    network.load_state_dict(detector.network.state_dict())
    network.save_pretrained(folder, save_original_format=True)
    return load_file(folder / "model.safetensors")


def test_fewer_queries_in_the_file_than_wanted_are_reported_and_start_anew() -> None:
    report = build(FAMILY, num_queries=40).load_pretrained(build(FAMILY).state_dict(), FAMILY_NAMES, "file")
    assert [text.partition(" ")[0] for text in report.mismatched] == [
        "model.reference_point_embed.weight",
        "model.query_feat.weight",
    ]


FAMILY_NAMES = ("disc", "square", "bar")


# --- class rows ---


def test_rows_are_numbered_like_cocos_categories() -> None:
    known = {1: "person", 3: "car", 11: "fire hydrant", 13: "stop sign", 15: "bench", 27: "backpack", 31: "handbag"}
    known |= {44: "bottle", 62: "chair", 67: "dining table", 70: "toilet", 77: "cell phone", 84: "book"}
    known |= {85: "clock", 90: "toothbrush"}
    assert len(COCO_ROWS) == 91
    assert {number: COCO_ROWS[number] for number in known} == known
    assert [n for n, name in enumerate(COCO_ROWS) if name.startswith("(")] == [
        0,
        12,
        26,
        29,
        30,
        45,
        66,
        68,
        69,
        71,
        83,
    ]


def test_classes_that_coco_knows_keep_their_rows_in_every_head() -> None:
    published = build(FAMILY, classes=COCO_ROWS)
    published.load_state_dict(randomised(published))
    detector: Any = build(FAMILY, classes=("widget", "cell_phone", "person"))
    report = detector.load_pretrained(published.state_dict(), COCO_ROWS, "rf-detr-nano.pth")
    assert (report.copied, report.reset) == (("cell_phone", "person"), ("widget",))
    layers = detector.class_layers()
    assert len(layers) == 1 + 3
    for name, layer in published.class_layers().items():  # type: ignore[attr-defined]
        torch.testing.assert_close(layers[name].weight[1], layer.weight[77])
        torch.testing.assert_close(layers[name].bias[2], layer.bias[1])
        assert float(layers[name].bias[0].detach()) == pytest.approx(-4.595, abs=1e-3)


def test_a_file_of_another_size_is_refused() -> None:
    with pytest.raises(WeightsError, match="does not hold weights of rf_detr-seg-tiny"):
        build(SEG_FAMILY).load_pretrained(build(FAMILY).state_dict(), (), "boxes.pth")


def test_official_files_are_known_by_both_publishers_names() -> None:
    files = HOST.get(ModelSpec, "rf_detr-seg-small").weights
    assert [file.url for file in files] == [
        "https://huggingface.co/Roboflow/rf-detr-seg-small/resolve/main/model.safetensors",
        "https://storage.googleapis.com/rfdetr/rf-detr-seg-s-ft.pth",
    ]
    assert [file.name for file in files] == ["rf-detr-seg-small.safetensors", "rf-detr-seg-small.pt"]
    for spec in HOST.specs(ModelSpec):
        if spec.family == "rf_detr":
            assert {(file.licence, file.class_names) for file in spec.weights} == {("Apache-2.0", COCO_ROWS)}
