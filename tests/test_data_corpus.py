"""A corpus of faults: each planted alone into sound data on disk, found alone, with its place, under every policy.

The expected answers stand beside the faults; what is listed is counted from the files, not asked of the check.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from data_tools import load, look, sound_data
from detloom.data.records import Finding
from detloom.errors import DataError
from fault_tools import JSON, MENDED, SINGLE, Fault
from faults import BY_NAME, FAULTS

POLICIES = ("strict", "repair", "lenient")


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return sound_data(tmp_path / "data")


def listed(root: Path) -> tuple[int, int]:
    """Images and objects that the files list."""
    contents = [json.loads(path.read_text()) for path in root.glob(f"*/{JSON}")]
    return sum(len(c["images"]) for c in contents), sum(len(c["annotations"]) for c in contents)


def named(findings: tuple[Finding, ...], code: str) -> Finding:
    (one,) = [finding for finding in findings if finding.code == code]
    return one


def test_the_corpus_holds_sixty_kinds_of_fault_at_least() -> None:
    assert len({fault.name for fault in FAULTS}) == len(FAULTS)
    assert len(FAULTS) >= 100
    assert len({fault.code for fault in FAULTS}) >= 60


@pytest.mark.parametrize("fault", BY_NAME)
def test_a_fault_is_found_alone_with_its_place_under_every_policy(fault: Fault, root: Path) -> None:
    fault.plant(root)
    for policy, severity in zip(POLICIES, fault.severity, strict=True):
        report = look(root, policy=policy, max_left_out=1.0, **fault.settings)
        assert {finding.code for finding in report.findings} == {fault.code} | fault.also, policy
        found = named(report.findings, fault.code)
        assert found.severity == severity, policy
        assert found.count == fault.count
        assert fault.place in f"{found.where} {found.message}"
        assert (found.images, found.objects) == (fault.images, fault.objects)
        assert [finding.code for finding in report.refused] == ([fault.code] if severity == "error" else [])
        if severity == "error":
            assert found.remedy or fault.code == "no-classes"


@pytest.mark.parametrize("fault", [pytest.param(f, id=f.name) for f in FAULTS if not f.loose])
def test_what_is_listed_is_used_or_left_out_by_a_code(fault: Fault, root: Path) -> None:
    fault.plant(root)
    report = look(root, **fault.settings)
    if report.dataset is None:
        assert listed(root)[0] == 0
        return
    assert (report.images + report.images_left_out, report.objects + report.objects_left_out) == listed(root)
    splits = report.dataset.splits.values()
    assert sum(len(split) for split in splits) == listed(root)[0] - fault.images
    assert sum(len(split.labels) for split in splits) == listed(root)[1] - fault.objects


@pytest.mark.parametrize("fault", [p for p in BY_NAME if p.values[0].severity in (SINGLE, MENDED)])  # type: ignore[attr-defined]
def test_a_training_uses_what_the_remedy_says(fault: Fault, root: Path) -> None:
    """Errors stop it until their code is allowed; what is mended is mended without a word from the user."""
    fault.plant(root)
    if fault.severity == SINGLE:
        with pytest.raises(DataError, match=fault.code):
            load(root)
    dataset = load(root, allow=[fault.code] if fault.severity == SINGLE else [])
    train, images, objects = dataset.splits["train"], 4, 8
    extra = {"duplicate-image": (1, 0), "duplicate-box": (0, 1), "duplicate-annotation": (0, 1),
             "duplicate-annotation-id": (0, 1), "bad-record": (0, 0)}.get(fault.code, (0, 0))  # fmt: skip
    if "is a text" in fault.place or "is a number" in fault.place:  # entries beside the sound ones
        extra = (fault.images, fault.objects)
    lost = (fault.images - extra[0], fault.objects - extra[1])
    assert (len(train), len(train.labels)) == (images - lost[0], objects - lost[1])
    assert len(dataset.splits["val"].labels) == 4
    inside = train.boxes
    assert (inside[:, :2] >= 0).all() and (inside[:, 2:] > inside[:, :2]).all()
    limits = np.array([(i.width, i.height) for i in train.images])[train.image_index]
    assert (inside[:, 2:] <= limits).all()
