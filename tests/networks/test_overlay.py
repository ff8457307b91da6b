"""Whatever happens inside an overlay, the model comes out as it went in."""

import pytest
import torch
from torch import nn

from contracts import untouched
from sparsight.errors import NetworkError
from sparsight.networks import overlay


def make() -> nn.Module:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten())
    model[0].weight.grad = torch.ones_like(model[0].weight)
    model[1].weight.requires_grad_(False)
    return model.eval()


def misuse(model: nn.Module) -> None:
    """What careless guests do."""
    model.train()
    model(torch.randn(2, 3, 6, 6, generator=torch.Generator().manual_seed(0))).sum().backward()
    model.requires_grad_(True)
    model[0].register_forward_hook(lambda *a: None)
    model[2].register_full_backward_hook(lambda *a: None)
    model.add_module("extra", nn.Identity())
    model[1].register_buffer("junk", torch.zeros(1))


def fail_inside(model: nn.Module, error: type[BaseException]) -> None:
    with overlay(model, NEW):
        misuse(model)
        raise error


NEW = {"0.weight": torch.zeros(4, 3, 3, 3)}


@pytest.mark.parametrize("error", [None, RuntimeError, KeyboardInterrupt])
def test_everything_is_put_back(error: type[BaseException] | None) -> None:
    model = make()
    with untouched(model):
        if error is None:
            with overlay(model, NEW):
                misuse(model)
        else:
            with pytest.raises(error):
                fail_inside(model, error)


def test_the_new_weights_are_used_and_copied() -> None:
    model = make()
    mine = torch.ones(4, 3, 3, 3, dtype=torch.float64)
    with overlay(model, {"0.weight": mine}):
        model[0].weight.data.mul_(2)
        assert model[0].weight.dtype == torch.float32
        assert bool((model[0].weight == 2).all())
    assert bool((mine == 1).all())


def test_nested_overlays_unwind() -> None:
    model = make()
    with untouched(model), overlay(model, NEW):
        with overlay(model, {"0.weight": torch.ones(4, 3, 3, 3)}):
            assert model[0].weight.sum() == 108
        assert model[0].weight.sum() == 0


@pytest.mark.parametrize(
    "tensors", [{"nothing": torch.zeros(1)}, {"0.weight": torch.zeros(4, 3, 3)}]
)
def test_what_does_not_fit_is_refused_before_any_change(tensors: dict[str, torch.Tensor]) -> None:
    model = make()
    with untouched(model), pytest.raises(NetworkError), overlay(model, tensors):
        pass


def test_training_a_shared_parameter_is_reported() -> None:
    model = make()
    with pytest.raises(NetworkError, match=r"0\.bias"), overlay(model, NEW), torch.no_grad():
        model[0].bias.add_(1)


def test_tied_weights_stay_tied() -> None:
    model = nn.Sequential(nn.Linear(3, 3, bias=False), nn.Linear(3, 3, bias=False))
    model[1].weight = model[0].weight
    with overlay(model, {"0.weight": torch.eye(3)}):
        assert model(torch.ones(1, 3)).tolist() == [[1.0, 1.0, 1.0]]
    assert model[1].weight is model[0].weight
