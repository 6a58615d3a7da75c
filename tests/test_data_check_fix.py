"""`detloom check --fix`: a copy that passes the strictest check, a list of changes, and an untouched source."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from data_tools import document, edit, look, sound_data, write_split
from detloom.cli.main import main
from fault_tools import MENDED, SINGLE, WHOLE, Fault
from faults import BY_NAME, FAULTS

REPAIRABLE = [param for param in BY_NAME if param.values[0].severity in (SINGLE, MENDED)]  # type: ignore[attr-defined]
TRAINING_ONLY = ("no-training-split", "no-validation-split", "train-without-objects")
NEEDS_HANDS = [fault for fault in FAULTS if fault.severity == WHOLE and fault.code not in TRAINING_ONLY]


def contents(root: Path) -> dict[str, bytes]:
    return {str(p.relative_to(root)): p.read_bytes() for p in sorted(root.rglob("*")) if p.is_file()}


def changes_of(out: Path) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = json.loads((out / "changes" / "changes.json").read_text())["changes"]
    return rows


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return sound_data(tmp_path / "data")


@pytest.mark.parametrize("fault", REPAIRABLE)
def test_the_copy_of_faulty_data_is_clean_and_lists_what_was_changed(fault: Fault, root: Path, tmp_path: Path) -> None:
    fault.plant(root)
    before = contents(root)
    report = look(root, policy="lenient", max_left_out=1.0)
    out = tmp_path / "fixed"
    assert main(["check", str(root), "--fix", str(out)]) == 0
    assert contents(root) == before
    changes = changes_of(out)
    assert sum(change["count"] for change in changes if change["code"] == fault.code) == fault.count
    text = (out / "changes" / "changes.txt").read_text()
    assert text.count(f"\n{fault.code}: ") == len([c for c in changes if c["code"] == fault.code])
    assert fault.place.split(" (")[0] in text
    again = look(out, policy="strict")
    assert again.refused == []
    assert [finding.code for finding in again.findings if finding.severity != "info"] == []
    assert (again.images, again.objects) == (report.images, report.objects)
    assert again.dataset is not None and report.dataset is not None
    assert again.dataset.digest == report.dataset.digest


@pytest.mark.parametrize("fault", [pytest.param(f, id=f.name) for f in NEEDS_HANDS])
def test_what_concerns_whole_files_is_refused_and_nothing_is_written(fault: Fault, root: Path, tmp_path: Path) -> None:
    fault.plant(root)
    before = contents(root)
    out = tmp_path / "fixed"
    assert main(["check", str(root), "--fix", str(out)]) == 3
    assert not out.exists()
    assert contents(root) == before


def test_many_faults_at_once_are_all_mended_and_all_listed(root: Path, tmp_path: Path) -> None:
    sound_data(root, images=9)
    shutil.copyfile(root / "train" / "p5.png", root / "valid" / "p100.png")
    edit(root, lambda c: c["annotations"][2].update(bbox=[-5, 5, 20, 10]))
    edit(root, lambda c: c["annotations"][4].update(iscrowd=2))
    edit(root, lambda c: c["annotations"].append(dict(c["annotations"][6])))
    edit(root, lambda c: c["annotations"][8].update(category_id=77))
    (root / "train" / "p0.png").unlink()
    out = tmp_path / "fixed"
    assert main(["check", str(root), "--fix", str(out)]) == 0
    codes = {"missing-image", "box-outside", "bad-crowd", "duplicate-annotation", "unknown-class", "leakage"}
    assert {change["code"] for change in changes_of(out)} == codes
    again = look(out)
    assert [f.code for f in again.findings if f.severity != "info"] == []
    assert again.dataset is not None
    # p0 is gone, and p5, which is also in valid; one object of p4 had an unknown class.
    assert {name: len(split) for name, split in again.dataset.splits.items()} == {"train": 7, "val": 2}
    assert len(again.dataset.splits["train"].labels) == 7 * 2 - 1


def test_a_clipped_box_is_listed_before_and_after(root: Path, tmp_path: Path) -> None:
    edit(root, lambda c: c["annotations"][0].update(bbox=[-5, 40, 20, 30]))
    out = tmp_path / "fixed"
    assert main(["check", str(root), "--fix", str(out)]) == 0
    (change,) = [c for c in changes_of(out) if c["code"] == "box-outside"]
    assert (change["before"], change["after"]) == ([-5, 40, 15, 70], [0, 40, 15, 48])
    assert (change["split"], change["image"]) == ("train", "p0.png")
    written = json.loads((out / "train" / "_annotations.coco.json").read_text())
    assert written["annotations"][0]["bbox"] == [0, 40, 15, 8]


def test_a_picture_of_several_splits_stays_where_it_is_measured_on(root: Path, tmp_path: Path) -> None:
    write_split(root / "test", document(2, 200), 200)
    for split, name in (("valid", "p100.png"), ("test", "p200.png")):
        shutil.copyfile(root / "train" / "p0.png", root / split / name)
    out = tmp_path / "fixed"
    assert main(["check", str(root), "--fix", str(out)]) == 0
    assert {(change["split"], change["image"], change["action"]) for change in changes_of(out)} == {
        ("train", "p0.png", "left out of train: the same picture is in test"),
        ("val", "p100.png", "left out of val: the same picture is in test"),
    }
    again = look(out)
    assert again.dataset is not None
    names = {name: [image.file_name for image in split.images] for name, split in again.dataset.splits.items()}
    assert names == {"train": ["p1.png", "p2.png", "p3.png"], "val": ["p101.png"], "test": ["p200.png", "p201.png"]}


def test_images_are_links_or_copies(root: Path, tmp_path: Path) -> None:
    assert main(["check", str(root), "--fix", str(tmp_path / "linked")]) == 0
    assert main(["check", str(root), "--fix", str(tmp_path / "copied"), "--copy"]) == 0
    source = root / "train" / "p0.png"
    assert (tmp_path / "linked" / "train" / "p0.png").stat().st_ino == source.stat().st_ino
    copied = tmp_path / "copied" / "train" / "p0.png"
    assert copied.stat().st_ino != source.stat().st_ino and copied.read_bytes() == source.read_bytes()


def test_what_no_copy_can_mend_is_said(root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    edit(root, lambda c: c["categories"].append({"id": 8, "name": "elk"}))
    out = tmp_path / "fixed"
    assert main(["check", str(root), "--fix", str(out), "--json"]) == 0
    answer = json.loads(capsys.readouterr().out)
    assert answer["fix"] == {"out": str(out), "changes": [], "remaining": ["class-without-objects"]}
    remaining = json.loads((out / "changes" / "changes.json").read_text())["remaining"]
    assert [finding["code"] for finding in remaining] == ["class-without-objects"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--fix", "{used}"], "not an empty folder"),
        (["--fix", "{new}", "--policy", "strict"], "takes no policy"),
        (["--fix", "{new}", "--strict"], "takes no policy"),
        (["--copy"], "--copy says how"),
        (["--strict", "--policy", "lenient"], "contradict"),
    ],
)
def test_flags_that_make_no_sense_are_refused(
    arguments: list[str], message: str, root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    places = {"used": str(root), "new": str(tmp_path / "new")}
    assert main(["check", str(root), *(argument.format(**places) for argument in arguments)]) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "new").exists()


def test_the_real_command_fixes_and_checks(cli: Callable[..., Any], root: Path, tmp_path: Path) -> None:
    edit(root, lambda c: c["annotations"][0].update(category_id=9))
    refused = cli("check", root)
    assert refused.returncode == 3 and "--fix OUT" in refused.stdout
    done = cli("check", root, "--fix", tmp_path / "out")
    assert done.returncode == 0, done.stderr
    assert f"detloom check {tmp_path / 'out'}" in done.stdout
    assert cli("check", tmp_path / "out", "--strict").returncode == 0
