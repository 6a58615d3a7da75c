"""`detloom plan`: what it predicts, against what is measured without it."""

from __future__ import annotations

import json
import shlex
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from conftest import IMPORT_ROOTS
from data_tools import load, sound_data
from detloom.cli.options import add_run_arguments, rewrite_keys, run_layers
from detloom.cli.parser import Parser
from detloom.cli.plan import next_command
from detloom.config import mapping_layer, resolve
from detloom.detector import Detector
from detloom.errors import ConfigError
from detloom.host import discover
from detloom.train.assemble import BuiltModel, build_model
from detloom.train.footprint import Footprint, Scene, bare_loop, measure_footprint
from detloom.train.memory import TensorCounter, _container_memory, free_memory
from detloom.train.planning import Length, TrainingPlan, length_of, plan_training
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


@pytest.mark.parametrize("wanted", [True, False])
def test_weights_lie_in_the_measured_steps_as_they_will_in_the_training(wanted: bool) -> None:
    made, config = built(64, **{"training.channels_last": wanted})

    def look(module: Any, given: Any) -> None:
        raise LookupError(module.weight.is_contiguous(memory_format=torch.channels_last))

    stem = next(m for m in made.detector.modules() if isinstance(m, torch.nn.Conv2d) and m.kernel_size == (3, 3))
    stem.register_forward_pre_hook(look)
    with pytest.raises(LookupError) as seen:
        measure_footprint(made, config, 8, CPU)
    assert seen.value.args == (wanted,)


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


def planned(**changes: Any) -> TrainingPlan:
    """Without data."""
    host = discover()
    values = {"model.type": "yolox-nano", "training.resolution": 160, "training.device": "cpu", **changes}
    return plan_training(resolve(host, [mapping_layer(values)]), host, None)


def test_the_epoch_that_trains_the_most_is_measured() -> None:
    frozen = {"model.freeze_backbone": True, "training.epochs": 6}
    held, free = planned(**frozen), planned()
    thawed = planned(**frozen, **{"training.unfreeze": {2: ["dark5"], 5: ["stem", "dark2", "dark3", "dark4"]}})
    late = planned(**frozen, **{"training.unfreeze": {6: ["dark5"]}})
    assert held.footprint.tensors_at(8) < 0.8 * free.footprint.tensors_at(8)
    assert abs(thawed.footprint.tensors_at(8) / free.footprint.tensors_at(8) - 1) < 0.01
    assert late.footprint == held.footprint, "six epochs end before the seventh"
    assert (held.epoch, thawed.epoch, late.epoch) == (None, 5, 0)
    assert thawed.trained == thawed.parameters > held.trained == late.trained
    assert "in epoch 5, counted from 0, after the last thaw" in "\n".join(thawed.lines())
    assert "in epoch 0, since this training ends before any thaw" in "\n".join(late.lines())


def test_statistics_of_frozen_parts_stand_while_a_plan_measures() -> None:
    made, config = built(96, **{"model.freeze_backbone": True})
    still = {
        id(buffer)
        for group in made.detector.layer_groups()
        if group.is_backbone
        for part in group.modules
        for buffer in part.buffers()
    }
    before = {name: tensor.clone() for name, tensor in made.detector.named_buffers() if id(tensor) in still}
    measure_footprint(made, config, 2, CPU)
    after = dict(made.detector.named_buffers())
    assert before and all(torch.equal(tensor, after[name]) for name, tensor in before.items())


def test_a_plan_refuses_the_sizes_that_a_training_refuses(monkeypatch: pytest.MonkeyPatch) -> None:
    several = {"training.multi_scale": True}
    made, config = built(160, **several)
    monkeypatch.setattr(Detector, "check_size", lambda self, size: "too small for it" if min(size) < 160 else "")
    refused = "128x128 cannot be trained at: too small for it"
    with pytest.raises(ConfigError, match=refused):
        measure_footprint(made, config, 2, CPU)
    with pytest.raises(ConfigError, match=refused):
        planned(**several)


# ---- the command --------------------------------------------------------------------------------------------------

Call = Callable[..., subprocess.CompletedProcess[str]]


