"""Each setting of the CVAT source does what it says, and credentials come from the environment alone."""

from __future__ import annotations

import builtins
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

import detloom.errors
from cvat_tools import ACCESS_TOKEN, PASSWORD, TOKEN, VARIABLES, CVATServer, fetched, pictures_of, source, task
from detloom.config import ResolvedConfig, mapping_layer, resolve, text_layer
from detloom.errors import ConfigError, PluginError, UnreachableError, UsageError
from detloom.host import discover
from detloom.specs import FetchContext
from detloom.transfer import AccessError, NotThereError
from detloom_integrations.cvat.access import find_access
from detloom_integrations.cvat.channel import stays
from detloom_schemas.data_config import CVATDataSource

BOTH = ["sdk", "http-v2"]


@pytest.fixture
def filled(cvat: CVATServer) -> CVATServer:
    cvat.hold(
        task(1, jobs=[[11, 0, 0], [12, 1, 1]]),
        task(2, names=("c.jpg",), project=5, organization="acme"),
        projects=[{"id": 5, "name": "streets", "labels": ["car", "dog"], "organization": "acme"}],
    )
    return cvat


def resolved(*written: tuple[str, str]) -> ResolvedConfig:
    layers = [
        mapping_layer({"data.source": "cvat", "export.format": []}),
        text_layer([(f"data.cvat.{key}", text, "--set") for key, text in written]),
    ]
    return resolve(discover(), layers)


# ---- what is fetched ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "names"),
    [
        ({"task_ids": [1]}, {"task-1/a.jpg", "task-1/b.jpg"}),
        ({"project_ids": [5]}, {"task-2/c.jpg"}),
        ({"job_ids": [12]}, {"job-12/b.jpg"}),
        ({"task_ids": [2], "job_ids": [11, 12]}, {"task-2/c.jpg", "job-11/a.jpg", "job-12/b.jpg"}),
    ],
)
def test_numbers_say_what_is_fetched(
    filled: CVATServer, tmp_path: Path, settings: dict[str, Any], names: set[str]
) -> None:
    assert set(pictures_of(fetched(tmp_path, **settings))) == names


@pytest.mark.parametrize("text", ["[7, 8]", "7, 8", "7 8", "[7,8]"])
def test_numbers_may_be_written_in_several_ways(text: str) -> None:
    assert resolved(("task_ids", text)).values()["data.cvat.task_ids"] == [7, 8]


def test_one_number_needs_no_list() -> None:
    assert resolved(("project_ids", "7")).values()["data.cvat.project_ids"] == [7]


@pytest.mark.parametrize("text", ["seven", "[0]", "[-1]", "[1.5]", "[true]"])
def test_what_is_no_number_of_a_task_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match=r"data\.cvat\.task_ids"):
        resolved(("task_ids", text))


@pytest.mark.parametrize("downloader", BOTH)
def test_an_organisation_is_what_is_looked_into(filled: CVATServer, downloader: str) -> None:
    """The double lists by organisation; what a project holds is a list."""
    assert source(project_ids=[5], organization="acme", downloader=downloader).plan().files == 1
    with pytest.raises(detloom.errors.DataError, match="holds no task with frames"):
        source(project_ids=[5], organization="", downloader=downloader).plan()
    with pytest.raises(NotThereError) as told:
        source(task_ids=[1], organization="acne", downloader=downloader).plan()
    assert "no organisation 'acne'" in str(told.value) and "did you mean 'acme'?" in str(told.value)


# ---- how it is fetched --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("downloader", "recorded"),
    [
        ("auto", "CVATSDKDownloader"),
        ("sdk", "CVATSDKDownloader"),
        ("http-v2", "CVATHTTPDownloaderV2"),
        ("http-v1", "CVATHTTPDownloaderV1"),
    ],
)
def test_the_downloader_is_the_one_that_is_asked_for(
    filled: CVATServer, tmp_path: Path, downloader: str, recorded: str
) -> None:
    if downloader == "http-v1":
        filled.hold(task(1), legacy=True)
    tree = fetched(tmp_path, task_ids=[1], downloader=downloader)
    assert f'"{recorded}"' in (tree.root / "about/cvat.json").read_text()


