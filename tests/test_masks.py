"""Masks through a run: deployment, gate, evaluation, loader, refusals."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from detloom.config import mapping_layer, resolve
from detloom.data.dataset import ClassMap, Dataset, ImageInfo, Split
from detloom.data.images import read_image
from detloom.data.load import load_dataset
from detloom.data.loader import EvalLoader, NamedTransform, TrainLoader
from detloom.data.masks import box_rle, decode_rle, encode_mask, rle_box
from detloom.deploy import deploy_graph
from detloom.detector import Detector
from detloom.errors import ConfigError, DataError, ExportError, PluginError, WeightsError
from detloom.evaluate import evaluate_coco_files, evaluate_detections, evaluate_with_masks, referee, to_coco_results
from detloom.export import export_model
from detloom.geometry import Detections, InputRule
from detloom.hookspecs import hookimpl
from detloom.host import PluginHost
from detloom.model import describe, load_model
from detloom.model_needs import check_masks, check_metric
from detloom.prediction import open_predictor
from detloom.run import train_run
from detloom.specs import ExporterSpec, ExportRequest, ModelContext, ModelSpec
from detloom.train.checkpoint import BEST, save_checkpoint
from detloom_plugins.augmentations.affine.transform import warp
from detloom_plugins.exporters.onnx.settings import OnnxSettings
from detloom_plugins.exporters.onnx.writer import OnnxExporter
from detloom_schemas.config import ExportConfig
from mask_tools import (
    CLASSES,
    RECIPE,
    ForgetfulDetector,
    OutlinePlugin,
    PrototypeDetector,
    outline_host,
    write_data,
    write_shapes,
)
from tiny import TinyDetector

SIZE = (64, 64)
TWO = ClassMap((1, 2), ("a", "b"))
Values = dict[str, Any]


# ---- deployed -----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def host() -> PluginHost:
    return outline_host()


@pytest.fixture(scope="module")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_data(tmp_path_factory.mktemp("shapes") / "data", (6, 8, 4))


def values_for(data: Path, **more: Any) -> Values:
    plain = {"model.type": "outline:outline-one", "data.local.path": str(data), "training.resolution": list(SIZE)}
    return {**plain, "training.batch_size": 4, "data.num_workers": 0, **more}


def dataset_at(data: Path, host: PluginHost) -> Dataset:
    return load_dataset(resolve(host, [mapping_layer(values_for(data))]), host)


@pytest.fixture(scope="module")
def dataset(drawn: Path, host: PluginHost) -> Dataset:
    return dataset_at(drawn, host)


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


# ---- evaluated ----------------------------------------------------------------------------------------------------


def test_boxes_and_masks_are_judged_apart(dataset: Dataset) -> None:
    """Right boxes whose masks are the boxes themselves: a triangle fills half of its box, a disc four fifths."""
    split = dataset.splits["val"]
    found = []
    for position, image in enumerate(split.images):
        rows = split.objects_of(position)
        boxes = split.boxes[rows].astype(np.float32)
        filled = tuple(box_rle(box, image.height, image.width) for box in boxes)
        found.append(Detections(boxes, np.full(len(boxes), 0.9, np.float32), split.labels[rows], filled))
    evaluation = evaluate_with_masks(split, dataset.class_map, found, masks=True)
    assert evaluation.iou_type == "bbox" and evaluation.metrics["AP"] == pytest.approx(1.0)
    assert evaluation.segm is not None
    assert evaluation.segm == evaluate_detections(split, dataset.class_map, found, masks=True)
    by_class = {c.name: c.AP for c in evaluation.segm.per_class}
    assert by_class["disc"] is not None and by_class["triangle"] is not None
    assert 0.4 < by_class["disc"] < 0.7 and by_class["triangle"] < 0.4
    scalars = evaluation.scalars("val")
    assert scalars["val/AP"] == 1.0 and scalars["val/segm_AP/disc"] == by_class["disc"]
    assert scalars["val/segm_AP"] == evaluation.segm.metrics["AP"]
    assert len(evaluation.lines()) == 3


@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 2**32 - 1))
def test_small_and_large_are_a_matter_of_the_mask_and_not_of_its_box(seed: int) -> None:
    """Against pycocotools, on detections whose boxes are larger than COCO's limits and whose masks are smaller."""
    rng = np.random.default_rng(seed)
    size = (150, 150)
    images = tuple(ImageInfo(n + 1, f"{n}.png", Path(f"{n}.png"), size[1], size[0]) for n in range(3))
    truths, found = [], []
    for position in range(3):
        shapes = [random_ring(rng, size) for _ in range(3)]
        truths += [(position, int(rng.integers(2)), mask) for mask in shapes]
        seen = [np.roll(mask, rng.integers(-4, 5, 2), (0, 1)) for mask in shapes] + [random_ring(rng, size)]
        boxes = np.stack([rle_box(encode_mask(mask)) for mask in seen]).astype(np.float32)
        scores = np.sort(rng.random(4).round(1).astype(np.float32))[::-1]
        found.append(Detections(boxes, scores, rng.integers(0, 2, 4), tuple(encode_mask(mask) for mask in seen)))
    split = split_of(images, truths)
    ours = evaluate_detections(split, TWO, found, masks=True)
    assert ours.metrics == pytest.approx(referee(split, TWO, found, masks=True).metrics, abs=1e-12)
    document = {
        "images": [{"id": image.id, "width": size[1], "height": size[0]} for image in images],
        "categories": [{"id": 1, "name": "a"}, {"id": 2, "name": "b"}],
        "annotations": [
            {"id": row + 1, "image_id": image + 1, "category_id": label + 1, "iscrowd": 0, "area": int(mask.sum()),
             "bbox": [0, 0, 1, 1], "segmentation": encode_mask(mask)}
            for row, (image, label, mask) in enumerate(truths)
        ],
    }  # fmt: skip
    results = to_coco_results(split, TWO, found)
    for by_referee in (False, True):
        numbers = evaluate_coco_files(document, results, "segm", by_referee=by_referee)
        assert numbers == pytest.approx(ours.metrics, abs=1e-12)


