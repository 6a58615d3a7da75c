from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch

from detloom.detector import LossTerms
from detloom.train.freezing import freeze
from detloom.train.loop import TrainingDiverged
from detloom_schemas.config import TrainingConfig
from loop_tools import Recorder, assert_same, assert_same_state, batches, interrupted_and_resumed, make_loop
from tiny import TinyDetector


def test_accumulated_micro_batches_give_the_update_of_the_large_batch() -> None:
    """The normaliser of the whole effective batch divides once: micro-batches with unequal object counts agree."""
    large = batches(1, images=8)[0]
    small = [
        type(large)(large.images[i : i + 2], large.targets.slice(slice(i, i + 2)), [0, 1], large.sizes[:2])
        for i in range(0, 8, 2)
    ]
    assert len({int(batch.targets.valid.sum()) for batch in small}) > 1
    network = TinyDetector(["a", "b"], norm=False, dropout=0.0)
    results = []
    for parts, accumulation in (([large], 1), (small, 4)):
        config = TrainingConfig(
            epochs=1,
            optimizer="sgd",
            lr=0.1,
            momentum=0,
            gradient_accumulation=accumulation,
            gradient_clip=0.5,
            warmup_epochs=0,
            use_ema=False,
        )
        loop = make_loop(config, parts, Recorder(), detector=copy.deepcopy(network))
        assert loop.run() == "completed"
        assert loop.progress.step == 1
        results.append(loop.detector.state_dict())
    start = network.state_dict()
    for name, tensor in results[0].items():
        assert not torch.equal(tensor, start[name]), "the update moved the weights"
        torch.testing.assert_close(tensor, results[1][name], rtol=1e-5, atol=1e-7)


def test_clipping_equals_torchs_own() -> None:
    batch = batches(1)[0]
    network = TinyDetector(["a", "b"], norm=False, dropout=0.0)
    config = TrainingConfig(
        epochs=1,
        optimizer="sgd",
        lr=1.0,
        momentum=0,
        weight_decay=0,
        gradient_clip=0.3,
        scheduler="constant",
        warmup_epochs=0,
        use_ema=False,
    )
    recorder = Recorder()
    loop = make_loop(config, [batch], recorder, detector=copy.deepcopy(network))
    loop.run()
    by_hand = copy.deepcopy(network).train()
    terms: LossTerms = by_hand.loss(by_hand(batch.images), batch.targets)
    (terms.total / terms.normaliser).backward()
    norm = torch.nn.utils.clip_grad_norm_(by_hand.parameters(), 0.3)
    assert norm > 0.3
    for mine, theirs in zip(loop.detector.parameters(), by_hand.parameters(), strict=True):
        torch.testing.assert_close(mine, theirs - theirs.grad, rtol=1e-4, atol=1e-6)
    assert recorder.logged[0][0]["train/grad_norm"] == pytest.approx(float(norm), rel=1e-4)


@pytest.mark.parametrize("stop_at", [1, 3, 4, 7, 8, 11])
def test_a_run_interrupted_anywhere_and_resumed_equals_the_uninterrupted_one_bit_for_bit(
    stop_at: int, tmp_path: Path
) -> None:
    config = TrainingConfig(
        epochs=4, lr=0.01, gradient_accumulation=2, warmup_steps=3, ema_warmup_steps=5, seed=3, gradient_clip=5.0
    )
    data = batches(6)
    whole, resumed = interrupted_and_resumed(lambda recorder: make_loop(config, data, recorder), stop_at, tmp_path)
    assert_same_state(whole, resumed)


def test_dropout_depends_on_seed_and_step_alone() -> None:
    def final(seed: int) -> dict[str, Any]:
        loop = make_loop(TrainingConfig(epochs=2, seed=seed, lr=0.01), batches(3), Recorder())
        torch.manual_seed(12345)  # the state outside must not matter
        loop.run()
        return loop.detector.state_dict()

    assert_same(final(1), final(1))
    assert not torch.equal(final(1)["head.weight"], final(2)["head.weight"])


def test_early_stopping_waits_and_the_best_epoch_is_saved() -> None:
    recorder = Recorder([0.2, 0.5, 0.4, 0.45, 0.49, 0.9])
    config = TrainingConfig(epochs=20, early_stopping=True, early_stopping_patience=3)
    loop = make_loop(config, batches(2), recorder)
    assert loop.run() == "stopped early"
    assert recorder.epochs == [0, 1, 2, 3, 4]
    assert (loop.best.best, loop.best.best_epoch) == (0.5, 1)
    assert recorder.saved == ["best", "last", "best", "last", "last", "last", "last"]


def test_evaluation_and_saving_follow_their_intervals_and_the_last_epoch_is_always_done() -> None:
    asked: list[int] = []
    recorder = Recorder()
    recorder.evaluate = lambda epoch: asked.append(epoch) or {"val/AP": 0.1}  # type: ignore[func-returns-value]
    loop = make_loop(TrainingConfig(epochs=5, checkpoint_interval=3), batches(2), recorder, interval=2)
    loop.run()
    assert asked == [1, 3, 4]
    assert recorder.saved == ["best", "last", "best", "best", "last"], "of equal scores the later epoch is kept"


