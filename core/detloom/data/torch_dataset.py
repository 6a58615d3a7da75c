# ruff: noqa: TID253
"""A map-style dataset for use outside of a run: notebooks, other loops. The loaders read through the same code."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from torch import Tensor
from torch.utils.data import Dataset as TorchDataset

from detloom.data.batch import ImageTarget, collate_fn
from detloom.data.dataset import ClassMap, Dataset
from detloom.data.samples import NamedTransform, SampleReader
from detloom.errors import DataError
from detloom.geometry import InputRule
from detloom.specs import Transform

__all__ = ["COCODetectionDataset", "collate_fn"]


class COCODetectionDataset(TorchDataset[tuple[Tensor, ImageTarget]]):
    """Augmented (image, target) pairs of one split; batch them with `collate_fn`.

    root: whatever `detloom train` takes: a folder with train/ valid/ test/, or one json. transforms: objects built by
    augmentation plugins, in order. Raises DataError when the data are missing or refused.
    """

    def __init__(
        self,
        root: str | Path,
        transforms: Sequence[Transform | NamedTransform] = (),
        *,
        split: str = "train",
        size: tuple[int, int] = (640, 640),
        seed: int = 0,
    ) -> None:
        dataset = _load(Path(root))
        if split not in dataset.splits:
            raise DataError(f"{root} has no split {split!r}", hint=f"it has {', '.join(dataset.splits)}")
        self.class_map: ClassMap = dataset.class_map
        self.epoch = 0
        named = tuple(
            item if isinstance(item, NamedTransform) else NamedTransform(type(item).__name__, item)
            for item in transforms
        )
        rule = InputRule(size=size)
        self._reader = SampleReader(dataset.splits[split], rule, named, seed, dataset.has_masks)

    def __len__(self) -> int:
        return len(self._reader.split)

    def __getitem__(self, index: int) -> tuple[Tensor, ImageTarget]:
        """image: uint8 RGB [3, H, W]. The same for the same (seed, epoch, index)."""
        if not 0 <= index < len(self):
            raise IndexError(index)
        return self._reader.read(self.epoch, index)


def _load(root: Path) -> Dataset:
    from detloom.config import mapping_layer, resolve
    from detloom.data.load import load_dataset
    from detloom.host import discover

    host = discover()
    return load_dataset(resolve(host, [mapping_layer({"data.local.path": str(root)})]), host)
