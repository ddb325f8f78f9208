"""How fast training is, as ratios against the usual recipe measured in the same run: `make bench`.

Rounds interleave the variants, so that a machine whose speed drifts slows all of them alike; a ratio is taken within
each round and its median over rounds is told.
"""

import io
import math
import os
import re
import resource
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext, redirect_stdout
from dataclasses import dataclass, replace
from pathlib import Path
from threading import BrokenBarrierError
from typing import Any, Literal

import pandas as pd
import torch
from torch import nn, optim
from torch.nn import functional as F
from torch.utils.data import DataLoader
from torchvision import transforms
from torchvision.datasets import CIFAR10, VisionDataset

from degradation import processes
from degradation.config import Architecture, Config, MachineConfig
from degradation.data.images import ImageSet, load_cifar10_mini
from degradation.data.resident import BatchStream, Normalizer
from degradation.net.network import Network, multiply_adds
from degradation.probe.views import layout, make_autocast
from degradation.record import load_metrics
from degradation.train import machine as machines
from degradation.train.run import train
from degradation.train.step import DegradationModule

BATCH = 128
USUAL = ("usual recipe, no workers", "usual recipe, 2 workers")
TRAINER = "this suite: Trainer, metrics and records"
Execution = Literal["eager", "captured", "compiled"]
Run = Callable[[float], float]  # runs for about so many seconds; gives images/s


@dataclass(frozen=True)
class Setting:
    """What every variant is measured on: the config of a run, its machine, and the training images."""

    config: Config
    machine: MachineConfig
    train: ImageSet
    executions: tuple[Execution, ...] = ()

    @property
    def cuda(self) -> bool:
        return self.machine.device == "cuda"

    def stream(self, channels_last: bool = True, batch_size: int = BATCH) -> BatchStream:
        train = self.train.to(self.machine.device)
        return BatchStream(train, Normalizer(train, "pixel_mean"), batch_size, 0, channels_last=channels_last)

    def network(self, depth: int, channels_last: bool = True) -> Network:
        network = Network(Architecture.paper(depth, "A"))
        return network.to(self.machine.device, memory_format=layout(channels_last))  # type: ignore[call-overload]

    def module(self, depth: int, machine: MachineConfig, batch_size: int = BATCH) -> DegradationModule:
        protocol = replace(self.config.protocol, batch_size=batch_size)
        stream = self.stream(batch_size=batch_size)
        return DegradationModule(self.network(depth), stream, protocol, machine).to(machine.device)


class InMemoryCIFAR10(CIFAR10):
    """torchvision's CIFAR10, item by item as it is, of images already loaded."""

    def __init__(self, images: ImageSet, transform: Callable[..., Any]):
        VisionDataset.__init__(self, "", transform=transform)
        self.data = images.images.permute(0, 2, 3, 1).numpy()
        self.targets = images.labels.tolist()


def timed(step: Callable[[], object], images: int, cuda: bool) -> Run:
    """A Run of a step that trains on so many images; it takes at least two."""

    def run(seconds: float) -> float:
        began, steps = time.perf_counter(), 0
        while steps < 2 or time.perf_counter() - began < seconds:
            step()
            steps += 1
            if cuda and steps % 50 == 0:
                torch.cuda.synchronize()
        if cuda:
            torch.cuda.synchronize()
        return steps * images / (time.perf_counter() - began)

    return run


@contextmanager
def as_torch_comes() -> Iterator[None]:
    """With cuDNN's TF32, which PyTorch, and so what others run, has on unless told otherwise; nothing on a CPU."""
    was, torch.backends.cudnn.allow_tf32 = torch.backends.cudnn.allow_tf32, True
    try:
        yield
    finally:
        torch.backends.cudnn.allow_tf32 = was