def random_ring(rng: np.random.Generator, size: tuple[int, int]) -> NDArray[np.bool_]:
    """Its box is much larger than its area."""
    mask = np.zeros(size, np.uint8)
    centre = (int(rng.integers(40, 110)), int(rng.integers(40, 110)))
    cv2.circle(mask, centre, int(rng.integers(8, 60)), 1, int(rng.integers(1, 9)))
    return mask.astype(bool)


def split_of(images: tuple[ImageInfo, ...], truths: list[tuple[int, int, NDArray[np.bool_]]]) -> Split:
    counts = np.bincount([image for image, _, _ in truths], minlength=len(images))
    rles = tuple(encode_mask(mask) for _, _, mask in truths)
    return Split(
        name="val",
        images=images,
        boxes=np.array([rle_box(rle) for rle in rles]),
        labels=np.array([label for _, label, _ in truths]),
        crowd=np.zeros(len(truths), bool),
        area=np.array([float(mask.sum()) for _, _, mask in truths]),
        image_index=np.array([image for image, _, _ in truths]),
        object_ids=tuple(range(1, len(truths) + 1)),
        rles=rles,
        starts=np.concatenate([[0], np.cumsum(counts)]),
    )


def test_a_crowd_without_a_mask_is_ignored_inside_its_box(dataset: Dataset) -> None:
    split = dataset.splits["val"]
    rows = split.objects_of(0)
    crowd = split.crowd.copy()
    crowd[rows.start] = True
    rles = (None, *split.rles[1:])
    changed = dataclasses.replace(split, crowd=crowd, rles=rles)
    assert changed.without_masks == 0
    inside = Detections(
        split.boxes[rows][:1].astype(np.float32), np.ones(1, np.float32), split.labels[rows][:1], (split.rles[0],)
    )
    nothing = Detections(np.zeros((0, 4), np.float32), np.zeros(0, np.float32), np.zeros(0, np.int64), ())
    found = [inside, *[nothing] * (len(split) - 1)]
    evaluation = evaluate_detections(changed, dataset.class_map, found, masks=True)
    assert evaluation.truths == len(split.labels) - 1
    assert evaluation.precision == 0.0 and evaluation.f1 == 0.0


# ---- loaded -------------------------------------------------------------------------------------------------------


