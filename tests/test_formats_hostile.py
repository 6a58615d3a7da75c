"""Whatever stands in a file, a reader answers with findings: it never raises, hangs or leaves the data."""

from __future__ import annotations

import random
import shutil
import string
from importlib.util import find_spec
from pathlib import Path

import pytest

import format_tools as tools
from data_tools import look
from detloom.data.layout import MAX_TEXT, read_text
from detloom.data.markup import Element, root_of, stream
from detloom.data.records import DataTree, Finding
from detloom.errors import DataError
from detloom.host import discover
from detloom.specs import FormatSpec

TEXTS = (".txt", ".yaml", ".xml", ".json", ".csv", ".data", ".names")
SPICE = [b"", b"\x00", b"\xff\xfe", b"-1", b"1e999", b"nan", b"../", b"<", b">", b"&", b"{", b"]", b":", b"\n", b'"']


def spoil(root: Path, rng: random.Random) -> None:
    """Change a few bytes of one annotation file: cut, repeat, replace, insert."""
    files = sorted(path for path in root.rglob("*") if path.suffix in TEXTS)
    path = rng.choice(files)
    data = bytearray(path.read_bytes())
    for _ in range(rng.randint(1, 4)):
        place = rng.randrange(len(data) + 1)
        end = min(len(data), place + rng.randint(0, 12))
        other = bytes(data[end : end + rng.randint(0, 30)])
        data[place:end] = rng.choice([rng.choice(SPICE), other * 2, rng.choice(string.printable).encode(), b""])
    path.write_bytes(bytes(data))


@pytest.mark.parametrize("layout", tools.LAYOUTS)
def test_spoiled_files_never_raise(layout: str, tmp_path: Path) -> None:
    """sniff and read of every format, on every layout, each with changes of its own."""
    tools.LAYOUTS[layout][1](tmp_path / "sound")
    there = find_spec("datumaro") is not None
    specs = [spec for spec in discover().specs(FormatSpec) if there or spec.name != "datumaro"]
    for seed in range(25):
        root = tmp_path / "spoiled"
        shutil.copytree(tmp_path / "sound", root)
        spoil(root, random.Random(f"{layout} {seed}"))
        for spec in specs:
            reader = spec.build(spec.settings())
            assert reader.sniff(DataTree(root)).reason, seed
            for item in reader.read(DataTree(root)):
                path = getattr(item, "path", None)
                assert path is None or path.resolve().is_relative_to(root), seed
        shutil.rmtree(root)


@pytest.mark.parametrize("layout", tools.LAYOUTS)
def test_a_check_of_spoiled_files_ends_with_a_report_or_a_sentence(layout: str, tmp_path: Path) -> None:
    wanted, write = tools.LAYOUTS[layout]
    write(tmp_path / "sound")
    for seed in range(4):
        root = tmp_path / "spoiled"
        shutil.copytree(tmp_path / "sound", root)
        spoil(root, random.Random(f"check {layout} {seed}"))
        try:
            look(root, format=wanted)
        except DataError as error:
            assert "hold" in error.message or "not" in error.message
        shutil.rmtree(root)


# ---- yaml


