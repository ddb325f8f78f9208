"""What is measured of a network besides its running training error: pure functions of a network and images."""

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim.swa_utils import update_bn

from degradation.data.images import ImageSet, Normalizer
from degradation.net.network import Network, call_block, without_statistics

Autocast = Callable[[], torch.autocast]


def _no_autocast() -> torch.autocast:
    return torch.autocast("cpu", enabled=False)


def views(
    data: ImageSet, normalize: Normalizer, batch_size: int = 500, channels_last: bool = True
) -> Iterator[tuple[Tensor, Tensor]]:
    """Every image once, in order, un-augmented: float32 [B, 3, H, W] and labels [B]."""
    layout = torch.channels_last if channels_last else torch.contiguous_format
    for images, labels in zip(data.images.split(batch_size), data.labels.split(batch_size), strict=True):
        yield normalize(images).contiguous(memory_format=layout), labels


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
    with evaluating(network):
        for x, y in views(data, normalize, batch_size, channels_last):
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
    run_block = getattr(network, "run_block", call_block)
    try:
        network.run_block = call_block  # type: ignore[assignment]  # momentum changes every batch: never compiled
        with autocast():
            update_bn((x for x, _ in views(whole, normalize, batch_size, channels_last)), network)
        network.train(training)
        network.run_block = run_block  # type: ignore[assignment]
        yield
    finally:
        network.train(training)
        network.run_block = run_block  # type: ignore[assignment]
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
        One row per layer in order of depth: layer (from 1, the stem), name, stage (0 for the stem), std, mean,
        gamma_rms and beta_rms, the root mean squares of BN's gamma and beta. Gamma's is the std that training-mode
        statistics would give, up to the spread of beta over channels.
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
        with evaluating(network):
            for x, _ in views(data, normalize, batch_size, channels_last):
                with autocast():
                    network(x)
    finally:
        for handle in handles:
            handle.remove()
    rows: list[dict[str, object]] = []
    for number, (name, layer) in enumerate(layers.items(), 1):
        mean, square = (totals[name] / counts[name]).tolist()
        gamma, beta = (
            (weight.detach().double().square().mean().sqrt().item() for weight in (layer.weight, layer.bias))
            if isinstance(layer, nn.BatchNorm2d)
            else (math.nan, math.nan)
        )
        std = math.sqrt(max(square - mean * mean, 0.0))  # in this order, nan stays nan
        rows.append(
            {**_place(number, name), "std": std, "mean": mean, "gamma_rms": gamma, "beta_rms": beta},
        )
    return rows


def _place(number: int, name: str) -> dict[str, object]:
    return {"layer": number, "name": name, "stage": int(name[5]) if name.startswith("stage") else 0}


def layer_gradients(network: Network, x: Tensor, y: Tensor) -> list[dict[str, object]]:
    """The forward and the backward signal of every 3x3 layer on one batch, in training mode and float32 (section 4.1).

    Args:
        x: images float32 [N, 3, H, W], normalised.
        y: labels [N].

    Returns:
        One row per layer in order of depth: layer (from 1, the stem), name, stage (0 for the stem), std of the layer's
        response (after BN, before ReLU or addition), and the L2 norms of the gradient of the mean cross-entropy with
        respect to that response (grad_response) and to the layer's weights (grad_weight). The network, its BN
        statistics and its accumulated gradients are left as they were.
    """
    outputs: dict[str, Tensor] = {}

    def keep(name: str) -> Callable[[nn.Module, tuple[Tensor, ...], Tensor], Tensor]:
        def hook(_module: nn.Module, _inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
            outputs[name] = output
            return output.clone()  # what follows is an in-place ReLU; the response itself must stay

        return hook

    layers, training, run_block = network.responses(), network.training, network.run_block
    handles = [layer.register_forward_hook(keep(name)) for name, layer in layers.items()]
    try:
        network.run_block = call_block
        with without_statistics(network), torch.enable_grad():
            loss = F.cross_entropy(network.train()(x), y)
        weights = [convolution.weight for convolution in network.convolutions().values()]
        found = torch.autograd.grad(loss, [*outputs.values(), *weights])
    finally:
        network.train(training)
        network.run_block = run_block
        for handle in handles:
            handle.remove()
    rows: list[dict[str, object]] = []
    for number, (name, output) in enumerate(outputs.items(), 1):
        response, weight = found[number - 1], found[len(outputs) + number - 1]
        rows.append(
            {
                **_place(number, name),
                "std": output.detach().double().std(correction=0).item(),
                "grad_response": response.double().norm().item(),
                "grad_weight": weight.double().norm().item(),
            }
        )
    return rows
