"""Images held on the compute device as uint8: how they are normalised, and the batches that both arms of a pair share.

Preprocessing and augmentation follow He et al. (arXiv 1512.03385), section 4.2.
"""

from typing import Literal

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from degradation.data.images import ImageSet

PADDING = 4


class Normalizer:
    """What is subtracted from, and divides, an image in [0, 1]: computed on the training set alone.

    `pixel_mean` (section 4.2) subtracts a mean image [3, H, W]; `channel` standardises each of the 3 channels. With a
    scale of 255 the result is that of images in [0, 255].
    """

    def __init__(self, train: ImageSet, kind: Literal["pixel_mean", "channel"], scale: float = 1.0):
        mean, square = torch.zeros(2, *train.images.shape[1:], dtype=torch.float64, device=train.images.device)
        for part in train.images.split(500):  # sums of integers, exact whatever the split
            mean += part.double().sum(0)
            square += part.double().square().sum(0)
        mean, square = mean / (255 * len(train)), square / (255**2 * len(train))
        self.std = torch.ones(3, 1, 1, device=mean.device)
        if kind == "channel":
            mean, square = mean.mean((1, 2), keepdim=True).expand_as(mean), square.mean((1, 2), keepdim=True)
            self.std = (square - mean[:, :1, :1].square()).sqrt().float()
        self.mean, self.std = mean.float(), self.std / scale

    def __call__(self, images: Tensor) -> Tensor:
        """uint8 [N, 3, H, W] -> float32, normalised, un-augmented (the single view of section 4.2).

        A mean image of another size is resized to that of the images.
        """
        mean, size = self.mean, images.shape[2:]
        if mean.shape[1:] not in (size, (1, 1)):
            mean = F.interpolate(mean[None], size, mode="bilinear", align_corners=False)[0]
        return (images.float() / 255 - mean) / self.std


class ChannelNormalizer(Normalizer):
    """Constants that other code normalised each channel with, in place of the training set's own."""

    def __init__(self, mean: list[float], std: list[float], device: torch.device | str = "cpu"):
        self.mean, self.std = (torch.tensor(values, device=device).view(3, 1, 1) for values in (mean, std))


def batches_per_epoch(images: int, batch_size: int, last_batch: Literal["drop", "keep"]) -> int:
    """How many there are, the partial one at an epoch's end kept or not."""
    if batch_size > images:
        raise ValueError(f"batch_size={batch_size} is larger than the training set of {images} images")
    return images // batch_size + (last_batch == "keep" and images % batch_size > 0)


def draws(seed: int, stream: int, epoch: int) -> torch.Generator:
    """One generator per (seed, stream, epoch), on the CPU: the same numbers on every device, and no state to save."""
    state = np.random.SeedSequence((seed, stream, epoch)).generate_state(1, np.uint64)
    return torch.Generator().manual_seed(int(state[0]) >> 1)


class BatchStream:
    """The training batches as a pure function of (seed, iteration): both arms see the same, and resume is exact.

    Each epoch is a fresh permutation. Every image is padded by 4 zeros on each side, cropped to its size at one of 81
    offsets and flipped with probability 1/2, drawn per image (section 4.2). Zeros are padded `after` normalisation, or
    `before` it: then they are black, and the mean image lies still where the crop moves.
    Batches are on the device of the training set.
    """

    def __init__(
        self,
        train: ImageSet,
        normalize: Normalizer,
        batch_size: int,
        seed: int,
        augmentation: Literal["crop_flip", "none"] = "crop_flip",
        last_batch: Literal["drop", "keep"] = "drop",
        channels_last: bool = True,
        padding: Literal["after", "before"] = "after",
    ):
        self.labels, self.batch_size, self.seed, self.padding = train.labels, batch_size, seed, padding
        self.augmentation, self.channels_last, self.count = augmentation, channels_last, len(train)
        self.batches_per_epoch = batches_per_epoch(len(train), batch_size, last_batch)
        self.size, device = train.images.shape[-1], train.images.device
        self.padded_size, pad = self.size + 2 * PADDING, (PADDING,) * 4
        # Pixels as rows of 3 channels, so that a crop is one gather and comes out in channels_last order.
        self.pixels = F.pad(train.images, pad).permute(0, 2, 3, 1).reshape(-1, 3)
        mean = normalize.mean.expand(train.images.shape[1:])
        self.mean = (F.pad(mean, pad) if padding == "after" else mean).permute(1, 2, 0).reshape(-1, 3)
        self.std = normalize.std.flatten()
        self.steps = torch.arange(max(batch_size, self.size), device=device)
        self.start = torch.zeros((), dtype=torch.int64, device=device)  # of the next batch in the epoch's order
        self.at = self.epoch = -1  # what `start` and `order` hold, known without asking the device
        # Overwritten in place at each epoch: a captured graph reads them where they lie.
        self.order = torch.zeros(self.count, dtype=torch.int64, device=device)
        self.offsets = torch.full((self.count, 2), PADDING, device=device)
        self.flips = torch.zeros(self.count, dtype=torch.bool, device=device)

    def seek(self, iteration: int) -> int:
        """Make the next `draw` give the batch at an iteration; returns its size. Costs nothing where it follows on."""
        epoch, position = divmod(iteration, self.batches_per_epoch)
        if epoch != self.epoch:
            self.epoch = epoch
            self.order.copy_(torch.randperm(self.count, generator=draws(self.seed, 1, epoch)))
            if self.augmentation == "crop_flip":
                draw = draws(self.seed, 2, epoch)
                self.offsets.copy_(torch.randint(0, 2 * PADDING + 1, (self.count, 2), generator=draw))
                self.flips.copy_(torch.randint(0, 2, (self.count,), generator=draw, dtype=torch.bool))
        at = position * self.batch_size
        if at != self.at:
            self.start.fill_(at)
        size = min(self.batch_size, self.count - at)
        self.at = at + size
        return size

    def draw(self, size: int) -> tuple[Tensor, Tensor]:
        """Images float32 [B, 3, H, W] and labels [B] of the batch sought, on the device alone, and step past it."""
        at = self.start + self.steps[:size]
        rows, offsets, flips = (drawn.index_select(0, at) for drawn in (self.order, self.offsets, self.flips))
        steps = self.steps[: self.size]
        across = torch.where(flips[:, None], self.size - 1 - steps, steps)
        crop = (offsets[:, :1] + steps)[:, :, None] * self.padded_size + (offsets[:, 1:] + across)[:, None, :]
        pixels = (rows[:, None, None] * self.padded_size**2 + crop).flatten()
        x = self.pixels.index_select(0, pixels).float().div_(255)
        mean = self.mean.index_select(0, crop.flatten()) if self.padding == "after" else self.mean.repeat(size, 1)
        x = x.sub_(mean).div_(self.std)
        x = x.view(size, self.size, self.size, 3).permute(0, 3, 1, 2)
        self.start += size
        return (x if self.channels_last else x.contiguous()), self.labels.index_select(0, rows)

    def batch(self, iteration: int) -> tuple[Tensor, Tensor]:
        """Images float32 [B, 3, H, W] and labels [B] at an iteration, counted from 0."""
        return self.draw(self.seek(iteration))
