"""What is measured, against direct computations."""

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from degradation.data.images import ImageSet, Normalizer, make_synthetic
from degradation.net.network import Network
from degradation.probe.layers import evaluate, exact_batchnorm, layer_responses


@pytest.fixture(scope="module")
def data() -> ImageSet:
    return make_synthetic(60, 1)[0]


@pytest.fixture(scope="module")
def normalize(data: ImageSet) -> Normalizer:
    return Normalizer(data, "pixel_mean")


def make_network(shortcut: str, data: ImageSet, normalize: Normalizer) -> Network:
    """With BN statistics, gammas and betas that are not those of a new network."""
    network = Network(8, shortcut, width=4, seed=1)  # type: ignore[arg-type]
    draw = torch.Generator().manual_seed(2)
    for layer in network.responses().values():
        layer.weight.data = 0.5 + torch.rand(layer.weight.shape, generator=draw)
        layer.bias.data = torch.randn(layer.bias.shape, generator=draw)
    with torch.no_grad():
        for _ in range(3):
            network(normalize(data.images))
    return network


@pytest.mark.parametrize("batch_size", [60, 7])
@pytest.mark.parametrize("shortcut", ["none", "A", "B"])
def test_layer_responses_are_the_std_of_all_outputs(
    shortcut: str, batch_size: int, data: ImageSet, normalize: Normalizer
) -> None:
    network = make_network(shortcut, data, normalize)
    outputs: dict[str, Tensor] = {}
    rows = layer_responses(network, data, normalize, batch_size)
    assert network.training

    for name, layer in network.responses().items():
        # cloned: what follows rectifies the tensor in place
        layer.register_forward_hook(lambda _m, _i, out, name=name: outputs.__setitem__(name, out.double().clone()))
    with torch.no_grad():
        network.eval()(normalize(data.images))
    assert [row["layer"] for row in rows] == list(range(1, 8))
    assert [row["name"] for row in rows] == list(outputs)
    assert [row["stage"] for row in rows] == [0, 1, 1, 2, 2, 3, 3]
    for row in rows:
        name = str(row["name"])
        assert row["std"] == pytest.approx(outputs[name].std(correction=0).item(), rel=1e-5)
        assert row["mean"] == pytest.approx(outputs[name].mean().item(), rel=1e-4, abs=1e-6)
        gamma = network.responses()[name].weight
        assert row["gamma_rms"] == pytest.approx(gamma.square().mean().sqrt().item(), rel=1e-6)


@pytest.mark.parametrize("shortcut", ["none", "A"])
def test_a_response_is_after_bn_and_before_relu_and_addition(
    shortcut: str, data: ImageSet, normalize: Normalizer
) -> None:
    network = make_network(shortcut, data, normalize).eval()
    rows = layer_responses(network, data, normalize)
    with torch.no_grad():
        stem = network.bn(network.stem(normalize(data.images)))
        block = network.stages[0][0]
        x = F.relu(stem)
        first = block.bn1(block.conv1(x))
        second = block.bn2(block.conv2(F.relu(first)))
    for row, response in zip(rows, (stem, first, second), strict=False):
        assert row["std"] == pytest.approx(response.double().std(correction=0).item(), rel=1e-5)


@pytest.mark.parametrize("training", [True, False])
def test_evaluate_measures_in_eval_mode_and_puts_the_mode_back(
    training: bool, data: ImageSet, normalize: Normalizer
) -> None:
    network = make_network("A", data, normalize).train(training)
    before = {key: value.clone() for key, value in network.state_dict().items()}
    error, loss = evaluate(network, data, normalize, batch_size=7)
    assert network.training is training
    assert all(torch.equal(before[key], value) for key, value in network.state_dict().items())
    with torch.no_grad():
        logits = network.eval()(normalize(data.images))
    assert error == 100 * (logits.argmax(1) != data.labels).sum().item() / 60
    assert loss == pytest.approx(F.cross_entropy(logits, data.labels).item(), rel=1e-5)


def test_mode_comes_back_after_a_failure(data: ImageSet, normalize: Normalizer) -> None:
    network = make_network("A", data, normalize)
    with pytest.raises(RuntimeError):
        evaluate(network, ImageSet(data.images[:, :2], data.labels), normalize)
    assert network.training


@pytest.mark.parametrize("training", [True, False])
def test_exact_batchnorm_lasts_for_its_block_only(training: bool, data: ImageSet, normalize: Normalizer) -> None:
    network = make_network("A", data, normalize).train(training)
    before = {key: value.clone() for key, value in network.state_dict().items()}
    with torch.no_grad():
        stem = network.stem(normalize(data.images)).double()
    with exact_batchnorm(network, data, normalize, batch_size=20):
        assert network.training is training
        torch.testing.assert_close(network.bn.running_mean.double(), stem.mean((0, 2, 3)), rtol=1e-4, atol=1e-6)
        assert not torch.allclose(network.bn.running_mean, before["bn.running_mean"])
    assert network.training is training
    assert all(torch.equal(before[key], value) for key, value in network.state_dict().items())
    assert network.bn.momentum == 0.1


def test_exact_statistics_of_one_batch_make_eval_mode_training_mode(data: ImageSet, normalize: Normalizer) -> None:
    network = make_network("A", data, normalize)
    with torch.no_grad(), exact_batchnorm(network, data, normalize, batch_size=60):
        x = normalize(data.images)
        torch.testing.assert_close(network.eval()(x), network.train()(x), rtol=1e-2, atol=1e-2)
