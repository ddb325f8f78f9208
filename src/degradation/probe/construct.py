"""The constructed solution: a deeper network that is exactly a trained shallower one (He et al. 2015, section 1).

"There exists a solution by construction to the deeper model: the added layers are identity mapping, and the other
layers are copied from the learned shallower model."
"""

from collections.abc import Iterable
from dataclasses import asdict, replace

import torch
from torch import Tensor, nn

from degradation.config import Architecture
from degradation.net.network import Block, Network, Projection
from degradation.probe.layers import by_stage, moments
from degradation.probe.views import Views, evaluate, evaluating, layout

DEPTH_ALONE = ("name", "depth", "parent_depth")  # settings in which parent and child may differ


class ConstructionError(Exception):
    """A deeper network cannot be built from this one."""


@torch.no_grad()
def _be_identity(block: Block, mean: Tensor, variance: Tensor) -> None:
    """Make a block that keeps its shape map every non-negative input with these channel statistics to itself, in eval.

    A plain block becomes Dirac kernels whose BN has the input's own statistics and undoes them: gamma is their
    standard deviation, beta their mean. After a ReLU the input is non-negative, so that every ReLU lets it pass. A
    residual block has identity at hand: its last gamma and beta become zero, and the rest stays as initialised (where
    its shortcut is a projection, option C, that becomes an identity in the same way as a plain block's layers).
    """
    pairs: list[tuple[nn.Module, ...]] = [*block.layers]
    if block.shortcut is not None:
        for parameter in block.layers[-1][1].parameters():
            nn.init.zeros_(parameter)
        pairs = [tuple(block.shortcut)] if isinstance(block.shortcut, Projection) else []
    for convolution, norm in pairs:
        assert isinstance(convolution, nn.Conv2d) and isinstance(norm, nn.BatchNorm2d)  # noqa: PT018
        nn.init.dirac_(convolution.weight)
        norm.running_mean.copy_(mean)  # type: ignore[union-attr]
        norm.running_var.copy_(variance)  # type: ignore[union-attr]
        norm.weight.copy_((variance + norm.eps).sqrt())
        norm.bias.copy_(mean)


def stage_statistics(network: Network, views: Views) -> list[tuple[Tensor, Tensor]]:
    """Mean and variance [C] of every channel at the end of each stage, in eval mode and float32.

    Where added blocks are identities by their shortcuts (options A and B), nothing is measured: none are needed.
    """
    if network.architecture.shortcut in ("A", "B"):
        return [(torch.zeros(0), torch.ones(0))] * len(network.stages)
    twin = network.twin()
    pooled = moments(twin, list(twin.stages), replace(views, precision="fp32"), over=(0, 2, 3))
    return [(mean.float(), (square - mean.square()).clamp(min=0).float()) for mean, square in pooled]


def check(parent: Architecture, child: Architecture) -> None:
    """Whether a deeper network can be made to compute what a shallower one computes.

    Raises:
        ConstructionError: the two differ in more than depth, the child is the shallower, or no block can be an exact
            identity: without BN, with shortcuts of another strength than 1, or plain bottlenecks.
    """
    for key, value in asdict(child).items():
        if key not in DEPTH_ALONE and value != (other := getattr(parent, key)):
            raise ConstructionError(f"the networks differ in more than depth: {key} is {other} and {value}")
    if child.norm != "batch" or child.alpha != 1:
        raise ConstructionError("added layers are identities only with norm=batch and alpha=1")
    if child.depth < parent.depth:  # of equal depth it is a copy
        raise ConstructionError(f"depth {child.depth} is less than depth {parent.depth}")
    if child.plan.layers != parent.plan.layers:
        raise ConstructionError(f"depth {child.depth} is made of other blocks than depth {parent.depth}")
    if len(child.plan.layers) == 3 and child.shortcut == "none":
        raise ConstructionError("no plain bottleneck is an identity: its first 1x1 has fewer channels than its input")


@torch.no_grad()
def deepen(parent: Network, child: Network, statistics: list[tuple[Tensor, Tensor]]) -> None:
    """Make a freshly initialised deeper network compute what its trained parent computes, in eval mode.

    The blocks of each stage are copied; those that the child has more of, at the stage's end, become identities.
    `statistics` are the parent's; a ConstructionError, see `check`, is raised before anything is changed.
    """
    check(parent.architecture, child.architecture)
    for name in ("stem", "bn", "head"):
        getattr(child, name).load_state_dict(getattr(parent, name).state_dict())
    copied = parent.blocks()
    for blocks, (mean, variance) in zip(by_stage(child), statistics, strict=True):
        for name, block in blocks.items():
            if name in copied:
                block.load_state_dict(copied[name].state_dict())
            else:
                _be_identity(block, mean, variance)


def largest_difference(parent: Network, child: Network, views: Views) -> float:
    """The largest difference between their logits over all images, in eval mode and float32, of the largest logit."""
    difference = largest = torch.zeros((), device=views.device)
    with evaluating(parent), evaluating(child), replace(views, precision="fp32").autocast():
        for x, _ in views:
            logits = parent(x)
            difference = torch.maximum(difference, (child(x) - logits).abs().max())
            largest = torch.maximum(largest, logits.abs().max())
    return (difference / largest).item()


def deepen_each(parent: Network, depths: Iterable[int], train: Views, views: Views) -> list[dict[str, float]]:
    """Build the constructed solution at every depth, and compare it with its parent before any training.

    One row per depth: depth, largest_difference (of logits, as a fraction of the largest), parent_error and error
    (percent).
    """
    statistics = stage_statistics(parent, train)
    parent_error, _ = evaluate(parent, views)
    rows = []
    for depth in depths:
        child = Network(replace(parent.architecture, depth=depth)).to(
            views.device, memory_format=layout(views.channels_last)
        )  # type: ignore[call-overload]
        deepen(parent, child, statistics)
        difference, (error, _) = largest_difference(parent, child, views), evaluate(child, views)
        rows.append({"depth": depth, "largest_difference": difference, "parent_error": parent_error, "error": error})
    return rows
