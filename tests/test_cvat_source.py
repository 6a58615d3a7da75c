"""Data from CVAT: what is planned, what arrives, and how several tasks become one data set."""

from __future__ import annotations

import json
import os
import threading
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

from cvat_tools import CVATServer, fetched, pictures_of, source, task
from data_tools import codes
from detloom.config import mapping_layer, resolve
from detloom.data.load import CheckReport, check
from detloom.data.records import SourcePlan
from detloom.errors import DataError, RunInterrupted
from detloom.host import discover
from detloom.specs import FetchContext
from detloom.transfer import AccessError, ChangedError, NotThereError

STREETS = {"projects": [{"id": 5, "name": "streets", "labels": ["car", "dog"]}]}


def checked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, **settings: Any) -> CheckReport:
    """The check of what CVAT holds."""
    monkeypatch.setenv("DETLOOM_CACHE", str(tmp_path / "cache"))
    plugins = discover()
    values = {f"data.cvat.{key}": value for key, value in settings.items()}
    return check(
        resolve(plugins, [mapping_layer({"data.source": "cvat", "export.format": [], **values})]),
        plugins,
        for_training=False,
    )


def images(tree_root: Path) -> list[ElementTree.Element]:
    return ElementTree.parse(tree_root / "annotations.xml").getroot().findall("image")


# ---- planning -----------------------------------------------------------------------------------------------------


def test_a_plan_names_what_it_is_and_downloads_nothing(cvat: CVATServer) -> None:
    cvat.hold(task(1), task(2, names=("c.jpg",)))
    plan = source(task_ids=[1, 2]).plan()
    assert plan.identity == f"{cvat.url}/tasks/1,2"
    assert plan.files == 3
    asked = {request.split()[1].split("?")[0] for request in cvat.requests()}
    assert not [path for path in asked if "dataset" in path or path.endswith("/data/")]


@pytest.mark.parametrize(
    "change",
    [
        {"updated": "2026-03-03T00:00:00Z"},
        {"jobs": [[10, 0, 1, "annotation", "2026-03-03T00:00:00Z"]]},
        {"labels": ["car", "hound"], "shapes": []},
        {"subset": "Train"},
        {"names": ("a.jpg", "b.jpg", "c.jpg")},
    ],
    ids=["task", "job", "label", "subset", "frames"],
)
def test_whatever_changes_in_a_task_changes_the_revision(cvat: CVATServer, change: dict[str, Any]) -> None:
    cvat.hold(task(1), task(2))
    before = source(task_ids=[1, 2]).plan().revision
    assert source(task_ids=[1, 2]).plan().revision == before
    cvat.hold(task(1, **change), task(2))
    assert source(task_ids=[1, 2]).plan().revision != before


def test_the_order_and_repetition_of_numbers_is_kept_and_dropped(cvat: CVATServer) -> None:
    cvat.hold(task(1), task(2))
    plan = source(task_ids=[2, 1, 2]).plan()
    assert plan.identity.endswith("/tasks/2,1") and plan.files == 4


def test_tasks_that_do_not_exist_are_named_together_with_those_that_do(cvat: CVATServer) -> None:
    cvat.hold(task(123), task(124), task(7, jobs=[[456, 0, 1]]), **STREETS)
    with pytest.raises(NotThereError) as told:
        source(task_ids=[1230, 123, 456, 5, 90]).plan()
    text = str(told.value)
    assert "has no tasks 1230, 456, 5, 90" in text
    assert "for 1230 did you mean 123" in text
    assert "456 is a job (data.cvat.job_ids)" in text and "5 is a project (data.cvat.project_ids)" in text
    assert "123 'task 123'" in text and told.value.exit_code == 3


def test_tasks_jobs_and_projects_that_do_not_exist_are_told_at_once(cvat: CVATServer) -> None:
    cvat.hold(task(1))
    with pytest.raises(NotThereError) as told:
        source(task_ids=[8], project_ids=[9], job_ids=[7]).plan()
    assert "no task 8 and project 9 and job 7" in str(told.value)
    assert "you can see no projects there" in str(told.value)


def test_what_may_not_be_seen_is_told_with_whom_to_ask(cvat: CVATServer, monkeypatch: pytest.MonkeyPatch) -> None:
    cvat.hold(task(1, readers=["admin"]), task(2))
    monkeypatch.setenv("CVAT_USERNAME", "bob")
    monkeypatch.setenv("CVAT_PASSWORD", "bobpass123")
    with pytest.raises(AccessError) as told:
        source(task_ids=[1, 2]).plan()
    assert "does not let you see task 1" in str(told.value) and "right to see" in str(told.value)
    assert told.value.exit_code == 5
    with pytest.raises(NotThereError, match="has no task 3 and does not let you see task 1"):
        source(task_ids=[1, 3]).plan()


