"""The shared training step: the same whichever way it is executed, and what a plain PyTorch loop would do."""

import shutil
from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from degradation.config import ProtocolConfig, WarmupConfig
from degradation.data.images import BatchStream, Normalizer, make_synthetic
from degradation.net.network import Block, Network, call_block, compile_block, recompute_block
from degradation.train import machine as machines
from degradation.train.machine import Execution
from degradation.train.step import DegradationModule

ITERATIONS = 12
PROTOCOL = ProtocolConfig(
    name="test",
    iterations=ITERATIONS,
    batch_size=48,
    lr=0.05,
    milestones=(5, 9),
    decay=0.1,
    momentum=0.9,
    weight_decay=1e-4,
    decay_batchnorm=True,
    warmup=WarmupConfig(110, 0.01, 80.0, 100),
    batchnorm="moving",
    log_every=1,
    evaluate_every=1,
)
TRAIN = make_synthetic(200, 1)[0]  # batches of 48, 48, 48, 48 and 8: whole and partial ones, over three epochs
DEVICES = ["cpu", pytest.param("cuda", marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA"))]
needs_compiler = pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile needs a C++ compiler")


def make_stream(device: str = "cpu") -> BatchStream:
    train = TRAIN.to(device)
    return BatchStream(train, Normalizer(train, "pixel_mean"), PROTOCOL.batch_size, seed=3, last_batch="keep")


def run(
    execution: Execution = "eager",
    device: str = "cpu",
    depth: int = 14,
    shortcut: str = "A",
    run_block: Callable[[Block, Tensor], Tensor] = call_block,
    iterations: int = ITERATIONS,
    stream: BatchStream | None = None,
) -> tuple[list[float], dict[str, Tensor]]:
    """The loss of every iteration, and the final weights and BN statistics."""
    network = Network(depth, shortcut).to(device, memory_format=torch.channels_last)  # type: ignore[arg-type,call-overload]
    network.run_block = run_block
    module = DegradationModule(network, stream or make_stream(device), PROTOCOL, execution=execution).to(device)
    module.step = module.make_step(module.configure_optimizers())
    losses = []
    for iteration in range(iterations):
        module.run(iteration)
        losses.append(module.take_running()[1])
    return losses, network.state_dict()


def assert_same(ours: dict[str, Tensor], theirs: dict[str, Tensor], tolerance: float = 0.0) -> None:
    assert set(ours) == set(theirs)
    for key in ours:
        torch.testing.assert_close(
            ours[key], theirs[key], rtol=tolerance, atol=tolerance, msg=lambda m, k=key: f"{k} {m}"
        )


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("shortcut", ["none", "A"])
def test_an_iteration_is_that_of_a_plain_pytorch_loop(device: str, shortcut: str) -> None:
    network = Network(14, shortcut).to(device, memory_format=torch.channels_last)  # type: ignore[arg-type,call-overload]
    optimizer = torch.optim.SGD(network.parameters(), lr=0.05, momentum=0.9, weight_decay=1e-4)
    scheduler = torch.optim.lr_scheduler.MultiStepLR(optimizer, [5, 9], 0.1)
    stream, losses, sizes = make_stream(device), [], []
    for iteration in range(ITERATIONS):
        x, y = stream.batch(iteration)
        loss = F.cross_entropy(network(x), y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        scheduler.step()
        losses.append(loss.item())
        sizes.append(len(y))
    assert sizes == [48, 48, 48, 48, 8] * 2 + [48, 48]
    ours, weights = run(device=device, shortcut=shortcut)
    assert ours == pytest.approx(losses, rel=1e-5)
    assert_same(weights, network.state_dict(), 1e-4)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("shortcut", ["none", "A", "B"])
def test_recomputed_activations_change_no_weight_and_no_statistic(device: str, shortcut: str) -> None:
    losses, weights = run(device=device, shortcut=shortcut)
    again, recomputed = run(device=device, shortcut=shortcut, run_block=recompute_block)
    # Exactly, where the arithmetic repeats itself; on CUDA the order of sums does not.
    assert again == (losses if device == "cpu" else pytest.approx(losses, rel=1e-3))
    assert_same(recomputed, weights, 0.0 if device == "cpu" else 1e-2)


def test_recomputing_keeps_less() -> None:
    def kept(run_block: Callable[[Block, Tensor], Tensor]) -> int:
        sizes: dict[int, int] = {}

        def pack(tensor: Tensor) -> Tensor:
            sizes[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
            return tensor

        network = Network(32, "A")
        network.run_block = run_block
        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            network(torch.zeros(8, 3, 32, 32))
        weights = {p.untyped_storage().data_ptr() for p in network.parameters()}
        return sum(size for at, size in sizes.items() if at not in weights)

    assert kept(recompute_block) < kept(call_block) / 3


@needs_compiler
def test_compiled_blocks_give_the_same_losses() -> None:
    losses, weights = run(depth=8, iterations=4)  # before the partial batch: fewer shapes to compile
    compiled, theirs = run("compiled", depth=8, run_block=compile_block(), iterations=4)
    assert compiled == pytest.approx(losses, rel=1e-3)
    assert_same(theirs, weights, 1e-2)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
@pytest.mark.parametrize("execution", ["captured", "compiled"])
@pytest.mark.parametrize("shortcut", ["none", "A"])
def test_a_captured_graph_matches_the_eager_loop(execution: Execution, shortcut: str) -> None:
    machines.apply(machines.Machine("cuda", "fp32", True, 1, 1, execution, False))
    watched: dict[str, list[Tensor]] = {"eager": [], execution: []}
    results = {}
    for way, seen in watched.items():
        stream = make_stream("cuda")
        seek = stream.seek

        def watch(
            iteration: int, seek: Callable[[int], int] = seek, stream: BatchStream = stream, seen: list = seen
        ) -> int:
            size = seek(iteration)
            seen.append(stream._peek(size)[0].clone())
            return size

        stream.seek = watch  # type: ignore[method-assign]
        run_block = compile_block() if way == "compiled" else call_block
        results[way] = run(way, "cuda", 20, shortcut, run_block, 100, stream)  # type: ignore[arg-type]
    assert all(torch.equal(a, b) for a, b in zip(*watched.values(), strict=True))
    (losses, _), (captured, _) = results.values()
    assert captured[:20] == pytest.approx(losses[:20], rel=1e-3)
    assert captured == pytest.approx(losses, rel=0.1)
