"""A planned listing becomes a folder: objects into a store by content, links into a tree, archives unpacked."""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import os
import shutil
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_EXCEPTION, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from pathlib import Path

from detloom.archives import ArchiveLimits, extract, remove_tree, unwrapped
from detloom.errors import DataError, DetloomError
from detloom.files import write_json
from detloom.transfer import Deadline, Meter, demand_space, download, locked, sync_file
from detloom_integrations.s3.client import Bucket
from detloom_integrations.s3.errors import is_transient
from detloom_integrations.s3.listing import Placed, StoredObject
from detloom_integrations.s3.verify import agrees, hides_content

log = logging.getLogger("detloom")
TREE, RECORD = "data", "fetched.json"


@dataclass(frozen=True, slots=True)
class Fetch:
    """store: objects by content, shared by the revisions of one source; what is there is not downloaded again."""

    bucket: Bucket
    store: Path
    downloads: int
    deadline: Deadline
    progress: Callable[[int, int], None]

    def fill(self, folder: Path, placed: Sequence[Placed]) -> None:
        """The tree and the record of it in `folder`. Raises what the first object that failed raised."""
        tree = folder / TREE
        remove_tree(tree)
        tree.mkdir(parents=True)
        # Until every object has its link: what has none may be cleared.
        with locked(self.store / ".lock", self.deadline):
            files = self._objects(placed)
            for one, file in zip(placed, files, strict=True):
                self.deadline.check()
                if one.folder is None:
                    _link(file, tree / one.path)
                else:
                    self._unpack(one, file, tree / one.folder)
        root = unwrapped(tree) if any(one.folder == "." for one in placed) else tree
        write_json(folder / RECORD, {"root": str(root.relative_to(folder)), "files": _states(tree)})

    def _objects(self, placed: Sequence[Placed]) -> list[Path]:
        sizes = [one.stored.size for one in placed]
        missing = [one.stored.size for one in placed if not (self.store / one.stored.address).is_file()]
        demand_space(self.store, sum(missing))
        meter = Meter(sum(sizes), self.progress)
        pool = ThreadPoolExecutor(self.downloads, thread_name_prefix="s3")
        try:
            work: list[Future[Path]] = [pool.submit(self._object, one.stored, meter) for one in placed]
            done, _ = wait(work, return_when=FIRST_EXCEPTION)
            for future in done:
                future.result()  # raises the fault that ended the waiting
            return [future.result() for future in work]
        except BaseException:
            self.deadline.stop()
            raise
        finally:
            pool.shutdown(wait=True, cancel_futures=True)

    def _object(self, stored: StoredObject, meter: Meter) -> Path:
        """The file of one object, verified whether it was here already or not."""
        file = self.store / stored.address
        if file.is_file() and file.stat().st_size == stored.size and self._is_sound(file, stored):
            meter.add(stored.size)
            return file
        part = file.with_name(f"{file.name}.part")
        for attempt in (1, 2):  # what an interrupted attempt left may be spoiled; then everything comes anew
            self._download(part, stored, meter)
            if self._is_sound(part, stored):
                break
            meter.add(-stored.size)
            part.unlink()
            if attempt == 2:
                raise DataError(
                    f"{stored.key}: the content that comes does not have the md5 that its etag says ({stored.etag})",
                    hint="it is damaged in the storage: upload it again",
                )
        sync_file(part)
        if os.name != "nt":
            part.chmod(0o444)  # the trees of several revisions share it
        part.replace(file)
        return file

    def _download(self, part: Path, stored: StoredObject, meter: Meter) -> None:
        try:
            download(
                part,
                lambda offset: self.bucket.opened(stored, offset),
                stored.size,
                deadline=self.deadline,
                is_transient=is_transient,
                patience=self.bucket.patience,
                meter=meter,
            )
        except OSError as error:
            if error.filename is None:  # a socket
                raise self.bucket.explained(error, stored.key) from None
            raise
        except DetloomError:
            raise
        except Exception as error:
            raise self.bucket.explained(error, stored.key) from None

    def _is_sound(self, file: Path, stored: StoredObject) -> bool:
        def part_size(number: int) -> int:
            with contextlib.suppress(DetloomError):
                return self.bucket.head(stored, number, self.deadline)[0]
            return 0

        verdict = agrees(file, stored.etag, part_size)
        return verdict is not False or hides_content(self.bucket.head(stored, 0, self.deadline)[1])

    def _unpack(self, one: Placed, file: Path, dest: Path) -> None:
        free = shutil.disk_usage(self.store).free
        dest.mkdir(parents=True, exist_ok=True)
        extract(file, dest, limits=ArchiveLimits(bytes=free), check=self.deadline.check, name=one.stored.key)
        inner = dest / dest.name
        if one.folder != "." and inner.is_dir() and len(list(dest.iterdir())) == 1:
            # `train.zip` with everything in a folder `train`: one of the two names is enough.
            aside = dest.with_name(f"{dest.name}.unpacked")
            dest.replace(aside)
            (aside / dest.name).replace(dest)
            aside.rmdir()


def _link(file: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        os.link(file, target)
    except OSError:  # a file system without links, or with too many to one file
        shutil.copyfile(file, target)


def _states(tree: Path) -> list[list[object]]:
    """Path, size and time of every file."""
    states = []
    for path in sorted(tree.rglob("*")):
        if path.is_file():
            state = path.stat()
            states.append([path.relative_to(tree).as_posix(), state.st_size, state.st_mtime_ns])
    return list(states)


def fetched_root(folder: Path) -> Path | None:
    """The root of the data in a folder that was filled; None when a file of it is missing or was changed since."""
    try:
        record = json.loads((folder / RECORD).read_text(encoding="utf-8"))
        for name, size, modified in record["files"]:
            state = (folder / TREE / name).stat()
            if (state.st_size, state.st_mtime_ns) != (size, modified):
                raise ValueError(name)
    except (OSError, ValueError, KeyError, TypeError) as error:
        if folder.is_dir():
            log.warning(
                "the fetched data in %s are not whole any more (%s): they are put together again", folder, error
            )
        return None
    return folder / str(record["root"])


def store_name(identity: str) -> str:
    return hashlib.sha256(identity.encode()).hexdigest()[:16]
