"""The double of the CVAT server, driven by the real cvat-sdk."""

from __future__ import annotations

import hashlib
import io
import json
import time
import zipfile
from pathlib import Path
from typing import Any

import pytest
from cvat_sdk import make_client
from cvat_sdk.api_client.exceptions import ApiException, NotFoundException, ServiceException, UnauthorizedException
from cvat_sdk.core.client import Client, Config
from cvat_sdk.core.exceptions import BackgroundRequestException, CvatSdkException
from PIL import Image
from urllib3.exceptions import ProtocolError

from cvat_tools import ACCESS_TOKEN, PASSWORD, USER, CVATServer, task
from double_tools import ServerRefused

WORLD: dict[str, Any] = {"projects": [{"id": 5, "name": "streets", "labels": ["car", "dog"]}]}


@pytest.fixture
def sdk(cvat: CVATServer) -> Client:
    cvat.hold(task(1, project=5, jobs=[[11, 0, 0], [12, 1, 1]]), task(2, organization="acme"), **WORLD)
    client = make_client(cvat.url, credentials=(USER, PASSWORD))
    client.config = Config(status_check_period=0.05)
    return client


def test_the_sdk_reads_what_the_double_holds(sdk: Client) -> None:
    one = sdk.tasks.retrieve(1)
    assert (one.name, one.size, one.project_id) == ("task 1", 2, 5)
    assert [job.id for job in one.get_jobs()] == [11, 12]
    assert [label.name for label in one.get_labels()] == ["car", "dog"]
    assert [frame.name for frame in one.get_meta().frames] == ["a.jpg", "b.jpg"]
    assert len(one.get_annotations().shapes) == 4
    assert [job.frame_count for job in sdk.jobs.list()] == [1, 1, 2]
    assert sdk.jobs.retrieve(12).start_frame == 1
    assert [found.id for found in sdk.projects.retrieve(5).get_tasks()] == [1]
    assert sdk.users.retrieve_current_user().username == USER


def test_frames_come_in_their_own_bytes(sdk: Client, cvat: CVATServer) -> None:
    def frame(api: Any, id_: int) -> bytes:
        # Parsed by the SDK it would become a file that is never closed.
        _, answer = api.retrieve_data(id_, type="frame", number=1, quality="original", _parse_response=False)
        with answer:
            content: bytes = answer.read()
        return content

    content = frame(sdk.api_client.tasks_api, 1)
    assert Image.open(io.BytesIO(content)).size == (64, 48)
    assert hashlib.sha256(content).hexdigest() == cvat.pictures(1)["b.jpg"]
    assert frame(sdk.api_client.jobs_api, 12) == content
    with pytest.raises(ApiException) as refusal:
        frame(sdk.api_client.jobs_api, 11)
    assert refusal.value.status == 400


def test_organisations_hold_their_own_tasks(sdk: Client) -> None:
    assert [one.slug for one in sdk.organizations.list()] == ["acme"]
    with sdk.organization_context("acme"):
        assert [one.id for one in sdk.tasks.list()] == [2]
    with sdk.organization_context(""):
        assert [one.id for one in sdk.tasks.list()] == [1]
    with sdk.organization_context("nobody"), pytest.raises(NotFoundException, match="nobody organization"):
        sdk.tasks.list()


@pytest.mark.parametrize("kind", ["tasks", "jobs", "projects"])
@pytest.mark.parametrize("name", ["CVAT for images 1.1", "COCO 1.0"])
def test_the_sdk_exports(sdk: Client, tmp_path: Path, kind: str, name: str) -> None:
    id_ = {"tasks": 1, "jobs": 12, "projects": 5}[kind]
    getattr(sdk, kind).retrieve(id_).export_dataset(name, tmp_path / "out.zip")
    members = set(zipfile.ZipFile(tmp_path / "out.zip").namelist())
    pictures = {member.rpartition("/")[2] for member in members if member.startswith("images/")}
    assert pictures == ({"b.jpg"} if kind == "jobs" else {"a.jpg", "b.jpg"})
    assert members & {"annotations.xml", "annotations/instances_default.json"}


def test_in_coco_two_names_that_differ_in_their_suffix_become_one_image(cvat: CVATServer, tmp_path: Path) -> None:
    """Why the other format is asked for."""
    cvat.hold(task(1, names=("a.jpg", "a.png")))
    client = make_client(cvat.url, access_token=ACCESS_TOKEN)
    client.config = Config(status_check_period=0.05)
    client.tasks.retrieve(1).export_dataset("COCO 1.0", tmp_path / "out.zip")
    coco = json.loads(zipfile.ZipFile(tmp_path / "out.zip").read("annotations/instances_default.json"))
    assert [image["id"] for image in coco["images"]] == [1, 1]


