r"""Which pixels drive the units to blame: the gradient of a profile's match, exactly.

The objective is a function of the profile of z-scores :math:`\hat s`, whose gradient with respect
to the image needs the gradient of a gradient. With :math:`\partial C / \partial \hat s_u` at hand
and :math:`g = \nabla_\theta L`,

.. math::

    \nabla_x C = \nabla_x \langle c, \nabla_\theta L \rangle
               = \tfrac{d}{d\varepsilon} \nabla_x L(\theta + \varepsilon c), \qquad
    c_i = \frac{\partial C}{\partial \hat s_u} \frac{\operatorname{sign} g_i}{\sigma_u |u|} ,

which is one forward-mode derivative of one backward pass, in the memory of about two of them.
Where an operation has no forward-mode rule, the inner product is differentiated backward twice.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.func import functional_call, grad, jvp
from torch.nn.attention import SDPBackend, sdpa_kernel

from sparsight.blame.layout import spread_over_weights, weights_of_units
from sparsight.blame.saliency import loss_of
from sparsight.errors import InputError
from sparsight.networks import Network, Units, failed_machine, shared_view

__all__ = [
    "OBJECTIVES",
    "InputMap",
    "boosted_match",
    "input_map",
    "sum_of_top",
]

FORWARD, BACKWARD = "forward over reverse", "reverse over reverse"


def boosted_match(z: Tensor, top: Tensor, boost: float = 100.0) -> Tensor:
    r"""Gradient of the cosine of a profile and the profile with its top entries boosted.

    As published: the boosted profile is a constant, :math:`z'_u = b z_u` for the top units.

    Parameters
    ----------
    z
        ``(units,)``.
    top
        Indices of the units to boost.
    boost
        Factor.

    Returns
    -------
    Tensor
        ``(units,)``: the derivative of the cosine with respect to ``z``.
    """
    target = z.clone()
    target[top] *= boost
    lengths = z.norm() * target.norm()
    if not lengths > 0:
        raise InputError("the profile is zero everywhere: there is nothing to match")
    cosine = (z @ target) / lengths
    found: Tensor = target / lengths - cosine * z / z.square().sum()
    return found


def sum_of_top(z: Tensor, top: Tensor, boost: float = 0.0) -> Tensor:
    """Gradient of the sum of the z-scores of the top units."""
    found = torch.zeros_like(z)
    found[top] = 1.0
    return found


OBJECTIVES: dict[str, Callable[[Tensor, Tensor, float], Tensor]] = {
    "match": boosted_match,
    "sum": sum_of_top,
}
"""What a map is the gradient of: the published match, or the plain sum over the top units."""


@dataclass(frozen=True, eq=False)
class InputMap:
    """Gradient of an objective with respect to the image.

    Attributes
    ----------
    gradient
        ``(C, H, W)``, with its sign.
    computed
        By ``forward over reverse`` or ``reverse over reverse``; both are exact.
    """

    gradient: Tensor
    computed: str

    @property
    def map(self) -> Tensor:
        """Sum of absolute values over channels, ``(H, W)``."""
        return self.gradient.abs().sum(0)


def input_map(
    network: Network, x: Tensor, label: int, units: Units, slopes: Tensor, loss: str = "label"
) -> InputMap:
    """Differentiate a function of the units' saliency with respect to the image.

    Parameters
    ----------
    network
        In evaluation mode; not changed.
    x
        ``(1, C, H, W)``, normalised.
    label
        Of the loss.
    units
        The units.
    slopes
        ``(units,)``: derivative of the function with respect to each unit's raw saliency.
    loss
        One of :data:`sparsight.blame.LOSSES`.
    """
    network.require_eval()
    view = shared_view(network)
    loss_function, labels = loss_of(loss), torch.tensor([label], device=x.device)
    per_weight = slopes / weights_of_units(units, network.model).to(slopes)
    spread = {
        f"model.{name}": value
        for name, value in spread_over_weights(units, per_weight.to(x), network.model).items()
    }
    parameters = {name: view.get_parameter(name).detach() for name in spread}

    def evaluate(given: dict[str, Tensor], image: Tensor) -> Tensor:
        return loss_function(functional_call(view, given, (image,)), labels).sum()

    with sdpa_kernel(SDPBackend.MATH):
        given = {name: value.detach().requires_grad_() for name, value in parameters.items()}
        with torch.enable_grad():
            found = torch.autograd.grad(
                evaluate(given, x), list(given.values()), allow_unused=True, materialize_grads=True
            )
        signs = {name: value.sign() for name, value in zip(given, found, strict=True)}
        tangents = {name: value * signs[name] for name, value in spread.items()}
        try:
            with warnings.catch_warnings():  # torch's own rules use what torch deprecates
                warnings.filterwarnings("ignore", r"`torch\.jit\.script`", FutureWarning)
                both: Any = jvp(
                    lambda given: grad(evaluate, argnums=1)(given, x), (parameters,), (tangents,)
                )
            return InputMap(both[1][0].detach(), FORWARD)
        except RuntimeError as error:
            if failed_machine(error):
                raise
            # an operation without such a rule
            return InputMap(_twice_backward(evaluate, parameters, tangents, x), BACKWARD)


def _twice_backward(
    evaluate: Callable[[dict[str, Tensor], Tensor], Tensor],
    parameters: dict[str, Tensor],
    tangents: dict[str, Tensor],
    x: Tensor,
) -> Tensor:
    given = {name: value.detach().requires_grad_() for name, value in parameters.items()}
    image = x.detach().requires_grad_()
    with torch.enable_grad():
        gradients = torch.autograd.grad(
            evaluate(given, image), list(given.values()), create_graph=True, allow_unused=True
        )
        total = torch.zeros((), dtype=x.dtype, device=x.device)
        for name, gradient in zip(given, gradients, strict=True):
            if gradient is not None:
                total = total + (gradient * tangents[name]).sum()
        (found,) = torch.autograd.grad(total, image)
    return found[0]
