"""Responses and gradients of layers, against direct computations."""

import math
from dataclasses import replace

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from degradation.config import Architecture
from degradation.net.network import Network
from degradation.probe.layers import layer_gradients, layer_responses
from degradation.probe.views import Views
from tests.probe.conftest import IMAGENET, assert_unchanged, imagenet, named, settle, tensors_of

TINY = [Architecture.paper(8, shortcut, width=4) for shortcut in ("none", "A", "B")]  # type: ignore[arg-type]
STAGES = {8: [0, 1, 1, 2, 2, 3, 3], 18: [0, *(s for s in range(1, 5) for _ in range(4))]}
STAGES[50] = [0, *(s for s, blocks in enumerate((3, 4, 6, 3), 1) for _ in range(3 * blocks))]


def recorded(network: Network) -> dict[str, Tensor]:
    """The outputs of the layers, once the network runs; cloned: what follows rectifies the tensor in place."""
    outputs: dict[str, Tensor] = {}
    for layer in network.layers():
        name = layer.name
        layer.norm.register_forward_hook(lambda _m, _i, out, name=name: outputs.__setitem__(name, out.double().clone()))
    return outputs


@pytest.mark.parametrize(("batch_size", "at_once"), [(60, 2**26), (7, 2**26), (60, 10_000)])
@pytest.mark.parametrize("architecture", [*TINY, *(imagenet(*kind) for kind in IMAGENET)], ids=named)
def test_layer_responses_are_the_std_of_all_outputs(
    architecture: Architecture, batch_size: int, at_once: int, views: Views, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("degradation.probe.layers.AT_ONCE", at_once)
    network = settle(architecture, views)
    before = tensors_of(network)
    rows = layer_responses(network, replace(views, batch_size=batch_size))
    assert network.training
    assert_unchanged(network, before)

    outputs = recorded(network)
    with torch.no_grad():
        network.eval()(views.normalize(views.images.images))
    assert [row["layer"] for row in rows] == list(range(1, len(outputs) + 1))
    assert [row["name"] for row in rows] == list(outputs)
    assert [row["stage"] for row in rows] == STAGES[architecture.depth]
    for row, layer in zip(rows, network.layers(), strict=True):
        output = outputs[layer.name]
        assert row["std"] == pytest.approx(output.std(correction=0).item(), rel=1e-5)
        assert row["mean"] == pytest.approx(output.mean().item(), rel=1e-4, abs=1e-6)
        assert row["gamma_rms"] == pytest.approx(layer.norm.weight.square().mean().sqrt().item(), rel=1e-6)
        assert row["beta_rms"] == pytest.approx(layer.norm.bias.square().mean().sqrt().item(), rel=1e-6)


@pytest.mark.parametrize("architecture", TINY[:2], ids=named)
def test_a_response_is_after_bn_and_before_relu_and_addition(architecture: Architecture, views: Views) -> None:
    network = settle(architecture, views).eval()
    rows = layer_responses(network, views)
    with torch.no_grad():
        stem = network.bn(network.stem(views.normalize(views.images.images)))
        block = network.stages[0][0]
        x = F.relu(stem)
        first = block.bn1(block.conv1(x))
        second = block.bn2(block.conv2(F.relu(first)))
    for row, response in zip(rows, (stem, first, second), strict=False):
        assert row["std"] == pytest.approx(response.double().std(correction=0).item(), rel=1e-5)


@pytest.mark.parametrize("architecture", [*TINY, *(imagenet(*kind) for kind in IMAGENET)], ids=named)
def test_layer_gradients_are_those_of_autograd(architecture: Architecture, views: Views) -> None:
    network = settle(architecture, views)
    before, x, y = tensors_of(network), views.normalize(views.images.images), views.images.labels
    rows = layer_gradients(network, x, y)
    assert_unchanged(network, before)
    assert all(parameter.grad is None for parameter in network.parameters())
    assert network.training

    outputs = recorded(network)
    F.cross_entropy(network(x), y).backward()
    assert [row["name"] for row in rows] == list(outputs)
    assert [row["stage"] for row in rows] == STAGES[architecture.depth]
    for row, layer in zip(rows, network.layers(), strict=True):
        assert row["std"] == pytest.approx(outputs[layer.name].std(correction=0).item(), rel=1e-5)
        assert layer.convolution.weight.grad is not None
        assert row["grad_weight"] == pytest.approx(layer.convolution.weight.grad.norm().item(), rel=1e-4)
        assert row["weight_norm"] == pytest.approx(layer.convolution.weight.square().sum().sqrt().item(), rel=1e-6)


def test_the_gradient_at_a_response_is_what_moving_it_does(views: Views) -> None:
    network, x, y = settle(TINY[1], views), views.normalize(views.images.images).double(), views.images.labels
    network = network.double()
    rows = {row["name"]: row["grad_response"] for row in layer_gradients(network, x, y)}
    direction = torch.randn(network.bn(network.stem(x)).shape, dtype=torch.float64)
    step = torch.zeros((), dtype=torch.float64, requires_grad=True)
    network.bn.register_forward_hook(lambda _m, _i, output: output + step * direction)
    (slope,) = torch.autograd.grad(F.cross_entropy(network(x), y), step)
    assert 0 < abs(slope.item()) <= rows["stem"] * direction.norm().item()
    response = network.bn(network.stem(x)).detach().requires_grad_()
    handle = network.bn.register_forward_hook(lambda *_: response.clone())
    (gradient,) = torch.autograd.grad(F.cross_entropy(network(x), y), response)
    handle.remove()
    assert rows["stem"] == pytest.approx(gradient.norm().item(), rel=1e-9)


def test_without_bn_there_is_no_gamma(views: Views) -> None:
    rows = layer_responses(settle(Architecture.paper(8, "A", width=4, norm="none"), views), views)
    assert all(math.isnan(row["gamma_rms"]) and math.isnan(row["beta_rms"]) for row in rows)  # type: ignore[arg-type]
    assert all(row["std"] > 0 for row in rows)  # type: ignore[operator]
