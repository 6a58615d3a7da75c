"""CPU time of clipping, AdamW and the moving average on the tensors of RT-DETR-R18: ours, against loops over tensors.

The loops are what the papers' repositories and torch's plainest calls do: `clip_grad_norm_` with foreach=False, AdamW
with foreach=False and fused=False, and `ema = ema * d + w * (1 - d)` for each tensor. Ours is what the training loop
does: one norm and one scaling of all gradients, the fused optimizer, one lerp of all averages. Variants interleaved in
one process, medians of the rounds. Goal: at least 2.5 times less, and the same weights.

    python benchmarks/optimizer_cost.py [--steps 10] [--rounds 7]
"""

from __future__ import annotations

import argparse
import copy
import statistics
import time

import torch
from common import record
from torch import Tensor, nn

from detloom.config import mapping_layer, resolve
from detloom.detector import Detector
from detloom.host import discover
from detloom.train.assemble import BuiltModel, build_model
from detloom.train.footprint import bare_loop
from detloom_schemas.config import TrainingConfig

CLIP, DECAY = 0.1, 1e-4


def gradients_of(detector: Detector, seed: int) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(p.shape, generator=generator) for p in detector.parameters()]


class Ours:
    """The update of the training loop, without the forward and backward pass."""

    def __init__(self, model: BuiltModel, config: TrainingConfig) -> None:
        self.loop = bare_loop(model, config, torch.device("cpu"))
        self.one = torch.ones(())

    def step(self) -> None:
        loop = self.loop
        loop.update(torch.zeros(3), self.one)
        assert loop.ema is not None
        loop.ema.update(loop.detector)


class Loops:
    """One tensor after the other."""

    def __init__(self, model: nn.Module, like: Ours, config: TrainingConfig) -> None:
        self.parameters = list(model.parameters())
        pairs = zip(like.loop.detector.parameters(), self.parameters, strict=True)
        owner = {id(mine): theirs for mine, theirs in pairs}
        groups = [
            {"params": [owner[id(p)] for p in group["params"]], **{k: group[k] for k in ("weight_decay", "lr")}}
            for group in like.loop.optimizer.param_groups
        ]
        self.optimizer = torch.optim.AdamW(groups, betas=(config.momentum, 0.999), foreach=False, fused=False)
        self.model, self.config, self.updates = model, config, 0
        self.shadow = {name: tensor.clone() for name, tensor in model.state_dict().items()}
        assert like.loop.ema is not None
        self.decay_at = like.loop.ema.decay_at

    def step(self) -> None:
        torch.nn.utils.clip_grad_norm_(self.parameters, CLIP, foreach=False)
        self.optimizer.step()
        self.updates += 1
        decay = self.decay_at(self.updates)
        with torch.no_grad():
            for name, tensor in self.model.state_dict().items():
                if tensor.is_floating_point():
                    self.shadow[name] = self.shadow[name] * decay + tensor * (1 - decay)
                else:
                    self.shadow[name] = tensor.clone()


def timed(variant: Ours | Loops, model: nn.Module, gradients: list[Tensor], steps: int) -> float:
    """CPU milliseconds a step; handing the gradients over is not counted."""
    spent = 0.0
    for _ in range(steps):
        for parameter, gradient in zip(model.parameters(), gradients, strict=True):
            parameter.grad = gradient.clone()
        started = time.process_time()
        variant.step()
        spent += time.process_time() - started
    return spent / steps * 1e3


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--rounds", type=int, default=7)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    host = discover()
    resolved = resolve(host, [mapping_layer({"model.type": "rt_detr-r18", "model.pretrain_weights": "none"})])
    config = TrainingConfig(gradient_clip=CLIP, weight_decay=DECAY, warmup_steps=0, scheduler="constant")
    model = build_model(resolved, host, ("a", "b", "c"), pretrained=False)
    twin = copy.deepcopy(model.detector)
    ours = Ours(model, config)
    loops = Loops(twin, ours, config)
    rows: list[tuple[float, float]] = []
    for number in range(arguments.rounds + 1):
        gradients = gradients_of(twin, number)
        mine = timed(ours, model.detector, gradients, arguments.steps)
        rows.append((mine, timed(loops, twin, gradients, arguments.steps)))
    rows = rows[1:]  # the first round makes the moments
    tensors, count = len(list(twin.parameters())), sum(p.numel() for p in twin.parameters())
    assert ours.loop.ema is not None
    averages = ours.loop.ema.state_dict()["shadow"]
    pairs = [(averages[name], tensor) for name, tensor in loops.shadow.items()]
    pairs += [
        (mine.data, theirs.data) for mine, theirs in zip(model.detector.parameters(), loops.parameters, strict=True)
    ]
    apart = max(float((a - b).abs().max()) for a, b in pairs)
    ratios = [theirs / mine for mine, theirs in rows]
    record(
        "optimizer_cost",
        [
            f"RT-DETR-R18: {tensors} trained tensors, {count / 1e6:.1f} M numbers; clipping at {CLIP}, AdamW, average",
            f"loops over tensors {statistics.median(r[1] for r in rows):.1f} ms a step, ours "
            f"{statistics.median(r[0] for r in rows):.1f} ms (CPU time, medians of {len(rows)} rounds of "
            f"{arguments.steps} steps)",
            f"{statistics.median(ratios):.2f} times less (from {min(ratios):.2f} to {max(ratios):.2f}); goal: 2.5",
            f"largest difference of a weight or of an average after all {(len(rows) + 1) * arguments.steps} steps: "
            f"{apart:.1e}",
        ],
    )


if __name__ == "__main__":
    main()
