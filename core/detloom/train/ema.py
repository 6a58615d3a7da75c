# ruff: noqa: TID253
"""Averages of the weights: exponential (Polyak and Juditsky 1992) with a warm-up of its decay, and equal (SWA,
Izmailov et al. 2018)."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterable, Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from detloom.counting import some_of


class AveragedModel:
    """Holds an average of every floating tensor of the state dict (BatchNorm statistics too); others are copied."""

    def __init__(self, model: nn.Module) -> None:
        self.updates = 0
        self._applied = False
        state = _tensors(model)
        self._names = list(state)
        self._shadow = [tensor.detach().clone() for tensor in state.values()]
        self._live: list[Tensor] = []
        self._bind(model)

    def _bind(self, model: nn.Module) -> None:
        """Remember the model's tensors once: asking for its state dict at each step is slow."""
        self._model_id = id(model)
        self._live = [tensor.detach() for tensor in _tensors(model).values()]
        floating = [i for i, tensor in enumerate(self._shadow) if tensor.is_floating_point()]
        self._floating = floating
        self._rest = [i for i in range(len(self._shadow)) if i not in set(floating)]

    @torch.no_grad()
    def _move(self, model: nn.Module, weight: float) -> None:
        """The average moves this far towards the model."""
        if id(model) != self._model_id:
            self._bind(model)
        shadow = [self._shadow[i] for i in self._floating]
        live = [self._live[i] for i in self._floating]
        torch._foreach_lerp_(shadow, live, weight)  # pyright: ignore[reportPrivateImportUsage]
        for i in self._rest:
            self._shadow[i].copy_(self._live[i])

    @torch.no_grad()
    def apply_shadow(self, model: nn.Module) -> None:
        """Put the averaged weights into the model; `restore` brings its own back exactly."""
        if self._applied:
            raise RuntimeError("the averaged weights are already applied")
        self._swap(model)
        self._applied = True

    @torch.no_grad()
    def restore(self, model: nn.Module) -> None:
        """Undo `apply_shadow`, bit for bit."""
        if not self._applied:
            raise RuntimeError("there is nothing to restore: apply_shadow was not called")
        self._swap(model)
        self._applied = False

    def _swap(self, model: nn.Module) -> None:
        for tensor, shadow in zip(_tensors(model).values(), self._shadow, strict=True):
            kept = tensor.clone()
            tensor.copy_(shadow)
            shadow.copy_(kept)

    @contextlib.contextmanager
    def applied(self, model: nn.Module) -> Iterator[None]:
        """The model with averaged weights, for the length of a block."""
        self.apply_shadow(model)
        try:
            yield
        finally:
            self.restore(model)

    def state_dict(self) -> dict[str, Any]:
        shadow = {name: tensor.clone() for name, tensor in zip(self._names, self._shadow, strict=True)}
        return {"updates": self.updates, "shadow": shadow}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Raises KeyError when the state belongs to another model."""
        for name, tensor in zip(self._names, self._shadow, strict=True):
            tensor.copy_(state["shadow"][name])
        self.updates = int(state["updates"])


def _tensors(model: nn.Module) -> dict[str, Tensor]:
    """The state dict, with each tensor once: tied weights have several names, and swapped twice they would be mixed."""
    found: dict[str, Tensor] = {}
    seen: set[tuple[object, ...]] = set()
    for name, tensor in model.state_dict().items():
        place = (tensor.device, tensor.data_ptr(), tensor.dtype, tuple(tensor.shape), tensor.stride())
        if not tensor.data_ptr() or place not in seen:  # an empty tensor stands nowhere
            seen.add(place)
            found[name] = tensor
    return found


class ModelEMA(AveragedModel):
    """decay after t updates: `decay * (1 - exp(-t / warmup_steps))`, so that the first steps are followed closely."""

    def __init__(self, model: nn.Module, decay: float = 0.9999, warmup_steps: float = 2000.0) -> None:
        super().__init__(model)
        self.decay = decay
        self.warmup_steps = warmup_steps

    def decay_at(self, updates: int) -> float:
        return self.decay * (1.0 - math.exp(-updates / self.warmup_steps))

    def update(self, model: nn.Module) -> None:
        """After each optimizer step."""
        self.updates += 1
        self._move(model, 1.0 - self.decay_at(self.updates))


class ModelSWA(AveragedModel):
    """The mean of the models that it was updated with; before the first, whatever it was made from. steps: how many
    steps each of them had been trained, ascending."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__(model)
        self.steps: list[int] = []

    def update(self, model: nn.Module, step: int) -> None:
        """After each epoch from the start of the averaging on."""
        self.updates += 1
        self.steps.append(step)
        self._move(model, 1.0 / self.updates)

    def start_at(self, start: int, total: int, ends: Iterable[int]) -> str:
        """Makes a mean that was read from a state one of models that were trained for more than `start` steps, and of
        no others. A model cannot be taken out of it, nor one put in that nobody kept.

        ends: steps after which an epoch that is done ended; total: of the whole training. Returns a sentence about
        what the mean should hold and does not, empty when there is nothing.
        """
        early = [step for step in self.steps if step <= start]
        kept, first = self.steps[len(early) :], self.steps[0] if self.steps else 0
        if early:
            self.updates, self.steps = 0, []
        lost = sorted({*kept, *(end for end in ends if end > start)} - set(self.steps))
        if not lost:
            return ""
        which = f"model{'s' if len(lost) > 1 else ''} after step{'s' if len(lost) > 1 else ''} {some_of(lost)}"
        told = f"training.swa_start: SWA starts at step {start}, and its mean lacks the {which}"
        if not early:
            return f"{told}: the run did not keep {'them' if len(lost) > 1 else 'it'} when it was there"
        share = math.floor((first - 1) / total * 1000) / 1000
        return (
            f"{told}: it also held models from before this start, from step {first} on, which cannot be taken out, and "
            f"begins anew; to go on with it, resume with training.swa_start={share:g}"
        )

    def state_dict(self) -> dict[str, Any]:
        return {**super().state_dict(), "steps": list(self.steps)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        super().load_state_dict(state)
        self.steps = [int(step) for step in state["steps"]]

    @torch.no_grad()
    def renew_statistics(self, model: nn.Module, forward_passes: Iterable[object]) -> None:
        """Statistics of the batch norms that are in training mode, as means over these forward passes with the averaged
        weights: those of the single models do not fit their mean (section 3.2). Consuming `forward_passes` runs the
        model; the model itself stays as it is."""
        norms = [m for m in model.modules() if isinstance(m, _BatchNorm) and m.training and m.track_running_stats]
        if not norms:
            return
        before = [norm.momentum for norm in norms]
        with self.applied(model):
            for norm in norms:
                norm.reset_running_stats()
                norm.momentum = None  # a plain mean over the batches
            try:
                for _ in forward_passes:
                    pass
            finally:
                for norm, momentum in zip(norms, before, strict=True):
                    norm.momentum = momentum
