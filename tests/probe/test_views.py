"""What networks are shown, and the errors and BN statistics measured with it, against direct computations."""

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch.nn import functional as F

from degradation.config import Architecture
from degradation.data.images import ImageSet
from degradation.net.network import Network
from degradation.probe.construct import largest_difference
from degradation.probe.layers import layer_gradients, layer_responses
from degradation.probe.views import Views, evaluate, exact_batchnorm, find_wrong
from tests.probe.conftest import assert_unchanged, settle, tensors_of

TINY = Architecture.paper(8, "A", width=4)


@pytest.mark.parametrize("channels_last", [True, False])
def test_views_are_all_images_once_in_order(views: Views, channels_last: bool) -> None:
    batches = list(replace(views, batch_size=25, channels_last=channels_last))
    assert [len(y) for _, y in batches] == [25, 25, 10]
    x, y = (torch.cat(parts) for parts in zip(*batches, strict=True))
    assert x.dtype == torch.float32
    assert torch.equal(x, views.normalize(views.images.images))
    assert torch.equal(y, views.images.labels)
    layout = torch.channels_last if channels_last else torch.contiguous_format
    assert all(x.is_contiguous(memory_format=layout) for x, _ in batches)
    few = replace(views, batch_size=25, precision="bf16").of(views.images[:3])
    assert (len(few.images), few.batch_size, few.precision) == (3, 25, "bf16")


@pytest.mark.parametrize(("precision", "dtype"), [("fp32", torch.float32), ("bf16", torch.bfloat16)])
def test_the_precision_is_that_of_matrix_products(views: Views, precision: str, dtype: torch.dtype) -> None:
    with replace(views, precision=precision).autocast():
        assert (torch.ones(2, 2) @ torch.ones(2, 2)).dtype == dtype


@pytest.fixture
def in_tf32() -> Iterator[tuple[Any, Any]]:
    """The switches of TF32, on as in a run in TF32."""
    switches = torch.backends.cuda.matmul, torch.backends.cudnn
    were = [switch.allow_tf32 for switch in switches]
    for switch in switches:
        switch.allow_tf32 = True
    yield switches
    for switch, was in zip(switches, were, strict=True):
        switch.allow_tf32 = was


def test_what_is_measured_in_float32_is_not_in_tf32(
    in_tf32: tuple[Any, Any], views: Views, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen, forward = set(), Network.forward

    def look(network: Network, x: torch.Tensor) -> torch.Tensor:
        seen.add(tuple(switch.allow_tf32 for switch in in_tf32))
        return forward(network, x)

    network, (x, y) = settle(TINY, views), next(iter(views))
    monkeypatch.setattr(Network, "forward", look)
    layer_gradients(network, x, y)
    largest_difference(network, network, views)
    for exact in (evaluate, exact_batchnorm, layer_responses):
        exact(network, views)
    assert seen == {(False, False)}
    assert all(switch.allow_tf32 for switch in in_tf32)
    evaluate(network, replace(views, precision="tf32"))
    assert seen == {(False, False), (True, True)}


@pytest.mark.parametrize("training", [True, False])
def test_evaluate_measures_in_eval_mode_and_puts_the_mode_back(training: bool, views: Views) -> None:
    network = settle(TINY, views).train(training)
    before = tensors_of(network)
    error, loss = evaluate(network, replace(views, batch_size=7))
    assert network.training is training
    assert_unchanged(network, before)
    with torch.no_grad():
        logits = network.eval()(views.normalize(views.images.images))
    wrong = (logits.argmax(1) != views.images.labels).tolist()
    assert error == 100 * sum(wrong) / 60
    assert find_wrong(network, replace(views, batch_size=7)) == [n for n, each in enumerate(wrong) if each]
    assert loss == pytest.approx(F.cross_entropy(logits, views.images.labels).item(), rel=1e-5)


def test_mode_comes_back_after_a_failure(views: Views) -> None:
    network = settle(TINY, views)
    with pytest.raises(RuntimeError):
        evaluate(network, views.of(ImageSet(views.images.images[:, :2], views.images.labels)))
    assert network.training


@pytest.mark.parametrize("training", [True, False])
def test_exact_batchnorm_is_a_twins(training: bool, views: Views) -> None:
    network = settle(TINY, views).train(training)
    before = tensors_of(network)
    with torch.no_grad():
        stem = network.stem(views.normalize(views.images.images)).double()
    twin = exact_batchnorm(network, replace(views, batch_size=20))
    assert twin.training is network.training is training
    torch.testing.assert_close(twin.bn.running_mean.double(), stem.mean((0, 2, 3)), rtol=1e-4, atol=1e-6)
    assert not torch.allclose(twin.bn.running_mean, before["bn.running_mean"])
    assert_unchanged(network, before)
    assert network.bn.momentum == twin.bn.momentum == 0.1


def test_a_partial_batch_does_not_weigh_as_a_whole_one(views: Views) -> None:
    network = settle(TINY, views)
    partial = exact_batchnorm(network, replace(views, batch_size=25))
    whole = exact_batchnorm(network, replace(views, batch_size=25).of(views.images[:50]))
    assert_unchanged(partial, tensors_of(whole))


def test_fewer_images_than_a_batch_are_one(views: Views) -> None:
    network = settle(TINY, views)
    of_all, of_more = (exact_batchnorm(network, replace(views, batch_size=size)) for size in (60, 61))
    assert_unchanged(of_more, tensors_of(of_all))


def test_exact_statistics_of_one_batch_make_eval_mode_training_mode(views: Views) -> None:
    twin, x = exact_batchnorm(settle(TINY, views), replace(views, batch_size=60)), views.normalize(views.images.images)
    with torch.no_grad():
        torch.testing.assert_close(twin.eval()(x), twin.train()(x), rtol=1e-2, atol=1e-2)
