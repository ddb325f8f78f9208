"""Where images come from: the embedded subset, torchvision's layout, and the one loader of a config."""

import hashlib
import os
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.datasets import CIFAR10

from degradation.config import ConfigError, DataConfig
from degradation.data.images import (
    MINI,
    DataError,
    ImageSet,
    load,
    load_cifar10,
    load_cifar10_mini,
    make_synthetic,
)

CONFIG = DataConfig("synthetic", 0, "pixel_mean", "none", "drop")


def test_a_config_names_its_images_and_the_last_are_held_out(tmp_path: Path) -> None:
    train, test, validation = load(CONFIG, tmp_path)
    assert (len(train), len(test), validation) == (512, 256, None)
    part, same, held_out = load(replace(CONFIG, validation_images=12), tmp_path)
    assert held_out is not None
    assert torch.equal(torch.cat([part.images, held_out.images]), train.images)
    assert torch.equal(torch.cat([part.labels, held_out.labels]), train.labels)
    assert len(held_out) == 12
    assert torch.equal(same.images, test.images)
    assert len(load(replace(CONFIG, name="cifar10_mini"), tmp_path)[0]) == 5000
    with pytest.raises(DataError, match="data_batch_1 is missing"):
        load(replace(CONFIG, name="cifar10"), tmp_path, download=False)
    with pytest.raises(ConfigError, match=r"data\.validation_images=512 leaves none of 512 images to train on"):
        load(replace(CONFIG, validation_images=512), tmp_path)


def write_cifar10_mini(train: ImageSet, test: ImageSet, folder: Path) -> None:
    """Make the embedded subset from all of CIFAR-10: lossless WebP strips and a table of labels per split."""
    folder.mkdir(parents=True, exist_ok=True)
    for split, full, per_class in (("train", train, 500), ("test", test, 100)):
        rows = torch.cat([(full.labels == c).nonzero().flatten()[:per_class] for c in range(10)]).sort().values
        for number, part in enumerate(rows.split(500)):  # 16,000 rows of pixels: under WebP's limit of 16,383
            strip = full.images[part].permute(0, 2, 3, 1).reshape(-1, 32, 3).numpy()
            path = folder / f"{split}-{number:02d}.webp"
            Image.fromarray(strip).save(path, lossless=True, quality=100, method=0)
        lines = [f"{row},{label}" for row, label in zip(rows.tolist(), full.labels[rows].tolist(), strict=True)]
        (folder / f"{split}.csv").write_text("\n".join(["index,label", *lines]) + "\n")
    write_sums(folder)


def write_sums(folder: Path) -> None:
    files = sorted([*folder.glob("*.csv"), *folder.glob("*.webp")])
    sums = [f"{hashlib.sha256(path.read_bytes()).hexdigest()}  {path.name}\n" for path in files]
    (folder / "SHA256SUMS").write_text("".join(sums))


def test_the_embedded_subset_is_what_is_written_of_the_whole(tmp_path: Path) -> None:
    train, test = make_synthetic(5100, 1100)
    write_cifar10_mini(train, test, tmp_path)
    for whole, mini, count in zip((train, test), load_cifar10_mini(tmp_path), (5000, 1000), strict=True):
        assert torch.equal(mini.images, whole.images[:count])  # made class after class, so that the first are kept
        assert torch.equal(mini.labels, whole.labels[:count])


def test_the_embedded_subset_is_balanced() -> None:
    for images, per_class in zip(load_cifar10_mini(), (500, 100), strict=True):
        assert images.images.shape == (10 * per_class, 3, 32, 32)
        assert images.images.dtype == torch.uint8
        assert torch.bincount(images.labels).tolist() == [per_class] * 10
        assert len(images.images.flatten(1).unique(dim=0)) == 10 * per_class


def test_the_embedded_subset_is_the_original_images() -> None:
    root = Path(os.environ.get("DATA_DIR", "data")).expanduser()
    root = root.parent if root.name == CIFAR10.base_folder else root
    if not (root / CIFAR10.base_folder).is_dir():
        pytest.skip(f"no {CIFAR10.base_folder} in DATA_DIR ({root})")
    for name, full, mini in zip(("train", "test"), load_cifar10(root, False), load_cifar10_mini(), strict=True):
        table = torch.from_numpy(np.loadtxt(MINI / f"{name}.csv", delimiter=",", skiprows=1, dtype=np.int64))
        assert torch.equal(mini.images, full.images[table[:, 0]])
        assert torch.equal(mini.labels, full.labels[table[:, 0]])
        assert torch.equal(mini.labels, table[:, 1])


def test_a_damaged_embedded_subset_is_told(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=f"{tmp_path}"):
        load_cifar10_mini(tmp_path)
    (tmp_path / "train.csv").write_text("index,label\n0,6\n")
    (tmp_path / "train-00.webp").write_bytes(b"cut short")
    write_sums(tmp_path)
    with pytest.raises(DataError, match=f"{tmp_path} are damaged"):
        load_cifar10_mini(tmp_path)


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def swap(path: Path) -> None:
    other = path.with_name("test-01.webp")
    content = path.read_bytes()
    path.write_bytes(other.read_bytes())
    other.write_bytes(content)


def relabel(path: Path) -> None:
    path.write_text(path.read_text().replace(",3\n", ",5\n", 1))


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("train-04.webp", flip),
        ("test-00.webp", swap),
        ("test.csv", relabel),
        ("train.csv", flip),
        ("train-09.webp", Path.unlink),
        ("SHA256SUMS", flip),
        ("SHA256SUMS", Path.unlink),
    ],
)
def test_an_embedded_image_that_was_changed_is_told(
    tmp_path: Path, name: str, change: Callable[[Path], object]
) -> None:
    folder = tmp_path / "mini"
    shutil.copytree(MINI, folder)
    change(folder / name)
    with pytest.raises(DataError, match=f"the images in {folder} are damaged .*install the package again"):
        load_cifar10_mini(folder)


def test_missing_files_are_named_with_their_checksum(tmp_path: Path) -> None:
    name, md5 = CIFAR10.train_list[0]
    with pytest.raises(DataError, match=rf"{tmp_path}/{CIFAR10.base_folder}/{name} is missing .*{md5}"):
        load_cifar10(tmp_path, download=False)


def test_corrupted_files_are_named_with_both_checksums(tmp_path: Path) -> None:
    folder = tmp_path / CIFAR10.base_folder
    folder.mkdir()
    name, md5 = CIFAR10.train_list[0]
    (folder / name).write_bytes(b"")
    empty = "d41d8cd98f00b204e9800998ecf8427e"
    for given in (tmp_path, folder):  # both ways to name the place; files that are there are never fetched over
        with pytest.raises(
            DataError, match=rf"{folder / name} is corrupted: its MD5 is {empty}, the published .*{md5}"
        ):
            load_cifar10(given)


def test_a_download_that_fails_says_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def unreachable(_self: CIFAR10) -> None:
        raise OSError("no route to host")

    monkeypatch.setattr(CIFAR10, "download", unreachable)
    with pytest.raises(DataError, match=r"no route to host.*DATA_DIR.*cifar10_mini") as told:
        load_cifar10(tmp_path / "new")
    assert "\n" not in str(told.value)
    with pytest.raises(DataError):
        load_cifar10(tmp_path / "mistyped" / "data")
    assert not (tmp_path / "mistyped").exists()
    assert tmp_path.is_dir()  # what was there stays
