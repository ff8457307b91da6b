"""``sparsight layers``: what can be named in a network."""

from __future__ import annotations

from typing import Annotated

import typer

from sparsight.cli import options as shared
from sparsight.cli.display import Display, emit_json

__all__ = ["layers"]


def layers(
    model: shared.ModelOption = "embedded",
    weights: shared.WeightsOption = None,
    labels: shared.LabelsOption = None,
    contains: Annotated[
        str, typer.Option("--contains", help="Only layers whose name has this in it.")
    ] = "",
    device: shared.DeviceOption = "cpu",
    as_json: shared.JsonOption = False,
) -> None:
    """List the layers of a network whose channels can be visualized.

    A layer and a channel are written LAYER:CHANNEL, as in layer4.1:37.
    """
    from sparsight.cli.tables import layers_table
    from sparsight.errors import InputError
    from sparsight.networks import load
    from sparsight.visualization import list_layers

    with Display(quiet=True) as display:
        network = load(model, weights=weights, labels=labels, device=device)
        found = [layer for layer in list_layers(network) if contains in layer.name]
        if not found:
            raise InputError(f"no layer has {contains!r} in its name: leave --contains out")
        if as_json:
            rows = [
                {"name": a.name, "kind": a.kind, "channels": a.channels, "shape": list(a.shape)}
                for a in found
            ]
            emit_json({"network": network.spec, "layers": rows})
            return
        with display.aside() as console:
            console.print(layers_table(found))
