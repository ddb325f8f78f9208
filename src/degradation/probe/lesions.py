"""What a trained network still does when blocks are deleted or change places.

Veit, Wilber, Belongie, "Residual Networks Behave Like Ensembles of Relatively Shallow Networks" (arXiv 1605.06431),
section 4. Nothing is trained again, and BN keeps its averages.

A deleted residual block is its shortcut alone; a deleted plain block passes its input on. Blocks that change the shape
(the first of most stages) stay, in place, in both arms: nothing in a plain network could stand for them.
"""

from collections.abc import Iterable, Iterator, Mapping
from itertools import chain, combinations
from typing import Any

import numpy as np
from torch import Tensor, nn
from torch.nn import functional as F

from degradation.net.network import Block, Network
from degradation.probe.layers import Rows, by_stage
from degradation.probe.views import Views, evaluate


class DeletedBlock(nn.Module):
    """What is left of a block without its layers: relu(alpha shortcut(x)) where the block is residual, else x.

    With an identity shortcut and alpha 1 both are x: what enters a block is never negative.
    """

    def __init__(self, block: Block):
        super().__init__()
        self.alpha, self.shortcut = block.alpha, block.shortcut

    def forward(self, x: Tensor) -> Tensor:
        return x if self.shortcut is None else F.relu(self.alpha * self.shortcut(x))


def _deletable(network: Network) -> list[list[str]]:
    return [[name for name, block in stage.items() if block.keeps_shape] for stage in by_stage(network)]


def deletable(network: Network) -> list[str]:
    """The blocks that keep the shape of their input, in order of depth: the same in both arms of a pair."""
    return [name for names in _deletable(network) for name in names]


def swappable(network: Network) -> list[tuple[str, str]]:
    """Every pair of blocks of equal shape: two of `deletable` in one stage."""
    return [pair for names in _deletable(network) for pair in combinations(names, 2)]


def _placed(twin: Network, blocks: Mapping[str, nn.Module]) -> Network:
    modules = iter(blocks.values())
    for stage in twin.stages:
        for place, _ in list(stage.named_children()):
            stage.register_module(place, next(modules))
    return twin


def deleted(network: Network, names: Iterable[str]) -> Network:
    """A twin of a network without the named blocks.

    Raises:
        ValueError: a block is not one of `deletable`.
    """
    twin, allowed = network.twin(), deletable(network)
    blocks: dict[str, nn.Module] = {**twin.blocks()}
    for name in names:
        if name not in allowed:
            raise ValueError(f"{name} cannot be deleted; these can: {', '.join(allowed)}")
        blocks[name] = DeletedBlock(twin.blocks()[name])
    return _placed(twin, blocks)


def swapped(network: Network, pairs: Iterable[tuple[str, str]]) -> Network:
    """A twin of a network in which the blocks at each pair of places have changed places, one pair after the other.

    Raises:
        ValueError: a pair is not one of `swappable`.
    """
    twin, allowed = network.twin(), swappable(network)
    blocks = twin.blocks()
    for a, b in pairs:
        if (a, b) not in allowed:
            raise ValueError(f"{a} and {b} cannot change places; two shape-keeping blocks of one stage can")
        blocks[a], blocks[b] = blocks[b], blocks[a]
    return _placed(twin, blocks)


def _drawn(items: list[Any], what: str, counts: Iterable[int], draws: int, seed: int) -> Iterator[tuple[int, int, Any]]:
    # (count, draw, items drawn without replacement). A function of seed, count and draw alone, so that networks of
    # equal depth are hurt alike. There is one way to draw none.
    for count in counts:
        if not 0 <= count <= len(items):
            raise ValueError(f"count={count}, but there are {len(items)} {what} in this network")
        for draw in range(draws if count else 1):
            chosen = np.random.default_rng((seed, count, draw)).choice(len(items), count, replace=False)
            yield count, draw, [items[i] for i in chosen]


def _row(kind: str, count: int, draw: int, names: Iterable[str], network: Network, views: Views) -> dict[str, Any]:
    error, loss = evaluate(network, views)
    return {"kind": kind, "count": count, "draw": draw, "blocks": "+".join(names), "error": error, "loss": loss}


def delete_each(network: Network, views: Views) -> Rows:
    """Delete one block at a time, in order of depth (Veit et al., section 4.1).

    Returns:
        One row per block: kind "delete_one", count 1, draw 0, blocks, error (percent), loss, stage (from 1).
    """
    return [
        {**_row("delete_one", 1, 0, [name], deleted(network, [name]), views), "stage": stage}
        for stage, names in enumerate(_deletable(network), 1)
        for name in names
    ]


def delete_random(network: Network, views: Views, counts: Iterable[int], draws: int = 3, seed: int = 0) -> Rows:
    """Delete several blocks at once, drawn at random (Veit et al., section 4.2).

    Args:
        counts: how many to delete; 0 measures the network as it is.
        draws: sets of blocks for each count.
        seed: of the draws; equal seeds delete the same blocks of any two networks of equal depth.

    Returns:
        One row per set: kind "delete", count, draw (from 0), blocks in order of depth joined by "+", error, loss.

    Raises:
        ValueError: a count is above the number of blocks that can be deleted.
    """
    names = deletable(network)
    return [
        _row("delete", count, draw, sorted(chosen, key=names.index), deleted(network, chosen), views)
        for count, draw, chosen in _drawn(names, "blocks that can be deleted", counts, draws, seed)
    ]


def swap_random(network: Network, views: Views, counts: Iterable[int], draws: int = 3, seed: int = 0) -> Rows:
    """Let random pairs of blocks of one stage change places, no pair twice (Veit et al., section 4.3).

    Swaps follow one another and may undo each other in part: all three of three blocks amount to one. Arguments as of
    `delete_random`, where counts are of pairs.

    Returns:
        One row per set: kind "swap", count, draw (from 0), blocks (pair after pair, joined by "+"), error, loss.

    Raises:
        ValueError: a count is above the number of such pairs.
    """
    return [
        _row("swap", count, draw, chain(*pairs), swapped(network, pairs), views)
        for count, draw, pairs in _drawn(swappable(network), "pairs that can change places", counts, draws, seed)
    ]
