"""Which data an evaluation or an export uses: those that are named, else those of the model's own run."""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from detloom.cli import console
from detloom.cli.source_options import add_source_arguments, given_flags, says_where, written_sources
from detloom.errors import ConfigError, DataError, UsageError

if TYPE_CHECKING:
    from detloom.config import Layer, ResolvedConfig
    from detloom.data.dataset import Dataset
    from detloom.host import PluginHost

FILES = (
    ("--images", "data.local.images", "folder of the images, when the json files stand elsewhere"),
    ("--train", "data.local.train", "annotation file of the training split"),
    ("--val", "data.local.val", "annotation file of the validation split"),
    ("--test", "data.local.test", "annotation file of the test split"),
)
UNUSED: dict[str, Any] = {"experiment.logging.loggers": [], "augmentation.transforms": [], "export.format": []}
"""Nothing is trained here: plugins for it need not be installed."""


def add_file_arguments(parser: argparse.ArgumentParser) -> None:
    for flag, _, text in FILES:
        parser.add_argument(flag, metavar="PATH", help=text)


def add_named_data_arguments(parser: argparse.ArgumentParser) -> None:
    """For commands that otherwise use the data of the model's run."""
    add_file_arguments(parser)
    add_source_arguments(parser)
    parser.add_argument(
        "--config", action="append", default=[], metavar="FILE", help="the data that a configuration names"
    )


def data_files(args: argparse.Namespace) -> list[Layer]:
    """What the files of --config say of data; what else they hold is for a training. Raises UsageError for a file that
    says nothing of data."""
    from detloom.config import file_layer

    layers = []
    for path in args.config:
        layer = file_layer(path)
        entries = tuple(entry for entry in layer.entries if entry.key.startswith("data."))
        if not entries and not layer.mistakes:
            raise UsageError(f"{path} says nothing of data", hint="it needs a section `data`")
        layers.append(replace(layer, entries=entries))
    return layers


def add_set_argument(parser: argparse.ArgumentParser, example: str) -> None:
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help=f"such as {example}")


def settings_of(args: argparse.Namespace, sections: tuple[str, ...]) -> list[tuple[str, str, str]]:
    """(key, text, flag) of each --set. Raises UsageError for keys that change nothing here."""
    found = []
    for text in args.set:
        key, equals, value = text.partition("=")
        if not equals:
            raise UsageError(f"--set takes KEY=VALUE; found {text!r}", hint=f"for example: --set {sections[0]}...=1")
        if not key.strip().startswith(sections):
            names = " and ".join(f"{section}*" for section in sections)
            raise UsageError(f"--set {key.strip()} changes nothing in this command", hint=f"it takes {names}")
        found.append((key.strip(), value, "--set"))
    return found


def names_data(args: argparse.Namespace) -> bool:
    """Whether the command line says which data are meant."""
    if given_data(args) or given_flags(args) or any(_given(args, flag) for flag, _, _ in FILES):
        return True
    keys = [text.partition("=")[0].strip() for text in args.set]
    keys += [entry.key for layer in data_files(args) for entry in layer.entries]
    return any(says_where(key) for key in keys)


def given_data(args: argparse.Namespace) -> list[str]:
    """Every DATA of the command line."""
    return [args.data] if isinstance(args.data, str) else [*(args.data or [])]


def named_data(args: argparse.Namespace, host: PluginHost) -> list[tuple[str, str, str]]:
    """(key, text, flag) of the data that the command line names; empty when it names none. Raises ConfigError for a
    source that no plugin provides."""
    data = given_data(args)
    found = [("data.local.path", data[0], "DATA")] if len(data) == 1 else []
    if len(data) > 1:
        found.append(("data.sources", json.dumps(data, ensure_ascii=False), "DATA"))
    for flag, key, _ in FILES:
        value = _given(args, flag)
        if value:
            found.append((key, value, flag))
    entries, mistakes = written_sources(args, host)
    if mistakes:
        raise ConfigError(mistakes)
    return [*found, *((entry.key, entry.text, entry.flag) for entry in entries)]


