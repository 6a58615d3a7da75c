"""`detloom clearml send`: deliver what runs kept in their folders. `detloom clearml status`: is the server there?"""

from __future__ import annotations

import argparse
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from detloom.errors import DetloomError, UnreachableError, UsageError
from detloom.hookspecs import hookimpl
from detloom.specs import CommandSpec

if TYPE_CHECKING:
    from detloom_integrations.clearml.server import Server

detloom_api = (0, 1)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    actions = parser.add_subparsers(dest="action", required=True, metavar="send | status")
    send = actions.add_parser("send", help="deliver what runs without a server, or an outage, left in their folders")
    send.add_argument("runs", nargs="+", type=Path, metavar="RUN", help="folder of a run")
    send.add_argument("--json", action="store_true", help="for programs")
    status = actions.add_parser("status", help="which server is meant, and whether it takes the credentials")
    status.add_argument("--json", action="store_true", help="for programs")


def run(args: argparse.Namespace) -> int:
    from detloom.config import load_env
    from detloom_integrations.clearml.environment import demand_package

    load_env()
    demand_package("talking to a ClearML server")
    return _send(args.runs, args.json) if args.action == "send" else _status(args.json)


def _send(runs: list[Path], as_json: bool) -> int:
    """The exit code of the worst: 5 when something still waits, 2 for a folder that holds nothing for ClearML."""
    from detloom.cli.console import note, print_error, write, write_json
    from detloom_integrations.clearml.server import Server

    server = Server.open()
    rows, codes = [], [0]
    for folder in runs:
        try:
            row, code = _send_one(folder, server)
        except DetloomError as error:
            row, code = {"run": str(folder), "error": error.message}, error.exit_code
            if not as_json:
                print_error(error)
        else:
            if not as_json:
                write(_sentence(row))
                if code:
                    note(f"  the rest stays in {folder}: run the same command again")
        rows.append(row)
        codes.append(code)
    if as_json:
        write_json(rows)
    return max(codes)


def _send_one(folder: Path, server: Server) -> tuple[dict[str, Any], int]:
    from detloom_integrations.clearml.sending import send_run, sent_task

    if not folder.is_dir():
        raise UsageError(f"there is no folder {folder}", hint="give the folder of a run, such as runs/NAME")
    report = send_run(folder, server)
    row = {
        "run": str(folder),
        "task": sent_task(folder),
        "sent": report.flushed,
        "lost": report.dropped,
        "waiting": report.waiting,
        "error": report.error,
    }
    return row, UnreachableError.exit_code if report.waiting else 0


def _sentence(row: dict[str, Any]) -> str:
    if not (row["sent"] or row["lost"] or row["waiting"]):
        return f"{row['run']}: nothing waits; its task is {row['task']}"
    counts = f"{row['sent']} sent, {row['waiting']} waiting, {row['lost']} lost"
    reason = f" ({row['error']})" if row["error"] else ""
    return f"{row['run']}: {counts}{reason}; its task is {row['task']}"


def _status(as_json: bool) -> int:
    from detloom.cli.console import print_error, table, write, write_json
    from detloom_integrations.clearml.status import server_status

    status = server_status()
    failure = status.failure
    if as_json:
        write_json(status.to_json())
    else:
        credentials = "accepted" if status.accepted else "refused" if status.answers else "not tried"
        rows = [("configured by", status.place or "nothing")]
        if status.api:
            rows += [("API server", f"{status.api} ({'answers' if status.answers else 'does not answer'})")]
            rows += [("web server", status.web or "unknown"), ("file server", status.files or "unknown")]
            rows += [("credentials", credentials)]
        if status.server_version:
            rows += [("version", f"{status.server_version} (API {status.api_version})")]
        write(table(("ClearML", ""), rows))
        if failure is not None:
            print_error(failure)
    return failure.exit_code if failure is not None else 0


@hookimpl
def detloom_commands() -> Iterable[CommandSpec]:
    return [
        CommandSpec(
            name="clearml",
            summary="send what a run kept for ClearML; see whether its server is there",
            add_arguments=add_arguments,
            run=run,
        )
    ]
