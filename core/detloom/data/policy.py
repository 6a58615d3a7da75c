"""What becomes of findings: which of them stop a training, and how much may be left out before it stops anyway."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from detloom.data.codes import CODES, NEVER_ALLOWED, WHOLE
from detloom.data.findings import found, in_order, refused
from detloom.data.records import Finding, Severity

LENIENT_LIMIT = 0.01
"""Share of images, or of objects, that the policy `lenient` leaves out where no limit is written."""


@dataclass(frozen=True, slots=True)
class Policy:
    """name: strict: what is mended or dropped is an error; repair: it is a warning; lenient: also errors that name
    single images or objects are, which are left out. allow: codes of errors that do not stop. max_left_out: share of
    the images, or of the objects, that errors may leave out; None: see LENIENT_LIMIT, and no limit for what is
    allowed by its code."""

    name: Literal["strict", "repair", "lenient"] = "repair"
    allow: tuple[str, ...] = ()
    max_left_out: float | None = None

    def severity(self, finding: Finding) -> Severity:
        """How bad a finding is under this policy."""
        code = CODES.get(finding.code)
        if self.name == "strict" and finding.severity == "warning" and code is not None and code.mends:
            return "error"
        single = (finding.images or finding.objects) and finding.code not in WHOLE | NEVER_ALLOWED
        if self.name == "lenient" and finding.severity == "error" and single:
            return "warning"
        return finding.severity

    def settle(
        self, findings: Iterable[Finding], follow: Iterable[Finding], images: int, objects: int
    ) -> tuple[Finding, ...]:
        """Findings as they count under this policy, in order.

        follow: what is only so because of what other findings left out. It is not told while one of those stops
        everything, and is no reproach of its own afterwards. images, objects: how many of them are left to use.
        """
        written = list(findings)
        settled = [replace(finding, severity=self.severity(finding)) for finding in written]
        tolerated = [
            now
            for before, now in zip(written, settled, strict=True)
            if before.severity == "error" and not refused([now], self.allow)
        ]
        if not refused(settled, self.allow):
            settled += self._too_much(tolerated, settled, images, objects)
        if not refused(settled, self.allow):
            settled += [replace(f, severity="info") if f.severity == "warning" else f for f in follow]
        return in_order(settled)

    def _too_much(
        self, tolerated: Sequence[Finding], everything: Sequence[Finding], images: int, objects: int
    ) -> list[Finding]:
        limit = self.max_left_out
        if limit is None:
            limit = LENIENT_LIMIT
            tolerated = [finding for finding in tolerated if finding.code not in self.allow]
        # Objects of images that are left out count as their images do.
        alone = [finding for finding in tolerated if not finding.images]
        lost_images, lost_objects = sum(f.images for f in tolerated), sum(f.objects for f in alone)
        listed_images = images + sum(finding.images for finding in everything)
        listed_objects = objects + sum(finding.objects for finding in everything)
        return [
            found("too-much-left-out", f"{lost} of {listed} {what} ({lost / listed:.2%}, at most {limit:.2%}): {codes}")
            for what, lost, listed, codes in (
                ("images", lost_images, listed_images, _codes(f for f in tolerated if f.images)),
                ("objects", lost_objects, listed_objects, _codes(alone)),
            )
            if lost > limit * listed
        ]


def _codes(findings: Iterable[Finding]) -> str:
    return ", ".join(sorted({finding.code for finding in findings if finding.images or finding.objects}))
