"""Names of the rows of RF-DETR's published heads: the numbers of COCO's categories, gaps included."""

from __future__ import annotations

from detloom_plugins.models._coco_names import COCO_NAMES

_GAPS = frozenset({0, 12, 26, 29, 30, 45, 66, 68, 69, 71, 83})
"""Of 0 to 90, the numbers that no category of COCO 2017 has; 0 stands for none."""


def _rows() -> tuple[str, ...]:
    names = iter(COCO_NAMES)
    return tuple(f"(unused {number})" if number in _GAPS else next(names) for number in range(91))


COCO_ROWS = _rows()
