"""What a server makes of what clients send."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from sparsight.federated.packing import Payload

__all__ = ["average", "average_steps", "effective_steps", "variate_change"]


def average(
    server: Mapping[str, Tensor],
    uploads: Sequence[tuple[float, Payload]],
    *,
    everybody: bool = False,
) -> dict[str, Tensor]:
    r"""Average each entry over the clients that sent it; what nobody sent stays.

    :math:`x_e \leftarrow \sum_{i \ni e} n_i y_{i,e} / \sum_{i \ni e} n_i`, in double precision.

    Parameters
    ----------
    server
        Tensors by name.
    uploads
        Weight and payload of each client.
    everybody
        Average over all clients, those who did not send an entry with the server's value: where
        they send later what they keep back now, it would count several times otherwise.

    Returns
    -------
    dict
        New tensors, in the types of the old ones.

    Examples
    --------
    >>> one = Payload({"w": torch.tensor([4.0, 0.0])}, {"w": torch.tensor([True, False])})
    >>> two = Payload({"w": torch.tensor([1.0, 5.0])}, {"w": torch.tensor([True, False])})
    >>> average({"w": torch.tensor([9.0, 9.0])}, [(1.0, one), (2.0, two)])["w"].tolist()
    [2.0, 9.0]
    """
    found: dict[str, Tensor] = {}
    for name, old in server.items():
        total = torch.zeros_like(old, dtype=torch.float64)
        weight = torch.zeros_like(total)
        for share, payload in uploads:
            if name in payload.values:
                mask = payload.mask(name)
                total += share * mask * payload.values[name].double()
                weight += share * mask
                if everybody:
                    total += share * ~mask * old.double()
                    weight += share * ~mask
        mean = (total / weight.clamp(min=torch.finfo(torch.float64).tiny)).to(old.dtype)
        found[name] = torch.where(weight > 0, mean, old)
    return found


def effective_steps(steps: int, momentum: float = 0.0) -> float:
    r"""How many plain steps come to ``steps`` steps with momentum.

    :math:`a = \sum_{k=1}^{K} (1 - \mu^k) / (1 - \mu)` (Wang et al., FedNova, 2020): what a constant
    gradient is multiplied by, in learning rates.

    Examples
    --------
    >>> effective_steps(10), round(effective_steps(3, 0.5), 6)  # 1 + 1.5 + 1.75
    (10.0, 4.25)
    """
    geometric = momentum * (1 - momentum**steps) / (1 - momentum)
    return (steps - geometric) / (1 - momentum)


def average_steps(
    server: Mapping[str, Tensor], uploads: Sequence[tuple[float, float, Payload]]
) -> dict[str, Tensor]:
    r"""Average normalised steps: :math:`x - \tau \sum_i p_i (x - y_i) / a_i`, FedNova.

    Parameters
    ----------
    server
        Tensors by name.
    uploads
        Weight, effective steps and payload of each client; weights need not sum to one.

    Examples
    --------
    >>> sent = Payload({"w": torch.tensor([0.0])})
    >>> average_steps({"w": torch.tensor([1.0])}, [(1.0, 5.0, sent), (1.0, 5.0, sent)])["w"].item()
    0.0
    """
    whole = sum(share for share, _, _ in uploads)
    common = sum(share / whole * steps for share, steps, _ in uploads)
    found: dict[str, Tensor] = {}
    for name, old in server.items():
        step = torch.zeros_like(old, dtype=torch.float64)
        for share, steps, payload in uploads:
            moved = payload.mask(name) * (old.double() - payload.values[name].double())
            step += share / whole * moved / steps
        found[name] = (old.double() - common * step).to(old.dtype)
    return found


def variate_change(
    before: Tensor, after: Tensor, server: Tensor, mask: Tensor, moved: float
) -> Tensor:
    r"""By how much a client's control variate changes: :math:`(x - y) / (a \eta) - c` where sent.

    SCAFFOLD's second rule (Karimireddy et al., 2020), with steps that momentum makes longer
    counted as such. It takes nothing but what the server knows of the entries that it gets, so it
    need not be sent.

    Parameters
    ----------
    before, after
        Weights that the client got, and those that it sends.
    server
        The server's variate.
    mask
        What is sent; elsewhere the variate stays.
    moved
        Effective steps times learning rate.

    Examples
    --------
    >>> one = torch.ones(2)
    >>> variate_change(one, 0 * one, 0 * one, torch.tensor([True, False]), 0.5).tolist()
    [2.0, 0.0]
    """
    return torch.where(mask, (before - after) / moved - server, torch.zeros_like(before))
