"""The arguments that name data, shared by the commands that only read them."""

from __future__ import annotations

import argparse
import shlex
from typing import TYPE_CHECKING

from detloom.errors import UsageError

if TYPE_CHECKING:
    from detloom.config import ResolvedConfig
    from detloom.data.facts import Progress
    from detloom.host import PluginHost

_KEYS = {
    "data": "data.local.path",
    "images": "data.local.images",
    "train": "data.local.train",
    "val": "data.local.val",
    "test": "data.local.test",
}


def add_data_arguments(parser: argparse.ArgumentParser, *, splits: bool = True) -> None:
    """splits: annotation files may be named one by one."""
    parser.add_argument("data", nargs="?", metavar="DATA", help="folder of the data set, or one COCO json")
    parser.add_argument("--images", metavar="DIR", help="folder of the images, when they are not beside the json")
    if splits:
        for name, split in (("train", "training"), ("val", "validation"), ("test", "test")):
            parser.add_argument(f"--{name}", metavar="FILE", help=f"annotation file of the {split} split")
    parser.add_argument("--config", action="append", default=[], metavar="FILE", help="YAML, JSON or TOML")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="any configuration key")


def resolve_data(
    args: argparse.Namespace, host: PluginHost, more: dict[str, tuple[str, str]] | None = None
) -> ResolvedConfig:
    """The configuration that the arguments mean. more: key to (text, flag). Raises ConfigError, UsageError."""
    from detloom.config import file_layer, resolve, text_layer

    written = [(key, getattr(args, name), f"--{name}") for name, key in _KEYS.items() if getattr(args, name, None)]
    for setting in args.set:
        key, equals, value = setting.partition("=")
        if not equals or not key.strip():
            raise UsageError(f"--set takes KEY=VALUE; found {setting!r}", hint="for example: --set data.split.val=0.1")
        written.append((key.strip(), value, "--set"))
    written += [(key, text, flag) for key, (text, flag) in (more or {}).items()]
    return resolve(host, [*(file_layer(path) for path in args.config), text_layer(written)])


def as_arguments(args: argparse.Namespace) -> str:
    """What was given, as it is typed: for the command to run next."""
    parts = [args.data] if args.data else []
    for name in ("train", "val", "test", "images"):
        value = getattr(args, name, None)
        parts += [f"--{name}", value] if value else []
    for path in args.config:
        parts += ["--config", path]
    for setting in args.set:
        parts += ["--set", setting]
    return shlex.join(parts)


def progress_on_terminal() -> Progress | None:
    """A counter on stderr; nothing where nobody watches."""
    import sys

    if not sys.stderr.isatty():
        return None

    def show(done: int, total: int) -> None:
        if done == total or done % 50 == 0:
            sys.stderr.write(f"\r{done} of {total} images read" + ("\n" if done == total else ""))
            sys.stderr.flush()

    return show
