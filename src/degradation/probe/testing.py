"""How the paper tests on ImageNet (section 3.4): ten crops, or whole images at several sizes; top-1 and top-5."""

from functools import partial
from typing import Literal

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor, nn
from torchvision.transforms.functional import ten_crop

from degradation.data.folders import read_image
from degradation.data.images import Pictures, read_ahead, show, size_at
from degradation.probe.views import Views, evaluating, layout

Way = Literal["centre", "ten_crop", "multi_scale"]
SCALES = (224, 256, 384, 480, 640)  # shorter sides, where the crops of training are of 224 pixels
CROP = 224


def view(image: Image.Image, way: Way, side: int, crop: int) -> list[list[np.ndarray]]:
    """What is shown of an image, each uint8 [H, W, 3]: groups of equal size.

    The centre crop at a shorter side; ten crops there (four corners, the centre, and their flips, as AlexNet's); or the
    whole image and its flip at each of five sizes, in proportion to the crop.
    """
    if way == "centre":
        return [[show(image, side, crop)]]
    if way == "ten_crop":
        whole = image.resize(size_at(image, side), Image.Resampling.BILINEAR)
        return [[np.asarray(part) for part in ten_crop(whole, [crop, crop])]]
    sizes = [size_at(image, round(scale * crop / CROP)) for scale in SCALES]
    wholes = [image.resize(size, Image.Resampling.BILINEAR) for size in sizes]
    return [[np.asarray(whole), np.asarray(ImageOps.mirror(whole))] for whole in wholes]


def _read(pictures: Pictures, way: Way, rows: slice) -> list[Tensor]:
    # Of each group, uint8 [N, views, H, W, 3]: where sizes differ from image to image, N is 1.
    side, crop = pictures.config.shorter_side[0], pictures.config.crop or 0
    shown = [view(read_image(source), way, side, crop) for source in pictures.sources[rows]]
    return [torch.from_numpy(np.stack([np.stack(group) for group in groups])) for groups in zip(*shown, strict=True)]


def scores(network: nn.Module, views: Views, way: Way) -> Tensor:
    """Softmax scores [N, classes] of every image once, in eval mode: averages over what is shown of it.

    Over a whole image the network is fully convolutional: the average over places of what its last layer gives is what
    the layer gives of the average, global pooling that it has already.
    """
    pictures, device = views.images, views.device
    assert isinstance(pictures, Pictures)
    step = {"centre": views.batch_size, "ten_crop": max(1, views.batch_size // 10), "multi_scale": 1}[way]
    rows = [slice(start, start + step) for start in range(0, len(pictures), step)]
    found = []
    with evaluating(network):
        for groups in read_ahead(partial(_read, pictures.to("cpu"), way), rows, pictures.workers, device):
            parts = []
            for group in groups:
                x = views.normalize(group.to(device).flatten(0, 1).permute(0, 3, 1, 2))
                with views.autocast():
                    logits = network(x.contiguous(memory_format=layout(views.channels_last)))
                parts.append(logits.float().softmax(1).view(*group.shape[:2], -1).mean(1))
            found.append(torch.stack(parts).mean(0))
    return torch.cat(found)


def error_in_top(scores: Tensor, labels: Tensor, k: int) -> float:
    """Percent of images whose class is not among the k of highest score; 0 where there are no more than k classes."""
    top = scores.topk(min(k, scores.shape[1])).indices
    return 100 * (1 - (top == labels[:, None]).any(1).double().mean().item())
