"""Normalisation and the batch stream, against naive references."""

from collections import Counter

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from degradation.data.images import ImageSet, make_synthetic
from degradation.data.resident import BatchStream, ChannelNormalizer, Normalizer


@pytest.fixture(scope="module")
def train() -> ImageSet:
    return make_synthetic(200, 1)[0]


def make_stream(train: ImageSet, seed: int = 0, normalization: str = "pixel_mean", **options: object) -> BatchStream:
    options = {"batch_size": 64, **options}
    return BatchStream(train, Normalizer(train, normalization), seed=seed, **options)  # type: ignore[arg-type]


def indices(stream: BatchStream, iteration: int) -> tuple[Tensor, Tensor, Tensor]:
    """Rows [B], crop offsets (top, left) [B, 2] in 0..8 and flips [B] of the batch at an iteration."""
    size = stream.seek(iteration)
    batch = slice(stream.at - size, stream.at)
    stream.at = -1  # nothing is drawn
    return stream.order[batch].clone(), stream.offsets[batch].clone(), stream.flips[batch].clone()


def naive_batch(train: ImageSet, normalize: Normalizer, rows: Tensor, offsets: Tensor, flips: Tensor) -> Tensor:
    """Normalise, pad with zeros, crop, flip: one image at a time."""
    views = []
    for row, (top, left), flip in zip(rows.tolist(), offsets.tolist(), flips.tolist(), strict=True):
        padded = F.pad((train.images[row].float() / 255 - normalize.mean) / normalize.std, (4, 4, 4, 4))
        view = padded[:, top : top + 32, left : left + 32]
        views.append(view.flip(2) if flip else view)
    return torch.stack(views)


@pytest.mark.parametrize("normalization", ["pixel_mean", "channel"])
@pytest.mark.parametrize("channels_last", [True, False])
def test_a_batch_is_its_naive_reference(train: ImageSet, normalization: str, channels_last: bool) -> None:
    stream = make_stream(train, normalization=normalization, channels_last=channels_last)
    normalize = Normalizer(train, normalization)  # type: ignore[arg-type]
    for iteration in (0, 1, 7):
        rows, offsets, flips = indices(stream, iteration)
        x, y = stream.batch(iteration)
        torch.testing.assert_close(x, naive_batch(train, normalize, rows, offsets, flips), rtol=0, atol=1e-5)
        assert torch.equal(y, train.labels[rows])
        layout = torch.channels_last if channels_last else torch.contiguous_format
        assert x.dtype == torch.float32
        assert x.is_contiguous(memory_format=layout)


def test_zeros_padded_before_normalisation_are_black_and_the_mean_image_lies_still(train: ImageSet) -> None:
    stream, normalize = make_stream(train, padding="before"), Normalizer(train, "pixel_mean")
    rows, offsets, flips = indices(stream, 1)
    x = stream.batch(1)[0]
    for image, row, (top, left), flip in zip(x, rows.tolist(), offsets.tolist(), flips.tolist(), strict=True):
        view = F.pad(train.images[row].float() / 255, (4, 4, 4, 4))[:, top : top + 32, left : left + 32]
        expected = ((view.flip(2) if flip else view) - normalize.mean) / normalize.std
        torch.testing.assert_close(image, expected, rtol=0, atol=1e-5)


def test_padding_is_zero_after_normalisation(train: ImageSet) -> None:
    stream = make_stream(train, batch_size=200)
    x = stream.batch(0)[0]
    _, offsets, flips = indices(stream, 0)
    above = (offsets[:, 0] == 0).nonzero().flatten()
    assert len(above)
    assert x[above, :, :4].abs().max() == 0
    assert x[above, :, 4:28, 4:28].abs().min(dim=0).values.max() > 0
    right = ((offsets[:, 1] == 8) & flips).nonzero().flatten()  # padding on the right, mirrored to the left
    assert len(right)
    assert x[right, :, :, :4].abs().max() == 0


def test_crops_cover_all_81_offsets_and_both_flips_image_by_image(train: ImageSet) -> None:
    stream = make_stream(train, batch_size=200)
    draws = [indices(stream, epoch) for epoch in range(15)]
    seen = Counter((*offset, flip) for _, o, f in draws for offset, flip in zip(o.tolist(), f.tolist(), strict=True))
    assert set(seen) == {(top, left, flip) for top in range(9) for left in range(9) for flip in (False, True)}
    one_batch = {tuple(offset) for offset in draws[0][1].tolist()}
    assert len(one_batch) > 60
    assert 60 < draws[0][2].sum() < 140


