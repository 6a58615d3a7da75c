"""Commands on data in a bucket: check, train, and whatever later needs the data of that run again."""

from __future__ import annotations

import json
import os
import shutil
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import data_tools
from detloom.cli import main
from processes import Place, ended
from s3_tools import KEY, SECRET, CuttingProxy, S3Server, contents

BUCKET = "sets"
QUIET = [
    "--set", "model.type=yolox-nano", "--weights", "none", "--resolution", "64", "--batch-size", "2",
    "--set", "training.max_steps=1", "--num-workers", "0", "--set", "export.format=[]", "--set",
    "validation.pictures=0", "--set", "experiment.logging.loggers=[jsonl]", "--no-clearml",
]  # fmt: skip


@pytest.fixture(scope="module")
def local(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return data_tools.sound_data(tmp_path_factory.mktemp("local") / "animals")


@pytest.fixture
def place(
    s3_server: S3Server, s3_keys: None, local: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Path]:
    """An empty folder with a .env file that holds the keys, and the data in the bucket."""
    s3_server.put_folder(BUCKET, local, "team/animals")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DETLOOM_CACHE", str(tmp_path / "cache"))
    for name in ("MINIO_ACCESS_KEY", "MINIO_SECRET_KEY", "MINIO_ENDPOINT"):
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)
    (tmp_path / ".env").write_text(
        f"MINIO_ENDPOINT={s3_server.endpoint}\nMINIO_ACCESS_KEY={KEY}\nMINIO_SECRET_KEY='{SECRET}'\n"
    )
    yield tmp_path


