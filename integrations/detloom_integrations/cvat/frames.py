"""The pictures of a task or job, one request each: for archives that are too big for the server."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

from detloom.errors import DataError, UnreachableError
from detloom.safe_names import NameBook, UnsafeNameError, safe_name
from detloom.transfer import Deadline, Meter, download
from detloom_integrations.cvat.channel import ChannelError
from detloom_integrations.cvat.server import BusyError, RefusedError, Server, is_transient
from detloom_integrations.cvat.units import Unit

THREADS = 4


@dataclass(frozen=True, slots=True)
class Frame:
    """number: the task's own; name: where its picture is put."""

    number: int
    name: str


def fetch_frames(server: Server, unit: Unit, folder: Path, deadline: Deadline, meter: Meter) -> None:
    """The picture of every image that `folder/annotations.xml` names, below `folder/images`. Those that are there from
    an attempt before are kept."""
    frames = _frames(server, unit, folder / "annotations.xml")
    path = f"{unit.path}/data/" if unit.kind == "task" else f"{unit.path}/data"
    with ThreadPoolExecutor(THREADS) as pool:
        waiting = [pool.submit(_fetch, server, path, frame, folder / "images", deadline, meter) for frame in frames]
        try:
            for one in as_completed(waiting):
                one.result()
        except BaseException:  # an interrupt too: those that wait must not begin
            pool.shutdown(wait=True, cancel_futures=True)
            raise


def _frames(server: Server, unit: Unit, annotations: Path) -> list[Frame]:
    meta = server.json(f"{unit.path}/data/meta")
    names = [str(frame.get("name")) for frame in meta.get("frames") or []] if isinstance(meta, dict) else []
    found, book = [], NameBook()
    for image_id, name in image_names(annotations):
        index = _index(unit, meta, names, image_id, name)
        if index is None:
            raise DataError(f"CVAT: {unit.label} has no frame {name!r}, which its annotations name")
        try:
            place = safe_name(f"{name}.png" if unit.video else name)
            book.add(place)
        except UnsafeNameError as error:
            raise DataError(f"CVAT: the frame {name!r} of {unit.label} cannot become a file: {error}") from None
        found.append(Frame(unit.first + index, place))
    return found


def _index(unit: Unit, meta: Any, names: Sequence[str], image_id: int, name: str) -> int | None:
    """Which of the unit's frames it is. Annotations count the frames of the file or list that the task was made of;
    requests count those that the task uses."""
    step = re.search(r"step=(\d+)", str(meta.get("frame_filter") or ""))
    index = (image_id - int(meta.get("start_frame") or 0)) // (int(step[1]) if step else 1)
    if unit.video:
        return index if 0 <= index < unit.frames else None
    if 0 <= index < len(names) and names[index] == name:
        return index
    return names.index(name) if name in names else None


def image_names(annotations: Path) -> Iterator[tuple[int, str]]:
    """(id, name) of each image."""
    for _, element in ElementTree.iterparse(annotations):
        if element.tag == "image":
            yield int(element.get("id", "0")), element.get("name", "")
            element.clear()


def _fetch(server: Server, path: str, frame: Frame, folder: Path, deadline: Deadline, meter: Meter) -> None:
    place = folder / frame.name
    if place.is_file():
        return

    @contextmanager
    def open_at(offset: int) -> Iterator[tuple[int, Iterable[bytes]]]:
        query: dict[str, str | int] = {"type": "frame", "number": frame.number, "quality": "original"}
        with server.open_reply(path, query) as reply:
            if not reply.headers.get("content-type", "").startswith("image/"):
                raise ChannelError("it sends no picture where one was asked for", lasting=True)
            yield 0, server.chunks(reply)

    part = place.with_name(place.name + ".part")
    try:
        download(
            part, open_at, None, deadline=deadline, is_transient=is_transient, patience=server.patience, meter=meter
        )
    except RefusedError as refusal:
        raise server.denied(refusal, f"frame {frame.number} ({frame.name})") from None
    except (ChannelError, BusyError) as error:
        deadline.check()
        raise UnreachableError(
            server.clean(f"CVAT at {server.access.address}: fetching frame {frame.name} failed each time: {error}"),
            hint="start it again: the frames that have arrived are kept",
        ) from None
    part.replace(place)
