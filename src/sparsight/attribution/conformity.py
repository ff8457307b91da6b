"""What every method must do, own or third-party: run this before trusting one."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from sparsight.attribution.explain import attribute
from sparsight.attribution.registry import METHODS, Method
from sparsight.attribution.result import Attribution
from sparsight.errors import InputError, UnsupportedError

__all__ = ["check_method", "fingerprint"]


class _Net(nn.Module):
    """A small CNN with a residual sum and one in-place ReLU module called three times."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 6, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(6)
        self.relu = nn.ReLU(inplace=True)
        self.inner = nn.Conv2d(6, 6, 3, padding=1)
        self.head = nn.Linear(6, 4)
        self.failure: BaseException | None = None
        self.patience = 0

    def forward(self, x: Tensor) -> Tensor:
        x = self.relu(self.norm(self.stem(x)))
        x = self.relu(self.inner(x)) + x
        x = self.relu(self.inner(x) + x)
        if self.failure is not None:
            self.patience -= 1
            if self.patience < 0:
                raise self.failure
        result: Tensor = self.head(x.mean((2, 3)))
        return result


def fingerprint(model: nn.Module) -> list[Any]:
    """Everything of a model, and of the global random state, that a method must not change."""
    state = [(name, tensor.clone()) for name, tensor in model.state_dict().items()]
    parameters = [
        (id(p), p.data_ptr(), p._version, p.requires_grad, p.grad) for p in model.parameters()
    ]
    modules = [
        (
            name,
            id(module),
            module.training,
            {
                key: dict(value) if isinstance(value, dict) else value
                for key, value in vars(module).items()
                if key.endswith("_hooks") or key in ("_modules", "_parameters", "_buffers")
            },
        )
        for name, module in model.named_modules()
    ]
    return [state, parameters, modules, torch.get_rng_state(), torch.is_grad_enabled()]


def _same(a: Any, b: Any) -> bool:
    if isinstance(a, Tensor) and isinstance(b, Tensor):
        return a is b or (a.shape == b.shape and a.dtype == b.dtype and bool((a == b).all()))
    if isinstance(a, list | tuple) and isinstance(b, list | tuple):
        return len(a) == len(b) and all(map(_same, a, b))
    if isinstance(a, dict) and isinstance(b, dict):
        return a.keys() == b.keys() and all(_same(a[key], b[key]) for key in a)
    return bool(a == b)


def _require(condition: bool, method: Method, law: str) -> None:
    if not condition:
        raise AssertionError(f"method {method.name!r}: {law}")


def check_method(method: str | Method, **settings: Any) -> Attribution:
    """Check one method against the contract all methods share.

    On a small residual network with reused in-place activations: shape, type and finiteness of
    the map; a gap exactly where the method claims a law, and small; metadata; settings that JSON
    can hold; equal seeds give equal bytes; unknown settings are refused; neither the model nor
    the random state changes, also when the model raises or is interrupted at any of its calls.

    Parameters
    ----------
    method
        A registry name or a method object.
    settings
        Cheaper settings than the defaults, if wanted.

    Returns
    -------
    Attribution
        A map the method made, for further checks.

    Raises
    ------
    AssertionError
        Naming the first law broken.

    Examples
    --------
    >>> check_method("saliency").map.shape
    torch.Size([3, 16, 16])
    """
    chosen = METHODS[method] if isinstance(method, str) else method
    for text in (chosen.name, chosen.title, chosen.reference):
        _require(bool(text), chosen, "name, title and reference must be given")
    with torch.random.fork_rng(devices=[]):
        generator = torch.Generator().manual_seed(0)
        model = _Net().eval()
        for tensor in model.state_dict().values():
            if tensor.is_floating_point():
                tensor.copy_(torch.rand(tensor.shape, generator=generator) - 0.4)
        model.norm.running_var.fill_(0.7)  # type: ignore[union-attr]
        image = torch.randn(3, 16, 16, generator=generator)

        def run(**more: Any) -> Attribution:
            return attribute(model, image, 1, chosen, **(settings | more))

        first = _unchanged(chosen, model, run)
        assert isinstance(first, Attribution)
        _check_result(chosen, first)
        again = run()
        _require(torch.equal(first.map, again.map), chosen, "equal seeds must give equal bytes")
        if chosen.stochastic:
            other = run(seed=1)
            _require(not torch.equal(first.map, other.map), chosen, "another seed must matter")
        _require_refusal(chosen, run)
        for failure in (RuntimeError("the network fails"), KeyboardInterrupt()):
            for patience in range(3):
                model.failure, model.patience = failure, patience
                _unchanged(chosen, model, run, type(failure))
    return first


def _unchanged(
    method: Method,
    model: nn.Module,
    run: Callable[[], Attribution],
    failure: type[BaseException] | None = None,
) -> Attribution | None:
    before = fingerprint(model)
    result = None
    try:
        result = run()
    except (RuntimeError, KeyboardInterrupt, UnsupportedError) as error:
        if failure is None:
            raise
        expected = isinstance(error, failure | UnsupportedError)
        _require(expected, method, f"{failure.__name__} of the model became {error!r}")
    _require(_same(before, fingerprint(model)), method, "the model or the random state changed")
    return result


def _check_result(method: Method, result: Attribution) -> None:
    _require(result.map.shape == (3, 16, 16), method, "the map must have the image's shape")
    _require(result.map.dtype == torch.float32, method, "the map must be float32")
    _require(result.map.device.type == "cpu", method, "the map must be on the CPU")
    _require(bool(torch.isfinite(result.map).all()), method, "the map must be finite")
    _require(bool(result.map.any()), method, "the map must not be zero")
    _require(result.heat().shape == (16, 16), method, "heat() must be (H, W)")
    _require(
        (result.gap is not None) == method.has_gap and result.gap_of == method.gap_of,
        method,
        "a gap is reported exactly where a law is claimed",
    )
    if result.gap is not None:
        _require(result.gap < 0.5, method, f"a gap of {result.gap:.2g} on a small network")
    _require(
        json.loads(json.dumps(result.settings)).keys() == result.settings.keys(),
        method,
        "settings must be JSON",
    )


def _require_refusal(method: Method, run: Callable[..., Attribution]) -> None:
    try:
        run(no_such_setting=1)
    except InputError as error:
        _require("no_such_setting" in str(error), method, "the refusal must name the setting")
        return
    _require(False, method, "an unknown setting must be refused")
