"""RT-DETR and RT-DETRv2: the library's networks, run our way, with names that published files have."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import pytest
import torch
from torch import Tensor, nn

from detloom.detector import Detector
from detloom.errors import ConfigError, PluginError
from detloom.specs import ModelContext, ModelSpec
from detloom.train import assemble
from detloom.train.assemble import find_weights
from detloom.train.seeding import seed_torch
from detloom_plugins.models import rt_detr, rt_detr_v2
from detloom_plugins.models._detr.library import transformers
from detloom_plugins.models._rt_detr.variants import VARIANTS, Variant
from detr_tools import HOST, build, check_learned, drawn_batch, original_names, overfit
from families import FAMILIES, RT_DETR_TINY, SMALL

NAMES_OF_ORIGINALS = Path(__file__).parent / "fixtures" / "original_names"
MODULES = {"rt_detr": rt_detr, "rt_detr_v2": rt_detr_v2}
both = pytest.mark.parametrize("family", MODULES)
every_size = pytest.mark.parametrize("variant", VARIANTS, ids=lambda variant: variant.name)

# As the library's conversion scripts set them (convert_rt_detr_original_pytorch_checkpoint_to_hf.py and
# convert_rt_detr_v2_weights_to_hf.py); what is missing here is the library's default there.
NARROW = {
    "backbone": {"hidden_sizes": [64, 128, 256, 512], "layer_type": "basic"},
    "encoder_in_channels": [128, 256, 512],
}
PUBLISHED: dict[str, dict[str, Any]] = {
    "r18": {**NARROW, "depths": [2, 2, 2, 2], "hidden_expansion": 0.5, "decoder_layers": 3},
    "r34": {**NARROW, "depths": [3, 4, 6, 3], "hidden_expansion": 0.5, "decoder_layers": 4},
    "r50": {"depths": [3, 4, 6, 3]},
    "r101": {
        "depths": [3, 4, 23, 3],
        "encoder_ffn_dim": 2048,
        "encoder_hidden_dim": 384,
        "decoder_in_channels": [384, 384, 384],
    },
}


def library_model(family: str, size: str) -> nn.Module:
    """A published size as the library builds it, without memory for its weights."""
    library = transformers(family)
    values = dict(PUBLISHED[size])
    backbone = library.RTDetrResNetConfig(
        depths=values.pop("depths"), out_indices=[2, 3, 4], **values.pop("backbone", {})
    )
    kind = "RTDetr" if family == "rt_detr" else "RTDetrV2"
    config = getattr(library, f"{kind}Config")(backbone_config=backbone, num_labels=80, **values)
    with torch.device("meta"):
        model: nn.Module = getattr(library, f"{kind}ForObjectDetection")(config)
    return model


def empty_detector(family: str, variant: Variant, classes: Sequence[str]) -> Detector:
    module: Any = MODULES[family]
    with torch.device("meta"):
        detector: Detector = module.build(variant, module.family_settings(), ModelContext(tuple(classes), (640, 640)))
    return detector


def filled(names: dict[str, torch.Size]) -> dict[str, Tensor]:
    """One number a tensor, spread over its shape, so that the largest model costs no memory."""
    return {name: torch.tensor(float(i)).expand(shape) for i, (name, shape) in enumerate(names.items())}


# ---- names ----------------------------------------------------------------------------------------------------------


@every_size
@both
def test_files_of_the_hub_load_whole(family: str, variant: Variant) -> None:
    """The library says what it calls the tensors of a file today, and what the files on the hub call them."""
    from transformers.core_model_loading import revert_weight_conversion

    model = library_model(family, variant.name)
    today = {name: tensor.shape for name, tensor in model.state_dict().items()}
    on_the_hub = {name: value.shape for name, value in revert_weight_conversion(model, model.state_dict()).items()}
    assert any("self_attn.out_proj" in name for name in on_the_hub) and set(on_the_hub) != set(today)
    spec = HOST.get(ModelSpec, f"{family}-{variant.name}")
    names = spec.weights[0].class_names
    for shapes in (today, on_the_hub):
        detector = empty_detector(family, variant, names)
        report = detector.load_pretrained(filled(shapes), names, "hub")
        assert (report.missing, report.unexpected, report.mismatched, report.reset) == ((), (), (), ())
        assert report.loaded == report.total


@every_size
@both
def test_checkpoints_of_the_original_repository_load_whole(family: str, variant: Variant) -> None:
    """The names are those of the library's conversion script, read backwards."""
    rules = json.loads((NAMES_OF_ORIGINALS / f"{family}.json").read_text())
    detector = empty_detector(family, variant, HOST.get(ModelSpec, f"{family}-{variant.name}").weights[0].class_names)
    shapes = {name.removeprefix("network."): value.shape for name, value in detector.state_dict().items()}
    old = {_hub_name(name): name for name in shapes if not name.endswith("num_batches_tracked")}
    found = original_names(rules, list(old))
    state = {found[name]: torch.zeros(()).expand(shapes[old[name]]) for name in found}
    for name in [name for name in old if name not in found]:
        # Queries, keys and values lie in one tensor there.
        assert "self_attn." in name, name
        packed = _packed(name)
        rows, *rest = shapes[old[name]]
        state[packed] = torch.zeros(()).expand(3 * rows, *rest)
    state.update({"decoder.anchors": torch.zeros(1, 8, 4), "decoder.valid_mask": torch.zeros(1, 8, 1)})
    report = detector.load_pretrained(state, detector.class_names, "original")
    assert (report.missing, report.unexpected, report.mismatched, report.reset) == ((), (), (), ())
    assert report.loaded == report.total


