"""Every hook's docstring holds a complete plugin; here each of them is taken out and run."""

from __future__ import annotations

import argparse
import inspect
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch

import detloom
from detloom import hookspecs
from detloom.host import HOOKS, OBSERVERS, PluginHost
from detloom.specs import SPEC_TYPES, ModelContext, RuntimeRequest, Spec
from detloom.testing import host_with, problems


def example_of(hook: str) -> ModuleType:
    """The plugin in the docstring of a hook, as a module."""
    text = inspect.getdoc(getattr(hookspecs, hook)) or ""
    prose, marker, code = text.partition("Example:\n")
    assert prose.strip() and marker, f"{hook} has no example"
    module = ModuleType(f"example_of_{hook}")
    exec(compile(inspect.cleandoc("\n" + code), f"<{hook}>", "exec"), vars(module))
    return module


def only_spec(hook: str) -> tuple[PluginHost, Any]:
    host = host_with(example=example_of(hook))
    kind = next(kind for kind in SPEC_TYPES if kind.hook == hook)
    specs: list[Spec] = host.specs(kind)
    assert len(specs) == 1, host.plugins
    return host, specs[0]


@pytest.mark.parametrize("hook", HOOKS)
def test_each_hook_has_an_example_that_keeps_the_contract(hook: str) -> None:
    module = example_of(hook)
    assert problems(module) == []
    assert [info.hooks for info in host_with(example=module).plugins] == [(hook,)]


def test_the_hook_specs_and_the_spec_types_name_the_same_hooks() -> None:
    functions = {name for name, _ in inspect.getmembers(hookspecs, inspect.isfunction) if name.startswith("detloom_")}
    assert functions == set(HOOKS)


def test_the_example_model_learns_where_a_bright_square_is() -> None:
    _, spec = only_spec("detloom_models")
    torch.manual_seed(0)
    detector = spec.build(spec.settings(), ModelContext(("square",), (64, 96)))
    images = torch.zeros(2, 3, 64, 96, dtype=torch.uint8)
    images[0, :, 0:30, 32:60] = 255
    images[1, :, 32:62, 64:96] = 255
    boxes = torch.tensor([[[32.0, 0, 60, 30]], [[64.0, 32, 96, 62]]])
    targets = detloom.Targets(boxes, torch.zeros(2, 1, dtype=torch.int64))
    optimizer = torch.optim.Adam(detector.parameters(), lr=1e-4)
    losses: list[float] = []
    for _ in range(60):
        terms = detector.loss(detector(images), targets)
        loss = terms.total / terms.normaliser
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0] * 0.75
    with torch.inference_mode():
        found = detector.predict(detector(images), [(64, 96), (64, 96)])
    best = np.stack([detections.boxes[0] for detections in found])
    assert np.abs(best - boxes[:, 0].numpy()).max() < 8


def test_the_example_source_names_the_folder_of_the_variable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _, spec = only_spec("detloom_sources")
    monkeypatch.setenv("SHELF", str(tmp_path))
    source = spec.build(spec.settings())
    assert source.fetch(source.plan(), tmp_path, detloom.FetchContext()).root == tmp_path
    monkeypatch.setenv("SHELF", "/nowhere")
    with pytest.raises(detloom.DataError, match="/nowhere"):
        source.plan()


def test_the_example_format_reads_boxes_and_reports_bad_lines(tmp_path: Path) -> None:
    _, spec = only_spec("detloom_formats")
    (tmp_path / "boxes.txt").write_text("a.png 1 2 3 4\nb.png 1 2\na.png 5 6 7 8\n")
    tree = detloom.DataTree(tmp_path)
    format_ = spec.build(spec.settings())
    assert format_.sniff(tree).score == 1
    records = list(format_.read(tree))
    assert [finding.where for finding in records if isinstance(finding, detloom.Finding)] == ["boxes.txt:2"]
    images = [image for image in records if isinstance(image, detloom.ImageRecord)]
    assert [(image.file_name, [list(o.bbox or ()) for o in image.objects]) for image in images] == [
        ("a.png", [[1, 2, 3, 4], [5, 6, 7, 8]])
    ]


