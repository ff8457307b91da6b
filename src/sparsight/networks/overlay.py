"""Other weights for a while: everything is put back, whatever happens inside."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from sparsight.errors import NetworkError

__all__ = ["overlay"]

_HOOKS = tuple(
    name
    for name in vars(nn.Module())
    if name.endswith(("_hooks", "_hooks_with_kwargs", "_hooks_always_called"))
)


class _Snapshot:
    """What a guest may disturb: storages, gradients, flags, buffers and hooks of a model."""

    def __init__(self, model: nn.Module) -> None:
        self.model = model
        self.parameters = list(model.parameters())
        self.data = [p.data for p in self.parameters]
        self.versions = [p._version for p in self.parameters]
        self.grads = [p.grad for p in self.parameters]
        self.flags = [p.requires_grad for p in self.parameters]
        self.buffers = [(b, b.detach().clone()) for b in model.buffers()]
        self.modules = [
            (
                m,
                m.training,
                dict(m._modules),
                dict(m._parameters),
                dict(m._buffers),
                {name: dict(getattr(m, name)) for name in _HOOKS},
            )
            for m in model.modules()
        ]

    def restore(self) -> None:
        """Put everything back where it was."""
        for module, training, modules, parameters, buffers, hooks in self.modules:
            module.training = training
            _put_back(module._modules, modules)
            _put_back(module._parameters, parameters)
            _put_back(module._buffers, buffers)
            for name, kept in hooks.items():
                _put_back(getattr(module, name), kept)
        for parameter, data, grad, flag in zip(
            self.parameters, self.data, self.grads, self.flags, strict=True
        ):
            parameter.data = data
            parameter.grad = grad
            parameter.requires_grad_(flag)
        with torch.no_grad():
            # Batch norm updates its statistics without counting a version: compare values.
            for buffer, value in self.buffers:
                if not torch.equal(buffer, value):
                    buffer.copy_(value)


def _put_back(table: dict[Any, Any], saved: dict[Any, Any]) -> None:
    same = list(table) == list(saved) and all(table[key] is saved[key] for key in saved)
    if not same:
        table.clear()
        table.update(saved)


@contextmanager
def overlay(model: nn.Module, tensors: Mapping[str, Tensor]) -> Iterator[nn.Module]:
    """Run a block with other parameter values in the model.

    Inside the block any third-party code may use the model: run it, hook it, differentiate it,
    switch it to training mode. Afterwards storages, gradients, ``requires_grad``, buffers, hooks
    and train/eval flags are what they were, also when the block raises or is interrupted.
    Parameters that are not overlaid are shared with the block, which must not train them.

    Parameters
    ----------
    model
        The model; its ``Parameter`` objects keep their identity throughout.
    tensors
        New values by parameter name, of the parameter's shape. They are copied to its device
        and dtype.

    Yields
    ------
    torch.nn.Module
        The same model.

    Raises
    ------
    NetworkError
        If a name is no parameter or a shape differs (before anything is changed), or if the
        block changed a shared parameter in place.

    Examples
    --------
    >>> import torch
    >>> layer = torch.nn.Linear(2, 1, bias=False)
    >>> with overlay(layer, {"weight": torch.zeros(1, 2)}):
    ...     print(layer(torch.ones(1, 2)).item())
    0.0
    >>> bool(layer.weight.abs().sum() > 0)
    True
    """
    named = dict(model.named_parameters(remove_duplicate=False))
    for name, value in tensors.items():
        if name not in named:
            raise NetworkError(f"the model has no parameter {name!r} to overlay")
        if named[name].shape != value.shape:
            raise NetworkError(
                f"parameter {name!r} has shape {tuple(named[name].shape)}, "
                f"the overlay brings {tuple(value.shape)}"
            )
    overlaid = {id(named[name]) for name in tensors}
    snapshot = _Snapshot(model)
    torch.clear_autocast_cache()  # it knows copies of the values before by the same parameters
    try:
        for parameter in snapshot.parameters:
            parameter.grad = None
        for name, value in tensors.items():
            target = named[name]
            target.data = value.detach().to(target.device, target.dtype, copy=True)
        yield model
    finally:
        snapshot.restore()
        torch.clear_autocast_cache()
    changed = _changed(model, snapshot, overlaid)
    if changed:
        raise NetworkError(
            f"the block changed parameter {changed[0]!r} in place: work on trace.network(), "
            "which is a copy"
        )


def _changed(model: nn.Module, snapshot: _Snapshot, overlaid: set[int]) -> list[str]:
    versions = dict(zip(map(id, snapshot.parameters), snapshot.versions, strict=True))
    return [
        name
        for name, parameter in model.named_parameters()
        if id(parameter) not in overlaid and parameter._version != versions[id(parameter)]
    ]
