"""What the layers of a network put out, and what gradients reach them: pure functions of a network and images."""

import math
from collections.abc import Sequence
from functools import partial
from itertools import islice

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from degradation.net.network import Block, Layer, Network
from degradation.probe.views import Views, evaluating, make_autocast

Rows = list[dict[str, int | float | str]]
AT_ONCE = 2**26  # numbers of an output that are widened to float64 at a time: half a gigabyte


def moments(
    twin: Network, modules: Sequence[nn.Module], views: Views, over: tuple[int, ...] | None = None
) -> list[Tensor]:
    """Mean and mean square of what each module of a twin puts out, in eval mode: one pass, float64, exactly pooled.

    One [2, ...] per module, with the dimensions of its output that are not pooled; None pools all. Leaves hooks.
    """
    totals = [torch.zeros((), dtype=torch.float64, device=views.device) for _ in modules]
    counts = [0] * len(modules)

    def add(k: int, _module: nn.Module, _inputs: tuple[Tensor, ...], output: Tensor) -> None:
        for part in output.split(max(1, AT_ONCE * len(output) // output.numel())):
            wide = part.double()
            total = torch.stack([wide.sum(over), wide.square().sum(over)])
            totals[k] = totals[k] + total
            counts[k] += part.numel() // total[0].numel()

    for k, module in enumerate(modules):
        module.register_forward_hook(partial(add, k))
    with evaluating(twin):
        for x, _ in views:
            with views.autocast():
                twin(x)
    return [total / count for total, count in zip(totals, counts, strict=True)]


def by_stage(network: Network) -> list[dict[str, Block]]:
    """Name -> block, stage by stage, in order of depth."""
    named = iter(network.blocks().items())
    return [dict(islice(named, len(stage))) for stage in network.stages]


def _place(number: int, layer: Layer) -> dict[str, int | float | str]:
    return {"layer": number, "name": layer.name, "stage": layer.stage}


def layer_responses(network: Network, views: Views) -> Rows:
    """The std of every layer's response: after BN, before ReLU or addition, in eval mode (Fig. 7).

    Pooled exactly over images, positions and channels.

    Returns:
        One row per layer in order of depth: layer (from 1, the stem), name, stage (0 for the stem), std, mean,
        gamma_rms and beta_rms, the root mean squares of BN's gamma and beta (nan where there is no BN). Gamma's is
        the std that training-mode statistics would give, up to the spread of beta over channels.
    """
    twin = network.twin()
    layers = twin.layers()
    pooled = moments(twin, [layer.norm for layer in layers], views)
    rows = []
    for number, (layer, moment) in enumerate(zip(layers, pooled, strict=True), 1):
        mean, square = moment.tolist()
        gamma, beta = (
            (weight.detach().double().square().mean().sqrt().item() for weight in (layer.norm.weight, layer.norm.bias))
            if isinstance(layer.norm, nn.BatchNorm2d)
            else (math.nan, math.nan)
        )
        std = math.sqrt(max(square - mean * mean, 0.0))  # in this order, nan stays nan
        rows.append({**_place(number, layer), "std": std, "mean": mean, "gamma_rms": gamma, "beta_rms": beta})
    return rows


def layer_gradients(network: Network, x: Tensor, y: Tensor) -> Rows:
    """The forward and the backward signal of every layer on one batch, in training mode and float32 (section 4.1).

    BN takes its statistics over all of it: show a part of a batch where training takes them over parts.

    Returns:
        One row per layer in order of depth: layer (from 1, the stem), name, stage (0 for the stem), std of the layer's
        response (after BN, before ReLU or addition), the L2 norms of the gradient of the mean cross-entropy with
        respect to that response (grad_response) and to the layer's weights (grad_weight), and of these (weight_norm).
        Before BN the scale of weights means nothing, and their gradient goes as its inverse: what compares is
        grad_weight times weight_norm, and the relative update, rate times grad_weight over weight_norm.
    """
    twin = network.twin().train()
    layers, outputs = twin.layers(), list[Tensor]()

    def keep(_module: nn.Module, _inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
        outputs.append(output)
        return output.clone()  # what follows is an in-place ReLU; the response itself must stay

    for layer in layers:
        layer.norm.register_forward_hook(keep)
    with torch.enable_grad(), make_autocast(x.device.type, "fp32"):
        loss = F.cross_entropy(twin(x), y)
        found = torch.autograd.grad(loss, [*outputs, *(layer.convolution.weight for layer in layers)])
    return [
        {
            **_place(number, layer),
            "std": output.detach().double().std(correction=0).item(),
            "grad_response": response.double().norm().item(),
            "grad_weight": weight.double().norm().item(),
            "weight_norm": layer.convolution.weight.detach().double().norm().item(),
        }
        for number, (layer, output, response, weight) in enumerate(
            zip(layers, outputs, found[: len(layers)], found[len(layers) :], strict=True), 1
        )
    ]
