"""The same faults written in every format: found alone, with the same code, and counted the same way."""

from __future__ import annotations

import io
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from PIL import Image

import format_tools as tools
from data_tools import look, picture
from detloom.cli.main import main
from format_tools import Box, Shot

SOUND = tuple(
    Shot(f"p{n}.png", "train" if n < 4 else "val", n, (("cat", (4, 5, 24, 15)), ("dog", (30 + n, 20, 46 + n, 32))))
    for n in range(6)
)
MAKERS: dict[str, Callable[[Path], None]] = {
    "coco": tools.coco_roboflow,
    "yolo": tools.yolo_ultralytics,
    "voc": tools.voc_devkit,
    "cvat-xml": tools.cvat_project,
    "labelme": tools.labelme_splits,
    "csv": tools.csv_sizes,
}
QUIET = {"path-mended"}
"""What some makers write on purpose, as their tools do: paths of another disk."""


@pytest.fixture(params=MAKERS.items(), ids=list(MAKERS))
def made(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[..., Path]:
    """Writes shots in one format."""
    _, maker = request.param

    def make(shots: tuple[Shot, ...] = SOUND) -> Path:
        monkeypatch.setattr(tools, "SHOTS", shots)
        maker(tmp_path / "data")
        return tmp_path / "data"

    return make


def with_object(*objects: tuple[str, Box]) -> tuple[Shot, ...]:
    """More objects in the second picture of the training split."""
    return tuple(replace(s, objects=(*s.objects, *objects)) if s.name == "p1.png" else s for s in SOUND)


def where(root: Path, name: str) -> Path:
    (found,) = root.rglob(name)
    return found


def told(root: Path) -> dict[str, tuple[int, int, int]]:
    """Code to count, images and objects left out."""
    return {f.code: (f.count, f.images, f.objects) for f in look(root).findings if f.code not in QUIET}


def test_sound_data_raise_no_alarm_in_any_format(made: Callable[..., Path]) -> None:
    assert told(made()) == {}


@pytest.mark.parametrize(
    ("box", "code", "objects"),
    [
        ((-5, 25, 15, 35), "box-outside", 0),
        ((20, 30, 20, 40), "degenerate-box", 1),
        ((5, 40, 5.4, 46), "box-below-pixel", 1),
        ((4, 5, 24, 15), "duplicate-box", 1),
        ((4.2, 5, 24.2, 15), "near-duplicate-box", 0),
    ],
    ids=["outside", "degenerate", "thin", "twice", "nearly twice"],
)
def test_a_bad_box_is_found_in_every_format(made: Callable[..., Path], box: Box, code: str, objects: int) -> None:
    root = made(with_object(("cat", box)))
    assert told(root) == {code: (1, 0, objects)}
    report = look(root)
    assert (report.images, report.objects, report.objects_left_out) == (6, 13 - objects, objects)
    finding = next(f for f in report.findings if f.code == code)
    assert "p1" in finding.where or ":" in finding.where


def _cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-40])


def _rot(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 0xFF
    path.write_bytes(bytes(data))


SPOILED: dict[str, Callable[[Path], object]] = {
    "truncated-image": _cut,
    "corrupt-image": _rot,
}


@pytest.mark.parametrize(("code", "spoil"), SPOILED.items(), ids=list(SPOILED))
def test_a_broken_picture_leaves_out_its_objects_in_every_format(
    made: Callable[..., Path], code: str, spoil: Callable[[Path], object]
) -> None:
    root = made()
    spoil(where(root, "p2.png"))
    assert told(root) == {code: (1, 1, 2)}
    report = look(root, allow=[code])
    assert (report.images, report.objects) == (5, 10)


def test_a_picture_of_another_size_is_found_where_sizes_are_written(made: Callable[..., Path]) -> None:
    root = made()
    Image.fromarray(picture(2, 128, 96)).save(where(root, "p2.png"))
    sized = "data.yaml" not in {p.name for p in root.iterdir()} and not (root / "boxes.csv").exists()
    assert told(root) == ({"size-mismatch": (1, 1, 2)} if sized else {})


def test_a_picture_that_is_gone_is_found(made: Callable[..., Path], request: pytest.FixtureRequest) -> None:
    root = made()
    where(root, "p2.png").unlink()
    # In YOLO's folders pictures are what is listed: it is the label file that is left over.
    yolo = (root / "data.yaml").exists()
    assert told(root) == ({"label-without-image": (1, 1, 0)} if yolo else {"missing-image": (1, 1, 2)})


def test_a_picture_in_two_splits_is_found_in_every_format(made: Callable[..., Path]) -> None:
    root = made()
    shutil.copyfile(where(root, "p0.png"), where(root, "p5.png"))
    assert told(root) == {"leakage": (1, 0, 0)}


def test_a_picture_that_is_nearly_in_two_splits_is_found_in_every_format(made: Callable[..., Path]) -> None:
    root = made()
    stored = io.BytesIO()
    with Image.open(where(root, "p0.png")) as first:
        first.save(stored, "JPEG", quality=70)
    Image.open(stored).save(where(root, "p5.png"))
    assert told(root) == {"near-leakage": (1, 0, 0)}


def test_the_corrected_copy_of_every_format_is_clean(made: Callable[..., Path], tmp_path: Path) -> None:
    root = made(with_object(("dog", (-5, 25, 15, 35)), ("cat", (20, 30, 20, 40)), ("cat", (4, 5, 24, 15))))
    _cut(where(root, "p2.png"))
    assert main(["check", str(root), "--fix", str(tmp_path / "out")]) == 0
    again = look(tmp_path / "out", policy="strict")
    assert [finding.code for finding in again.findings if finding.severity != "info"] == []
    assert (again.images, again.objects) == (5, 11)