def usual_recipe(setting: Setting, depth: int, workers: int) -> Run:
    """As popular implementations do it: PIL transforms, a DataLoader, eager float32 NCHW, .item() every step."""
    transform = transforms.Compose(
        [
            transforms.RandomHorizontalFlip(),
            transforms.RandomCrop(32, 4),
            transforms.ToTensor(),
            transforms.Normalize((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
        ]
    )
    repeats = 50_000 // len(setting.train)  # an epoch of CIFAR-10's length: workers start anew with each
    images = ImageSet(setting.train.images.repeat(repeats, 1, 1, 1), setting.train.labels.repeat(repeats))
    loader: DataLoader[Any] = DataLoader(
        InMemoryCIFAR10(images, transform), BATCH, shuffle=True, num_workers=workers, pin_memory=setting.cuda
    )

    def forever() -> Iterator[Any]:
        while True:
            yield from loader

    batches = forever()
    network = setting.network(depth, channels_last=False)
    optimizer = optim.SGD(network.parameters(), 0.1, momentum=0.9, weight_decay=1e-4)
    criterion = nn.CrossEntropyLoss()

    @as_torch_comes()
    def step() -> float:
        images, targets = next(batches)
        images, targets = images.to(setting.machine.device), targets.to(setting.machine.device)
        output = network(images)
        loss = criterion(output, targets)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        return loss.item() + (output.argmax(1) == targets).float().mean().item()

    return timed(step, BATCH, setting.cuda)


def bare_loop(setting: Setting, depth: int, channels_last: bool, precision: str) -> Run:
    """Our batches and networks in a loop of seven lines: no metrics, no schedule, no Lightning."""
    stream, network = setting.stream(channels_last), setting.network(depth, channels_last)
    optimizer = optim.SGD(network.parameters(), 0.1, momentum=0.9, weight_decay=1e-4, fused=True)
    iteration = 0

    def step() -> None:
        nonlocal iteration
        x, y = stream.batch(iteration)
        with make_autocast(setting.machine.device, precision):
            logits = network(x)
        loss = F.cross_entropy(logits.float(), y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        iteration += 1

    return timed(step, BATCH, setting.cuda)


def our_step(setting: Setting, depth: int, execution: Any, batch_size: int = BATCH) -> Run:
    """The module's own iteration, with its running metrics and schedule, executed as asked; no Trainer."""
    module = setting.module(depth, replace(setting.machine, execution=execution), batch_size)
    module.step = module.make_step(module.configure_optimizers())
    iteration = 0

    def step() -> None:
        nonlocal iteration
        module.run(iteration)
        iteration += 1

    return timed(step, batch_size, setting.cuda)


@contextmanager
def _quiet() -> Iterator[None]:
    # train() tells its progress, and takes the signals: Ctrl-C must still end a benchmark.
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        with redirect_stdout(io.StringIO()):
            yield
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)


def our_trainer(setting: Setting, depth: int, rate: float) -> Run:
    """train() itself, records and metrics on; images/s between its log rows, no evaluation or signals among them."""

    def run(seconds: float) -> float:
        # From row 9 of 16 to row 15: signals are measured after iterations that are powers of two, and at the end.
        row = 2 ** round(math.log2(max(1.0, rate * seconds / 9 / BATCH)))
        cadence: dict[str, Any] = {"iterations": 16 * row, "log_every": row, "evaluate_every": 16 * row}
        protocol = replace(setting.config.protocol, milestones=(), **cadence)
        with tempfile.TemporaryDirectory() as folder:
            config = replace(
                setting.config,
                network=replace(setting.config.network, depth=depth),
                protocol=protocol,
                paths=replace(setting.config.paths, results=folder),
            )
            with _quiet():
                outcome = train(config)
            if outcome.status != "finished":
                raise RuntimeError(f"the Trainer's run ended as {outcome.status}: {outcome.message}")
            rows = load_metrics(Path(folder) / "runs" / config.run_id).set_index("iteration")
        return 6 * row * BATCH / (rows["seconds"][15 * row] - rows["seconds"][9 * row])

    return run


class TogetherError(RuntimeError):
    """One of several runs at once failed."""


def _worker(setting: Setting, depth: int, seconds: float, ready: Any) -> float | str:
    try:
        machines.apply(setting.machine)
        run = our_step(setting, depth, setting.machine.execution)
        for _ in range(3):  # past the capture of a graph
            run(0.0)
        ready.wait()
        return run(seconds)
    except BrokenBarrierError:
        return ""
    except Exception as error:
        ready.abort()
        return str(error).partition("\n")[0] or type(error).__name__


def concurrent(setting: Setting, depth: int, jobs: int) -> Run:
    """The sum of several runs at once, each a process with its share of the cores; a TogetherError where one fails."""
    threads = max(1, machines.available_cores() // jobs)
    share = replace(setting, machine=replace(setting.machine, threads=threads))

    def run(seconds: float) -> float:
        if setting.cuda:
            torch.cuda.empty_cache()  # of the variants in this process
        ready, workers = processes.CONTEXT.Barrier(jobs), list[Any]()
        rates, failed = list[float](), list[str]()
        try:
            for _ in range(jobs):
                workers.append(processes.start(_worker, share, depth, seconds, ready))
            for worker, receive in workers:
                while not receive.poll(1):
                    if any(other.exitcode for other, _ in workers):  # killed: the others would wait for it
                        for other, _ in workers:
                            other.kill()
                try:
                    answer = receive.recv()
                except EOFError:
                    worker.join()
                    answer = f"a process {processes.describe_end(worker.exitcode or 0)}"
                (failed if isinstance(answer, str) else rates).append(answer)
        except BaseException:
            for worker, _ in workers:
                worker.kill()
            raise
        finally:
            for worker, _ in workers:
                worker.join()
        if failed:
            raise TogetherError(next(filter(None, failed), "interrupted"))
        return sum(rates)

    return run


def variants(setting: Setting, depth: int, jobs: tuple[int, ...], seconds: float = 1.0) -> dict[str, Run]:
    """Every variant of one depth, each warmed up for so many seconds."""
    precision = setting.machine.precision
    found = {
        USUAL[0]: usual_recipe(setting, depth, 0),
        USUAL[1]: usual_recipe(setting, depth, 2),
        "bare loop, NCHW, fp32": bare_loop(setting, depth, False, "fp32"),
        "bare loop, channels_last, fp32": bare_loop(setting, depth, True, "fp32"),
    }
    bare = found[f"bare loop, channels_last, {precision}"] = bare_loop(setting, depth, True, precision)
    for execution in setting.executions:
        found[f"this suite's step, {execution}"] = our_step(setting, depth, execution)
    for run in found.values():
        run(seconds)
    found[TRAINER] = our_trainer(setting, depth, bare(seconds))
    for count in jobs:
        found[f"this suite, {count} runs at once"] = concurrent(setting, depth, count)
    return found


def measure_throughput(
    setting: Setting, depths: list[int], rounds: int, seconds: float, jobs: tuple[int, ...], say: Callable[[str], None]
) -> pd.DataFrame:
    """images/s of every variant, depth and round: columns depth, variant, round, images_per_second."""
    rows = []
    with processes.multi_process_service() if setting.cuda else nullcontext():
        for depth in depths:
            say(f"depth {depth}: warming up")
            runs = variants(setting, depth, jobs, min(1.0, seconds))
            for number in range(1, rounds + 1):
                for variant, run in [*runs.items()]:
                    try:
                        rate = run(seconds)
                    except TogetherError as error:  # as where memory does not suffice for so many
                        say(f"depth {depth}: {variant} left out: {error}")
                        del runs[variant]
                        continue
                    say(f"depth {depth}, round {number} of {rounds}: {variant:<42} {rate:9,.0f} images/s")
                    rows.append({"depth": depth, "variant": variant, "round": number, "images_per_second": rate})
    return pd.DataFrame(rows)


def measure_peak(setting: Setting) -> float:
    """FLOP/s of a large square matrix product in the precision used: the floor that a network's FLOPs are held to."""
    size = 8192 if setting.cuda else 2048
    kind = torch.bfloat16 if setting.machine.precision == "bf16" else torch.float32
    a, b = torch.rand(2, size, size, device=setting.machine.device).to(kind)
    product = timed(lambda: a @ b, 1, setting.cuda)
    product(0.0)  # which starts the library, too
    return product(1.0) * 2 * size**3


def summarise(measured: pd.DataFrame, peak: float) -> pd.DataFrame:
    """Per depth and variant: median images/s, its range, the ratio to the better usual recipe, FLOP/s and fraction.

    FLOP/s counts 2 per multiply-add and three passes: forward, and backward to inputs and to weights.
    """
    rows = []
    for depth, part in measured.groupby("depth", sort=False):
        wide = part.pivot_table(index="round", columns="variant", values="images_per_second", sort=False)
        usual = wide[list(USUAL)].max(axis=1)
        bare = wide[[variant for variant in wide if variant.startswith("bare loop")][-1]]
        for variant in wide:
            rate = wide[variant].median()
            flops = 6 * multiply_adds(Architecture.paper(int(str(depth)), "A")) * rate
            ratios = wide[variant] / usual
            rows.append(
                {
                    "depth": depth,
                    "variant": variant,
                    "images_per_second": rate,
                    "lowest": wide[variant].min(),
                    "highest": wide[variant].max(),
                    "ratio_to_usual": ratios.median(),
                    "ratio_to_bare": (wide[variant] / bare).median(),
                    "gflops": flops / 1e9,
                    "fraction_of_matrix_peak": flops / peak,
                }
            )
    return pd.DataFrame(rows)


def measure_growth(setting: Setting, depths: list[int], batches: list[int], seconds: float) -> pd.DataFrame:
    """Seconds per iteration against depth (batch 128) and against batch (depth 20)."""
    rows = []
    for depth, batch in [*((d, BATCH) for d in dict.fromkeys(depths)), *((20, b) for b in batches if b != BATCH)]:
        run = our_step(setting, depth, setting.machine.execution, batch)
        for _ in range(3):  # past the capture of a graph
            run(0.0)
        rate = statistics.median(run(seconds) for _ in range(3))
        rows.append({"depth": depth, "batch": batch, "seconds_per_iteration": batch / rate})
    return pd.DataFrame(rows).sort_values(["batch", "depth"], ignore_index=True)


def _peak_memory() -> float:
    if sys.platform == "darwin":
        return float(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
    # Not getrusage's: Linux lets a new process inherit the peak of the one that started it.
    found = re.search(r"^VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text(), re.MULTILINE)
    return float(found[1]) * 1024 if found else math.nan


def _one_iteration(setting: Setting, depth: int, recompute: bool, result: Any) -> None:
    machine = replace(setting.machine, activation_checkpointing=recompute)
    machines.apply(machine)
    module = setting.module(depth, machine)
    module.step = module.make_step(module.configure_optimizers())
    before, first = 0.0 if setting.cuda else _peak_memory(), 0
    if setting.cuda:  # algorithms are chosen, and the graph is captured, once and not at every iteration
        first = 5
        for iteration in range(first):
            module.run(iteration)
        torch.cuda.synchronize()
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
    began = time.perf_counter()
    for iteration in range(first, first + 2):
        module.run(iteration)
    if setting.cuda:
        torch.cuda.synchronize()
    seconds = (time.perf_counter() - began) / 2
    peak = torch.cuda.max_memory_reserved() if setting.cuda else _peak_memory()
    result.put({"peak_gb": peak / 1e9, "before_gb": before / 1e9, "seconds_per_iteration": seconds})


def measure_memory(setting: Setting, depths: list[int], say: Callable[[str], None]) -> pd.DataFrame:
    """Peak memory of one process that trains at batch 128, with and without activation checkpointing."""
    rows = []
    context = torch.multiprocessing.get_context("spawn")
    for depth in depths:
        for recompute in (False, True):
            result = context.Queue()
            worker = context.Process(target=_one_iteration, args=(setting, depth, recompute, result))
            worker.start()
            worker.join()
            if worker.exitcode:
                say(f"memory, depth {depth}: the process ended with status {worker.exitcode}")
                continue
            rows.append({"depth": depth, "activation_checkpointing": recompute, **result.get()})
            say(f"memory, depth {depth}, checkpointing {recompute}: {rows[-1]['peak_gb']:.2f} GB")
    return pd.DataFrame(rows)


def measure_start(root: Path, rounds: int = 3) -> float:
    """Seconds from starting experiments/train.py to the first iteration of a run, the median."""
    times = []
    for _ in range(rounds):
        with tempfile.TemporaryDirectory() as folder:
            script = str(root / "experiments" / "train.py")
            command = [sys.executable, script, "protocol=smoke", f"paths.results={folder}"]
            began = time.perf_counter()
            offline = {**os.environ, "WANDB_MODE": "offline"}
            process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=offline)
            assert process.stdout is not None
            for line in process.stdout:
                if "iterations to go" in line:
                    times.append(time.perf_counter() - began)
            if process.wait():
                raise RuntimeError(f"{' '.join(command)} ended with status {process.returncode}")
    return statistics.median(times)


def measure_figures(root: Path) -> float:
    """Seconds in which `make figures` reads and judges the published records, and draws everything of them."""
    with tempfile.TemporaryDirectory() as folder:
        began = time.perf_counter()
        command = [sys.executable, str(root / "experiments" / "report.py"), "--results", folder, "--with-published"]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        return time.perf_counter() - began


def executions(device: str) -> tuple[Execution, ...]:
    """How an iteration can be executed there, besides as it stands on a CPU."""
    compiled: tuple[Execution, ...] = ("compiled",) if machines.can_compile() else ()
    return ("eager", *compiled, "captured") if device == "cuda" else compiled


def default_setting(config: Config) -> Setting:
    """On this machine, with the embedded images."""
    machine = machines.resolve(config.machine)
    return Setting(config, machine, load_cifar10_mini()[0], executions(machine.device))


def describe_machine(setting: Setting, peak: float) -> dict[str, Any]:
    """Hardware, versions and commit, with the measured matrix rate."""
    described = machines.describe(setting.machine)
    return {"date": time.strftime("%Y-%m-%d"), "matrix_peak_gflops": round(peak / 1e9, 1), **described}
