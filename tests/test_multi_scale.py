"""Training at several sizes, and sizes that are no squares."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from data_tools import sound_data
from detloom.data.batch import Batch
from detloom.detector import Targets
from detloom.errors import ConfigError
from detloom.host import discover
from detloom.model import load_model
from detloom.train.loop import Loop
from detloom.train.scales import ScalePlan, scale_sizes, scaled_batch
from detloom_schemas.config import TrainingConfig
from loop_tools import Recorder, assert_same_state, batches, interrupted_and_resumed, make_loop
from run_tools import configured, lab_host, observe
from tiny import TinyDetector


@pytest.mark.parametrize(
    ("size", "limits", "expected"),
    [
        ((640, 640), (None, None), [480, 512, 544, 576, 608, 640, 672, 704, 736, 768, 800]),
        ((640, 640), (480, 800), [480, 512, 544, 576, 608, 640, 672, 704, 736, 768, 800]),
        ((64, 64), (32, 100), [32, 64, 96]),
        ((64, 64), (None, None), [64]),
        ((64, 64), (96, 128), [64, 96, 128]),
    ],
)
def test_sizes_are_the_multiples_between_the_limits_and_the_resolution_itself(
    size: Any, limits: Any, expected: list[int]
) -> None:
    assert scale_sizes(size, 32, *limits) == tuple((side, side) for side in expected)


def test_rectangles_keep_their_ratio_as_well_as_multiples_can() -> None:
    assert (544, 960) in scale_sizes((1088, 1920), 32, 480, 1088)
    for size in ((384, 640), (640, 384), (1088, 1920)):
        sizes = scale_sizes(size, 32, min(size) // 2, None)
        assert size in sizes and len(sizes) > 5
        for height, width in sizes:
            assert height % 32 == width % 32 == 0
            wanted = min(height, width) * max(size) / min(size)
            assert abs(max(height, width) - wanted) <= 16 and (height > width) == (size[0] > size[1])


def test_limits_in_the_wrong_order_are_refused_by_name() -> None:
    with pytest.raises(ConfigError, match=r"training\.scale_min: 640 is above training\.scale_max \(480\)"):
        configured({"training.scale_min": 640, "training.scale_max": 480}, lab_host())


def test_the_size_of_a_step_depends_on_seed_and_step_alone_and_all_are_drawn() -> None:
    sizes = scale_sizes((64, 64), 16, 32, 96)
    plan, other = ScalePlan(sizes, 0), ScalePlan(sizes, 1)
    drawn = [plan.size_at(step) for step in range(200)]
    assert drawn == [ScalePlan(sizes, 0).size_at(step) for step in range(200)]
    assert set(drawn) == set(sizes) and len(sizes) == 5
    assert drawn != [other.size_at(step) for step in range(200)]


def test_boxes_and_masks_go_with_the_pixels() -> None:
    """A bright rectangle is found again where its box and its mask say."""
    images = torch.zeros(1, 3, 64, 96, dtype=torch.uint8)
    images[:, :, 16:32, 24:72] = 200
    masks = torch.zeros(1, 2, 64, 96, dtype=torch.uint8)
    masks[:, 0, 16:32, 24:72] = 1
    boxes = torch.tensor([[[24.0, 16.0, 72.0, 32.0], [0.0, 0.0, 0.0, 0.0]]])
    batch = Batch(images, Targets(boxes, torch.tensor([[1, -1]]), masks), [0], [(64, 96)], ["x"])
    for size in ((32, 48), (128, 192), (96, 160)):
        scaled = scaled_batch(batch, size)
        assert scaled.images.shape[-2:] == size and scaled.images.dtype == torch.uint8
        rows, columns = np.nonzero(scaled.images[0, 0].numpy() > 100)
        seen = [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
        assert np.abs(scaled.targets.boxes[0, 0].numpy() - seen).max() <= 1
        rows, columns = np.nonzero(scaled.targets.masks[0, 0].numpy())
        assert (
            np.abs(
                scaled.targets.boxes[0, 0].numpy() - [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
            ).max()
            <= 1
        )
        assert set(np.unique(scaled.targets.masks.numpy())) == {0, 1}
        assert scaled.targets.labels.tolist() == [[1, -1]] and not scaled.targets.boxes[0, 1].any()
    assert batch.targets.boxes[0, 0].tolist() == [24.0, 16.0, 72.0, 32.0] and scaled_batch(batch, (64, 96)) is batch


def test_the_detector_sees_every_size_and_micro_batches_of_a_step_share_it() -> None:
    seen: list[tuple[int, ...]] = []

    class Watched(TinyDetector):
        def forward(self, images: Any, targets: Any = None, prompts: Any = None) -> Any:
            seen.append(tuple(images.shape[-2:]))
            return super().forward(images, targets, prompts)

    config = TrainingConfig(epochs=10, gradient_accumulation=2, multi_scale=True, scale_min=32, scale_max=96)
    make_loop(config, batches(4), Recorder(), detector=Watched(["a", "b"])).run()
    assert seen[0::2] == seen[1::2] and len(seen) == 40
    assert {height for height, _ in seen} == {32, 48, 64, 80, 96}


def test_sizes_that_the_detector_cannot_be_trained_at_are_refused_on_both_sides() -> None:
    class Picky(TinyDetector):
        def check_size(self, size: tuple[int, int]) -> str:
            return "" if 48 <= min(size) <= 80 else f"{size[0]} is not for me"

    def scales(smallest: int, largest: int) -> Any:
        config = TrainingConfig(multi_scale=True, scale_min=smallest, scale_max=largest)
        return make_loop(config, batches(1), Recorder(), detector=Picky(["a", "b"])).parts.scales

    with pytest.raises(ConfigError) as caught:
        scales(32, 112)
    (small, large) = caught.value.mistakes
    assert (small.key, small.message) == ("training.scale_min", "32x32 cannot be trained at: 32 is not for me")
    assert (large.key, large.message) == ("training.scale_max", "96x96, 112x112 cannot be trained at: 96 is not for me")
    assert (small.hint, large.hint) == ("the smallest that can is 48", "the largest that can is 80")
    assert scales(48, 80).sizes == ((48, 48), (64, 64), (80, 80))


@pytest.mark.parametrize("stop_at", [2, 5])
def test_a_resumed_run_equals_the_uninterrupted_one_bit_for_bit(stop_at: int, tmp_path: Path) -> None:
    config = TrainingConfig(epochs=3, lr=0.01, multi_scale=True, scale_min=32, scale_max=96, seed=4)

    def make(recorder: Recorder) -> Loop:
        return make_loop(config, batches(3), recorder)

    assert_same_state(*interrupted_and_resumed(make, stop_at, tmp_path))


def test_a_rectangle_is_trained_at_several_sizes_evaluated_and_exported_as_a_rectangle(tmp_path: Path) -> None:
    """YOLOX at 96x160, with everything that a run does; the exported file is compared with the checkpoint."""
    data = sound_data(tmp_path / "data", images=6)
    host = discover()
    values = {
        "model.type": "yolox-nano", "model.pretrain_weights": "none", "data.local.path": str(data),
        "data.num_workers": 0, "training.epochs": 2, "training.batch_size": 2, "training.resolution": [96, 160],
        "training.multi_scale": True, "training.scale_min": 64, "training.scale_max": 128,
        "augmentation.transforms": ["hflip", "affine"],
        "experiment.logging.loggers": ["jsonl"], "validation.pictures": 2, "validation.confidence_threshold": 0.0,
    }  # fmt: skip
    seen = observe(values, tmp_path, host)
    assert not seen["error"]
    run = tmp_path / seen["place"][0]
    model = load_model(run, host)
    assert model.input_rule.size == (96, 160)
    import onnx

    (path,) = (run / "exports").glob("*.onnx")
    shape = onnx.load(path).graph.input[0].type.tensor_type.shape.dim
    assert [dim.dim_value for dim in shape][2:] == [96, 160]
    assert seen["record"]["model"]["resolution"] == [96, 160]
    assert len(seen["pictures"]) == 2
