"""Deleted and swapped blocks, against forward passes written out by hand."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from degradation.data.images import ImageSet, Normalizer, make_synthetic
from degradation.net.network import Block, Network
from degradation.probe.layers import evaluate
from degradation.probe.lesions import (
    deletable,
    delete_each,
    delete_random,
    deleted,
    swap_random,
    swappable,
    swapped,
)


@pytest.fixture(scope="module")
def data() -> ImageSet:
    return make_synthetic(60, 1)[0]


@pytest.fixture(scope="module")
def normalize(data: ImageSet) -> Normalizer:
    return Normalizer(data, "pixel_mean")


def make_network(shortcut: str, data: ImageSet, normalize: Normalizer, depth: int = 14, alpha: float = 1.0) -> Network:
    network = Network(depth, shortcut, width=3, seed=1, alpha=alpha)  # type: ignore[arg-type]
    with torch.no_grad():
        for _ in range(3):
            network(normalize(data.images))
    return network


def run_by_hand(network: Network, x: Tensor, order: list[Callable[[Tensor], Tensor]]) -> Tensor:
    network.eval()
    with torch.no_grad():
        x = F.relu(network.bn(network.stem(x)))
        for step in order:
            x = step(x)
        return network.head(x.mean((2, 3)))


@pytest.mark.parametrize("shortcut", ["none", "A", "B", "C"])
def test_the_blocks_under_study_are_the_same_in_every_arm(shortcut: str, data: ImageSet, normalize: Normalizer) -> None:
    network = make_network(shortcut, data, normalize, 20)
    names = deletable(network)
    assert len(names) == 7
    assert set(network.blocks()) - set(names) == {"stage2.block1", "stage3.block1"}
    pairs = swappable(network)
    assert len(pairs) == 3 + 1 + 1
    shapes = {name: block.conv1.weight.shape for name, block in network.blocks().items()}
    assert all(shapes[a] == shapes[b] for a, b in pairs)


@pytest.mark.parametrize(("shortcut", "alpha"), [("none", 1.0), ("A", 1.0), ("A", 0.5), ("B", 1.0), ("C", 1.0)])
def test_a_deleted_block_is_its_shortcut_alone(
    shortcut: str, alpha: float, data: ImageSet, normalize: Normalizer
) -> None:
    network = make_network(shortcut, data, normalize, alpha=alpha).eval()
    blocks = network.blocks()
    x = normalize(data.images)

    def alone(x: Tensor) -> Tensor:
        projection = blocks["stage2.block2"].shortcut
        return F.relu(projection(x)) if isinstance(projection, nn.Sequential) else alpha * x

    order = [alone if name == "stage2.block2" else block for name, block in blocks.items()]
    expected = run_by_hand(network, x, order)
    with deleted(network, ["stage2.block2"]), torch.no_grad():
        found = network(x)
    assert torch.equal(found, expected)
    assert not torch.equal(found, network(x))


@pytest.mark.parametrize("shortcut", ["none", "A"])
def test_swaps_follow_one_another(shortcut: str, data: ImageSet, normalize: Normalizer) -> None:
    network = make_network(shortcut, data, normalize, 20)
    b = network.blocks()
    first, second, third = (b[f"stage1.block{i}"] for i in (1, 2, 3))
    order = [third, first, second, *list(b.values())[3:]]
    x = normalize(data.images)
    expected = run_by_hand(network, x, order)
    with swapped(network, [("stage1.block1", "stage1.block2"), ("stage1.block1", "stage1.block3")]), torch.no_grad():
        assert torch.equal(network(x), expected)
    assert not torch.equal(network(x), expected)


@pytest.mark.parametrize("shortcut", ["none", "A"])
def test_deleting_or_swapping_nothing_is_evaluate(shortcut: str, data: ImageSet, normalize: Normalizer) -> None:
    network = make_network(shortcut, data, normalize)
    error, loss = evaluate(network, data, normalize, batch_size=20)
    nothing = {"count": 0, "draw": 0, "blocks": "", "error": error, "loss": loss}
    assert delete_random(network, data, normalize, [0], batch_size=20) == [{"kind": "delete", **nothing}]
    assert swap_random(network, data, normalize, [0], batch_size=20) == [{"kind": "swap", **nothing}]


def test_rows_are_those_of_evaluate_on_the_network_without_the_blocks(data: ImageSet, normalize: Normalizer) -> None:
    network = make_network("A", data, normalize, 20)
    rows = delete_each(network, data, normalize)
    assert [row["blocks"] for row in rows] == deletable(network)
    rows += delete_random(network, data, normalize, [2, 4], draws=2)
    assert [(row["kind"], row["count"], row["draw"]) for row in rows[7:]] == [
        ("delete", 2, 0),
        ("delete", 2, 1),
        ("delete", 4, 0),
        ("delete", 4, 1),
    ]
    for row in rows:
        names = str(row["blocks"]).split("+")
        assert len(set(names)) == row["count"]
        assert names == [name for name in network.blocks() if name in names]
        with deleted(network, names):
            assert (row["error"], row["loss"]) == evaluate(network, data, normalize)
    for row in swap_random(network, data, normalize, [1, 2], draws=2):
        names = str(row["blocks"]).split("+")
        with swapped(network, list(zip(names[::2], names[1::2], strict=True))):
            assert (row["error"], row["loss"]) == evaluate(network, data, normalize)


def test_both_arms_of_a_pair_get_the_same_draws_and_another_seed_gives_others(
    data: ImageSet, normalize: Normalizer
) -> None:
    plain, residual = (make_network(shortcut, data, normalize, 20) for shortcut in ("none", "A"))
    for probe, counts in ((delete_random, [1, 3, 5]), (swap_random, [1, 2, 3])):
        drawn = [
            [(row["count"], row["draw"], row["blocks"]) for row in probe(network, data, normalize, counts, seed=seed)]
            for network, seed in ((plain, 0), (residual, 0), (residual, 1))
        ]
        assert drawn[0] == drawn[1] != drawn[2]


@pytest.mark.parametrize("training", [True, False])
def test_the_network_is_as_it_was_afterwards(training: bool, data: ImageSet, normalize: Normalizer) -> None:
    network = make_network("A", data, normalize).train(training)
    blocks, values = network.blocks(), {key: value.clone() for key, value in network.state_dict().items()}
    delete_each(network, data, normalize)
    delete_random(network, data, normalize, [2])
    swap_random(network, data, normalize, [1])
    wrong = ImageSet(data.images[:, :2], data.labels)
    for fail in (delete_each, lambda *a: delete_random(*a, [2]), lambda *a: swap_random(*a, [1])):
        with pytest.raises(RuntimeError):
            fail(network, wrong, normalize)  # type: ignore[operator]
    assert list(network.blocks().items()) == list(blocks.items())
    assert all(isinstance(block, Block) and block.training is training for block in network.blocks().values())
    assert all(torch.equal(values[key], value) for key, value in network.state_dict().items())


def test_what_cannot_be_done_is_said(data: ImageSet, normalize: Normalizer) -> None:
    network = make_network("A", data, normalize, 8)
    with pytest.raises(ValueError, match=r"stage2\.block1 cannot be deleted; these can: stage1\.block1"):
        deleted(network, ["stage2.block1"]).__enter__()
    with pytest.raises(ValueError, match=r"stage1\.block1 and stage2\.block1 cannot change places"):
        swapped(network, [("stage1.block1", "stage2.block1")]).__enter__()
    with pytest.raises(ValueError, match="count=2, but there are 1 blocks that can be deleted"):
        delete_random(network, data, normalize, [2])
    with pytest.raises(ValueError, match="count=1, but there are 0 pairs"):
        swap_random(network, data, normalize, [1])
