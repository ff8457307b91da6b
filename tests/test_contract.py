"""The model is untouched by every public call, on every architecture that the docs name.

Small inputs where the architecture allows; the full list is marked slow, two stay in the fast run.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest
import torch
from torch import nn

from contracts import untouched
from sparsight.attribution import METHODS, attribute
from sparsight.blame import blame, knock_out, mend, repair, statistics
from sparsight.casefile import explain
from sparsight.chains import chain_graph, controls, extract, judge
from sparsight.errors import UnsupportedError
from sparsight.networks import Network, Recording, load, weight_matrices
from sparsight.networks.coverage import coverage
from sparsight.traces import trace

FAST = ["timm:test_resnet.r160_in1k", "timm:test_vit.r160_in1k"]
SLOW = [
    "torchvision:resnet18", "torchvision:resnet50", "torchvision:vgg16", "torchvision:densenet121",
    "torchvision:mobilenet_v2", "torchvision:efficientnet_b0", "torchvision:convnext_tiny",
    "torchvision:vit_b_16", "torchvision:swin_t", "timm:resnet18", "timm:vit_tiny_patch16_224",
    "timm:convnext_tiny", "hf:vit", "hf:resnet",
]  # fmt: skip
SPECS = [*FAST, *(pytest.param(spec, marks=pytest.mark.slow) for spec in SLOW)]
CHEAP = ["saliency", "lrp", "deep_lift", "guided_backprop", "grad_cam"]


def build(spec: str, folder: Path) -> Network:
    """Build a network with random weights; Hugging Face's from a config written here."""
    torch.manual_seed(0)
    if spec.startswith("hf:"):
        transformers = pytest.importorskip("transformers")
        sizes = {"hidden_size": 64, "num_hidden_layers": 3, "num_attention_heads": 4,
                 "intermediate_size": 128, "num_labels": 10}  # fmt: skip
        config = (
            transformers.ViTConfig(**sizes)
            if spec == "hf:vit"
            else transformers.ResNetConfig(num_labels=10)
        )
        config.save_pretrained(folder)
        spec = f"hf:{folder}"
    return load(spec, weights="random")


class Failure(Exception):
    """Raised inside a network on purpose."""


def calls(network: Network, x: torch.Tensor) -> dict[str, Callable[[], object]]:
    """Every public call that is given the model."""

    def record() -> None:
        with Recording(network.model, weight_matrices(network.model), lambda call: None):
            network(x)

    def applied() -> None:
        with trace(network, x, augmentations=1, sparsity={"*": 0.5}).applied(network) as model:
            model.zero_grad()
            network(x)[0, 0].backward()

    def blamed() -> None:
        usual = statistics(network, [(x[0], 1), (x[0].flip(2), 2)], kinds=["filter", "row"])
        found = blame(network, x, 1, statistics=usual)
        knock_out(network, x, 1, found.units, found.scores["z"], counts=[0, 2], draws=1)
        repair(network, x, 1, found.units, found.ranking[:3])
        mend(network, x, 1, found.units, found.scores["z"], counts=[2], draws=1)

    def chained() -> None:
        chain = extract(network, x, keep=0.3, steps=2, views=1)
        chain_graph(network, chain, x)
        judge(chain.gated(network, x), controls(network, chain, x), x, [0, 1])

    return {
        "record": record,
        "chain": chained,
        "blame": blamed,
        "coverage": lambda: coverage(network),
        "trace and apply": applied,
        **{name: lambda name=name: attribute(network, x, 1, name) for name in CHEAP},
    }


@pytest.mark.parametrize("spec", SPECS)
def test_every_call_leaves_every_network_alone(spec: str, tmp_path: Path) -> None:
    network = build(spec, tmp_path / "config")
    x = torch.randn(1, 3, *network.preprocessing.size)
    for call in calls(network, x).values():
        with untouched(network.model), suppress(UnsupportedError):
            call()


@pytest.mark.parametrize("spec", SPECS)
@pytest.mark.parametrize("error", [Failure, KeyboardInterrupt])
def test_every_call_leaves_every_network_alone_when_it_breaks(
    spec: str, error: type[BaseException], tmp_path: Path
) -> None:
    """Break the forward pass in its last layer, on the first run and on a later one."""
    network = build(spec, tmp_path / "config")
    x = torch.randn(1, 3, *network.preprocessing.size)
    last = [m for m in network.model.modules() if isinstance(m, nn.Linear)][-1]
    original = type(last).forward
    for call in calls(network, x).values():
        for survives in (0, 2):
            runs = 0

            def breaking(self: nn.Linear, value: torch.Tensor) -> torch.Tensor:
                nonlocal runs
                runs += 1
                if runs > survives:  # noqa: B023
                    raise error
                return original(self, value)

            with pytest.MonkeyPatch.context() as patch, untouched(network.model):
                patch.setattr(type(last), "forward", breaking)
                with suppress(error, UnsupportedError):
                    call()


def test_explaining_leaves_the_network_alone() -> None:
    network = build(FAST[0], Path())
    x = torch.randn(1, 3, 160, 160)
    with untouched(network.model):
        explain(network, x, methods=["saliency"], augmentations=2, neurons="target", steps=1)


def test_methods_checked_here_exist() -> None:
    assert set(CHEAP) <= set(METHODS)
