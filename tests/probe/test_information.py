"""What layers tell of images, against direct computations."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from degradation.config import Architecture
from degradation.data.images import make_synthetic
from degradation.probe.information import (
    RIDGE,
    effective_rank,
    information,
    linear_probe_error,
    mean_cosine,
    spaced_images,
)
from degradation.probe.views import Views
from tests.probe.conftest import assert_unchanged, settle, tensors_of

FEATURES = torch.randn(40, 6, generator=torch.Generator().manual_seed(1)) + 0.5


def test_mean_cosine_is_that_of_all_pairs() -> None:
    pairs = [F.cosine_similarity(FEATURES[i], FEATURES[j], 0).item() for i in range(40) for j in range(40) if i != j]
    assert mean_cosine(FEATURES) == pytest.approx(np.mean(pairs), rel=1e-5)
    assert mean_cosine(FEATURES[:1].expand(5, -1)) == pytest.approx(1.0)
    assert mean_cosine(torch.zeros(5, 6)) == 1.0  # a layer that is dead


def test_effective_rank_is_exp_of_the_entropy() -> None:
    centred = FEATURES.numpy() - FEATURES.numpy().mean(0)
    shares = np.linalg.svd(centred, compute_uv=False)
    shares /= shares.sum()
    assert effective_rank(FEATURES) == pytest.approx(np.exp(-(shares * np.log(shares)).sum()), rel=1e-4)
    line = torch.arange(10.0)[:, None] * torch.ones(1, 4)
    assert effective_rank(line) == pytest.approx(1.0)
    assert effective_rank(torch.ones(10, 4)) == 0.0


def test_a_linear_probe_is_ridge_regression() -> None:
    labels = torch.arange(40) % 3
    inputs = FEATURES.double().numpy()
    centred = inputs - inputs.mean(0)
    ridge = math.sqrt(RIDGE * centred.var(0).mean() * 40)
    targets = np.eye(3)[labels.numpy()]
    stacked = np.vstack([centred, ridge * np.eye(6)])
    weights, *_ = np.linalg.lstsq(stacked, np.vstack([targets - targets.mean(0), np.zeros((6, 3))]), rcond=None)
    guessed = (centred @ weights + targets.mean(0)).argmax(1)
    expected = 100 * np.mean(guessed != labels.numpy())
    assert linear_probe_error(FEATURES, labels, FEATURES, labels) == pytest.approx(expected)
    told = F.one_hot(labels).float() @ torch.randn(3, 6)
    assert linear_probe_error(told, labels, told, labels) == 0.0


@pytest.mark.parametrize("shortcut", ["none", "A"])
def test_information_is_of_what_leaves_stem_and_blocks(shortcut: str, views: Views) -> None:
    network = settle(Architecture.paper(8, shortcut, width=4), views)  # type: ignore[arg-type]
    before = tensors_of(network)
    found = information(network, views, replace(views, batch_size=7))
    assert_unchanged(network, before)
    assert list(found) == ["stem", "stage1.block1.conv2", "stage2.block1.conv2", "stage3.block1.conv2"]
    network.eval()
    with torch.no_grad():
        x = F.relu(network.bn(network.stem(views.normalize(views.images.images))))
        first = network.stages[0][0](x)
    side = first.shape[-1] // 2
    quadrants = [first[:, :, i : i + side, j : j + side].mean((2, 3)) for i in (0, side) for j in (0, side)]
    features, row = torch.stack(quadrants, 2).flatten(1), found["stage1.block1.conv2"]
    labels = views.images.labels
    assert row["cosine"] == pytest.approx(mean_cosine(features), rel=1e-5)
    assert row["rank"] == pytest.approx(effective_rank(features), rel=1e-4)
    assert row["probe_error"] == pytest.approx(linear_probe_error(features, labels, features, labels))


def test_of_a_large_set_so_many_images_are_looked_at_evenly() -> None:
    images, few = make_synthetic(4500, 20, side=4)
    assert torch.equal(spaced_images(images).images, images.images[::3])
    assert len(spaced_images(few)) == 20


def test_what_is_not_finite_tells_nothing(views: Views) -> None:
    network = settle(Architecture.paper(8, "none", width=4), views)
    network.stages[1][0].conv1.weight.data[:] = math.inf
    found = information(network, views, views)
    assert math.isfinite(found["stage1.block1.conv2"]["rank"])
    assert math.isnan(found["stage2.block1.conv2"]["rank"])
