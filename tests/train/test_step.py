"""The shared training step: the same whichever way it is executed, and what a plain PyTorch loop would do."""

from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from degradation.config import Architecture, MachineConfig, ProtocolConfig, Shortcut, WarmupConfig
from degradation.data.images import load, make_synthetic
from degradation.data.resident import BatchStream, Normalizer
from degradation.data.streamed import StreamedBatches
from degradation.net.network import Network
from degradation.train import machine as machines
from degradation.train.step import CapturedStep, DegradationModule
from tests.conftest import compose_config
from tests.needs import needs_compiler, needs_cuda

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
DEVICES = ["cpu", pytest.param("cuda", marks=needs_cuda)]


def make_machine(
    execution: str = "eager", device: str = "cpu", recompute: bool = False, precision: str = "fp32"
) -> MachineConfig:
    return MachineConfig(device, precision, True, 1, 1, execution, recompute, 500, 0.0, 0.0)  # type: ignore[arg-type]


@pytest.fixture(autouse=True)
def in_float32() -> Iterator[None]:
    """As runs are: left to itself, a GPU convolves in TF32."""
    was = torch.backends.cudnn.allow_tf32
    machines.apply(make_machine())
    yield
    torch.backends.cudnn.allow_tf32 = was


def make_stream(device: str = "cpu") -> BatchStream:
    train = TRAIN.to(device)
    return BatchStream(train, Normalizer(train, "pixel_mean"), PROTOCOL.batch_size, seed=3, last_batch="keep")


def run(
    execution: str = "eager",
    device: str = "cpu",
    depth: int = 14,
    shortcut: Shortcut = "A",
    recompute: bool = False,
    iterations: int = ITERATIONS,
    stream: BatchStream | None = None,
    protocol: ProtocolConfig = PROTOCOL,
) -> tuple[list[float], dict[str, Tensor]]:
    """The loss of every iteration, and the final weights and BN statistics."""
    architecture = Architecture.paper(depth, shortcut)
    network = Network(architecture).to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    machine = make_machine(execution, device, recompute)
    module = DegradationModule(network, stream or make_stream(device), protocol, machine).to(device)
    module.step = module.make_step(module.configure_optimizers())
    losses = []
    for iteration in range(iterations):
        module.run(iteration)
        losses.append(module.take_running()[1])
    # What is compared below is what was asked for.
    blocks = network.blocks().values()
    assert all(block.recompute == recompute for block in blocks)
    assert all((block._compiled_call_impl is not None) == (execution == "compiled") for block in blocks)
    graph = getattr(module.step, "graph", None)
    assert (graph is not None) == (device == "cuda" and execution != "eager" and iterations > CapturedStep.WARM_UP)
    return losses, network.state_dict()


def assert_same(ours: dict[str, Tensor], theirs: dict[str, Tensor], tolerance: float = 0.0) -> None:
    assert set(ours) == set(theirs)
    for key in ours:
        torch.testing.assert_close(
            ours[key], theirs[key], rtol=tolerance, atol=tolerance, msg=lambda m, k=key: f"{k} {m}"
        )


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("shortcut", ["none", "A"])
def test_an_iteration_is_that_of_a_plain_pytorch_loop(device: str, shortcut: Shortcut) -> None:
    network = Network(Architecture.paper(14, shortcut))
    network = network.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
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
    # On CUDA sums have no fixed order.
    assert ours == pytest.approx(losses, rel=1e-5 if device == "cpu" else 1e-3)
    assert_same(weights, network.state_dict(), 1e-4 if device == "cpu" else 1e-2)


@pytest.mark.parametrize("shortcut", ["none", "A"])
def test_an_iteration_is_in_the_precision_that_is_asked_for(shortcut: Shortcut) -> None:
    losses = {}
    for precision, kind in (("fp32", torch.float32), ("bf16", torch.bfloat16)):
        network, seen = Network(Architecture.paper(8, shortcut)), set[torch.dtype]()
        for block in network.blocks().values():
            block.layers[0][0].register_forward_hook(lambda _module, _inputs, output, seen=seen: seen.add(output.dtype))
        module = DegradationModule(network, make_stream(), PROTOCOL, make_machine(precision=precision))
        module.step = module.make_step(module.configure_optimizers())
        module.run(0)
        assert seen == {kind}
        assert {tensor.dtype for p in network.parameters() for tensor in (p, p.grad)} == {torch.float32}
        losses[precision] = module.take_running()[1]
    assert losses["bf16"] == pytest.approx(losses["fp32"], rel=0.02)
    assert losses["bf16"] != losses["fp32"]


