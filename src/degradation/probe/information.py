"""How much of its images a network passes on, layer by layer: what the size of a response does not tell.

After BN a response has the size of gamma, whatever is in it. Of a signal that dies out a linear classifier is at a
loss. Images look alike in it: their mean cosine is near 1, where noise does not hide it; the effective rank is of the
variation that is left, however small. So a claim is judged on the classifier alone.
"""

import math
from collections.abc import Sequence
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from degradation.data.images import Images
from degradation.net.network import Network
from degradation.probe.views import Views, evaluating

RIDGE = 1e-2  # of the linear classifier, as a share of the mean variance of a feature
MOST = 2000  # images of a set, evenly spaced


def mean_cosine(features: Tensor) -> float:
    """Mean cosine between the features [N, D] of two different images; those that have none at all are alike, too."""
    units, count = F.normalize(features.double()), len(features)
    dead = int((units == 0).all(1).sum())
    alike = units.sum(0).square().sum() - units.square().sum() + dead * (dead - 1)
    return (alike / (count * (count - 1))).item()


def effective_rank(features: Tensor) -> float:
    """How many directions carry the variance of features [N, D]: exp of the entropy of their singular values' shares.

    Roy and Vetterli, "The effective rank" (EUSIPCO 2007), of centred features; 0 where all images have the same.
    """
    wide = features.double()
    values = torch.linalg.svdvals(wide - wide.mean(0))
    shares = values[values > 0] / values.sum()
    return math.exp(-(shares * shares.log()).sum().item()) if len(shares) else 0.0


def linear_probe_error(train: Tensor, y: Tensor, features: Tensor, labels: Tensor) -> float:
    """Error (percent) on features [N, D] of the ridge regression of classes on `train` [M, D] (closed form)."""
    inputs, mean = train.double(), train.double().mean(0)
    targets = F.one_hot(y).double()
    centred = inputs - mean
    gram = centred.T @ centred / len(inputs)
    ridge = RIDGE * gram.diagonal().mean().clamp(min=1e-30)
    weights = torch.linalg.solve(
        gram + ridge * torch.eye(len(gram), dtype=gram.dtype, device=gram.device), centred.T @ targets / len(inputs)
    )
    guessed = ((features.double() - mean) @ weights + targets.mean(0)).argmax(1)
    return 100 * (guessed != labels).double().mean().item()


def spaced_images(images: Images) -> Images:
    """Those of a set that are looked at: at most MOST, evenly spaced, as sets may be sorted by class."""
    return images[:: max(1, math.ceil(len(images) / MOST))]


def _features(network: Network, modules: Sequence[nn.Module], views: Views) -> tuple[list[Tensor], Tensor]:
    # Of every module's output the means over four quadrants, [N, 4 C] each; and the labels [N].
    kept: list[list[Tensor]] = [[] for _ in modules]

    def keep(k: int, _module: nn.Module, _inputs: tuple[Tensor, ...], output: Tensor) -> None:
        kept[k].append(F.adaptive_avg_pool2d(output.float(), 2).flatten(1))

    handles = [module.register_forward_hook(partial(keep, k)) for k, module in enumerate(modules)]
    shown = views.of(spaced_images(views.images))
    with evaluating(network):
        for x, _ in shown:
            with views.autocast():
                network(x)
    for handle in handles:
        handle.remove()
    return [torch.cat(parts) for parts in kept], shown.images.labels


def information(network: Network, train: Views, views: Views) -> dict[str, dict[str, float]]:
    """Of what leaves the stem and every block (after ReLU, and after the addition where there is one), in eval mode.

    Features are means over the four quadrants of each channel. The linear classifier learns from `train`; everything
    is measured on `views`, of at most MOST images each.

    Returns:
        By the name of the last layer before (as in layer_responses): cosine (mean, between images), rank (effective),
        probe_error (percent, of the linear classifier); NaN where features are not finite.
    """
    names = ["stem", *(f"{name}.conv{block.count}" for name, block in network.blocks().items())]
    modules = [network.pool, *network.blocks().values()]
    (seen, y), (shown, labels) = (_features(network, modules, part) for part in (train, views))
    found = {}
    for name, ours, theirs in zip(names, seen, shown, strict=True):
        told = (math.nan, math.nan, math.nan)
        if ours.isfinite().all() and theirs.isfinite().all():
            told = (mean_cosine(theirs), effective_rank(theirs), linear_probe_error(ours, y, theirs, labels))
        found[name] = dict(zip(("cosine", "rank", "probe_error"), told, strict=True))
    return found
