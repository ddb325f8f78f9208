"""What is measured of a network besides its running training error: pure functions of a network and images."""

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim.swa_utils import update_bn

from degradation.data import ImageSet, Normalizer
from degradation.network import Network

Autocast = Callable[[], torch.autocast]


def _no_autocast() -> torch.autocast:
    return torch.autocast("cpu", enabled=False)


def _views(
    data: ImageSet, normalize: Normalizer, batch_size: int, channels_last: bool
) -> Iterator[tuple[Tensor, Tensor]]:
    layout = torch.channels_last if channels_last else torch.contiguous_format
    for images, labels in zip(data.images.split(batch_size), data.labels.split(batch_size), strict=True):
        yield normalize(images).contiguous(memory_format=layout), labels


@contextmanager
def _evaluating(network: nn.Module) -> Iterator[None]:
    training = network.training
    network.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        network.train(training)


def evaluate(
    network: nn.Module,
    data: ImageSet,
    normalize: Normalizer,
    batch_size: int = 500,
    autocast: Autocast = _no_autocast,
    channels_last: bool = True,
) -> tuple[float, float]:
    """Error (percent) and mean cross-entropy in eval mode on the single un-augmented view (section 4.2)."""
    wrong = torch.zeros((), dtype=torch.int64, device=data.labels.device)
    loss = torch.zeros((), dtype=torch.float64, device=data.labels.device)
    with _evaluating(network):
        for x, y in _views(data, normalize, batch_size, channels_last):
            with autocast():
                logits = network(x)
            wrong += (logits.argmax(1) != y).sum()
            loss += F.cross_entropy(logits.float(), y, reduction="sum").double()
    return 100 * wrong.item() / len(data), loss.item() / len(data)


@contextmanager
def exact_batchnorm(
    network: nn.Module,
    train: ImageSet,
    normalize: Normalizer,
    batch_size: int = 500,
    autocast: Autocast = _no_autocast,
    channels_last: bool = True,
) -> Iterator[None]:
    """Within it, BN statistics are averages over the whole un-augmented training set (the authors' notes).

    Averages of the statistics of whole batches, as training uses them: `batch_size` is the protocol's, and the images
    of a last partial batch are left out, so that every batch weighs the same. The moving averages are restored at the
    end, so that training goes on as if nothing had been measured.
    """
    buffers = {name: buffer.clone() for name, buffer in network.named_buffers()}
    training = network.training
    whole = train[: len(train) - len(train) % batch_size]
    try:
        with autocast():
            update_bn((x for x, _ in _views(whole, normalize, batch_size, channels_last)), network)
        network.train(training)
        yield
    finally:
        network.train(training)
        for name, buffer in network.named_buffers():
            buffer.copy_(buffers[name])


def layer_responses(
    network: Network,
    data: ImageSet,
    normalize: Normalizer,
    batch_size: int = 500,
    autocast: Autocast = _no_autocast,
    channels_last: bool = True,
) -> list[dict[str, object]]:
    """The std of every 3x3 layer's response: after BN, before ReLU or addition, in eval mode (Fig. 7).

    Pooled exactly over images, positions and channels: one pass, counts, sums and squares in float64.

    Returns:
        One row per layer in order of depth: layer (from 1, the stem), name, stage (0 for the stem), std, mean, and
        gamma_rms, the root mean square of BN's gamma, which is the std that training-mode statistics would give
        (up to the spread of beta).
    """
    layers = network.responses()
    totals = {name: torch.zeros(2, dtype=torch.float64, device=data.labels.device) for name in layers}
    counts = dict.fromkeys(layers, 0)

    def hook(name: str) -> Callable[[nn.Module, tuple[Tensor, ...], Tensor], None]:
        def add(_module: nn.Module, _inputs: tuple[Tensor, ...], output: Tensor) -> None:
            wide = output.double()
            totals[name] += torch.stack([wide.sum(), wide.square().sum()])
            counts[name] += output.numel()

        return add

    handles = [layer.register_forward_hook(hook(name)) for name, layer in layers.items()]
    try:
        with _evaluating(network):
            for x, _ in _views(data, normalize, batch_size, channels_last):
                with autocast():
                    network(x)
    finally:
        for handle in handles:
            handle.remove()
    rows: list[dict[str, object]] = []
    for number, (name, layer) in enumerate(layers.items(), 1):
        mean, square = (totals[name] / counts[name]).tolist()
        stage = int(name[5]) if name.startswith("stage") else 0
        gamma = layer.weight.detach().double().square().mean().sqrt().item()
        std = math.sqrt(max(0.0, square - mean * mean))
        rows.append({"layer": number, "name": name, "stage": stage, "std": std, "mean": mean, "gamma_rms": gamma})
    return rows