def test_the_plain_ways_do_not_import_the_sdk(
    filled: CVATServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = builtins.__import__

    def without(name: str, *rest: Any) -> Any:
        if name.startswith("cvat_sdk"):
            raise ImportError("No module named 'cvat_sdk'")
        return real(name, *rest)

    monkeypatch.setattr(builtins, "__import__", without)
    fetched(tmp_path / "plain", task_ids=[1], downloader="http-v2")
    with pytest.raises(PluginError, match="cvat-sdk cannot be used") as told:
        source(task_ids=[1], downloader="sdk").plan()
    assert told.value.hint == "pip install cvat-sdk"
    tree = fetched(tmp_path / "auto", task_ids=[1])
    assert "CVATHTTPDownloaderV2" in (tree.root / "about/cvat.json").read_text()


@pytest.mark.parametrize(("version", "recorded"), [("2.41.9", "HTTP"), ("2.42.0", "SDK"), ("3.1", "SDK")])
def test_the_sdk_is_used_from_the_oldest_server_that_it_was_tried_with(
    filled: CVATServer, tmp_path: Path, version: str, recorded: str
) -> None:
    filled.hold(task(1), version=version)
    assert f"CVAT{recorded}Downloader" in (fetched(tmp_path, task_ids=[1]).root / "about/cvat.json").read_text()


@pytest.mark.parametrize(
    ("export", "asked", "not_asked"),
    [
        ("auto", "POST /api/tasks/1/dataset/export", "/api/jobs/"),
        ("task", "POST /api/tasks/1/dataset/export", "/api/jobs/"),
        ("jobs", "POST /api/jobs/12/dataset/export", "POST /api/tasks/1"),
        ("frames", "GET /api/tasks/1/data/", "/api/jobs/"),
    ],
)
def test_the_export_is_made_in_the_pieces_that_are_asked_for(
    filled: CVATServer, tmp_path: Path, export: str, asked: str, not_asked: str
) -> None:
    pictures = pictures_of(fetched(tmp_path, task_ids=[1], export=export))
    assert pictures == {f"task-1/{name}": sha for name, sha in filled.pictures(1).items()}
    assert filled.requests(asked) and not filled.requests(not_asked)


def test_all_ways_give_the_same_annotations(filled: CVATServer, tmp_path: Path) -> None:
    texts = {
        (fetched(tmp_path / export, task_ids=[1], export=export).root / "annotations.xml").read_text()
        for export in ("task", "jobs", "frames")
    }
    assert len(texts) == 1


@pytest.mark.parametrize("downloader", BOTH)
def test_the_timeout_is_how_long_the_server_may_be_silent(filled: CVATServer, downloader: str) -> None:
    filled.fault("slow", 1.5)
    with pytest.raises(UnreachableError, match="no answer in time"):
        source(task_ids=[1], timeout=0.3, downloader=downloader).plan()
    assert source(task_ids=[1], timeout=10.0, downloader=downloader).plan().files == 2


# ---- the server ---------------------------------------------------------------------------------------------------


def test_the_address_is_that_of_the_settings_before_that_of_the_environment(
    filled: CVATServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CVAT_URL", "http://127.0.0.1:9")
    assert source(task_ids=[1], url=filled.url).plan().identity.startswith(filled.url)
    monkeypatch.delenv("CVAT_URL")
    monkeypatch.setenv("CVAT_HOST", filled.url)
    assert source(task_ids=[1]).plan().files == 2


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        ("https://cvat.lab/", "https://cvat.lab"),
        ("cvat.lab:8080", "https://cvat.lab:8080"),
        ("http://lab/cvat/", "http://lab/cvat"),
        ("https://app.cvat.ai/tasks/12?page=1", "https://app.cvat.ai"),
        ("localhost:8080", "http://localhost:8080"),
    ],
)
def test_addresses_as_people_write_them(written: str, meant: str) -> None:
    environ = {"CVAT_ACCESS_TOKEN": "t"}
    assert find_access(CVATDataSource(url=written), environ).address == meant