def test_without_a_number_nothing_is_asked_of_the_server_but_who_it_is(cvat: CVATServer) -> None:
    with pytest.raises(DataError, match="no CVAT tasks were named"):
        source().plan()


def test_a_task_without_frames_and_one_of_point_clouds_are_refused(cvat: CVATServer) -> None:
    cvat.hold({"id": 3, "labels": ["car"], "frames": []})
    with pytest.raises(DataError, match=r"without frames: task 3 \(task 3\)"):
        source(task_ids=[3]).plan()
    cvat.hold(task(4, dimension="3d"))
    with pytest.raises(DataError, match="point clouds cannot be trained on: 4"):
        source(task_ids=[4]).plan()


# ---- fetching -----------------------------------------------------------------------------------------------------


def test_pictures_arrive_as_they_are_and_tasks_keep_apart(cvat: CVATServer, tmp_path: Path) -> None:
    cvat.hold(task(1), task(2))  # both have a.jpg and b.jpg
    tree = fetched(tmp_path, task_ids=[1, 2])
    assert pictures_of(tree) == {
        f"task-{id_}/{name}": sha for id_ in (1, 2) for name, sha in cvat.pictures(id_).items()
    }
    assert len(set(pictures_of(tree).values())) == 4
    assert tree.name == "cvat-1-2"


