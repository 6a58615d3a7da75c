"""`detloom train`, and `python run_training.py`."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from detloom.cli.options import add_run_arguments, rewrite_keys, run_layers
from detloom.cli.source_options import says_where

if TYPE_CHECKING:
    from detloom.config import Layer, ResolvedConfig
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
    parser.add_argument("--queue", metavar="NAME", help="do not train here: put the run into this queue of ClearML")
    parser.add_argument(
        "--paths-exist-remotely",
        action="store_true",
        help="with --queue: the files and folders that are named exist where the run will be executed",
    )


def run(args: argparse.Namespace) -> int:
    """Read everything that was written, refuse all mistakes at once, and hand over to the run."""
    from detloom.config import load_env, resolve
    from detloom.host import discover

    _refuse_combinations(args)
    load_env()
    host = discover()
    layers = run_layers(args, host)
    if args.resume is not None:
        from detloom.run import resume_run

        return resume_run(args.resume, layers, host, argv=args.argv)
    resolved = resolve(host, _with_data_demanded(layers, host))

    if args.queue is not None:
        return _submit(args, resolved, host)

    from detloom.run import train_run

    return train_run(resolved, host, argv=args.argv)


def _refuse_combinations(args: argparse.Namespace) -> None:
    from detloom.errors import UsageError

    if args.queue is not None and args.resume is not None:
        raise UsageError(
            "--queue and --resume do not go together",
            hint="an interrupted run on a queue goes on when its task is enqueued again",
        )
    if args.paths_exist_remotely and args.queue is None:
        raise UsageError("--paths-exist-remotely says something about --queue, which is not given")


def _submit(args: argparse.Namespace, resolved: ResolvedConfig, host: PluginHost) -> int:
    from detloom.cli.console import write
    from detloom.run_folder import command_line
    from detloom.tracking import submit

    command = command_line(list(args.argv))
    write(submit(resolved, host, args.queue, command=command, paths_exist_remotely=args.paths_exist_remotely))
    return 0


def _with_data_demanded(layers: list[Layer], host: PluginHost) -> list[Layer]:
    """No run without data: one more mistake when nobody named any, unless an agent's tracker brings them."""
    from dataclasses import replace

    from detloom.errors import Mistake
    from detloom.tracking import claiming

    named = any(says_where(entry.key) for layer in layers for entry in layer.entries)
    refused = any(mistake.key.startswith("data") for layer in layers for mistake in layer.mistakes)
    if named or refused or claiming(host):
        return layers
    hint = "give a folder: detloom train DATA (with train/ valid/ test/, or COCO json files and --images DIR)"
    mistake = Mistake("data", "", "no data were named", hint)
    return [*layers[:-1], replace(layers[-1], mistakes=(*layers[-1].mistakes, mistake))]
