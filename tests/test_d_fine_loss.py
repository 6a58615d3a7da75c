"""The losses of D-FINE's distributions, against the library's own, closed forms and a plain counting of pairs."""

from __future__ import annotations

import importlib
from collections import Counter
from typing import Any

import pytest
import torch
from torch import Tensor

from detloom.boxes import giou
from detloom.losses import distribution_focal_loss, varifocal_loss
from detloom_plugins.models._d_fine.criterion import DFineCriterion, Predictions, Sides, SideWeights
from detloom_plugins.models._d_fine.distribution import bin_places, places_of_sides
from detloom_plugins.models._d_fine.pairing import union
from detloom_plugins.models._detr.criterion import TermWeights
from detloom_plugins.models._detr.matching import Costs, Pairs, Stack, Truth

BINS, QUERIES, CLASSES, LAYERS = 32, 12, 4, 3
SIZE = (96, 160)
BOUND, CURVATURE = torch.tensor([0.5]), torch.tensor([4.0])
LOSSES = {
    "classification": varifocal_loss,
    "box": lambda found, wanted: 1 - giou(found, wanted),
    "distribution": distribution_focal_loss,
}


@pytest.fixture(scope="module")
def library() -> Any:
    """The library's loss of the same terms, as a class that wants a configuration."""
    transformers = pytest.importorskip("transformers")
    loss: Any = importlib.import_module("transformers.loss.loss_d_fine").DFineLoss
    return loss(transformers.DFineConfig(num_labels=CLASSES, focal_loss_alpha=0.75))


def random_boxes(generator: torch.Generator, *shape: int) -> Tensor:
    """cxcywh in 0..1, inside the image."""
    sides = torch.rand(*shape, 2, generator=generator) * 0.3 + 0.05
    centres = torch.rand(*shape, 2, generator=generator) * (1 - sides) + sides / 2
    return torch.cat((centres, sides), -1)


def truth_for(generator: torch.Generator, counts: tuple[int, ...], width: int) -> Truth:
    """Images with these numbers of objects, padded to `width`."""
    labels = torch.randint(0, CLASSES, (len(counts), width), generator=generator)
    there = torch.arange(width) < torch.tensor(counts)[:, None]
    boxes = torch.where(there[..., None], random_boxes(generator, len(counts), width), 0.0)
    return Truth(boxes, torch.where(there, labels, -1), SIZE)


def predictions(generator: torch.Generator, truth: Truth) -> Predictions:
    """Random outputs; boxes near the objects, so that overlaps are not all 0."""
    batch = len(truth.labels)
    near = truth.boxes[:, torch.arange(QUERIES) % truth.labels.shape[1]]
    near = torch.where(near.sum(-1, keepdim=True) > 0, near, random_boxes(generator, batch, QUERIES))

    def boxes(layers: int) -> Tensor:
        return (near + 0.03 * torch.randn(layers, batch, QUERIES, 4, generator=generator)).clamp(0.02, 0.98)

    def stack(layers: int, names: tuple[str, ...]) -> Stack:
        return Stack(torch.randn(layers, batch, QUERIES, CLASSES, generator=generator), boxes(layers), names)

    sides = torch.randn(LAYERS, batch, QUERIES, 4 * (BINS + 1), generator=generator).requires_grad_()
    return Predictions(
        stack(LAYERS, ("aux",) * (LAYERS - 1) + ("",)),
        Sides(sides, boxes(1)[0], BOUND, CURVATURE),
        [stack(1, ("pre",)), stack(1, ("encoder",))],
    )


def criterion(**weights: Any) -> DFineCriterion:
    sides = SideWeights(**weights)
    return DFineCriterion("d_fine", LOSSES, TermWeights(), Costs(), quality=True, sides=sides)


def test_bins_are_dense_around_zero_and_end_at_twice_the_bound() -> None:
    places = bin_places(BINS, BOUND, CURVATURE)
    step = 3 ** (2 / 30)  # (|a c| + 1) ^ (2 / (N - 2)) with a c = 2
    assert places[0] == -4 and places[-1] == 4 and places[16] == 0
    assert places[17] == pytest.approx(step - 1, rel=1e-5) and places[31] == pytest.approx(2.0, rel=1e-5)
    assert torch.allclose(places, -places.flip(0))
    assert (places.diff() > 0).all()


