"""`detloom train`, and `python run_training.py`."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from detloom.cli.options import add_run_arguments, rewrite_keys, run_layers

if TYPE_CHECKING:
    from detloom.config import Layer
    from detloom.host import PluginHost

prepare = rewrite_keys


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_run_arguments(parser)
    parser.add_argument(
        "--resume",
        nargs="?",
        const="auto",
        metavar="RUN",
        help="go on with the run in this folder; without a folder: the newest unfinished one in the output folder",
    )


def run(args: argparse.Namespace) -> int:
    """Read everything that was written, refuse all mistakes at once, and hand over to the run."""
    from detloom.config import load_env, resolve
    from detloom.host import discover

    load_env()
    host = discover()
    layers = run_layers(args, host)
    if args.resume is not None:
        from detloom.run import resume_run

        return resume_run(args.resume, layers, host, argv=args.argv)
    resolved = resolve(host, _with_data_demanded(layers, host))

    from detloom.run import train_run

    return train_run(resolved, host, argv=args.argv)


def _says_where(key: str) -> bool:
    """True for `data.source` and the settings of sources such as `data.local.path`."""
    section = key.rpartition(".")[0]
    return key == "data.source" or (section.startswith("data.") and section != "data.split")


def _with_data_demanded(layers: list[Layer], host: PluginHost) -> list[Layer]:
    """No run without data: one more mistake when nobody named any, unless an agent's tracker brings them."""
    from dataclasses import replace

    from detloom.errors import Mistake
    from detloom.tracking import claiming

    named = any(_says_where(entry.key) for layer in layers for entry in layer.entries)
    refused = any(mistake.key.startswith("data") for layer in layers for mistake in layer.mistakes)
    if named or refused or claiming(host):
        return layers
    hint = "give a folder: detloom train DATA (with train/ valid/ test/, or COCO json files and --images DIR)"
    mistake = Mistake("data", "", "no data were named", hint)
    return [*layers[:-1], replace(layers[-1], mistakes=(*layers[-1].mistakes, mistake))]
