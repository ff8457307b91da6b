"""Which entries of a network's state the server holds, and which stay on clients."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn

from sparsight.errors import InputError, UnsupportedError
from sparsight.networks import Network, weight_matrices
from sparsight.networks.calls import LayerCall
from sparsight.networks.classifier import PixelClassifier
from sparsight.networks.recording import Recording

__all__ = ["Division", "find_head", "group_norms"]

_BATCH_NORM = nn.modules.batchnorm._BatchNorm


def find_head(network: Network) -> str:
    """Name the layer that makes the answer: the last one that is used, with an output per class.

    Raises
    ------
    UnsupportedError
        If the last layer has another number of outputs.
    NetworkError
        A network in training mode.

    Examples
    --------
    >>> import sparsight
    >>> find_head(sparsight.load("embedded"))
    'fc'
    """
    network.require_eval()
    used: list[tuple[str, int]] = []

    def see(call: LayerCall) -> None:
        used.append((call.matrix.name, call.matrix.rows * call.matrix.groups))

    frame = (1, network.preprocessing.channels, *network.preprocessing.size)
    x = torch.zeros(frame, device=network.device, dtype=network.dtype)
    with torch.no_grad(), Recording(network.model, weight_matrices(network.model), see):
        network.model(x)
    if not used or used[-1][1] != len(network.labels):
        raise UnsupportedError(
            "the layer that makes the answer was not found: name the head, head_name=... "
            "(--head-name)"
        )
    return used[-1][0]


@dataclass(frozen=True)
class Division:
    """Names of a state's entries by where they live.

    With ``head="whole"`` everything is local.

    Attributes
    ----------
    shared
        Parameters of the server: the encoder.
    statistics
        Running statistics of the server.
    local
        What stays: the head, normalisations, counters.

    Examples
    --------
    >>> import sparsight
    >>> found = Division.of(sparsight.load("embedded"))
    >>> [name for name in found.local if name.startswith("fc")]
    ['fc.weight', 'fc.bias']
    """

    shared: tuple[str, ...]
    statistics: tuple[str, ...]
    local: tuple[str, ...]

    @classmethod
    def of(
        cls,
        network: Network,
        head: str = "local",
        batch_norm: str = "local",
        head_name: str | None = None,
    ) -> Division:
        """Divide a network.

        Parameters
        ----------
        network
            Of any architecture.
        head, batch_norm
            See :class:`sparsight.federated.FederatedSettings`.
        head_name
            Module path of the head, where it is more than the last layer.

        Raises
        ------
        InputError
            If there is no such module, or nothing is left to share.
        UnsupportedError
            If the head is not found, or is one with another layer.
        """
        model = network.model
        if head != "local" and head_name is not None:
            raise InputError(f"the head is not local, so {head_name!r} means nothing: leave it out")
        stays: set[str] = set()
        if head == "local":
            name = find_head(network) if head_name is None else head_name
            if name not in dict(model.named_modules()) or not name:
                raise InputError(f"the network has no module {name!r}: name its head")
            stays.add(name)
        if batch_norm == "local":
            stays |= {
                name for name, module in model.named_modules() if isinstance(module, _BATCH_NORM)
            }

        def local(entry: str) -> bool:
            if head == "whole":
                return True
            parts = entry.split(".")
            return any(".".join(parts[:end]) in stays for end in range(1, len(parts)))

        parameters = [name for name, _ in model.named_parameters()]
        held = model.state_dict()
        buffers = {name: value for name, value in model.named_buffers() if name in held}
        shared = tuple(name for name in parameters if not local(name))
        statistics = tuple(
            name for name, value in buffers.items() if value.is_floating_point() and not local(name)
        )
        if not shared and head != "whole":
            raise InputError("nothing is left to share: name a smaller head")
        owners: dict[int, bool] = {}
        for name, value in model.named_parameters(remove_duplicate=False):
            if owners.setdefault(id(value), local(name)) != local(name):
                raise UnsupportedError(
                    f"{name} is one with a weight that lives elsewhere: share the head "
                    "(head='shared')"
                )
        kept = {*shared, *statistics}
        rest = tuple(name for name in [*parameters, *buffers] if name not in kept)
        return cls(shared, statistics, rest)


def group_norms(network: Network, groups: int = 8) -> Network:
    """Copy a network with normalisations over groups of channels in place of those over a batch.

    These keep no statistics, so clients with unlike images do not disturb one another through them
    (Hsieh et al., 2020). Scales and shifts are taken over.

    Parameters
    ----------
    network
        Not changed.
    groups
        Of a normalisation; the largest divisor of its channels that is not larger.

    Raises
    ------
    InputError
        If there is none to replace.

    Examples
    --------
    >>> import sparsight
    >>> found = group_norms(sparsight.load("embedded"))
    >>> any("running_mean" in name for name in found.model.state_dict())
    False
    """
    made = PixelClassifier.of(network)
    replaced = False
    for name, module in list(made.model.named_modules()):
        if not isinstance(module, _BATCH_NORM):
            continue
        replaced = True
        count = module.num_features
        most = max(g for g in range(1, groups + 1) if count % g == 0)
        fresh = nn.GroupNorm(most, count, module.eps, affine=module.affine)
        if module.affine:
            fresh.load_state_dict({"weight": module.weight, "bias": module.bias})
        parent, _, last = name.rpartition(".")
        setattr(made.model.get_submodule(parent), last, fresh.to(network.device, network.dtype))
    if not replaced:
        raise InputError("the network has no normalisations over a batch: leave group norms out")
    return made.network(network, f"{network.spec} (group norms)")
