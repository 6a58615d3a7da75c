"""docs/check.md says what is so."""

from __future__ import annotations

import re
from pathlib import Path

from data_tools import look, sound_data
from detloom.cli.main import main
from detloom.data.codes import CODES
from detloom.data.policy import LENIENT_LIMIT

PAGE = (Path(__file__).parent.parent / "docs" / "check.md").read_text(encoding="utf-8")


def test_every_code_stands_in_the_page_with_its_severity_and_meaning_and_no_other() -> None:
    rows = re.findall(r"^\| `([a-z-]+)` \| (error|warning|info) \| (.+?) \| .* \|$", PAGE, re.MULTILINE)
    assert {code: (severity, message) for code, severity, message in rows} == {
        code: (known.severity, known.message) for code, known in CODES.items()
    }
    assert len(rows) == len(CODES)


def test_the_limit_of_lenient_is_the_written_one() -> None:
    assert f"`lenient` takes {LENIENT_LIMIT}" in PAGE


def test_the_commands_of_the_page_run(tmp_path: Path) -> None:
    root = sound_data(tmp_path / "data")
    block = PAGE.split("```")[1]
    commands = [re.split(r"  +", line)[0] for line in block.strip().split("\n")]
    assert len(commands) == 5
    for command in commands:
        words = command.split()[1:]
        places = {"DATA": str(root), "OUT": str(tmp_path / "out"), "page.html": str(tmp_path / "page.html")}
        assert main([places.get(word, word) for word in words]) == 0, command
    assert (tmp_path / "page.html").is_file()
    assert (tmp_path / "out" / "changes" / "changes.txt").is_file()
    assert look(tmp_path / "out").findings == ()
