"""What a trained network still does when blocks are deleted or change places.

Veit, Wilber, Belongie, "Residual Networks Behave Like Ensembles of Relatively Shallow Networks" (arXiv 1605.06431),
section 4. Nothing is trained again, and BN keeps its averages, but where it says otherwise.

A deleted residual block is its shortcut alone; a deleted plain block passes its input on. Blocks that change the shape
(the first of most stages) stay, in place, in both arms: nothing in a plain network could stand for them.
"""

from collections.abc import Iterable
from itertools import combinations
from typing import Any, Literal

import numpy as np
from torch import Tensor, nn
from torch.nn import functional as F

from degradation.net.network import Block, Network
from degradation.probe.layers import Rows, by_stage
from degradation.probe.views import Views, evaluate, exact_batchnorm


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


def lesioned(network: Network, deleted: Iterable[str] = (), swapped: Iterable[tuple[str, str]] = ()) -> Network:
    """A twin of a network without some blocks, others of which have changed places, one pair after the other."""
    twin = network.twin()
    blocks: dict[str, Any] = {**twin.blocks()}
    for name in deleted:
        blocks[name] = DeletedBlock(blocks[name])
    for a, b in swapped:
        blocks[a], blocks[b] = blocks[b], blocks[a]
    modules = iter(blocks.values())
    for stage in twin.stages:
        for place in range(len(stage)):
            stage[place] = next(modules)
    return twin


def _row(kind: str, count: int, draw: int, names: Iterable[str], network: Network, views: Views) -> dict[str, Any]:
    error, loss = evaluate(network, views)
    return {"kind": kind, "count": count, "draw": draw, "blocks": "+".join(names), "error": error, "loss": loss}


def delete_each(network: Network, views: Views, train: Views) -> Rows:
    """Delete one block at a time, in order of depth (Veit et al., section 4.1).

    Returns:
        One row per block: kind "delete_one", count 1, draw 0, blocks, error (percent), loss, stage (from 1), and
        error_recalibrated: with BN statistics that are averages over `train` without the block, no weight trained.
    """
    rows = []
    for stage, names in enumerate(_deletable(network), 1):
        for name in names:
            twin = lesioned(network, [name])
            row = {**_row("delete_one", 1, 0, [name], twin, views), "stage": stage}
            rows.append({**row, "error_recalibrated": evaluate(exact_batchnorm(twin, train), views)[0]})
    return rows


def lesion_random(
    kind: Literal["delete", "swap"],
    network: Network,
    views: Views,
    counts: Iterable[int],
    draws: int = 3,
    seed: int = 0,
) -> Rows:
    """Delete several blocks at once, drawn at random, or let pairs of them change places (Veit et al., 4.2 and 4.3).

    No pair is drawn twice, but swaps may undo each other in part: all three of three blocks amount to one. There is one
    way to draw none. Draws are a function of seed, count and draw alone: networks of equal depth are hurt alike.

    Returns:
        One row per count and draw: kind, count (of blocks or of pairs), draw (from 0), blocks (joined by "+": deleted
        ones in order of depth, swapped ones pair after pair), error, loss.

    Raises:
        ValueError: a count is above the number of such blocks or pairs.
    """
    items: list[Any] = deletable(network) if kind == "delete" else swappable(network)
    rows = []
    for count in counts:
        if not 0 <= count <= len(items):
            what = "blocks that can be deleted" if kind == "delete" else "pairs that can change places"
            raise ValueError(f"count={count}, but there are {len(items)} {what} in this network")
        for draw in range(draws if count else 1):
            drawn = np.random.default_rng((seed, count, draw)).choice(len(items), count, replace=False)
            if kind == "delete":
                names = [items[i] for i in sorted(drawn)]
                twin = lesioned(network, deleted=names)
            else:
                names = [name for i in drawn for name in items[i]]
                twin = lesioned(network, swapped=[items[i] for i in drawn])
            rows.append(_row(kind, count, draw, names, twin, views))
    return rows