def test_bins_and_places_are_those_of_the_library(library: Any) -> None:
    theirs: Any = importlib.import_module("transformers.loss.loss_d_fine")
    generator = torch.Generator().manual_seed(0)
    for curvature in (4.0, 8.0):
        scale = torch.tensor([curvature])
        expected = theirs.weighting_function(BINS, BOUND, curvature)
        assert torch.allclose(bin_places(BINS, BOUND, scale), expected, atol=1e-6)
        initial, box = random_boxes(generator, 200), random_boxes(generator, 200)
        corners = torch.cat((box[:, :2] - box[:, 2:] / 2, box[:, :2] + box[:, 2:] / 2), -1)
        left, right_weight, _ = theirs.bbox2distance(initial, corners, BINS, curvature, BOUND)
        places = places_of_sides(initial, corners, expected, scale).flatten()
        assert torch.allclose(places, left.floor() + right_weight, atol=2e-4)
        assert (places < 1).any() and (places > BINS - 1).any()  # also those beyond the last bins


def test_the_true_place_gives_the_true_box_back() -> None:
    """The network's decoding of a distribution that has only the two bins around the truth."""
    from transformers.models.d_fine.modeling_d_fine import distance2bbox

    places = bin_places(BINS, BOUND, CURVATURE)
    initial, box = torch.tensor([[0.5, 0.4, 0.3, 0.2]]), torch.tensor([[0.52, 0.41, 0.26, 0.24]])
    corners = torch.cat((box[:, :2] - box[:, 2:] / 2, box[:, :2] + box[:, 2:] / 2), -1)
    at = places_of_sides(initial, corners, places, CURVATURE)
    left = at.long()
    offsets = places[left] * (1 - (at - left)) + places[left + 1] * (at - left)
    assert torch.allclose(distance2bbox(initial, offsets, 4.0), box, atol=1e-5)


def test_distribution_terms_equal_those_of_the_library_on_the_same_pairs(library: Any) -> None:
    generator = torch.Generator().manual_seed(1)
    truth = truth_for(generator, (5,), 5)
    found = predictions(generator, truth)
    ours = criterion(distribution=1.0, distillation=1.0)
    terms = ours.evaluate(found, truth).terms
    shared = union(ours.match([found.layers, *found.others], truth), truth, QUERIES)
    rows = shared.pairs.matched[0, 0]
    query, boxes = shared.pairs.query[0, 0][rows], shared.pairs.boxes[0][rows]
    assert 5 < len(query) < QUERIES
    fgl = ddf = torch.zeros(())
    for layer in range(LAYERS):
        outputs = {
            "pred_corners": found.sides.logits[layer],
            "ref_points": found.sides.initial,
            "pred_boxes": found.layers.boxes[layer],
            "teacher_corners": found.sides.logits[-1],
            "teacher_logits": found.layers.logits[-1].clone(),
        }
        pairs = [(query, torch.arange(len(query)))]
        theirs = library.loss_local(outputs, [{"boxes": boxes}], pairs, num_boxes=len(query))
        fgl, ddf = fgl + theirs["loss_fgl"], ddf + theirs["loss_ddf"]
    # Theirs are divided by the number of pairs or averaged; ours are sums over the five objects.
    assert terms["loss_fgl"].item() == pytest.approx(5 * fgl.item(), rel=1e-4)
    assert terms["loss_ddf"].item() == pytest.approx(5 * ddf.item(), rel=1e-4)
    assert ddf.item() > 0.1


def test_class_and_box_terms_equal_those_of_the_library_on_the_same_pairs(library: Any) -> None:
    generator = torch.Generator().manual_seed(2)
    truth = truth_for(generator, (4,), 4)
    found = predictions(generator, truth)
    ours = criterion()
    terms = ours.evaluate(found, truth).terms
    own = ours.match([found.layers, *found.others], truth)
    shared = union(own, truth, QUERIES)
    rows = shared.pairs.matched[0, 0]
    query = shared.pairs.query[0, 0][rows]
    outputs = {"logits": found.layers.logits[-1], "pred_boxes": found.layers.boxes[-1]}
    last = [(own[0].query[-1, 0], torch.arange(4))]
    target = [{"boxes": truth.boxes[0], "class_labels": truth.labels[0]}]
    vfl = library.loss_labels_vfl(outputs, target, last, 1)["loss_vfl"]
    both = library.loss_boxes(
        outputs, [{"boxes": shared.pairs.boxes[0][rows]}], [(query, torch.arange(len(query)))], len(query)
    )
    assert terms["loss_cls"].item() == pytest.approx(vfl.item(), rel=1e-4)
    assert terms["loss_l1"].item() == pytest.approx(5 * 4 * both["loss_bbox"].item(), rel=1e-4)
    assert terms["loss_box"].item() == pytest.approx(2 * 4 * both["loss_giou"].item(), rel=1e-4)


