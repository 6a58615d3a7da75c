"""Every setting of every DETR family acts: with another value, one training step is another one."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch

from detloom.detector import Detector
from detloom.train.seeding import seed_torch
from detr_tools import build
from families import CHANGED, DETRS, settings_of
from rf_detr_tools import ellipses


def rows() -> Iterator[tuple[str, str]]:
    for family in DETRS:
        for name in settings_of(family)[1]:
            if name != "backend":  # with another builder everything is the same: test_rf_detr_native.py
                yield family, name


def one_step(detector: Detector) -> dict[str, Any]:
    """What an optimizer would see near the end of a training."""
    images, targets = ellipses(detector.input_rule.size, (4, 2))
    if not detector.masks:
        targets.masks = None
    detector.begin_epoch(7, 10)
    detector.train()
    seed_torch(0, "step")
    terms = detector.loss(detector(images, targets), targets)
    terms.total.backward()
    return {
        "terms": {name: float(value.detach()) for name, value in terms.terms.items()},
        "learning": sorted(name for name, value in detector.named_parameters() if value.requires_grad),
    }


def started(family: str, **settings: Any) -> Detector:
    """With weights that a training would have: boxes that differ from their anchors."""
    seed_torch(0, "weights")
    detector = build(DETRS[family], **settings)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, value in sorted(detector.named_parameters()):
            if "bbox" in name or "class_embed" in name:
                value.add_(torch.randn(value.shape, generator=generator) * 0.05)
    return detector


@pytest.fixture(scope="module")
def unchanged() -> dict[str, dict[str, Any]]:
    return {}


@pytest.mark.parametrize(("family", "name"), list(rows()))
def test_a_changed_setting_changes_the_step(family: str, name: str, unchanged: dict[str, dict[str, Any]]) -> None:
    assert name in CHANGED, f"say in tests/families.py with which value {name} must show"
    if family not in unchanged:
        unchanged[family] = one_step(started(family))
        assert one_step(started(family)) == unchanged[family], "the same settings show the same"
    assert one_step(started(family, **{name: CHANGED[name]})) != unchanged[family]
