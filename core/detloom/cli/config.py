"""`detloom config show | schema | explain KEY`."""

from __future__ import annotations

import argparse
import json
from typing import TYPE_CHECKING, Any

from detloom.cli import console
from detloom.cli.options import add_run_arguments, rewrite_keys, run_layers

if TYPE_CHECKING:
    from detloom.config import ResolvedConfig

prepare = rewrite_keys


def add_arguments(parser: argparse.ArgumentParser) -> None:
    actions = parser.add_subparsers(dest="action", required=True, metavar="show | schema | explain")
    show = actions.add_parser("show", help="every value and who set it; takes the flags of `detloom train`")
    add_run_arguments(show)
    show.add_argument("--json", action="store_true", help="for programs")
    schema = actions.add_parser("schema", help="JSON schema, with the settings of the chosen plugins")
    add_run_arguments(schema)
    explain = actions.add_parser("explain", help="what a key means, takes, and why it has its value")
    explain.add_argument("key", metavar="KEY", help="such as training.ema_decay")
    add_run_arguments(explain)
    explain.add_argument("--json", action="store_true", help="for programs")


def run(args: argparse.Namespace) -> int:
    from detloom.config import resolve
    from detloom.host import discover

    host = discover()
    resolved = resolve(host, run_layers(args, host))
    if args.action == "show":
        _show(resolved, args.json)
    elif args.action == "schema":
        console.write_json(type(resolved.config).model_json_schema(by_alias=True))
    else:
        _explain(resolved, args.key, args.json)
    return 0


def _show(resolved: ResolvedConfig, as_json: bool) -> None:
    values = resolved.values()
    if as_json:
        origins = {key: str(resolved.origins[key]) for key in values}
        console.write_json({"values": values, "origins": origins, "hash": resolved.hash()})
        return
    rows = [(key, _text(value), str(resolved.origins[key])) for key, value in values.items()]
    console.write(console.table(("key", "value", "set by"), rows))


def _explain(resolved: ResolvedConfig, key: str, as_json: bool) -> None:
    from detloom.config import explain

    info = explain(resolved, key)
    fields: dict[str, Any] = {
        "key": info.key,
        "description": info.description,
        "allowed": info.allowed,
        "default": info.default,
        "recipe": info.recipe,
        "value": info.value,
        "origin": str(info.origin),
        "plugin": info.plugin,
        "note": info.note,
    }
    if as_json:
        console.write(json.dumps(fields, indent=2, ensure_ascii=False, default=str))
        return
    lines = [f"{info.key}: {info.description}", f"  allowed: {info.allowed}", f"  default: {_text(info.default)}"]
    if info.recipe is not None:
        lines.append(f"  recipe:  {_text(info.recipe)}")
    lines.append(f"  now:     {_text(info.value)} ({info.origin})")
    if info.plugin:
        lines.append(f"  plugin:  {info.plugin}")
    if info.note:
        lines.append(f"  {info.note}")
    console.write("\n".join(lines))


def _text(value: Any) -> str:
    return value if isinstance(value, str) and value else json.dumps(value, default=str, ensure_ascii=False)
