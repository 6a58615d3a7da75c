"""What the library datumaro reads, as records. The library pins other versions than the tests' environment does: what
needs it runs where it is installed, and the rules of the reader on a stand-in with its shapes."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest

import format_tools as tools
from data_tools import codes, load, look
from detloom.data.masks import decode_rle
from detloom.errors import DataError, PluginError

needs_library = pytest.mark.skipif(
    importlib.util.find_spec("datumaro") is None, reason="datumaro is not installed (detloom[datumaro])"
)


# ---- a stand-in with the library's shapes


@dataclass
class Annotation:
    kind: str
    label: int | None = 0
    points: Sequence[float] = ()
    image: Any = None
    group: int = 0
    id: int = 0
    attributes: dict[str, Any] = field(default_factory=dict)

    @property
    def type(self) -> Any:
        return SimpleNamespace(name=self.kind)

    def get_bbox(self) -> list[float]:
        xs, ys = self.points[::2], self.points[1::2]
        return [min(xs), min(ys), max(xs) - min(xs), max(ys) - min(ys)]


@dataclass
class Item:
    id: str
    annotations: list[Annotation]
    media: Any = None
    subset: str = "train"


class StandIn(ModuleType):
    """`datumaro`, as far as it is used. asked: what was imported."""

    AnnotationType = SimpleNamespace(label="label")

    def __init__(self, items: Sequence[Item], names: Sequence[str], fault: Exception | None = None) -> None:
        super().__init__("datumaro")
        self.__spec__ = ModuleSpec("datumaro", None)
        self.asked: list[tuple[str, str | None]] = []

        class Dataset(list[Item]):
            @staticmethod
            def import_from(path: str, name: str | None = None) -> Dataset:
                self.asked.append((path, name))
                if fault is not None:
                    raise RuntimeError("Failed to import dataset") from fault
                return Dataset(items)

            def categories(self) -> dict[str, Any]:
                return {"label": SimpleNamespace(items=[SimpleNamespace(name=name) for name in names])}

        environment = SimpleNamespace(Environment=lambda: SimpleNamespace(importers=["kitti", "mot_seq"]))
        self.Dataset = Dataset
        self.components = SimpleNamespace(environment=environment)


def stand_in(monkeypatch: pytest.MonkeyPatch, *args: Any) -> StandIn:
    module = StandIn(*args)
    monkeypatch.setitem(sys.modules, "datumaro", module)
    return module


@pytest.fixture(autouse=True)
def _reader_anew() -> Iterator[None]:
    """The reader binds the library that is there when it is imported."""
    sys.modules.pop("detloom_plugins.formats.datumaro.reader", None)
    yield
    sys.modules.pop("detloom_plugins.formats.datumaro.reader", None)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for shot in tools.SHOTS:
        tools.paint(shot, tmp_path / "data" / shot.name)
    return tmp_path / "data"


def media(path: Path) -> Any:
    return SimpleNamespace(path=str(path))


def test_boxes_masks_and_groups_become_objects(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mask = np.zeros((48, 64), dtype=np.uint8)
    mask[20:30, 30:40] = 1
    annotations = [
        Annotation("bbox", 1, (4, 5, 24, 15), group=3),
        Annotation("polygon", 1, (4, 5, 24, 5, 24, 15), group=3),
        Annotation("polygon", 1, (30, 30, 40, 30, 40, 40), group=3),
        Annotation("mask", 2, image=mask, attributes={"is_crowd": True}),
        Annotation("bbox", 1, (1, 1, 9, 9), group=5),
        Annotation("bbox", 1, (11, 1, 19, 9), group=5),  # two boxes that somebody grouped
        Annotation("rotated_bbox", 2, (50, 2, 60, 12)),
        Annotation("points", 1, (3, 3)),
        Annotation("caption", None),
    ]
    items = [Item("p0", annotations, media(root / "p0.png")), Item("p2", [], media(root / "p2.png"), "validation")]
    module = stand_in(monkeypatch, items, ["background", "cat", "dog"])
    dataset = load(root, for_training=False, format="datumaro", datumaro__reader="kitti")
    assert module.asked == [(str(root), "kitti")]
    assert dataset.class_map.names == ("cat", "dog")
    train = dataset.splits["train"]
    assert [dataset.class_map.names[label] for label in train.labels] == ["cat", "dog", "cat", "cat", "dog"]
    assert train.boxes[0].tolist() == [4, 5, 24, 15] and train.boxes[4].tolist() == [50, 2, 60, 12]
    assert train.crowd.tolist() == [False, True, False, False, False]
    assert train.rles[0] is not None and train.rles[1] is not None and train.rles[2] is None
    assert np.array_equal(decode_rle(train.rles[1]), mask)
    assert decode_rle(train.rles[0])[32:35, 36:39].all(), "the second polygon belongs to it"
    found = {finding.code: finding.count for finding in dataset.findings}
    assert found["shape-not-read"] == 1 and found["rotated-box"] == 1
    assert len(dataset.splits["val"]) == 1


def test_parts_without_a_split_pictures_elsewhere_and_missing_ones_are_told(
    root: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    box = [Annotation("bbox", 0, (4, 5, 24, 15))]
    tools.paint(tools.SHOTS[0], tmp_path / "outside.png")
    items = [
        Item("p0", box, media(root / "p0.png"), "default"),
        Item("p1", box, media(root / "p1.png"), "night"),
        Item("out", box, media(tmp_path / "outside.png"), "default"),
        Item("gone", box, media(root / "gone.png"), "default"),
        Item("nothing", box, None, "default"),
        Item("strange", [Annotation("bbox", 7, (4, 5, 24, 15))], media(root / "p2.png"), "default"),
    ]
    stand_in(monkeypatch, items, ["cat"])
    report = look(root, format="datumaro", split__val=0)
    found = codes(report)
    assert (found["unknown-split"], found["path-escape"], found["missing-image"], found["unknown-class"]) == (
        1,
        1,
        2,
        1,
    )
    escaped = next(finding for finding in report.findings if finding.code == "path-escape")
    assert (escaped.images, escaped.objects) == (1, 1)


def test_what_the_library_says_of_broken_data_is_a_finding(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stand_in(monkeypatch, [], [], ValueError("line 3 of label.txt\nhas 5 fields"))
    report = look(root, format="datumaro")
    (finding,) = [finding for finding in report.refused if finding.code == "unreadable-file"]
    assert "datumaro: line 3 of label.txt has 5 fields" in finding.where
    with pytest.raises(PluginError, match=r"no format 'kity'[\s\S]*it reads: kitti, mot_seq"):
        look(root, format="datumaro", datumaro__reader="kity")


def test_without_the_library_the_way_to_install_it_is_told(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(PluginError, match=r"pip install 'detloom\[datumaro\]'"):
        load(root, format="datumaro")
    with pytest.raises(DataError, match=r"datumaro: data\.format=datumaro lets it read KITTI.*detloom\[datumaro\]"):
        load(root)


def test_it_is_never_guessed(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    module = stand_in(monkeypatch, [], ["cat"])
    with pytest.raises(DataError, match="holds no annotations"):
        load(root)
    tools.coco_one(root)
    load(root)
    assert module.asked == []


# ---- the library itself


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Data in some of the formats that the library writes, from COCO that it read."""
    import json

    import datumaro  # type: ignore[import-not-found,unused-ignore]

    root = tmp_path_factory.mktemp("datumaro")
    tools.coco_one(root / "coco")
    (root / "coco" / "annotations").mkdir()
    content = json.loads((root / "coco" / "all.json").read_text())
    (root / "coco" / "all.json").unlink()
    for entry in content["annotations"]:
        entry.update(iscrowd=0, segmentation=[])
    (root / "coco" / "annotations" / "instances_default.json").write_text(json.dumps(content))
    dataset = datumaro.Dataset.import_from(str(root / "coco"), "coco")
    for name in ("wider_face", "label_me", "open_images", "datumaro", "kitti_detection", "mot_seq_gt"):
        dataset.export(str(root / name), name, save_media=True)
    return root


