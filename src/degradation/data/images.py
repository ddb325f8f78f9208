"""The image sets: CIFAR-10 from torchvision's layout, subsets that come with the package, folders, and made-up ones.

CIFAR-10: A. Krizhevsky, "Learning Multiple Layers of Features from Tiny Images", 2009.
"""

import hashlib
import io
import signal
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset
from torchvision.datasets import CIFAR10
from torchvision.datasets.utils import calculate_md5

from degradation.config import SMALL, ConfigError, DataConfig, DataError
from degradation.data.folders import fetching, find_images, read_image, read_imagenette_mini
from degradation.ending import SIGNALS

MINI = Path(__file__).parent / "cifar10_mini"
SAMPLE = 4096  # training images on which the normalisation of large sets is computed


@dataclass(frozen=True)
class ImageSet:
    """Images uint8 [N, 3, H, W] and labels int64 [N], on one device."""

    images: Tensor
    labels: Tensor

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, rows: slice | Tensor) -> "ImageSet":
        return ImageSet(self.images[rows], self.labels[rows])

    def to(self, device: torch.device | str) -> "ImageSet":
        return ImageSet(self.images.to(device), self.labels.to(device))

    def batches(self, size: int) -> Iterator["ImageSet"]:
        """All images once, in order; the last batch may be smaller."""
        for start in range(0, len(self), size):
            yield self[start : start + size]

    @property
    def sample(self) -> "ImageSet":
        return self


def read_ahead(read: Callable[[Any], Any], keys: Iterable[Any], workers: int, device: torch.device) -> Iterator[Any]:
    """What `read` gives for each key, in order: by so many worker processes ahead of need, or here where that is 0.

    In memory from which it goes to a CUDA device at once.
    """
    loader: DataLoader[Any] = DataLoader(
        _Reader(read),
        batch_size=None,
        sampler=keys,
        num_workers=workers,
        worker_init_fn=_leave_signals,
        pin_memory=device.type == "cuda",
    )
    for item in loader:
        if isinstance(item, DataError):
            raise item
        yield item


def _leave_signals(_worker: int) -> None:
    # A signal to the whole group is the run's to answer, with a checkpoint: it ends its workers when it is done.
    for number in SIGNALS:
        signal.signal(number, signal.SIG_IGN)


class _Reader(Dataset[Any]):
    def __init__(self, read: Callable[[Any], Any]):
        self.read = read

    def __getitem__(self, key: Any) -> Any:
        try:
            return self.read(key)
        except DataError as error:
            return error  # raised by a worker, it would be a page of traceback


def size_at(image: Image.Image, side: int) -> tuple[int, int]:
    """Width and height of an image resized to that shorter side."""
    scale = side / min(image.size)
    return round(scale * image.width), round(scale * image.height)


def show(image: Image.Image, side: int, crop: int, at: tuple[float, float] | None = None) -> np.ndarray:
    """Of an image resized to that shorter side, a crop: uint8 [crop, crop, 3].

    The crop lies at the given fractions, in [0, 1), of the places that there are (down, across), else in the centre.
    """
    across, down = size_at(image, side)
    rooms = down - crop, across - crop
    top, left = (
        (round(room / 2) for room in rooms)
        if at is None
        else (int(u * (room + 1)) for u, room in zip(at, rooms, strict=True))
    )
    x, y = image.width / across, image.height / down  # only what is shown is computed
    box = (left * x, top * y, (left + crop) * x, (top + crop) * y)
    return np.asarray(image.resize((crop, crop), Image.Resampling.BILINEAR, box))


@dataclass(frozen=True)
class Pictures:
    """Images of any size, decoded when they are asked for, and labels int64 [N] on the device that they go to.

    In order, an image is its single view: the centre crop at the least shorter side (section 3.4).
    """

    sources: np.ndarray  # of files' names, or of images in memory
    labels: Tensor
    config: DataConfig
    workers: int = 0  # processes that decode

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, rows: slice) -> "Pictures":
        return replace(self, sources=self.sources[rows], labels=self.labels[rows])

    def to(self, device: torch.device | str) -> "Pictures":
        return replace(self, labels=self.labels.to(device))

    def decode(self, rows: slice) -> Tensor:
        """Their single views, uint8 [N, 3, crop, crop]."""
        side, crop = self.config.shorter_side[0], self.config.crop or 0
        shown = [show(read_image(source), side, crop) for source in self.sources[rows]]
        return torch.from_numpy(np.stack(shown)).permute(0, 3, 1, 2)

    @property
    def fingerprint(self) -> str:
        """Of what they are called (files), or of their sizes, in order."""
        names = "\n".join("/".join(Path(s).parts[-2:]) if isinstance(s, str) else str(s.size) for s in self.sources)
        return f"names {_sha256(names.encode())[:12]}"

    def batches(self, size: int) -> Iterator[ImageSet]:
        """The single view of all images once, in order; the last batch may be smaller."""
        rows = [slice(start, start + size) for start in range(0, len(self), size)]
        decoded = read_ahead(self.to("cpu").decode, rows, self.workers, self.labels.device)  # workers have no CUDA
        for part, images in zip(rows, decoded, strict=True):
            yield ImageSet(images.to(self.labels.device), self.labels[part])

    @cached_property
    def sample(self) -> ImageSet:
        """The single view of the first 4,096 (they come in no order): what normalisation is computed on."""
        parts = [part.images for part in self[:SAMPLE].batches(256)]
        return ImageSet(torch.cat(parts), self.labels[:SAMPLE])


def _from_files(pixels: np.ndarray, labels: Tensor) -> ImageSet:
    return ImageSet(torch.from_numpy(pixels).permute(0, 3, 1, 2).contiguous(), labels)  # [N, H, W, 3] in files


