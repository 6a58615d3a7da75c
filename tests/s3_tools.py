"""A real S3 server for tests (SeaweedFS), what is put into it, and a proxy that cuts connections."""

from __future__ import annotations

import contextlib
import io
import json
import os
import random
import socket
import subprocess
import sysconfig
import threading
import time
import uuid
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import urllib3
from minio import Minio
from minio.commonconfig import ENABLED
from minio.versioningconfig import VersioningConfig

from detloom.data.records import DataTree
from detloom.specs import FetchContext
from detloom.transfer import Patience
from detloom_integrations.s3 import client as client_module
from detloom_integrations.s3.source import S3Source
from detloom_schemas.data_config import MinIODataSource

KEY, SECRET = "tester", "s3cr+t/of=the+tester"
READER, READER_SECRET = "reader", "another/secret"
EMPTY, EMPTY_SECRET = "nobody", "a+third/secret"
MB = 1_000_000


def free_port() -> int:
    """A port that is free, and whose companion for gRPC (10000 higher) is free too."""
    for _ in range(200):
        port = random.randrange(20000, 50000)
        with contextlib.suppress(OSError), socket.socket() as first, socket.socket() as second:
            first.bind(("127.0.0.1", port))
            second.bind(("127.0.0.1", port + 10000))
            return port
    raise AssertionError("no two free ports")