@needs_library
@pytest.mark.parametrize(
    ("name", "off_px"), [("wider_face", 1.0), ("label_me", 0.01), ("open_images", 0.01), ("datumaro", 0.01)]
)
@pytest.mark.parametrize("reader", ["named", "auto"])
def test_data_that_the_library_wrote_come_back(written: Path, name: str, off_px: float, reader: str) -> None:
    """off_px: WIDER Face has whole pixels."""
    dataset = load(
        written / name, for_training=False, format="datumaro", datumaro__reader=name if reader == "named" else "auto"
    )
    found = tools.boxes(dataset)
    assert set(found) == set(tools.TRUTH)
    for picture, expected in tools.TRUTH.items():
        assert len(found[picture]) == len(expected)
        for (_, box), (_, wanted) in zip(sorted(found[picture], key=_box), sorted(expected, key=_box), strict=True):
            assert box == pytest.approx(wanted, abs=off_px)
        if name != "wider_face":
            assert [label for label, _ in found[picture]] == [label for label, _ in expected]


def _box(pair: tuple[str, Any]) -> Any:
    return [round(side) for side in pair[1]]


@needs_library
@pytest.mark.parametrize(
    ("layout", "reader"),
    [("yolo_ultralytics", "yolo"), ("voc_devkit", "voc"), ("cvat_images", "cvat"), ("yolo_darknet", "yolo")],
)
def test_our_readers_and_the_librarys_agree(layout: str, reader: str, tmp_path: Path) -> None:
    format_name, maker = tools.LAYOUTS[layout]
    maker(tmp_path)
    ours = load(tmp_path, for_training=False, format=format_name)
    theirs = load(tmp_path, for_training=False, format="datumaro", datumaro__reader=reader)
    assert tools.boxes(theirs) == tools.boxes(ours)


@needs_library
def test_masks_of_pascal_voc_are_those_that_the_library_reads(tmp_path: Path) -> None:
    from test_formats_voc import numbers, painted

    tools.voc_devkit(tmp_path, ".")
    path = painted(tmp_path, numbers(), "palette")
    # The library wants the classes painted too: of the challenge's list, cat is the eighth and dog the twelfth.
    (tmp_path / "SegmentationClass").mkdir()
    classes = np.array([0, 8, 12, *range(3, 256)], dtype=np.uint8)[numbers()]
    painted(tmp_path, classes, "palette").rename(tmp_path / "SegmentationClass" / "p0.png")
    assert painted(tmp_path, numbers(), "palette") == path
    (tmp_path / "ImageSets" / "Segmentation").mkdir()
    (tmp_path / "ImageSets" / "Segmentation" / "train.txt").write_text("p0\n")
    import datumaro

    items = datumaro.Dataset.import_from(str(tmp_path), "voc")
    masks = [a for item in items if item.id == "p0" for a in item.annotations if a.type.name == "mask"]
    ours = [rle for rle in load(tmp_path, for_training=False).splits["train"].rles if rle is not None]
    assert len(ours) == 2
    theirs = [np.asarray(mask.image) != 0 for mask in masks]
    for rle in ours:
        assert any(np.array_equal(decode_rle(rle) != 0, mask) for mask in theirs)
