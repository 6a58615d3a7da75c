"""Masks through a run: evaluation, loader, refusals."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from detloom.config import mapping_layer, resolve
from detloom.data.dataset import ClassMap, Dataset, ImageInfo, Split
from detloom.data.loader import EvalLoader, NamedTransform, TrainLoader
from detloom.data.masks import box_rle, encode_mask, rle_box
from detloom.errors import ConfigError, DataError, PluginError
from detloom.evaluate import evaluate_coco_files, evaluate_detections, evaluate_with_masks, referee, to_coco_results
from detloom.geometry import Detections, InputRule
from detloom.host import PluginHost
from detloom.model_needs import check_masks, check_metric
from detloom.run import train_run
from detloom.specs import ModelContext, ModelSpec
from detloom_plugins.augmentations.affine.transform import warp
from mask_tools import (
    CLASSES,
    RECIPE,
    SIZE,
    dataset_at,
    outline_host,
    values_for,
    write_data,
    write_shapes,
)
from tiny import TinyDetector

TWO = ClassMap((1, 2), ("a", "b"))


@pytest.fixture(scope="module")
def host() -> PluginHost:
    return outline_host()


@pytest.fixture(scope="module")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_data(tmp_path_factory.mktemp("shapes") / "data", (6, 8, 4))


@pytest.fixture(scope="module")
def dataset(drawn: Path, host: PluginHost) -> Dataset:
    return dataset_at(drawn, host)


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

    more: dict[str, Any] = {"augmentation.transforms": transforms}
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
