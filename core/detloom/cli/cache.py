"""`detloom cache`: what is kept, how large it is and when it was used; `detloom cache clear` takes it away."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from detloom.cli import console
from detloom.errors import UsageError

if TYPE_CHECKING:
    from detloom.data.cache_use import Entry

USUAL = ("sources", "pixels")
"""What is cleared where no kind is named: data that the next run fetches or decodes again."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "action", nargs="?", default="list", choices=["list", "clear"], help="list: what is there (default)"
    )
    parser.add_argument(
        "--kind",
        nargs="+",
        choices=["sources", "pixels", "weights", "facts"],
        help="sources: fetched data; pixels: decoded images; weights: official files; facts: what is known of images; "
        "clear without it: sources and pixels",
    )
    parser.add_argument("--all", action="store_true", help="clear: everything of these kinds")
    parser.add_argument("--older-than", type=_amount, metavar="DAYS", help="clear: what was not used for so long")
    parser.add_argument("--keep", type=_amount, metavar="GB", help="clear: the longest unused, until so much is left")
    parser.add_argument("--dry-run", action="store_true", help="clear: only say what would go")
    parser.add_argument("--json", action="store_true", help="for programs")


def _amount(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number") from None
    if not 0 <= value < float("inf"):
        raise argparse.ArgumentTypeError(f"{text} is not 0 or more")
    return value


def run(args: argparse.Namespace) -> int:
    from detloom.data.cache_use import entries
    from detloom.files import cache_dir

    chosen = (args.all, args.older_than is not None, args.keep is not None)
    if args.action == "list" and (any(chosen) or args.dry_run):
        raise UsageError("--all, --older-than, --keep and --dry-run belong to `clear`", hint="detloom cache clear ...")
    if args.action == "clear" and sum(chosen) == 0:
        raise UsageError(
            "detloom cache clear does not say what",
            hint="give --older-than DAYS, --keep GB or --all; --dry-run shows it",
        )
    kinds = args.kind or (USUAL if args.action == "clear" else None)
    found = [entry for entry in entries(cache_dir()) if kinds is None or entry.kind in kinds]
    if args.action == "list":
        _show(args, found)
    else:
        _clear(args, found)
    return 0


def _show(args: argparse.Namespace, found: list[Entry]) -> None:
    from detloom.files import cache_dir

    if args.json:
        rows = [_row(entry) for entry in found]
        console.write_json({"folder": str(cache_dir()), "bytes": sum(entry.bytes for entry in found), "entries": rows})
        return
    console.write(f"{cache_dir()}: {_gigabytes(sum(entry.bytes for entry in found))}")
    if found:
        console.write(_table(found))


def _clear(args: argparse.Namespace, found: list[Entry]) -> None:
    from detloom.data.cache_use import clear

    wanted = _wanted(args, found)
    gone = [entry for entry in wanted if not entry.busy and (args.dry_run or clear(entry))]
    kept = [entry for entry in wanted if entry not in gone]
    if args.json:
        console.write_json(
            {
                "dry_run": args.dry_run,
                "bytes": sum(entry.bytes for entry in gone),
                "cleared": [_row(entry) for entry in gone],
                "in_use": [_row(entry) for entry in kept],
            }
        )
        return
    if gone:
        console.write(_table(gone))
    verb = "would be cleared" if args.dry_run else "cleared"
    console.write(f"{verb}: {len(gone)} entries, {_gigabytes(sum(entry.bytes for entry in gone))}")
    for entry in kept:
        console.write(f"in use, and kept: {entry.label}")


def _wanted(args: argparse.Namespace, found: list[Entry]) -> list[Entry]:
    """found: longest unused first."""
    old = [entry for entry in found if args.older_than is None or entry.days >= args.older_than]
    if args.keep is not None:
        left, over = sum(entry.bytes for entry in found), []
        for entry in old:
            if left > args.keep * 1e9:
                over.append(entry)
                left -= entry.bytes
        old = over
    return old


def _table(found: list[Entry]) -> str:
    rows = [
        (entry.kind, _gigabytes(entry.bytes), f"{entry.days:.0f} days ago", "in use" if entry.busy else "", entry.label)
        for entry in found
    ]
    return console.table(("kind", "size", "used", "", "what"), rows)


def _row(entry: Entry) -> dict[str, object]:
    return {
        "kind": entry.kind,
        "label": entry.label,
        "path": str(entry.path),
        "bytes": entry.bytes,
        "days_unused": round(entry.days, 3),
        "in_use": entry.busy,
    }


def _gigabytes(size: int) -> str:
    return f"{size / 1e9:.2f} GB" if size >= 1e7 else f"{size / 1e6:.2f} MB"