@pytest.mark.parametrize("written", ["ftp://cvat.lab", "https://", "http://cvat.lab:99999", "http://a b:x"])
def test_what_is_no_address_is_refused(written: str) -> None:
    with pytest.raises(UsageError, match="is no address of a CVAT server"):
        find_access(CVATDataSource(url=written), {"CVAT_ACCESS_TOKEN": "t"})


def test_an_address_with_credentials_is_refused_without_showing_them() -> None:
    with pytest.raises(UsageError, match="holds credentials") as told:
        find_access(CVATDataSource(url="https://ann:hunter2@cvat.lab"), {"CVAT_ACCESS_TOKEN": "t"})
    assert "hunter2" not in str(told.value)


def test_without_an_address_the_variables_are_named() -> None:
    with pytest.raises(UsageError, match="no CVAT server was named") as told:
        find_access(CVATDataSource(), {"CVAT_ACCESS_TOKEN": "t"})
    assert "CVAT_URL=" in told.value.hint


# ---- credentials --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("downloader", BOTH)
@pytest.mark.parametrize(
    "environ",
    [
        {"CVAT_USERNAME": "admin", "CVAT_PASSWORD": PASSWORD},
        {"CVAT_TOKEN": TOKEN},
        {"CVAT_ACCESS_TOKEN": ACCESS_TOKEN},
        {"CVAT_ACCESS_TOKEN": f" {ACCESS_TOKEN}\n"},
    ],
    ids=["password", "token", "access token", "copied with blanks"],
)
def test_every_kind_of_login(
    filled: CVATServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, environ: dict[str, str], downloader: str
) -> None:
    _only(monkeypatch, {"CVAT_URL": filled.url, **environ})
    tree = fetched(tmp_path, task_ids=[1], downloader=downloader)
    assert len(pictures_of(tree)) == 2
    assert bool(filled.requests("POST /api/auth/login")) == ("CVAT_PASSWORD" in environ)


@pytest.mark.parametrize(
    ("settings", "environ"),
    [
        ({"username_env": "ANN", "password_env": "ANNS_WORD"}, {"ANN": "admin", "ANNS_WORD": PASSWORD}),
        ({"token_env": "LAB_KEY"}, {"LAB_KEY": TOKEN}),
        ({"access_token_env": "LAB_PAT"}, {"LAB_PAT": ACCESS_TOKEN}),
    ],
)
def test_the_variables_may_have_other_names(
    filled: CVATServer, monkeypatch: pytest.MonkeyPatch, settings: dict[str, str], environ: dict[str, str]
) -> None:
    _only(monkeypatch, {"CVAT_URL": filled.url, **environ})
    assert source(task_ids=[1], **settings).plan().files == 2
    with pytest.raises(AccessError, match="no credentials are in the environment"):
        source(task_ids=[1]).plan()


@pytest.mark.parametrize("downloader", BOTH)
@pytest.mark.parametrize(
    ("environ", "named"),
    [
        ({"CVAT_USERNAME": "admin", "CVAT_PASSWORD": "hunter2-and-more"}, "CVAT_USERNAME and CVAT_PASSWORD: Unable"),
        ({"CVAT_TOKEN": "hunter2-and-more"}, "CVAT_TOKEN: Invalid token."),
        ({"CVAT_ACCESS_TOKEN": "hunter2-and-more"}, "CVAT_ACCESS_TOKEN: Invalid token."),
    ],
)
def test_wrong_credentials_are_named_and_not_shown(
    filled: CVATServer,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    environ: dict[str, str],
    named: str,
    downloader: str,
) -> None:
    caplog.set_level("DEBUG")
    _only(monkeypatch, {"CVAT_URL": filled.url, **environ})
    with pytest.raises(AccessError) as told:
        source(task_ids=[1], downloader=downloader).plan()
    assert f"does not take the credentials of {named}" in str(told.value)
    assert told.value.exit_code == 5 and "check CVAT_" in told.value.hint
    assert "hunter2" not in f"{told.value}{told.value.__cause__}{told.value.__context__}{caplog.text}"


