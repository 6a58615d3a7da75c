"""XML of annotation tools, as a stream of small trees that know their lines.

A document type that declares entities is refused, nothing outside the file is ever fetched, and depth and size are
bounded: a file of one kilobyte can otherwise unfold to gigabytes.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO
from xml.parsers import expat

from detloom.data.findings import found
from detloom.data.records import Finding

MAX_DEPTH = 64
MAX_TEXT = 1 << 26
"""Characters of one element's text: 64 Mi, more than any mask needs."""


@dataclass(slots=True)
class Element:
    """line: where it begins, from 1. text: of this element alone, up to its first child and between children."""

    tag: str
    attributes: dict[str, str]
    line: int
    children: list[Element] = field(default_factory=list)
    pieces: list[str] = field(default_factory=list)

    @property
    def text(self) -> str:
        return "".join(self.pieces).strip()

    def child(self, tag: str) -> Element | None:
        for child in self.children:
            if child.tag == tag:
                return child
        return None

    def all(self, tag: str) -> Iterator[Element]:
        return (child for child in self.children if child.tag == tag)

    def value(self, *tags: str) -> str:
        """Text of the element at the end of this path of tags; empty when there is none."""
        node: Element | None = self
        for tag in tags:
            node = node.child(tag) if node is not None else None
        return node.text if node is not None else ""


class _RefusedError(Exception):
    """The file is dangerous or makes no sense; the text says why."""


def stream(path: Path, name: str, wanted: Collection[str]) -> Iterator[Element | Finding]:
    """Each element whose tag is in `wanted`, whole, as soon as it ends; inside it nothing is given twice.

    The last thing is a finding when the file is broken from there on. name: of the file, for findings.
    """
    builder = _Builder(frozenset(wanted))
    parser = _parser(builder)
    try:
        with path.open("rb") as file:
            yield from _feed(parser, builder, file)
    except _RefusedError as fault:
        yield found("xml-syntax", f"{name}:{parser.CurrentLineNumber} ({fault})")
    except expat.ExpatError as fault:
        reason = expat.ErrorString(fault.code)
        yield found("xml-syntax", f"{name}:{fault.lineno} (column {fault.offset + 1}: {reason})")
    except (LookupError, ValueError) as fault:  # an encoding that is not there
        yield found("xml-syntax", f"{name}:{parser.CurrentLineNumber} ({fault})")
    except OSError as fault:
        yield found("unreadable-file", f"{name} ({fault.strerror or fault})")


def root_of(path: Path) -> str:
    """The tag of the outermost element; empty when the file is not XML."""
    tags: list[str] = []
    parser = expat.ParserCreate()
    parser.EntityDeclHandler = _refuse_entities
    parser.StartElementHandler = lambda tag, attributes: tags.append(tag)
    try:
        with path.open("rb") as file:
            while not tags and (data := file.read(4096)):
                parser.Parse(data, False)
    except (OSError, expat.ExpatError, LookupError, ValueError, _RefusedError):
        return tags[0] if tags else ""
    return tags[0] if tags else ""


def _feed(parser: expat.XMLParserType, builder: _Builder, file: BinaryIO) -> Iterator[Element]:
    while data := file.read(1 << 18):
        try:
            parser.Parse(data, False)
        except Exception:
            yield from builder.taken()  # what was whole before the fault
            raise
        yield from builder.taken()
    parser.Parse(b"", True)
    yield from builder.taken()


def _parser(builder: _Builder) -> expat.XMLParserType:
    parser = expat.ParserCreate()
    parser.buffer_text = True
    builder.parser = parser
    parser.StartElementHandler = builder.start
    parser.EndElementHandler = builder.end
    parser.CharacterDataHandler = builder.characters
    parser.EntityDeclHandler = _refuse_entities
    parser.ExternalEntityRefHandler = _refuse_entities
    parser.SkippedEntityHandler = _refuse_entities
    return parser


def _refuse_entities(*_: object) -> int:
    raise _RefusedError("it declares or uses entities of its own, which are not followed")


class _Builder:
    """Handlers of the parser. Only elements inside a wanted one are kept."""

    def __init__(self, wanted: frozenset[str]) -> None:
        self.parser: expat.XMLParserType | None = None
        self._wanted = wanted
        self._depth = 0
        self._open: list[Element] = []
        self._done: list[Element] = []
        self._characters = 0

    def taken(self) -> list[Element]:
        done, self._done = self._done, []
        return done

    def start(self, tag: str, attributes: dict[str, str]) -> None:
        self._depth += 1
        if self._depth > MAX_DEPTH:
            raise _RefusedError(f"nested more than {MAX_DEPTH} deep")
        if self._open or tag in self._wanted:
            assert self.parser is not None
            element = Element(tag, attributes, self.parser.CurrentLineNumber)
            if self._open:
                self._open[-1].children.append(element)
            self._open.append(element)

    def end(self, tag: str) -> None:
        self._depth -= 1
        if self._open:
            element = self._open.pop()
            if not self._open:
                self._done.append(element)
                self._characters = 0

    def characters(self, text: str) -> None:
        if self._open:
            self._characters += len(text)
            if self._characters > MAX_TEXT:
                raise _RefusedError("more text in one element than is sane")
            self._open[-1].pieces.append(text)