class LosesMasks:
    def __call__(self, sample: Any, rng: Any, extras: Any) -> Any:
        return dataclasses.replace(sample, masks=None)


def test_a_transform_that_forgets_the_masks_is_named(dataset: Dataset) -> None:
    loader = TrainLoader(
        dataset.splits["train"], InputRule(size=SIZE), [NamedTransform("careless", LosesMasks())],
        batch_size=2, num_workers=0, masks=True,
    )  # fmt: skip
    with pytest.raises(PluginError, match=r"careless failed on .*the masks are gone"):
        next(iter(loader.epoch(0)))


@pytest.mark.parametrize("transforms", [[], ["hflip", "vflip"], ["affine", "hsv"]])
@pytest.mark.parametrize("cache", ["none", "ram"])
def test_masks_lie_on_their_objects_after_every_transform(
    drawn: Path, host: PluginHost, dataset: Dataset, transforms: list[str], cache: Any
) -> None:
    """Judged by colour: discs are blue, triangles red, all else is gray."""
    from detloom.data.caching import build_stores
    from detloom.data.loader import build_transforms

    more: Values = {"augmentation.transforms": transforms}
    if "affine" in transforms:
        more |= {"augmentation.affine.degrees": 30.0, "augmentation.affine.prob": 1.0, "augmentation.hsv.h": 0.0}
    config = resolve(host, [mapping_layer(values_for(drawn, **more))])
    rule, split = InputRule(size=SIZE, pad_value=110), dataset.splits["train"]
    (pixels,) = build_stores([split], rule, cache)
    loader = TrainLoader(
        split, rule, build_transforms(config, host), batch_size=3, num_workers=0, masks=True, pixels=pixels
    )
    seen = 0
    for batch in loader.epoch(0):
        assert batch.targets.masks is not None and batch.targets.masks.dtype == torch.uint8
        assert batch.targets.masks.shape == (*batch.targets.labels.shape, *SIZE)
        assert not batch.targets.masks[~batch.targets.valid].any()
        for image, masks, boxes, labels in zip(
            batch.images.float(), batch.targets.masks, batch.targets.boxes, batch.targets.labels, strict=True
        ):
            reddish = image[0] - image[2]
            for mask, box, label in zip(masks, boxes, labels, strict=True):
                if label < 0:
                    continue
                seen += 1
                sign = -1 if CLASSES[int(label)] == "disc" else 1
                core = cv2.erode(mask.numpy(), np.ones((3, 3), np.uint8)).astype(bool)
                assert (sign * reddish[torch.from_numpy(core)] > 25).float().mean() > 0.95
                columns = np.flatnonzero(mask.numpy().any(0))
                assert abs(columns[0] - float(box[0])) <= 2.2 and abs(columns[-1] + 1 - float(box[2])) <= 2.2
    assert seen >= 6


def test_a_turned_object_keeps_a_box_that_fits_its_mask() -> None:
    from detloom.sample import Sample

    mask = np.zeros((1, 64, 64), np.uint8)
    cv2.circle(mask[0], (32, 32), 14, 1, -1)
    box = np.array([[18, 18, 47, 47]], np.float32)
    sample = Sample(np.zeros((64, 64, 3), np.uint8), box, np.array([0]), SIZE, 114, mask)
    angle = np.radians(45)
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    matrix = np.hstack([turn, (32.5 - turn @ [32.5, 32.5])[:, None]])
    turned = warp(sample, matrix, 0.1)
    assert np.abs(turned.boxes - box).max() <= 1.5, "a disc stays as large as it was"
    assert np.abs(warp(dataclasses.replace(sample, masks=None), matrix, 0.1).boxes - box).max() > 5


def test_an_object_whose_mask_leaves_the_picture_leaves_with_it() -> None:
    from detloom.sample import Sample

    mask = np.zeros((2, 64, 64), np.uint8)
    mask[0, 10:50, 40:44] = 1  # at the right side of its box
    box = np.array([[4, 10, 44, 50], [4, 10, 44, 50]], np.float32)
    sample = Sample(np.zeros((64, 64, 3), np.uint8), box, np.array([0, 1]), SIZE, 114, mask)
    moved = warp(sample, np.array([[1.0, 0.0, 28.0], [0.0, 1.0, 0.0]]), 0.1)
    assert moved.labels.tolist() == [1], "the second never had a pixel: it has only a box"


