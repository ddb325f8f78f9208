"""What stands in for shortcuts, and for BN, is at initialisation what its paper says, by other computations."""

import json
import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from degradation.config import ETA, Architecture, Shortcut, tailored_slope
from degradation.data.images import make_synthetic
from degradation.data.resident import Normalizer
from degradation.net.foreign import CheckpointError, load_network, match
from degradation.net.network import Network, Scalars, delta_orthogonal_, parameter_count
from degradation.probe.construct import ConstructionError, check
from degradation.probe.information import information
from degradation.probe.layers import layer_gradients, layer_responses
from degradation.probe.lesions import delete_each, lesion_random
from degradation.probe.views import Views, make_autocast
from degradation.train.run import train
from tests.conftest import Compose

IMAGES, TEST_IMAGES = make_synthetic(128, 32)
TRAIN = Views(IMAGES, Normalizer(IMAGES, "pixel_mean"), batch_size=64)
WAYS: dict[str, dict[str, Any]] = {
    "dirac": {"shortcut": "none", "init": "dirac"},
    "looks_linear": {"shortcut": "none", "init": "looks_linear", "norm": "none"},
    "tailored": {"shortcut": "none", "init": "orthogonal", "activation": "tailored", "norm": "none"},
    "fixup": {"shortcut": "A", "init": "fixup", "norm": "none"},
}
every_way = pytest.mark.parametrize("way", WAYS)


def make(way: str, depth: int = 14, width: int = 4, **changes: Any) -> Network:
    settings = {**WAYS[way], **changes}
    shortcut: Shortcut = settings.pop("shortcut")
    return Network(Architecture.paper(depth, shortcut, width=width, **settings), seed=1).eval()


def far(y: Tensor, x: Tensor) -> float:
    return ((y - x).norm() / x.norm()).item()


def test_a_block_of_dirac_kernels_passes_its_input_on_up_to_the_noise() -> None:
    network, usual = make("dirac", width=16), Network(Architecture.paper(14, "none"), seed=1).eval()
    for name, block in network.blocks().items():
        x = torch.rand(4, block.conv1.in_channels, 8, 8, generator=torch.Generator().manual_seed(2))
        expected = x if block.keeps_shape else F.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, 0, x.shape[1]))
        # Of filters of norm 0.1 the noise is a tenth of the input's root mean square, of two layers by chance 0.14.
        assert 0.05 < far(block(x)[:, : x.shape[1]], expected[:, : x.shape[1]]) < 0.2
        assert far(usual.blocks()[name](x), expected) > 0.5
    for layer, drawn in zip(network.layers()[1:], usual.layers()[1:], strict=True):
        weight = layer.convolution.weight
        noise = (weight - nn.init.dirac_(torch.empty_like(weight))).flatten(1)
        torch.testing.assert_close(noise.norm(dim=1), torch.full((len(noise),), 0.1))
        direction = F.normalize(drawn.convolution.weight.flatten(1))
        torch.testing.assert_close(F.normalize(noise), direction, atol=1e-5, rtol=0)
    assert torch.equal(network.stem.weight, usual.stem.weight)
    assert torch.equal(network.head.weight, usual.head.weight)


@pytest.mark.parametrize("norm", ["none", "batch"])
def test_a_network_that_looks_linear_is_linear(norm: str) -> None:
    network = make("looks_linear", 56, 8, norm=norm).double()
    x, y = torch.randn(2, 4, 3, 32, 32, dtype=torch.float64, generator=torch.Generator().manual_seed(3))
    together, apart = network(2 * x - 3 * y), 2 * network(x) - 3 * network(y)
    assert far(together, apart) < 1e-10
    assert network(x).std() > 0.1  # and says something of its input
    usual = Network(Architecture.paper(56, "none", width=8, norm=norm)).double().eval()
    assert far(usual(2 * x - 3 * y), 2 * usual(x) - 3 * usual(y)) > 0.1


