"""Wheels of what is installed here, so that another environment can be filled without a network."""

from __future__ import annotations

import csv
import io
import re
import zipfile
from importlib import metadata
from pathlib import Path, PurePosixPath

from packaging.requirements import Requirement


def needed_by(*requirements: str) -> set[str]:
    """The distributions that these need, directly or not, and they themselves; extras are left out."""
    found: set[str] = set()
    waiting = list(requirements)
    while waiting:
        requirement = Requirement(waiting.pop())
        name = _canonical(requirement.name)
        wanted = requirement.marker is None or requirement.marker.evaluate({"extra": ""})
        if wanted and name not in found:
            found.add(name)
            waiting += metadata.requires(name) or []
    return found


def make_wheel(name: str, folder: Path) -> Path:
    """A wheel of an installed distribution. Its commands are made again by pip, from the entry points.

    Raises ValueError for a distribution whose files lie elsewhere, such as an editable one.
    """
    distribution = metadata.distribution(name)
    tags = re.findall(r"^Tag: (\S+)$", distribution.read_text("WHEEL") or "", re.MULTILINE)
    files = [file for file in distribution.files or [] if _belongs(file.as_posix())]
    if not tags or any(file.suffix == ".pth" and "editable" in file.name for file in files):
        raise ValueError(f"{name} is not installed from a wheel, or is editable")
    info = next(PurePosixPath(file).parts[0] for file in files if file.match("*.dist-info/METADATA"))
    target = folder / f"{info.removesuffix('.dist-info')}-{_common_tag(tags)}.whl"
    record = io.StringIO()
    with zipfile.ZipFile(target, "w", zipfile.ZIP_STORED) as wheel:
        for file in files:
            wheel.write(Path(str(distribution.locate_file(file))), file.as_posix())
            csv.writer(record).writerow([file.as_posix(), "", ""])
        csv.writer(record).writerow([f"{info}/RECORD", "", ""])
        wheel.writestr(f"{info}/RECORD", record.getvalue())
    return target


def _canonical(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def _belongs(path: str) -> bool:
    """Not what an installer wrote beside the wheel's own files."""
    written = path.endswith((".pyc", ".dist-info/RECORD", ".dist-info/INSTALLER", ".dist-info/REQUESTED"))
    return not written and not path.startswith(("..", "/"))


def _common_tag(tags: list[str]) -> str:
    """["cp311-cp311-manylinux1", "cp311-cp311-manylinux2"] -> "cp311-cp311-manylinux1.manylinux2"."""
    columns = zip(*(tag.split("-") for tag in tags), strict=True)
    return "-".join(".".join(dict.fromkeys(column)) for column in columns)
