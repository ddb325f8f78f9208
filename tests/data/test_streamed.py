"""Streamed batches: every draw a function of (seed, iteration, position), and what the draws are."""

import multiprocessing
import os
import signal
from dataclasses import replace
from itertools import islice, product
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from degradation.config import DataConfig, DataError
from degradation.data.images import ImageSet, Pictures, load, show
from degradation.data.resident import Normalizer
from degradation.data.streamed import StreamedBatches, principal_colours
from tests.data.test_folders import CONFIG, write_tree

COLOURED = replace(CONFIG, colour=0.1)


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tree(tmp_path_factory.mktemp("data") / "tiny", 10)


def make_stream(tree: Path, config: DataConfig = COLOURED, workers: int = 0, **options: object) -> StreamedBatches:
    train = load(config, tree, workers=workers)[0]
    assert isinstance(train, Pictures)
    options = {"batch_size": 8, "seed": 5, **options}
    return StreamedBatches(train, Normalizer(train.sample, config.normalization), **options)  # type: ignore[arg-type]


def take(stream: StreamedBatches, iterations: range) -> list[tuple[torch.Tensor, torch.Tensor]]:
    return [stream.draw(stream.seek(iteration)) for iteration in iterations]


@pytest.mark.parametrize("workers", [0, 1, 3])
def test_batches_are_a_function_of_seed_and_iteration(tree: Path, workers: int) -> None:
    whole = take(make_stream(tree), range(9))  # three epochs of three
    torch.manual_seed(workers)
    stream = make_stream(tree, workers=workers)
    first = stream.batch(0)
    resumed = [*take(stream, range(5)), *take(make_stream(tree, workers=workers), range(5, 9))]
    back = take(stream, range(2, 3))  # not the next
    for (x, y), (expected, labels) in zip([first, *resumed, *back], [whole[0], *whole, whole[2]], strict=True):
        assert torch.equal(x, expected)
        assert torch.equal(y, labels)
    other = make_stream(tree, seed=6)
    assert not torch.equal(take(other, range(1))[0][0], whole[0][0])
    colours = [recipe.read(0)[2] for recipe in (other.recipe, stream.recipe)]  # which the order of images is not in
    assert torch.equal(colours[1], make_stream(tree).recipe.read(0)[2])
    assert not torch.equal(*colours)


def test_the_layout_changes_no_pixel(tree: Path) -> None:
    for channels_last, layout in ((True, torch.channels_last), (False, torch.contiguous_format)):
        x, y = make_stream(tree, channels_last=channels_last).batch(3)
        assert x.is_contiguous(memory_format=layout)
        assert (x.shape, x.dtype, y.shape) == ((8, 3, 20, 20), torch.float32, (8,))
        assert torch.equal(x, make_stream(tree).batch(3)[0])


def test_an_epoch_is_every_image_once(tree: Path) -> None:
    stream = make_stream(tree, last_batch="keep")
    assert stream.batches_per_epoch == 4
    labels = [y for _, y in take(stream, range(4, 8))]
    assert [len(y) for y in labels] == [8, 8, 8, 6]
    assert torch.cat(labels).bincount().tolist() == [10, 10, 10]
    assert make_stream(tree).batches_per_epoch == 3
    with pytest.raises(ValueError, match=r"batch_size=31 .* 30 images"):
        make_stream(tree, batch_size=31)


def test_no_augmentation_is_the_single_view(tree: Path) -> None:
    stream = make_stream(tree, augmentation="none", batch_size=30)
    x, y = stream.batch(1)
    train = stream.recipe.train
    shown = next(train.batches(30))
    rows = [next(i for i in range(30) if torch.equal(stream.normalize(shown.images[i : i + 1])[0], view)) for view in x]
    assert sorted(rows) == list(range(30))
    assert torch.equal(shown.labels[rows], y)