def naive(velocity_has_rate: bool = False, clip: float | None = None) -> dict[str, Tensor]:
    """Final weights of residual-14, every step written out."""
    network = Network(Architecture.paper(14, "A")).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    velocity = {p: torch.zeros_like(p) for p in network.parameters()}
    stream = make_stream()
    for iteration in range(ITERATIONS):
        x, y = stream.batch(iteration)
        rate = 0.05 * 0.1 ** ((iteration >= 5) + (iteration >= 9))
        gradients = torch.autograd.grad(F.cross_entropy(network(x), y), list(velocity))
        norm = sum(g.square().sum() for g in gradients).sqrt()  # type: ignore[union-attr]
        factor = min(1.0, clip / norm.item()) if clip else 1.0
        with torch.no_grad():
            for p, g in zip(velocity, gradients, strict=True):
                step = factor * g + 1e-4 * p
                velocity[p] = 0.9 * velocity[p] + (rate * step if velocity_has_rate else step)
                p -= velocity[p] if velocity_has_rate else rate * velocity[p]
    return network.state_dict()


@pytest.mark.parametrize(
    ("settings", "same"),
    [
        ({"momentum_rate": "inside"}, {"velocity_has_rate": True}),
        ({"clip": 0.5}, {"clip": 0.5}),
    ],
    ids=str,
)
def test_other_ways_of_a_step_are_what_they_say(settings: dict[str, Any], same: dict[str, Any]) -> None:
    _, weights = run(protocol=replace(PROTOCOL, **settings))
    assert_same(weights, naive(**same), 0.02)  # twelve steps make much of the last digits
    with pytest.raises(AssertionError):
        assert_same(weights, naive(), 0.02)  # and not what they usually are


def test_held_norms_stay_and_others_do_not() -> None:
    first, (_, free), (_, held) = (
        Network(Architecture.paper(14, "A")).state_dict(),
        run(),
        run(protocol=replace(PROTOCOL, hold_norms=True)),
    )
    for name in (key for key in first if key.endswith(("stem.weight", "conv1.weight", "conv2.weight"))):
        assert held[name].norm().item() == pytest.approx(first[name].norm().item(), rel=1e-5)
        assert free[name].norm().item() != pytest.approx(first[name].norm().item(), rel=1e-5)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("shortcut", ["none", "A", "B"])
def test_recomputed_activations_change_no_weight_and_no_statistic(device: str, shortcut: Shortcut) -> None:
    losses, weights = run(device=device, shortcut=shortcut)
    again, recomputed = run(device=device, shortcut=shortcut, recompute=True)
    # Exactly, where the arithmetic repeats itself; on CUDA the order of sums does not.
    assert again == (losses if device == "cpu" else pytest.approx(losses, rel=1e-3))
    assert_same(recomputed, weights, 0.0 if device == "cpu" else 1e-2)


