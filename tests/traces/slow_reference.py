"""The published steps, slowly and close to their definition, in float64."""

from __future__ import annotations

import torch
from torch import Tensor


def sparsegpt(
    weight: Tensor, moment: Tensor, sparsity: float, block: int = 1, damping: float = 0.01
) -> Tensor:
    """SparseGPT as published: invert, factor the inverse, sweep and compensate.

    ``weight`` is ``(rows, columns)``; exactly ``round(sparsity * rows * block)`` weights per
    block are pruned.
    """
    w = weight.double().clone()
    h = moment.double().clone()
    dead = h.diagonal() == 0
    h[dead, dead] = h.diagonal()[~dead].mean() if bool((~dead).any()) else 1.0
    w[:, dead] = 0
    h += damping * moment.double().diagonal()[~dead].mean().nan_to_num(1.0) * torch.eye(len(h))
    upper = torch.linalg.cholesky(torch.linalg.inv(h), upper=True)
    for start in range(0, w.shape[1], block):
        stop = min(start + block, w.shape[1])
        scores = w[:, start:stop] ** 2 / upper.diagonal()[start:stop] ** 2
        count = round(sparsity * scores.numel())
        # Ties are broken column by column, as the kernel's transposed layout does.
        order = scores.t().flatten().argsort(stable=True)
        keep = torch.ones(scores.numel(), dtype=torch.bool)
        keep[order[:count]] = False
        keep = keep.reshape(stop - start, -1).t()
        for column in range(start, stop):
            kept = torch.where(keep[:, column - start], w[:, column], 0.0)
            error = (w[:, column] - kept) / upper[column, column]
            w[:, column:] -= error[:, None] * upper[column, column:]
            w[:, column] = kept
    return w


def least_squares(weight: Tensor, moment: Tensor, support: Tensor) -> Tensor:
    """Best weights of one row on a support: minimise ``(v - w) S (v - w)`` by brute force."""
    w, s = weight.double(), moment.double()
    out = torch.zeros_like(w)
    index = support.nonzero().flatten()
    out[index] = torch.linalg.solve(s[index][:, index], s[index] @ w)
    return out


def obs(weight: Tensor, moment: Tensor, count: int, ridge: float) -> Tensor:
    """Exact OBS as published: every row to nothing, each state kept, cheapest steps of all rows.

    ``weight`` is ``(rows, columns)``; ``count`` weights are pruned in all.
    """
    h = moment.double() + ridge * torch.eye(len(moment), dtype=torch.float64)
    states, costs = [], []
    for row in weight.double():
        w, left = row.clone(), list(range(len(row)))
        states.append([w.clone()])
        while left:
            inverse = torch.linalg.inv(h[left][:, left])
            cost = w[left] ** 2 / inverse.diagonal()
            q = int(cost.argmin())
            w[left] -= w[left[q]] / inverse[q, q] * inverse[q]
            w[left.pop(q)] = 0
            costs.append(float(cost[q]))
            states[-1].append(w.clone())
    columns = weight.shape[1]
    cheapest = torch.tensor(costs, dtype=torch.float64).argsort(stable=True)[:count]
    steps = (cheapest // columns).bincount(minlength=len(weight))
    return torch.stack([states[row][int(step)] for row, step in enumerate(steps)])