def run(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    code = main(list(arguments))
    out, err = capsys.readouterr()
    assert SECRET not in out + err
    return code, out, err


def test_a_check_finds_in_the_bucket_what_it_finds_in_the_folder(
    place: Path, local: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    flags = ["--minio-bucket", BUCKET, "--minio-prefix", "team/animals"]
    code, out, _ = run(capsys, "check", *flags, "--json")
    there: dict[str, Any] = json.loads(out)
    assert code == 0
    here = json.loads(run(capsys, "check", str(local), "--json")[1])
    assert there["digest"] == here["digest"]
    assert there["name"] == "animals"
    assert there["findings"] == here["findings"]
    assert there["next"].startswith(f"detloom train {' '.join(flags)} --model ")


def test_a_bucket_can_be_named_in_a_file(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (place / "run.yaml").write_text(
        f"data:\n  source: s3\n  s3: {{bucket: {BUCKET}, prefix: team/animals}}\n  fetch_deadline: 60\n"
    )
    code, out, _ = run(capsys, "check", "--config", "run.yaml")
    assert code == 0 and "animals: 6 of 6 images usable" in out


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["--minio-bucket", BUCKET, "--minio-prefix", "team/animal"], 3, "did you mean 'team/animals'?"),
        (["--minio-bucket", "stes"], 3, f"did you mean {BUCKET!r}?"),
        (["--minio-bucket", BUCKET, "--minio-endpoint", "http://127.0.0.1:9"], 5, "nobody listens there"),
        (["--minio-prefix", "team/animals"], 2, "--minio-bucket"),
        (["--minio-bucket", BUCKET, "--set", "data.fetch_deadline=1e-9"], 5, "data.fetch_deadline"),
        (["--minio-bucket", BUCKET, "--set", "data.s3.secret_key=x"], 2, "a secret has no place here"),
    ],
)
def test_what_goes_wrong_ends_with_its_code_and_a_remedy(
    arguments: list[str], code: int, words: str, place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    ended, _, err = run(capsys, "check", *arguments)
    assert (ended, words in err) == (code, True), err


def test_wrong_keys_end_with_the_code_of_a_source_that_cannot_be_reached(
    place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text = (place / ".env").read_text()
    (place / ".env").write_text(text.replace(SECRET, "wrong-secret"))
    code, _, err = run(capsys, "check", "--minio-bucket", BUCKET)
    assert code == 5 and "secret key (MINIO_SECRET_KEY)" in err and "wrong-secret" not in err


def test_a_run_on_a_bucket_finds_its_data_again_whatever_becomes_of_the_bucket(
    place: Path, s3_server: S3Server, proxy: CuttingProxy, capsys: pytest.CaptureFixture[str]
) -> None:
    flags = ["--minio-bucket", BUCKET, "--minio-prefix", "team/animals", "--minio-endpoint", proxy.endpoint]
    code, _, err = run(capsys, "train", *flags, *QUIET, "--name", "r", "--set", "training.checkpoint_interval=1")
    assert code == 0, err
    folder = place / "runs" / "r"
    record, data = (json.loads((folder / name).read_text()) for name in ("run.json", "data.json"))
    assert record["data"]["source"] == f"{proxy.endpoint}/{BUCKET}/team/animals"
    assert len(record["data"]["revision"]) == 32
    assert {key: data[key] for key in ("source", "revision", "digest")} == {
        key: record["data"][key] for key in ("source", "revision", "digest")
    }
    for written in contents(folder).values():
        assert SECRET.encode() not in written and KEY.encode() + b"\n" not in written

    # The data change there, and then the server is gone: this run's data are still here.
    s3_server.put(BUCKET, {"team/animals/train/_annotations.coco.json": b"{}"})
    proxy.close()
    code, out, err = run(capsys, "evaluate", str(folder), "--json")
    assert code == 0, err
    assert json.loads(out)["data"]["digest"] == record["data"]["digest"]
    assert "is not what the run was trained on" not in err
    code, _, err = run(capsys, "train", "--resume", str(folder), "--set", "training.max_steps=2")
    assert code == 0, err
    resumed = json.loads((folder / "run.json").read_text())
    assert resumed["progress"]["step"] == 2 and resumed["data"] == record["data"]

    # Without what was kept, the server is asked.
    shutil.rmtree(place / "cache")
    code, _, err = run(capsys, "evaluate", str(folder))
    assert code == 5 and "cannot be reached" in err


def test_an_interrupt_ends_a_fetch_at_once_and_the_next_one_goes_on(
    place: Path, s3_server: S3Server, proxy: CuttingProxy
) -> None:
    s3_server.put("big", {"a.bin": os.urandom(6_000_000)})
    proxy.delay_s = 0.02
    here = Place(place, place / "cache", {"no_proxy": "127.0.0.1"})
    process = here.start("check", "--minio-bucket", "big", "--minio-endpoint", proxy.endpoint)
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and not _bytes_in(place / "cache") > 1_000_000:
        time.sleep(0.02)
    process.send_signal(signal.SIGINT)
    began = time.monotonic()
    finished = ended(process)
    assert time.monotonic() - began < 20
    assert finished.code == 130, finished.err
    assert "Traceback" not in finished.err
    arrived, proxy.sent, proxy.delay_s = _bytes_in(place / "cache"), 0, 0.0
    assert 1_000_000 < arrived < 6_000_000
    again = here.run("check", "--minio-bucket", "big", "--minio-endpoint", proxy.endpoint)
    assert "no annotations that can be read" in again.err
    assert proxy.sent < 6_000_000 - arrived + 50_000


def _bytes_in(cache: Path) -> int:
    return sum(path.stat().st_size for path in cache.rglob("*.part") if path.is_file())


def test_an_evaluation_can_use_a_bucket_for_a_model_trained_elsewhere(
    place: Path, local: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, _, err = run(capsys, "train", str(local), *QUIET, "--name", "l")
    assert code == 0, err
    here = json.loads(run(capsys, "evaluate", "runs/l", str(local), "--json")[1])
    code, out, err = run(
        capsys, "evaluate", "runs/l", "--minio-bucket", BUCKET, "--minio-prefix", "team/animals", "--json"
    )
    assert code == 0, err
    there = json.loads(out)
    assert there["data"]["digest"] == here["data"]["digest"]
    assert there["splits"] == here["splits"]
