"""docs/cvat.md says what is true."""

from __future__ import annotations

import re
from pathlib import Path

from detloom_integrations.cvat import server
from detloom_schemas.data_config import CVATDataSource

ROOT = Path(__file__).resolve().parent.parent
PAGE = (ROOT / "docs/cvat.md").read_text(encoding="utf-8")


def test_every_setting_is_explained_and_no_other() -> None:
    named = set(re.findall(r"`data\.cvat\.(\w+)`", PAGE))
    assert named == set(CVATDataSource.model_fields)


def test_every_message_can_be_shown() -> None:
    """Read from the sources: each message of the table stands there, word for word."""
    code = "".join(path.read_text() for path in (ROOT / "integrations/detloom_integrations/cvat").glob("*.py"))
    messages = re.findall(r"^\| \d \| ([^|]+) \|", PAGE, re.MULTILINE)
    assert len(messages) > 8
    for message in messages:
        words = message.removesuffix(" a task").replace("has no task", "has no ")
        assert words.strip() in code, message


def test_the_numbers_are_those_of_the_code() -> None:
    assert f"servers from {'.'.join(map(str, server.SDK_FROM))} on" in PAGE
    assert f"silent ({CVATDataSource().timeout:g})" in PAGE
    assert ", ".join(map(str, server._BUSY)) in PAGE
