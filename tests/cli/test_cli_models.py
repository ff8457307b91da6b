"""``sparsight models`` and the coverage that it shows."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from cli.command_kit import Run
from contracts import untouched
from sparsight.errors import NetworkError, UnsupportedError
from sparsight.networks import Network, Preprocessing, load
from sparsight.networks.coverage import coverage


def network(model: nn.Module) -> Network:
    return Network(model.eval(), Preprocessing((8, 8), None), ("a", "b"))


class Everything(nn.Module):
    """One of each layer that multiplies, some unsupported, one never called, one recomputed."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)
        self.deconv = nn.ConvTranspose2d(4, 2, 3)
        self.attention = nn.MultiheadAttention(128, 2, batch_first=True)
        self.bilinear = nn.Bilinear(128, 128, 3)
        self.lstm = nn.LSTM(3, 5, batch_first=True)
        self.standardised = nn.Linear(5, 4)
        self.embedding = nn.Embedding(7, 4)
        self.norm = nn.LayerNorm(4)
        self.head = nn.Linear(4, 2)
        self.auxiliary = nn.Linear(4, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.deconv(self.conv(x)).flatten(1)[:, None]
        x, _ = self.attention(x, x, x)
        x = self.bilinear(x, x)
        x = self.lstm(x)[0][:, -1]
        x = nn.functional.linear(x, self.standardised.weight * 2)
        out: torch.Tensor = self.head(self.norm(x) + self.embedding.weight[0])
        return out


def test_every_weight_that_multiplies_is_counted_and_every_miss_has_a_reason() -> None:
    model = Everything().eval()
    with untouched(model):
        found = coverage(network(model))
    assert dict(found.kinds) == {"conv": 1, "in_projection": 3, "linear": 2}
    seen = [model.conv, model.attention.out_proj, model.head]
    covered = sum(m.weight.numel() for m in seen) + model.attention.in_proj_weight.numel()
    missed = {layer.name: layer for layer in found.uncovered}
    assert found.covered == covered
    assert found.total == covered + sum(layer.weights for layer in found.uncovered)
    assert found.share == covered / found.total
    reasons = {name: layer.reason for name, layer in missed.items()}
    assert reasons["deconv"] == "ConvTranspose2d is not supported"
    assert reasons["bilinear"] == "Bilinear is not supported"
    assert reasons["lstm"] == "LSTM is not supported"
    assert "computes another" in reasons["standardised"]
    assert "never calls" in reasons["auxiliary"]
    assert set(reasons) == {"deconv", "bilinear", "lstm", "standardised", "auxiliary"}


def test_tied_weights_count_once() -> None:
    model = nn.Sequential(nn.Flatten(), nn.Linear(192, 192), nn.Linear(192, 192), nn.Linear(192, 2))
    model[2].weight = model[1].weight  # type: ignore[union-attr, assignment]
    found = coverage(network(model))
    assert found.total == found.covered == 192 * 192 + 2 * 192


def test_a_network_without_weights_is_covered() -> None:
    model = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.LayerNorm(3))
    assert coverage(network(model)).share == 1


@pytest.mark.parametrize("spec", ["torchvision:resnet18", "timm:test_vit", "timm:test_convnext"])
def test_common_networks_are_covered_whole(spec: str) -> None:
    found = coverage(load(spec, weights="random"))
    assert (found.share, found.uncovered) == (1, ())


def test_what_cannot_be_watched_is_refused() -> None:
    with pytest.raises(NetworkError, match="training mode"):
        coverage(Network(nn.Linear(2, 2), Preprocessing((8, 8), None), ()))
    computed = nn.Sequential(nn.Flatten(), nn.utils.parametrizations.weight_norm(nn.Linear(192, 2)))
    with pytest.raises(UnsupportedError, match="on the fly"):
        coverage(network(computed))


def test_sources(run: Run) -> None:
    result = run("models")
    assert (result.code, result.err) == (0, "")
    assert all(name in result.out for name in ("embedded", "torchvision:NAME", "timm:NAME", "hf:"))
    sources = {row["spec"]: row for row in run("models", "--json").json["sources"]}
    assert sources["timm:NAME"]["ready"]
    assert sources["timm:NAME"]["remedy"] == ""


def test_a_missing_library_has_a_remedy(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    from importlib.metadata import PackageNotFoundError, version

    def without(name: str) -> str:
        if name == "transformers":
            raise PackageNotFoundError(name)
        return version(name)

    monkeypatch.setattr("sparsight.cli.models.version", without)
    rows = {row["library"]: row for row in run("models", "--json").json["sources"]}
    assert rows["transformers"]["remedy"] == "pip install sparsight[hf]"
    assert "pip install sparsight[hf]" in " ".join(run("models").out.split())


def test_coverage_of_one_network(run: Run) -> None:
    result = run("models", "net.py:untransposed")
    assert "ConvTranspose2d is not supported" in " ".join(result.out.split())
    summary = run("models", "net.py:untransposed", "--json").json
    assert summary["uncovered"][0]["name"] == "fc.1"
    assert summary["share"] == summary["covered"] / summary["total"] < 1


def test_bad_input(run: Run) -> None:
    assert "cannot tell" in run("models", "nothing").error
    assert "computed on the fly" in run("models", "net.py:parametrized").error
    assert "name one" in run("models", "--labels", "net.py").error
    assert "no such weights file" in run("models", "net.py:network", "--weights", "no.pt").error
