"""One call shape for every method."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, MutableMapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from sparsight.attribution.registry import METHODS, Method
from sparsight.attribution.result import Attribution
from sparsight.attribution.subject import Subject
from sparsight.errors import InputError, NumericalError, UnsupportedError
from sparsight.networks.network import Network

__all__ = ["attribute", "attribute_many"]


def attribute(
    model: nn.Module | Network,
    image: Tensor,
    target: int,
    method: str | Method = "saliency",
    *,
    seed: int = 0,
    chunk: int | None = None,
    **settings: Any,
) -> Attribution:
    r"""Explain why a classifier answers with a class on an image.

    The explained quantity is the logit :math:`f_t(x)`. The model is not changed, not even for
    the time of the call: methods work on a private copy that shares the weights' memory.

    Parameters
    ----------
    model
        A classifier in eval mode. It may return a tensor, a tuple, a dict or a ``ModelOutput``.
    image
        ``(C, H, W)`` or ``(1, C, H, W)``, preprocessed as the network wants it.
    target
        Class index.
    method
        A name of :data:`~sparsight.attribution.METHODS`, or a method object.
    seed
        For stochastic methods; equal seeds give equal bytes on equal devices. The global random
        state is neither read nor moved.
    chunk
        Images per pass; by default what fits two GiB.
    settings
        The method's own, see its ``explain``.

    Returns
    -------
    Attribution
        The map, its gap, and what the reader must know.

    Raises
    ------
    InputError
        Unknown method or setting, impossible class, wrong shape, non-finite image.
    NetworkError
        A network in training mode.
    UnsupportedError
        A method that cannot be right on this network.
    NumericalError
        A network that answers NaN.

    Examples
    --------
    >>> _ = torch.manual_seed(0)
    >>> model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(144, 5))
    >>> result = attribute(model.eval(), torch.ones(3, 8, 8), 2, "integrated_gradients")
    >>> result.map.shape, result.gap < 0.01
    (torch.Size([3, 8, 8]), True)
    """
    chosen = METHODS[method] if isinstance(method, str) else method
    completed = chosen.settings(settings)
    with _isolated(model):
        start = time.perf_counter()
        subject = Subject(model, image, target, seed=seed, chunk=chunk)
        return _run(chosen, subject, completed, start)


def attribute_many(
    model: nn.Module | Network,
    image: Tensor,
    target: int,
    methods: Sequence[str] | None = None,
    *,
    seed: int = 0,
    chunk: int | None = None,
    settings: Mapping[str, Mapping[str, Any]] | None = None,
    refusals: MutableMapping[str, str] | None = None,
) -> dict[str, Attribution]:
    """Explain one image by several methods; the network is copied and recorded once.

    Parameters
    ----------
    model, image, target, seed, chunk
        As for :func:`attribute`.
    methods
        Names; all registered ones by default.
    settings
        Settings by method name.
    refusals
        A mapping that receives, by method name, why a method refused this network. Without it
        the first refusal is raised.

    Returns
    -------
    dict
        Attributions by method name, in the order asked, without those that refused.

    Raises
    ------
    InputError, NetworkError, UnsupportedError, NumericalError
        As for :func:`attribute`.

    Examples
    --------
    >>> model = nn.Sequential(nn.Flatten(), nn.Linear(12, 2)).eval()
    >>> refused = {}
    >>> names = ["saliency", "guided_backprop"]
    >>> list(attribute_many(model, torch.ones(3, 2, 2), 0, names, refusals=refused))
    ['saliency']
    >>> list(refused)
    ['guided_backprop']
    """
    given = dict(settings or {})
    chosen = {name: METHODS[name] for name in (METHODS if methods is None else methods)}
    stray = [name for name in given if name not in chosen]
    if stray:
        raise InputError(f"settings are given for {stray[0]!r}, which is not among the methods")
    completed = {name: method.settings(given.get(name, {})) for name, method in chosen.items()}
    results: dict[str, Attribution] = {}
    with _isolated(model):
        subject = Subject(model, image, target, seed=seed, chunk=chunk)
        for name, method in chosen.items():
            try:
                results[name] = _run(method, subject, completed[name], time.perf_counter())
            except UnsupportedError as refusal:
                if refusals is None:
                    raise
                refusals[name] = str(refusal)
    return results


def _run(method: Method, subject: Subject, settings: dict[str, Any], start: float) -> Attribution:
    explained = method.explain(subject, **settings)
    if explained.map.shape != subject.x.shape:
        raise UnsupportedError(
            f"method {method.name!r} returned a map of shape {tuple(explained.map.shape)} for an "
            f"image of shape {tuple(subject.x.shape)}: repair the method"
        )
    if not torch.isfinite(explained.map).all():
        raise NumericalError(
            f"method {method.name!r} met NaN or infinity on this network: try it in float64"
        )
    return Attribution(
        map=explained.map[0].detach().to("cpu", torch.float32, copy=True).contiguous(),
        method=method.name,
        target=subject.target,
        gap=explained.gap,
        gap_of=method.gap_of,
        settings={name: _plain(value) for name, value in (settings | explained.used).items()}
        | {"seed": subject.seed, "chunk": subject.chunk},
        notes=explained.notes,
        seconds=time.perf_counter() - start,
        reduction=method.reduction,
    )


def _plain(value: Any) -> Any:
    """Bring a setting into a form that JSON can hold."""
    if isinstance(value, Tensor):
        return value.item() if value.ndim == 0 else f"tensor {tuple(value.shape)}"
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return value


@contextmanager
def _isolated(model: nn.Module | Network) -> Iterator[None]:
    """Differentiate whatever the caller's grad mode, and keep the global random state."""
    module = model.model if isinstance(model, Network) else model
    devices = sorted({p.device.index or 0 for p in module.parameters() if p.device.type == "cuda"})
    with (
        torch.random.fork_rng(devices=devices),
        torch.inference_mode(False),
        torch.enable_grad(),
    ):
        yield
