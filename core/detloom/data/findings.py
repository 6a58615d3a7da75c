"""What the data check found: collected, counted, told."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, field, replace
from difflib import get_close_matches
from pathlib import Path

from detloom.data.codes import CODES, NEVER_ALLOWED
from detloom.data.records import Finding
from detloom.errors import DataError

PLACES_SHOWN = 5
Box = tuple[float, float, float, float]


class DataRefusedError(DataError):
    """The check found errors that are not allowed. findings: everything that was found."""

    def __init__(self, name: str, findings: Sequence[Finding], allow: Collection[str] = ()) -> None:
        errors = refused(findings, allow)
        count = "1 error" if len(errors) == 1 else f"{len(errors)} errors"
        lines = "\n".join(f"  {describe(finding)}" for finding in errors)
        # Allowing some codes does not help where there is nothing to go on with.
        codes = "" if any(error.code in NEVER_ALLOWED for error in errors) else ", ".join(allowable(errors))
        leave = f", or leave out what they name: --set data.allow='[{codes}]'" if codes else ""
        super().__init__(f"{name}: the data have {count}:\n{lines}", hint=f"repair the data{leave}")
        self.findings = tuple(findings)


def refused(findings: Iterable[Finding], allow: Collection[str]) -> list[Finding]:
    """The errors that stop a training."""
    allowed = set(allow) - NEVER_ALLOWED
    return [finding for finding in findings if finding.severity == "error" and finding.code not in allowed]


def useless_codes(allow: Iterable[str], findings: Iterable[Finding]) -> list[str]:
    """A sentence for each code that was allowed and means nothing here: misspelt, or one that cannot be allowed."""
    known = {*CODES, *(finding.code for finding in findings)}
    remarks = []
    for code in allow:
        if code in NEVER_ALLOWED:
            remarks.append(f"{code} cannot be allowed: without it there is nothing to go on with")
        elif code not in known:
            near = get_close_matches(code, known, n=1, cutoff=0.6)
            remarks.append(f"nothing here has the code {code!r}" + (f"; did you mean {near[0]}?" if near else ""))
    return remarks


def allowable(findings: Iterable[Finding]) -> list[str]:
    """The codes among these findings that may be allowed."""
    return sorted({finding.code for finding in findings} - NEVER_ALLOWED)


def describe(finding: Finding) -> str:
    """One line: code, count, message, places."""
    count = f" x{finding.count}" if finding.count > 1 else ""
    where = f": {finding.where}" if finding.where else ""
    return f"{finding.code}{count}: {finding.message}{where}"


def found(
    code: str,
    where: str = "",
    message: str = "",
    count: int = 1,
    *,
    images: int | None = None,
    objects: int | None = None,
) -> Finding:
    """A finding with the severity, message and remedy of its code. images, objects: how many of them are left out for
    it; None: as the code says, for each count."""
    known = CODES[code]
    if images is None:
        images = count if known.leaves == "image" else 0
    if objects is None:
        objects = count if known.leaves == "object" else 0
    return Finding(code, known.severity, message or known.message, where, known.remedy, count, images, objects)


@dataclass(frozen=True, slots=True)
class Mark:
    """One place of a finding, for pages and lists of changes. box: as written, xyxy in pixels of the upright picture;
    after: what became of it; other: a second picture that the finding speaks of. count: see Finding."""

    code: str
    where: str
    count: int = 1
    split: str = ""
    file_name: str = ""
    path: Path | None = None
    box: Box | None = None
    after: Box | None = None
    other: Path | None = None


@dataclass(slots=True)
class _Pile:
    finding: Finding
    count: int = 0
    images: int = 0
    objects: int = 0
    places: list[str] = field(default_factory=list)


@dataclass(slots=True)
class FindingBook:
    """Collects findings; equal ones become one with a count and the first places. marks: a list that gets every single
    place; None: nobody wants them. sight: split, name and file of the picture that is being looked at."""

    marks: list[Mark] | None = None
    sight: tuple[str, str, Path | None] = ("", "", None)
    _piles: dict[tuple[str, str, str], _Pile] = field(default_factory=dict)

    def add(
        self,
        code: str,
        where: str = "",
        message: str = "",
        count: int = 1,
        *,
        images: int | None = None,
        objects: int | None = None,
        box: Box | None = None,
        after: Box | None = None,
        other: Path | None = None,
    ) -> None:
        self._pile(found(code, where, message, count, images=images, objects=objects))
        if self.marks is not None:
            self.marks.append(Mark(code, where, count, *self.sight, box, after, other))

    def take(self, finding: Finding) -> None:
        """One that somebody else made."""
        self._pile(finding)
        if self.marks is not None:
            self.marks.append(Mark(finding.code, finding.where, finding.count, *self.sight))

    def _pile(self, finding: Finding) -> None:
        key = (finding.code, finding.severity, finding.message)
        pile = self._piles.setdefault(key, _Pile(finding))
        pile.count += finding.count
        pile.images += finding.images
        pile.objects += finding.objects
        if finding.where and len(pile.places) < PLACES_SHOWN:
            pile.places.append(finding.where)

    def codes(self) -> set[str]:
        return {code for code, _, _ in self._piles}

    def take_back(self, code: str, where: str) -> str:
        """Remove one place of a finding that another one explains; returns the place, empty when it is not there."""
        for key, pile in list(self._piles.items()):
            if key[0] == code and where in pile.places:
                pile.places.remove(where)
                pile.count -= 1
                if not pile.count:
                    del self._piles[key]
                return where
        return ""

    def findings(self) -> list[Finding]:
        return [_merge(pile) for pile in self._piles.values()]


def in_order(findings: Iterable[Finding]) -> tuple[Finding, ...]:
    """Errors first, then warnings, then information; within each, the most frequent first."""
    rank = {"error": 0, "warning": 1, "info": 2}
    return tuple(sorted(findings, key=lambda f: (rank[f.severity], -f.count, f.code, f.where)))


def _merge(pile: _Pile) -> Finding:
    more = pile.count - len(pile.places)
    where = "; ".join(pile.places) + (f" and {more} more" if pile.places and more > 0 else "")
    return replace(pile.finding, where=where, count=pile.count, images=pile.images, objects=pile.objects)
