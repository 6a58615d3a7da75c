"""`detloom plan`: what it predicts, against what is measured without it."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from conftest import IMPORT_ROOTS
from data_tools import sound_data
from detloom.config import mapping_layer, resolve
from detloom.host import discover
from detloom.train.assemble import BuiltModel, build_model
from detloom.train.footprint import Footprint, Scene, bare_loop, measure_footprint
from detloom.train.memory import TensorCounter, _container_memory, free_memory
from detloom_schemas.config import TrainingConfig

CPU = torch.device("cpu")


def built(size: Any, model: str = "yolox-nano", **changes: Any) -> tuple[BuiltModel, TrainingConfig]:
    host = discover()
    values = {"model.type": model, "training.resolution": size, "model.pretrain_weights": "none", **changes}
    resolved = resolve(host, [mapping_layer(values)])
    return build_model(resolved, host, ("a", "b"), pretrained=False), resolved.config.training


def counted(size: Any, images: int, model: str = "yolox-nano", **changes: Any) -> int:
    """Peak of the tensors in the second step of a training of this batch size."""
    made, config = built(size, model, **changes)
    made.detector.train()
    with TensorCounter([*made.detector.parameters(), *made.detector.buffers()]) as counter:
        loop = bare_loop(made, config, CPU)
        scene = Scene(made.detector.input_rule.size, 2, 8)
        loop.step([scene.batch(images)])
        counter.reset_peak()
        loop.step([scene.batch(images)])
    return counter.peak


# ---- counting -----------------------------------------------------------------------------------------------------


def test_the_counter_adds_what_lives_and_takes_off_what_is_gone() -> None:
    with TensorCounter() as counter:
        first = torch.zeros(1000)
        assert counter.now == 4000
        view = first[:10]
        first += 1
        assert counter.now == 4000, "views and results in place are no new memory"
        second = torch.ones(500, dtype=torch.float64) * 2
        assert counter.now == 8000 and counter.peak == 12000
        del first
        assert counter.now == 8000, "the view still holds it"
        del view, second
        assert counter.now == 0 and counter.peak == 12000
        counter.reset_peak()
        assert counter.peak == 0


def test_the_counter_sees_the_backward_pass_and_what_it_was_told_of() -> None:
    weight = torch.zeros(100, 100, requires_grad=True)
    with TensorCounter([weight]) as counter:
        assert counter.now == 40_000
        (weight @ weight).sum().backward()
        assert counter.now == 80_000, "the gradient"


def test_a_line_says_what_fits() -> None:
    line = Footprint(fixed=1e9, per_image=2e8, probes=(), on_gpu=True)
    assert line.at(4) == 1_800_000_000
    assert [line.largest(limit) for limit in (1.1e9, 1.2e9, 1.99e9, 2e9)] == [0, 1, 4, 5]
    process = Footprint(fixed=1e9, per_image=2e8, probes=())
    assert process.at(4) > line.at(4)
    assert process.at(process.largest(5e9)) <= 5e9 < process.at(process.largest(5e9) + 1)


def test_a_container_that_allows_less_than_the_machine_has_is_believed(tmp_path: Path) -> None:
    assert _container_memory(tmp_path) is None
    (tmp_path / "memory.max").write_text("3000\n")
    (tmp_path / "memory.current").write_text("1000\n")
    assert _container_memory(tmp_path) == 2000
    (tmp_path / "memory.max").write_text("max\n")
    assert _container_memory(tmp_path) is None
    free = free_memory(CPU)
    assert free is None or free > 0


# ---- predicted against measured -----------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [[96, 160], 192])
def test_batches_of_a_few_images_predict_the_tensors_of_larger_ones(size: Any) -> None:
    predicted = measure_footprint(*built(size), 8, CPU)
    assert [images for images, _ in predicted.probes][:2] == [1, 2]
    for images in (3, 8):
        measured = counted(size, images)
        assert abs(predicted.tensors_at(images) / measured - 1) < 0.05


def test_what_saves_memory_is_in_the_prediction() -> None:
    plain = measure_footprint(*built(160), 8, CPU).tensors_at(8)
    forgetful = measure_footprint(*built(160, **{"training.gradient_checkpointing": True}), 8, CPU).tensors_at(8)
    several = measure_footprint(*built(160, **{"training.multi_scale": True}), 8, CPU).tensors_at(8)
    assert forgetful < 0.6 * plain
    assert several > 1.3 * plain, "the largest size counts"


def test_a_process_grows_by_what_was_predicted_within_a_fifth() -> None:
    """Its resident memory, in a process of its own that counts nothing."""
    code = f"""
