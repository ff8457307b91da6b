"""Look into one mistake: who is to blame, what if they were off, who else fails like this.

The bridge from ``blame`` and ``traces`` to the plain data that ``reports`` shows.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from sparsight.blame import (
    COUNTS,
    ORDERS,
    Blame,
    Statistics,
    blame,
    choices,
    knock_out,
    mend,
    neighbours,
    usual_outputs,
)
from sparsight.blame.engine import TOP
from sparsight.blame.layout import mean_over_weights
from sparsight.blame.whatif import lost
from sparsight.chains import Chain
from sparsight.datasets.folders import SUFFIXES
from sparsight.errors import InputError
from sparsight.networks import Network, Units, open_image
from sparsight.reports.blame import BlamedUnit, BlameReport, Curves, Profile, SimilarImage
from sparsight.traces import Trace

__all__ = ["BATCH", "investigate", "suspects", "weights_kept"]

Progress = Callable[[str, int, int], None]

BATCH = 16
"""Images per pass, if not said otherwise."""

_DEPTH = 50  # units that the histogram over layers is of
_NEAR = 8
_THUMBNAIL = 192


def investigate(
    network: Network,
    image: Image.Image | str | Path | Tensor,
    label: int | str | None = None,
    *,
    statistics: Statistics,
    by: str = "z",
    top: int | None = None,
    objective: str | None = "match",
    trace: Trace | None = None,
    counts: Sequence[int] = COUNTS,
    mode: str = "weights",
    rate: float | None = None,
    reference: Sequence[tuple[Image.Image | str | Path | Tensor, int | str]] = (),
    draws: int = 5,
    seed: int = 0,
    chunk: int = BATCH,
    progress: Progress | None = None,
) -> BlameReport:
    """Find who is to blame for an answer, and check it by switching them off.

    Parameters
    ----------
    network
        In evaluation mode; not changed.
    image
        A path, a PIL image, or a normalised tensor of the network's input size.
    label
        What the answer should be; the prediction if not given.
    statistics
        What is usual, see :func:`sparsight.blame.statistics`; with profiles, images that fail for
        the same reason are found too.
    by, top, objective
        See :func:`sparsight.blame.blame`; by default the top 10 units, or all of fewer.
    trace
        A trace of the network for the image: its units are measured too.
    counts
        How many units are off; none for no such curves.
    mode
        What off means, one of :data:`sparsight.blame.MODES`.
    rate
        Of one gradient step on as many units, to see what mending them does; not done by default.
    reference
        Images with their labels: right answers among them that get lost are the damage, and
        ``mean`` is over them.
    draws, seed
        Of random units.
    chunk
        Images per pass.
    progress
        Called as ``progress(stage, done, total)``.

    Raises
    ------
    InputError
        As :func:`sparsight.blame.blame`; ``mean`` without a reference.
    """
    top = min(TOP, len(statistics.raw.mean)) if top is None else top
    found = blame(network, image, label, statistics=statistics, by=by, top=top, objective=objective)
    profiles, kept, overlap = [_profile("Dense", found)], None, None
    if trace is not None:
        traced = blame(
            network, image, found.label, statistics=statistics, by=by, top=top,
            objective=objective, trace=trace,
        )  # fmt: skip
        profiles.append(_profile("Traced", traced))
        kept = weights_kept(network, trace, found.units)
        chosen = found.ranking[:_DEPTH]
        overlap = float((kept[chosen] > 0).double().mean()), float((kept > 0).double().mean())
    curves = None
    fitting = [count for count in counts if count <= len(found.units)]
    if fitting:
        curves = _curves(
            network, network.prepare(image), found, fitting, mode, reference, draws, seed, chunk,
            progress,
        )  # fmt: skip
    own = Path(image).resolve() if isinstance(image, str | Path) else None
    mended = None
    if fitting and rate is not None:
        mended = _mended(network, image, found, fitting, rate, reference, draws, seed, progress)
    similar = []
    if statistics.profiles is not None and statistics.correct < statistics.samples:
        near = neighbours(found, statistics, _NEAR + 1)
        similar = [n for n in near if own is None or Path(n.name).resolve() != own][:_NEAR]
    units = [
        BlamedUnit(
            *found.units.locate(index),
            score=float(found.scores[by][index]),
            z=float(found.scores["z"][index]),
            share=float(found.scores["share"][index]),
            kept=None if kept is None else float(kept[index]),
        )
        for index in found.ranking[:top].tolist()
    ]
    facts = [
        ("ranked by", by),
        ("loss", statistics.loss),
        ("units", ", ".join(statistics.kinds)),
        ("statistics of", f"{statistics.samples} images, {statistics.correct} answered rightly"),
        ("map", f"{objective}, {found.settings['computed']}" if found.map else "none"),
        ("seed", str(seed)),
    ]
    if statistics.untouched:
        facts.append(("no gradient reaches", ", ".join(statistics.untouched)))
    return BlameReport(
        network.label(found.label),
        network.label(found.predicted),
        found.loss,
        by,
        units,
        profiles,
        curves,
        [
            SimilarImage(
                Path(n.name).name,
                network.label(n.label),
                network.label(n.predicted),
                n.similarity,
                _picture(n.name),
            )
            for n in similar
        ],
        facts,
        overlap,
        mended,
    )


def weights_kept(network: Network, trace: Trace, units: Units) -> Tensor:
    """Share of each unit's weights that a trace kept, ``(units,)``, float64.

    Parameters
    ----------
    network
        That the trace is of; not changed.
    trace
        The trace.
    units
        The units.
    """
    with trace.applied(network) as model:
        nonzero = {name: p.detach() != 0 for name, p in model.named_parameters()}
    return mean_over_weights(units, nonzero, network.model)


def suspects(blamed: Blame, wrong: Chain, right: Chain) -> list[tuple[str, int, float]]:
    """List blamed units of the chain for the wrong class that that for the right one leaves out.

    Parameters
    ----------
    blamed
        Who is to blame, see :func:`sparsight.blame.blame`.
    wrong, right
        Chains of images of the class that was answered, and of the class that it should have been.

    Returns
    -------
    list
        Title of the layer, number, and score of each, of all units with a score above its mean,
        the worst first.

    Raises
    ------
    InputError
        If the chains are of different networks.
    """
    only = set(wrong.without(right))
    scores = blamed.scores[blamed.by]
    located = ((*blamed.units.locate(i), float(scores[i])) for i in blamed.ranking.tolist())
    return [one for one in located if one[:2] in only and one[2] > 0]


def _profile(side: str, found: Blame) -> Profile:
    scores = found.units.split(found.scores[found.by])
    return Profile(
        side,
        [(title, values.numpy()) for title, values in scores.items()],
        found.depth(_DEPTH),
        found.raised,
        None if found.map is None else found.map.map.float().cpu().numpy(),
    )


def _curves(
    network: Network,
    x: Tensor,
    found: Blame,
    counts: Sequence[int],
    mode: str,
    reference: Sequence[tuple[Image.Image | str | Path | Tensor, int | str]],
    draws: int,
    seed: int,
    chunk: int,
    progress: Progress | None,
) -> Curves:
    """Switch units off on the image, and on the images of the reference."""

    def batches() -> Iterator[tuple[Tensor, Tensor]]:
        for start in range(0, len(reference), BATCH):
            some = reference[start : start + BATCH]
            images = torch.cat([network.prepare(image) for image, _ in some])
            yield images, torch.tensor([network.class_index(label) for _, label in some])

    usual = None
    if mode == "mean":
        if not reference:
            raise InputError("switching to the mean needs images to average over: give a reference")
        usual = usual_outputs(network, (images for images, _ in batches()), found.units)
    scores = found.scores[found.by]
    swept = knock_out(
        network, x, found.label, found.units, scores, counts=counts, mode=mode, usual=usual,
        draws=draws, seed=seed, chunk=chunk,
    )  # fmt: skip
    damage: dict[str, list[float]] = {}
    off = torch.cat([choices(scores, counts, order, 1, seed)[0] for order in ORDERS])
    gone, right = torch.zeros(len(off), dtype=torch.float64), 0
    for number, (images, labels) in enumerate(batches()):
        if progress is not None:
            progress("damage", number * BATCH, len(reference))
        more, good = lost(
            network, images, labels, found.units, off, mode=mode, usual=usual, chunk=chunk
        )
        gone, right = gone + more, right + good
    if reference:
        if not right:
            raise InputError(
                "the network gets none of the reference images right: nothing can be lost, so "
                "check their labels"
            )
        parts = (gone / right).split(len(counts))
        damage = {order: part.tolist() for order, part in zip(ORDERS, parts, strict=True)}
    return Curves(
        list(counts),
        {order: curve.predicted.mean(0).tolist() for order, curve in swept.items()},
        {order: curve.true.mean(0).tolist() for order, curve in swept.items()},
        damage,
        mode,
    )


def _mended(
    network: Network,
    image: Image.Image | str | Path | Tensor,
    found: Blame,
    counts: Sequence[int],
    rate: float,
    reference: Sequence[tuple[Image.Image | str | Path | Tensor, int | str]],
    draws: int,
    seed: int,
    progress: Progress | None,
) -> Curves:
    """Mend units for the image, and count what gets lost of the reference."""
    images = labels = None
    if reference:
        images = torch.cat([network.prepare(one) for one, _ in reference])
        labels = torch.tensor([network.class_index(label) for _, label in reference])
    if progress is not None:
        progress("mending", 0, 1)
    swept = mend(
        network, network.prepare(image), found.label, found.units, found.scores[found.by],
        counts=counts, rate=rate, images=images, labels=labels, draws=draws, seed=seed,
    )  # fmt: skip
    return Curves(
        list(counts),
        {order: own.curve.predicted.mean(0).tolist() for order, own in swept.items()},
        {order: own.curve.true.mean(0).tolist() for order, own in swept.items()},
        {order: own.lost.mean(0).tolist() for order, own in swept.items() if own.lost is not None},
        f"one step of rate {rate:g}",
    )


def _picture(name: str) -> np.ndarray | None:
    """Read a thumbnail, if the name is still that of an image file that can be read."""
    if Path(name).suffix.lower() not in SUFFIXES:
        return None
    try:
        picture = open_image(name).convert("RGB")
    except InputError:
        return None
    picture.thumbnail((_THUMBNAIL, _THUMBNAIL))
    return np.asarray(picture, dtype=np.float32) / 255