def _hub_name(name: str) -> str:
    """The library's name of today as its version 4 had it, which the conversion script writes."""
    name = name.replace("o_proj", "out_proj").replace(".mlp.fc", ".fc") if "layers." in name else name
    return name.replace("encoder.aifi.", "encoder.encoder.")


def _packed(name: str) -> str:
    layer, part = name.split(".self_attn.", maxsplit=1)[0], name.rpartition(".")[2]
    prefix = "decoder.decoder." if ".decoder." in layer else "encoder."
    return f"{prefix}{layer.split('coder.', 1)[1]}.self_attn.in_proj_{part}"


def test_each_published_file_can_be_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    spec = HOST.get(ModelSpec, "rt_detr-r18")
    coco, more = spec.weights
    monkeypatch.setattr(assemble, "fetch_weights", lambda file, **_: tmp_path / file.name)
    assert find_weights("official", spec)[:2] == (tmp_path / coco.name, coco)
    for name in ("rtdetr_r18vd_coco_o365", "/somewhere/rtdetr_r18vd_coco_o365.safetensors"):
        assert find_weights(name, spec)[:2] == (tmp_path / more.name, more)
    own = tmp_path / "own" / coco.name
    own.parent.mkdir()
    own.touch()
    assert find_weights(str(own), spec)[:2] == (own, coco), "a file that is there is not fetched"
    with pytest.raises(ConfigError, match="rtdetr_r18vd_coco_o365"):
        find_weights("rtdetr_r18vd_coco_0365", spec)


def test_queries_keys_and_values_are_taken_apart_in_this_order() -> None:
    detector = build(FAMILIES["rt_detr"])
    packed = torch.arange(3 * 64.0)[:, None].expand(-1, 64)
    found = detector.canonical({"decoder.decoder.layers.1.self_attn.in_proj_weight": packed})  # type: ignore[operator]
    for i, letter in enumerate("qkv"):
        assert torch.equal(
            found[f"model.decoder.layers.1.self_attn.{letter}_proj.weight"], packed[64 * i : 64 * (i + 1)]
        )


# ---- the network ----------------------------------------------------------------------------------------------------


