"""Planted weights kept as differences: small, close, and nothing else changes."""

from __future__ import annotations

import torch

from differences import grow, shrink


def test_differences_come_back_roughly_and_vectors_exactly() -> None:
    torch.manual_seed(0)
    shapes = {"conv": (6, 5, 3, 3), "fc": (7, 11), "bias": (7,), "still": (4, 4)}
    before = {name: torch.randn(shape) for name, shape in shapes.items()}
    before["count"] = torch.tensor(3)
    moves = {name: torch.randn(before[name].shape) * 0.01 for name in ("conv", "fc", "bias")}
    after = before | {name: before[name] + moves[name] for name in moves}
    kept = shrink(before, after)
    found = grow(before, kept)
    assert list(found) == list(before)
    assert torch.equal(found["still"], before["still"])
    assert torch.equal(found["count"], before["count"])
    assert torch.allclose(found["bias"], after["bias"], atol=1e-7)
    for name in ("conv", "fc"):
        lost = (found[name] - after[name]).square().sum() / moves[name].square().sum()
        assert 0.05 < lost < 0.2, "Max (1960): 0.12 of a normal distribution's variance"
    weights = before["conv"].numel() + before["fc"].numel()
    assert sum(t.numel() for name, t in kept.items() if name.startswith("codes")) <= weights / 4 + 2


def test_a_row_that_did_not_move_stays() -> None:
    before = {"fc": torch.randn(3, 4)}
    after = {"fc": before["fc"] + torch.tensor([[1.0], [0.0], [1.0]])}
    assert torch.equal(grow(before, shrink(before, after))["fc"][1], before["fc"][1])
