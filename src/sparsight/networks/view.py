"""A copy of a network that shares its weights' memory and nothing else.

Hooks, flags, gradients, buffers and module structure of the copy are its own, so whatever a
method does to the copy, also when it is interrupted half way, the user's model cannot notice.
"""

from __future__ import annotations

import copy

from torch import Tensor, nn

from sparsight.errors import UnsupportedError
from sparsight.networks.network import Network
from sparsight.networks.outputs import LogitsOnly

__all__ = ["shared_view"]


def shared_view(model: nn.Module | Network) -> nn.Module:
    """Copy a classifier so that only the memory of its parameters is shared.

    The copy returns logits ``(N, classes)``; its parameters are new ``Parameter`` objects over
    the same storage with ``requires_grad=False``, its buffers are cloned.

    Parameters
    ----------
    model
        A module, or a :class:`~sparsight.networks.network.Network`.

    Returns
    -------
    torch.nn.Module
        The copy.

    Raises
    ------
    UnsupportedError
        If the model holds something that cannot be copied.

    Examples
    --------
    >>> model = nn.Linear(2, 3)
    >>> view = shared_view(model)
    >>> view.model.weight is model.weight, view.model.weight.data_ptr() == model.weight.data_ptr()
    (False, True)
    """
    module = model.model if isinstance(model, Network) else model
    memo: dict[int, object] = {}
    for parameter in module.parameters():
        memo[id(parameter)] = nn.Parameter(parameter.detach(), requires_grad=False)
    buffers = {id(buffer) for buffer in module.buffers()}
    for part in module.modules():
        for value in vars(part).values():  # plain tensors, as torch.nn.utils.prune leaves them
            if isinstance(value, Tensor) and id(value) not in buffers:
                memo.setdefault(id(value), value.detach())
    try:
        return LogitsOnly(copy.deepcopy(module, memo))
    except (TypeError, RuntimeError, ValueError, AttributeError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise UnsupportedError(
            f"this {type(module).__name__} cannot be copied, so it cannot be explained without "
            f"changing it ({reason}): take out whatever does not survive copy.deepcopy"
        ) from error
