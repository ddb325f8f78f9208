"""Images decoded while training: batches of random scale, crop, flip and colour that both arms of a pair share.

Augmentation follows He et al. (arXiv 1512.03385), section 3.4, and for colour Krizhevsky et al., "ImageNet
Classification with Deep Convolutional Neural Networks" (2012), section 4.1.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from degradation.data.folders import read_image
from degradation.data.images import ImageSet, Pictures, read_ahead, show
from degradation.data.resident import Normalizer, batches_per_epoch, draws


@lru_cache(2)
def _order(seed: int, epoch: int, count: int) -> Tensor:
    return torch.randperm(count, generator=draws(seed, 1, epoch))


@dataclass(frozen=True)
class Recipe:
    """The pixels of every batch as a function of (seed, iteration), in whichever process they are made."""

    train: Pictures  # on the host
    batch_size: int
    seed: int
    augment: bool
    per_epoch: int

    def read(self, iteration: int) -> tuple[Tensor, Tensor, Tensor]:
        """Pixels uint8 [B, crop, crop, 3], labels [B] and colour draws [B, 3] of the batch at an iteration.

        For each image in its place: the shorter side, uniform in a range, where the crop lies, whether it is flipped
        (section 3.4), and three draws of N(0, `data.colour`).
        """
        data, (epoch, position) = self.train.config, divmod(iteration, self.per_epoch)
        order = _order(self.seed, epoch, len(self.train))
        rows = order[position * self.batch_size : (position + 1) * self.batch_size]
        draw = np.random.default_rng((self.seed, 2, iteration))
        places = draw.random((len(rows), 4))
        colours = data.colour * draw.standard_normal((len(rows), 3), dtype=np.float32)
        least, most = data.shorter_side
        pixels = []
        for row, (size, top, left, flip) in zip(rows.tolist(), places.tolist(), strict=True):
            image = read_image(self.train.sources[row])
            if self.augment:
                shown = show(image, least + int(size * (most - least + 1)), data.crop or 0, (top, left))
                pixels.append(shown[:, ::-1] if flip < 0.5 else shown)
            else:
                pixels.append(show(image, least, data.crop or 0))
        return torch.from_numpy(np.stack(pixels)), self.train.labels[rows], torch.from_numpy(colours)


def principal_colours(sample: ImageSet) -> Tensor:
    """The principal components of RGB in [0, 1], each times its variance: the columns of [3, 3] (as AlexNet's)."""
    pixels = sample.images[:, :, ::4, ::4].transpose(0, 1).flatten(1).double() / 255
    values, vectors = torch.linalg.eigh(torch.cov(pixels))
    return (vectors * values).float()


class StreamedBatches:
    """Training batches of images of any size, a function of (seed, iteration) as those of resident.BatchStream.

    Decoded in the training set's worker processes ahead of need; normalised, after the colour draws, on its device.
    """

    def __init__(
        self,
        train: Pictures,
        normalize: Normalizer,
        batch_size: int,
        seed: int,
        augmentation: Literal["crop_flip", "none"] = "crop_flip",
        last_batch: Literal["drop", "keep"] = "drop",
        channels_last: bool = True,
    ):
        self.batches_per_epoch = batches_per_epoch(len(train), batch_size, last_batch)
        self.recipe = Recipe(train.to("cpu"), batch_size, seed, augmentation != "none", self.batches_per_epoch)
        self.normalize, self.channels_last, self.workers = normalize, channels_last, train.workers
        self.size, device = train.config.crop or 0, train.labels.device
        coloured = train.config.colour and augmentation != "none"
        self.basis = principal_colours(train.sample) if coloured else torch.zeros(3, 3, device=device)
        # Overwritten in place at each batch: a captured graph reads them where they lie.
        self.pixels = torch.zeros(batch_size, self.size, self.size, 3, dtype=torch.uint8, device=device)
        self.labels = torch.zeros(batch_size, dtype=torch.int64, device=device)
        self.colours = torch.zeros(batch_size, 3, device=device)
        self.ahead: Iterator[Any] = iter(())
        self.next = -1  # the iteration of which `ahead` gives the batch

    def _put(self, read: tuple[Tensor, Tensor, Tensor]) -> int:
        for held, new in zip((self.pixels, self.labels, self.colours), read, strict=True):
            held[: len(new)].copy_(new, non_blocking=True)
        return len(read[1])

    def seek(self, iteration: int) -> int:
        """Make the next `draw` give the batch at an iteration; returns its size. Costs least where it follows on."""
        if iteration != self.next:
            ahead = range(iteration, iteration + 10**9)
            self.ahead = read_ahead(self.recipe.read, ahead, self.workers, self.labels.device)
        self.next = iteration + 1
        return self._put(next(self.ahead))

    def close(self) -> None:
        """End the workers. They leave signals to the run, and so would outlive the one by which Python ends them."""
        self.ahead, self.next = iter(()), -1

    def draw(self, size: int) -> tuple[Tensor, Tensor]:
        """Images float32 [B, 3, crop, crop] and labels [B] of the batch sought, on the device alone."""
        x = self.normalize(self.pixels[:size].permute(0, 3, 1, 2))
        x = x + (self.colours[:size] @ self.basis.T)[:, :, None, None] / self.normalize.std
        return (x if self.channels_last else x.contiguous()), self.labels[:size].clone()

    def batch(self, iteration: int) -> tuple[Tensor, Tensor]:
        """Images float32 [B, 3, crop, crop] and labels [B] at an iteration, counted from 0, made here."""
        return self.draw(self._put(self.recipe.read(iteration)))