def test_the_plan_of_real_data_says_steps_memory_and_the_next_command(cli: Call, tmp_path: Path) -> None:
    sound_data(tmp_path / "data", images=10)
    arguments = ["data", "--model", "yolox-nano", "--batch-size", "4", "--resolution", "64x96", "--epochs", "3"]
    done = cli("plan", *arguments, "--set", "training.gradient_accumulation=2", "--json", "--memory", "2")
    assert done.returncode == 0, done.stderr
    plan = json.loads(done.stdout)
    assert (plan["model"], plan["size"], plan["fits"]) == ("yolox-nano", [64, 96], True)
    assert plan["length"] == {
        "images": 10,
        "epochs": 3,
        "steps_per_epoch": 1,
        "steps": 3,
        "images_per_step": 8,
        "images_in_last_step": 8,
    }
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


def plan_of(batch: int, accumulation: int, *, largest: int | None, images: int | None = None) -> TrainingPlan:
    """A plan in which exactly `largest` images fit."""
    footprint = Footprint(fixed=0.0, per_image=10.0, probes=(), on_gpu=True)
    limit = None if largest is None else 10 * largest + 5
    length = None if images is None else Length(images, 1, 1, 1, images, images)
    model = ("yolox-nano", (64, 64), "cpu", "float32", 10, 10)
    return TrainingPlan(*model, batch, accumulation, 3, footprint, limit, length, images)


@pytest.mark.parametrize(
    "written",
    [
        ["--batch-size", "64", "--set", "training.gradient_accumulation=1"],
        ["--batch-size=64", "--set=training.gradient_accumulation=1", "--training.seed", "5"],
        ["--set", "training.batch_size=64", "--training.gradient_accumulation", "1", "--set", "training.epochs=2"],
        ["--set=training.batch_size=64", "--training.gradient_accumulation=1"],
        ["--set", "training.batch_size = 64", "--training.seed=5", "--", "data"],
        ["--training.batch_size", "64", "--epochs", "2"],
    ],
)
def test_the_next_command_is_one_that_the_trainer_takes(written: list[str]) -> None:
    host = discover()
    data = [] if "--" in written else ["data"]
    line = next_command(plan_of(64, 1, largest=12), [*data, "--model", "yolox-nano", *written], named=True)
    words = shlex.split(line)
    assert words[:2] == ["detloom", "train"]
    parser = Parser(prog="detloom train")
    add_run_arguments(parser)
    layers = run_layers(parser.parse(rewrite_keys(words[2:])), host)
    training = resolve(host, layers).config.training
    assert (training.batch_size, training.gradient_accumulation) == (12, 6)
    assert training.seed == (5 if "5" in line.replace("=", " ").split() else TrainingConfig().seed)
    assert training.epochs == (2 if "2" in line.replace("=", " ").split() else TrainingConfig().epochs)


@pytest.mark.parametrize(
    ("batch", "accumulation", "largest", "images", "advised"),
    [
        (64, 1, 12, None, (12, 6)),
        (64, 1, None, None, (64, 1)),
        (64, 1, 100, 10, (10, 1)),
        (64, 4, None, 10, (10, 1)),
        (64, 1, 4, 10, (3, 3)),
        (64, 1, 12, 20, (10, 2)),
        (4, 2, 100, 10, (4, 2)),
        (8, 1, 0, 10, None),
    ],
)
def test_no_batch_is_advised_that_the_split_has_no_images_for(
    batch: int, accumulation: int, largest: int | None, images: int | None, advised: tuple[int, int] | None
) -> None:
    plan = plan_of(batch, accumulation, largest=largest, images=images)
    assert plan.advised() == advised
    assert advised is None or images is None or advised[0] * advised[1] <= images


@pytest.mark.parametrize(
    ("batch", "accumulation", "text"),
    [
        (4, 2, "3 of 8 images: 3 epochs of 1 (10 images)"),
        (64, 4, "3 of 10 images: 3 epochs of 1 (10 images)"),
        (4, 8, "3 of 8 images: 3 epochs of 1 (10 images)"),
        (2, 2, "9 of 4 images, the last of an epoch of 2: 3 epochs of 3 (10 images)"),
    ],
)
def test_the_steps_say_how_many_images_they_take(tmp_path: Path, batch: int, accumulation: int, text: str) -> None:
    split = load(sound_data(tmp_path, images=10)).splits["train"]
    values = {"training.batch_size": batch, "training.gradient_accumulation": accumulation, "training.epochs": 3}
    config = resolve(discover(), [mapping_layer({"model.type": "yolox-nano", **values})]).config
    assert length_of(config, split).line() == text
