"""Networks that are not new ones, and what they are shown: of every kind of block, on images that train in seconds."""

import pytest
import torch
from torch import nn

from degradation.config import Architecture
from degradation.data.images import make_synthetic
from degradation.data.resident import Normalizer
from degradation.net.network import Network
from degradation.probe.views import Views

IMAGENET = [(depth, shortcut) for depth in (18, 50) for shortcut in ("none", "A", "B")]


@pytest.fixture(scope="session")
def views() -> Views:
    images = make_synthetic(60, 1)[0]
    return Views(images, Normalizer(images, "pixel_mean"))


def imagenet(depth: int, shortcut: str) -> Architecture:
    return Architecture.paper(depth, shortcut, "imagenet", width=4, classes=10)  # type: ignore[arg-type]


def named(value: object) -> str | None:
    """Of an architecture among the parameters of a test."""
    return f"{value.family}-{value.depth}-{value.shortcut}" if isinstance(value, Architecture) else None


def settle(architecture: Architecture, views: Views) -> Network:
    """With BN statistics, gammas and betas that are not those of a new network."""
    network, draw = Network(architecture, seed=1), torch.Generator().manual_seed(2)
    for layer in network.layers():
        if isinstance(layer.norm, nn.BatchNorm2d):
            layer.norm.weight.data = 0.5 + torch.rand(layer.norm.weight.shape, generator=draw)
            layer.norm.bias.data = torch.randn(layer.norm.bias.shape, generator=draw)
    with torch.no_grad():
        for _ in range(3):
            network(views.normalize(views.images.images))
    return network


def tensors_of(network: nn.Module) -> dict[str, torch.Tensor]:
    return {name: tensor.clone() for name, tensor in network.state_dict().items()}


def assert_unchanged(network: nn.Module, before: dict[str, torch.Tensor]) -> None:
    assert network.state_dict().keys() == before.keys()
    assert all(torch.equal(before[name], tensor) for name, tensor in network.state_dict().items())
    assert not any(module._forward_hooks for module in network.modules())