def test_crowds_are_no_targets_of_masks(tmp_path: Path, host: PluginHost) -> None:
    root = write_data(tmp_path / "data", (2, 2, 2))
    file = root / "train" / "_annotations.coco.json"
    document = json.loads(file.read_text())
    document["annotations"][0]["iscrowd"] = 1
    file.write_text(json.dumps(document))
    split = dataset_at(root, host).splits["train"]
    batch = next(iter(EvalLoader(split, InputRule(size=SIZE), batch_size=2, num_workers=0, masks=True)))
    assert int(batch.targets.valid.sum()) == len(document["annotations"]) - 1


# ---- refused ------------------------------------------------------------------------------------------------------


def test_a_model_of_masks_refuses_objects_without_masks_and_counts_them(tmp_path: Path, host: PluginHost) -> None:
    root = write_data(tmp_path / "data", (4, 3, 2))
    objects = {}
    for split, dropped in (("train", 2), ("valid", 1)):
        file = root / split / "_annotations.coco.json"
        document = json.loads(file.read_text())
        objects[split] = len(document["annotations"])
        for annotation in document["annotations"][:dropped]:
            del annotation["segmentation"]
        file.write_text(json.dumps(document))
    with pytest.raises(DataError) as refused:
        train_run(
            resolve(host, [mapping_layer(values_for(root, **{"experiment.output_dir": str(tmp_path / "runs")}))]), host
        )
    counts = f"2 of {objects['train']} in train, 1 of {objects['valid']} in val"
    assert f"outline-one learns masks, and objects of data have none: {counts} (in " in str(refused.value)
    assert "0.png" in str(refused.value)
    assert not list((tmp_path / "runs").glob("*")), "nothing was begun"


def test_the_same_data_train_a_model_of_boxes(tmp_path: Path, host: PluginHost) -> None:
    data = dataset_at(write_shapes(tmp_path / "data" / "train", 3, 0, masks=False).parent, host)
    check_masks(host.get(ModelSpec, "yolox-nano"), data)
    with pytest.raises(DataError, match="learns masks"):
        check_masks(host.get(ModelSpec, "outline-one"), data)


def test_checkpoints_of_boxes_cannot_be_chosen_by_masks(host: PluginHost) -> None:
    check_metric("segm_AP", host.get(ModelSpec, "outline-one"), host)
    check_metric("AP50", host.get(ModelSpec, "yolox-nano"), host)
    with pytest.raises(ConfigError) as refused:
        check_metric("segm_AP50", host.get(ModelSpec, "yolox-nano"), host)
    assert "segm_AP50 is measured on masks, and yolox-nano predicts none" in str(refused.value)
    assert "outline-one" in str(refused.value) and "use AP50" in str(refused.value)


def test_a_run_of_boxes_chosen_by_masks_is_refused_before_its_data_are_read(tmp_path: Path, host: PluginHost) -> None:
    values = {
        "model.type": "yolox-nano",
        "data.local.path": str(tmp_path / "not there"),
        "validation.save_best_metric": "segm_AP",
    }
    with pytest.raises(ConfigError, match=r"validation\.save_best_metric"):
        train_run(resolve(host, [mapping_layer(values)]), host)


def test_a_specification_that_contradicts_its_detector_is_named() -> None:
    from detloom.model import build_detector

    spec = dataclasses.replace(
        outline_host().get(ModelSpec, "outline-one"),
        build=lambda settings, context: TinyDetector(context.class_names, context.size),
    )
    with pytest.raises(PluginError, match="masks=True in its specification, and masks=False in its detector"):
        build_detector(spec, spec.settings(), CLASSES, SIZE)


def test_the_recipe_of_a_model_of_masks_chooses_by_masks(drawn: Path, host: PluginHost) -> None:
    resolved = resolve(host, [mapping_layer(values_for(drawn))])
    assert resolved.config.validation.save_best_metric == RECIPE["validation.save_best_metric"] == "segm_AP"
    context = ModelContext(CLASSES, SIZE)
    assert host.get(ModelSpec, "outline-one").build(None, context).masks