def test_a_network_that_looks_linear_unlearns_it() -> None:
    network = make("looks_linear").train()
    optimizer = torch.optim.SGD(network.parameters(), lr=0.05)
    F.cross_entropy(network(TRAIN.normalize(IMAGES.images)), IMAGES.labels).backward()
    optimizer.step()
    x = TRAIN.normalize(TEST_IMAGES.images)
    assert far(network(-x), -network(x)) > 1e-3


def test_delta_orthogonal_layers_keep_the_mean_square_of_every_pixel() -> None:
    x = torch.randn(2, 8, 5, 5, generator=torch.Generator().manual_seed(4))
    for out in (8, 16):
        weight = torch.empty(out, 8, 3, 3)
        delta_orthogonal_(weight, torch.Generator().manual_seed(5))
        y = F.conv2d(x, weight, padding=1)
        torch.testing.assert_close(y.square().mean(1), x.square().mean(1))
        assert weight.abs().sum((0, 1)).count_nonzero() == 1


def rectified(z: np.ndarray, slope: float) -> np.ndarray:
    return math.sqrt(2 / (1 + slope**2)) * np.where(z > 0, z, slope * z)


def test_the_slope_makes_the_c_map_of_the_whole_network_what_it_is_to_be() -> None:
    # Of two normal variables of unit variance the radius is independent of the angle, and a rectifier is homogeneous:
    # the mean product is twice that over all angles.
    angles = 2 * np.pi * (np.arange(20_000) + 0.5) / 20_000
    for depth in (20, 56, 110):
        slope, cosine = tailored_slope(depth - 1), 0.0
        assert 2 * np.mean(rectified(np.cos(angles), slope) ** 2) == pytest.approx(1.0, abs=1e-6)
        for _ in range(depth - 1):
            apart = math.acos(cosine)
            cosine = 2 * np.mean(rectified(np.cos(angles), slope) * rectified(np.cos(angles - apart), slope))
        assert cosine == pytest.approx(ETA, abs=1e-5)
    assert tailored_slope(19) < tailored_slope(55) < tailored_slope(109) < 1


@torch.no_grad()
def test_a_tailored_network_of_finite_width_does_about_that() -> None:
    colours, others = torch.randn(2, 8, 3, 8, 8, generator=torch.Generator().manual_seed(6))
    others = torch.linalg.cross(colours, others, dim=1)  # orthogonal in every pixel
    shown = torch.cat([F.normalize(colours, dim=1), F.normalize(others, dim=1)])
    sizes, last = list[float](), list[Tensor]()
    for seed in range(4):  # that of one network wanders, the less the wider
        network = Network(Architecture.paper(20, width=128, **WAYS["tailored"]), seed)
        assert network.architecture.slope == tailored_slope(19)
        for layer in network.layers():
            layer.norm.register_forward_hook(lambda _module, _inputs, y: sizes.append(3 * y.square().mean().item()))
        network.stages[-1].register_forward_hook(lambda _module, _inputs, y: last.append(y))
        network(shown)
    by_layer = np.reshape(sizes, (4, 19))
    assert by_layer[:, 0] == pytest.approx(1.0, rel=1e-4)
    assert by_layer.mean(0) == pytest.approx(1.0, abs=0.2)
    cosines = [F.cosine_similarity(*features.chunk(2), dim=1).mean().item() for features in last]
    assert np.mean(cosines) == pytest.approx(ETA, abs=0.03)


