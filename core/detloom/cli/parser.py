"""An argument parser whose mistakes are UsageErrors with a suggestion."""

from __future__ import annotations

import argparse
import os
import re
import sys
from collections.abc import Sequence
from typing import Any, NoReturn

from detloom.errors import UsageError


class _Formatter(argparse.RawDescriptionHelpFormatter):
    """Knows its width beforehand: argparse would import shutil, and with it four compressors, to ask for it."""

    def __init__(self, prog: str) -> None:
        try:
            columns = int(os.environ.get("COLUMNS") or 0) or os.get_terminal_size(sys.stdout.fileno()).columns
        except (ValueError, OSError):
            columns = 80
        super().__init__(prog, width=columns - 2)


class Parser(argparse.ArgumentParser):
    """Never exits and never abbreviates: `--epoch` is a mistake, not `--epochs`."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        kwargs.setdefault("allow_abbrev", False)
        kwargs.setdefault("formatter_class", _Formatter)
        super().__init__(*args, **kwargs)

    def error(self, message: str) -> NoReturn:
        raise UsageError(self._plain(message), hint=f"see: {self.prog} --help")

    def parse(self, arguments: Sequence[str]) -> argparse.Namespace:
        """Like parse_args, with a suggestion for an unknown flag."""
        known, unknown = self.parse_known_args(arguments)
        data = getattr(known, "data", None)
        if isinstance(data, list) and unknown and not any(word.startswith("-") for word in unknown):
            # argparse takes only the first of several groups: `check A --json B`.
            known.data, unknown = [*data, *unknown], []
        if unknown:
            raise UsageError(f"{self.prog}: unknown argument {unknown[0]}", hint=self._advice(unknown[0]))
        return known

    def flags(self) -> list[str]:
        """Every long flag, of sub-parsers too."""
        found: list[str] = []
        for action in self._actions:
            found += [flag for flag in action.option_strings if flag.startswith("--")]
            if isinstance(action, argparse._SubParsersAction):
                for sub in action.choices.values():
                    found += sub.flags() if isinstance(sub, Parser) else []
        return list(dict.fromkeys(found))

    def _advice(self, argument: str) -> str:
        name = argument.partition("=")[0]
        near = _close(name, self.flags())
        if near:
            return f"did you mean {near[0]}?"
        keys = "; any key of the configuration can be written as --section.key VALUE"
        return f"see: {self.prog} --help{keys if '--set' in self.flags() else ''}"

    def _plain(self, message: str) -> str:
        """argparse's sentences, without its `argument command:` prefixes."""
        choice = re.match(r"argument (.+?): invalid choice: '([^']*)' \(choose from (.*)\)", message)
        if choice is not None:
            names = re.findall(r"[\w-]+", choice[3])
            near = _close(choice[2], names)
            meant = f"; did you mean {near[0]}?" if near else ""
            return f"{self.prog}: {choice[2]!r} is none of {', '.join(names)}{meant}"
        return f"{self.prog}: {message.removeprefix('argument ')}"


def _close(word: str, words: Sequence[str]) -> list[str]:
    from difflib import get_close_matches

    return get_close_matches(word, words, n=1, cutoff=0.6)
