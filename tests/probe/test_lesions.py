"""Deleted and swapped blocks, against forward passes written out by hand."""

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from degradation.config import Architecture
from degradation.data.images import ImageSet
from degradation.net.network import Network
from degradation.probe.lesions import (
    deletable,
    delete_each,
    lesion_random,
    lesioned,
    swappable,
)
from degradation.probe.views import Views, evaluate
from tests.probe.conftest import IMAGENET, assert_unchanged, imagenet, named, settle, tensors_of


def cifar(shortcut: str, depth: int = 14, alpha: float = 1.0) -> Architecture:
    return Architecture.paper(depth, shortcut, width=3, alpha=alpha)  # type: ignore[arg-type]


def x_of(views: Views) -> Tensor:
    return views.normalize(views.images.images)


def run_by_hand(network: Network, x: Tensor, order: list[Callable[[Tensor], Tensor]]) -> Tensor:
    network.eval()
    with torch.no_grad():
        x = network.pool(F.relu(network.bn(network.stem(x))))
        for step in order:
            x = step(x)
        return network.head(x.mean((2, 3)))


@pytest.mark.parametrize("shortcut", ["none", "A", "B", "C"])
def test_the_blocks_under_study_are_the_same_in_every_arm(shortcut: str) -> None:
    network = Network(cifar(shortcut, 20))
    names = deletable(network)
    assert len(names) == 7
    assert set(network.blocks()) - set(names) == {"stage2.block1", "stage3.block1"}
    pairs = swappable(network)
    assert len(pairs) == 3 + 1 + 1
    shapes = {name: block.conv1.weight.shape for name, block in network.blocks().items()}
    assert all(shapes[a] == shapes[b] for a, b in pairs)


@pytest.mark.parametrize(("depth", "pairs"), [(18, 1), (50, 1 + 3 + 10 + 1)])
@pytest.mark.parametrize("shortcut", ["none", "A", "B", "C"])
def test_first_blocks_stay_where_they_change_the_shape(shortcut: str, depth: int, pairs: int) -> None:
    """Two 3x3 layers keep the shape in the first block of stage 1; bottlenecks widen there."""
    network = Network(imagenet(depth, shortcut))
    fixed = {f"stage{s}.block1" for s in range(1, 5)} - ({"stage1.block1"} if depth == 18 else set())
    assert set(network.blocks()) - set(deletable(network)) == fixed
    assert len(swappable(network)) == pairs


@pytest.mark.parametrize(
    ("architecture", "name"),
    [
        *((cifar(shortcut), "stage2.block2") for shortcut in ("none", "A", "B", "C")),
        (cifar("A", alpha=0.5), "stage2.block2"),
        *((imagenet(*kind), "stage3.block2") for kind in IMAGENET),
        (imagenet(18, "none"), "stage1.block1"),
        (imagenet(50, "C"), "stage3.block2"),
    ],
    ids=named,
)
def test_a_deleted_block_is_its_shortcut_alone(architecture: Architecture, name: str, views: Views) -> None:
    network, x = settle(architecture, views).eval(), x_of(views)
    blocks = network.blocks()

    def alone(x: Tensor) -> Tensor:
        projection = blocks[name].shortcut
        return F.relu(projection(x)) if isinstance(projection, nn.Sequential) else architecture.alpha * x

    order = [alone if other == name else block for other, block in blocks.items()]
    expected = run_by_hand(network, x, order)
    with torch.no_grad():
        assert torch.equal(lesioned(network, [name]).eval()(x), expected)
        assert not torch.equal(network(x), expected)


@pytest.mark.parametrize(
    ("architecture", "stage", "place"),
    [(cifar("none", 20), 1, 1), (cifar("A", 20), 1, 1), (imagenet(34, "A"), 1, 1), (imagenet(50, "none"), 3, 2)],
    ids=named,
)
def test_swaps_follow_one_another(architecture: Architecture, stage: int, place: int, views: Views) -> None:
    network, x = settle(architecture, views), x_of(views)
    blocks = network.blocks()
    first, second, third = (f"stage{stage}.block{place + i}" for i in range(3))
    order = {**blocks, first: blocks[third], second: blocks[first], third: blocks[second]}
    expected = run_by_hand(network, x, list(order.values()))
    with torch.no_grad():
        assert torch.equal(lesioned(network, swapped=[(first, second), (first, third)])(x), expected)
        assert not torch.equal(network(x), expected)


