"""What runs need, before any begins: images and settings checked, and how long they take on this machine."""

import os
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch

from degradation.config import Architecture, Config, ConfigError, Size, Sizes
from degradation.data.images import Images, Pictures, make_synthetic
from degradation.data.resident import BatchStream, Normalizer
from degradation.net.network import Network, multiply_adds
from degradation.probe.views import layout
from degradation.record import can_go_on, count_done, find_begun
from degradation.train import machine as machines
from degradation.train.run import load_images
from degradation.train.step import DegradationModule

EVALUATION = 1 / 3  # of an image's time in training: forward alone, of forward and backward
READ = 64  # images whose decoding is timed


def count_jobs(wanted: Any, runs: int, device: str) -> int:
    """How many runs at once: as asked; else one on a GPU, and on a CPU as many as there are cores and runs."""
    if wanted in (None, "", "auto"):
        return 1 if device == "cuda" else max(1, min(machines.available_cores(), runs))
    if not str(wanted).isdecimal() or int(wanted) < 1:
        raise ConfigError(f"JOBS={wanted} must be auto or at least 1")
    return min(int(wanted), max(1, runs))


def describe_grid(configs: list[Config], jobs: int) -> str:
    """What will be trained, on what: the first thing printed."""
    first = configs[0]
    machine = machines.resolve(first.machine, jobs)

    def values(of: Callable[[Config], Any]) -> str:
        return ", ".join(str(value) for value in sorted({of(config) for config in configs}))

    threads = "" if machine.device == "cuda" else f", {machine.threads} thread(s) each"
    where = f"{machine.device}, {machine.precision}, {machine.execution}{threads}"
    if first.machine.device == "auto" and (trouble := machines.cuda_trouble()) not in (None, machines.NO_CUDA):
        where += f", as {trouble}"
    return (
        f"protocol {values(lambda c: c.protocol.name)}: {len(configs)} run(s): {values(lambda c: c.network.name)}; "
        f"depth {values(lambda c: c.network.depth)}; seed {values(lambda c: c.seed)}\n"
        f"{first.protocol.iterations:,} iterations of {first.protocol.batch_size} images of {first.data.name}, "
        f"{jobs} run(s) at once on {where}; records in {first.paths.results}/runs"
    )


def check(todo: list[Config]) -> Sizes:
    """The number of images of each data config, before anything is made or begun.

    The images are loaded here, so that they fail, or are downloaded, once and before any run.

    Raises:
        ConfigError, DataError: what the runs ask for is not what this machine, its disk, or the images can give.
    """
    for config in todo:
        machines.resolve(config.machine)
        results = Path(config.paths.results).absolute()
        place = next(path for path in (results, *results.parents) if path.exists())
        if not place.is_dir() or not os.access(place, os.W_OK | os.X_OK):
            raise ConfigError(f"cannot write to {place}; name another folder with RESULTS_DIR= or paths.results=")
    needs = {(c.data, c.protocol.batch_size, c.network.classes): c for c in todo}
    return {data: _measure(load_images(config)) for (data, *_), config in needs.items()}


def _measure(images: tuple[Images, Images, Images | None]) -> Size:
    train, test, held_out = images
    began = time.monotonic()
    read = len(train[:READ].to("cpu").decode(slice(0, READ))) if isinstance(train, Pictures) else 0
    return Size(len(train), len(test), len(held_out or ()), (time.monotonic() - began) / max(1, read))


def estimate_seconds(todo: list[Config], sizes: Sizes, jobs: int) -> dict[str, float]:
    """What is left of each run, by id, from a short timing of this machine; of none that it has not the memory for."""
    timings: dict[Any, Callable[[Architecture], float]] = {}
    seconds: dict[str, float] = {}
    for config in todo:
        key = (config.protocol.batch_size, config.network.family, config.network.width, config.data.crop)
        with suppress(RuntimeError, MemoryError, ValueError):  # what the run itself will tell
            timings[key] = timings.get(key) or calibrate(config, jobs)
            protocol, size, machine = config.protocol, sizes[config.data], machines.resolve(config.machine, jobs)
            begun, workers = find_begun(config, machine.device, machine.precision), machine.workers
            left = protocol.iterations - (count_done(begun) if begun and can_go_on(begun) else 0)
            evaluations = left // protocol.evaluate_every
            evaluated = evaluations * (size.test + size.held_out) + 2 * size.training + 8 * size.test
            step, trained = timings[key](config.network) / protocol.batch_size, left * protocol.batch_size
            for images, each in ((trained, step), (evaluated, EVALUATION * step)):  # read by workers, or between steps
                of_one = max(each, size.seconds / int(workers)) if workers else each + size.seconds
                seconds[config.run_id] = seconds.get(config.run_id, 0.0) + images * of_one
    return seconds


def calibrate(config: Config, jobs: int) -> Callable[[Architecture], float]:
    """Seconds of one iteration of any network of the config's family and width, from a few of its two smallest.

    Time grows by the multiply-adds; what does not is the difference of the two.
    """
    machine = machines.resolve(config.machine, jobs)
    machines.apply(machine)
    size, side = config.protocol.batch_size, config.data.crop or 32
    images = make_synthetic(max(512, size), 1, side)[0].to(machine.device)
    normalize = Normalizer(images, "pixel_mean")
    least, longest = 2 if machine.device == "cpu" else 10, config.protocol.iterations / 10
    work, seconds = [], []
    for depth in (8, 20) if config.network.family == "cifar" else (18, 34):
        family = {"family": config.network.family, "width": config.network.width}
        architecture = Architecture.paper(depth, "A", **family)  # type: ignore[arg-type]
        network = Network(architecture).to(machine.device, memory_format=layout(machine.channels_last))  # type: ignore[call-overload]
        stream = BatchStream(images, normalize, size, 0, channels_last=machine.channels_last)
        module = DegradationModule(network, stream, config.protocol, machine).to(machine.device)
        module.step = module.make_step(module.configure_optimizers())
        iteration = 0
        for timed in (False, True):
            began, first = time.monotonic(), iteration
            while (done := iteration - first) < least or (timed and done < longest and time.monotonic() - began < 0.5):
                module.run(iteration)
                iteration += 1
            if machine.device == "cuda":
                torch.cuda.synchronize()
        seconds.append((time.monotonic() - began) / (iteration - first))
        work.append(multiply_adds(architecture, side))
        module.step = None
    slope = max(0.0, (seconds[1] - seconds[0]) / (work[1] - work[0]))
    return lambda other: max(seconds[1] + slope * (multiply_adds(other, side) - work[1]), seconds[0])
