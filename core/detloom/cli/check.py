"""`detloom check DATA`: every finding, what is in the data, and what to do next."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from detloom.cli import console
from detloom.cli.check_output import as_json, as_text, fixed_text
from detloom.cli.data_arguments import add_data_arguments, as_arguments, resolve_data
from detloom.cli.data_options import add_file_arguments
from detloom.errors import UsageError
from detloom.progress import Reading

if TYPE_CHECKING:
    from detloom.data.findings import Mark
    from detloom.data.load import CheckReport
    from detloom.host import PluginHost

REFUSED = 3


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_data_arguments(parser, several=True)
    add_file_arguments(parser)
    parser.add_argument(
        "--allow", nargs="+", default=[], metavar="CODE", help="errors that do not count; what they name is left out"
    )
    parser.add_argument(
        "--policy",
        choices=("strict", "repair", "lenient"),
        help="strict: what would be mended or dropped is refused; repair (default): errors are; lenient: single images "
        "and objects with errors are left out",
    )
    parser.add_argument("--strict", action="store_true", help="the same as --policy strict")
    parser.add_argument(
        "--fix", metavar="OUT", help="write a corrected copy (COCO) and a list of changes into this new folder"
    )
    parser.add_argument("--copy", action="store_true", help="with --fix: copy images instead of linking them")
    parser.add_argument("--html", metavar="PAGE", help="write a page with pictures of what was found")
    parser.add_argument("--json", action="store_true", help="for programs")


def run(args: argparse.Namespace) -> int:
    """0: fit for training, or a corrected copy was written; 3: refused."""
    from detloom.data.load import check
    from detloom.host import discover

    host = discover()
    if args.fix:
        return _fix(args, host)
    marks: list[Mark] | None = [] if args.html else None
    config = resolve_data(args, host, _settings(args))
    with Reading("reading the data") as reading:
        report = check(config, host, progress=reading.update, marks=marks)
    if marks is not None:
        _write_page(args.html, report, marks)
    command = _next_command(report, args)
    if args.json:
        console.write_json(as_json(report, command))
    else:
        console.write(as_text(report, command))
        if args.html:
            console.write(f"\npictures: {args.html}")
    return REFUSED if report.refused else 0


def _settings(args: argparse.Namespace) -> dict[str, tuple[str, str]]:
    """Configuration key to (text, flag)."""
    if args.strict and args.policy not in (None, "strict"):
        raise UsageError(f"--strict and --policy {args.policy} contradict each other", hint="give one of them")
    if args.copy and not args.fix:
        raise UsageError("--copy says how --fix writes images", hint="add --fix OUT")
    more = {"data.allow": ("[" + ", ".join(args.allow) + "]", "--allow")} if args.allow else {}
    policy = "strict" if args.strict else args.policy
    return {**more, "data.policy": (policy, "--policy")} if policy else more


def _fix(args: argparse.Namespace, host: PluginHost) -> int:
    """A copy without whatever single images and objects are at fault; what concerns whole files cannot be mended."""
    from detloom.cli.data_output import refuse_nested, refuse_used, write_whole, writer_of
    from detloom.data.fixing import FixedCopy, fixed, remaining
    from detloom.data.load import check

    if args.strict or args.policy:
        raise UsageError("--fix mends and leaves out whatever it can: it takes no policy", hint="leave --policy away")
    out = Path(args.fix).expanduser()
    refuse_used(out)
    marks: list[Mark] = []
    everything = {"data.policy": ("lenient", "--fix"), "data.max_left_out": ("1", "--fix")}
    config = resolve_data(args, host, {**_settings(args), **everything})
    refuse_nested(out, config)
    with Reading("reading the data") as reading:
        report = check(config, host, progress=reading.update, for_training=False, marks=marks)
    if args.html:
        _write_page(args.html, report, marks)
    if report.refused or report.dataset is None:
        if args.json:
            console.write_json(as_json(report, ""))
        else:
            console.write(as_text(report, ""))
        return REFUSED
    dataset, changes = fixed(report.dataset, report.findings, marks)
    left = remaining(report.findings)
    write_whole(dataset, FixedCopy(writer_of(host, "coco", "--fix"), changes, left), out, args.copy)
    if args.json:
        console.write_json(as_json(report, f"detloom check {out}", (out, changes, left)))
    else:
        console.write(fixed_text(report, out, changes, left))
    return 0


def _write_page(page: str, report: CheckReport, marks: list[Mark]) -> None:
    from detloom.data.pages import write_page

    write_page(Path(page).expanduser(), report.name, report.findings, report.refused, marks, report.dataset)


def _next_command(report: CheckReport, args: argparse.Namespace) -> str:
    """The training that fits the data; empty when nothing can be trained on."""
    if report.inspection is None:
        return ""
    advice = report.inspection.recommendation
    height, width = advice.resolution
    size = str(height) if height == width else f"{height}x{width}"
    parts = ["detloom train", as_arguments(args), f"--model {advice.model}", f"--resolution {size}"]
    typed = {setting.partition("=")[0].strip() for setting in args.set}
    parts += [f"--set {key}={value}" for key, value in advice.settings.items() if key not in typed]
    if args.allow:
        parts.append(f"--set 'data.allow=[{', '.join(args.allow)}]'")
    if args.strict or args.policy:
        parts.append(f"--set data.policy={'strict' if args.strict else args.policy}")
    return " ".join(part for part in parts if part)
