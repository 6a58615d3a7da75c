"""Names that come from outside and become paths."""

from __future__ import annotations

import pytest

from detloom.safe_names import NameBook, UnsafeNameError, safe_name


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("../x", "climbs"),
        ("a/../../x", "climbs"),
        ("a\\..\\x", "climbs"),
        ("/etc/passwd", "absolute"),
        ("\\\\host\\share", "absolute"),
        ("C:\\x", "drive"),
        ("c:x", "drive"),
        ("a//b", "empty"),
        ("", "empty"),
        ("./", "empty"),
        ("a\nb", "control"),
        ("a\x00b", "control"),
        ("x" * 256, "longer"),
        ("ü" * 128, "longer"),
    ],
)
def test_names_that_lead_elsewhere_are_refused(name: str, why: str) -> None:
    with pytest.raises(UnsafeNameError, match=why):
        safe_name(name)


def test_ordinary_names_stay_as_they_are() -> None:
    for name in ("a/b.jpg", "é ü/日本.png", "a +%&?=.jpg", "..a/b..", "ab:c", ".hidden"):
        assert safe_name(name) == name
    assert safe_name("./a/./b") == "a/b"


@pytest.mark.parametrize(
    ("first", "second"),
    [("a.jpg", "A.jpg"), ("a", "a/b"), ("a/b", "a"), ("A/x", "a/y"), ("\u00e9", "e\u0301"), ("same", "same")],
)
def test_names_that_a_file_system_may_confuse_clash(first: str, second: str) -> None:
    book = NameBook()
    book.add(first)
    with pytest.raises(UnsafeNameError):
        book.add(second)


def test_names_that_differ_do_not_clash() -> None:
    book = NameBook()
    names = ("a/b/c", "a/b/d", "a/c", "b", "ab", "a.b")
    for name in names:
        book.add(name)
    for name in names:
        with pytest.raises(UnsafeNameError, match=f"clashes with '{name}'"):
            book.add(name.upper())
