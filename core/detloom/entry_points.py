"""Entry points of installed distributions, read without `importlib.metadata`.

That module imports email, sockets and zip files: a quarter of the time of `detloom --help`. The layout is the one of
the PyPA's "Entry points specification" and "Recording installed projects". Whatever is not a plain folder (a zipped
egg, a finder of somebody's own) is left to `importlib.metadata`.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Iterator
from importlib import import_module


class InstalledEntryPoint:
    """value: `module` or `module:attribute`."""

    def __init__(self, name: str, value: str, distribution: str, version: str) -> None:
        self.name = name
        self.value = value
        self.distribution = distribution
        self.version = version

    @property
    def key(self) -> str:
        """The distribution's name as PEP 503 compares it."""
        return _normalised(self.distribution)

    def load(self) -> object:
        """Import the module and take the attribute. Raises whatever the module raises."""
        module, _, attribute = self.value.partition(":")
        loaded: object = import_module(module.strip())
        for part in filter(None, attribute.strip().split(".")):
            loaded = getattr(loaded, part)
        return loaded


def installed_entry_points(group: str) -> list[InstalledEntryPoint]:
    """All entry points of a group. Of two distributions of one name the first on the path counts."""
    folders = [entry or os.curdir for entry in sys.path if os.path.isdir(entry or os.curdir)]  # noqa: PTH112
    zipped = any(os.path.isfile(entry) for entry in sys.path)  # noqa: PTH113
    finders = [finder for finder in sys.meta_path if hasattr(finder, "find_distributions")]
    if zipped or any(getattr(finder, "__name__", "") != "PathFinder" for finder in finders):
        return _by_importlib(group)
    return _by_folder(group, folders)


def _by_folder(group: str, folders: list[str]) -> list[InstalledEntryPoint]:
    found: list[InstalledEntryPoint] = []
    seen: set[str] = set()
    for folder in dict.fromkeys(folders):
        for info, stem in _info_folders(folder):
            # Both kinds of folders escape the name, so that its first dash comes before the version.
            name, _, version = stem.partition("-")
            if _normalised(name) not in seen:
                seen.add(_normalised(name))
                found += _of_distribution(info, (name, version or "?"), group)
    return found


def _info_folders(folder: str) -> Iterator[tuple[str, str]]:
    """Metadata folders (path, name without suffix) directly below a folder of the path, and of an unzipped egg."""
    try:
        names = sorted(os.listdir(folder))  # noqa: PTH208
    except OSError:
        return
    for name in names:
        if name.endswith((".dist-info", ".egg-info")):
            yield f"{folder}/{name}", name.rpartition(".")[0]
    base = os.path.basename(folder)  # noqa: PTH119
    if base.endswith(".egg") and "EGG-INFO" in names:
        yield f"{folder}/EGG-INFO", base.removesuffix(".egg")


def _of_distribution(info: str, stem: tuple[str, str], group: str) -> Iterator[InstalledEntryPoint]:
    """stem: name and version as the folder is called; its metadata know them better."""
    text = _read(f"{info}/entry_points.txt")
    rows = list(_rows(text, group)) if group in text else []
    if not rows:
        return
    headers = _read(f"{info}/METADATA") or _read(f"{info}/PKG-INFO")
    name = re.search(r"^Name:\s*(\S+)", headers, re.MULTILINE)
    version = re.search(r"^Version:\s*(\S+)", headers, re.MULTILINE)
    for key, value in rows:
        yield InstalledEntryPoint(key, value, name[1] if name else stem[0], version[1] if version else stem[1])


def _rows(text: str, group: str) -> Iterator[tuple[str, str]]:
    """Names and values below `[group]`; extras (`module:attribute [extra]`) are dropped."""
    section = ""
    for line in map(str.strip, text.splitlines()):
        if line.startswith("[") and line.endswith("]"):
            section = line[1:-1].strip()
        elif section == group and "=" in line and not line.startswith(("#", ";")):
            name, _, value = line.partition("=")
            yield name.strip(), value.partition("[")[0].strip()


def _read(path: str) -> str:
    try:
        with open(path, encoding="utf-8") as file:  # noqa: PTH123
            return file.read()
    except (OSError, UnicodeDecodeError):
        return ""


def _by_importlib(group: str) -> list[InstalledEntryPoint]:
    from importlib.metadata import entry_points

    return [
        InstalledEntryPoint(
            point.name,
            point.value.partition("[")[0].strip(),
            point.dist.metadata["Name"] if point.dist else "?",
            point.dist.version if point.dist else "?",
        )
        for point in entry_points(group=group)
    ]


def _normalised(name: str) -> str:
    return name.replace("_", "-").replace(".", "-").lower()
