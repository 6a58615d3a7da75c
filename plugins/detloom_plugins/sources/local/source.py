"""A folder on this machine: nothing is copied, nothing is changed. An archive is unpacked into the cache."""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from detloom.archives import ArchiveLimits, archive_stem, extract, is_archive, remove_tree, unwrapped
from detloom.data.records import DataTree, SourcePlan
from detloom.errors import DataError
from detloom.transfer import Deadline, cached_folder

if TYPE_CHECKING:
    from detloom.specs import FetchContext
    from detloom_schemas.data_config import LocalDataSource

_SHAPE = (
    "a folder with train/ valid/ test/ or another layout that is known, one json, data.yaml, xml or csv file, or an "
    "archive (zip, tar) of such a folder"
)
_FILES = (".json", ".yaml", ".yml", ".xml", ".csv")
_UNPACKED = "data"


class LocalSource:
    def __init__(self, settings: LocalDataSource) -> None:
        self._settings = settings

    def plan(self) -> SourcePlan:
        """Names, sizes and times of the files make the revision; no file is opened."""
        archive = self._archive()
        if archive is not None:
            state = archive.stat()
            revision = hashlib.sha256(f"{state.st_size}\x1f{state.st_mtime_ns}".encode()).hexdigest()[:16]
            return SourcePlan(str(archive), revision, None, state.st_size)
        tree = self._tree(self._place())
        digest, files, total = hashlib.sha256(), 0, 0
        for folder in dict.fromkeys((tree.root, *tree.images)):
            for path, state in _walk(folder):
                digest.update(f"{path.relative_to(folder)}\x1f{state.st_size}\x1f{state.st_mtime_ns}\n".encode())
                files, total = files + 1, total + state.st_size
        return SourcePlan(str(tree.root), digest.hexdigest()[:16], files, total)

    def fetch(self, plan: SourcePlan, dest: Path, context: FetchContext) -> DataTree:
        """The data stay where they are, and `dest` is not used; but for an archive, which is unpacked there. Raises
        ArchiveRefusedError for one that must not be."""
        archive = self._archive()
        if archive is None:
            return self._tree(self._place())
        deadline = Deadline.of(context)

        def fill(folder: Path) -> None:
            remove_tree(folder / _UNPACKED)
            limits = ArchiveLimits(bytes=shutil.disk_usage(folder).free)
            extract(archive, folder / _UNPACKED, limits=limits, check=deadline.check)

        root = unwrapped(cached_folder(dest, fill, deadline=deadline) / _UNPACKED)
        return replace(self._tree(root), name=archive_stem(archive.name))

    def _archive(self) -> Path | None:
        place = Path(self._settings.path).expanduser()
        return place.absolute() if is_archive(place.name) and place.is_file() else None

    def _place(self) -> Path:
        return Path(self._settings.path or ".").expanduser()

    def _tree(self, place: Path) -> DataTree:
        """place: folder or file. Raises DataError that names what was looked for."""
        named = {
            split: name
            for split, name in (
                ("train", self._settings.train),
                ("val", self._settings.val),
                ("test", self._settings.test),
            )
            if name
        }
        if not self._settings.path and not named:
            raise DataError("no data were given", hint=f"name {_SHAPE}: `detloom train DATA`, or data.local.path")
        if not place.exists():
            raise DataError(f"{place} does not exist", hint=f"expected {_SHAPE}")
        if place.is_file():
            return self._single_file(place, named)
        _refuse_special(place)
        if not any(place.iterdir()):
            raise DataError(f"{place} is an empty folder", hint=f"expected {_SHAPE}")
        annotations = {split: _existing(place, name, f"data.local.{split}") for split, name in named.items()}
        return DataTree(place.absolute(), self._images(place), annotations)

    def _single_file(self, place: Path, named: dict[str, str]) -> DataTree:
        if place.suffix.lower() not in _FILES:
            raise DataError(f"{place} is a {place.suffix or 'nameless'} file", hint=f"expected {_SHAPE}")
        if named:
            raise DataError(
                f"{place} is one file, and --{' --'.join(named)} name others",
                hint="give the folder of the files, or only this file",
            )
        return DataTree(place.absolute().parent, self._images(place.parent), {"all": place.absolute()})

    def _images(self, place: Path) -> tuple[Path, ...]:
        if not self._settings.images:
            return ()
        folder = _existing(place, self._settings.images, "data.local.images")
        if not folder.is_dir():
            raise DataError(f"{folder} is not a folder (data.local.images)", hint="name the folder of the images")
        return (folder,)


def _existing(place: Path, name: str, key: str) -> Path:
    """A file or folder named relative to the data, or else to the current folder."""
    candidates = [place / Path(name).expanduser(), Path(name).expanduser()]
    for candidate in candidates:
        if candidate.exists():
            _refuse_special(candidate)
            return candidate.absolute()
    looked = " and ".join(dict.fromkeys(str(candidate) for candidate in candidates))
    raise DataError(f"{name} does not exist ({key})", hint=f"looked for {looked}")


def _refuse_special(place: Path) -> None:
    """A pipe would be waited for without end, and a device is no data."""
    if not place.is_file() and not place.is_dir():
        raise DataError(f"{place} is neither a folder nor a file but a device or a pipe", hint=f"expected {_SHAPE}")


def _walk(folder: Path) -> Iterator[tuple[Path, os.stat_result]]:
    for path in sorted(folder.rglob("*")):
        try:
            if path.is_file():
                yield path, path.stat()
        except OSError:  # a link that leads nowhere; the check names it
            continue
