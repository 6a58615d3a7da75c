"""The source: a bucket's prefix as data."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from detloom.archives import archive_stem
from detloom.data.records import DataTree, SourcePlan
from detloom.errors import DetloomError
from detloom.transfer import ChangedError, Deadline, cached_folder
from detloom_integrations.s3.access import access_of
from detloom_integrations.s3.client import Bucket
from detloom_integrations.s3.fetching import Fetch, fetched_root, store_name
from detloom_integrations.s3.listing import Placed, place, revision_of

if TYPE_CHECKING:
    from detloom.specs import FetchContext
    from detloom_schemas.data_config import MinIODataSource

LISTING_S = 600.0
"""Seconds that a listing may take: about a million objects of a slow server."""


class S3Source:
    """Nothing is asked before `plan` or `fetch`."""

    def __init__(self, settings: MinIODataSource) -> None:
        self._settings = settings
        self._placed: dict[str, list[Placed]] = {}

    def plan(self) -> SourcePlan:
        """Lists; downloads nothing. Raises UsageError, DataError, UnreachableError."""
        access = access_of(self._settings)
        bucket = Bucket(access)
        try:
            return self._plan(bucket, Deadline(LISTING_S))
        finally:
            bucket.close()

    def fetch(self, plan: SourcePlan, dest: Path, context: FetchContext) -> DataTree:
        """Into `dest`. Asks no server when `dest` is there and unchanged. Raises ChangedError when the bucket holds
        something else than what was planned."""
        root = fetched_root(dest) if dest.is_dir() else None
        if root is None:
            self._fetch(plan, dest, context)
            root = fetched_root(dest)
        if root is None:
            raise DetloomError(f"{dest} was changed while it was written", hint="run the command again")
        return DataTree(root, name=_name(plan.identity))

    def _plan(self, bucket: Bucket, deadline: Deadline) -> SourcePlan:
        access = bucket.access
        placed = place(
            bucket.objects(deadline), access.prefix, unpack=self._settings.unpack, label=access.identity.rstrip("/")
        )
        revision = revision_of(placed)
        self._placed[revision] = placed
        return SourcePlan(access.identity, revision, len(placed), sum(one.stored.size for one in placed))

    def _fetch(self, plan: SourcePlan, dest: Path, context: FetchContext) -> None:
        access, deadline = access_of(self._settings), Deadline.of(context)
        bucket = Bucket(access, connections=self._settings.downloads)
        try:
            placed = self._listed(plan, bucket, deadline)
            store = dest.parent / "objects" / store_name(access.identity)
            fetch = Fetch(bucket, store, self._settings.downloads, deadline, context.progress)
            cached_folder(
                dest,
                lambda folder: fetch.fill(folder, placed),
                deadline=deadline,
                is_whole=lambda folder: fetched_root(folder) is not None,
            )
        finally:
            bucket.close()

    def _listed(self, plan: SourcePlan, bucket: Bucket, deadline: Deadline) -> list[Placed]:
        if plan.revision not in self._placed:
            now = self._plan(bucket, deadline)
            if (now.identity, now.revision) != (plan.identity, plan.revision):
                raise ChangedError(
                    f"{plan.identity} does not hold any more what was planned (revision {plan.revision})",
                    hint=f"plan again: it now holds revision {now.revision}",
                )
        return self._placed[plan.revision]


def _name(identity: str) -> str:
    """What people call the data: the last part of the prefix, or the bucket."""
    return archive_stem(identity.rstrip("/").rpartition("/")[2])
