"""The contract that every public call must keep: the user's model is never changed."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

_HOOKS = [name for name in vars(nn.Module()) if "_hooks" in name]


def _facts(model: nn.Module) -> dict[str, Any]:
    return {
        "state": {k: v.clone() for k, v in model.state_dict().items()},
        "pointers": {k: v.data_ptr() for k, v in model.state_dict().items()},
        "identity": {k: id(p) for k, p in model.named_parameters()},
        "modules": {k: id(m) for k, m in model.named_modules()},
        "hooks": {(k, h): list(getattr(m, h)) for k, m in model.named_modules() for h in _HOOKS},
        "flags": {k: p.requires_grad for k, p in model.named_parameters()},
        "grads": {
            k: (id(p.grad), None if p.grad is None else p.grad.clone())
            for k, p in model.named_parameters()
        },
        "training": {k: m.training for k, m in model.named_modules()},
        "random": torch.get_rng_state(),
        "grad mode": torch.is_grad_enabled(),
    }


def _same(a: Any, b: Any) -> bool:
    if isinstance(a, torch.Tensor):
        return isinstance(b, torch.Tensor) and a.dtype == b.dtype and torch.equal(a, b)
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(_same(a[k], b[k]) for k in a)
    if isinstance(a, tuple | list):
        return len(a) == len(b) and all(map(_same, a, b))
    return bool(a == b)


@contextmanager
def untouched(model: nn.Module) -> Iterator[None]:
    """Fail if anything about the model (or the global random state) differs afterwards."""
    before = _facts(model)
    try:
        yield
    finally:
        after = _facts(model)
        changed = [what for what in before if not _same(before[what], after[what])]
        assert not changed, f"the model was changed: {changed}"