@both
@pytest.mark.parametrize("size", [(128, 128), (320, 576)])
def test_the_network_computes_what_the_library_computes(family: str, size: tuple[int, int]) -> None:
    """All layers and the encoder, in training and in evaluation, also for a rectangle."""
    seed_torch(3)
    detector = build(FAMILIES[family], size=size)
    images, _ = drawn_batch(size)
    for mode in (True, False):
        detector.train(mode)
        with torch.no_grad():
            (stack,) = detector(images).extra["stacks"]
            theirs = cast(Any, detector.network).model(images.float() / 255)
        logits = torch.cat((theirs.enc_topk_logits[None], theirs.intermediate_logits.transpose(0, 1)))
        boxes = torch.cat((theirs.enc_topk_bboxes[None], theirs.intermediate_reference_points.transpose(0, 1)))
        assert stack.names == ("encoder", "aux", "")
        torch.testing.assert_close(stack.logits, logits, rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(stack.boxes, boxes, rtol=1e-4, atol=1e-4)


@both
def test_random_weights_tell_places_apart(family: str) -> None:
    """As the library starts it, every place of a picture gets the same score, and nothing can be learned."""
    seed_torch(0)
    detector = build(FAMILIES[family]).eval()
    images, _ = drawn_batch(detector.input_rule.size)
    settings = HOST.get(ModelSpec, FAMILIES[family].spec).settings().model_copy(update=SMALL)
    network = cast(Any, detector).library_network(transformers(family), RT_DETR_TINY, settings, 3).eval()
    with torch.no_grad():
        ours = detector(images).extra["stacks"][0].logits[0]
        theirs = network.model(images.float() / 255).enc_topk_logits
        scores = detector.decode(detector(images)).scores
    assert float(ours.std(1).mean()) > 100 * float(theirs.std(1).mean())
    assert float(ours.std(1).mean()) > 0.1
    assert 0.001 < float(scores.mean()) < 0.05, "every query starts with a low score"


@both
def test_frozen_norms_stay_as_they_were_loaded_and_the_others_learn(family: str) -> None:
    detector = build(FAMILIES[family], freeze_norm=True)
    backbone = cast(Any, detector).backbone()
    norms = [module for module in backbone.modules() if isinstance(module, nn.BatchNorm2d)]
    free = [module for module in detector.modules() if isinstance(module, nn.BatchNorm2d) and module not in norms]
    before = {id(norm): {name: value.clone() for name, value in norm.state_dict().items()} for norm in (*norms, *free)}
    images, targets = drawn_batch(detector.input_rule.size)
    optimizer = torch.optim.AdamW([p for p in detector.parameters() if p.requires_grad], lr=0.01)
    detector.train()
    detector.loss(detector(images, targets), targets).total.backward()
    optimizer.step()
    assert norms and free
    for norm in norms:
        assert all(torch.equal(value, before[id(norm)][name]) for name, value in norm.state_dict().items())
    for norm in free:
        assert not torch.equal(norm.state_dict()["running_mean"], before[id(norm)]["running_mean"])
    assert list(detector.state_dict()) == list(build(FAMILIES[family]).state_dict()), "names do not depend on it"


def test_pictures_with_fewer_places_than_queries_give_as_many_as_they_have() -> None:
    detector = build(FAMILIES["rt_detr"], size=(64, 64), num_queries=300)
    images, targets = drawn_batch((64, 64), (1, 1))
    outputs = detector.train()(images, targets)
    assert outputs.logits.shape[1] == 8 * 8 + 4 * 4 + 2 * 2
    assert bool(detector.loss(outputs, targets).total.isfinite())


def test_without_transformers_the_package_to_install_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(PluginError, match=r"rt_detr needs transformers.*\n.*detloom\[detr\]"):
        build(FAMILIES["rt_detr"])


# ---- the proof ------------------------------------------------------------------------------------------------------


@both
def test_one_batch_is_learned_from_scratch_and_found_again_by_everything_that_is_saved(
    family: str, tmp_path: Path
) -> None:
    seed_torch(0)
    learned = overfit(build(FAMILIES[family]), steps=80, lr=2e-3)
    check_learned(learned, lambda: build(FAMILIES[family]), tmp_path)