Images = ImageSet | Pictures


def load(
    config: DataConfig,
    data_dir: str | Path,
    device: torch.device | str = "cpu",
    download: bool = True,
    workers: int = 0,
) -> tuple[Images, Images, Images | None]:
    """Training, test and (where images are held out, the last of the training set) validation set, on a device."""
    train: Images
    test: Images
    try:
        if config.name not in SMALL:
            mini = config.name == "imagenette_mini"
            found = read_imagenette_mini() if mini else find_images(config.name, data_dir, download)
            train, test = (_pictures(*files, config, workers) for files in found)
        elif config.name == "cifar10":
            train, test = load_cifar10(data_dir, download)
        else:
            train, test = load_cifar10_mini() if config.name == "cifar10_mini" else make_synthetic(512, 256)
    except OSError as error:
        where = error.filename or data_dir
        raise DataError(f"cannot read {where} ({error.strerror or error}); name another folder as DATA_DIR") from error
    if config.crop and isinstance(train, ImageSet) and isinstance(test, ImageSet):
        train, test = (
            _pictures(list(map(Image.fromarray, held.images.permute(0, 2, 3, 1).numpy())), held.labels.tolist(), config)
            for held in (train, test)
        )
    train, test = train.to(device), test.to(device)
    if not (held_out := config.validation_images):
        return train, test, None
    if held_out >= len(train):
        raise ConfigError(f"data.validation_images={held_out} leaves none of {len(train)} images to train on")
    return train[:-held_out], test, train[-held_out:]


def _pictures(sources: list[Any], labels: list[int], config: DataConfig, workers: int = 0) -> Pictures:
    # In one fixed order at random, so that any first and any last images are of all classes.
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(0))
    shuffled = np.empty(len(labels), dtype=object)  # filled in place: numpy would make arrays of images
    shuffled[:] = sources
    return Pictures(shuffled[order.numpy()], torch.tensor(labels)[order], config, workers)


def load_cifar10(data_dir: str | Path, download: bool = True) -> tuple[ImageSet, ImageSet]:
    """All of CIFAR-10 (50,000 training and 10,000 test images) from torchvision's layout, checksums verified.

    Raises:
        DataError: files are missing and cannot be downloaded, or a file has another MD5 than the published one.
    """
    root = Path(data_dir).expanduser()
    if root.name == CIFAR10.base_folder:
        root = root.parent
    folder = root / CIFAR10.base_folder
    files = [*CIFAR10.train_list, *CIFAR10.test_list, [CIFAR10.meta["filename"], CIFAR10.meta["md5"]]]
    if not any((folder / name).exists() for name, _ in files) and download:
        try:
            with fetching(root):
                CIFAR10(str(root), download=True)
        except Exception as error:  # whatever torchvision, urllib or the disk raise: the remedy is the same
            reason = str(error).splitlines()[0] if str(error) else type(error).__name__
            raise DataError(
                f"CIFAR-10 is not in {folder} and could not be downloaded ({reason}); "
                f"put the extracted {CIFAR10.base_folder} in a folder and name that folder as DATA_DIR, "
                "or use data=cifar10_mini, which needs no download"
            ) from error
    for name, md5 in files:
        path = folder / name
        if not path.is_file():
            raise DataError(f"{path} is missing (expected MD5 {md5}); extract cifar-10-python.tar.gz into {root}")
        if (found := calculate_md5(str(path))) != md5:
            raise DataError(f"{path} is corrupted: its MD5 is {found}, the published one {md5}; fetch it again")
    train, test = (CIFAR10(str(root), train=train) for train in (True, False))
    return _from_files(train.data, torch.tensor(train.targets)), _from_files(test.data, torch.tensor(test.targets))


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def load_cifar10_mini(folder: Path = MINI) -> tuple[ImageSet, ImageSet]:
    """The embedded subset: the first 500 training and 100 test images of every class, in their original order."""
    sets = []
    for split in ("train", "test"):
        try:
            sums = [line.split() for line in (folder / "SHA256SUMS").read_text().splitlines()]
            files = {name: (folder / name).read_bytes() for _, name in sums if name.startswith(split)}
            if wrong := [name for sha256, name in sums if name in files and _sha256(files[name]) != sha256]:
                raise ValueError(f"{wrong[0]} is not as SHA256SUMS says")
            labels = np.loadtxt(
                io.BytesIO(files.pop(f"{split}.csv")), delimiter=",", skiprows=1, usecols=1, dtype=np.int64
            )
            strips = [np.asarray(Image.open(io.BytesIO(files[name]))) for name in sorted(files)]
            pixels = np.concatenate(strips).reshape(labels.size, 32, 32, 3)
        except (OSError, ValueError, LookupError) as error:
            raise DataError(f"the images in {folder} are damaged ({error}); install the package again") from error
        sets.append(_from_files(pixels, torch.from_numpy(labels)))
    return sets[0], sets[1]


def make_synthetic(train_images: int, test_images: int, side: int = 32) -> tuple[ImageSet, ImageSet]:
    """Learnable noise for unit tests: each class is a fixed 4x4 colour pattern, enlarged, under pixel noise."""
    draw = torch.Generator().manual_seed(0)
    patterns = F.interpolate(torch.rand(10, 3, 4, 4, generator=draw), size=side)
    sets = []
    for count in (train_images, test_images):
        labels = torch.arange(count) % 10
        noise = torch.rand(count, 3, side, side, generator=draw)
        sets.append(ImageSet((255 * (0.6 * patterns[labels] + 0.4 * noise)).to(torch.uint8), labels))
    return sets[0], sets[1]
