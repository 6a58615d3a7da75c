"""`detloom plugins list`."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from detloom.cli import console

if TYPE_CHECKING:
    from detloom.host import PluginInfo


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("action", nargs="?", default="list", choices=["list"], help="list: all plugins (default)")
    parser.add_argument("--json", action="store_true", help="for programs")


def run(args: argparse.Namespace) -> int:
    from detloom.host import discover

    host = discover()
    if args.json:
        console.write_json([_as_json(info) for info in host.plugins])
        return 0

    rows = [
        (info.name, info.status, f"{info.distribution} {info.version}", info.reason or _provided(info))
        for info in host.plugins
    ]
    console.write(console.table(("plugin", "status", "from", "provides, or why not"), rows))
    return 0


def _provided(info: PluginInfo) -> str:
    from detloom.host import OBSERVERS

    parts = [f"{kind}: {', '.join(names)}" for kind, names in info.provides.items()]
    watched = [name for name in OBSERVERS if f"detloom_{name}" in info.hooks]
    return "; ".join([*parts, *([f"observes: {', '.join(watched)}"] if watched else [])])


def _as_json(info: PluginInfo) -> dict[str, object]:
    return {
        "name": info.name,
        "status": info.status,
        "reason": info.reason,
        "distribution": info.distribution,
        "version": info.version,
        "origin": info.origin,
        "provides": {kind: list(names) for kind, names in info.provides.items()},
        "hooks": list(info.hooks),
    }
