"""Every network of the paper from one definition, in which only the shortcut differs between the arms of a pair.

He et al., "Deep Residual Learning for Image Recognition" (arXiv 1512.03385): the CIFAR networks of section 4.2 and the
ImageNet networks of Table 1, plain or with shortcut option A, B or C (section 3.3).
"""

import copy
import math
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint
from torch.utils.flop_counter import FlopCounterMode

from degradation.config import Architecture, PadSide


class ZeroPadShortcut(nn.Module):
    """Option A (section 3.3): subsampled identity, zeros for the new channels; no parameters."""

    def __init__(self, in_width: int, out_width: int, stride: int, side: PadSide = "end"):
        super().__init__()
        new = out_width - in_width
        before = new // 2 if side == "both" else 0
        self.stride, self.pad = stride, (before, new - before)

    def forward(self, x: Tensor) -> Tensor:
        return F.pad(x[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, *self.pad))


class ShiftedConv(nn.Conv2d):
    """A convolution of its input plus a learned number, as Fixup has it."""

    def __init__(self, in_width: int, out_width: int, kernel: int, stride: int):
        super().__init__(in_width, out_width, kernel, stride, kernel // 2, bias=False)
        self.shift = nn.Parameter(torch.zeros(1))

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x + self.shift.to(x.dtype))  # else half precision would end here


class Scalars(nn.Module):
    """Fixup's in the place of BN: a learned number is added, before it another multiplied where a branch ends."""

    def __init__(self, ends: bool):
        super().__init__()
        self.scale = nn.Parameter(torch.ones(1)) if ends else None
        self.shift = nn.Parameter(torch.zeros(1))

    def forward(self, x: Tensor) -> Tensor:
        return (x if self.scale is None else x * self.scale.to(x.dtype)) + self.shift.to(x.dtype)


def rectify(x: Tensor, slope: float) -> Tensor:
    """ReLU, in place; of another slope than 0 the tailored rectifier, which keeps the mean square of normal input."""
    if not slope:
        return F.relu(x, inplace=True)
    return math.sqrt(2 / (1 + slope**2)) * F.leaky_relu(x, slope)


