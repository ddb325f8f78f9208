"""The Lightning module: one shared training step for both arms, several iterations per `training_step`."""

import math
from collections.abc import Callable, Iterator

import pytorch_lightning as pl
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from degradation.config import MachineConfig, ProtocolConfig
from degradation.data.resident import BatchStream
from degradation.data.streamed import StreamedBatches
from degradation.net.network import Network
from degradation.probe.views import make_autocast

RAMP_FROM = 1e-4


def warmup_ends(errors: float, images: int, until_error: float) -> bool:
    """Whether the running training error over a window (wrong `errors` of `images`) is under `until_error` percent.

    The window must be many batches: one lucky mini-batch is under 80 % long before the network is.
    """
    return 100 * errors / images < until_error


class DivergedError(Exception):
    """The training loss is no longer finite."""


class CapturedStep:
    """Replays a step as one CUDA graph: no Python and no kernel launches of its own in the loop.

    The step must read and write the same device memory every time, and ask the device nothing. Its first calls run
    as they are, on a side stream as capture wants it (PyTorch, "CUDA semantics"), and count; so do batches of another
    size than `size`, such as the partial one at the end of an epoch.
    """

    WARM_UP = 3

    def __init__(self, step: Callable[[int], None], size: int):
        self.step, self.size, self.calls = step, size, 0
        self.graph: torch.cuda.CUDAGraph | None = None
        self.side = torch.cuda.Stream()

    def __call__(self, size: int) -> None:
        if size != self.size:
            self.step(size)
        elif self.calls < self.WARM_UP:
            self.calls += 1
            self.side.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(self.side):
                self.step(size)
            torch.cuda.current_stream().wait_stream(self.side)
        else:
            if self.graph is None:
                self.graph = torch.cuda.CUDAGraph()
                # Of this thread alone: that which pins the next batch of a stream may allocate meanwhile.
                with torch.cuda.graph(self.graph, capture_error_mode="thread_local"):
                    self.step(size)
            self.graph.replay()


