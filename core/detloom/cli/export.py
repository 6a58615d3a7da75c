"""`detloom export RUN|FILE`."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from detloom.cli import console
from detloom.cli.data_options import (
    UNUSED,
    add_named_data_arguments,
    add_set_argument,
    data_config,
    data_files,
    named_data,
    names_data,
    read_dataset,
    saved_layer,
    settings_of,
)
from detloom.errors import DataError, ExportError, UsageError

if TYPE_CHECKING:
    from detloom.config import ResolvedConfig
    from detloom.data.dataset import Dataset, Split
    from detloom.export import ExportResult
    from detloom.host import PluginHost
    from detloom.model import TrainedModel


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", metavar="RUN|FILE", help="a run's folder, or a checkpoint (.pt)")
    parser.add_argument("--format", nargs="+", metavar="NAME", help="file formats; without it: as in the run")
    parser.add_argument("--half", action="store_true", help="16-bit weights and arithmetic")
    parser.add_argument("--simplify", action="store_true", help="fold constants and remove dead nodes")
    parser.add_argument("--tolerance", metavar="AP", help="largest difference in AP (0.001; 0.01 with --half)")
    parser.add_argument("--gate-images", metavar="N", help="images of the validation split that are used (all)")
    parser.add_argument(
        "--data",
        nargs="+",
        metavar="DATA",
        help="data for the gate; several become one data set; without it: the run's own validation split",
    )
    add_named_data_arguments(parser)
    parser.add_argument(
        "--parity-only", nargs="+", metavar="IMAGE", help="compare on these images alone; AP is then not measured"
    )
    parser.add_argument("--output", metavar="DIR", help="where to write; without it: exports/ of the run")
    parser.add_argument("--json", action="store_true", help="print the manifests")
    add_set_argument(parser, "export.onnx.opset=18")


def run(args: argparse.Namespace) -> int:
    from detloom.host import discover
    from detloom.model import load_model
    from detloom.prediction import model_file
    from detloom.specs import ExporterSpec

    host = discover()
    model = load_model(model_file(Path(args.model)), host)
    config = _export_config(args, model, host)
    evidence = _Evidence(args, model, config, host)
    dest = Path(args.output) if args.output else _run_folder(model.path) / "exports"
    results: list[ExportResult] = []
    refused: ExportError | None = None
    for spec in config.specs(ExporterSpec):
        try:
            results.append(evidence.export(spec, dest))
        except ExportError as error:
            if refused is not None:
                console.error(str(refused))
            refused = error
            continue
        if not args.json:
            console.write("\n".join(results[-1].lines))
    if args.json:
        console.write_json([result.manifest for result in results])
    if refused is not None:
        raise refused
    return 0


def _run_folder(checkpoint: Path) -> Path:
    folder = checkpoint.parent
    return folder.parent if folder.name == "checkpoints" else folder


def _export_config(args: argparse.Namespace, model: TrainedModel, host: PluginHost) -> ResolvedConfig:
    """The run's own export settings with those of the command line on top."""
    from detloom.config import Entry, Layer, mapping_layer, resolve, text_layer

    document = dict(model.config)
    unused = {key: value for key, value in UNUSED.items() if not key.startswith("export.")}
    base = mapping_layer({**unused, "model.type": host.qualified(model.spec)}, "file")
    flags = [
        ("export.tolerance", args.tolerance, "--tolerance"),
        ("export.gate_images", args.gate_images, "--gate-images"),
        ("export.half", "true" if args.half else None, "--half"),
        ("export.simplify", "true" if args.simplify else None, "--simplify"),
    ]
    typed = [(key, value, flag) for key, value, flag in flags if value is not None]
    own = saved_layer(document, ["export."])
    if args.format:
        # Settings of formats that are not wanted now would be keys that do not exist.
        own = Layer(own.kind, tuple(entry for entry in own.entries if entry.key.count(".") == 1))
        base = Layer(base.kind, (*base.entries, Entry("export.format", list(args.format), "--format")))
        own = Layer(own.kind, tuple(entry for entry in own.entries if entry.key != "export.format"))
    return resolve(host, [base, own, text_layer([*typed, *_of(args, "export.")])])


def _of(args: argparse.Namespace, section: str) -> list[tuple[str, str, str]]:
    """What --set says of a section."""
    return [row for row in settings_of(args, ("export.", "data.")) if row[0].startswith(section)]


class _Evidence:
    """What the gate uses; read once for all formats."""

    def __init__(self, args: argparse.Namespace, model: TrainedModel, config: ResolvedConfig, host: PluginHost) -> None:
        from detloom.cli.predict import find_images

        self.model, self.config, self.host = model, config, host
        if args.parity_only and names_data(args):
            raise UsageError(
                "--parity-only compares on its images alone, and data were named too", hint="leave one of the two away"
            )
        self.images = find_images(args.parity_only, recursive=False) if args.parity_only else []
        self.dataset: Dataset | None = None
        self.split: Split | None = None
        if not self.images:
            self.dataset, self.split = _validation(args, model, host)

    def export(self, spec: Any, dest: Path) -> ExportResult:
        from detloom.export import Evidence, export_model
        from detloom.progress import Reading

        with Reading(f"comparing {spec.name} with the checkpoint") as reading:
            evidence = Evidence(
                class_map=self.dataset.class_map if self.dataset else None,
                images=self.images,
                progress=reading.update,
            )
            settings = self.config.settings(spec)
            return export_model(
                self.model, spec, settings, dest, self.config.config.export, self.split, self.host, evidence
            )


def _validation(args: argparse.Namespace, model: TrainedModel, host: PluginHost) -> tuple[Dataset, Split]:
    from detloom.prediction import check_classes

    written = [*named_data(args, host), *_of(args, "data.")]
    named = names_data(args)
    try:
        config = data_config(written, model.config, host, data_files(args))
        dataset = read_dataset(config, host, as_trained=not named, model=None if named else model.path)
    except DataError as error:
        if named:
            raise
        raise DataError(
            f"the data of this run cannot be read: {error.message}",
            hint="name annotated data with --data, or images with --parity-only (AP is then not measured)",
        ) from error
    stated = model.data.get("digest")
    if not named and stated and stated != dataset.digest:
        console.warning("the data have changed since the training; AP is measured on what is there now")
    name = next((name for name in ("val", "test", "all") if len(dataset.splits.get(name, ()))), None)
    if name is None:
        raise DataError(
            f"{dataset.name} has no validation images",
            hint="name annotated data with --data, or images with --parity-only (AP is then not measured)",
        )
    split = dataset.splits[name]
    check_classes(model.class_map, dataset.class_map, [split])
    return dataset, split
