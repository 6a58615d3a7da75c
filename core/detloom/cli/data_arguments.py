"""The arguments of the commands that only read data, and the configuration that they mean."""

from __future__ import annotations

import argparse
import shlex
from collections.abc import Mapping
from typing import TYPE_CHECKING

from detloom.cli.data_options import FILES, UNUSED, given_data, named_data
from detloom.cli.source_options import add_source_arguments, sources_as_arguments
from detloom.errors import UsageError

if TYPE_CHECKING:
    from detloom.config import ResolvedConfig
    from detloom.host import PluginHost


def add_data_arguments(parser: argparse.ArgumentParser, *, several: bool = False) -> None:
    """several: more than one DATA may be named; they become one data set."""
    more = "; several become one data set" if several else ""
    nargs = "*" if several else "?"
    parser.add_argument("data", nargs=nargs, metavar="DATA", help=f"folder of the data set, or one COCO json{more}")
    parser.add_argument("--config", action="append", default=[], metavar="FILE", help="YAML, JSON or TOML")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="any configuration key")
    add_source_arguments(parser)


def resolve_data(
    args: argparse.Namespace, host: PluginHost, more: Mapping[str, tuple[str, str]] | None = None
) -> ResolvedConfig:
    """The configuration that the arguments mean. more: key to (text, flag). Raises ConfigError, UsageError."""
    from detloom.config import file_layer, load_env, mapping_layer, resolve, text_layer

    load_env()
    written = named_data(args, host)
    for setting in args.set:
        key, equals, value = setting.partition("=")
        if not equals or not key.strip():
            raise UsageError(f"--set takes KEY=VALUE; found {setting!r}", hint="for example: --set data.split.val=0.1")
        written.append((key.strip(), value, "--set"))
    written += [(key, text, flag) for key, (text, flag) in (more or {}).items()]
    # A file may hold settings of plugins that a training uses; without one none of them is needed.
    layers = [file_layer(path) for path in args.config] or [mapping_layer(UNUSED)]
    return resolve(host, [*layers, text_layer(written)])


def as_arguments(args: argparse.Namespace) -> str:
    """What was given, as it is typed: for the command to run next."""
    parts = given_data(args)
    for flag, _, _ in FILES:
        value = getattr(args, flag.removeprefix("--"), None)
        parts += [flag, value] if value else []
    for path in args.config:
        parts += ["--config", path]
    for setting in args.set:
        parts += ["--set", setting]
    return " ".join(part for part in (shlex.join(parts), sources_as_arguments(args)) if part)
