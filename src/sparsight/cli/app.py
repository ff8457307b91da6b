"""``sparsight app``: a page on this machine to try networks, images and sparsities on."""

from __future__ import annotations

from typing import Annotated

import typer

from sparsight.cli import options as shared

__all__ = ["app_page"]


def app_page(
    model: Annotated[
        list[str] | None,
        typer.Option(
            "--model",
            "-m",
            help="embedded, torchvision:NAME, timm:NAME, hf:ID or path/file.py:function; repeat "
            "it to choose from several on the page.",
            rich_help_panel="Network",
            show_default="embedded",
        ),
    ] = None,
    weights: shared.WeightsOption = None,
    labels: shared.LabelsOption = None,
    device: shared.DeviceOption = "cpu",
    port: Annotated[int, typer.Option(min=1, max=65535, help="Of the page's address.")] = 7860,
    browser: Annotated[
        bool, typer.Option("--browser/--no-browser", help="Open the page in your browser.")
    ] = True,
) -> None:
    """Open a page: drop an image, move the sparsity, and see dense and traced maps change.

    The page can be reached from this machine only, and fetches nothing. Ctrl-C ends it.
    """
    import torch

    from sparsight.app import Desk, listen, require_gradio, serve
    from sparsight.errors import InputError
    from sparsight.networks import load

    specs = tuple(dict.fromkeys(model or ("embedded",)))
    if len(specs) > 1 and (weights is not None or labels is not None):
        raise InputError(
            f"--weights and --labels are of one network, and {len(specs)} are named: give one "
            "--model, or a file.py:function that loads them"
        )
    require_gradio()
    with listen(port) as listener:
        torch.manual_seed(0)  # of random weights
        networks = {
            spec: load(spec, weights=weights, labels=labels, device=device) for spec in specs
        }
        with Desk(networks) as desk:
            typer.echo(f"http://127.0.0.1:{port}/ (Ctrl-C ends it)")
            serve(desk, listener, browser=browser)