def _given(args: argparse.Namespace, flag: str) -> str | None:
    value: str | None = getattr(args, flag.removeprefix("--"), None)
    return value


def saved_document(path: Path) -> Mapping[str, Any] | None:
    """config.yaml of the run that a folder, a checkpoint or an exported file belongs to; None when there is none."""
    import yaml

    for folder in (path, path.parent, path.parent.parent):
        file = folder / "config.yaml"
        if file.is_file():
            try:
                document = yaml.safe_load(file.read_text(encoding="utf-8"))
            except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
                raise UsageError(f"cannot read {file}: {error}", hint="name the data, and it is not needed") from error
            return document if isinstance(document, Mapping) else None
    return None


def saved_layer(document: Mapping[str, Any], sections: Sequence[str]) -> Layer:
    """These sections of a saved configuration, every value as it was in the run."""
    from detloom.config import mapping_layer

    values = {
        key: value for key, value in _leaves(document, document.get("origins") or {}) if key.startswith(tuple(sections))
    }
    if values.get("data.sources"):
        values.pop("data.source", None)  # a default, which would contradict the list
    return mapping_layer(values, "file", "config.yaml of the run")


def _leaves(document: Mapping[str, Any], origins: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    for key in origins:
        node: Any = document
        for part in str(key).split("."):
            node = node.get(part, _MISSING) if isinstance(node, Mapping) else _MISSING
        if node is not _MISSING:
            yield str(key), node


_MISSING = object()


def data_config(
    named: Sequence[tuple[str, str, str]],
    document: Mapping[str, Any] | None,
    host: PluginHost,
    files: Sequence[Layer] = (),
) -> ResolvedConfig:
    """The configuration that the data are read with. named: what the command line says of them; files: what files of
    --config do.

    Raises UsageError when neither the command line nor a run says where the data are.
    """
    from detloom.config import load_env, mapping_layer, resolve, text_layer

    load_env()
    written = [*(key for key, _, _ in named), *(entry.key for layer in files for entry in layer.entries)]
    elsewhere = any(says_where(key) for key in written)
    if document is None and not elsewhere:
        raise UsageError(
            "no data were named, and the model lies in no run's folder whose data could be used",
            hint="name the folder or the COCO json of the data",
        )
    layers = [mapping_layer({**UNUSED, **_any_model(host)}, "file")]
    if document is not None:
        layers.append(saved_layer(document, ["model.type"] if elsewhere else ["model.type", "data."]))
    return resolve(host, [*layers, *files, text_layer(named)])


def _any_model(host: PluginHost) -> dict[str, str]:
    """A configuration names a model; which one does not matter for reading data."""
    from detloom.specs import ModelSpec

    specs = host.specs(ModelSpec)
    return {"model.type": host.qualified(specs[0])} if specs else {}


def read_dataset(config: ResolvedConfig, host: PluginHost, *, as_trained: bool, model: Path | None = None) -> Dataset:
    """as_trained: divided as for the training; else the splits that the data themselves have. model: of the run whose
    data these are: what was fetched for it is used again, and its relative paths begin where it was started."""
    from detloom.data.before import data_of_run
    from detloom.data.load import load_dataset
    from detloom.progress import Reading

    before = None if model is None else data_of_run(model, config)
    with Reading("reading the data") as reading:
        dataset = load_dataset(config, host, progress=reading.update, for_training=as_trained, before=before)
    for finding in dataset.findings:
        if finding.severity == "warning":
            count = f" (x{finding.count})" if finding.count > 1 else ""
            console.warning(f"{finding.code}{count}: {finding.message}")
    if not any(len(split) for split in dataset.splits.values()):
        raise DataError(f"{dataset.name} holds no images", hint="give data with annotated images")
    return dataset
