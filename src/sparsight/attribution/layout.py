"""Where an activation has its height and width: NCHW, NHWC or a token grid, found by structure.

The last spatial layer is found by running the network once: of all module outputs that read as a
map of the image, the last one *through which the whole prediction passes* (no path from the
image to the logit goes around it) and whose positions still receive a gradient. In a residual
network that is the trunk, not the inside of a branch; in a ViT that reads its class token it is
the input of the last block, behind which patch tokens no longer matter.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from sparsight.attribution.subject import Subject
from sparsight.errors import UnsupportedError

__all__ = ["Layout", "SpatialLayer", "last_spatial_layer", "possible_layouts"]

_MAX_PREFIX = 8  # class, distillation and register tokens

_NO_LAYER = (
    "no module of this network returns a map of the image (NCHW, NHWC or a token grid) that its "
    "answer depends on, so GradCAM has no layer to read: choose another method"
)


@dataclass(frozen=True)
class Layout:
    """How to read an activation of one image as ``(1, C, height, width)``.

    ``kind`` is ``NCHW``, ``NHWC``, ``NTC`` (tokens, then channels) or ``NCT``; the first
    ``prefix`` tokens are no part of the grid.
    """

    kind: str
    height: int
    width: int
    prefix: int = 0

    def maps(self, activation: Tensor) -> Tensor:
        """Bring an activation (or its gradient) into ``(1, C, height, width)``."""
        if self.kind == "NCHW":
            return activation
        if self.kind == "NHWC":
            return activation.permute(0, 3, 1, 2)
        tokens = activation.transpose(1, 2) if self.kind == "NTC" else activation
        return tokens[..., self.prefix :].reshape(1, tokens.shape[1], self.height, self.width)

    def __str__(self) -> str:
        prefix = f" after {self.prefix} prefix tokens" if self.prefix else ""
        return f"{self.kind} {self.height}x{self.width}{prefix}"


@dataclass(frozen=True, eq=False)
class SpatialLayer:
    """A module's output as maps of the image.

    Attributes
    ----------
    name, call
        Module name in the user's model, and which of its calls (0 is the first).
    layout
        How the output was read.
    activation, gradient
        ``(1, C, h, w)``: output, and gradient of the target logit with respect to it.
    whole
        Whether the whole prediction passes through it.
    """

    name: str
    call: int
    layout: Layout
    activation: Tensor
    gradient: Tensor
    whole: bool


@dataclass(frozen=True, eq=False)
class _Output:
    name: str
    call: int
    tensor: Tensor


def possible_layouts(
    shape: tuple[int, ...], size: tuple[int, int], grids: list[tuple[int, int]]
) -> list[Layout]:
    """All readings of an activation's shape as maps of an image.

    Parameters
    ----------
    shape
        Of the activation of one image.
    size
        ``(H, W)`` of the image.
    grids
        Sizes of maps seen earlier in the network, which token grids are matched with first.

    Returns
    -------
    list of Layout
        Empty if there is none, several if shape alone cannot tell.

    Examples
    --------
    >>> [str(layout) for layout in possible_layouts((1, 7, 7, 768), (224, 224), [])]
    ['NHWC 7x7']
    >>> [str(layout) for layout in possible_layouts((1, 197, 192), (224, 224), [(14, 14)])]
    ['NTC 14x14 after 1 prefix tokens']
    """
    found = []
    if len(shape) == 4 and shape[0] == 1:
        if _fits(shape[2], shape[3], size):
            found.append(Layout("NCHW", shape[2], shape[3]))
        if _fits(shape[1], shape[2], size):
            found.append(Layout("NHWC", shape[1], shape[2]))
    elif len(shape) == 3 and shape[0] == 1:
        for kind, tokens in (("NTC", shape[1]), ("NCT", shape[2])):
            grid = _grid(tokens, size, grids)
            if grid is not None:
                found.append(Layout(kind, *grid, tokens - grid[0] * grid[1]))
        seen = [layout for layout in found if (layout.height, layout.width) in grids]
        found = seen or found
    return found


def _fits(height: int, width: int, size: tuple[int, int]) -> bool:
    slack = 0.0 if size[0] == size[1] else 2.0
    inside = height * width > 1 and height <= size[0] and width <= size[1]
    return inside and abs(height - width * size[0] / size[1]) <= slack


def _grid(
    tokens: int, size: tuple[int, int], grids: list[tuple[int, int]]
) -> tuple[int, int] | None:
    known = [g for g in grids if g[0] * g[1] > 1 and 0 <= tokens - g[0] * g[1] <= _MAX_PREFIX]
    if known:
        return max(known, key=lambda g: g[0] * g[1])
    for prefix in range(6):
        count = tokens - prefix
        height = round((max(count, 0) * size[0] / size[1]) ** 0.5)
        if height > 1 and count % height == 0 and _fits(height, count // height, size):
            return height, count // height
    return None


@contextmanager
def _recorded(view: nn.Module) -> Iterator[list[_Output]]:
    outputs: list[_Output] = []
    calls: dict[str, int] = {}

    def hook(name: str) -> Any:
        def record(module: nn.Module, args: Any, output: Any) -> Any:
            tensor = output[0] if type(output) is tuple and output else output
            if not isinstance(tensor, Tensor) or tensor.ndim not in (3, 4):
                return None
            outputs.append(_Output(name, calls.get(name, 0), tensor))
            calls[name] = calls.get(name, 0) + 1
            fresh = tensor.clone()  # so that an in-place successor leaves the record alone
            return (fresh, *output[1:]) if type(output) is tuple else fresh

        return record

    handles = [
        module.register_forward_hook(hook(name.removeprefix("model").removeprefix(".")))
        for name, module in view.named_modules()
    ]
    try:
        yield outputs
    finally:
        for handle in handles:
            handle.remove()


def last_spatial_layer(subject: Subject) -> SpatialLayer:
    """Find the last layer whose output is a map of the image and decides the logit.

    Parameters
    ----------
    subject
        What is explained.

    Returns
    -------
    SpatialLayer
        With activation and gradient.

    Raises
    ------
    UnsupportedError
        If no module output reads as a map, or its layout stays ambiguous after a probe.
    """
    size = (subject.x.shape[2], subject.x.shape[3])
    x = subject.x.clone().requires_grad_()
    with _recorded(subject.view) as outputs:
        logit = subject.view(x)[0, subject.target]
    outputs = [output for output in outputs if output.tensor.requires_grad]
    if not outputs:
        raise UnsupportedError(_NO_LAYER)
    gradients = torch.autograd.grad(
        logit, [output.tensor for output in outputs], allow_unused=True, retain_graph=True
    )
    grids: list[tuple[int, int]] = []
    candidates: list[tuple[_Output, Tensor, list[Layout]]] = []
    for output, gradient in zip(outputs, gradients, strict=True):
        layouts = possible_layouts(tuple(output.tensor.shape), size, grids)
        if len(layouts) == 1 and output.tensor.ndim == 4:
            grids.append((layouts[0].height, layouts[0].width))
        if gradient is not None and any(bool(f.maps(gradient).any()) for f in layouts):
            candidates.append((output, gradient, layouts))
    if not candidates:
        raise UnsupportedError(_NO_LAYER)
    whole = [c for c in candidates if _carries_all(logit, c[0].tensor, x)]
    for output, gradient, layouts in reversed(whole or candidates):
        layout = layouts[0] if len(layouts) == 1 else _probe(subject, output, layouts)
        slopes = layout.maps(gradient.detach())
        if slopes.any():  # else: so read, only prefix tokens matter here
            maps = layout.maps(output.tensor.detach())
            return SpatialLayer(output.name, output.call, layout, maps, slopes, bool(whole))
    raise UnsupportedError(_NO_LAYER)


def _carries_all(logit: Tensor, tensor: Tensor, x: Tensor) -> bool:
    """Whether every path of the autograd graph from the logit to the image meets the tensor."""
    pending, seen = [logit.grad_fn], {tensor.grad_fn}
    while pending:
        node = pending.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        if getattr(node, "variable", None) is x:
            return False
        pending.extend(parent for parent, _ in node.next_functions)
    return True


def _probe(subject: Subject, output: _Output, layouts: list[Layout]) -> Layout:
    """Tell layouts apart: a change right of the centre must show right of one on the left."""
    x = subject.x
    noise = torch.randn(x.shape, generator=subject.generator()).to(x) * x.std().clamp_min(1e-3)
    shifts = dict.fromkeys(layouts, 1.0)
    for axis in (2, 3):
        half = x.shape[axis] // 2
        centres: dict[Layout, list[float]] = {layout: [] for layout in layouts}
        for part in (slice(0, half), slice(half, None)):
            mask = torch.zeros_like(x)
            mask[(slice(None),) * axis + (part,)] = 1
            with _recorded(subject.view) as changed, torch.no_grad():
                subject.view(x + noise * mask)
            again = next(o for o in changed if (o.name, o.call) == (output.name, output.call))
            for layout in layouts:
                energy = layout.maps(again.tensor - output.tensor.detach()).abs().sum((0, 1))
                profile = energy.sum(3 - axis).double()
                places = torch.arange(len(profile), device=profile.device).double()
                mean = (profile * places).sum() / profile.sum().clamp_min(1e-300)
                centres[layout].append(float(mean) / len(profile))
        for layout, (low, high) in centres.items():
            shifts[layout] = min(shifts[layout], high - low)
    best, second = sorted(layouts, key=lambda f: -shifts[f])[:2]
    if shifts[best] < 0.05 or shifts[second] > shifts[best] / 2:
        raise UnsupportedError(
            f"the output of layer {output.name!r}, shape {tuple(output.tensor.shape)}, reads as "
            f"{' or as '.join(map(str, layouts))} and a probe cannot tell which: give the network "
            "another input size, or choose a method that needs no layer"
        )
    return best