def test_the_double_refuses_what_the_server_refuses(cvat: CVATServer, sdk: Client) -> None:
    with pytest.raises(ApiException) as wrong:
        make_client(cvat.url, credentials=(USER, "wrong"))
    assert wrong.value.status == 400 and "Unable to log in" in str(wrong.value.body)
    with pytest.raises(UnauthorizedException):
        make_client(cvat.url, access_token="nobody's").tasks.list()
    with pytest.raises(NotFoundException, match="No Task matches"):
        sdk.tasks.retrieve(77)
    with pytest.raises(ApiException, match="Unknown format"):
        sdk.tasks.retrieve(1).export_dataset("Sketches 9", Path("out.zip"))
    with pytest.raises(NotFoundException):
        sdk.api_client.requests_api.retrieve("action=export&target=task")
    response = sdk.api_client.rest_client.GET(
        f"{cvat.url}/api/tasks/1/dataset?format=COCO+1.0",
        headers={"Cookie": sdk.api_client.get_common_headers()["Cookie"]},
        _check_status=False,
    )
    assert response.status == 410


def test_strange_paths_and_parameters_are_kept_as_violations(cvat: CVATServer, sdk: Client) -> None:
    headers = sdk.api_client.get_common_headers()
    for path in ("/api/v1/tasks/1", "/api/tasks/1?fields=name"):
        answer = sdk.api_client.rest_client.GET(f"{cvat.url}{path}", headers=headers, _check_status=False)
        assert answer.status == 404
    assert cvat.violations() == ["no endpoint /api/v1/tasks/1", "GET /api/tasks/1 takes no ['fields']"]
    cvat.hold()


FAULTS_OF_THE_SDK = [
    ("http500", "request", ServiceException, "500"),
    ("http429", "export", ApiException, "429"),
    ("drop", 1000, ProtocolError, "IncompleteRead"),
    ("fail_request", "ValueError: injected", BackgroundRequestException, "injected"),
    ("expired", 1, NotFoundException, "404"),
]


@pytest.mark.parametrize(("name", "value", "error", "text"), FAULTS_OF_THE_SDK, ids=lambda item: str(item)[:20])
def test_the_sdk_alone_gives_up_at_the_first_fault(
    cvat: CVATServer, sdk: Client, tmp_path: Path, name: str, value: Any, error: type[Exception], text: str
) -> None:
    cvat.fault(name, value, times=1)
    with pytest.raises(error, match=text):
        sdk.tasks.retrieve(1).export_dataset("COCO 1.0", tmp_path / "out.zip")
    assert cvat.hits(name) == 1


def test_the_sdk_alone_takes_a_damaged_archive_and_refuses_an_evil_name(
    cvat: CVATServer, sdk: Client, tmp_path: Path
) -> None:
    cvat.fault("corrupt_zip")
    sdk.tasks.retrieve(1).export_dataset("COCO 1.0", tmp_path / "out.zip")
    with pytest.raises(zipfile.BadZipFile):
        zipfile.ZipFile(tmp_path / "out.zip")
    cvat.clear_faults()
    cvat.fault("bad_filename")
    with pytest.raises(CvatSdkException, match="filename"):
        sdk.tasks.retrieve(1).export_dataset("COCO 1.0", tmp_path)


def test_an_old_server_makes_archives_when_it_is_asked_again(cvat: CVATServer) -> None:
    cvat.hold(task(1), legacy=True, polls=1)
    client = make_client(cvat.url, credentials=(USER, PASSWORD))

    def ask(more: str = "") -> Any:
        return client.api_client.rest_client.GET(
            f"{cvat.url}/api/tasks/1/dataset?format=COCO+1.0{more}",
            headers=client.api_client.get_common_headers(),
            _check_status=False,
        )

    assert ask("&action=download").status == 400
    assert [ask().status for _ in range(3)] == [202, 202, 201]
    archive = ask("&action=download")
    assert archive.status == 200 and zipfile.ZipFile(io.BytesIO(archive.data)).testzip() is None
    assert ask().status == 202


def test_faults_come_and_go_while_the_server_runs(cvat: CVATServer, sdk: Client) -> None:
    cvat.fault("slow", 0.3)
    begun = time.monotonic()
    sdk.tasks.retrieve(1)
    assert time.monotonic() - begun >= 0.3
    cvat.clear_faults()
    assert sdk.tasks.retrieve(1).id == 1
    with pytest.raises(ServerRefused, match="no fault is called 'slwo'"):
        cvat.fault("slwo")