@dataclass(frozen=True)
class S3Server:
    """The server, and a client of its own that shares no code with the source."""

    host: str
    process: subprocess.Popen[bytes]

    @property
    def endpoint(self) -> str:
        return f"http://{self.host}"

    def client(self, key: str = KEY, hidden: str = SECRET) -> Minio:
        pool = urllib3.PoolManager(maxsize=16, retries=urllib3.Retry(2, backoff_factor=0.2))
        return Minio(self.host, key, hidden, secure=False, region="us-east-1", http_client=pool)

    def put(self, bucket: str, objects: Mapping[str, bytes]) -> None:
        client = self.client()
        if not client.bucket_exists(bucket):
            client.make_bucket(bucket)
        for name, content in objects.items():
            client.put_object(bucket, name, io.BytesIO(content), len(content))
        client._http.clear()

    def put_in_parts(self, bucket: str, name: str, content: bytes, part: int) -> None:
        client = self.client()
        client.put_object(bucket, name, io.BytesIO(content), -1, part_size=part)
        client._http.clear()

    def etag(self, bucket: str, name: str) -> str:
        client = self.client()
        etag = client.stat_object(bucket, name).etag
        client._http.clear()
        return etag or ""

    def versioned(self, bucket: str) -> None:
        """From now on the bucket keeps old versions."""
        client = self.client()
        if not client.bucket_exists(bucket):
            client.make_bucket(bucket)
        client.set_bucket_versioning(bucket, VersioningConfig(ENABLED))
        client._http.clear()

    def remove(self, bucket: str, name: str) -> None:
        client = self.client()
        client.remove_object(bucket, name)
        client._http.clear()

    def put_folder(self, bucket: str, folder: Path, prefix: str) -> None:
        files = {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
        self.put(bucket, {f"{prefix}/{name}": content for name, content in files.items()})


def start_server(folder: Path) -> S3Server:
    ports = [free_port() for _ in range(4)]
    identities = [
        ("admin", KEY, SECRET, ["Admin", "Read", "Write", "List", "Tagging"]),
        ("reader", READER, READER_SECRET, ["Read", "List"]),
        ("nobody", EMPTY, EMPTY_SECRET, ["Read:elsewhere"]),
        ("anonymous", "", "", ["Read:public-data", "List:public-data"]),
    ]
    (folder / "s3.json").write_text(
        json.dumps(
            {
                "identities": [
                    {
                        "name": name,
                        "credentials": [{"accessKey": key, "secretKey": hidden}] if key else [],
                        "actions": actions,
                    }
                    for name, key, hidden, actions in identities
                ]
            }
        )
    )
    (folder / "store").mkdir()
    command = [
        str(Path(sysconfig.get_path("scripts")) / "weed"), "-logtostderr=true", "server", "-ip=127.0.0.1",
        "-ip.bind=127.0.0.1", f"-dir={folder / 'store'}", f"-master.port={ports[0]}", f"-volume.port={ports[1]}",
        "-filer", f"-filer.port={ports[2]}", "-s3", f"-s3.port={ports[3]}", f"-s3.config={folder / 's3.json'}",
        "-master.volumeSizeLimitMB=32", "-volume.max=2000",
        "-s3.port.iceberg=0", "-s3.port.lance=0",  # off: their fixed ports are taken by another test process's server
    ]  # fmt: skip
    with (folder / "server.log").open("wb") as log:
        process = subprocess.Popen(
            command, stdout=log, stderr=log, cwd=folder, env={"PATH": os.environ["PATH"], "HOME": str(folder)}
        )
    server = S3Server(f"127.0.0.1:{ports[3]}", process)
    deadline = time.monotonic() + 90
    while time.monotonic() < deadline and process.poll() is None:
        with contextlib.suppress(Exception):
            server.put("ready", {"ready": b"1"})
            return server
        time.sleep(0.3)
    process.kill()
    raise AssertionError(f"the S3 server did not start:\n{(folder / 'server.log').read_text()[-3000:]}")


@pytest.fixture(scope="session")
def s3_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    """One server for all tests of a process."""
    server = start_server(tmp_path_factory.mktemp("weed"))
    yield server
    server.process.kill()  # asked kindly, it takes half a minute, and what it holds is thrown away
    server.process.wait(20)


@pytest.fixture
def bucket() -> str:
    """A name that no other test uses."""
    return f"b-{uuid.uuid4().hex[:12]}"


@pytest.fixture(scope="session")
def many(s3_server: S3Server) -> dict[str, bytes]:
    """1203 objects below `tree` in the bucket `many`, and a few beside it that must never come."""
    files = {f"part {n % 7}/é日 +%&?=~'{n}.bin": f"content {n}".encode() * (n % 9 + 1) for n in range(1203)}
    s3_server.put("many", {f"tree/{name}": content for name, content in files.items()})
    s3_server.put("many", {"tree2/other": b"not asked for", "tree.txt": b"nor this"})
    return files


@dataclass
class CuttingProxy:
    """Passes bytes on between a client and the server, and hangs up after `cut_after` bytes of an answer, as many
    times as `cuts`; counts what it passed on."""

    target: str
    cut_after: int = 0
    cuts: int = 0
    delay_s: float = 0.0
    sent: int = 0
    connections: int = 0
    open: int = 0
    most_open: int = 0
    requests: list[bytes] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._lock = threading.Lock()
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.host = f"127.0.0.1:{self._listener.getsockname()[1]}"
        self._thread = threading.Thread(target=self._accept, daemon=True)
        self._thread.start()

    @property
    def endpoint(self) -> str:
        return f"http://{self.host}"

    def close(self) -> None:
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._thread.join(5)

    def gets(self, part: bytes) -> list[bytes]:
        """Request heads of GETs whose path holds this."""
        return [head for head in self.requests if head.startswith(b"GET ") and part in head.split()[1].split(b"?")[0]]

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            threading.Thread(target=self._serve, args=(client,), daemon=True).start()

    def _serve(self, client: socket.socket) -> None:
        host, _, port = self.target.partition(":")
        server = socket.create_connection((host, int(port)))
        with self._lock:
            self.connections += 1
            self.open += 1
            self.most_open = max(self.most_open, self.open)
        threading.Thread(target=self._upwards, args=(client, server), daemon=True).start()
        passed = 0
        with contextlib.suppress(OSError), client, server:
            while chunk := server.recv(16384):
                if self.delay_s:
                    time.sleep(self.delay_s)
                with self._lock:
                    cutting = self.cuts > 0 and passed + len(chunk) > self.cut_after
                    if cutting:
                        self.cuts -= 1
                        chunk = chunk[: max(0, self.cut_after - passed)]
                    self.sent += len(chunk)
                client.sendall(chunk)
                passed += len(chunk)
                if cutting:
                    client.shutdown(socket.SHUT_RDWR)
                    break
        with self._lock:
            self.open -= 1

    def _upwards(self, client: socket.socket, server: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while chunk := client.recv(65536):
                if chunk.startswith((b"GET ", b"HEAD ")):
                    self.requests.append(chunk)
                server.sendall(chunk)
        with contextlib.suppress(OSError):
            server.shutdown(socket.SHUT_WR)


@pytest.fixture
def proxy(s3_server: S3Server) -> Iterator[CuttingProxy]:
    between = CuttingProxy(s3_server.host)
    yield between
    between.close()


@pytest.fixture
def s3_keys(monkeypatch: pytest.MonkeyPatch) -> None:
    """The environment of somebody who may read and write; nothing of whoever runs the tests, and short pauses."""
    for name in list(os.environ):
        if name.startswith(("MINIO_", "AWS_")) or name.lower() in ("http_proxy", "https_proxy", "all_proxy"):
            monkeypatch.delenv(name)
    monkeypatch.setenv("MINIO_ACCESS_KEY", KEY)
    monkeypatch.setenv("MINIO_SECRET_KEY", SECRET)
    monkeypatch.setattr(client_module, "Patience", lambda: Patience(first_pause_s=0.05, longest_pause_s=0.2))


def start_gateway(folder: Path) -> tuple[str, subprocess.Popen[bytes]]:
    """rclone's gateway for a folder: its folders are the buckets. Address and process."""
    port = free_port()
    command = [
        str(Path(sysconfig.get_path("scripts")) / "rclone"), "serve", "s3", "--addr", f"127.0.0.1:{port}",
        "--auth-key", f"{KEY},{SECRET}", "--config", str(folder / "none.conf"), str(folder / "buckets"),
    ]  # fmt: skip
    with (folder / "gateway.log").open("wb") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log, env={"PATH": "/", "HOME": str(folder)})
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and process.poll() is None:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
            return f"http://127.0.0.1:{port}", process
        time.sleep(0.1)
    process.kill()
    raise AssertionError(f"the gateway did not start:\n{(folder / 'gateway.log').read_text()[-2000:]}")


@pytest.fixture
def gateway(tmp_path: Path) -> Iterator[str]:
    """An odd one: errors that are no S3 errors, If-Match without effect, ranges under status 200."""
    (tmp_path / "buckets").mkdir()
    address, process = start_gateway(tmp_path)
    yield address
    process.kill()
    process.wait(20)


def source(endpoint: str, bucket: str, prefix: str = "", **settings: Any) -> S3Source:
    return S3Source(MinIODataSource(endpoint=endpoint, bucket=bucket, prefix=prefix, **settings))


def fetch(asked: S3Source, cache: Path, context: FetchContext | None = None) -> DataTree:
    """Plan and fetch into a folder named by the revision, as the core does."""
    plan = asked.plan()
    return asked.fetch(plan, cache / plan.revision, context or FetchContext())


def contents(root: Path) -> dict[str, bytes]:
    return {path.relative_to(root).as_posix(): path.read_bytes() for path in root.rglob("*") if path.is_file()}
