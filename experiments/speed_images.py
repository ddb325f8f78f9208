"""The input pipeline of the ImageNet half against its training step, in images/s: a part of `make bench`.

Beside both torchvision's reference recipe (its training script's transforms, network and loop, without mixed
precision), from the same files and in the same rounds.
"""

import copy
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from functools import partial
from itertools import count, repeat
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pandas as pd
from speed import Run, as_torch_comes, timed
from torch import nn, optim
from torch.utils.data import DataLoader
from torchvision import models, transforms
from torchvision.datasets import ImageFolder

from degradation.config import Config
from degradation.data.folders import read_imagenette_mini
from degradation.data.images import Pictures, load, read_ahead
from degradation.data.resident import Normalizer
from degradation.data.streamed import StreamedBatches
from degradation.net.network import Network
from degradation.probe.views import layout
from degradation.train.step import DegradationModule

OURS, REFERENCE = "this suite", "torchvision's reference recipe"
IMAGES, STEP, BOTH = "images alone", "step alone", "training: both"
PROTOCOLS = {"imagenet": "imagenet_paper", "imagenette2-160": "imagenet_short", "imagenette_mini": "imagenet_quick"}
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
KEY = ["part", "recipe", "workers"]


def find_set(data_dir: str, cuda: bool) -> str:
    """The first set of PROTOCOLS that DATA_DIR holds, ImageNet on a GPU alone; the last comes with the code."""
    held = [name for name in PROTOCOLS if (Path(data_dir) / name / "train").is_dir() and (cuda or name != "imagenet")]
    return [*held, "imagenette_mini"][0]


@contextmanager
def as_files(name: str, data_dir: str) -> Iterator[Path]:
    """The folder with train/ and val/ of a set; of the embedded one a quarter as JPEGs, for as long as this lasts."""
    if name != "imagenette_mini":
        yield Path(data_dir) / name
        return
    with TemporaryDirectory() as folder:
        for split, (images, labels) in zip(("train", "val"), read_imagenette_mini(), strict=True):
            for number, (image, label) in enumerate(zip(images[::4], labels[::4], strict=True)):
                (place := Path(folder) / split / str(label)).mkdir(parents=True, exist_ok=True)
                image.save(place / f"{number}.jpg", quality=90)
        yield Path(folder)


def module_of(config: Config, stream: StreamedBatches) -> DegradationModule:
    """This suite's training of a network on a stream, with its step made; no Trainer."""
    machine = config.machine
    network = Network(config.network).to(machine.device, memory_format=layout(machine.channels_last))  # type: ignore[call-overload]
    module = DegradationModule(network, stream, config.protocol, machine).to(machine.device)
    module.step = module.make_step(module.configure_optimizers())
    return module


def reference_batches(config: Config, folder: Path, workers: int) -> Iterator[Any]:
    """RandomResizedCrop, flip, ToTensor, Normalize by a DataLoader over an ImageFolder, epoch after epoch."""
    steps = [transforms.RandomResizedCrop(config.data.crop), transforms.RandomHorizontalFlip()]
    transform = transforms.Compose([*steps, transforms.ToTensor(), transforms.Normalize(MEAN, STD)])
    loader: DataLoader[Any] = DataLoader(
        ImageFolder(str(folder / "train"), transform),
        config.protocol.batch_size,
        shuffle=True,
        drop_last=True,
        num_workers=workers,
        persistent_workers=workers > 0,
        pin_memory=config.machine.device == "cuda",
    )
    while True:
        yield from loader


def reference_training(config: Config, batches: Iterator[Any]) -> Callable[[], None]:
    """torchvision's ResNet of that depth in its script's loop: eager float32, the loss read at every step."""
    device = config.machine.device
    network = getattr(models, f"resnet{config.network.depth}")(num_classes=config.network.classes).to(device)
    optimizer = optim.SGD(network.parameters(), 0.1, momentum=0.9, weight_decay=1e-4)
    criterion = nn.CrossEntropyLoss()

    @as_torch_comes()
    def step() -> None:
        images, targets = (part.to(device, non_blocking=True) for part in next(batches))
        loss = criterion(network(images), targets)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        loss.item()

    return step


