"""Data in a bucket: what is known without a server. Settings, keys, names, etags, faults of the SDK."""

from __future__ import annotations

import hashlib
import os
import re
from pathlib import Path
from typing import Any

import pytest
import urllib3
from minio.error import InvalidResponseError, S3Error, ServerError
from pydantic import ValidationError

from conftest import ROOT
from detloom.errors import DataError, DetloomError, UnreachableError, UsageError
from detloom.transfer import AccessError, ChangedError, NotThereError
from detloom_integrations.s3.access import Access, access_of
from detloom_integrations.s3.errors import asked_pause, is_transient, translated
from detloom_integrations.s3.listing import StoredObject, below, place, revision_of
from detloom_integrations.s3.verify import agrees, hides_content, parts_etag
from detloom_schemas.data_config import MinIODataSource

MIB = 1 << 20
KEYS = {"MINIO_ACCESS_KEY": "me", "MINIO_SECRET_KEY": "hidden-secret"}
ACCESS = Access("h:9000", False, "photos", "cells", None, "the-key", "the/secret+", names=("K", "S"))


def access(environ: dict[str, str] | None = None, **settings: Any) -> Access:
    given = {"endpoint": "http://h:9000", "bucket": "photos", **settings}
    return access_of(MinIODataSource(**given), KEYS if environ is None else environ)


# ---- where the server is ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "environ", "address"),
    [
        ({"endpoint": "http://h:9000"}, {}, "http://h:9000"),
        ({"endpoint": "https://h"}, {}, "https://h"),
        ({"endpoint": "HTTP://h:9000/"}, {}, "http://h:9000"),
        ({"endpoint": "h:9000"}, {}, "https://h:9000"),
        ({"endpoint": "h:9000", "secure": False}, {}, "http://h:9000"),
        ({"endpoint": "h:9000"}, {"MINIO_SECURE": "False"}, "http://h:9000"),
        ({"endpoint": "h:9000", "secure": True}, {"MINIO_SECURE": "0"}, "https://h:9000"),
        ({"endpoint": None}, {"MINIO_ENDPOINT": "localhost:9000", "MINIO_SECURE": "no"}, "http://localhost:9000"),
        ({"endpoint": None}, {"AWS_ENDPOINT_URL": "http://a"}, "http://a"),
        ({"endpoint": "http://b"}, {"MINIO_ENDPOINT": "http://a"}, "http://b"),
        ({"endpoint": "http://[::1]:9000"}, {}, "http://[::1]:9000"),
    ],
)
def test_endpoints_are_read_with_and_without_a_scheme(
    settings: dict[str, Any], environ: dict[str, str], address: str
) -> None:
    assert access({**KEYS, **environ}, **settings).address == address


@pytest.mark.parametrize(
    ("settings", "why"),
    [
        ({"endpoint": None}, "no S3 server was named"),
        ({"endpoint": "ftp://h"}, "begins with ftp://"),
        ({"endpoint": "http://h:9000/photos"}, "goes on after the host"),
        ({"endpoint": "http://"}, "names no host"),
        ({"endpoint": "http://h:port"}, "names no host and port"),
        ({"endpoint": "http://h:99999"}, "names no host and port"),
        ({"endpoint": "http://h:9000", "secure": True}, "keep one of them"),
        ({"bucket": ""}, "--minio-bucket"),
        ({"bucket": "photos/cells"}, "data.s3.prefix"),
        ({"bucket": "s3://photos"}, "data.s3.prefix"),
        ({"bucket": "a"}, "3 to 63"),
        ({"bucket": "a..b"}, "cannot name a bucket"),
    ],
)
def test_settings_that_cannot_be_meant_are_refused(settings: dict[str, Any], why: str) -> None:
    with pytest.raises(UsageError) as raised:
        access(**settings)
    assert why in str(raised.value)


def test_a_password_in_the_endpoint_is_refused_and_not_shown() -> None:
    with pytest.raises(UsageError, match="keys come from the environment") as raised:
        access(endpoint="http://me:pass-word@h:9000")
    assert "pass-word" not in str(raised.value)


def test_slashes_around_a_prefix_do_not_count() -> None:
    assert access(prefix="/a/b/").identity == "http://h:9000/photos/a/b"