def test_fixup_begins_as_the_chain_of_its_shortcuts() -> None:
    network, usual = make("fixup", 20, 8), Network(Architecture.paper(20, "A", width=8), seed=1)
    x = TRAIN.normalize(TEST_IMAGES.images)
    with torch.no_grad():
        expected = F.relu(F.conv2d(x, usual.stem.weight, padding=1))
        for width in (16, 32):
            expected = F.pad(expected[:, :, ::2, ::2], (0, 0, 0, 0, 0, width - expected.shape[1]))
        seen: list[Tensor] = []
        network.stages[-1].register_forward_hook(lambda _module, _inputs, y: seen.append(y))
        assert network(x).abs().max() == 0
        assert torch.equal(seen[0], expected)
    for name, block in network.blocks().items():
        drawn = usual.blocks()[name].conv1.weight
        torch.testing.assert_close(block.conv1.weight, drawn * 9**-0.5)
        assert block.conv2.weight.abs().max() == 0
        assert [block.bn1.scale, block.bn2.scale.item()] == [None, 1.0]
    scalars = 2 + 5 * 9  # of the stem, and of nine blocks: before and after either convolution, and a multiplier
    normalised = sum(2 * layer.norm.weight.numel() for layer in usual.layers())
    assert parameter_count(network) == parameter_count(usual) - normalised + scalars
    assert not any(isinstance(module, nn.BatchNorm2d) for module in network.modules())


@pytest.mark.parametrize("way", WAYS)
def test_half_precision_runs_through_every_block(way: str) -> None:
    network, kinds = make(way), []
    for block in network.blocks().values():
        block.register_forward_hook(lambda _module, _inputs, output: kinds.append(output.dtype))
    with make_autocast("cpu", "bf16"):
        network(torch.randn(2, 3, 32, 32))
    assert kinds == 6 * [torch.bfloat16]


def test_every_part_of_fixup_learns() -> None:
    network = make("fixup").train()
    optimizer = torch.optim.SGD(network.parameters(), lr=0.05)
    for _ in range(3):  # the head first, then the ends of the branches, then the rest
        optimizer.zero_grad()
        F.cross_entropy(network(TRAIN.normalize(IMAGES.images)), IMAGES.labels).backward()
        optimizer.step()
    still = [name for name, parameter in network.named_parameters() if not parameter.grad.abs().max() > 0]
    assert still == []
    assert isinstance(network.bn, Scalars)


@every_way
def test_probes_and_lesions_work_on_them(way: str) -> None:
    network, test = make(way), TRAIN.of(TEST_IMAGES)
    responses = layer_responses(network, test)
    assert all(math.isfinite(float(row["std"])) for row in responses)
    gradients = layer_gradients(network, *next(iter(TRAIN)))
    assert len(responses) == len(gradients) == 13
    assert all(math.isfinite(float(row["grad_weight"])) for row in gradients)
    told = information(network, TRAIN, test)
    assert len(told) == 7
    assert all(0 <= row["probe_error"] <= 100 for row in told.values())
    assert len(delete_each(network, test, TRAIN)) == 4
    assert len(lesion_random("swap", network, test, [0, 1], draws=1)) == 2


def test_only_networks_with_bn_are_deepened_by_identities() -> None:
    check(make("dirac").architecture, make("dirac", 20).architecture)
    for way in ("looks_linear", "tailored", "fixup"):
        with pytest.raises(ConstructionError, match="only with norm=batch"):
            check(make(way).architecture, make(way, 20).architecture)


@every_way
def test_a_run_trains_and_its_checkpoint_says_what_it_is(way: str, tiny: Compose) -> None:
    config = tiny("network=plain", f"flip={way}", "depth=14")
    outcome = train(config)
    assert outcome.status == "finished", outcome.message
    network = load_network(config.folder)
    assert network.architecture == config.network
    summary = json.loads((config.folder / "summary.json").read_text())
    assert summary["parameters"] == parameter_count(network)
    told = {"shortcut": config.network.shortcut}
    if way == "dirac":  # after training, a network like any other
        assert match(network.state_dict(), **told).state_dict().keys() == network.state_dict().keys()
    else:  # other code's tensors without BN are refused, whatever they are of
        with pytest.raises(
            CheckpointError, match=r"is the BN of|is one of weight; expected weight, bias, running_mean"
        ) as error:
            match(network.state_dict(), **told)
        assert "\n" not in str(error.value)
