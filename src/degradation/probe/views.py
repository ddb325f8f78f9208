"""What a network is shown to be measured, as one object, and the two measurements that every run needs."""

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim.swa_utils import update_bn

from degradation.data.images import ImageSet, Pictures
from degradation.data.resident import Normalizer
from degradation.net.network import Network


@contextmanager
def make_autocast(device: str, precision: str) -> Iterator[None]:
    """The context in which a forward pass has that precision; backward passes of bf16 belong outside of it."""
    # Several optimiser steps share one training_step: a cache of cast weights would go stale after the first.
    autocast = torch.autocast(device, torch.bfloat16, enabled=precision == "bf16", cache_enabled=False)
    switches: tuple[Any, Any] = (torch.backends.cuda.matmul, torch.backends.cudnn)
    were = [switch.allow_tf32 for switch in switches]  # as machine.apply set them: a run in TF32 measures in float32
    try:
        for switch in switches:
            switch.allow_tf32 = precision == "tf32"
        with autocast:
            yield
    finally:
        for switch, was in zip(switches, were, strict=True):
            switch.allow_tf32 = was


def layout(channels_last: bool) -> torch.memory_format:
    """Of images and weights in memory."""
    return torch.channels_last if channels_last else torch.contiguous_format


@dataclass(frozen=True)
class Views:
    """Every image of a set once, in order, un-augmented (the single view of section 4.2), and in which precision.

    Iterating gives batches: float32 [B, 3, H, W], normalised, and labels [B]; the last may be smaller.
    """

    images: ImageSet | Pictures  # on the device where networks are measured
    normalize: Normalizer
    batch_size: int = 500
    precision: str = "fp32"
    channels_last: bool = True

    @property
    def device(self) -> torch.device:
        return self.images.labels.device

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        for batch in self.images.batches(self.batch_size):
            yield self.normalize(batch.images).contiguous(memory_format=layout(self.channels_last)), batch.labels

    def of(self, images: ImageSet | Pictures) -> "Views":
        """Of another set, the rest the same."""
        return replace(self, images=images)

    def autocast(self) -> AbstractContextManager[None]:
        return make_autocast(self.device.type, self.precision)


@contextmanager
def evaluating(network: nn.Module) -> Iterator[None]:
    """Within it, a network is in eval mode and no gradients are kept."""
    training = network.training
    network.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        network.train(training)


def evaluate(network: nn.Module, views: Views) -> tuple[float, float]:
    """Error (percent) and mean cross-entropy in eval mode on the single un-augmented view (section 4.2)."""
    wrong = torch.zeros((), dtype=torch.int64, device=views.device)
    loss = torch.zeros((), dtype=torch.float64, device=views.device)
    with evaluating(network):
        for x, y in views:
            with views.autocast():
                logits = network(x)
            wrong += (logits.argmax(1) != y).sum()
            loss += F.cross_entropy(logits.float(), y, reduction="sum").double()
    return 100 * wrong.item() / len(views.images), loss.item() / len(views.images)


def find_wrong(network: nn.Module, views: Views) -> list[int]:
    """Which images, counted from 0 in their order, the network classifies wrongly, measured as `evaluate` does."""
    with evaluating(network):
        wrong = []
        for x, y in views:
            with views.autocast():
                wrong.append(network(x).argmax(1) != y)
    return torch.cat(wrong).nonzero().flatten().tolist()


def exact_batchnorm(network: Network, views: Views) -> Network:
    """A twin of a network whose BN statistics are averages over all images, un-augmented (the authors' notes).

    Averages of the statistics of whole batches, as training uses them: `views.batch_size` is the protocol's, and the
    images of a last partial batch are left out, so that every batch weighs the same. Fewer than a batch are one.
    """
    views = replace(views, batch_size=min(views.batch_size, len(views.images)))
    twin, whole = network.twin(), len(views.images) - len(views.images) % views.batch_size
    with views.autocast():
        update_bn((x for x, _ in views.of(views.images[:whole])), twin)
    return twin