def test_the_example_augmentation_takes_light_by_the_generator_alone() -> None:
    _, spec = only_spec("detloom_augmentations")
    transform = spec.build(spec.settings())
    image = np.full((4, 4, 3), 200, dtype=np.uint8)
    sample = detloom.Sample(image, np.zeros((0, 4), np.float32), np.zeros(0, np.int64), (4, 4))
    first, second = (transform(sample, np.random.default_rng(3), ()).image for _ in range(2))
    assert np.array_equal(first, second) and 100 <= first.max() < 200


def test_the_example_loss_is_the_mean_distance_of_the_sides() -> None:
    _, spec = only_spec("detloom_losses")
    loss = spec.build(spec.settings())
    assert loss(torch.tensor([[0.0, 0, 4, 8]]), torch.tensor([[1.0, 0, 4, 5]])).tolist() == [1.0]


def test_the_example_exporter_writes_what_torch_can_load(tmp_path: Path) -> None:
    _, spec = only_spec("detloom_exporters")
    detector = torch.nn.Linear(2, 1)
    request = detloom.ExportRequest(tmp_path / "model", (64, 64), False, False, {"classes": "a"})
    path = spec.build(spec.settings()).export(detector, request)
    loaded = torch.load(path, weights_only=True)
    assert path.suffix == spec.suffix and loaded["about"] == {"classes": "a"}
    assert torch.equal(loaded["weights"]["weight"], detector.weight)


def test_the_example_runtime_finds_the_middle(tmp_path: Path) -> None:
    host, spec = only_spec("detloom_runtimes")
    runtime = spec.build(spec.settings(), RuntimeRequest(tmp_path, "cpu", host))
    boxes, scores = runtime(np.zeros((2, 3, 40, 80), np.uint8))
    assert boxes.tolist() == [[[20, 10, 60, 30]]] * 2 and scores.shape == (2, 1, 1)


def test_the_example_logger_writes_numbers(tmp_path: Path) -> None:
    _, spec = only_spec("detloom_loggers")
    logger = spec.build(spec.settings(), detloom.LoggerContext(tmp_path, "run", 10, 1))
    logger.scalars({"loss": 0.5}, 3, 0)
    logger.close("completed")
    assert (tmp_path / "numbers.csv").read_text() == "3,0,loss,0.5\n"


def test_the_example_command_greets(capsys: pytest.CaptureFixture[str]) -> None:
    _, spec = only_spec("detloom_commands")
    parser = argparse.ArgumentParser()
    spec.add_arguments(parser)
    assert spec.run(parser.parse_args(["you"])) == 0
    assert capsys.readouterr().out == "hello you\n"


def test_the_example_observers_see_their_events(tmp_path: Path) -> None:
    (tmp_path / "best.pt").write_text("weights")
    events: dict[str, tuple[object, str, str]] = {
        "run_started": (detloom.RunStarted(tmp_path, "run", {}, ("cat", "dog")), "classes.txt", "cat\ndog"),
        "epoch_started": (detloom.EpochStarted(tmp_path, 2, 9), "now.txt", "epoch 3 from step 9"),
        "validation_finished": (detloom.ValidationFinished(tmp_path, 0, 9, {"val/AP": 0.5}), "AP.txt", "9 0.5\n"),
        "epoch_finished": (detloom.EpochFinished(tmp_path, 0, 9, {"val/AP": 0.5}), "epochs.txt", "0 0.5\n"),
        "checkpoint_saved": (
            detloom.CheckpointSaved(tmp_path, tmp_path / "best.pt", 0, True),
            "keep.pt",
            "weights",
        ),
        "run_finished": (detloom.RunFinished(tmp_path, "failed", "no space", {}), "status.txt", "failed no space"),
    }
    assert set(events) == set(OBSERVERS)
    for name, (event, file, content) in events.items():
        host_with(example=example_of(f"detloom_{name}")).notify(name, event)
        assert (tmp_path / file).read_text() == content
