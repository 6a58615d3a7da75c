"""`detloom check --html`: one page that needs nothing else, with the suspicious boxes where they are."""

from __future__ import annotations

import base64
import io
import json
import re
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from data_tools import document, edit, sound_data, write_split
from detloom.cli.main import main
from detloom.data.pages import SHOWN


class _Page(HTMLParser):
    """Pictures by the code of their section, every text, every address."""

    def __init__(self) -> None:
        super().__init__()
        self.pictures: dict[str, list[np.ndarray]] = {}
        self.texts: list[str] = []
        self.addresses: list[str] = []
        self.tags: set[str] = set()
        self._open: list[str] = []
        self._code = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        given = dict(attrs)
        self.addresses += [value or "" for key, value in attrs if key in ("src", "href")]
        self._open.append(tag)
        if tag == "section":
            self._code = ""
        if tag == "img":
            data = base64.b64decode((given["src"] or "").partition(",")[2])
            self.pictures.setdefault(self._code, []).append(np.asarray(Image.open(io.BytesIO(data))).astype(int))

    def handle_data(self, data: str) -> None:
        self.texts.append(data)
        if not self._code and self._open[-1:] == ["span"]:
            self._code = data.strip()


def page_of(root: Path, tmp_path: Path, *arguments: str) -> tuple[_Page, str, int]:
    place = tmp_path / "page.html"
    code = main(["check", str(root), "--html", str(place), *arguments])
    text = place.read_text(encoding="utf-8")
    page = _Page()
    page.feed(text)
    return page, text, code


def near(picture: np.ndarray, x: int, y: int, colour: tuple[int, int, int]) -> bool:
    """Whether a pixel within two of this place has about this colour."""
    patch = picture[max(y - 2, 0) : y + 3, max(x - 2, 0) : x + 3].reshape(-1, 3)
    return bool((np.abs(patch - colour).sum(axis=1) < 150).any())


RED, GREEN = (230, 57, 70), (42, 157, 63)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Gray pictures of 200 x 100 pixels, so that what is drawn is seen."""
    for split, count, seed in (("train", 4, 0), ("valid", 2, 100)):
        content = document(count, seed)
        for entry in content["images"]:
            entry.update(width=200, height=100)
        write_split(tmp_path / "data" / split, content, seed)
        for number in range(seed, seed + count):
            gray = np.full((100, 200, 3), 120, np.uint8)
            gray[:, number % 100 * 20 : number % 100 * 20 + 9] = 150
            Image.fromarray(gray).save(tmp_path / "data" / split / f"p{number}.png")
    return tmp_path / "data"


def test_a_box_is_drawn_as_written_and_as_used(root: Path, tmp_path: Path) -> None:
    edit(root, lambda c: c["annotations"][0].update(bbox=[150, 20, 80, 40], area=3200))
    page, _, code = page_of(root, tmp_path)
    assert code == 0
    (picture,) = page.pictures["box-outside"]
    assert picture.shape[:2] == (100, 236)  # 30 pixels outside, and a little room
    assert near(picture, 230, 40, RED)  # its right side, outside the picture
    assert near(picture, 199, 40, GREEN)  # where it is clipped
    assert not near(picture, 60, 80, RED) and not near(picture, 60, 80, GREEN)


def test_a_wild_box_does_not_make_a_wild_picture(root: Path, tmp_path: Path) -> None:
    edit(root, lambda c: c["annotations"][0].update(bbox=[-1e8, 20, 2e8, 40], area=1e9))
    page, _, _ = page_of(root, tmp_path)
    (picture,) = page.pictures["box-outside"]
    assert max(picture.shape) < 500


def test_only_a_few_pictures_of_a_code_are_shown(tmp_path: Path) -> None:
    root = sound_data(tmp_path / "data", images=12)
    edit(root, lambda c: [row.update(bbox=[1, 1, 0, 9]) for row in c["annotations"] if row["category_id"] == 3])
    page, text, _ = page_of(root, tmp_path)
    assert len(page.pictures["degenerate-box"]) == SHOWN
    assert f"and {12 - SHOWN} more" in text


def test_a_near_copy_is_shown_beside_its_original(tmp_path: Path) -> None:
    root = sound_data(tmp_path / "data")
    with Image.open(root / "train" / "p0.png") as first:
        first.save(root / "valid" / "p100.png", "JPEG", quality=80)
    page, _, _ = page_of(root, tmp_path)
    (pair,) = page.pictures["near-leakage"]
    assert pair.shape[:2] == (48, 64 + 8 + 64)
    assert np.abs(pair[4:44, 4:60] - pair[4:44, 76:132]).mean() < 12


def test_the_page_needs_nothing_else_and_hostile_names_stay_text(tmp_path: Path) -> None:
    root = sound_data(tmp_path / "data")
    evil = "<script>alert(1)</script>.png"
    edit(root, lambda c: c["images"][0].update(file_name=evil.replace("/", "\\")))
    edit(root, lambda c: c["categories"][0].update(name="<img src=x onerror=alert(1)>"), "valid")
    page, text, code = page_of(root, tmp_path)
    assert code == 3
    assert "script" not in page.tags and "onerror" not in re.sub(r"&lt;.*?&gt;", "", text)
    assert all(address.startswith(("data:", "#")) for address in page.addresses)
    assert "default-src 'none'" in text
    assert any("alert(1)" in part for part in page.texts)


def test_what_has_no_picture_is_a_text(tmp_path: Path) -> None:
    root = sound_data(tmp_path / "data")
    (root / "train" / "p0.png").unlink()
    (root / "train" / "p1.png").write_bytes(b"no picture")
    page, _, code = page_of(root, tmp_path)
    assert code == 3
    assert page.pictures == {}
    shown = " ".join(page.texts)
    assert "image id 1 (p0.png)" in shown and "image id 2 (p1.png" in shown
    assert "4 of 6 images usable" in shown and "8 of 12 objects" in shown


def test_sound_data_make_a_page_too(tmp_path: Path) -> None:
    page, _, code = page_of(sound_data(tmp_path / "data"), tmp_path)
    assert code == 0
    assert "Nothing was found." in " ".join(page.texts)


def test_the_page_also_comes_with_json_and_with_a_corrected_copy(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = sound_data(tmp_path / "data")
    edit(root, lambda c: c["annotations"][0].update(category_id=99))
    _, text, code = page_of(root, tmp_path, "--json")
    answer = json.loads(capsys.readouterr().out)
    assert code == 3 and "unknown-class" in text
    assert answer["images"] == {"listed": 6, "used": 6, "left_out": 0}
    assert answer["objects"] == {"listed": 12, "used": 11, "left_out": 1}
    _, text, code = page_of(root, tmp_path, "--fix", str(tmp_path / "out"))
    assert code == 0 and "unknown-class" in text


def test_a_page_that_cannot_be_written_is_one_sentence(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = sound_data(tmp_path / "data")
    (tmp_path / "taken").mkdir()
    assert main(["check", str(root), "--html", str(tmp_path / "taken")]) == 1
    assert "taken" in capsys.readouterr().err
