"""Denoising queries: the distribution is the library's, the randomness is a function of the seed."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from detloom_plugins.models._detr.denoising import (
    Noise,
    NoisyQueries,
    _moved,
    attention_mask,
    noisy_queries,
)
from detloom_plugins.models._detr.matching import Truth
from detr_tools import host_reads

CLASSES = 4
BOXES = torch.tensor(
    [[[0.5, 0.5, 0.2, 0.4], [0.3, 0.6, 0.1, 0.1], [0.9, 0.9, 0.4, 0.4]], [[0.4, 0.4, 0.5, 0.3], [0] * 4, [0] * 4]]
)
LABELS = torch.tensor([[0, 1, 2], [3, -1, -1]])
TRUTH = Truth(BOXES, LABELS, (64, 64))


class Classes(nn.Embedding):
    """Rows that can be read back: row i holds the number i."""

    def __init__(self) -> None:
        super().__init__(CLASSES + 1, 2, padding_idx=CLASSES)
        with torch.no_grad():
            self.weight.copy_(torch.arange(CLASSES + 1.0)[:, None].expand(-1, 2))


def ours(noise: Noise) -> NoisyQueries:
    found = noisy_queries(TRUTH, Classes(), noise)
    assert found is not None
    return found


def theirs(queries: int, noise: Noise, real: int = 5) -> tuple[Tensor, Tensor, Tensor, dict[str, Any]]:
    from transformers.models.rt_detr.modeling_rt_detr import get_contrastive_denoising_training_group

    targets = [{"class_labels": LABELS[i, :n], "boxes": BOXES[i, :n]} for i, n in ((0, 3), (1, 1))]
    return get_contrastive_denoising_training_group(  # type: ignore[no-any-return]
        targets, CLASSES, real, Classes(), queries, noise.label, noise.box
    )


@pytest.mark.parametrize("queries", [1, 3, 10])
def test_groups_order_and_attention_are_the_librarys(queries: int) -> None:
    still = Noise(queries, label=0.0, box=0.0)
    found = ours(still)
    content, reference, mask, meta = theirs(queries, Noise(queries, 0.0, 1e-9))
    assert found.groups == meta["dn_num_group"] and found.count == meta["dn_num_split"][0]
    assert torch.equal(found.content, content)
    torch.testing.assert_close(found.reference, reference, rtol=1e-4, atol=1e-4)
    assert torch.equal(attention_mask(found, 5), mask)


def test_no_queries_when_none_are_wanted() -> None:
    assert noisy_queries(TRUTH, Classes(), Noise(0)) is None


def test_labels_and_boxes_are_spread_as_in_the_library() -> None:
    """Classes and each coordinate, for every object, near copies and far ones apart: Kolmogorov and Smirnov's test
    sees no difference (1.95 is its bound for an error in a thousand; 60 comparisons are made)."""
    noise = Noise(1500, label=0.5, box=0.8)
    torch.manual_seed(0)
    drawn = [(ours(noise), theirs(noise.queries, noise)) for _ in range(4)]
    mine = torch.cat([torch.cat((found.content[..., :1], found.reference), -1) for found, _ in drawn], 1)
    other = torch.cat([torch.cat((content[..., :1], reference), -1) for _, (content, reference, _, _) in drawn], 1)
    assert mine.shape == other.shape
    for image, row, far in itertools.product(range(2), range(3), range(2)):
        rows = slice(far * 3 + row, None, 6)
        for first, second in zip(mine[image, rows].unbind(-1), other[image, rows].unbind(-1), strict=True):
            places = torch.cat((first, second)).unique()
            shares = [torch.searchsorted(v.sort().values, places, right=True) / len(v) for v in (first, second)]
            assert float((shares[0] - shares[1]).abs().max()) < 1.95 * (2 / len(first)) ** 0.5


def test_noise_is_a_function_of_the_seed_and_reads_nothing_on_the_host() -> None:
    found = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        with host_reads() as reads:
            found.append(ours(Noise()))
        assert reads == []
    assert torch.equal(found[0].reference, found[1].reference) and torch.equal(found[0].content, found[1].content)
    assert not torch.equal(found[0].reference, found[2].reference)


def test_near_copies_move_by_half_a_side_at_most_and_far_ones_by_more() -> None:
    torch.manual_seed(0)
    corners = _moved(BOXES[:1, :1].expand(1, 1000, 4), torch.arange(1000) >= 500, scale=1.0)
    centre, side = corners[0, :, 0], corners[0, :, 2]
    left = centre - side / 2 - 0.4  # of a box from 0.4 to 0.6
    assert float(left[:500].abs().max()) <= 0.1 + 1e-5
    assert float(left[500:].abs().min()) >= 0.1 - 1e-5 and float(left[500:].abs().max()) <= 0.2 + 1e-5


def test_copies_stay_inside_the_picture() -> None:
    boxes = ours(Noise(3000, box=1.0)).reference.sigmoid()
    corners = torch.cat((boxes[..., :2] - boxes[..., 2:] / 2, boxes[..., :2] + boxes[..., 2:] / 2), -1)
    assert float(corners.min()) > -1e-3 and float(corners.max()) < 1 + 1e-3