@pytest.mark.parametrize(
    ("environ", "half"),
    [
        ({}, ""),
        ({"CVAT_USERNAME": "admin"}, "CVAT_USERNAME is set, CVAT_PASSWORD is not"),
        ({"CVAT_PASSWORD": "hunter2"}, "CVAT_PASSWORD is set, CVAT_USERNAME is not"),
        ({"CVAT_TOKEN": "  "}, ""),
    ],
)
def test_missing_credentials_are_named(environ: dict[str, str], half: str) -> None:
    with pytest.raises(AccessError) as told:
        find_access(CVATDataSource(url="http://127.0.0.1:9"), environ)
    assert half in told.value.hint and "CVAT_ACCESS_TOKEN" in told.value.hint and ".env" in told.value.hint
    assert "hunter2" not in str(told.value)


def test_credentials_are_no_settings_and_are_not_printed(filled: CVATServer) -> None:
    for key in ("password", "token", "access_token"):
        with pytest.raises(ConfigError) as told:
            resolved((key, "hunter2"))
        assert f"data.cvat.{key}" in str(told.value)
    assert PASSWORD not in repr(find_access(CVATDataSource()))


def test_which_redirects_stay_with_a_server() -> None:
    assert stays("http://cvat.lab/api", "https://cvat.lab/api")
    assert stays("https://cvat.lab/a", "https://cvat.lab/b")
    assert not stays("https://cvat.lab/a", "http://cvat.lab/a")
    assert not stays("https://cvat.lab/a", "https://evil.lab/a")
    assert not stays("https://cvat.lab/a", "https://cvat.lab:444/a")


def _only(monkeypatch: pytest.MonkeyPatch, environ: dict[str, str]) -> None:
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)
    for name, value in environ.items():
        monkeypatch.setenv(name, value)


# ---- other servers that answer ------------------------------------------------------------------------------------


@pytest.fixture
def elsewhere() -> Iterator[list[tuple[str, dict[str, str]]]]:
    """Requests that reach another server, with their headers; its address is in the first."""
    heard: list[tuple[str, dict[str, str]]] = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            heard.append((self.path, {name.lower(): value for name, value in self.headers.items()}))
            self.send_response(200)
            self.end_headers()

        def log_message(self, *args: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    heard.append((f"http://127.0.0.1:{server.server_port}", {}))
    yield heard
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.mark.parametrize("downloader", BOTH)
@pytest.mark.parametrize("variable", ["CVAT_PASSWORD", "CVAT_TOKEN", "CVAT_ACCESS_TOKEN"])
def test_credentials_do_not_follow_a_redirect_to_another_server(
    filled: CVATServer,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    elsewhere: list[tuple[str, dict[str, str]]],
    downloader: str,
    variable: str,
) -> None:
    values = {"CVAT_PASSWORD": PASSWORD, "CVAT_TOKEN": TOKEN, "CVAT_ACCESS_TOKEN": ACCESS_TOKEN}
    _only(monkeypatch, {"CVAT_URL": filled.url, "CVAT_USERNAME": "admin", variable: values[variable]})
    made = source(task_ids=[1], downloader=downloader, export="task")
    plan = made.plan()
    filled.fault("redirect", elsewhere[0][0])
    with pytest.raises(detloom.errors.DetloomError):  # what it sends is no archive
        made.fetch(plan, tmp_path / "data", FetchContext(deadline_s=20))
    assert len(elsewhere) > 1, "the archive was not looked for where the server said"
    for _, headers in elsewhere[1:]:
        assert not {"authorization", "cookie"} & set(headers)
        assert not [text for text in headers.values() if values[variable] in text]


def test_an_address_without_a_scheme_is_safe_except_on_this_machine(filled: CVATServer) -> None:
    bare = filled.url.removeprefix("http://")
    assert source(task_ids=[1], url=bare).plan().identity.startswith(filled.url)
    with pytest.raises(UnreachableError, match="does not speak TLS: write its address with http://"):
        source(task_ids=[1], url=f"https://{bare}").plan()