def test_scales_places_and_flips_cover_their_ranges(monkeypatch: pytest.MonkeyPatch) -> None:
    brighter = Image.fromarray(np.tile(np.linspace(0, 255, 64, dtype=np.uint8)[None, :, None], (64, 1, 3)))
    seen: list[tuple[int, int, int]] = []

    def watch(_: Image.Image, side: int, crop: int, at: tuple[float, float]) -> np.ndarray:
        seen.append((side, *(int(u * (side - crop + 1)) for u in at)))
        return show(brighter, side, crop, at)

    monkeypatch.setattr("degradation.data.streamed.show", watch)
    config = DataConfig("synthetic", 0, "channel", "crop_flip", "drop", crop=16, shorter_side=(18, 22))
    train = load(config, "")[0]
    assert isinstance(train, Pictures)
    recipe = StreamedBatches(train, Normalizer(train.sample, "channel"), 512, 0).recipe
    pixels = torch.cat([recipe.read(iteration)[0] for iteration in range(2)]).float()
    flipped = pixels[:, :, 0].mean((1, 2)) > pixels[:, :, -1].mean((1, 2))  # the left is the brighter side
    assert 0.44 < flipped.float().mean() < 0.56
    assert {(top, left) for side, top, left in seen if side == 18} == set(product(range(3), range(3)))
    assert (
        {top for side, top, _ in seen if side == 22} == {left for side, _, left in seen if side == 22} == set(range(7))
    )
    assert len(set(seen[:512])) > 100  # drawn image by image
    counts = np.bincount([side for side, *_ in seen])
    assert (counts[:18] == 0).all()
    assert (abs(counts[18:] - 1024 / 5) < 50).all()


def test_colours_move_along_the_principal_components(tree: Path) -> None:
    plain, coloured = make_stream(tree, CONFIG, batch_size=30), make_stream(tree, batch_size=30)
    sample = coloured.recipe.train.sample
    pixels = sample.images[:, :, ::4, ::4].permute(0, 2, 3, 1).reshape(-1, 3).numpy() / 255
    values, vectors = np.linalg.eigh(np.cov(pixels.T))
    basis = principal_colours(sample).double().numpy()
    np.testing.assert_allclose(np.abs(basis), np.abs(vectors * values), atol=1e-6)
    draws = []
    for iteration in range(40):
        moved = (coloured.batch(iteration)[0] - plain.batch(iteration)[0]) * coloured.normalize.std
        assert moved.std((2, 3)).max() < 1e-5  # of an image, all pixels alike
        expected = coloured.recipe.read(iteration)[2] @ torch.from_numpy(basis).float().T
        torch.testing.assert_close(moved.mean((2, 3)), expected, rtol=0, atol=1e-5)
        draws.append(coloured.recipe.read(iteration)[2])
    drawn = torch.cat(draws)
    assert drawn.std(0).tolist() == pytest.approx([0.1] * 3, rel=0.08)
    assert drawn.mean(0).abs().max() < 0.01


@pytest.mark.parametrize("workers", [0, 2])
def test_a_broken_file_ends_training_in_one_line(tmp_path: Path, workers: int) -> None:
    tree = write_tree(tmp_path / "tiny")
    stream = make_stream(tree, CONFIG, workers)
    path = next(islice((tree / "train").rglob("*.JPEG"), 7, None))
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(DataError, match=f"^{path} cannot be read") as told:
        take(stream, range(2))
    assert "\n" not in str(told.value)


def test_workers_leave_signals_to_the_run_and_end_with_the_stream(tree: Path) -> None:
    stream, expected = make_stream(tree, workers=2), take(make_stream(tree), range(12))
    before = take(stream, range(2))  # of both: they are under way
    workers = multiprocessing.active_children()
    assert len(workers) == 2
    for worker in workers:
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            os.kill(worker.pid or 0, number)
    for (x, _), (x_expected, _) in zip([*before, *take(stream, range(2, 12))], expected, strict=True):
        assert torch.equal(x, x_expected)
    del stream
    for worker in workers:
        worker.join(10)
        assert worker.exitcode == 0


def test_the_single_view_of_the_training_set_gives_the_normalisation(tree: Path) -> None:
    train = load(CONFIG, tree)[0]
    parts = torch.cat([part.images for part in train.batches(7)])
    mean = Normalizer(train.sample, "pixel_mean").mean
    torch.testing.assert_close(mean, (parts.double() / 255).mean(0).float(), rtol=0, atol=1e-6)
    assert isinstance(train.sample, ImageSet)