def test_a_query_goes_to_the_object_that_most_layers_gave_it() -> None:
    """Counted by hand as the original does it: pairs by how often they occur, each query once."""
    generator = torch.Generator().manual_seed(3)
    truth = truth_for(generator, (6, 3, 0), 6)
    layers, batch, width = 7, 3, 6
    # Few queries, so that many layers disagree.
    query = torch.stack([torch.randperm(8, generator=generator)[:width] for _ in range(layers * batch)])
    query = query.view(layers, batch, width)
    matched = truth.valid.expand(layers, -1, -1)
    parts = [
        Pairs(query[:4], matched[:4], truth.boxes, truth.labels),
        Pairs(query[4:], matched[4:], truth.boxes, truth.labels),
    ]
    shared = union(parts, truth, QUERIES)
    for image in range(batch):
        objects = int(truth.valid[image].sum())
        votes = Counter((int(query[layer, image, g]), g) for layer in range(layers) for g in range(objects))
        expected: dict[int, set[int]] = {}
        for q in {q for q, _ in votes}:
            most = max(votes[q, g] for g in range(objects))
            expected[q] = {g for g in range(objects) if votes[q, g] == most}
        rows = shared.pairs.matched[0, image]
        assert set(shared.pairs.query[0, image][rows].tolist()) == set(expected)
        for q, box in zip(shared.pairs.query[0, image][rows].tolist(), shared.pairs.boxes[image][rows], strict=True):
            assert any(torch.equal(box, truth.boxes[image, g]) for g in expected[q])
        assert shared.weight[0, image].sum().item() == pytest.approx(objects)


def test_images_add_up_to_their_batch() -> None:
    """An accumulated batch gives the gradient of the large one, also with images without objects."""
    generator = torch.Generator().manual_seed(4)
    truth = truth_for(generator, (3, 0, 5), 5)
    found = predictions(generator, truth)
    ours = criterion()
    whole = ours.evaluate(found, truth)
    parts = [
        ours.evaluate(of_image(found, i), Truth(truth.boxes[i : i + 1], truth.labels[i : i + 1], SIZE))
        for i in range(3)
    ]
    for name, value in whole.terms.items():
        assert value.item() == pytest.approx(sum(part.terms[name].item() for part in parts), rel=1e-4), name
    assert whole.normaliser.item() == 8


def of_image(found: Predictions, image: int) -> Predictions:
    rows = slice(image, image + 1)

    def only(stack: Stack) -> Stack:
        return Stack(stack.logits[:, rows], stack.boxes[:, rows], stack.names)

    sides = Sides(found.sides.logits[:, rows], found.sides.initial[rows], BOUND, CURVATURE)
    return Predictions(only(found.layers), sides, [only(stack) for stack in found.others])


def test_the_last_layer_teaches_and_learns_its_own_distributions_from_the_truth_alone() -> None:
    generator = torch.Generator().manual_seed(5)
    truth = truth_for(generator, (3,), 3)
    found = predictions(generator, truth)
    terms = criterion().evaluate(found, truth).terms
    (of_ddf,) = torch.autograd.grad(terms["loss_ddf"], found.sides.logits, retain_graph=True)
    (of_fgl,) = torch.autograd.grad(terms["loss_fgl"], found.sides.logits)
    assert (of_ddf[-1] == 0).all() and (of_ddf[:-1].abs().sum((1, 2, 3)) > 0).all()
    assert (of_fgl.abs().sum((1, 2, 3)) > 0).all()


def test_a_batch_without_objects_learns_only_that_nothing_is_there() -> None:
    generator = torch.Generator().manual_seed(6)
    truth = truth_for(generator, (0, 0), 1)
    found = predictions(generator, truth)
    result = criterion().evaluate(found, truth)
    assert result.normaliser.item() == 0
    assert all(torch.isfinite(value) for value in result.terms.values())
    for name in ("loss_l1", "loss_box", "loss_fgl", "loss_ddf"):
        assert result.terms[name].item() == 0
    assert result.terms["loss_cls"].item() > 0


def test_without_the_union_boxes_learn_from_the_layers_own_pairs() -> None:
    generator = torch.Generator().manual_seed(7)
    truth = truth_for(generator, (4,), 4)
    found = predictions(generator, truth)
    ours = criterion(union=False, distribution=0.0, distillation=0.0)
    terms = ours.evaluate(found, truth).terms
    query = ours.match([found.layers], truth)[0].query[-1, 0]
    expected = 5 * (found.layers.boxes[-1, 0][query] - truth.boxes[0]).abs().sum()
    assert terms["loss_l1"].item() == pytest.approx(expected.item(), rel=1e-5)
    assert not {"loss_fgl", "loss_ddf"} & set(terms)