def test_several_tasks_are_checked_as_one_data_set(
    cvat: CVATServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Boxes and classes against what the server was filled with."""
    cvat.hold(
        task(1, subset="Train"),
        task(2, names=("a.jpg", "sub/x.png"), subset="validation", labels=["dog", "car"]),
        task(3, names=("z.jpg",), subset="Test", labels=["cat", "car", "dog"]),
    )
    report = checked(tmp_path, monkeypatch, task_ids=[1, 2, 3])
    assert report.dataset is not None and codes(report) == {"class-without-objects": 1}
    splits = {name: [image.file_name for image in split.images] for name, split in report.dataset.splits.items()}
    assert splits == {
        "train": ["task-1/a.jpg", "task-1/b.jpg"],
        "val": ["task-2/a.jpg", "task-2/sub/x.png"],
        "test": ["task-3/z.jpg"],
    }
    names = report.dataset.class_map.names
    assert names == ("car", "cat", "dog")
    val = report.dataset.splits["val"]
    found = sorted((names[label], *box) for label, box in zip(val.labels.tolist(), val.boxes.tolist(), strict=True))
    assert found == [
        ("car", 4.0, 5.0, 24.0, 15.5),
        ("car", 5.0, 5.0, 25.0, 15.5),
        ("dog", 30.0, 20.0, 46.25, 32.0),
        ("dog", 30.0, 21.0, 46.25, 33.0),
    ]


def test_tasks_without_a_subset_are_not_split_and_a_strange_one_is_told(
    cvat: CVATServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cvat.hold(task(1), task(2, subset="night"))
    report = checked(tmp_path, monkeypatch, task_ids=[1, 2])
    assert report.dataset is not None and set(report.dataset.splits) == {"all"}
    assert codes(report) == {"unknown-split": 1}


def test_what_annotations_say_is_kept_to_the_letter(cvat: CVATServer, tmp_path: Path) -> None:
    shapes = [
        {"frame": 0, "label": "car", "points": [1, 2, 30, 40], "rotation": 30.0, "attributes": {"colour": "<red>&"}},
        {"frame": 0, "label": "dog", "type": "polygon", "points": [1, 1, 20, 1, 20, 20], "group": 4, "z_order": 2},
        {"frame": 1, "label": "dog", "type": "mask", "points": [1, 2, 3, 4, 6, 6, 7]},
        {"frame": 1, "label": "dog", "type": "polyline", "points": [1, 1, 20, 1], "occluded": True},
    ]
    cvat.hold(task(1, names=("ä ö.jpg", "sub/b.jpg"), shapes=shapes))
    first, second = images(fetched(tmp_path, task_ids=[1]).root)
    assert [image.get("name") for image in (first, second)] == ["task-1/ä ö.jpg", "task-1/sub/b.jpg"]
    assert first.find("box").attrib["rotation"] == "30.00"  # type: ignore[union-attr]
    assert first.findtext("box/attribute") == "<red>&"
    assert first.find("polygon").attrib["group_id"] == "4"  # type: ignore[union-attr]
    assert second.find("mask").attrib["rle"] == "1, 2, 3"  # type: ignore[union-attr]
    assert [child.tag for child in second] == ["mask", "polyline"]


def test_a_mask_keeps_its_pixels(cvat: CVATServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    runs, place = [2, 3, 1, 4, 2], [10, 20, 13, 22]  # 4 x 3 pixels, of which 7 are the object's
    shape = {"frame": 0, "label": "car", "type": "mask", "points": [*runs, *place]}
    cvat.hold(task(1, names=("a.png",), shapes=[shape]))
    report = checked(tmp_path, monkeypatch, task_ids=[1])
    assert report.dataset is not None
    assert report.dataset.splits["all"].area.tolist() == [7.0]


def test_the_images_of_a_video_are_its_frames(
    cvat: CVATServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cvat.hold(task(1, names=("v0", "v1", "v2"), mode="interpolation", start=10, step=5))
    report = checked(tmp_path, monkeypatch, task_ids=[1])
    assert report.dataset is not None and codes(report) == {}
    assert [image.file_name for image in report.dataset.splits["all"].images] == [
        f"task-1/frame_{number:06d}.PNG" for number in (10, 15, 20)
    ]


def test_a_frame_that_was_deleted_in_cvat_is_no_image(cvat: CVATServer, tmp_path: Path) -> None:
    cvat.hold(task(1, names=("a.jpg", "b.jpg", "c.jpg"), deleted=[1]))
    for export in ("task", "frames"):
        tree = fetched(tmp_path / export, task_ids=[1], export=export)
        assert set(pictures_of(tree)) == {"task-1/a.jpg", "task-1/c.jpg"}


def test_a_project_is_all_its_tasks_also_where_its_own_export_would_lose_images(
    cvat: CVATServer, tmp_path: Path
) -> None:
    cvat.hold(task(1, project=5), task(2, project=5, subset="Train"), task(3), **STREETS)
    tree = fetched(tmp_path, project_ids=[5])
    assert sorted(pictures_of(tree)) == ["task-1/a.jpg", "task-1/b.jpg", "task-2/a.jpg", "task-2/b.jpg"]
    assert tree.name == "cvat-project-5"


def test_a_project_of_more_tasks_than_fit_on_a_page(cvat: CVATServer) -> None:
    cvat.hold(*(task(n, names=("a.jpg",), project=5) for n in range(1, 131)), **STREETS)
    assert source(project_ids=[5]).plan().files == 130


def test_a_project_without_frames_is_refused_and_empty_tasks_are_left_out_loudly(
    cvat: CVATServer, caplog: pytest.LogCaptureFixture
) -> None:
    empty = {"id": 9, "labels": ["car"], "frames": [], "project": 5}
    cvat.hold(task(1, project=5), empty, **STREETS)
    assert source(project_ids=[5]).plan().files == 2
    assert "left out of project 5: 9" in caplog.text
    cvat.hold(empty, **STREETS)
    with pytest.raises(DataError, match="holds no task with frames"):
        source(project_ids=[5]).plan()


def test_a_job_is_part_of_a_task(cvat: CVATServer, tmp_path: Path) -> None:
    cvat.hold(task(1, names=("a.jpg", "b.jpg", "c.jpg"), jobs=[[11, 0, 0], [12, 1, 2]], subset="Test"))
    tree = fetched(tmp_path, job_ids=[12])
    assert sorted(pictures_of(tree)) == ["job-12/b.jpg", "job-12/c.jpg"]
    assert {image.get("subset") for image in images(tree.root)} == {"Test"}


def test_a_job_of_a_task_that_is_named_is_not_fetched_twice(cvat: CVATServer, tmp_path: Path) -> None:
    cvat.hold(task(1, jobs=[[11, 0, 0], [12, 1, 1]]))
    assert sorted(pictures_of(fetched(tmp_path, task_ids=[1], job_ids=[12]))) == ["task-1/a.jpg", "task-1/b.jpg"]


def test_what_was_fetched_is_recorded(cvat: CVATServer, tmp_path: Path) -> None:
    cvat.hold(task(1, subset="Train"))
    tree = fetched(tmp_path, task_ids=[1])
    text = (tree.root / "about/cvat.json").read_text()
    record = json.loads(text)
    assert record["server"] == cvat.url and record["format"] == "CVAT for images 1.1"
    (part,) = record["parts"]
    assert (part["id"], part["subset"], part["frames"], part["labels"]) == (1, "Train", 2, ["car", "dog"])
    assert part["fetched"] == ["CVATSDKDownloader"]
    assert "adminpass123" not in text


# ---- the cache ----------------------------------------------------------------------------------------------------


def test_what_is_there_is_not_asked_for_again_even_without_a_server(
    cvat: CVATServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cvat.hold(task(1))
    plan = source(task_ids=[1]).plan()
    first = source(task_ids=[1]).fetch(plan, tmp_path / "data", FetchContext())
    monkeypatch.delenv("CVAT_URL")
    again = source(task_ids=[1]).fetch(plan, tmp_path / "data", FetchContext())
    assert again == first and pictures_of(again)


def test_a_task_that_did_not_change_is_not_exported_again(cvat: CVATServer, tmp_path: Path) -> None:
    cvat.hold(task(1), task(2))
    fetched(tmp_path, task_ids=[1])
    before = len(cvat.requests("POST /api/tasks/1/dataset/export"))
    tree = fetched(tmp_path, task_ids=[1, 2])
    assert len(cvat.requests("POST /api/tasks/1/dataset/export")) == before == 1
    assert len(pictures_of(tree)) == 4


@pytest.mark.parametrize("victim", ["images/task-1/a.jpg", "annotations.xml", "about/cvat.json"])
def test_data_that_were_damaged_in_the_cache_are_made_again(cvat: CVATServer, tmp_path: Path, victim: str) -> None:
    cvat.hold(task(1))
    tree = fetched(tmp_path, task_ids=[1])
    (tree.root / victim).unlink()
    assert set(pictures_of(fetched(tmp_path, task_ids=[1]))) == {"task-1/a.jpg", "task-1/b.jpg"}


def test_what_is_not_planned_any_more_is_told(cvat: CVATServer, tmp_path: Path) -> None:
    cvat.hold(task(1))
    plan = source(task_ids=[1]).plan()
    cvat.hold(task(1, updated="2026-03-03T00:00:00Z"))
    with pytest.raises(ChangedError, match="does not hold any more what was planned"):
        source(task_ids=[1]).fetch(plan, tmp_path / "data", FetchContext())
    assert not (tmp_path / "data").exists()


def test_a_task_that_changes_while_it_is_fetched_is_told(
    cvat: CVATServer, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    cvat.hold(task(1))
    made = source(task_ids=[1])
    plan = made.plan()
    cvat.hold(task(1, updated="2026-03-03T00:00:00Z"))
    made.fetch(plan, tmp_path / "data", FetchContext())
    assert "task 1 (task 1) was changed while it was fetched" in caplog.text


def test_two_processes_that_want_the_same_fetch_it_once(cvat: CVATServer, tmp_path: Path) -> None:
    cvat.hold(task(1))
    trees = []
    threads = [threading.Thread(target=lambda: trees.append(fetched(tmp_path, task_ids=[1]))) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert len(trees) == 3 and len({tree.root for tree in trees}) == 1
    assert len(cvat.requests("POST /api/tasks/1/dataset/export")) == 1


def test_a_fetch_that_is_cancelled_stops_and_leaves_nothing_half(cvat: CVATServer, tmp_path: Path) -> None:
    cvat.hold(task(1))
    cvat.fault("never_finish")
    made = source(task_ids=[1])
    plan = made.plan()
    asked: list[int] = []

    def cancelled() -> bool:
        asked.append(1)
        return len(asked) > 5

    with pytest.raises(RunInterrupted):
        made.fetch(plan, tmp_path / "data", FetchContext(cancelled=cancelled))
    assert not (tmp_path / "data").exists()


def test_progress_ends_where_all_bytes_have_come(cvat: CVATServer, tmp_path: Path) -> None:
    cvat.hold(task(1))
    seen: list[tuple[int, int]] = []
    made = source(task_ids=[1])
    made.fetch(made.plan(), tmp_path / "data", FetchContext(progress=lambda done, total: seen.append((done, total))))
    assert seen and seen[-1][0] == seen[-1][1] > 1000


def test_a_folder_that_cannot_be_written_is_told(cvat: CVATServer, tmp_path: Path) -> None:
    cvat.hold(task(1))
    (tmp_path / "file").write_text("")
    with pytest.raises(Exception, match=r"cannot write|Not a directory") as told:
        fetched(tmp_path / "file", task_ids=[1])
    assert os.fspath(tmp_path) in str(told.value)


def test_a_plan_of_something_else_is_not_taken(cvat: CVATServer, tmp_path: Path) -> None:
    cvat.hold(task(1))
    with pytest.raises(ChangedError):
        source(task_ids=[1]).fetch(SourcePlan("elsewhere", "0" * 16), tmp_path / "data", FetchContext())
