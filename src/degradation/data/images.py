"""The image sets: CIFAR-10 from torchvision's layout, a subset of it that comes with the package, and made-up ones.

CIFAR-10: A. Krizhevsky, "Learning Multiple Layers of Features from Tiny Images", 2009.
"""

import hashlib
import io
from dataclasses import dataclass
from pathlib import Path

import filelock
import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F
from torchvision.datasets import CIFAR10
from torchvision.datasets.utils import calculate_md5

from degradation.config import ConfigError, DataConfig

MINI = Path(__file__).parent / "cifar10_mini"


class DataError(Exception):
    """The images cannot be had; the message says which file, and what to do."""


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


def _from_files(pixels: np.ndarray, labels: Tensor) -> ImageSet:
    return ImageSet(torch.from_numpy(pixels).permute(0, 3, 1, 2).contiguous(), labels)  # [N, H, W, 3] in files


def load(
    config: DataConfig, data_dir: str | Path, device: torch.device | str = "cpu", download: bool = True
) -> tuple[ImageSet, ImageSet, ImageSet | None]:
    """Training, test and (where images are held out, the last of the training set) validation set, on a device."""
    try:
        if config.name == "cifar10":
            train, test = load_cifar10(data_dir, download)
        else:
            train, test = load_cifar10_mini() if config.name == "cifar10_mini" else make_synthetic(512, 256)
    except OSError as error:
        where = error.filename or data_dir
        raise DataError(f"cannot read {where} ({error.strerror or error}); name another folder as DATA_DIR") from error
    train, test = train.to(device), test.to(device)
    if not (held_out := config.validation_images):
        return train, test, None
    if held_out >= len(train):
        raise ConfigError(f"data.validation_images={held_out} leaves none of {len(train)} images to train on")
    return train[:-held_out], test, train[-held_out:]


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
            root.mkdir(parents=True, exist_ok=True)
            with filelock.FileLock(root / ".download.lock"):
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


def make_synthetic(train_images: int, test_images: int) -> tuple[ImageSet, ImageSet]:
    """Learnable noise for unit tests: each class is a fixed 4x4 colour pattern, enlarged, under pixel noise."""
    draw = torch.Generator().manual_seed(0)
    patterns = F.interpolate(torch.rand(10, 3, 4, 4, generator=draw), size=32)
    sets = []
    for count in (train_images, test_images):
        labels = torch.arange(count) % 10
        noise = torch.rand(count, 3, 32, 32, generator=draw)
        sets.append(ImageSet((255 * (0.6 * patterns[labels] + 0.4 * noise)).to(torch.uint8), labels))
    return sets[0], sets[1]
