"""Plain and residual CIFAR networks of depth 6n+2: one definition, in which only the shortcut differs.

He et al., "Deep Residual Learning for Image Recognition" (arXiv 1512.03385), section 4.2: a 3x3 stem, three
stages of n blocks with two 3x3 convolutions each, global average pooling and a fully connected layer.
"""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint
from torch.utils.flop_counter import FlopCounterMode

Shortcut = Literal["none", "A", "B", "C"]
PadSide = Literal["end", "both"]
FanMode = Literal["fan_in", "fan_out"]
Norm = Literal["batch", "none"]


def blocks_per_stage(depth: int) -> int:
    """The n of a depth 6n+2 (section 4.2).

    Raises:
        ValueError: the depth is not of that form; the message names the nearest that are.
    """
    if depth >= 8 and (depth - 2) % 6 == 0:
        return (depth - 2) // 6
    below = max(8, 6 * ((depth - 2) // 6) + 2)
    nearby = f"depth is {below}" if depth < 8 else f"depths are {below} and {below + 6}"
    raise ValueError(
        f"depth={depth} is not of the form 6n+2; the nearest such {nearby} (the paper uses 20, 32, 44, 56, 110, 1202)"
    )


class ZeroPadShortcut(nn.Module):
    """Option A (section 3.3): subsampled identity, zeros for the new channels; no parameters."""

    def __init__(self, in_width: int, out_width: int, stride: int, side: PadSide = "end"):
        super().__init__()
        new = out_width - in_width
        before = new // 2 if side == "both" else 0
        self.stride, self.pad = stride, (before, new - before)

    def forward(self, x: Tensor) -> Tensor:
        return F.pad(x[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, *self.pad))


def build_shortcut(
    option: Shortcut, in_width: int, out_width: int, stride: int, side: PadSide = "end"
) -> nn.Module | None:
    """The shortcut of one block, or None where the network is plain (section 3.3, options A, B and C)."""
    if option == "none":
        return None
    changes_shape = stride != 1 or in_width != out_width
    if option == "C" or (option == "B" and changes_shape):
        return nn.Sequential(nn.Conv2d(in_width, out_width, 1, stride, bias=False), nn.BatchNorm2d(out_width))
    return ZeroPadShortcut(in_width, out_width, stride, side) if changes_shape else nn.Identity()


def _convolve(in_width: int, out_width: int, stride: int, norm: Norm) -> tuple[nn.Conv2d, nn.Module]:
    # A 3x3 convolution and what normalises it. Where nothing does, the convolution has the bias that BN had.
    convolution = nn.Conv2d(in_width, out_width, 3, stride, padding=1, bias=norm == "none")
    return convolution, nn.BatchNorm2d(out_width) if norm == "batch" else nn.Identity()


class Block(nn.Module):
    """Two 3x3 convolutions, each followed by batch normalisation: F(x), and F(x) + alpha shortcut(x) if residual.

    Maps [N, in_width, H, W] to [N, out_width, H / stride, W / stride] (Fig. 2, eq. 1 and 2, where alpha is 1).
    """

    def __init__(
        self,
        in_width: int,
        out_width: int,
        stride: int,
        option: Shortcut,
        side: PadSide = "end",
        alpha: float = 1.0,
        norm: Norm = "batch",
    ):
        super().__init__()
        self.conv1, self.bn1 = _convolve(in_width, out_width, stride, norm)
        self.conv2, self.bn2 = _convolve(out_width, out_width, 1, norm)
        self.alpha = alpha
        self.shortcut = build_shortcut(option, in_width, out_width, stride, side)

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu(self.bn1(self.conv1(x)), inplace=True)
        y = self.bn2(self.conv2(y))
        if self.shortcut is not None:
            y = y + (self.shortcut(x) if self.alpha == 1 else self.alpha * self.shortcut(x))
        return F.relu(y, inplace=True)


def call_block(block: Block, x: Tensor) -> Tensor:
    """How a network runs a block unless told otherwise."""
    return block(x)


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


def recompute_block(block: Block, x: Tensor) -> Tensor:
    """Activation checkpointing: keep a block's input alone and compute the rest again in the backward pass.

    Gradients and BN statistics are those of `call_block`; memory per block falls from its five activations to one.
    """

    def contexts() -> tuple[AbstractContextManager[None], AbstractContextManager[None]]:
        return nullcontext(), without_statistics(block)

    return checkpoint(block, x, use_reentrant=False, preserve_rng_state=False, context_fn=contexts)


def compile_block() -> Callable[[Block, Tensor], Tensor]:
    """`call_block` through torch.compile. By block, not the whole network: blocks of equal shape share their code."""
    torch._dynamo.config.recompile_limit = max(torch._dynamo.config.recompile_limit, 64)  # one variant per shape
    return torch.compile(call_block, dynamic=False)


class Network(nn.Module):
    """A plain (`shortcut="none"`) or residual ("A", "B", "C") CIFAR network of depth 6n+2 (section 4.2).

    Input [N, 3, H, W] (32x32 in the paper), output logits [N, classes].

    Args:
        depth: weighted layers, 6n+2.
        shortcut: the one thing in which the arms of a matched pair differ.
        width: channels of the first stage; the stages have width, 2 width and 4 width.
        classes: outputs.
        pad_side: where option A puts the zero channels, "end" or "both" sides (the paper does not say).
        fan_mode: of He's initialisation, "fan_in" or "fan_out" (the paper does not say).
        alpha: strength of the shortcut; 1 in the paper, 0 makes a residual network a plain one.
        norm: "batch" after every 3x3 convolution, or "none", with a bias in its place (beyond the paper).
        seed: of the initial weights. Equal seeds give equal tensors whatever the shortcut: projections draw last.

    Raises:
        ValueError: a depth not of the form 6n+2, or an argument outside its range.
    """

    def __init__(
        self,
        depth: int,
        shortcut: Shortcut,
        width: int = 16,
        classes: int = 10,
        pad_side: PadSide = "end",
        fan_mode: FanMode = "fan_in",
        seed: int = 0,
        alpha: float = 1.0,
        norm: Norm = "batch",
    ):
        super().__init__()
        n = blocks_per_stage(depth)
        for name, value, allowed in [
            ("shortcut", shortcut, ("none", "A", "B", "C")),
            ("pad_side", pad_side, ("end", "both")),
            ("fan_mode", fan_mode, ("fan_in", "fan_out")),
            ("norm", norm, ("batch", "none")),
        ]:
            if value not in allowed:
                raise ValueError(f"{name}={value} is not one of {', '.join(allowed)}")
        if width < 1 or classes < 1:
            raise ValueError(f"width={width} and classes={classes} must be at least 1")
        self.depth = depth
        # What else it takes to build another of the family, such as a deeper one.
        self.settings: dict[str, Any] = {
            "shortcut": shortcut,
            "width": width,
            "classes": classes,
            "pad_side": pad_side,
            "alpha": alpha,
            "norm": norm,
        }
        self.run_block: Callable[[Block, Tensor], Tensor] = call_block
        self.stem, self.bn = _convolve(3, width, 1, norm)
        widths = [width, width, 2 * width, 4 * width]
        self.stages = nn.ModuleList(
            nn.Sequential(
                *(
                    Block(
                        widths[s] if b == 0 else widths[s + 1],
                        widths[s + 1],
                        2 if s and b == 0 else 1,
                        shortcut,
                        pad_side,
                        alpha,
                        norm,
                    )
                    for b in range(n)
                )
            )
            for s in range(3)
        )
        self.head = nn.Linear(widths[3], classes)
        self.initialise(fan_mode, torch.Generator().manual_seed(seed))

    @torch.no_grad()
    def initialise(self, fan_mode: FanMode, generator: torch.Generator) -> None:
        """He initialisation (section 3.4), biases zero; projections last, so that matched twins stay equal."""
        layers = [m for m in self.modules() if isinstance(m, nn.Conv2d | nn.Linear)]
        is_projection = lambda m: isinstance(m, nn.Conv2d) and m.kernel_size == (1, 1)  # noqa: E731
        for layer in sorted(layers, key=is_projection):
            mode = fan_mode if isinstance(layer, nn.Conv2d) else "fan_in"
            nn.init.kaiming_normal_(layer.weight, mode=mode, nonlinearity="relu", generator=generator)
            if layer.bias is not None:
                layer.bias.zero_()

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.bn(self.stem(x)), inplace=True)
        for block in self.blocks().values():
            x = self.run_block(block, x) if self.training else block(x)
        return self.head(x.mean((2, 3)))

    def blocks(self) -> dict[str, Block]:
        """Name -> block, in order of depth; 3n of them."""
        found = {}
        for s, stage in enumerate(self.stages, 1):
            assert isinstance(stage, nn.Sequential)
            for b, block in enumerate(stage, 1):
                assert isinstance(block, Block)
                found[f"stage{s}.block{b}"] = block
        return found

    def convolutions(self) -> dict[str, nn.Conv2d]:
        """Name -> 3x3 convolution, in order of depth; the names are those of `responses`."""
        named = {"stem": self.stem}
        for name, block in self.blocks().items():
            named |= {f"{name}.conv1": block.conv1, f"{name}.conv2": block.conv2}
        return named

    def responses(self) -> dict[str, nn.Module]:
        """Name -> the BN whose output is the response of a 3x3 layer, in order of depth; 6n+1 of them (Fig. 7)."""
        named = {"stem": self.bn}
        for name, block in self.blocks().items():
            named |= {f"{name}.conv1": block.bn1, f"{name}.conv2": block.bn2}
        return named


def parameter_count(network: nn.Module) -> int:
    """Trainable parameters (Table 6, column # params)."""
    return sum(p.numel() for p in network.parameters() if p.requires_grad)


def multiply_adds(depth: int, shortcut: Shortcut, width: int = 16, classes: int = 10) -> int:
    """Multiply-adds of one forward pass over one 32x32 image, as the paper counts them (torch counts two)."""
    network = Network(depth, shortcut, width, classes).to("meta").eval()
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        network(torch.empty(1, 3, 32, 32, device="meta"))
    return counter.get_total_flops() // 2