def test_no_augmentation_gives_the_images_themselves(train: ImageSet) -> None:
    stream = make_stream(train, augmentation="none")
    rows, _, flips = indices(stream, 2)
    normalize = Normalizer(train, "pixel_mean")
    assert not flips.any()
    torch.testing.assert_close(stream.batch(2)[0], normalize(train.images[rows]), rtol=0, atol=1e-6)


def test_kept_last_batches_visit_every_image_once_an_epoch(train: ImageSet) -> None:
    stream = make_stream(train, last_batch="keep")
    assert stream.batches_per_epoch == 4
    orders = []
    for epoch in range(3):
        parts = [indices(stream, 4 * epoch + i)[0] for i in range(4)]
        assert [len(part) for part in parts] == [64, 64, 64, 8]
        assert len(stream.batch(4 * epoch + 3)[1]) == 8
        orders.append(torch.cat(parts).tolist())
        assert sorted(orders[-1]) == list(range(200))
    assert orders[0] != orders[1] != orders[2]


def test_dropped_last_batches_visit_no_image_twice_an_epoch(train: ImageSet) -> None:
    stream = make_stream(train, last_batch="drop")
    assert stream.batches_per_epoch == 3
    rows = torch.cat([indices(stream, 3 + i)[0] for i in range(3)]).tolist()
    assert len(set(rows)) == len(rows) == 192
    assert torch.equal(indices(stream, 3)[0], stream.order[:64])


@pytest.mark.parametrize(("size", "keep", "drop"), [(50_000, 391, 390), (45_000, 352, 351)])
def test_batches_an_epoch_of_cifar10(size: int, keep: int, drop: int) -> None:
    images = torch.zeros(1, 3, 1, 1, dtype=torch.uint8).expand(size, 3, 1, 1)
    train = ImageSet(images, torch.zeros(size, dtype=torch.int64))
    for last_batch, count in (("keep", keep), ("drop", drop)):
        assert make_stream(train, batch_size=128, last_batch=last_batch).batches_per_epoch == count


def test_the_stream_is_a_function_of_seed_and_iteration(train: ImageSet) -> None:
    forward, backward = make_stream(train, seed=5), make_stream(train, seed=5)
    expected = [forward.batch(i) for i in range(8)]
    torch.manual_seed(99)
    for i in (7, 0, 3, 2, 6, 3, 1, 5, 4):
        x, y = backward.batch(i)
        assert torch.equal(x, expected[i][0])
        assert torch.equal(y, expected[i][1])


def test_seeds_give_different_orders_crops_and_flips(train: ImageSet) -> None:
    parts = [indices(make_stream(train, seed=seed), 0) for seed in (0, 1)]
    assert all(not torch.equal(a, b) for a, b in zip(*parts, strict=True))
    again = indices(make_stream(train, seed=0), 0)
    assert all(torch.equal(a, b) for a, b in zip(parts[0], again, strict=True))


def test_a_batch_larger_than_the_set_is_refused(train: ImageSet) -> None:
    assert make_stream(train, batch_size=200).batches_per_epoch == 1
    with pytest.raises(ValueError, match=r"batch_size=201 .* 200 images"):
        make_stream(train, batch_size=201)


def test_normalisation_of_the_training_set(train: ImageSet) -> None:
    x = Normalizer(train, "pixel_mean")(train.images)
    assert x.mean(0).abs().max() < 1e-6
    torch.testing.assert_close(x + (train.images.float() / 255).mean(0), train.images.float() / 255)  # no scaling
    x = Normalizer(train, "channel")(train.images)
    assert x.mean((0, 2, 3)).abs().max() < 1e-5
    torch.testing.assert_close(x.std((0, 2, 3), correction=0), torch.ones(3), rtol=1e-3, atol=0)


def test_constants_of_other_code_normalise_channels(train: ImageSet) -> None:
    channels = Normalizer(train, "channel")
    mean, std = channels.mean[:, 0, 0].tolist(), channels.std.flatten().tolist()
    constants = ChannelNormalizer(mean, std)
    assert torch.equal(constants(train.images), channels(train.images))
    x, y = BatchStream(train, constants, 64, seed=3).batch(1)
    expected = BatchStream(train, channels, 64, seed=3).batch(1)
    assert torch.equal(x, expected[0])
    assert torch.equal(y, expected[1])