@pytest.mark.parametrize("groups", [2, 3, 36])
def test_groups_of_a_batch_have_bn_statistics_of_their_own(groups: int) -> None:
    network = Network(Architecture.paper(8, "A"))
    twin = network.twin()
    machine, protocol = make_machine(), replace(PROTOCOL, batchnorm_groups=groups)
    module = DegradationModule(network, make_stream(), protocol, machine)
    module.step = module.make_step(module.configure_optimizers())
    x, y = make_stream().batch(0)
    module.run(0)
    parts = [part for part in x.split([48 // groups + (n < 48 % groups) for n in range(groups)])]
    loss = F.cross_entropy(torch.cat([twin(part) for part in parts]), y)
    gradients = torch.autograd.grad(loss, list(twin.parameters()))
    assert module.take_running()[1] == pytest.approx(loss.item(), rel=1e-5)
    for ours, theirs in zip(network.parameters(), gradients, strict=True):
        torch.testing.assert_close(ours.grad, theirs, rtol=1e-4, atol=1e-6)
    for name, statistics in twin.named_buffers():  # of one group after the other
        assert torch.equal(network.get_buffer(name), statistics)
    whole = Network(Architecture.paper(8, "A"))
    whole(x)
    assert not torch.allclose(network.bn.running_var, whole.bn.running_var)


def test_recomputing_keeps_less() -> None:
    def kept(recompute: bool) -> int:
        sizes: dict[int, int] = {}

        def pack(tensor: Tensor) -> Tensor:
            sizes[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
            return tensor

        network = Network(Architecture.paper(32, "A"))
        for block in network.blocks().values():
            block.recompute = recompute
        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            network(torch.zeros(8, 3, 32, 32))
        weights = {p.untyped_storage().data_ptr() for p in network.parameters()}
        return sum(size for at, size in sizes.items() if at not in weights)

    assert kept(True) < kept(False) / 3


@needs_compiler
def test_compiled_blocks_give_the_same_losses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch._inductor.config.compile_threads", 1)  # no pool of processes for a few kernels
    losses, weights = run(depth=8, iterations=4)  # before the partial batch: fewer shapes to compile
    compiled, theirs = run("compiled", depth=8, iterations=4)
    assert compiled == pytest.approx(losses, rel=1e-3)
    assert_same(theirs, weights, 1e-2)


class Still(torch.optim.SGD):
    """SGD but for the step itself: fused, it reads the rate on the device, and has no kernel for meta tensors."""

    def step(self, _closure: Any = None) -> None:  # type: ignore[override]
        assert all(parameter.grad is not None for group in self.param_groups for parameter in group["params"])


@pytest.mark.parametrize("streamed", [False, True], ids=["resident", "streamed"])
@pytest.mark.parametrize("changes", [{}, {"clip": 1.0}, {"hold_norms": True}, {"batchnorm_groups": 2}], ids=str)
def test_an_iteration_reads_nothing_back_from_its_device(
    monkeypatch: pytest.MonkeyPatch, changes: dict[str, Any], streamed: bool
) -> None:
    # As a captured graph needs it. Meta tensors hold no values: what reads one fails, and so does what mixes in one
    # of the host's.
    monkeypatch.setattr("degradation.train.step.make_autocast", lambda *_: nullcontext())  # of no such device
    protocol = replace(PROTOCOL, **changes)
    stream: BatchStream | StreamedBatches = make_stream("meta")
    if streamed:
        train, normalize = load(compose_config("data=imagenette_mini").data, "")[0], Normalizer(TRAIN, "channel")
        stream = StreamedBatches(train, normalize, protocol.batch_size, seed=3)
        for held in (stream, normalize):
            vars(held).update({key: value.to("meta") for key, value in vars(held).items() if torch.is_tensor(value)})
    for shortcut, recompute in (("none", False), ("A", False), ("B", True)):
        network = Network(Architecture.paper(8, shortcut))  # type: ignore[arg-type]
        module = DegradationModule(network, stream, protocol, make_machine(recompute=recompute)).to("meta")
        module.step = module.make_step(Still(network.parameters(), lr=0.0))
        for iteration in range(6):  # into the second epoch, over a partial batch where the set is resident
            module.run(iteration)
        with pytest.raises(RuntimeError, match="meta"):
            module.take_running()


@needs_cuda
@pytest.mark.parametrize(
    ("execution", "recompute", "changes"),
    [
        ("captured", False, {}),
        ("captured", True, {}),
        ("captured", False, {"clip": 1.0, "hold_norms": True, "batchnorm_groups": 2, "momentum_rate": "inside"}),
        pytest.param("compiled", False, {}, marks=needs_compiler),
    ],
    ids=str,
)
@pytest.mark.parametrize("shortcut", ["none", "A"])
def test_a_captured_graph_matches_the_eager_loop(
    execution: str, recompute: bool, changes: dict[str, Any], shortcut: Shortcut
) -> None:
    protocol = replace(PROTOCOL, **changes)
    watched: dict[str, list[Tensor]] = {"eager": [], execution: []}
    results = {}
    for way, seen in watched.items():
        stream = make_stream("cuda")
        seek = stream.seek

        def watch(iteration: int, seek: Any = seek, stream: BatchStream = stream, seen: list = seen) -> int:
            size = seek(iteration)
            seen.append(stream.order[stream.at - size : stream.at].clone())
            return size

        stream.seek = watch  # type: ignore[method-assign]
        results[way] = run(way, "cuda", 20, shortcut, recompute, 100, stream, protocol)
    assert all(torch.equal(a, b) for a, b in zip(*watched.values(), strict=True))
    (losses, _), (captured, _) = results.values()
    assert captured[:20] == pytest.approx(losses[:20], rel=1e-3)
    assert captured == pytest.approx(losses, rel=0.1)