@pytest.mark.parametrize("architecture", [cifar("none"), cifar("A"), imagenet(18, "B")], ids=named)
def test_deleting_or_swapping_nothing_is_evaluate(architecture: Architecture, views: Views) -> None:
    network = settle(architecture, views)
    error, loss = evaluate(network, views)
    nothing = {"count": 0, "draw": 0, "blocks": "", "error": error, "loss": loss}
    assert lesion_random("delete", network, views, [0]) == [{"kind": "delete", **nothing}]
    assert lesion_random("swap", network, views, [0]) == [{"kind": "swap", **nothing}]


@pytest.mark.parametrize("architecture", [cifar("A", 20), *(imagenet(*kind) for kind in IMAGENET)], ids=named)
def test_rows_are_those_of_evaluate_on_the_network_without_the_blocks(architecture: Architecture, views: Views) -> None:
    network = settle(architecture, views)
    rows = delete_each(network, views, replace(views, batch_size=len(views.images)))
    assert [row["blocks"] for row in rows] == deletable(network)
    assert [f"stage{row['stage']}" for row in rows] == [name.split(".")[0] for name in deletable(network)]
    several = lesion_random("delete", network, views, [2, 4], draws=2)
    assert [(row["kind"], row["count"], row["draw"]) for row in several] == [
        ("delete", 2, 0),
        ("delete", 2, 1),
        ("delete", 4, 0),
        ("delete", 4, 1),
    ]
    for row in rows + several:
        names = str(row["blocks"]).split("+")
        assert len(set(names)) == row["count"]
        assert names == [name for name in network.blocks() if name in names]
        assert (row["error"], row["loss"]) == evaluate(lesioned(network, names), views)
    for row in rows:
        twin = lesioned(network, [str(row["blocks"])]).train()
        for norm in (module for module in twin.modules() if isinstance(module, nn.BatchNorm2d)):
            norm.momentum = 1.0  # of the one batch that all images are
        with torch.no_grad():
            twin(x_of(views))
        assert row["error_recalibrated"] == evaluate(twin, views)[0]
    for row in lesion_random("swap", network, views, [1, 2] if len(swappable(network)) > 1 else [1], draws=2):
        names = str(row["blocks"]).split("+")
        pairs = list(zip(names[::2], names[1::2], strict=True))
        assert (row["error"], row["loss"]) == evaluate(lesioned(network, swapped=pairs), views)


@pytest.mark.parametrize("make", [lambda shortcut: cifar(shortcut, 20), lambda shortcut: imagenet(50, shortcut)])
def test_both_arms_of_a_pair_get_the_same_draws_and_another_seed_gives_others(
    make: Callable[[str], Architecture], views: Views
) -> None:
    plain, residual, few = Network(make("none")), Network(make("A")), views.of(views.images[:4])
    for kind, counts in (("delete", [1, 3, 5]), ("swap", [1, 2, 3])):
        drawn = [
            [(row["count"], row["draw"], row["blocks"]) for row in lesion_random(kind, network, few, counts, seed=seed)]  # type: ignore[arg-type]
            for network, seed in ((plain, 0), (residual, 0), (residual, 1))
        ]
        assert drawn[0] == drawn[1] != drawn[2]


def test_draws_are_those_of_published_records(views: Views) -> None:
    rows = lesion_random("delete", Network(cifar("A", 20)), views.of(views.images[:4]), [3], draws=2, seed=7)
    drawn = ["stage2.block2+stage3.block2+stage3.block3", "stage1.block2+stage2.block2+stage3.block2"]
    assert [row["blocks"] for row in rows] == drawn


@pytest.mark.parametrize("training", [True, False])
def test_the_network_is_as_it_was_afterwards(training: bool, views: Views) -> None:
    network = settle(cifar("A"), views).train(training)
    blocks, values = network.blocks(), tensors_of(network)
    delete_each(network, views, views)
    lesion_random("delete", network, views, [2])
    lesion_random("swap", network, views, [1])
    wrong = views.of(ImageSet(views.images.images[:, :2], views.images.labels))
    for fail in (
        lambda *a: delete_each(*a, views),
        lambda *a: lesion_random("delete", *a, [2]),
        lambda *a: lesion_random("swap", *a, [1]),
    ):
        with pytest.raises(RuntimeError):
            fail(network, wrong)  # type: ignore[operator]
    assert list(network.blocks().items()) == list(blocks.items())
    assert all(block.training is training for block in network.blocks().values())
    assert_unchanged(network, values)


def test_what_cannot_be_done_is_said(views: Views) -> None:
    network = Network(cifar("A", 8))
    with pytest.raises(ValueError, match="count=2, but there are 1 blocks that can be deleted"):
        lesion_random("delete", network, views, [2])
    with pytest.raises(ValueError, match="count=1, but there are 0 pairs"):
        lesion_random("swap", network, views, [1])