def variants(
    config: Config, folder: Path, workers: tuple[int, ...], closing: ExitStack
) -> dict[tuple[str, str, int], Run]:
    """(part, recipe, workers) -> its Run, each begun; what must be closed after the last is put on a stack."""
    size, cuda = config.protocol.batch_size, config.machine.device == "cuda"
    data = replace(config.data, name="images")  # whatever their folder is called
    train = load(data, folder, config.machine.device)[0]
    assert isinstance(train, Pictures)
    stream = StreamedBatches(train, Normalizer(train.sample, data.normalization), size, 0)
    alone = module_of(config, stream)
    alone.run(0)  # its batch stays, and its rate
    assert alone.step is not None
    steps: dict[tuple[str, str, int], Callable[[], object]] = {(STEP, OURS, 0): partial(alone.step, size)}
    steps[STEP, REFERENCE, 0] = reference_training(config, repeat(next(reference_batches(config, folder, 0))))
    for processes in workers:
        theirs = partial(reference_batches, config, folder, processes)
        steps[IMAGES, OURS, processes] = partial(
            next, read_ahead(stream.recipe.read, count(), processes, stream.labels.device)
        )
        steps[IMAGES, REFERENCE, processes] = partial(next, theirs())
        if processes in (workers[0], workers[-1]):
            (ahead := copy.copy(stream)).workers, ahead.next = processes, -1
            closing.callback(ahead.close)
            steps[BOTH, OURS, processes] = partial(next, map(module_of(config, ahead).run, count()))
            steps[BOTH, REFERENCE, processes] = reference_training(config, theirs())
    return {key: _run(key, step, size, cuda) for key, step in steps.items()}


def _run(key: tuple[str, str, int], step: Callable[[], object], size: int, cuda: bool) -> Run:
    # What worker processes have ready at its start is not counted; where a step takes long, it is soon gone.
    run, part, processes = timed(step, size, cuda), key[0], key[2]
    ready = 2 * processes if part == IMAGES or cuda else 0
    for _ in range(5 if cuda else 1):  # past the capture of a graph
        step()

    def fairly(seconds: float) -> float:
        for _ in range(ready):
            step()
        return run(seconds)

    return fairly


def measure_images(
    config: Config, folder: Path, rounds: int, seconds: float, workers: tuple[int, ...], say: Callable[[str], None]
) -> pd.DataFrame:
    """images/s of every variant and round: columns KEY, round, images_per_second."""
    rows = []
    with ExitStack() as closing:
        runs = variants(config, folder, workers, closing)
        for number in range(1, rounds + 1):
            for key, run in runs.items():
                rate, (part, recipe, processes) = run(seconds), key
                told = f"{part:<15} {recipe:<32} {processes} workers {rate:9,.0f} images/s"
                say(f"ResNet-{config.network.depth}, round {number} of {rounds}: {told}")
                rows.append({**dict(zip(KEY, key, strict=True)), "round": number, "images_per_second": rate})
    return pd.DataFrame(rows)


def summarise_images(measured: pd.DataFrame) -> pd.DataFrame:
    """Per part, recipe and workers: median images/s, its range, and the ratio to the reference within rounds."""
    rates = measured.set_index([*KEY, "round"])["images_per_second"]
    ratios = (rates / rates.xs(REFERENCE, level="recipe")).groupby(KEY, sort=False).median()
    found = rates.groupby(KEY, sort=False).agg(images_per_second="median", lowest="min", highest="max")
    return found.assign(ratio_to_reference=ratios).reset_index()


def limits(measured: pd.DataFrame, threads: int) -> dict[str, float]:
    """Of this suite, medians over rounds: images/s of a core that decodes, and of one that trains; what decoding costs.

    `decoding_percent` is its share of the time of one core that does both; `decoding_cores` is how many cores decode
    as fast as the step, with all that it runs on, trains.
    """
    ours = measured[measured["recipe"] == OURS].query("workers == 0").set_index(["part", "round"])["images_per_second"]
    decoded, trained = ours[IMAGES], ours[STEP]
    per_core = trained / threads
    shares = {"decoding_percent": 100 * per_core / (per_core + decoded), "decoding_cores": trained / decoded}
    rates = {"decoded_per_core": decoded, "trained_per_core": per_core}
    return {name: round(float(values.median()), 3) for name, values in {**rates, **shares}.items()}
