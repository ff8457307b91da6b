"""Weight matrices and recorded calls: layout, semantics, nothing missed."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from contracts import untouched
from sparsight.errors import NetworkError, UnsupportedError
from sparsight.networks import Recording, Units, weight_matrices
from sparsight.networks.matrices import parameter_of, weight_of

CONVS = {
    "plain": nn.Conv2d(4, 6, 3),
    "padded": nn.Conv2d(4, 6, 3, padding=1),
    "strided": nn.Conv2d(4, 6, 3, stride=2, padding=1),
    "dilated": nn.Conv2d(4, 6, 3, dilation=2, padding=2),
    "same": nn.Conv2d(4, 6, 3, padding="same", dilation=2),
    "same even": nn.Conv2d(4, 6, (4, 2), padding="same"),
    "valid": nn.Conv2d(4, 6, 3, padding="valid"),
    "grouped": nn.Conv2d(4, 6, 3, groups=2, padding=1),
    "depthwise": nn.Conv2d(4, 4, 3, groups=4, padding=1),
    "circular": nn.Conv2d(4, 6, 3, padding=1, padding_mode="circular"),
    "reflect": nn.Conv2d(4, 6, 3, padding=2, padding_mode="reflect"),
    "replicate": nn.Conv2d(4, 6, 3, padding="same", padding_mode="replicate"),
    "pointwise": nn.Conv2d(4, 6, 1, stride=2),
    "uneven": nn.Conv2d(4, 6, (1, 3), stride=(2, 1), padding=(0, 2)),
    "1d": nn.Conv1d(4, 6, 3, padding=1),
    "1d grouped": nn.Conv1d(4, 6, 5, groups=2, stride=2),
    "1d same": nn.Conv1d(4, 6, 4, padding="same", padding_mode="circular"),
}


@pytest.mark.parametrize("kind", CONVS)
def test_a_convolution_is_its_matrix_times_its_columns(kind: str) -> None:
    conv = CONVS[kind].double()
    x = torch.randn(3, 4, *(7, 9)[: conv.weight.ndim - 2], dtype=torch.float64)
    calls = []
    with untouched(conv), torch.no_grad(), Recording(conv, weight_matrices(conv), calls.append):
        conv(x)
    (call,) = calls
    product = weight_of(conv, call.matrix) @ call.columns()
    expected = call.output - conv.bias.reshape(-1, *[1] * (x.ndim - 2))
    expected = expected.flatten(2).transpose(0, 1).reshape(product.shape)
    torch.testing.assert_close(product, expected)


@pytest.mark.parametrize("kind", CONVS)
def test_pack_and_write_are_inverse(kind: str) -> None:
    conv = CONVS[kind]
    (matrix,) = weight_matrices(conv)
    copy = torch.zeros_like(conv.weight)
    matrix.write(copy, weight_of(conv, matrix))
    assert torch.equal(copy, conv.weight)


class Functional(nn.Module):
    """Uses its layers' weights without calling the layers, as torchvision's Swin does."""

    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Linear(5, 4)
        self.b = nn.Linear(4, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = F.linear(x, self.a.weight, self.a.bias)
        return self.b(self.b(x).relu())


def test_functional_and_repeated_uses_are_seen() -> None:
    model = Functional()
    names = []
    with Recording(model, weight_matrices(model), lambda call: names.append(call.matrix.name)):
        model(torch.randn(2, 5))
    assert names == ["a", "b", "b"]


def test_tied_weights_are_listed_once() -> None:
    model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))
    model[1].weight = model[0].weight
    assert [matrix.name for matrix in weight_matrices(model)] == ["0"]


@pytest.mark.parametrize("kdim", [None, 5])
@pytest.mark.parametrize("bias", [True, False])
def test_attention_projections_are_seen_and_nothing_changes(kdim: int | None, bias: bool) -> None:
    torch.manual_seed(0)
    attention = nn.MultiheadAttention(
        8, 2, bias=bias, kdim=kdim, vdim=kdim, batch_first=True, add_bias_kv=bias
    ).eval()
    q = torch.randn(3, 4, 8)
    k = q if kdim is None else torch.randn(3, 6, kdim)
    calls = {}

    def keep(call):
        calls[call.matrix.name] = call

    with torch.no_grad():
        dense = attention(q, k, k)
        with untouched(attention), Recording(attention, weight_matrices(attention), keep):
            recorded = attention(q, k, k)
    assert list(calls) == ["[query]", "[key]", "[value]", "out_proj"]
    for before, after in zip(dense, recorded, strict=True):
        torch.testing.assert_close(before, after, rtol=1e-6, atol=1e-6)
    for call in calls.values():
        product = weight_of(attention, call.matrix) @ call.columns()
        rest = call.output.reshape(-1, 8).t() - product[0]
        spread = rest - rest.mean(1, keepdim=True)
        assert spread.abs().max() < 1e-5


@pytest.mark.parametrize("grad", [True, False])
def test_the_fused_encoder_layer_is_seen_too(grad: bool) -> None:
    layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True).eval()
    x = torch.randn(2, 5, 8)
    names = []
    with torch.set_grad_enabled(grad):
        dense = layer(x)
        with Recording(layer, weight_matrices(layer), lambda c: names.append(c.matrix.name)):
            recorded = layer(x)
    assert names == ["self_attn[query]", "self_attn[key]", "self_attn[value]",
                     "self_attn.out_proj", "linear1", "linear2"]  # fmt: skip
    torch.testing.assert_close(dense, recorded, rtol=1e-5, atol=1e-5)


def test_transposed_linear_of_transformers() -> None:
    pytorch_utils = pytest.importorskip("transformers.pytorch_utils")
    layer = pytorch_utils.Conv1D(6, 4)
    (matrix,) = weight_matrices(layer)
    assert (matrix.kind, matrix.rows, matrix.columns) == ("transposed_linear", 6, 4)
    calls = []
    x = torch.randn(2, 3, 4)
    with Recording(layer, [matrix], calls.append):
        output = layer(x)
    product = weight_of(layer, matrix)[0] @ calls[0].columns()[0]
    torch.testing.assert_close(product.t().reshape(2, 3, 6) + layer.bias, output)
    copy = torch.zeros_like(layer.weight)
    matrix.write(copy, weight_of(layer, matrix))
    assert torch.equal(copy, layer.weight)


def test_fused_and_split_projections_write_to_their_own_rows() -> None:
    attention = nn.MultiheadAttention(6, 2)
    matrices = weight_matrices(attention)
    parameter = parameter_of(attention, matrices[1]).clone()
    matrices[1].write(parameter, torch.zeros(1, 6, 6))
    assert parameter[6:12].abs().sum() == 0
    assert torch.equal(parameter[:6], attention.in_proj_weight[:6])


def test_gradients_of_outputs_are_handed_over() -> None:
    model = nn.Sequential(nn.Conv2d(2, 3, 3), nn.ReLU(inplace=True), nn.Flatten(), nn.Linear(27, 2))
    x = torch.randn(2, 2, 5, 5)
    gradients = {}
    with Recording(
        model,
        weight_matrices(model),
        lambda call: None,
        lambda call, gradient: gradients.update({call.matrix.name: gradient}),
    ):
        output = model(x)
    with untouched(model):
        torch.autograd.grad(output[:, 0].sum(), list(model.parameters()))
    hidden = model[0](x).detach().requires_grad_()
    (expected,) = torch.autograd.grad(model[3](hidden.relu().flatten(1))[:, 0].sum(), hidden)
    torch.testing.assert_close(gradients["0"], expected)
    assert gradients["3"].shape == (2, 2)


def test_weights_computed_on_the_fly_are_refused() -> None:
    layer = nn.utils.parametrizations.weight_norm(nn.Linear(3, 3))
    with pytest.raises(UnsupportedError, match="remove_parametrizations"):
        weight_matrices(nn.Sequential(layer))


def test_lazy_layers_are_refused() -> None:
    with pytest.raises(NetworkError, match="lazy"):
        weight_matrices(nn.Sequential(nn.LazyLinear(3)))


def test_units_number_through() -> None:
    model = nn.Sequential(nn.Conv2d(4, 6, 3, groups=2), nn.Linear(6, 3))
    units = Units.of(model)
    for index in range(len(units)):
        assert units.index(*units.locate(index)) == index
    parts = units.split(torch.arange(len(units)))
    assert parts["0"].tolist() == list(range(6))
    assert parts["1"].tolist() == [6, 7, 8]