def test_the_documentation_names_every_setting_and_every_message() -> None:
    page = (ROOT / "docs" / "s3.md").read_text(encoding="utf-8")
    settings = {f"data.s3.{name}" for name in MinIODataSource.model_fields}
    assert set(re.findall(r"data\.s3\.\w+", page)) == settings
    code = "".join(
        path.read_text(encoding="utf-8")
        for folder in ("integrations/detloom_integrations/s3", "core/detloom")
        for path in (ROOT / folder).glob("*.py")
    )
    rows = re.findall(r"^\| [35] \| (.+?) \|", page, flags=re.MULTILINE)
    pieces = [piece.strip() for row in rows for piece in re.split(r",|\.\.\.", row)]
    wrong_keys = ("does not accept the access key", "does not accept the secret key")
    assert [piece for piece in pieces if piece not in code and piece not in wrong_keys] == []
    assert len(rows) == 10


# ---- keys ---------------------------------------------------------------------------------------------------------


def test_keys_come_as_a_pair_from_the_environment() -> None:
    aws = {"AWS_ACCESS_KEY_ID": "a", "AWS_SECRET_ACCESS_KEY": "b", "AWS_SESSION_TOKEN": "t"}
    root = {"MINIO_ROOT_USER": "r", "MINIO_ROOT_PASSWORD": "p"}
    assert (access({**aws, **root, **KEYS}).key, access({**aws, **root}).key) == ("me", "r")
    found = access(aws)
    assert (found.key, found.secret, found.token) == ("a", "b", "t")


def test_variables_of_other_names_can_be_said() -> None:
    environ = {**KEYS, "LAB_KEY": "lab", "LAB_SECRET": "lab-secret", "LAB_TOKEN": "lab-token"}
    found = access(environ, access_key_env="LAB_KEY", secret_key_env="LAB_SECRET", session_token_env="LAB_TOKEN")
    assert (found.key, found.secret, found.token) == ("lab", "lab-secret", "lab-token")
    with pytest.raises(AccessError, match="OTHER_KEY"):
        access(environ, access_key_env="OTHER_KEY", secret_key_env="OTHER_SECRET")


def test_missing_keys_name_the_variable_that_is_missing() -> None:
    with pytest.raises(AccessError, match=r"has MINIO_ACCESS_KEY but not MINIO_SECRET_KEY") as raised:
        access({"MINIO_ACCESS_KEY": "me", "AWS_ACCESS_KEY_ID": "a", "AWS_SECRET_ACCESS_KEY": "b"})
    assert raised.value.exit_code == 5
    with pytest.raises(AccessError, match=r"MINIO_ACCESS_KEY and MINIO_SECRET_KEY[\s\S]*anonymous"):
        access({})
    assert access({}, anonymous=True).key == ""
    assert access(KEYS, anonymous=True).secrets == ()


def test_a_key_in_the_place_of_a_name_is_refused() -> None:
    with pytest.raises(ValidationError):
        MinIODataSource(secret_key_env="wJalrXUtnFEMI/K7MDENG")


def test_secrets_do_not_show_in_the_printed_form() -> None:
    assert "the/secret+" not in repr(ACCESS) and "the-key" not in repr(ACCESS)


# ---- from keys to files -------------------------------------------------------------------------------------------


def stored(key: str, size: int = 1, etag: str = "e", version: str = "") -> StoredObject:
    return StoredObject(key, etag, size, version)


def paths(*keys: str, prefix: str = "", unpack: bool = True) -> dict[str, str | None]:
    placed = place([stored(key) for key in keys], prefix, unpack=unpack, label="b")
    return {one.path: one.folder for one in placed}


def test_a_prefix_is_a_folder_and_not_the_beginning_of_a_name() -> None:
    assert [below(key, "data") for key in ("data/a", "data", "data2/a", "dat")] == [True, True, False, False]
    assert below("anything", "")


def test_keys_become_paths_below_the_prefix() -> None:
    assert set(paths("p/a.jpg", "p/é ü/日本 +%&?=.png", prefix="p")) == {"a.jpg", "é ü/日本 +%&?=.png"}
    assert set(paths("p/q/set.json", prefix="p/q/set.json")) == {"set.json"}


def test_markers_of_folders_are_passed_over() -> None:
    objects = [stored("p/", 0), stored("p/train/", 0), stored("p/train/a.jpg")]
    assert [one.path for one in place(objects, "p", unpack=True, label="b")] == ["train/a.jpg"]


@pytest.mark.parametrize(
    ("keys", "why"),
    [
        (["p/../../etc/x"], "climbs"),
        (["p//etc/x"], "absolute"),
        (["p/C:/x"], "drive"),
        (["p/a\\..\\x"], "backslash"),
        (["p/./x"], "dot"),
        (["p/a\x07"], "control"),
        (["p/full/"], "empty"),
        (["p/A.jpg", "p/a.jpg"], "clashes with 'A.jpg'"),
        (["p/a", "p/a/b"], "'a' is a file"),
        (["p/e\u0301", "p/\u00e9"], "clash"),
    ],
)
def test_keys_that_cannot_be_files_stop_the_plan_by_name(keys: list[str], why: str) -> None:
    with pytest.raises(DataError, match="nothing was downloaded") as raised:
        paths(*keys, "p/good.jpg", prefix="p")
    assert why in raised.value.message
    assert repr(keys[-1]) in raised.value.message


