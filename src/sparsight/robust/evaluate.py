"""How many answers hold under attack, image by image."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import Dataset

from sparsight.datasets.pixels import batches, drawn
from sparsight.errors import InputError
from sparsight.robust.attacks import EPSILON, Attack, carlini_wagner, fgsm, pgd

__all__ = [
    "ATTACKS",
    "AUTO",
    "Robustness",
    "choose_attacks",
    "evaluate",
    "require_attacks",
    "wilson",
]

AUTO = "autoattack"
"""Croce & Hein (ICML 2020): APGD on cross entropy and on targets, 100 steps, FAB, Square."""

ATTACKS: dict[str, Callable[[float], Attack]] = {
    "fgsm": fgsm,
    "pgd10": lambda epsilon: pgd(epsilon, 10),
    "pgd50": lambda epsilon: pgd(epsilon, 50),
    "cw": carlini_wagner,
}
"""Attacks by name, for a radius; besides them there is :data:`AUTO`."""

Progress = Callable[[str, int, int], None]

_OTHERS = 3  # classes that the targeted loss of AutoAttack looks at
_Z = 1.959964  # of an interval of 95 %


def wilson(right: float, count: float) -> tuple[float, float]:
    """Interval of 95 % for a share, Wilson (1927).

    Examples
    --------
    >>> [round(bound, 3) for bound in wilson(8, 10)]
    [0.49, 0.943]
    """
    share, square = right / count, _Z * _Z / count
    middle = (share + square / 2) / (1 + square)
    half = _Z * math.sqrt(share * (1 - share) / count + square / (4 * count)) / (1 + square)
    return max(0.0, middle - half), min(1.0, middle + half)


@dataclass(frozen=True, eq=False)
class Robustness:
    """Right answers to images, and under every attack.

    Attributes
    ----------
    labels
        ``(N,)``.
    right
        By name of the attack, ``clean`` first: whether the answer is right, ``(N,)``, bool. Under
        an attack only answers count that are right without it.
    epsilon
        Radius of the ball, in pixels of [0, 1].
    """

    labels: Tensor
    right: Mapping[str, Tensor]
    epsilon: float

    def accuracy(self, name: str = "clean") -> float:
        """Share of right answers."""
        return float(self.right[name].double().mean())

    def balanced(self, name: str = "clean") -> float:
        """Mean over the classes of their shares of right answers."""
        own = self.right[name].double()
        shares = [own[self.labels == label].mean() for label in self.labels.unique()]
        return float(torch.stack(shares).mean())

    def interval(self, name: str = "clean") -> tuple[float, float]:
        """Interval of 95 % of the accuracy."""
        own = self.right[name]
        return wilson(int(own.sum()), len(own))

    def describe(self) -> dict[str, Any]:
        """Plain values."""
        return {
            "images": len(self.labels),
            "epsilon": self.epsilon,
            **{
                name: {
                    "accuracy": self.accuracy(name), "interval": list(self.interval(name)),
                    "balanced": self.balanced(name),
                }
                for name in self.right
            },
        }  # fmt: skip


def choose_attacks(names: str | Sequence[str]) -> list[str]:
    """Read names of attacks, with commas between them.

    Raises
    ------
    InputError
        If there is no such attack.

    Examples
    --------
    >>> choose_attacks("fgsm, pgd10")
    ['fgsm', 'pgd10']
    """
    given = names.split(",") if isinstance(names, str) else list(names)
    found = list(dict.fromkeys(name.strip() for name in given if name.strip()))
    for name in found:
        if name not in ATTACKS and name != AUTO:
            raise InputError(
                f"no attack is called {name!r}: choose from {', '.join([*ATTACKS, AUTO])}"
            )
    return found


def require_attacks(names: Sequence[str], classes: int) -> None:
    """Refuse attacks that cannot be run, before anything is computed.

    Parameters
    ----------
    names
        Of attacks, see :func:`choose_attacks`.
    classes
        Of the network.

    Raises
    ------
    InputError
        AutoAttack without its package, or on a network of less than four classes.
    """
    if AUTO not in names:
        return
    if find_spec("pyautoattack") is None:
        raise InputError(
            "AutoAttack needs pyautoattack: pip install 'sparsight[harden]', or leave it out"
        )
    if classes <= _OTHERS:
        raise InputError(
            f"AutoAttack aims at three other classes, the network has {classes - 1}: use pgd50 "
            "and cw"
        )


def evaluate(
    model: nn.Module,
    data: Dataset[Any],
    attacks: str | Sequence[str] = ("fgsm", "pgd10", "pgd50", "cw"),
    *,
    epsilon: float = EPSILON,
    batch: int = 100,
    workers: int = 0,
    seed: int = 0,
    progress: Progress = lambda stage, done, total: None,
) -> Robustness:
    """Count the answers that hold.

    Parameters
    ----------
    model
        From pixels in [0, 1] to logits; put into evaluation mode.
    data
        Of pixels and labels.
    attacks
        Of :data:`ATTACKS`, or :data:`AUTO`, the official one (``pip install
        'sparsight[harden]'``), which takes thousands of passes for every image.
    epsilon
        Radius of the ball.
    batch, workers
        Images per pass, and processes that read them.
    seed
        Of starts.
    progress
        Called with the attack's name, images done and images in all.

    Raises
    ------
    InputError
        No such attack, no images, or AutoAttack without its package or with less than four
        classes.

    Examples
    --------
    >>> import sparsight
    >>> from sparsight.datasets.scenes import render_scene
    >>> from sparsight.robust import PixelClassifier, Pixels
    >>> network = sparsight.load("embedded")
    >>> images = [(render_scene("mug", seed=i).picture(), 0) for i in range(4)]
    >>> found = evaluate(PixelClassifier.of(network), Pixels(network, images), "fgsm")
    >>> found.accuracy("fgsm") <= found.accuracy("clean")
    True
    """
    chosen = choose_attacks(attacks)
    model.eval()
    device = next(model.parameters()).device
    total = len(data)  # type: ignore[arg-type]
    if not total:
        raise InputError("no images to attack: give some")
    with torch.no_grad():
        classes = model(data[0][0][None].to(device)).shape[1]
    require_attacks(chosen, classes)
    labels: list[Tensor] = []
    right: dict[str, list[Tensor]] = {name: [] for name in ("clean", *chosen)}
    for number, (x, y) in enumerate(batches(data, batch, workers=workers)):
        x, y = x.to(device), y.to(device)
        with torch.no_grad():
            holds = model(x).argmax(1) == y
        labels.append(y.cpu())
        right["clean"].append(holds.cpu())
        for name in chosen:
            progress(name, number * batch, total)
            own = holds.clone()
            if holds.any():
                some, wanted = x[holds], y[holds]
                if name == AUTO:
                    moved = _auto(model, some, wanted, epsilon, batch, seed)
                else:
                    generator = drawn(seed, number, list(ATTACKS).index(name))
                    moved = ATTACKS[name](epsilon)(model, some, wanted, generator)
                with torch.no_grad():
                    own[holds] = model(moved).argmax(1) == wanted
            right[name].append(own.cpu())
    joined = {name: torch.cat(parts) for name, parts in right.items()}
    return Robustness(torch.cat(labels), joined, epsilon)


def _auto(model: nn.Module, x: Tensor, y: Tensor, epsilon: float, batch: int, seed: int) -> Tensor:
    """Run the official AutoAttack, standard version."""
    import pyautoattack

    logging.getLogger("auto-attack").setLevel(logging.ERROR)
    attack = pyautoattack.AutoAttack(model, device=x.device, eps=epsilon, norm="Linf", seed=seed)
    attack.verbose = False
    with torch.no_grad():
        others = model(x[:1]).shape[1] - 1
    attack.apgd_targeted.n_target_classes = min(9, others)
    attack.fab.n_target_classes = min(9, others)
    with torch.enable_grad():
        found = attack.run_standard_evaluation(x, y, batch_size=batch)
    moved: Tensor = found[0] if isinstance(found, tuple) else found
    return moved.to(x)