import sys; sys.path[:0] = {[*IMPORT_ROOTS, str(Path(__file__).parent)]!r}
import resource, os
from test_plan import CPU, Scene, bare_loop, built
from detloom.data.memory import keep_freed_memory
keep_freed_memory()
made, config = built([256, 416])
page = os.sysconf("SC_PAGE_SIZE")
before = int(open("/proc/self/statm").read().split()[1]) * page
made.detector.train()
loop = bare_loop(made, config, CPU)
for _ in range(2):
    loop.step([Scene((256, 416), 2, 8).batch(8)])
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 - before)
"""
    if not Path("/proc/self/statm").exists():
        pytest.skip("this system does not say how much memory a process has")
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    made, config = built([256, 416])
    held = sum(t.numel() * t.element_size() for t in (*made.detector.parameters(), *made.detector.buffers()))
    measured = int(done.stdout) + held
    predicted = measure_footprint(made, config, 8, CPU).at(8)
    assert abs(predicted / measured - 1) < 0.2, (predicted, measured)


# ---- the command --------------------------------------------------------------------------------------------------

Call = Callable[..., subprocess.CompletedProcess[str]]


def test_the_plan_of_real_data_says_steps_memory_and_the_next_command(cli: Call, tmp_path: Path) -> None:
    sound_data(tmp_path / "data", images=10)
    arguments = ["data", "--model", "yolox-nano", "--batch-size", "4", "--resolution", "64x96", "--epochs", "3"]
    done = cli("plan", *arguments, "--set", "training.gradient_accumulation=2", "--json", "--memory", "2")
    assert done.returncode == 0, done.stderr
    plan = json.loads(done.stdout)
    assert (plan["model"], plan["size"], plan["fits"]) == ("yolox-nano", [64, 96], True)
    assert plan["length"] == {"images": 10, "epochs": 3, "steps_per_epoch": 1, "steps": 3}
    assert plan["parameters"] == plan["trained_parameters"] > 800_000
    assert plan["memory"]["predicted"]["4"] > plan["memory"]["tensors"]["4"] > 4 * 3 * 64 * 96
    assert plan["largest_batch_size"] > 4 and plan["memory"]["limit"] == 2_000_000_000
    assert plan["next"] == (
        "detloom train data --model yolox-nano --batch-size 4 --resolution 64x96 --epochs 3 --set "
        "training.gradient_accumulation=2"
    )


def test_a_batch_that_does_not_fit_becomes_one_that_does_with_as_many_images_a_step(cli: Call) -> None:
    done = cli(
        "plan", "--model", "yolox-nano", "--batch-size=64", "--resolution", "64", "--memory=0.15", "--freeze-backbone"
    )
    assert done.returncode == 0, done.stderr
    assert "  64  " in done.stdout and "too much  <- this training" in done.stdout
    largest = int(done.stdout.partition("up to batch ")[2].split()[0])
    assert 1 <= largest < 64
    assert done.stdout.splitlines()[-1] == (
        "next     detloom train DATA --model yolox-nano --resolution 64 --freeze-backbone "
        f"--batch-size {largest} --set training.gradient_accumulation={-(-64 // largest)}"
    )
    assert "of them trained" in done.stdout
    nothing = cli("plan", "--model", "yolox-nano", "--resolution", "64", "--memory", "0.01")
    assert "not even one image fits" in nothing.stdout and nothing.returncode == 0