def test_a_yaml_of_aliases_costs_nothing(tmp_path: Path) -> None:
    """Nine lists of nine aliases each: a billion elements when unfolded."""
    tools.yolo_ultralytics(tmp_path)
    lines = ["a0: &a0 [x,x,x,x,x,x,x,x,x]"]
    lines += [f"a{n}: &a{n} [{','.join([f'*a{n - 1}'] * 9)}]" for n in range(1, 9)]
    tools.write(tmp_path / "data.yaml", "\n".join([*lines, "train: *a8", "val: images/val", "names: *a8", ""]))
    found = tools.findings(tools.records("yolo", tmp_path))
    assert {code for code, _ in found} == {"bad-record"}


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("names: [cat\n", "yaml-syntax"),
        ("- cat\n", "yaml-syntax"),
        ("", "yaml-syntax"),
        ("[" * 50_000, "yaml-syntax"),
        ("names: !!python/object/apply:os.system ['true']\ntrain: images/train\n", "class-count"),
        ("x" * (1 << 21), "unreadable-file"),
    ],
)
def test_a_yaml_that_is_none_is_named(text: str, code: str, tmp_path: Path) -> None:
    tools.yolo_ultralytics(tmp_path)
    tools.write(tmp_path / "data.yaml", text + ("nc: 2\n" if code == "class-count" else ""))
    (tmp_path / "data.yaml").rename(tmp_path / "pets.yaml")
    found = list(tools.reader("yolo").read(DataTree(tmp_path, annotations={"all": tmp_path / "pets.yaml"})))
    assert code in {item.code for item in found if isinstance(item, Finding)}


# ---- xml


def xml(tmp_path: Path, text: str | bytes) -> list[Element | Finding]:
    path = tmp_path / "a.xml"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return list(stream(path, "a.xml", {"a"}))


def test_elements_know_their_lines_texts_and_children(tmp_path: Path) -> None:
    (first, second) = xml(tmp_path, "<r>\n<a x='1'>hello <b>inner</b> there</a>\n\n<a>\n <c><d> deep </d></c></a></r>")
    assert isinstance(first, Element)
    assert (first.tag, first.attributes, first.line, first.text) == ("a", {"x": "1"}, 2, "hello  there")
    assert first.value("b") == "inner"
    assert isinstance(second, Element)
    assert (second.line, second.value("c", "d"), second.value("c", "none")) == (4, "deep", "")
    assert [child.line for child in second.children] == [5]


@pytest.mark.parametrize(
    "text",
    [
        '<!DOCTYPE r [<!ENTITY x "y">]><r><a>&x;</a></r>',
        '<!DOCTYPE r [<!ENTITY % x SYSTEM "file:///etc/passwd"> %x;]><r><a/></r>',
        '<!DOCTYPE r SYSTEM "http://127.0.0.1:9/x.dtd"><r><a>&x;</a></r>',
        "<r><a>&undefined;</a></r>",
        "<r><a>" + "<b>" * 100 + "</b>" * 100 + "</a></r>",
        '<?xml version="1.0" encoding="gb18030"?><r><a/></r>',
        '<?xml version="1.0" encoding="no-such"?><r><a/></r>',
        "<r><a></r>",
        "",
        "no xml at all",
    ],
)
def test_dangerous_and_broken_xml_is_a_finding(text: str, tmp_path: Path) -> None:
    items = xml(tmp_path, text)
    assert isinstance(items[-1], Finding)
    assert items[-1].code == "xml-syntax"
    assert items[-1].where.startswith("a.xml:1")
    assert root_of(tmp_path / "a.xml") in ("", "r")


def test_a_harmless_document_type_and_other_codings_are_read(tmp_path: Path) -> None:
    for text in (
        b"<!DOCTYPE r><r><a>x</a></r>",
        "<?xml version='1.0' encoding='utf-16'?><r><a>x</a></r>".encode("utf-16"),
        b"<?xml version='1.0' encoding='latin-1'?><r><a>x</a></r>",
        b"\xef\xbb\xbf<r><a>x</a></r>",
    ):
        (item,) = xml(tmp_path, text)
        assert isinstance(item, Element)
        assert item.text == "x"


def test_a_file_that_is_a_folder_or_too_large_is_a_finding(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    (item,) = stream(tmp_path / "folder", "folder", {"a"})
    assert isinstance(item, Finding)
    assert item.code == "unreadable-file"
    text = read_text(tmp_path / "folder", "folder")
    assert isinstance(text, Finding)
    (tmp_path / "large").write_bytes(b"x" * 100)
    large = read_text(tmp_path / "large", "large", 10)
    assert isinstance(large, Finding)
    assert large.code == "unreadable-file"
    assert MAX_TEXT >= 1 << 20
