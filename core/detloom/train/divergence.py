# ruff: noqa: TID253
"""Where numbers stopped being numbers: the step is run again, watched."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from detloom.detector import LossTerms


@dataclasses.dataclass(frozen=True, slots=True)
class BrokenStep:
    """An optimizer step whose loss or gradient is not finite. first_batch: position in the epoch of the first of its
    `batches` micro-batches."""

    step: int
    first_batch: int
    batches: int
    what: str
    value: float


def find_origin(detector: nn.Module, passes: Sequence[Callable[[], LossTerms]]) -> str:
    """A sentence saying where the first value that is not finite appears: in the weights, the output of a module, a
    term of the loss, or the gradient; or that it does not come again. passes: forward passes of the step, each giving
    its loss.

    Weights stay as they are; gradients are cleared.
    """
    for name, parameter in detector.named_parameters():
        if not _finite(parameter):
            return f"it began in the weights themselves: {name} holds {_first_bad(parameter)}"
    for run in passes:
        with _Watch(detector) as watch:
            loss = run()
            if watch.forward:
                return f"it began in {watch.forward}"
            for name, term in loss.terms.items():
                if not _finite(term):
                    return f"it began in the loss term {name} is {_first_bad(term)}; every module's output is finite"
            loss.total.backward()  # type: ignore[no-untyped-call]
        if watch.backward:
            return f"it began in {watch.backward}"
        for name, parameter in detector.named_parameters():
            if parameter.grad is not None and not _finite(parameter.grad):
                bad = _first_bad(parameter.grad)
                return f"it began in the gradient of {name} is {bad}; outputs and losses are finite"
    detector.zero_grad(set_to_none=True)
    return "run again, every value of this step is finite: what broke it does not come each time"


class _Watch:
    """Hooks on every module; keeps the first that saw a value that is not finite, forwards and backwards."""

    def __init__(self, detector: nn.Module) -> None:
        self.forward = self.backward = ""
        self._handles: list[Any] = []
        self._detector = detector

    def __enter__(self) -> _Watch:
        for name, module in self._detector.named_modules():
            self._handles.append(module.register_forward_pre_hook(self._before(name), with_kwargs=True))
            self._handles.append(module.register_forward_hook(self._after(name)))
        return self

    def __exit__(self, *error: object) -> None:
        for handle in self._handles:
            handle.remove()

    def _before(self, name: str) -> Callable[..., None]:
        def hook(module: nn.Module, inputs: Any, options: Any) -> None:
            for tensor in _tensors((inputs, options)):
                if not self.forward and not _finite(tensor):
                    self.forward = f"the input of {_called(name, module)} holds {_first_bad(tensor)}"

        return hook

    def _after(self, name: str) -> Callable[..., None]:
        def hook(module: nn.Module, inputs: Any, output: Any) -> None:
            for tensor in _tensors(output):
                if not self.forward and not _finite(tensor):
                    self.forward = f"the output of {_called(name, module)} holds {_first_bad(tensor)}"
                if tensor.requires_grad and name:
                    tensor.register_hook(self._gradient(_called(name, module)))  # type: ignore[no-untyped-call]

        return hook

    def _gradient(self, called: str) -> Callable[[Tensor], None]:
        def hook(gradient: Tensor) -> None:
            if not self.backward and not _finite(gradient):
                self.backward = (
                    f"the gradient of the output of {called} is {_first_bad(gradient)}; every output and loss is finite"
                )

        return hook


def _called(name: str, module: nn.Module) -> str:
    return f"{name or 'the detector'} ({type(module).__name__})"


def _tensors(value: Any) -> Iterator[Tensor]:
    """Floating tensors in nested containers and dataclasses."""
    if isinstance(value, Tensor):
        if value.is_floating_point():
            yield value
    elif isinstance(value, dict):
        for item in value.values():
            yield from _tensors(item)
    elif isinstance(value, (list, tuple)):
        for item in value:
            yield from _tensors(item)
    elif dataclasses.is_dataclass(value) and not isinstance(value, type):
        for field in dataclasses.fields(value):
            yield from _tensors(getattr(value, field.name))


def _finite(tensor: Tensor) -> bool:
    return bool(torch.isfinite(tensor.detach()).all())


def _first_bad(tensor: Tensor) -> str:
    """nan, inf or -inf, and how many of them."""
    bad = tensor.detach()[~torch.isfinite(tensor.detach())]
    return f"{bad.flatten()[0].item()} ({bad.numel()} of {tensor.numel()} values)"
