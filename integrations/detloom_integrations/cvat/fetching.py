"""One task or job brought here, by the first way that works: whole, job by job, or annotations and frames."""

from __future__ import annotations

import itertools
import logging
import zipfile
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from detloom.archives import ArchiveRefusedError
from detloom.errors import DataError, DetloomError, UnreachableError
from detloom.transfer import ArchiveLimits, Deadline, Meter, TimedOutError, extract, remove_tree
from detloom_integrations.cvat.exporting import (
    CVATHTTPDownloaderV1,
    CVATHTTPDownloaderV2,
    CVATSDKDownloader,
    ExportFailedError,
    OtherWayError,
    Wanted,
)
from detloom_integrations.cvat.frames import fetch_frames
from detloom_integrations.cvat.server import Server
from detloom_integrations.cvat.units import JobPart, Unit

log = logging.getLogger("detloom")

Export = Literal["auto", "task", "jobs", "frames"]
_DAMAGE = (zipfile.BadZipFile, zlib.error, EOFError)
SHARE = 0.5
"""Of the time that is left: what one way may take while there are others to try."""


@dataclass(frozen=True, slots=True)
class Piece:
    """A folder with annotations.xml and images/, as an archive holds them. how: by which way it came."""

    folder: Path
    how: str


class Fetcher:
    """downloader: "auto", "sdk", "http-v2" or "http-v1"; export: as in the settings."""

    def __init__(self, server: Server, meter: Meter, downloader: str, export: Export) -> None:
        self._server, self._meter, self._export = server, meter, export
        present = CVATSDKDownloader if server.channel.name == "cvat-sdk" else CVATHTTPDownloaderV2
        ways: list[type[CVATHTTPDownloaderV2]] = [CVATHTTPDownloaderV1 if downloader == "http-v1" else present]
        if downloader == "auto":
            ways.append(CVATHTTPDownloaderV1)
        self._ways = [way(server, meter) for way in ways]

    def fetch(self, unit: Unit, folder: Path) -> list[Piece]:
        """The pieces of a unit, below `folder`. Raises DataError and UnreachableError."""
        ways = self._chosen(unit)
        for n, (name, way) in enumerate(ways):
            last = n + 1 == len(ways)
            left = self._server.deadline.left()
            deadline = self._server.deadline if last else Deadline(left * SHARE, self._cancelled)
            try:
                return way(unit, folder, deadline)
            except (ExportFailedError, TimedOutError) as failure:
                if last:
                    raise self._told(failure, unit) from None
                self._server.deadline.check()
                text = failure.message if isinstance(failure, DetloomError) else str(failure)
                log.warning("%s; now %s", self._server.clean(f"CVAT: {name} failed: {text}"), ways[n + 1][0])
        raise AssertionError("the last way returns or raises")

    def _cancelled(self) -> bool:
        """The whole fetch may be stopped while one way of it still has time."""
        self._server.deadline.check()
        return False

    def _told(self, failure: Exception, unit: Unit) -> DetloomError:
        if isinstance(failure, TimedOutError):
            return failure
        text = self._server.clean(f"CVAT at {self._server.access.address} could not export {unit.label}: {failure}")
        hint = "try it again"
        if self._export in ("task", "jobs"):
            hint += ", or with data.cvat.export=auto, which goes on with smaller pieces"
        return UnreachableError(text, hint=f"{hint}; the server's log says more")

    def _chosen(self, unit: Unit) -> list[tuple[str, Callable[[Unit, Path, Deadline], list[Piece]]]]:
        by_job = ("each of its jobs alone", self._jobs) if splits(unit.jobs) else None
        everything = [(f"the export of {unit.label} as a whole", self._whole), by_job]
        everything.append(("its annotations, and its frames one by one", self._frames))
        if self._export == "auto":
            return [one for one in everything if one is not None]
        if self._export == "jobs" and by_job is None and unit.kind == "task" and len(unit.jobs) > 1:
            raise DataError(
                f"the jobs of CVAT's {unit.label} share frames, so that they cannot be exported one by one",
                hint="use data.cvat.export=task, frames or auto",
            )
        chosen = {"task": everything[0], "jobs": by_job or everything[0], "frames": everything[2]}[self._export]
        assert chosen is not None
        return [chosen]

    # ---- ways -------------------------------------------------------------------------------------------------

    def _whole(self, unit: Unit, folder: Path, deadline: Deadline) -> list[Piece]:
        place = folder / unit.kind
        how = self._unpacked(Wanted(unit.path, unit.label), place, unit.frames, deadline)
        return [Piece(place, how)]

    def _jobs(self, unit: Unit, folder: Path, deadline: Deadline) -> list[Piece]:
        pieces = []
        for job in unit.jobs:
            place = folder / f"job-{job.id}"
            wanted = Wanted(f"/api/jobs/{job.id}", f"job {job.id} of {unit.label}")
            how = self._unpacked(wanted, place, job.last - job.first + 1, deadline)
            pieces.append(Piece(place, f"{how}, job {job.id}"))
        return pieces

    def _frames(self, unit: Unit, folder: Path, deadline: Deadline) -> list[Piece]:
        place = folder / "frames"
        wanted = Wanted(unit.path, f"the annotations of {unit.label}", images=False)
        how = self._unpacked(wanted, place, unit.frames, deadline, keep=True)
        fetch_frames(self._server, unit, place, deadline, self._meter)
        return [Piece(place, f"{how}, frame by frame")]

    def _unpacked(self, wanted: Wanted, place: Path, frames: int, deadline: Deadline, *, keep: bool = False) -> str:
        """Fetch an archive and unpack it to `place`; an archive that came damaged is fetched once more.

        keep: pictures that are there stay. Returns the way that the server knew.
        """
        archive = place.with_name(place.name + ".zip")
        limits = ArchiveLimits(members=10 * frames + 1000)
        for again in (True, False):
            how = self._archived(wanted, archive, deadline)
            if not keep:
                remove_tree(place)
            try:
                extract(archive, place, limits=limits, check=deadline.check, name=f"of {wanted.label}")
                break
            except ArchiveRefusedError as fault:
                if not (again and isinstance(fault.__cause__, _DAMAGE)):
                    raise _blamed(fault, self._server) from None
                log.warning(
                    "CVAT: the archive of %s came damaged (%s): it is fetched again", wanted.label, fault.__cause__
                )
            finally:
                archive.unlink(missing_ok=True)
        if not (place / "annotations.xml").is_file():
            raise DataError(f"CVAT's export of {wanted.label} holds no annotations.xml")
        return how

    def _archived(self, wanted: Wanted, archive: Path, deadline: Deadline) -> str:
        """By the first way that the server knows, from then on always."""
        for n, way in enumerate(self._ways):
            try:
                way.archive(wanted, archive, deadline)
            except OtherWayError as error:
                if n + 1 == len(self._ways):
                    server = self._server
                    raise UnreachableError(
                        server.clean(f"CVAT at {server.access.address} does not export in the way asked for: {error}"),
                        hint="let the way be found: data.cvat.downloader=auto",
                    ) from None
                log.info("CVAT exports in the old way (%s)", error)
            else:
                self._ways = [way]
                return f"{type(way).__name__}"
        raise AssertionError("the last way returns or raises")


def splits(jobs: Sequence[JobPart]) -> bool:
    """Whether jobs hold disjoint frames: shapes on a frame of two jobs would come twice."""
    ordered = sorted(jobs, key=lambda job: job.first)
    return len(ordered) > 1 and all(a.last < b.first for a, b in itertools.pairwise(ordered))


def _blamed(fault: ArchiveRefusedError, server: Server) -> ArchiveRefusedError:
    reason = fault.message.removeprefix(f"{fault.code}: ")
    return ArchiveRefusedError(
        fault.code,
        f"CVAT at {server.access.address} sent an archive that cannot be used: {reason}",
        where=f"CVAT at {server.access.address}: {fault.where}",
        hint="export it again in CVAT, or ask its administrator: nothing of it was used",
    )
