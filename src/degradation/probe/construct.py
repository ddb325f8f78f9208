"""The constructed solution: a deeper network that is exactly a trained shallower one (He et al. 2015, section 1).

"There exists a solution by construction to the deeper model: the added layers are identity mapping, and the other
layers are copied from the learned shallower model."
"""

from collections.abc import Iterable

import torch
from torch import Tensor, nn

from degradation.data.images import ImageSet, Normalizer
from degradation.net.network import Block, Network
from degradation.probe.layers import evaluate, evaluating, views


class ConstructionError(Exception):
    """A deeper network cannot be built from this one."""


@torch.no_grad()
def _be_identity(block: Block, mean: Tensor, variance: Tensor) -> None:
    """Make a block of equal widths map every non-negative input with these channel statistics to itself, in eval mode.

    A plain block becomes Dirac kernels whose BN has the input's own statistics and undoes them: gamma is their
    standard deviation, beta their mean. After a ReLU the input is non-negative, so that both ReLUs let it pass. A
    residual block has identity at hand: its last gamma and beta become zero, and the rest stays as initialised (where
    its shortcut is a projection, option C, that becomes an identity in the same way as a plain block's layers).
    """
    pairs: list[tuple[nn.Module, ...]] = []
    if block.shortcut is None:
        pairs = [(block.conv1, block.bn1), (block.conv2, block.bn2)]
    else:
        nn.init.zeros_(block.bn2.weight)  # type: ignore[arg-type]
        nn.init.zeros_(block.bn2.bias)  # type: ignore[arg-type]
        if isinstance(block.shortcut, nn.Sequential):  # option C
            pairs = [tuple(block.shortcut)]
    for convolution, norm in pairs:
        assert isinstance(convolution, nn.Conv2d) and isinstance(norm, nn.BatchNorm2d)  # noqa: PT018
        nn.init.dirac_(convolution.weight)
        norm.running_mean.copy_(mean)  # type: ignore[union-attr]
        norm.running_var.copy_(variance)  # type: ignore[union-attr]
        norm.weight.copy_((variance + norm.eps).sqrt())
        norm.bias.copy_(mean)


def _stages(network: Network) -> list[list[Block]]:
    return [[b for name, b in network.blocks().items() if name.startswith(f"stage{s}.")] for s in (1, 2, 3)]


def stage_statistics(network: Network, train: ImageSet, normalize: Normalizer) -> list[tuple[Tensor, Tensor]]:
    """Mean and variance [C] of every channel at the end of each stage, in eval mode over un-augmented images."""
    stages = [blocks[-1] for blocks in _stages(network)]
    totals = [
        torch.zeros(2, block.conv2.out_channels, dtype=torch.float64, device=train.labels.device) for block in stages
    ]
    counts = [0] * len(stages)

    def hook(number: int):  # type: ignore[no-untyped-def]
        def add(_module: nn.Module, _inputs: tuple[Tensor, ...], output: Tensor) -> None:
            wide = output.double()
            totals[number] += torch.stack([wide.sum((0, 2, 3)), wide.square().sum((0, 2, 3))])
            counts[number] += output.numel() // output.shape[1]

        return add

    handles = [block.register_forward_hook(hook(number)) for number, block in enumerate(stages)]
    try:
        with evaluating(network):
            for x, _ in views(train, normalize):
                network(x)
    finally:
        for handle in handles:
            handle.remove()
    statistics = []
    for total, count in zip(totals, counts, strict=True):
        mean, square = total / count
        statistics.append((mean.float(), (square - mean.square()).clamp(min=0).float()))
    return statistics


@torch.no_grad()
def deepen(parent: Network, child: Network, statistics: list[tuple[Tensor, Tensor]]) -> None:
    """Make a freshly initialised deeper network compute what its trained parent computes, in eval mode.

    The blocks of each stage are copied; those that the child has more of, at the stage's end, become identities.

    Args:
        statistics: the parent's, see `stage_statistics`.

    Raises:
        ConstructionError: the two differ in more than depth, the child is not the deeper, or no block can be an exact
            identity: without BN, or with shortcuts of another strength than 1.
    """
    for key, ours in child.settings.items():
        if ours != (theirs := parent.settings[key]):
            raise ConstructionError(f"the networks differ in more than depth: {key} is {theirs} and {ours}")
    if child.settings["norm"] != "batch" or child.settings["alpha"] != 1:
        raise ConstructionError("added layers are identities only with norm=batch and alpha=1")
    if child.depth <= parent.depth:
        raise ConstructionError(f"depth {child.depth} is not deeper than depth {parent.depth}")
    for name in ("stem", "bn", "head"):
        getattr(child, name).load_state_dict(getattr(parent, name).state_dict())
    for blocks, copied, (mean, variance) in zip(_stages(child), _stages(parent), statistics, strict=True):
        for block, old in zip(blocks, copied, strict=False):
            block.load_state_dict(old.state_dict())
        for block in blocks[len(copied) :]:
            _be_identity(block, mean, variance)


def largest_difference(parent: Network, child: Network, data: ImageSet, normalize: Normalizer) -> float:
    """The largest difference between their logits over all images, in eval mode, as a fraction of the largest logit."""
    difference = largest = torch.zeros((), device=data.labels.device)
    with evaluating(parent), evaluating(child):
        for x, _ in views(data, normalize):
            logits = parent(x)
            difference = torch.maximum(difference, (child(x) - logits).abs().max())
            largest = torch.maximum(largest, logits.abs().max())
    return (difference / largest).item()


def deepen_each(
    parent: Network, depths: Iterable[int], train: ImageSet, data: ImageSet, normalize: Normalizer
) -> list[dict[str, float]]:
    """Build the constructed solution at every depth, and compare it with its parent before any training.

    Args:
        depths: each above the parent's.
        train: whose activations the identities are made for.
        data: images to compare on, in eval mode.

    Returns:
        One row per depth: depth, largest_difference (of logits, as a fraction of the largest), parent_error and error
        (percent).

    Raises:
        ConstructionError: see `deepen`.
    """
    statistics = stage_statistics(parent, train, normalize)
    parent_error, _ = evaluate(parent, data, normalize)
    rows = []
    for depth in depths:
        child = Network(depth, **parent.settings).to(data.labels.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        deepen(parent, child, statistics)
        difference, (error, _) = largest_difference(parent, child, data, normalize), evaluate(child, data, normalize)
        rows.append({"depth": depth, "largest_difference": difference, "parent_error": parent_error, "error": error})
    return rows
