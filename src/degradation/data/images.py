"""Image sets held on the compute device as uint8, and the batch stream that both arms of a pair share.

CIFAR-10: A. Krizhevsky, "Learning Multiple Layers of Features from Tiny Images", 2009. Preprocessing and
augmentation follow He et al. (arXiv 1512.03385), section 4.2.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import filelock
import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F
from torchvision.datasets import CIFAR10
from torchvision.datasets.utils import calculate_md5

Normalization = Literal["pixel_mean", "channel"]
Augmentation = Literal["crop_flip", "none"]
LastBatch = Literal["drop", "keep"]

MINI = Path(__file__).parent / "cifar10_mini"
PADDING = 4
STRIP = 500  # images in one strip of the embedded subset: 16,000 rows, under WebP's limit of 16,383


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
    sets = []
    for train in (True, False):
        split = CIFAR10(str(root), train=train)
        images = torch.from_numpy(split.data).permute(0, 3, 1, 2).contiguous()
        sets.append(ImageSet(images, torch.tensor(split.targets)))
    return sets[0], sets[1]


def load_cifar10_mini(folder: Path = MINI) -> tuple[ImageSet, ImageSet]:
    """The embedded subset: the first 500 training and 100 test images of every class, in their original order.

    Raises:
        DataError: a file of the installed package is missing or damaged.
    """
    sets = []
    for split in ("train", "test"):
        try:
            labels = np.loadtxt(folder / f"{split}.csv", delimiter=",", skiprows=1, usecols=1, dtype=np.int64)
            strips = [np.asarray(Image.open(strip)) for strip in sorted(folder.glob(f"{split}-*.webp"))]
            pixels = np.concatenate(strips).reshape(-1, 32, 32, 3)
        except (OSError, ValueError) as error:
            raise DataError(
                f"the embedded images in {folder} are damaged ({error}); install the package again"
            ) from error
        if len(pixels) != len(labels):
            raise DataError(f"{folder} holds {len(pixels)} {split} images for {len(labels)} labels; install it again")
        sets.append(ImageSet(torch.from_numpy(pixels).permute(0, 3, 1, 2).contiguous(), torch.from_numpy(labels)))
    return sets[0], sets[1]


def write_cifar10_mini(train: ImageSet, test: ImageSet, folder: Path = MINI) -> None:
    """Make the embedded subset from all of CIFAR-10: lossless WebP strips and a table of labels per split."""
    folder.mkdir(parents=True, exist_ok=True)
    for split, full, per_class in (("train", train, 500), ("test", test, 100)):
        rows = torch.cat([(full.labels == c).nonzero().flatten()[:per_class] for c in range(10)]).sort().values
        pixels = full.images[rows].permute(0, 2, 3, 1).numpy()
        for start in range(0, len(rows), STRIP):
            strip = pixels[start : start + STRIP].reshape(-1, 32, 3)
            path = folder / f"{split}-{start // STRIP:02d}.webp"
            Image.fromarray(strip).save(path, lossless=True, quality=100, method=6)
        lines = [f"{row},{label}" for row, label in zip(rows.tolist(), full.labels[rows].tolist(), strict=True)]
        (folder / f"{split}.csv").write_text("\n".join(["index,label", *lines]) + "\n")


def make_synthetic(train_images: int, test_images: int, classes: int = 10) -> tuple[ImageSet, ImageSet]:
    """Learnable noise for unit tests: each class is a fixed 4x4 colour pattern, enlarged, under pixel noise."""
    draw = torch.Generator().manual_seed(0)
    patterns = F.interpolate(torch.rand(classes, 3, 4, 4, generator=draw), size=32)
    sets = []
    for count in (train_images, test_images):
        labels = torch.arange(count) % classes
        noise = torch.rand(count, 3, 32, 32, generator=draw)
        sets.append(ImageSet((255 * (0.6 * patterns[labels] + 0.4 * noise)).to(torch.uint8), labels))
    return sets[0], sets[1]


class Normalizer:
    """What is subtracted from, and divides, an image in [0, 1]: computed on the training set alone.

    `pixel_mean` (section 4.2) subtracts a mean image [3, H, W]; `channel` standardises each of the 3 channels.
    """

    def __init__(self, train: ImageSet, kind: Normalization):
        mean, square = torch.zeros(2, *train.images.shape[1:], dtype=torch.float64, device=train.images.device)
        for part in train.images.split(5000):
            mean += part.double().sum(0)
            square += part.double().square().sum(0)
        mean, square = mean / (255 * len(train)), square / (255**2 * len(train))
        self.std = torch.ones(3, 1, 1, device=mean.device)
        if kind == "channel":
            mean, square = mean.mean((1, 2), keepdim=True).expand_as(mean), square.mean((1, 2), keepdim=True)
            self.std = (square - mean[:, :1, :1].square()).sqrt().float()
        self.mean = mean.float()

    def __call__(self, images: Tensor) -> Tensor:
        """uint8 [N, 3, H, W] -> float32, normalised, un-augmented (the single view of section 4.2)."""
        return (images.float() / 255 - self.mean) / self.std


def _draws(seed: int, stream: int, epoch: int) -> torch.Generator:
    # One generator per (seed, stream, epoch), on the CPU: the same numbers on every device, and no state to save.
    state = np.random.SeedSequence((seed, stream, epoch)).generate_state(1, np.uint64)
    return torch.Generator().manual_seed(int(state[0]) >> 1)


class BatchStream:
    """The training batches as a pure function of (seed, iteration): both arms see the same, and resume is exact.

    Each epoch is a fresh permutation. Every image is padded by 4 zeros on each side after normalisation, cropped to
    its size at one of 81 offsets and flipped with probability 1/2, drawn per image (section 4.2).

    Args:
        train: the training set, on the device where batches are wanted.
        last_batch: the partial batch at the end of an epoch is dropped, or kept as a smaller one.

    Raises:
        ValueError: the batch is larger than the set.
    """

    def __init__(
        self,
        train: ImageSet,
        normalize: Normalizer,
        batch_size: int,
        seed: int,
        augmentation: Augmentation = "crop_flip",
        last_batch: LastBatch = "drop",
        channels_last: bool = True,
    ):
        if batch_size > len(train):
            raise ValueError(f"batch_size={batch_size} is larger than the training set of {len(train)} images")
        self.labels, self.batch_size, self.seed = train.labels, batch_size, seed
        self.augmentation, self.channels_last, self.count = augmentation, channels_last, len(train)
        self.batches_per_epoch = len(train) // batch_size + (last_batch == "keep" and len(train) % batch_size > 0)
        self.device = train.images.device
        self.size = train.images.shape[-1]
        self.padded_size = self.size + 2 * PADDING
        pad = (PADDING,) * 4
        # Pixels as rows of 3 channels, so that a crop is one gather and comes out in channels_last order.
        self.pixels = F.pad(train.images, pad).permute(0, 2, 3, 1).reshape(-1, 3)
        self.mean = F.pad(normalize.mean, pad).permute(1, 2, 0).reshape(-1, 3).contiguous()
        self.std = normalize.std.flatten()
        self.steps = torch.arange(max(batch_size, self.size), device=self.device)
        self.start = torch.zeros((), dtype=torch.int64, device=self.device)  # of the next batch in the epoch's order
        self.at = -1  # what `start` holds, known without asking the device
        self.epoch = -1
        # Overwritten in place at each epoch: a captured graph reads them where they lie.
        self.order = torch.zeros(self.count, dtype=torch.int64, device=self.device)
        self.offsets = torch.full((self.count, 2), PADDING, device=self.device)
        self.flips = torch.zeros(self.count, dtype=torch.bool, device=self.device)

    def _start_epoch(self, epoch: int) -> None:
        self.epoch = epoch
        self.order.copy_(torch.randperm(self.count, generator=_draws(self.seed, 1, epoch)))
        if self.augmentation == "crop_flip":
            draw = _draws(self.seed, 2, epoch)
            self.offsets.copy_(torch.randint(0, 2 * PADDING + 1, (self.count, 2), generator=draw))
            self.flips.copy_(torch.randint(0, 2, (self.count,), generator=draw, dtype=torch.bool))

    def seek(self, iteration: int) -> int:
        """Make the next `draw` give the batch at an iteration; returns its size. Costs nothing where it follows on."""
        epoch, position = divmod(iteration, self.batches_per_epoch)
        if epoch != self.epoch:
            self._start_epoch(epoch)
        at = position * self.batch_size
        if at != self.at:
            self.start.fill_(at)
        size = min(self.batch_size, self.count - at)
        self.at = at + size
        return size

    def indices(self, iteration: int) -> tuple[Tensor, Tensor, Tensor]:
        """Rows [B], crop offsets (top, left) [B, 2] in 0..8 and flips [B] of the batch at an iteration."""
        size = self.seek(iteration)
        self.at = -1  # nothing is drawn
        return self._peek(size)

    def _peek(self, size: int) -> tuple[Tensor, Tensor, Tensor]:
        at = self.start + self.steps[:size]
        return self.order.index_select(0, at), self.offsets.index_select(0, at), self.flips.index_select(0, at)

    def draw(self, size: int) -> tuple[Tensor, Tensor]:
        """Images float32 [B, 3, H, W] and labels [B] of the batch sought, on the device alone, and step past it."""
        rows, offsets, flips = self._peek(size)
        steps = self.steps[: self.size]
        across = torch.where(flips[:, None], self.size - 1 - steps, steps)
        crop = (offsets[:, :1] + steps)[:, :, None] * self.padded_size + (offsets[:, 1:] + across)[:, None, :]
        pixels = (rows[:, None, None] * self.padded_size**2 + crop).flatten()
        x = (
            self.pixels.index_select(0, pixels)
            .float()
            .div_(255)
            .sub_(self.mean.index_select(0, crop.flatten()))
            .div_(self.std)
        )
        x = x.view(size, self.size, self.size, 3).permute(0, 3, 1, 2)
        self.start += size
        return (x if self.channels_last else x.contiguous()), self.labels.index_select(0, rows)

    def batch(self, iteration: int) -> tuple[Tensor, Tensor]:
        """Images float32 [B, 3, H, W] and labels [B] at an iteration, counted from 0."""
        return self.draw(self.seek(iteration))
