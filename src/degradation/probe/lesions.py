"""What a trained network still does when blocks are deleted or change places.

Veit, Wilber, Belongie, "Residual Networks Behave Like Ensembles of Relatively Shallow Networks" (arXiv 1605.06431),
section 4. Nothing is trained again, and BN keeps its averages.

A deleted residual block is its shortcut alone; a deleted plain block passes its input on. The first blocks of stages
2 and 3 change the shape: nothing in a plain network could stand for them, so they stay, in place, in both arms.
"""

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from itertools import combinations
from typing import Any

import numpy as np
from torch import Tensor, nn
from torch.nn import functional as F

from degradation.data.images import ImageSet, Normalizer
from degradation.net.network import Block, Network
from degradation.probe.layers import evaluate


class DeletedBlock(Block):
    """What is left of a block without its convolutions: relu(alpha shortcut(x)) where the block is residual, else x.

    With an identity shortcut and alpha 1 both are x: what enters a block is never negative.
    """

    def __init__(self, block: Block):
        nn.Module.__init__(self)  # not Block's own, which makes the convolutions
        self.alpha, self.shortcut = block.alpha, block.shortcut

    def forward(self, x: Tensor) -> Tensor:
        return x if self.shortcut is None else F.relu(self.alpha * self.shortcut(x))


def deletable(network: Network) -> list[str]:
    """The blocks that keep the shape of their input, in order of depth: 3n - 2 of them, the same in both arms."""
    return [
        name
        for name, block in network.blocks().items()
        if block.conv1.stride == (1, 1) and block.conv1.in_channels == block.conv1.out_channels
    ]


def swappable(network: Network) -> list[tuple[str, str]]:
    """Every pair of blocks of equal shape: two of `deletable` in one stage."""
    return [(a, b) for a, b in combinations(deletable(network), 2) if a.split(".")[0] == b.split(".")[0]]


def _place(network: Network, blocks: Mapping[str, Block]) -> None:
    modules = iter(blocks.values())
    for stage in network.stages:
        assert isinstance(stage, nn.Sequential)
        for b in range(len(stage)):
            stage[b] = next(modules)


@contextmanager
def _placed(network: Network, blocks: Mapping[str, Block]) -> Iterator[None]:
    # The modules themselves change places, so nothing is copied; afterwards each is where it was.
    before = network.blocks()
    try:
        _place(network, blocks)
        yield
    finally:
        _place(network, before)


@contextmanager
def deleted(network: Network, names: Iterable[str]) -> Iterator[None]:
    """Within it, the named blocks are deleted; afterwards, also after an exception, the network is as it was.

    Raises:
        ValueError: a block is not one of `deletable`.
    """
    names = list(names)
    if fixed := [name for name in names if name not in deletable(network)]:
        raise ValueError(f"{fixed[0]} cannot be deleted; these can: {', '.join(deletable(network))}")
    blocks = network.blocks()
    with _placed(network, {**blocks, **{name: DeletedBlock(blocks[name]) for name in names}}):
        yield


@contextmanager
def swapped(network: Network, pairs: Iterable[tuple[str, str]]) -> Iterator[None]:
    """Within it, the blocks at each pair of places have changed places, one pair after the other; then as it was.

    Raises:
        ValueError: a pair is not one of `swappable`.
    """
    blocks = network.blocks()
    allowed = swappable(network)
    for a, b in pairs:
        if (a, b) not in allowed:
            raise ValueError(f"{a} and {b} cannot change places; two shape-keeping blocks of one stage can")
        blocks[a], blocks[b] = blocks[b], blocks[a]
    with _placed(network, blocks):
        yield


def _drawn(items: list[Any], what: str, counts: Iterable[int], draws: int, seed: int) -> Iterator[tuple[int, int, Any]]:
    # (count, draw, items drawn without replacement). A function of seed, count and draw alone, so that networks of
    # equal depth are hurt alike. There is one way to draw none.
    for count in counts:
        if not 0 <= count <= len(items):
            raise ValueError(f"count={count}, but there are {len(items)} {what} in this network")
        for draw in range(draws if count else 1):
            chosen = np.random.default_rng((seed, count, draw)).choice(len(items), count, replace=False)
            yield count, draw, [items[i] for i in chosen]


def _row(
    kind: str, count: int, draw: int, names: Iterable[str], measured: tuple[float, float]
) -> dict[str, int | float | str]:
    error, loss = measured
    return {"kind": kind, "count": count, "draw": draw, "blocks": "+".join(names), "error": error, "loss": loss}


def delete_each(
    network: Network, data: ImageSet, normalize: Normalizer, **views: Any
) -> list[dict[str, int | float | str]]:
    """Delete one block at a time, in order of depth (Veit et al., section 4.1).

    Args:
        views: batch_size, autocast and channels_last, as `probes.evaluate` takes them.

    Returns:
        One row per block: kind "delete_one", count 1, draw 0, blocks, error (percent), loss.
    """
    rows = []
    for name in deletable(network):
        with deleted(network, [name]):
            rows.append(_row("delete_one", 1, 0, [name], evaluate(network, data, normalize, **views)))
    return rows


def delete_random(
    network: Network,
    data: ImageSet,
    normalize: Normalizer,
    counts: Iterable[int],
    draws: int = 3,
    seed: int = 0,
    **views: Any,
) -> list[dict[str, int | float | str]]:
    """Delete several blocks at once, drawn at random (Veit et al., section 4.2).

    Args:
        counts: how many to delete; 0 measures the network as it is.
        draws: sets of blocks for each count.
        seed: of the draws; equal seeds delete the same blocks of any two networks of equal depth.
        views: batch_size, autocast and channels_last, as `probes.evaluate` takes them.

    Returns:
        One row per set: kind "delete", count, draw (from 0), blocks in order of depth joined by "+", error, loss.

    Raises:
        ValueError: a count is above the number of blocks that can be deleted.
    """
    rows = []
    names = deletable(network)
    for count, draw, chosen in _drawn(names, "blocks that can be deleted", counts, draws, seed):
        chosen.sort(key=names.index)
        with deleted(network, chosen):
            rows.append(_row("delete", count, draw, chosen, evaluate(network, data, normalize, **views)))
    return rows


def swap_random(
    network: Network,
    data: ImageSet,
    normalize: Normalizer,
    counts: Iterable[int],
    draws: int = 3,
    seed: int = 0,
    **views: Any,
) -> list[dict[str, int | float | str]]:
    """Let random pairs of blocks of one stage change places, no pair twice (Veit et al., section 4.3).

    Swaps follow one another and may undo each other in part: all three of three blocks amount to one.

    Arguments as of `delete_random`, where counts are of pairs.

    Returns:
        One row per set: kind "swap", count, draw (from 0), blocks (pair after pair, joined by "+"), error, loss.

    Raises:
        ValueError: a count is above the number of such pairs.
    """
    rows = []
    for count, draw, pairs in _drawn(swappable(network), "pairs that can change places", counts, draws, seed):
        with swapped(network, pairs):
            names = [name for pair in pairs for name in pair]
            rows.append(_row("swap", count, draw, names, evaluate(network, data, normalize, **views)))
    return rows
