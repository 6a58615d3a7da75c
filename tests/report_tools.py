"""A page read as strictly as no browser reads it, and the report of a run's folder as such a page."""

from __future__ import annotations

from html.parser import HTMLParser
from pathlib import Path

from detloom.report import load_report_data, write_report

VOID = {"meta", "link", "img", "br", "hr", "input"}
OPTIONAL_IN_SVG = {"path", "rect", "circle"}


class Page(HTMLParser):
    """Strict enough to notice what a browser would quietly repair: every tag is closed, in order."""

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.text = text
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []
        self.feed(text)
        self.close()
        assert self.open == [], f"never closed: {self.open}"

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        names = [name for name, _ in attrs]
        assert len(names) == len(set(names)), f"<{tag}> repeats an attribute"
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert tag in OPTIONAL_IN_SVG, f"<{tag}/> does not close an HTML element"
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open and self.open[-1] == tag, f"</{tag}> closes {self.open[-1:]}"
        self.open.pop()

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] not in {"style", "title"}:
            self.words.append(data.strip())

    @property
    def shown(self) -> str:
        return " ".join(" ".join(word for word in self.words if word).split())

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.tags if name == tag]


def report(folder: Path) -> Page:
    write_report(load_report_data(folder), folder / "report.html")
    return Page((folder / "report.html").read_text(encoding="utf-8"))
