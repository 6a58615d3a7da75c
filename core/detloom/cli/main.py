"""`detloom COMMAND ...`: finds the command, and turns every failure into a message and an exit code.

A command's module is imported only when that command is called, so that `--help` stays light.
"""

from __future__ import annotations

import contextlib
import importlib
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING

import detloom
from detloom.cli import console
from detloom.errors import DetloomError, UsageError

if TYPE_CHECKING:
    import argparse

    from detloom.specs import CommandSpec

COMMANDS = {
    "train": "train, evaluate, export and report: data in, one folder with everything out",
    "check": "look for mistakes in a data set, without training",
    "plan": "steps, parameters and memory of a training before it is started, and the batch that fits",
    "split": "divide a data set into train, val and test",
    "convert": "write a data set in another format, and say what it cannot carry",
    "evaluate": "the 12 COCO numbers of a run or an exported file on a data set",
    "predict": "detect objects in images with a run or an exported file",
    "export": "write a deployable file and prove that it equals the checkpoint",
    "cache": "what is kept of fetched data and decoded images, and clearing it",
    "plugins": "list the plugins that are here, and why some were left out",
    "config": "show, explain and describe the configuration",
}
"""Command to summary; the module is `detloom.cli.<command>`."""

INTERRUPTED = 130
BLOCK_VARIABLE = "DETLOOM_BLOCK_PLUGINS"


class _Command:
    """What is needed to call a command. prepare: rewrites its arguments before they are parsed."""

    def __init__(
        self,
        summary: str,
        add_arguments: Callable[[argparse.ArgumentParser], None],
        run: Callable[[argparse.Namespace], int],
        prepare: Callable[[list[str]], list[str]] = list,
    ) -> None:
        self.summary = summary
        self.add_arguments = add_arguments
        self.run = run
        self.prepare = prepare


def main(argv: Sequence[str] | None = None, prog: str = "detloom") -> int:
    """Run one command line; returns the exit code. argv: without the program's name."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    debug = "--debug" in arguments
    try:
        code = _dispatch(*_global_options(arguments), prog)
        sys.stdout.flush()  # a closed pipe must be noticed here, not while the interpreter shuts down
        return code
    except DetloomError as error:
        if debug:
            console.print_traceback()
        console.print_error(error)
        return error.exit_code
    except SystemExit as stop:  # --help of a command, or a plugin's command that ends by itself
        return stop.code if isinstance(stop.code, int) else int(stop.code is not None)
    except KeyboardInterrupt:
        console.error("interrupted")
        return INTERRUPTED
    except BrokenPipeError:
        # Whoever read our output has gone. Python would complain once more when it flushes at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except Exception as error:  # the last line of defence: no traceback unless asked for
        if debug:
            console.print_traceback()
        console.print_unexpected(error)
        return 1


def _dispatch(rest: list[str], blocked: list[str], prog: str) -> int:
    with _blocked(blocked):
        name = rest[0] if rest else "train" if _started_by_an_agent() else "--help"
        if name in ("-h", "--help", "help"):
            console.write(_help())
            return 0
        if name == "--version":
            console.write(f"detloom {detloom.__version__}")
            return 0
        from detloom.cli.parser import Parser

        command = _find(name)
        parser = Parser(prog=prog if prog != "detloom" else f"detloom {name}", description=command.summary)
        parser.epilog = "also: --debug (traceback of a failure), --block-plugin PATTERN (leave plugins out)"
        command.add_arguments(parser)
        arguments = parser.parse(command.prepare(rest[1:]))
        arguments.argv = rest[1:]  # as typed: a run keeps how it was started
        if name == "plugins":
            return command.run(arguments)
        with console.warnings_shown():
            return command.run(arguments)


def _global_options(arguments: list[str]) -> tuple[list[str], list[str]]:
    """Take --debug and --block-plugin out of the arguments: the rest, and the patterns of plugins to block."""
    rest: list[str] = []
    blocked: list[str] = []
    remaining = iter(arguments)
    for argument in remaining:
        if argument == "--":
            rest += [argument, *remaining]
        elif argument == "--block-plugin":
            pattern = next(remaining, None)
            if pattern is None:
                raise UsageError("--block-plugin needs a pattern", hint="for example: --block-plugin 'loggers.*'")
            blocked.append(pattern)
        elif argument.startswith("--block-plugin="):
            blocked.append(argument.partition("=")[2])
        elif argument != "--debug":
            rest.append(argument)
    return rest, blocked


def _find(name: str) -> _Command:
    """The command of this name: ours, or a plugin's."""
    if name in COMMANDS:
        module = importlib.import_module(f"detloom.cli.{name}")
        return _Command(COMMANDS[name], module.add_arguments, module.run, getattr(module, "prepare", list))
    if name.startswith("-"):
        raise UsageError(f"a command must come first; found {name}", hint=f"commands: {', '.join(COMMANDS)}")
    specs = _plugin_commands()
    for spec_name, spec in specs.items():
        if spec_name == name:
            return _Command(spec.summary, spec.add_arguments, spec.run)
    names = [*COMMANDS, *specs]
    from difflib import get_close_matches

    near = get_close_matches(name, names, n=1, cutoff=0.6)
    hint = f"did you mean {near[0]}?" if near else f"commands: {', '.join(names)}"
    raise UsageError(f"there is no command {name!r}", hint=hint)


def _started_by_an_agent() -> bool:
    """An agent starts `python -m detloom` without an argument: its tracker knows what to do."""
    from detloom.host import discover
    from detloom.tracking import claiming

    return bool(claiming(discover(kinds=["loggers"])))


def _plugin_commands() -> dict[str, CommandSpec]:
    from detloom.host import discover
    from detloom.specs import CommandSpec

    host = discover(kinds=["commands"])  # models and the rest have no commands; `--help` need not load them
    named: dict[str, CommandSpec] = {}
    for spec in host.specs(CommandSpec):
        # Our own commands keep their names; a clash among plugins must be called `plugin:name`.
        clash = spec.name in named or spec.name in COMMANDS
        named[host.qualified(spec) if clash else spec.name] = spec
    return named


def _help() -> str:
    rows = [*COMMANDS.items(), *((name, spec.summary) for name, spec in _plugin_commands().items())]
    width = max(len(name) for name, _ in rows)
    lines = [f"  {name:<{width}}  {summary}" for name, summary in rows]
    return "\n".join(
        [
            "usage: detloom COMMAND ...",
            "",
            "Fine-tune object detectors: tracked, resumable, extensible, exported with proof.",
            "",
            *lines,
            "",
            "  detloom COMMAND --help    the options of a command",
            "  --debug                   show the traceback of a failure",
            "  --block-plugin PATTERN    leave plugins out, for example 'loggers.*'",
            "  --version",
        ]
    )


@contextlib.contextmanager
def _blocked(patterns: list[str]) -> Iterator[None]:
    """Patterns go through the environment, so that worker processes leave out the same plugins."""
    before = os.environ.get(BLOCK_VARIABLE)
    if patterns:
        os.environ[BLOCK_VARIABLE] = ",".join([*([before] if before else []), *patterns])
    try:
        yield
    finally:
        if patterns:
            os.environ.pop(BLOCK_VARIABLE)
            if before is not None:
                os.environ[BLOCK_VARIABLE] = before