def test_of_many_bad_keys_the_first_are_shown_and_all_are_counted() -> None:
    with pytest.raises(DataError, match=r"12 objects[\s\S]*and 7 more"):
        paths(*(f"../{n}" for n in range(12)))


def test_archives_get_a_folder_unless_it_is_taken() -> None:
    assert paths("set.zip") == {"set.zip": "."}
    assert paths("a/train.zip", "valid.tar.gz") == {"a/train.zip": "a/train", "valid.tar.gz": "valid"}
    assert paths("images.zip", "train.json") == {"images.zip": "images", "train.json": None}
    assert paths("train.zip", "train/a.jpg") == {"train.zip": None, "train/a.jpg": None}
    assert paths("a.zip", "a.tar") == {"a.zip": None, "a.tar": None}
    assert paths("set.zip", unpack=False) == {"set.zip": None}


def test_a_revision_knows_what_and_forgets_the_order() -> None:
    def revision(*objects: StoredObject, unpack: bool = True) -> str:
        return revision_of(place(objects, "", unpack=unpack, label="b"))

    first = revision(stored("a"), stored("b"))
    assert revision(stored("b"), stored("a")) == first
    others = [
        revision(stored("a")),
        revision(stored("a"), stored("c")),
        revision(stored("a"), stored("b", size=2)),
        revision(stored("a"), stored("b", etag="f")),
        revision(stored("a"), stored("b", version="1")),
    ]
    assert len({first, *others}) == 6
    assert revision(stored("a.zip")) != revision(stored("a.zip"), unpack=False)


# ---- etags --------------------------------------------------------------------------------------------------------


def independent_etag(content: bytes, sizes: list[int]) -> str:
    pieces, position = b"", 0
    for size in sizes:
        pieces += hashlib.md5(content[position : position + size]).digest()
        position += size
    return f"{hashlib.md5(pieces).hexdigest()}-{len(sizes)}"


def test_etags_are_recomputed_also_of_uploads_in_parts(tmp_path: Path) -> None:
    content, file = os.urandom(11 * MIB), tmp_path / "f"
    file.write_bytes(content)
    usual, odd = [5 * MIB, 5 * MIB, MIB], [3 * MIB + 7, 3 * MIB + 7, 5 * MIB - 14]

    def unknown(number: int) -> int:
        return 0

    assert agrees(file, hashlib.md5(content).hexdigest(), unknown) is True
    assert agrees(file, hashlib.md5(b"x").hexdigest(), unknown) is False
    assert agrees(file, independent_etag(content, usual), unknown) is True
    assert agrees(file, independent_etag(content, [len(content)]), unknown) is True
    assert agrees(file, independent_etag(content, odd), unknown) is None
    assert agrees(file, independent_etag(content, odd), lambda number: odd[number - 1]) is True
    assert agrees(file, independent_etag(b"x" * len(content), odd), lambda number: odd[number - 1]) is False
    assert agrees(file, "0x8D4BCC2E4835CD0", unknown) is None
    assert parts_etag(file, usual) == independent_etag(content, usual)


def test_encryption_whose_etags_are_no_md5_is_known() -> None:
    assert hides_content({"x-amz-server-side-encryption": "aws:kms"})
    assert hides_content({"x-amz-server-side-encryption-customer-algorithm": "AES256"})
    assert not hides_content({"x-amz-server-side-encryption": "AES256"}) and not hides_content({})


# ---- faults of the SDK --------------------------------------------------------------------------------------------


class Response:
    def __init__(self, status: int, **headers: str) -> None:
        self.status, self.headers = status, headers


def s3_error(code: str, status: int = 400, message: str = "m", **headers: str) -> S3Error:
    return S3Error(Response(status, **headers), code, message, "/photos", "id", "host", "photos")  # type: ignore[arg-type]


POOL = urllib3.HTTPConnectionPool("h")


