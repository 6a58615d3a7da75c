"""The flags of `detloom train`, and the configuration layers that they mean.

Every flag is an alias of a key: `--lr 0.01` is `--set training.lr=0.01`. Light: what is written is read as text
here; the configuration gives it a type.
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from detloom.cli.source_options import add_source_arguments, written_sources

if TYPE_CHECKING:
    from detloom.config.layers import Entry, Layer
    from detloom.errors import Mistake
    from detloom.host import PluginHost

SIZES = ("nano", "tiny", "small", "base", "medium", "large", "xlarge", "huge", "s", "m", "l", "x")


@dataclass(frozen=True, slots=True)
class Alias:
    """A flag for a key. value: what a flag without argument writes; several: it takes a list."""

    flag: str
    key: str
    help: str
    value: str = ""
    several: bool = False

    @property
    def dest(self) -> str:
        return self.flag.removeprefix("--").replace("-", "_")


ALIASES = (
    Alias("--dataset-dir", "data.local.path", "the same as DATA"),
    Alias("--train", "data.local.train", "annotation file of the training split"),
    Alias("--val", "data.local.val", "annotation file of the validation split"),
    Alias("--test", "data.local.test", "annotation file of the test split"),
    Alias("--images", "data.local.images", "folder of the images"),
    Alias("--preset", "preset", "named set of values"),
    Alias("--model", "model.type", "family and variant: yolox-nano; a size alone: rf_detr-<size>"),
    Alias("--model-type", "model.type", "the same as --model"),
    Alias("--weights", "model.pretrain_weights", "file, `official`, `none` or `auto`"),
    Alias("--epochs", "training.epochs", "passes over the training split"),
    Alias("--batch-size", "training.batch_size", "images in one forward pass"),
    Alias("--lr", "training.lr", "peak learning rate"),
    Alias("--device", "training.device", "auto, cpu, cuda or cuda:1"),
    Alias("--seed", "training.seed", "seed of everything random"),
    Alias("--early-stopping", "training.early_stopping", "stop when validation stands still", value="true"),
    Alias("--early-stopping-patience", "training.early_stopping_patience", "evaluations to wait"),
    Alias("--overfit-batches", "training.overfit_batches", "debug: train on the first N batches"),
    Alias("--allow", "data.allow", "codes of errors that do not stop it; what they name is left out", several=True),
    Alias("--num-workers", "data.num_workers", "processes that read and augment"),
    Alias("--freeze-backbone", "model.freeze_backbone", "keep the backbone as loaded", value="true"),
    Alias("--no-ema", "training.use_ema", "no moving average of the weights", value="false"),
    Alias("--export-format", "export.format", "file formats to write", several=True),
    Alias("--project-name", "experiment.project", "project the run belongs to"),
    Alias("--task-name", "experiment.name", "name of the run"),
    Alias("--name", "experiment.name", "the same as --task-name"),
    Alias("--tags", "experiment.tags", "labels kept with the run", several=True),
    Alias("--output-dir", "experiment.output_dir", "folder that gets the run's folder"),
    Alias("--no-clearml", "experiment.clearml.mode", "do not track on ClearML", value="off"),
)


def add_run_arguments(parser: argparse.ArgumentParser) -> None:
    """Everything that says what a run shall do."""
    help_text = "folder of the data set, or one COCO json; several become one data set"
    parser.add_argument("data", nargs="*", metavar="DATA", help=help_text)
    parser.add_argument("--config", action="append", default=[], metavar="FILE", help="YAML, JSON or TOML")
    parser.add_argument(
        "--set", action="append", default=[], metavar="KEY=VALUE", help="any key; also as --section.key VALUE"
    )
    for alias in ALIASES:
        if alias.value:
            parser.add_argument(alias.flag, dest=alias.dest, action="store_true", help=alias.help)
        elif alias.several:
            parser.add_argument(alias.flag, dest=alias.dest, nargs="+", help=alias.help)
        else:
            parser.add_argument(alias.flag, dest=alias.dest, metavar="VALUE", help=alias.help)
    parser.add_argument("--resolution", nargs="+", metavar="PIXELS", help="640, or 480x640 (height x width)")
    parser.add_argument("--tensorboard", action="store_true", help="add the TensorBoard logger")
    add_source_arguments(parser)


def rewrite_keys(arguments: list[str]) -> list[str]:
    """`--augmentation.hsv.h 0.1` and `--augmentation.hsv.h=0.1` become `--set=--augmentation.hsv.h=0.1`."""
    rewritten: list[str] = []
    remaining = iter(arguments)
    for argument in remaining:
        if argument == "--":
            return [*rewritten, argument, *remaining]
        name, equals, value = argument.partition("=")
        if not re.fullmatch(r"--[A-Za-z_][\w-]*(\.[\w:-]+)+", name):
            rewritten.append(argument)
        elif equals:
            rewritten.append(f"--set={name}={value}")
        else:
            rewritten.append(f"--set={name}={next(remaining, '')}")
    return rewritten


def run_layers(args: argparse.Namespace, host: PluginHost) -> list[Layer]:
    """Files first, then the command line. Mistakes are kept in the layers, to be reported with all others."""
    from detloom.config.files import file_layer
    from detloom.config.layers import Layer

    files = [file_layer(path) for path in args.config]
    collected = _CommandLine(host)
    if len(args.data) == 1:
        collected.add("data.local.path", args.data[0], "DATA")
    elif args.data:
        collected.add("data.sources", args.data, "DATA")
    for alias in ALIASES:
        given = getattr(args, alias.dest)
        if given not in (None, False):
            collected.add_alias(alias, given)
    if args.resolution:
        sides = args.resolution
        collected.add("training.resolution", sides[0] if len(sides) == 1 else sides, "--resolution")
    _add_sources(args, collected)
    for text in args.set:
        collected.add_setting(text)
    if args.tensorboard:
        _add_tensorboard(collected, files)
    return [*files, Layer("command line", tuple(collected.entries.values()), tuple(collected.mistakes))]


class _CommandLine:
    """Entries of the command line so far. The same key twice with two values is a mistake, never a silent choice."""

    def __init__(self, host: PluginHost) -> None:
        self.host = host
        self.entries: dict[str, Entry] = {}
        self.mistakes: list[Mistake] = []

    def add(self, key: str, value: str | Sequence[str], place: str) -> None:
        from detloom.config.layers import Entry, Text

        written = Text(value) if isinstance(value, str) else [Text(item) for item in value]
        before = self.entries.pop(key, None)  # a later word takes a later place
        if before is not None and before.value != written and before.place != place:
            message = f"is given by {before.place} ({_shown(before.value)}) and by {place} ({_shown(written)})"
            self.refuse(key, place, message, "keep one of them")
        self.entries[key] = Entry(key, written, place)

    def refuse(self, key: str, place: str, message: str, hint: str = "") -> None:
        from detloom.errors import Mistake

        self.mistakes.append(Mistake(key, place, message, hint))

    def add_alias(self, alias: Alias, given: Any) -> None:
        if alias.key == "model.type" and self._is_bare_size(given, alias.flag):
            return
        self.add(alias.key, alias.value or given, alias.flag)

    def add_setting(self, text: str) -> None:
        """`KEY=VALUE` of --set, or `--key=value` that rewrite_keys made."""
        key, equals, value = text.partition("=")
        place = key if key.startswith("--") else "--set"
        if not equals or not key.strip("- "):
            self.refuse("--set", place, f"found {text!r}; it takes KEY=VALUE", "for example: --set training.lr=1e-4")
            return
        self.add(key.removeprefix("--").strip(), value, place)

    def _is_bare_size(self, name: str, flag: str) -> bool:
        """`tiny` names no model unless a plugin says so: which family's?"""
        from detloom.errors import PluginError
        from detloom.specs import ModelSpec

        try:
            if name not in SIZES or self.host.find(ModelSpec, name) is not None:
                return False
        except PluginError:
            return False  # known and refused: the configuration says why
        models = [self.host.qualified(spec) for spec in self.host.specs(ModelSpec)]
        message = f"{name!r} is a size without a family, and no plugin here provides a model of that name"
        self.refuse("model.type", flag, message, f"models here: {', '.join(models)}")
        return True


def _add_sources(args: argparse.Namespace, collected: _CommandLine) -> None:
    entries, mistakes = written_sources(args, collected.host)
    for entry in entries:
        collected.add(entry.key, entry.value, entry.flag)
    collected.mistakes += mistakes


def _add_tensorboard(collected: _CommandLine, files: Sequence[Layer]) -> None:
    """Append the logger to those that are chosen otherwise."""
    from detloom.config.layers import Entry, Text
    from detloom.config.values import natural, says_nothing
    from detloom_schemas.config import LoggingConfig

    key = "experiment.logging.loggers"
    written = [entry for layer in files for entry in layer.entries if entry.key == key]
    last = collected.entries.get(key) or (written[-1] if written else None)
    names = natural(last.value) if last is not None and last.value != "auto" else list(LoggingConfig().loggers)
    names = [] if says_nothing(names) else names
    names = re.split(r"\s*,\s*", names) if isinstance(names, str) else names
    if isinstance(names, list) and "tensorboard" not in names:
        collected.entries[key] = Entry(key, [Text(name) for name in [*names, "tensorboard"]], "--tensorboard")


def _shown(value: Any) -> str:
    return " ".join(value) if isinstance(value, list) else str(value)
