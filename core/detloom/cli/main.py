"""`detloom COMMAND ...`: finds the command, and turns every failure into a message and an exit code.

A command's module is imported only when that command is called, so that `--help` stays light.
"""

from __future__ import annotations

import contextlib
import importlib
import logging
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from difflib import get_close_matches
from typing import TYPE_CHECKING

import detloom
from detloom.cli import console
from detloom.cli.parser import Parser
from detloom.errors import DetloomError, UsageError

if TYPE_CHECKING:
    import argparse

    from detloom.specs import CommandSpec

COMMANDS = {
    "train": "train, evaluate, export and report: data in, one folder with everything out",
    "check": "look for mistakes in a data set, without training",
    "split": "divide a data set into train, val and test",
    "evaluate": "the 12 COCO numbers of a run or an exported file on a data set",
    "predict": "detect objects in images with a run or an exported file",
    "export": "write a deployable file and prove that it equals the checkpoint",
    "plugins": "list the plugins that are here, and why some were left out",
    "config": "show, explain and describe the configuration",
}
"""Command to summary; the module is `detloom.cli.<command>`."""

INTERRUPTED = 130
BLOCK_VARIABLE = "DETLOOM_BLOCK_PLUGINS"


@dataclass(slots=True)
class _Command:
    """What is needed to call a command. prepare: rewrites its arguments before they are parsed."""

    summary: str
    add_arguments: Callable[[argparse.ArgumentParser], None]
    run: Callable[[argparse.Namespace], int]
    prepare: Callable[[list[str]], list[str]] = field(default=lambda arguments: arguments)


@dataclass(slots=True)
class _Globals:
    """Options that every command takes, wherever they stand."""

    debug: bool = False
    block: list[str] = field(default_factory=list)
    rest: list[str] = field(default_factory=list)


def main(argv: Sequence[str] | None = None, prog: str = "detloom") -> int:
    """Run one command line; returns the exit code. argv: without the program's name."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    debug = "--debug" in arguments
    try:
        with _warnings_shown():
            code = _dispatch(_global_options(arguments), prog)
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


def _dispatch(options: _Globals, prog: str) -> int:
    name = options.rest[0] if options.rest else "--help"
    with _blocked(options.block):
        if name in ("-h", "--help", "help"):
            console.write(_help())
            return 0
        if name == "--version":
            console.write(f"detloom {detloom.__version__}")
            return 0
        command = _find(name)
        parser = Parser(prog=prog if prog != "detloom" else f"detloom {name}", description=command.summary)
        parser.epilog = "also: --debug (traceback of a failure), --block-plugin PATTERN (leave plugins out)"
        command.add_arguments(parser)
        arguments = parser.parse(command.prepare(options.rest[1:]))
        arguments.argv = options.rest[1:]  # as typed: a run keeps how it was started
        return command.run(arguments)


def _global_options(arguments: list[str]) -> _Globals:
    """Take --debug and --block-plugin out of the arguments; what follows `--` is left alone."""
    options = _Globals()
    remaining = iter(arguments)
    for argument in remaining:
        if argument == "--":
            options.rest += [argument, *remaining]
        elif argument == "--debug":
            options.debug = True
        elif argument == "--block-plugin":
            pattern = next(remaining, None)
            if pattern is None:
                raise UsageError("--block-plugin needs a pattern", hint="for example: --block-plugin 'loggers.*'")
            options.block.append(pattern)
        elif argument.startswith("--block-plugin="):
            options.block.append(argument.partition("=")[2])
        else:
            options.rest.append(argument)
    return options


def _find(name: str) -> _Command:
    """The command of this name: ours, or a plugin's."""
    if name in COMMANDS:
        module = importlib.import_module(f"detloom.cli.{name}")
        command = _Command(COMMANDS[name], module.add_arguments, module.run)
        command.prepare = getattr(module, "prepare", command.prepare)
        return command
    if name.startswith("-"):
        raise UsageError(f"a command must come first; found {name}", hint=f"commands: {', '.join(COMMANDS)}")
    specs = _plugin_commands()
    for spec_name, spec in specs.items():
        if spec_name == name:
            return _Command(spec.summary, spec.add_arguments, spec.run)
    names = [*COMMANDS, *specs]
    near = get_close_matches(name, names, n=1, cutoff=0.6)
    hint = f"did you mean {near[0]}?" if near else f"commands: {', '.join(names)}"
    raise UsageError(f"there is no command {name!r}", hint=hint)


def _plugin_commands() -> dict[str, CommandSpec]:
    from detloom.host import discover
    from detloom.specs import CommandSpec

    host = discover()
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


@contextlib.contextmanager
def _warnings_shown() -> Iterator[None]:
    """Warnings of the package reach the terminal; the rest goes to a run's log."""
    handler = console.WarningHandler()
    logger = logging.getLogger("detloom")
    logger.addHandler(handler)
    propagated, logger.propagate = logger.propagate, False
    try:
        yield
    finally:
        logger.removeHandler(handler)
        logger.propagate = propagated
