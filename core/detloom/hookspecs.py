"""The hooks of a Detloom plugin: a module (or object) with any of these functions, marked `@detloom.hookimpl`.

A plugin package names its module in the entry-point group `detloom`, states the contract it was written for in
`detloom_api = (0, 1)`, and hands over frozen specs:

    # pyproject.toml
    [project.entry-points.detloom]
    my-plugin = "my_package.plugin"

Registration hooks take no arguments and return an iterable of specs. Observers get one event and return nothing; an
exception in one is logged with the plugin's name and the run goes on. No hook runs inside the step loop.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

import pluggy

if TYPE_CHECKING:
    from detloom.events import (
        CheckpointSaved,
        EpochFinished,
        EpochStarted,
        RunFinished,
        RunStarted,
        ValidationFinished,
    )
    from detloom.specs import (
        AugmentationSpec,
        CommandSpec,
        ExporterSpec,
        FormatSpec,
        LoggerSpec,
        LossSpec,
        ModelSpec,
        RuntimeSpec,
        SourceSpec,
    )

hookspec = pluggy.HookspecMarker("detloom")
hookimpl = pluggy.HookimplMarker("detloom")


# --- registration: no arguments, an iterable of specs ---


@hookspec
def detloom_models() -> Iterable[ModelSpec]:
    """Detectors. Called once, when plugins are loaded; `build` is called for each run that names the model.

    Example:
        import detloom

        detloom_api = (0, 1)


        def build(settings, context):
            '''One box a cell of 32 pixels.'''
            import torch
            from torch import nn

            class Cells(detloom.Detector):
                def __init__(self):
                    rule = detloom.InputRule(size=context.size, scale=1 / 255)
                    super().__init__(context.class_names, rule, detloom.PostRule(kind="nms"))
                    self.conv = nn.Conv2d(3, len(context.class_names) + 4, 32, stride=32)

                def forward(self, images, targets=None, prompts=None):
                    cells = self.conv(self.normalise(images)).flatten(2).transpose(1, 2)
                    return detloom.Outputs(logits=cells[..., 4:], boxes=cells[..., :4])

                def decode(self, outputs):
                    height, width = (side // 32 for side in self.input_rule.size)
                    y, x = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
                    centre = torch.stack([x, y], -1).reshape(-1, 2) * 32 + 16 + 32 * outputs.boxes[..., :2].tanh()
                    half = 16 * outputs.boxes[..., 2:].exp()
                    return detloom.Decoded(torch.cat([centre - half, centre + half], -1), outputs.logits.sigmoid())

                def loss(self, outputs, targets):
                    boxes, width = self.decode(outputs).boxes, self.input_rule.size[1] // 32
                    cell = ((targets.boxes[..., :2] + targets.boxes[..., 2:]) / 64).long()
                    image, row = targets.valid.nonzero(as_tuple=True)
                    where = (cell[..., 1] * width + cell[..., 0])[image, row].clamp(max=boxes.shape[1] - 1)
                    wanted = torch.zeros_like(outputs.logits)
                    wanted[image, where, targets.labels[image, row]] = 1
                    score = nn.functional.binary_cross_entropy_with_logits(outputs.logits, wanted, reduction="sum")
                    box = (boxes[image, where] - targets.boxes[image, row]).abs().sum() / 32
                    terms = {"classification": score, "box": box}
                    return detloom.LossTerms(terms, targets.valid.sum().clamp(min=1).float())

                def layer_groups(self):
                    return [detloom.LayerGroup("conv", (self.conv,), depth=0, is_head=True)]

                def load_pretrained(self, state, class_names, source):
                    return detloom.TransferReport(source, loaded=0, total=2, reset=self.class_names)

            return Cells()


        @detloom.hookimpl
        def detloom_models():
            yield detloom.ModelSpec(
                name="cells-s",
                family="cells",
                summary="one box a cell",
                licence="Apache-2.0",
                build=build,
                recipe={"training.lr": 1e-4, "training.resolution": 128},
            )
    """
    return ()


@hookspec
def detloom_sources() -> Iterable[SourceSpec]:
    """Places that data are fetched from; chosen by `data.source`. A source never parses annotations.

    Example:
        import os
        from pathlib import Path

        import detloom

        detloom_api = (0, 1)


        class Shelf:
            '''A folder that an environment variable names.'''

            def plan(self):
                root = os.environ.get("SHELF", "")
                if not Path(root).is_dir():
                    raise detloom.DataError(f"SHELF names {root!r}, which is no folder", hint="export SHELF=/data")
                return detloom.SourcePlan(identity=root, revision="1")

            def fetch(self, plan, dest, context):
                return detloom.DataTree(root=Path(plan.identity))


        @detloom.hookimpl
        def detloom_sources():
            yield detloom.SourceSpec(name="shelf", summary="the folder $SHELF", build=lambda settings: Shelf())
    """
    return ()


@hookspec
def detloom_formats() -> Iterable[FormatSpec]:
    """Ways in which annotations are written; found by `sniff`, or named in `data.format`.

    Example:
        import detloom

        detloom_api = (0, 1)


        class Lines:
            '''boxes.txt: `file name x1 y1 x2 y2` on each line, all objects of one class.'''

            def sniff(self, tree):
                found = (tree.root / "boxes.txt").is_file()
                return detloom.Sniff(1.0 if found else 0.0, "boxes.txt" if found else "no boxes.txt")

            def read(self, tree):
                yield detloom.ClassRecord(id=None, name="thing")
                rows = {}
                for number, line in enumerate((tree.root / "boxes.txt").read_text().splitlines(), start=1):
                    name, *sides = line.split()
                    where = f"boxes.txt:{number}"
                    if len(sides) == 4:
                        box = detloom.ObjectRecord([float(side) for side in sides], class_name="thing", where=where)
                        rows.setdefault(name, []).append(box)
                    else:
                        yield detloom.Finding("bad-line", "error", f"{len(sides)} numbers, not 4", where, objects=1)
                for name, boxes in rows.items():
                    yield detloom.ImageRecord("all", name, tree.root / name, tuple(boxes))


        @detloom.hookimpl
        def detloom_formats():
            yield detloom.FormatSpec(name="lines", summary="boxes.txt", build=lambda settings: Lines())
    """
    return ()


@hookspec
def detloom_augmentations() -> Iterable[AugmentationSpec]:
    """Transforms of training samples, applied in the order of `augmentation.transforms`.

    All randomness comes from the generator that is handed in: it is keyed by seed, epoch, sample and transform. What
    `build` returns is sent to worker processes: an object of a class at module level, not a function inside another.

    Example:
        from dataclasses import replace

        import detloom

        detloom_api = (0, 1)


        def settings():
            from typing import Annotated

            from pydantic import Field

            class Dimming(detloom.Settings):
                strength: Annotated[float, Field(ge=0, le=1, description="largest share of light taken")] = 0.5

            return Dimming()


        class Dim:
            def __init__(self, strength):
                self.strength = strength

            def __call__(self, sample, rng, extras):
                light = 1 - self.strength * rng.random()
                return replace(sample, image=(sample.image * light).astype("uint8"))


        @detloom.hookimpl
        def detloom_augmentations():
            yield detloom.AugmentationSpec(
                name="dim", summary="less light", settings=settings, build=lambda settings: Dim(settings.strength)
            )
    """
    return ()


@hookspec
def detloom_losses() -> Iterable[LossSpec]:
    """Element-wise losses for a role; chosen by `loss.classification` or `loss.box`.

    Example:
        import detloom

        detloom_api = (0, 1)


        def build(settings):
            '''Mean distance of the four sides, in pixels.'''
            return lambda predicted, target: (predicted - target).abs().mean(dim=-1)


        @detloom.hookimpl
        def detloom_losses():
            yield detloom.LossSpec(name="sides", summary="distance of the sides", role="box", build=build)
    """
    return ()


@hookspec
def detloom_exporters() -> Iterable[ExporterSpec]:
    """Writers of deployable files; chosen by `export.format`. `runtime` names the runtime that the gate proves with.

    Example:
        import detloom

        detloom_api = (0, 1)


        class Weights:
            def export(self, detector, request):
                import torch

                path = request.path.with_name(f"{request.path.name}.weights")
                with detloom.atomic_path(path) as part:
                    torch.save({"weights": detector.state_dict(), "about": dict(request.metadata)}, part)
                return path


        @detloom.hookimpl
        def detloom_exporters():
            yield detloom.ExporterSpec(
                name="weights",
                summary="the weights alone",
                suffix=".weights",
                runtime="weights",
                build=lambda settings: Weights(),
            )
    """
    return ()


@hookspec
def detloom_runtimes() -> Iterable[RuntimeSpec]:
    """Runners of model files; found by the suffix of the file, or named with `--runtime`.

    Example:
        import detloom

        detloom_api = (0, 1)


        class Middle:
            '''Runs `.middle` files: finds one thing, in the middle half of every image.'''

            batch_limit = None
            manifest = None

            def __call__(self, images):
                import numpy as np

                count, _, height, width = images.shape
                box = np.array([width / 4, height / 4, width * 3 / 4, height * 3 / 4], dtype=np.float32)
                return np.tile(box, (count, 1, 1)), np.ones((count, 1, 1), dtype=np.float32)


        @detloom.hookimpl
        def detloom_runtimes():
            yield detloom.RuntimeSpec(
                name="middle",
                summary="always the middle",
                suffixes=(".middle",),
                build=lambda settings, request: Middle(),
            )
    """
    return ()


@hookspec
def detloom_loggers() -> Iterable[LoggerSpec]:
    """Places that numbers and pictures of a run go to; chosen by `experiment.logging.loggers`.

    Example:
        import detloom

        detloom_api = (0, 1)


        class Csv:
            '''One line a number in numbers.csv; pictures and files are in the run's folder anyway.'''

            def __init__(self, context):
                self.file = (context.run_dir / "numbers.csv").open("a")

            def scalars(self, values, step, epoch):
                for name, value in values.items():
                    print(step, epoch, name, value, sep=",", file=self.file)

            def plot(self, name, series, step): ...
            def image(self, name, path, step): ...
            def table(self, name, header, rows, step): ...
            def artifact(self, name, path): ...
            def model(self, name, path, metrics, labels): ...

            def close(self, status):
                self.file.close()


        @detloom.hookimpl
        def detloom_loggers():
            yield detloom.LoggerSpec(name="csv", summary="numbers.csv", build=lambda settings, context: Csv(context))
    """
    return ()


@hookspec
def detloom_commands() -> Iterable[CommandSpec]:
    """Sub-commands of `detloom`.

    Example:
        import detloom

        detloom_api = (0, 1)


        def add_arguments(parser):
            parser.add_argument("name")


        def run(args):
            print(f"hello {args.name}")
            return 0


        @detloom.hookimpl
        def detloom_commands():
            yield detloom.CommandSpec(name="hello", summary="greets", add_arguments=add_arguments, run=run)
    """
    return ()


# --- observers: one event, no answer ---


@hookspec
def detloom_run_started(event: RunStarted) -> None:
    """The data are loaded and the model is built; the first step comes next.

    Example:
        import detloom

        detloom_api = (0, 1)


        @detloom.hookimpl
        def detloom_run_started(event):
            (event.run_dir / "classes.txt").write_text("\\n".join(event.classes))
    """


@hookspec
def detloom_epoch_started(event: EpochStarted) -> None:
    """An epoch begins, or goes on in a resumed run.

    Example:
        import detloom

        detloom_api = (0, 1)


        @detloom.hookimpl
        def detloom_epoch_started(event):
            (event.run_dir / "now.txt").write_text(f"epoch {event.epoch + 1} from step {event.step}")
    """


@hookspec
def detloom_validation_finished(event: ValidationFinished) -> None:
    """The validation split was evaluated.

    Example:
        import detloom

        detloom_api = (0, 1)


        @detloom.hookimpl
        def detloom_validation_finished(event):
            with (event.run_dir / "AP.txt").open("a") as file:
                print(event.step, event.metrics.get("val/AP"), file=file)
    """


@hookspec
def detloom_epoch_finished(event: EpochFinished) -> None:
    """An epoch is trained and, where it was due, evaluated; its checkpoints are written next.

    Example:
        import detloom

        detloom_api = (0, 1)


        @detloom.hookimpl
        def detloom_epoch_finished(event):
            with (event.run_dir / "epochs.txt").open("a") as file:
                print(event.epoch, event.metrics.get("val/AP"), file=file)
    """


@hookspec
def detloom_checkpoint_saved(event: CheckpointSaved) -> None:
    """A checkpoint is whole on the disk.

    Example:
        import shutil

        import detloom

        detloom_api = (0, 1)


        @detloom.hookimpl
        def detloom_checkpoint_saved(event):
            if event.is_best:
                shutil.copy(event.path, event.run_dir / "keep.pt")
    """


@hookspec
def detloom_run_finished(event: RunFinished) -> None:
    """The run is over, whatever its status; its files are written.

    Example:
        import detloom

        detloom_api = (0, 1)


        @detloom.hookimpl
        def detloom_run_finished(event):
            (event.run_dir / "status.txt").write_text(f"{event.status} {event.error}".strip())
    """
