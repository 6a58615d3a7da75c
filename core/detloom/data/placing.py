"""Where writers of formats put images: names that clash nowhere, links or copies."""

from __future__ import annotations

import os
import shutil
from collections.abc import Collection, Iterable
from dataclasses import dataclass, field
from pathlib import Path, PureWindowsPath
from typing import TYPE_CHECKING

from detloom.errors import DetloomError

if TYPE_CHECKING:
    from detloom.data.dataset import ImageInfo, Split


@dataclass(slots=True)
class Names:
    """Gives each image a name below one folder.

    by_stem: also `a.jpg` and `a.png` clash, where a label file is found by the name without suffix. flat: no folders
    in names. visible: no part begins with a dot, where files are looked for and hidden ones passed over. without:
    names of folders that would mean something else in this format. renamed: how many names became others.
    """

    by_stem: bool = False
    flat: bool = False
    visible: bool = False
    without: Collection[str] = ()
    renamed: int = 0
    _taken: set[str] = field(default_factory=set)

    def give(self, file_name: str) -> str:
        """A name that is free, without steps upwards; parts joined with `/`."""
        parts = [part for part in PureWindowsPath(file_name).parts if part not in ("..", ".")]
        parts = [part for part in parts[:-1] if part.casefold() not in self.without] + parts[-1:]
        wanted = parts[-1] if self.flat else "/".join(parts)
        if self.visible:
            parts = [f"_{part[1:]}" if part.startswith(".") else part for part in parts]
        folder, last = parts[:-1], Path(parts[-1])
        if self.flat:
            last, folder = Path("_".join(parts)), []
        name, number = last.name, 1
        while self._key([*folder, name]) in self._taken:
            name = f"{last.stem}_{number}{last.suffix}"
            number += 1
        self._taken.add(self._key([*folder, name]))
        given = "/".join([*folder, name])
        self.renamed += given != wanted
        return given

    def _key(self, parts: list[str]) -> str:
        # Some file systems do not tell `A.jpg` from `a.jpg`.
        name = "/".join(parts).casefold()
        return os.path.splitext(name)[0] if self.by_stem else name  # noqa: PTH122


def renamed(images: Iterable[ImageInfo], names: Names) -> int:
    """How many images `names` calls otherwise than they are called."""
    for image in images:
        names.give(image.file_name)
    return names.renamed


def place_images(split: Split, folder: Path, names: Names, copy: bool) -> list[str]:
    """Put every image of a split below `folder`; returns their names there, in order.

    Images become hard links where the file system can, else copies; the source is never changed. Raises DetloomError
    when the place cannot be written.
    """
    given = [names.give(image.file_name) for image in split.images]
    for image, name in zip(split.images, given, strict=True):
        _place(image, folder / name, copy)
    return given


def _place(image: ImageInfo, target: Path, copy: bool) -> None:
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        if target.exists():  # it may be a link to a picture of the source, which must never be written to
            raise DetloomError(f"cannot write {target}: it is there already")
        if not copy:
            try:
                os.link(image.path.resolve(), target)
                return
            except OSError:  # another file system, or one without links
                pass
        shutil.copyfile(image.path, target)
    except OSError as error:
        raise DetloomError(f"cannot write {target}: {error.strerror or error}") from error
