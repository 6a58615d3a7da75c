"""The JSON of what the server holds, with the fields that the real one (2.42) gives."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from .world import DATE, Job, Project, Task, World

Json = dict[str, Any]
EMPTY_STORAGE = None


class Answers:
    """address: of the server, as the client sees it."""

    def __init__(self, world: World, address: str, user: str) -> None:
        self.world, self.address, self.user = world, address, user

    def about(self) -> Json:
        logo = f"{self.address}/static/logo.svg"
        name = "Computer Vision Annotation Tool"
        return {
            "name": name, "description": "double", "version": self.world.version, "logo_url": logo, "subtitle": "double"
        }  # fmt: skip

    def me(self) -> Json:
        id_ = 1 if self.user == "admin" else 2
        return {
            "url": f"{self.address}/api/users/{id_}", "id": id_, "username": self.user, "first_name": "",
            "last_name": "",
        }  # fmt: skip

    def self_(self) -> Json:
        return {
            **self.me(), "email": f"{self.user}@example.com", "groups": ["admin"], "is_staff": True,
            "is_superuser": True, "is_active": True, "last_login": DATE, "date_joined": DATE,
            "has_analytics_access": True,
        }  # fmt: skip

    def organizations(self) -> list[Json]:
        return [
            {
                "id": n + 1, "slug": slug, "name": slug, "description": "", "created_date": DATE, "updated_date": DATE,
                "contact": {}, "owner": self.me(),
            }
            for n, slug in enumerate(self.world.organizations)
        ]  # fmt: skip

    def formats(self) -> Json:
        found = [
            {"name": name, "ext": "ZIP", "version": name.rpartition(" ")[2], "enabled": True, "dimension": "2d"}
            for name in self.world.formats
        ]
        return {"importers": found, "exporters": found}

    def labels(self, names: Sequence[str], first: int, task: int | None, project: int | None) -> list[Json]:
        owner = {"task_id": task} if project is None else {"project_id": project}
        return [
            {
                "id": first + n, "name": name, "color": "#2080c0", "attributes": [], "type": "any", "sublabels": [],
                "parent_id": None, "has_parent": False, **owner,
            }
            for n, name in enumerate(names)
        ]  # fmt: skip

    def task(self, task: Task) -> Json:
        return {
            "url": f"{self.address}/api/tasks/{task.id}", "id": task.id, "name": task.name,
            "project_id": task.project, "mode": task.mode, "owner": self.me(), "assignee": None, "bug_tracker": "",
            "created_date": DATE, "updated_date": task.updated, "overlap": 0, "segment_size": len(task.frames),
            "status": "annotation", "data_chunk_size": 72, "data_compressed_chunk_type": "imageset",
            "guide_id": None, "data_original_chunk_type": "imageset", "size": len(task.frames), "image_quality": 70,
            "data": task.id, "dimension": task.dimension, "subset": task.subset,
            "organization": self._organization(task),
            "target_storage": EMPTY_STORAGE, "source_storage": EMPTY_STORAGE,
            "jobs": {
                "count": len(task.jobs), "completed": 0, "validation": 0,
                "url": f"{self.address}/api/jobs?task_id={task.id}",
            },
            "labels": {"url": f"{self.address}/api/labels?task_id={task.id}"}, "assignee_updated_date": None,
            "validation_mode": None, "consensus_enabled": False,
        }  # fmt: skip

    def job(self, job: Job) -> Json:
        task = self.world.tasks[job.task]
        return {
            "url": f"{self.address}/api/jobs/{job.id}", "id": job.id, "task_id": task.id,
            "project_id": task.project, "assignee": None, "guide_id": None, "dimension": task.dimension,
            "bug_tracker": "",
            "status": "annotation", "stage": "annotation", "state": "new", "mode": task.mode,
            "frame_count": job.last - job.first + 1, "start_frame": job.first, "stop_frame": job.last,
            "data_chunk_size": 72, "data_compressed_chunk_type": "imageset", "data_original_chunk_type": "imageset",
            "created_date": DATE, "updated_date": job.updated, "issues": {"count": 0, "url": ""},
            "labels": {"url": f"{self.address}/api/labels?job_id={job.id}"}, "type": job.type,
            "organization": self._organization(task), "target_storage": EMPTY_STORAGE,
            "source_storage": EMPTY_STORAGE, "assignee_updated_date": None, "parent_job_id": None,
            "consensus_replicas": 0,
        }  # fmt: skip

    def project(self, project: Project) -> Json:
        tasks = [task for task in self.world.tasks.values() if task.project == project.id]
        return {
            "url": f"{self.address}/api/projects/{project.id}", "id": project.id, "name": project.name,
            "owner": self.me(), "assignee": None, "guide_id": None, "bug_tracker": "",
            "task_subsets": sorted({task.subset for task in tasks if task.subset}), "created_date": DATE,
            "updated_date": DATE, "status": "annotation", "dimension": "2d", "organization": None,
            "target_storage": EMPTY_STORAGE, "source_storage": EMPTY_STORAGE,
            "tasks": {"count": len(tasks), "url": f"{self.address}/api/tasks?project_id={project.id}"},
            "labels": {"url": f"{self.address}/api/labels?project_id={project.id}"}, "assignee_updated_date": None,
        }  # fmt: skip

    def meta(self, task: Task, frames: range, within: str) -> Json:
        """within: "tasks" or "jobs"."""
        video = task.mode == "interpolation"
        chosen = task.frames[:1] if video else [task.frames[number] for number in frames]
        names = ["film.mp4"] if video else [frame.name for frame in chosen]
        return {
            "chunks_updated_date": DATE, "chunk_size": 72, "size": len(frames), "image_quality": 70,
            "start_frame": task.number_in_source(frames.start if within == "jobs" else 0),
            "stop_frame": task.number_in_source(frames[-1]),
            "frame_filter": f"step={task.step}" if task.step > 1 else "",
            "frames": [
                {
                    "width": frame.width, "height": frame.height, "name": name, "related_files": 0,
                    "has_related_context": False,
                }
                for frame, name in zip(chosen, names, strict=True)
            ],
            "deleted_frames": [number for number in task.deleted if number in frames], "included_frames": None,
        }  # fmt: skip

    def annotations(self, task: Task) -> Json:
        ids = {name: task.id * 100 + n for n, name in enumerate(task.labels)}
        shapes = [
            {
                "id": n + 1, "label_id": ids[shape.label], "type": shape.type, "frame": shape.frame,
                "group": shape.group, "source": "manual", "occluded": shape.occluded, "outside": False,
                "z_order": shape.z_order, "rotation": shape.rotation, "points": [float(v) for v in shape.points],
                "attributes": [], "elements": [],
            }
            for n, shape in enumerate(task.shapes)
        ]  # fmt: skip
        return {"version": 0, "tags": [], "tracks": [], "shapes": shapes}

    def _organization(self, task: Task) -> int | None:
        return None if task.organization is None else self.world.organizations.index(task.organization) + 1