def convolve(
    in_width: int,
    out_width: int,
    kernel: int,
    stride: int,
    architecture: Architecture,
    ends: bool = False,
) -> tuple[nn.Conv2d, nn.Module]:
    """A convolution and what normalises it. Where nothing does, the convolution has the bias that BN had.

    Or Fixup's scalars, of which some stand where a residual branch ends.
    """
    if architecture.init == "fixup":
        return ShiftedConv(in_width, out_width, kernel, stride), Scalars(ends)
    convolution = nn.Conv2d(in_width, out_width, kernel, stride, kernel // 2, bias=architecture.norm == "none")
    if architecture.norm == "none":
        return convolution, nn.Identity()
    return convolution, nn.BatchNorm2d(out_width, architecture.bn_eps, architecture.bn_momentum)


class Projection(nn.Sequential):
    """A 1x1 convolution and its BN: option C's shortcuts, and option B's where the shape changes (section 3.3).

    Where the layers have no BN it has none either.
    """


class Block(nn.Module):
    """F(x), or F(x) + alpha shortcut(x), then ReLU (Fig. 2, eq. 1 and 2, where alpha is 1).

    F is a stack of convolutions, each followed by BN, with ReLU between them: two 3x3, or a bottleneck's 1x1, 3x3, 1x1.
    Maps [N, in_width, H, W] to [N, out_width, H / stride, W / stride].
    """

    def __init__(self, in_width: int, width: int, stride: int, architecture: Architecture):
        super().__init__()
        layers = architecture.plan.layers
        strided = 1 if len(layers) == 3 and architecture.stride_in == "3x3" else 0
        into, self.count, self.recompute = in_width, len(layers), False
        for k, (kernel, multiple) in enumerate(layers):
            out = multiple * width
            placed = stride if k == strided else 1
            ends = k == len(layers) - 1
            convolution, norm = convolve(into, out, kernel, placed, architecture, ends)
            self.add_module(f"conv{k + 1}", convolution)
            self.add_module(f"bn{k + 1}", norm)
            into = out
        self.alpha, self.slope = architecture.alpha, architecture.slope
        self.keeps_shape = stride == 1 and in_width == into
        self.shortcut: nn.Module | None
        match architecture.shortcut:
            case "none":
                self.shortcut = None
            case "A" | "B" if self.keeps_shape:
                self.shortcut = nn.Identity()
            case "A":
                self.shortcut = ZeroPadShortcut(in_width, into, stride, architecture.pad_side)
            case "B" | "C":
                self.shortcut = Projection(*convolve(in_width, into, 1, stride, architecture))

    @property
    def layers(self) -> list[tuple[nn.Conv2d, nn.Module]]:
        """The convolutions of F, each with what normalises it."""
        return [(getattr(self, f"conv{k}"), getattr(self, f"bn{k}")) for k in range(1, self.count + 1)]

    def respond(self, x: Tensor) -> Tensor:
        y = x
        for k, (convolution, norm) in enumerate(self.layers):
            y = norm(convolution(rectify(y, self.slope) if k else y))
        if self.shortcut is not None:
            y = y + (self.shortcut(x) if self.alpha == 1 else self.alpha * self.shortcut(x))
        return rectify(y, self.slope)

    def forward(self, x: Tensor) -> Tensor:
        if not (self.recompute and self.training):
            return self.respond(x)

        def contexts() -> tuple[AbstractContextManager[None], AbstractContextManager[None]]:
            return nullcontext(), without_statistics(self)

        # Activation checkpointing: the input alone is kept, and the rest is computed again in the backward pass.
        return checkpoint(self.respond, x, use_reentrant=False, preserve_rng_state=False, context_fn=contexts)


@contextmanager
def without_statistics(module: nn.Module) -> Iterator[None]:
    """Within it, a module in training mode leaves BN's moving averages as they are: its batch is not to be counted."""
    # Not by track_running_stats=False: autograd compares what both passes save, and would find fewer tensors.
    norms = [norm for norm in module.modules() if isinstance(norm, nn.BatchNorm2d)]
    before = [(norm.momentum, norm.num_batches_tracked) for norm in norms]
    for norm in norms:
        norm.momentum, norm.num_batches_tracked = 0.0, None
    try:
        yield
    finally:
        for norm, (momentum, count) in zip(norms, before, strict=True):
            norm.momentum, norm.num_batches_tracked = momentum, count


class Layer(NamedTuple):
    """A convolution outside of the shortcuts: its name, its stage (from 1; 0 for the stem) and what normalises it."""

    name: str
    stage: int
    convolution: nn.Conv2d
    norm: nn.Module


def delta_orthogonal_(weight: Tensor, generator: torch.Generator) -> None:
    """Zero but at the kernel's centre, which is an orthogonal matrix that keeps the mean square of the channels.

    Xiao et al., "Dynamical Isometry and a Mean Field Theory of CNNs" (arXiv 1806.05393).
    """
    out, into, kernel, _ = weight.shape
    centre = nn.init.orthogonal_(weight.new_empty(out, into), max(1.0, math.sqrt(out / into)), generator)
    weight.zero_()[:, :, kernel // 2, kernel // 2] = centre


class Network(nn.Module):
    """A plain or residual network, as its architecture says: images [N, 3, H, W] to logits [N, classes].

    Equal seeds give equal tensors whatever the shortcut: its projections are drawn last.
    """

    def __init__(self, architecture: Architecture, seed: int = 0):
        super().__init__()
        self.architecture = architecture
        plan, width = architecture.plan, architecture.width
        self.stem, self.bn = convolve(3, width, *plan.stem, architecture)
        padded = architecture.pool == "padded"
        self.pool = nn.MaxPool2d(3, 2, padding=int(padded), ceil_mode=not padded) if plan.pool else nn.Identity()
        self.stages: Any = nn.ModuleList()  # of Sequential of Block, which torch's types cannot say
        into = width
        for s, count in enumerate(plan.blocks):
            stage = nn.Sequential()
            for b in range(count):
                stage.append(Block(into, 2**s * width, 2 if s and not b else 1, architecture))
                into = plan.layers[-1][1] * 2**s * width
            self.stages.append(stage)
        self.head = nn.Linear(into, architecture.classes)
        self.initialise(torch.Generator().manual_seed(seed))

    @torch.no_grad()
    def initialise(self, generator: torch.Generator) -> None:
        """He initialisation (section 3.4), biases zero; projections last, so that matched twins stay equal."""
        layers = [(name, m) for name, m in self.named_modules() if isinstance(m, nn.Conv2d | nn.Linear)]
        for _, layer in sorted(layers, key=lambda named: ".shortcut." in named[0]):
            mode = self.architecture.fan_mode if isinstance(layer, nn.Conv2d) else "fan_in"
            nn.init.kaiming_normal_(layer.weight, mode=mode, nonlinearity="relu", generator=generator)
            if layer is self.head and self.architecture.head == "uniform":
                nn.init.kaiming_uniform_(layer.weight, math.sqrt(5), generator=generator)
            if layer.bias is not None:
                layer.bias.zero_()
        self._reshape(generator)

    def _reshape(self, generator: torch.Generator) -> None:
        # What other initialisations than He's make of his draws; the study without_shortcuts says what they are for.
        body = [layer.convolution.weight for layer in self.layers()[1:]]
        match self.architecture.init:
            case "dirac":  # DiracNets (arXiv 1706.00388): identity, plus filters of norm 0.1
                for weight in body:
                    noise = 0.1 * F.normalize(weight.flatten(1)).view_as(weight)
                    nn.init.dirac_(weight).add_(noise)
            case "looks_linear":  # Balduzzi et al. (arXiv 1702.08591): channels in pairs, each the other's negative
                for weight in body:
                    quarter = weight[: len(weight) // 2, : weight.shape[1] // 2]
                    delta_orthogonal_(quarter, generator)
                    weight.copy_(torch.cat([torch.cat([quarter, -quarter], 1), torch.cat([-quarter, quarter], 1)]))
                for weight in (self.stem.weight, self.head.weight.T):
                    weight[len(weight) // 2 :] = -weight[: len(weight) // 2]
            case "orthogonal":
                for weight in (self.stem.weight, *body):
                    delta_orthogonal_(weight, generator)
                    if not self.architecture.slope:
                        weight.mul_(math.sqrt(2))  # as He's, for the half that ReLU takes
            case "fixup":  # Zhang et al. (arXiv 1901.09321): branches end, and the head begins, at zero
                blocks = self.blocks().values()
                for block in blocks:
                    *others, (last, _) = block.layers
                    for convolution, _ in others:
                        convolution.weight.mul_(len(blocks) ** (-1 / (2 * block.count - 2)))
                    nn.init.zeros_(last.weight)
                nn.init.zeros_(self.head.weight)

    def forward(self, x: Tensor) -> Tensor:
        x = self.pool(rectify(self.bn(self.stem(x)), self.architecture.slope))
        for stage in self.stages:
            x = stage(x)
        return self.head(x.mean((2, 3)))

    def blocks(self) -> dict[str, Block]:
        """Name -> block, such as stage1.block1, in order of depth."""
        return {
            f"stage{s}.block{b}": block for s, stage in enumerate(self.stages, 1) for b, block in enumerate(stage, 1)
        }

    def layers(self) -> list[Layer]:
        """Every layer whose output is a response (Fig. 7), in order of depth: all convolutions but the shortcuts'."""
        found = [Layer("stem", 0, self.stem, self.bn)]
        for s, stage in enumerate(self.stages, 1):
            for b, block in enumerate(stage, 1):
                named = enumerate(block.layers, 1)
                found += [Layer(f"stage{s}.block{b}.conv{k}", s, *layer) for k, layer in named]
        return found

    def twin(self) -> "Network":
        """A copy to measure: what is done to it is not done to the network. Never compiled, nothing recomputed."""
        twin = copy.deepcopy(self)
        for block in twin.blocks().values():
            block.recompute = False
        return twin


def parameter_count(network: nn.Module) -> int:
    """Trainable parameters (Table 6, column # params)."""
    return sum(p.numel() for p in network.parameters() if p.requires_grad)


def multiply_adds(architecture: Architecture, side: int | None = None) -> int:
    """Multiply-adds of one forward pass over one image, as the paper counts them (torch counts two).

    Its side is of so many pixels; the paper's 32 (CIFAR) or 224 (ImageNet) unless given.
    """
    network, side = Network(architecture).to("meta").eval(), side or architecture.plan.image
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        network(torch.empty(1, 3, side, side, device="meta"))
    return counter.get_total_flops() // 2