class DegradationModule(pl.LightningModule):
    """Trains a network by SGD on a batch stream (section 4.2); the same code for plain and residual networks.

    State beyond network and optimiser, all of it in Lightning's checkpoint: the iteration (optimiser steps done), when
    the warm-up ended, and the running errors since the last log row and in the current warm-up window.
    """

    running: Tensor
    lr: Tensor

    def __init__(
        self,
        network: Network,
        stream: BatchStream | StreamedBatches,
        protocol: ProtocolConfig,
        machine: MachineConfig,
        warmup_lr: float | None = None,
    ):
        super().__init__()
        self.automatic_optimization = False
        self.network, self.stream, self.protocol = network, stream, protocol
        self.machine, self.warmup_lr, self.iteration = machine, warmup_lr, 0
        self.warmup_ended_at: int | None = None
        torch._dynamo.config.recompile_limit = max(torch._dynamo.config.recompile_limit, 64)  # one variant per shape
        for block in network.blocks().values():
            block.recompute = machine.activation_checkpointing
            if machine.execution == "compiled":  # by block: those of equal shape share their code
                block.compile(dynamic=False)
        # Sums since the last log row (loss, wrong, images), and wrong and images of the warm-up window.
        self.register_buffer("running", torch.zeros(5, dtype=torch.float64))
        # The rate where the device reads it, so that a captured step need not be captured again when it changes.
        self.register_buffer("lr", torch.zeros(()), persistent=False)
        self.lr_set = math.nan
        self.step: Callable[[int], None] | None = None
        self.velocities: Callable[[], list[Tensor]] = list
        held = [m.weight for m in network.modules() if isinstance(m, nn.Conv2d)] if protocol.hold_norms else []
        self.held = [(weight, weight.detach().norm().item()) for weight in held]  # as drawn, before any is loaded

    def configure_optimizers(self) -> torch.optim.Optimizer:
        p, parameters = self.protocol, list(self.network.parameters())
        free = [] if p.decay_batchnorm else [parameter for parameter in parameters if parameter.ndim == 1]
        decayed = [parameter for parameter in parameters if parameter.ndim > 1 or p.decay_batchnorm]
        groups = [{"params": decayed, "weight_decay": p.weight_decay}, {"params": free, "weight_decay": 0.0}]
        return torch.optim.SGD(groups[: 1 + bool(free)], lr=p.lr, momentum=p.momentum, fused=True)

    def lr_at(self, iteration: int) -> float:
        """The rate used at an iteration, counted from 0, of which `decay` takes its part at each milestone.

        Section 4.2: 110 layers start at 0.01 (`warmup_lr`) "until the training error is below 80%". With a `ramp` the
        rate rises linearly, from RAMP_FROM of it.
        """
        warming = self.warmup_ended_at is None or iteration < self.warmup_ended_at
        base = self.warmup_lr if warming and self.warmup_lr is not None else self.protocol.lr
        if self.protocol.ramp:
            risen = min(1.0, iteration / (self.protocol.ramp * self.protocol.iterations))
            base *= RAMP_FROM + (1 - RAMP_FROM) * risen
        return base * self.protocol.decay ** sum(iteration >= milestone for milestone in self.protocol.milestones)

    def transfer_batch_to_device(self, batch: range, *_: object) -> range:
        return batch  # a range of iterations; the images are on the device already

    def on_train_start(self) -> None:
        optimizer = self.optimizers(use_pl_optimizer=False)
        assert isinstance(optimizer, torch.optim.Optimizer)
        self.step = self.make_step(optimizer)

    def make_step(self, optimizer: torch.optim.Optimizer) -> Callable[[int], None]:
        """The whole iteration on a batch of the given size, as the execution asks: augmentation to SGD step."""
        for group in optimizer.param_groups:
            group["lr"] = self.lr
        self.velocities = lambda: [state["momentum_buffer"] for state in optimizer.state.values() if state]

        def step(size: int) -> None:
            self.iterate(*self.stream.draw(size), optimizer)

        captured = self.machine.execution != "eager" and self.lr.device.type == "cuda"
        return CapturedStep(step, self.protocol.batch_size) if captured else step

    def run(self, iteration: int) -> None:
        """One iteration through `step`: the host only says which batch and which rate, where they change."""
        if (rate := self.lr_at(iteration)) != self.lr_set:
            self.lr.fill_(rate)
            self.lr_set = rate
            if self.protocol.momentum_rate == "inside" and iteration and (before := self.lr_at(iteration - 1)) != rate:
                # Caffe's velocity is PyTorch's times the rate: it keeps its size where the rate changes.
                for velocity in self.velocities():
                    velocity.mul_(before / rate)
        assert self.step is not None
        self.step(self.stream.seek(iteration))

    def training_step(self, chunk: range, _index: int) -> None:
        """Run the iterations of a chunk. Within one, nothing waits for the device; the loss is checked at its end."""
        for iteration in chunk:
            self.run(iteration)
        self.iteration = chunk.stop
        loss = self.running[0].item()
        if not math.isfinite(loss):
            raise DivergedError(f"the training loss is not finite at iteration {self.iteration}")
        if self.warmup_lr is not None and self.iteration % self.protocol.warmup.window == 0:
            wrong, images = self.running[3:].tolist()
            if self.warmup_ended_at is None and warmup_ends(wrong, images, self.protocol.warmup.until_error):
                self.warmup_ended_at = self.iteration
            self.running[3:] = 0

    def iterate(self, x: Tensor, y: Tensor, optimizer: torch.optim.Optimizer) -> None:
        """One iteration: forward, cross-entropy, backward, SGD step."""
        # Groups as on so many devices: each has BN statistics of its own.
        with make_autocast(x.device.type, self.machine.precision):
            groups = x.tensor_split(min(len(x), self.protocol.batchnorm_groups))
            logits = torch.cat([self.network(group) for group in groups])
        loss = F.cross_entropy(logits.float(), y)
        optimizer.zero_grad()
        loss.backward()
        if self.protocol.clip is not None:
            nn.utils.clip_grad_norm_(self.network.parameters(), self.protocol.clip)
        optimizer.step()
        with torch.no_grad():
            for weight, norm in self.held:
                weight.mul_(norm / weight.norm())
        wrong = (logits.detach().argmax(1) != y).sum()
        images = torch.full_like(wrong, len(y))
        self.running += torch.stack([loss.detach() * len(y), wrong, images, wrong, images])

    def take_running(self) -> tuple[float, float]:
        """Running training error (percent) and loss since last taken: augmented images, training-mode BN."""
        loss, wrong, images = self.running[:3].tolist()
        self.running[:3] = 0
        return 100 * wrong / images, loss / images

    def on_save_checkpoint(self, checkpoint: dict[str, object]) -> None:
        checkpoint["progress"] = {"iteration": self.iteration, "warmup_ended_at": self.warmup_ended_at}

    def on_load_checkpoint(self, checkpoint: dict[str, dict[str, int]]) -> None:
        self.iteration = checkpoint["progress"]["iteration"]
        self.warmup_ended_at = checkpoint["progress"]["warmup_ended_at"]


class Chunks:
    """The iterations that remain, as ranges that end at every multiple of the given cadences, at those named in
    `also`, and at the last one.
    """

    def __init__(self, module: DegradationModule, length: int, cadences: tuple[int, ...], also: tuple[int, ...]):
        self.module, self.length, self.cadences, self.also = module, length, cadences, also

    def __iter__(self) -> Iterator[range]:
        start, end = self.module.iteration, self.module.protocol.iterations
        while start < end:
            ends = [start - start % cadence + cadence for cadence in self.cadences]
            stop = min(start + self.length, end, *ends, *(at for at in self.also if at > start))
            yield range(start, stop)
            start = stop