def test_an_epoch_is_told_before_it_is_saved_so_that_no_kill_can_lose_its_record() -> None:
    recorder = Recorder(scores=[0.1, 0.2])
    make_loop(TrainingConfig(epochs=2), batches(2), recorder).run()
    assert recorder.saved == ["best", "last", "best", "last"] and recorder.told_before_saves == [0, 2]


def test_max_steps_ends_the_training_in_mid_epoch_with_an_evaluation() -> None:
    recorder = Recorder([0.1, 0.2, 0.3])
    loop = make_loop(TrainingConfig(epochs=9, max_steps=5), batches(3), recorder)
    assert loop.run() == "completed"
    assert loop.progress.step == 5
    assert recorder.epochs == [0, 1]
    assert recorder.saved[-1] == "last"


def test_a_loss_that_is_not_a_number_stops_with_advice_and_saves_nothing() -> None:
    class Broken(TinyDetector):
        def loss(self, outputs: Any, targets: Any) -> LossTerms:
            terms = super().loss(outputs, targets)
            terms.terms["loss_cls"] = terms.terms["loss_cls"] * float("nan")
            return terms

    recorder = Recorder()
    loop = make_loop(TrainingConfig(epochs=1), batches(2), recorder, detector=Broken(["a", "b"]))
    with pytest.raises(TrainingDiverged, match=r"(?s)loss is nan at step 1.*training\.lr"):
        loop.run()
    assert recorder.saved == []


def test_every_promised_number_is_recorded() -> None:
    recorder = Recorder()
    make_loop(TrainingConfig(epochs=1), batches(4), recorder, log_interval=2).run()
    assert [step for _, step, _ in recorder.logged] == [2, 4]
    values = recorder.logged[0][0]
    expected = {"loss", "loss_box", "loss_cls", "loss_obj", "grad_norm", "lr", "images_per_s", "data_wait", "memory_mb"}
    assert set(values) == {f"train/{name}" for name in expected}
    total = values["train/loss_box"] + values["train/loss_cls"] + values["train/loss_obj"]
    assert values["train/loss"] == pytest.approx(total)
    assert 0 <= values["train/data_wait"] <= 1
    assert values["train/memory_mb"] > 10


def test_a_frozen_backbone_stays_bit_equal_with_its_statistics() -> None:
    network = TinyDetector(["a", "b"])
    freeze(network, "stem")
    before = copy.deepcopy(network.stem.state_dict())
    head = network.head.weight.detach().clone()
    make_loop(TrainingConfig(epochs=2, lr=0.1, use_ema=False), batches(2), Recorder(), detector=network).run()
    assert_same(before, dict(network.stem.state_dict()))
    assert not torch.equal(head, network.head.weight)


def test_equal_micro_batches_of_a_step_meet_different_dropout() -> None:
    seen: list[torch.Tensor] = []

    class Watched(TinyDetector):
        def forward(self, images: Any, targets: Any = None, prompts: Any = None) -> Any:
            outputs = super().forward(images, targets, prompts)
            seen.append(outputs.boxes.detach().clone())
            return outputs

    batch = batches(1)[0]
    config = TrainingConfig(epochs=1, gradient_accumulation=2, lr=1e-9)
    make_loop(config, [batch, batch], Recorder(), detector=Watched(["a", "b"], norm=False, dropout=0.5)).run()
    assert len(seen) == 2 and not torch.equal(seen[0], seen[1])


def test_a_batch_without_objects_is_a_step_like_any_other() -> None:
    empty = batches(1)[0]
    empty.targets.labels.fill_(-1)
    recorder = Recorder()
    loop = make_loop(TrainingConfig(epochs=1, lr=0.01), [empty], recorder)
    assert loop.run() == "completed"
    assert all(bool(tensor.isfinite().all()) for tensor in loop.detector.state_dict().values())
    assert recorder.logged[0][0]["train/loss_obj"] > 0


def test_a_gradient_that_is_not_a_number_is_noticed_before_anything_is_saved() -> None:
    class Steep(TinyDetector):
        def loss(self, outputs: Any, targets: Any) -> LossTerms:
            terms = super().loss(outputs, targets)
            zero = (self.head.weight - self.head.weight).abs().sum().sqrt()  # finite, with an infinite slope
            terms.terms["loss_cls"] = terms.terms["loss_cls"] + zero
            return terms

    recorder = Recorder()
    loop = make_loop(TrainingConfig(epochs=1), batches(1), recorder, detector=Steep(["a", "b"]))
    with pytest.raises(TrainingDiverged, match="the gradient is nan"):
        loop.run()
    assert recorder.saved == []


def test_a_run_that_stopped_early_does_not_train_on_when_it_is_resumed() -> None:
    config = TrainingConfig(epochs=9, early_stopping=True, early_stopping_patience=1)
    first = make_loop(config, batches(2), Recorder([0.5, 0.4, 0.9, 0.9]))
    assert first.run() == "stopped early"
    second = make_loop(config, batches(2), Recorder([0.5, 0.4, 0.9, 0.9]))
    second.load_state_dict(first.state_dict())
    assert second.run() == "stopped early"
    assert second.progress.step == first.progress.step == 4


def test_steady_small_gains_add_up_for_patience() -> None:
    recorder = Recorder([0.5 + 0.006 * epoch for epoch in range(12)])
    config = TrainingConfig(epochs=12, early_stopping=True, early_stopping_patience=3, early_stopping_min_delta=0.01)
    assert make_loop(config, batches(1), recorder).run() == "completed"
