"""What the server holds, built from a test's description.

A task is described as {"id": 7, "name": "street", "labels": ["car"], "frames": [{"name": "a.jpg"}], "shapes": [...]};
everything else has a default. A frame: name, width, height, seed. A shape: frame, label, type, points, and what CVAT
knows besides. jobs: [[id, first frame, last frame], ...]; one job for all frames when there are none.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

DATE = "2026-01-02T03:04:05.678901Z"


@dataclass(frozen=True)
class Frame:
    name: str
    width: int = 64
    height: int = 48
    seed: int = 0


@dataclass(frozen=True)
class Shape:
    """frame: number in the task. points: as CVAT keeps them (a mask: run lengths, then left, top, right, bottom)."""

    frame: int
    label: str
    points: list[float]
    type: str = "rectangle"
    occluded: bool = False
    rotation: float = 0.0
    z_order: int = 0
    group: int = 0
    attributes: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Job:
    """first, last: frames of the task, both included. updated: when its annotations changed."""

    id: int
    task: int
    first: int
    last: int
    type: str = "annotation"
    updated: str = DATE


@dataclass(frozen=True)
class Task:
    """mode: annotation (images) or interpolation (a video). readers: users that may see it; empty: all.
    deleted: frames taken out. start, step: of a video whose first frames, or most frames, are not used."""

    id: int
    name: str
    labels: list[str]
    frames: list[Frame]
    shapes: list[Shape]
    jobs: list[Job]
    subset: str = ""
    project: int | None = None
    organization: str | None = None
    mode: str = "annotation"
    updated: str = DATE
    readers: tuple[str, ...] = ()
    deleted: tuple[int, ...] = ()
    start: int = 0
    step: int = 1
    dimension: str = "2d"

    def number_in_source(self, frame: int) -> int:
        return self.start + frame * self.step

    def frame_name(self, frame: int) -> str:
        """As annotations name it: frames of a video have no file name of their own."""
        return f"frame_{self.number_in_source(frame):06d}" if self.mode == "interpolation" else self.frames[frame].name

    def file_name(self, frame: int) -> str:
        """As it is called in an archive."""
        return self.frame_name(frame) + (".PNG" if self.mode == "interpolation" else "")


@dataclass(frozen=True)
class Project:
    id: int
    name: str
    labels: list[str]
    organization: str | None = None
    readers: tuple[str, ...] = ()


class World:
    """polls: how often an export is asked for before it is ready, at least. version: of the server. legacy: the server
    knows only the old way of exporting. formats: that it can write."""

    def __init__(self, description: Mapping[str, Any]) -> None:
        self.version = str(description.get("version", "2.80.0"))
        self.legacy = bool(description.get("legacy", False))
        self.polls = int(description.get("polls", 1))
        self.formats = list(description.get("formats", ALL_FORMATS))
        self.organizations = list(description.get("organizations", ["acme"]))
        self.projects = {one["id"]: _project(one) for one in description.get("projects", ())}
        self.tasks = {one["id"]: _task(one) for one in description.get("tasks", ())}
        self.jobs = {job.id: job for task in self.tasks.values() for job in task.jobs}


ALL_FORMATS = (
    "COCO 1.0",
    "COCO Keypoints 1.0",
    "CVAT for images 1.1",
    "CVAT for video 1.1",
    "Datumaro 1.0",
    "LabelMe 3.0",
    "Open Images V6 1.0",
    "PASCAL VOC 1.1",
    "Segmentation mask 1.1",
    "Ultralytics YOLO Detection 1.0",
    "Ultralytics YOLO Segmentation 1.0",
    "YOLO 1.1",
)


def _project(given: Mapping[str, Any]) -> Project:
    return Project(**{**given, "readers": tuple(given.get("readers", ()))})


def _task(given: Mapping[str, Any]) -> Task:
    frames = [Frame(**{"seed": given["id"] * 1000 + n, **one}) for n, one in enumerate(given["frames"])]
    jobs = given.get("jobs") or [[given["id"] * 10, 0, len(frames) - 1]]
    made = {
        "name": f"task {given['id']}",
        **given,
        "frames": frames,
        "shapes": [Shape(**one) for one in given.get("shapes", ())],
        "jobs": [Job(id_, given["id"], first, last, *more) for id_, first, last, *more in jobs],
        "readers": tuple(given.get("readers", ())),
        "deleted": tuple(given.get("deleted", ())),
    }
    return Task(**made)