@pytest.mark.parametrize(
    ("error", "transient"),
    [
        (s3_error("SlowDown", 503), True),
        (s3_error("InternalError", 500), True),
        (s3_error("Strange", 503), True),
        (s3_error("AccessDenied", 403), False),
        (s3_error("PreconditionFailed", 412), False),
        (ServerError("m", 502), True),
        (ServerError("m", 304), False),
        (InvalidResponseError(429, "text/plain", "x"), True),
        (InvalidResponseError(403, "text/xml", "x"), False),
        (urllib3.exceptions.ProtocolError("Connection broken"), True),
        (urllib3.exceptions.IncompleteRead(1, 2), True),
        (urllib3.exceptions.ReadTimeoutError(POOL, "/", "m"), True),
        (urllib3.exceptions.MaxRetryError(POOL, "/", ConnectionResetError()), True),
        (urllib3.exceptions.MaxRetryError(POOL, "/", urllib3.exceptions.SSLError("CERTIFICATE_VERIFY_FAILED")), False),
        (urllib3.exceptions.SSLError("UNEXPECTED_EOF"), True),
        (ConnectionResetError(), True),
        (ValueError("m"), False),
    ],
    ids=lambda value: repr(value)[:60],
)
def test_faults_that_pass_are_told_from_those_that_stay(error: Exception, transient: bool) -> None:
    assert is_transient(error) is transient


@pytest.mark.parametrize(
    ("error", "kind", "words"),
    [
        (s3_error("SignatureDoesNotMatch", 403), AccessError, ["secret key (S)", ".env"]),
        (s3_error("InvalidAccessKeyId", 403), AccessError, ["access key (K)", ".env"]),
        (s3_error("ExpiredToken"), AccessError, ["session token", "new one"]),
        (s3_error("AccessDenied", 403), AccessError, ["denies", "s3:ListBucket"]),
        (s3_error("RequestTimeTooSkewed", 403, Date="Sat, 01 Jan 2000 00:00:00 GMT"), AccessError, ["clock", " s:"]),
        (s3_error("PermanentRedirect", 301), AccessError, ["data.s3.region"]),
        (s3_error("NoSuchBucket", 404), NotThereError, ["'photos'"]),
        (s3_error("NoSuchKey", 404), ChangedError, ["removed", "run the command again"]),
        (s3_error("PreconditionFailed", 412), ChangedError, ["changed", "run the command again"]),
        (s3_error("InvalidObjectState", 403), DataError, ["archive class", "restore"]),
        (s3_error("SlowDown", 503), UnreachableError, ["busy"]),
        (s3_error("SomethingNew", 400), UnreachableError, ["SomethingNew"]),
        (InvalidResponseError(403, "text/xml", "<x>"), AccessError, ["denies", "HTTP 403"]),
        (InvalidResponseError(200, "text/html", "<html>"), UnreachableError, ["web page", "9001"]),
        (InvalidResponseError(404, "text/plain", "x"), NotThereError, ["data.s3.bucket"]),
        (InvalidResponseError(412, "text/xml", "x"), ChangedError, ["changed"]),
        (InvalidResponseError(503, "text/plain", "x"), UnreachableError, ["503"]),
        (InvalidResponseError(418, "text/plain", "x"), UnreachableError, ["data.s3.endpoint"]),
        (ServerError("m", 500), UnreachableError, ["500"]),
        (urllib3.exceptions.NameResolutionError("h", urllib3.connection.HTTPConnection("h"), OSError()),  # type: ignore[arg-type]
         UnreachableError, ["not known"]),
        (urllib3.exceptions.SSLError("[SSL: CERTIFICATE_VERIFY_FAILED]"), UnreachableError, ["SSL_CERT_FILE"]),
        (urllib3.exceptions.SSLError("[SSL: WRONG_VERSION_NUMBER]"), UnreachableError, ["http://h:9000"]),
        (urllib3.exceptions.ProtocolError("cut"), UnreachableError, ["again to go on"]),
        (ValueError("strange"), DataError, ["strange"]),
    ],
    ids=lambda value: repr(value)[:50],
)  # fmt: skip
def test_every_family_of_faults_becomes_an_error_with_a_remedy(
    error: Exception, kind: type[DetloomError], words: list[str]
) -> None:
    made = translated(error, ACCESS)
    assert type(made) is kind
    assert made.hint
    assert "h:9000" in str(made) or "photos" in str(made)
    assert all(word in str(made) for word in words), str(made)


def test_no_fault_shows_a_secret() -> None:
    for error in (
        s3_error("SomethingNew", message="the key the-key with the/secret+ is odd"),
        s3_error("AccessDenied", message="signature the%2Fsecret%2B"),
        ValueError("the/secret+"),
    ):
        text = str(translated(error, ACCESS))
        assert "the-key" not in text and "secret+" not in text and "secret%2B" not in text
        assert "***" in text


def test_a_server_can_say_how_long_to_wait() -> None:
    assert asked_pause(s3_error("SlowDown", 503, **{"Retry-After": "7"})) == 7.0
    assert asked_pause(s3_error("SlowDown", 503)) is None
    assert asked_pause(ValueError()) is None
