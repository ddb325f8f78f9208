"""Images as files: what is found in folders of classes, every kind of broken one told, and the embedded subset."""

import hashlib
import io
import os
import shutil
import struct
import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.datasets import Imagenette

from degradation.config import DataConfig, DataError
from degradation.data import folders
from degradation.data.folders import find_images, read_image, read_imagenette_mini
from degradation.data.images import ImageSet, Pictures, load, show

CLASSES = ("n01", "n02", "n03")
SIZES = ((40, 30), (30, 40), (32, 32), (90, 25), (31, 47))  # width, height
CONFIG = DataConfig("tiny", 0, "channel", "crop_flip", "drop", crop=20, shorter_side=(24, 40))


def write_tree(folder: Path, per_class: int = 5, classes: Sequence[str] = CLASSES) -> Path:
    """train/ and val/ of smooth JPEGs of different shapes, from a seed; greyscale and CMYK ones among them."""
    draw = np.random.default_rng(0)
    for split in ("train", "val"):
        for name in classes:
            (folder / split / name).mkdir(parents=True)
            for number in range(per_class):
                image = Image.fromarray(draw.integers(0, 256, (4, 4, 3), dtype=np.uint8)).resize(SIZES[number % 5], 2)
                image.convert(("RGB", "RGB", "L", "CMYK", "RGB")[number % 5]).save(
                    folder / split / name / f"{number}.JPEG", quality=95
                )
    return folder


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    return write_tree(tmp_path / "tiny")


def test_labels_are_the_sorted_classes_wherever_the_folder_is_named(tree: Path) -> None:
    for given in (tree.parent, tree):
        (files, labels), (others, _) = find_images("tiny", given)
        assert [Path(file).parent.name for file in files] == [CLASSES[label] for label in labels]
        assert sorted(map(Path, files)) == sorted((tree / "train").rglob("*.JPEG"))
        assert sorted(map(Path, others)) == sorted((tree / "val").rglob("*.JPEG"))


def test_a_set_is_every_image_once_in_one_mixed_order(tree: Path) -> None:
    train, test, _ = load(CONFIG, tree)
    assert isinstance(train, Pictures)
    assert [CLASSES[int(label)] for label in train.labels] == [Path(s).parent.name for s in train.sources]
    assert sorted(train.sources) == sorted(find_images("tiny", tree)[0][0])
    assert train.labels.tolist() != sorted(train.labels.tolist())
    again = load(CONFIG, tree)[0]
    assert isinstance(again, Pictures)
    assert again.sources.tolist() == train.sources.tolist()
    for workers in (0, 2):
        shown = list(Pictures(test.sources, test.labels, CONFIG, workers).batches(6))  # type: ignore[union-attr]
        assert [len(part) for part in shown] == [6, 6, 3]
        images = torch.cat([part.images for part in shown])
        views = [show(read_image(source), 24, 20) for source in test.sources]  # type: ignore[union-attr]
        assert torch.equal(images, torch.from_numpy(np.stack(views)).permute(0, 3, 1, 2))
        assert torch.equal(torch.cat([part.labels for part in shown]), test.labels)


@pytest.mark.parametrize("size", [*SIZES, (20, 20), (200, 24)])
def test_a_crop_is_that_of_the_resized_image(size: tuple[int, int]) -> None:
    image = Image.fromarray(np.random.default_rng(1).integers(0, 256, (*size[::-1], 3), dtype=np.uint8))
    for side, at in ((24, None), (40, None), (37, (0.0, 0.999)), (30, (0.5, 0.2))):
        across, down = (round(side * length / min(size)) for length in size)
        top, left = round((down - 20) / 2), round((across - 20) / 2)
        if at is not None:
            top, left = int(at[0] * (down - 19)), int(at[1] * (across - 19))
        whole = np.asarray(image.resize((across, down), Image.Resampling.BILINEAR), dtype=int)
        difference = abs(show(image, side, 20, at) - whole[top : top + 20, left : left + 20])  # of rounding
        assert difference.max() <= 3
        assert difference.mean() < 0.5


@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK", "P", "RGBA", "1"])
def test_every_mode_becomes_rgb(mode: str, tmp_path: Path) -> None:
    image = Image.new("RGB", (9, 7), (200, 200, 200)).convert(mode)
    image.save(path := tmp_path / ("a.jpg" if mode in ("RGB", "L", "CMYK") else "a.png"))
    found = read_image(str(path))
    assert (found.mode, found.size) == ("RGB", (9, 7))
    assert abs(np.asarray(found, dtype=int) - np.asarray(image.convert("RGB"), dtype=int)).max() <= 2


def unsort(tree: Path) -> None:
    for path in list((tree / "val").rglob("*.JPEG")):
        path.rename(tree / "val" / f"{path.parent.name}_{path.name}")
    for name in CLASSES:
        (tree / "val" / name).rmdir()


def lose_class(tree: Path) -> None:
    (tree / "val" / "n02").rename(tree / "n02")


def gain_class(tree: Path) -> None:
    (tree / "train" / "n02").rename(tree / "n02")


def empty_class(tree: Path) -> None:
    for path in (tree / "train" / "n03").iterdir():
        path.unlink()


def lose_val(tree: Path) -> None:
    (tree / "val").rename(tree / "validation")


@pytest.mark.parametrize(
    ("damage", "told"),
    [
        (unsort, "val holds 15 images and no folders: sort them into one folder per class"),
        (lose_class, "val lacks n02: train and val must have the same classes"),
        (gain_class, "train lacks n02"),
        (empty_class, "train holds no images of n03"),
        (lose_val, "tiny is not in .*val is missing; name the folder .* as DATA_DIR"),
    ],
)
def test_a_folder_that_is_not_as_it_should_be_is_told(damage: Callable[[Path], None], told: str, tree: Path) -> None:
    damage(tree)
    with pytest.raises(DataError, match=told) as error:
        find_images("tiny", tree)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("content", [b"", b"no image", "cut", "enormous"])
def test_a_file_that_cannot_be_read_is_named_in_one_line(content: bytes | str, workers: int, tree: Path) -> None:
    path = tree / "val" / "n02" / "0.JPEG"
    if content == "enormous":  # one that claims to be so
        Image.new("1", (1, 1)).save(path, "BMP")
        content = path.read_bytes()[:18] + struct.pack("<ii", 60000, 60000) + path.read_bytes()[26:]
    path.write_bytes(path.read_bytes()[:-100] if isinstance(content, str) else content)
    test = load(CONFIG, tree, workers=workers)[1]
    with pytest.raises(DataError, match=f"^{path} cannot be read .*; fetch it again, and the same command") as error:
        list(test.batches(4))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("name", folders.IMAGENETTE)
def test_imagenette_is_downloaded_or_one_line_says_what_to_do(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def unreachable(_self: Imagenette) -> None:
        raise OSError("no route to host\nat all")

    monkeypatch.setattr(Imagenette, "_download", unreachable)
    with pytest.raises(DataError, match=r"no route to host\).*DATA_DIR, or use data=imagenette_mini") as told:
        find_images(name, tmp_path / "mistyped" / "data")
    assert "\n" not in str(told.value)
    assert not list(tmp_path.iterdir())
    with pytest.raises(DataError, match=r"imagenet is not in .*imagenet/train is missing"):
        find_images("imagenet", tmp_path)
    monkeypatch.setattr(Imagenette, "_download", lambda self: write_tree(Path(self._image_root).parent))
    with pytest.raises(DataError, match=f"{name} holds 15 training and 15 validation images, but Imagenette has 9,469"):
        find_images(name, tmp_path)  # as an unpacking that was interrupted leaves it
    monkeypatch.setitem(folders.IMAGES, name, (15, 15))
    assert len(find_images(name, tmp_path)[0][0]) == 15
    with pytest.raises(DataError, match=r"imagenet is not in .*; name the folder that holds imagenet/train"):
        find_images("imagenet", tmp_path / name)  # the folder of another set is not taken for it


# The embedded subset


def write_imagenette_mini(source: Path, folder: Path, counts: tuple[int, int] = (200, 100)) -> None:
    """Make the embedded subset from Imagenette at 160 px: a zip of WebP images per split, their shorter side 96."""
    folder.mkdir(parents=True, exist_ok=True)
    for split, per_class in zip(("train", "val"), counts, strict=True):
        with zipfile.ZipFile(folder / f"{split}.zip", "w") as archive:
            for path in [p for c in sorted((source / split).iterdir()) for p in sorted(c.iterdir())[:per_class]]:
                image = Image.open(path).convert("RGB")
                width, height = (round(96 * side / min(image.size)) for side in image.size)
                image.resize((width, height), Image.Resampling.LANCZOS).save(
                    file := io.BytesIO(), "WEBP", quality=80, method=6
                )
                archive.writestr(zipfile.ZipInfo(f"{path.parent.name}/{path.stem}.webp"), file.getvalue())
    zips = [folder / f"{split}.zip" for split in ("train", "val")]
    sums = [f"{hashlib.sha256(path.read_bytes()).hexdigest()}  {path.name}\n" for path in zips]
    (folder / "SHA256SUMS").write_text("".join(sums))


def test_the_embedded_subset_is_balanced_and_not_cropped() -> None:
    for (images, labels), per_class in zip(read_imagenette_mini(), (200, 100), strict=True):
        assert np.bincount(labels).tolist() == [per_class] * 10
        assert {min(image.size) for image in images} == {96}
        assert {image.mode for image in images} == {"RGB"}
        assert len({image.size for image in images}) > 50
        assert len({image.tobytes() for image in images}) == len(images)


def test_the_embedded_subset_is_made_of_the_whole(tmp_path: Path) -> None:
    root = Path(os.environ.get("DATA_DIR", "data")).expanduser() / "imagenette2-160"
    if not root.is_dir():
        pytest.skip(f"no imagenette2-160 in DATA_DIR ({root.parent})")
    write_imagenette_mini(root, tmp_path, (2, 1))
    embedded = read_imagenette_mini()
    for (made, labels), (images, theirs), counts in zip(
        read_imagenette_mini(tmp_path), embedded, ((2, 200), (1, 100)), strict=True
    ):
        for number, image in enumerate(made):
            theirs_at = number // counts[0] * counts[1] + number % counts[0]
            assert labels[number] == theirs[theirs_at]
            near = np.asarray(image, dtype=int) - np.asarray(images[theirs_at], dtype=int)
            assert abs(near).mean() < 1  # exactly, with the same version of the codec


def test_a_damaged_embedded_subset_is_told(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=f"{tmp_path} are damaged .*; install the package again"):
        read_imagenette_mini(tmp_path)
    for path in folders.IMAGENETTE_MINI.iterdir():
        shutil.copy(path, tmp_path)
    content = bytearray((tmp_path / "val.zip").read_bytes())
    content[len(content) // 2] ^= 1
    (tmp_path / "val.zip").write_bytes(content)
    with pytest.raises(DataError, match=f"{tmp_path} are damaged .val.zip is not as SHA256SUMS says.; install"):
        read_imagenette_mini(tmp_path)


def test_small_images_can_be_shown_at_any_size() -> None:
    train, test, _ = load(DataConfig("synthetic", 0, "channel", "none", "drop", crop=32, shorter_side=(32, 32)), "")
    whole = load(DataConfig("synthetic", 0, "channel", "none", "drop"), "")[1]
    assert isinstance(whole, ImageSet)
    (shown,) = test.batches(300)
    order = torch.randperm(256, generator=torch.Generator().manual_seed(0))
    assert torch.equal(shown.images, whole.images[order])
    assert torch.equal(shown.labels, whole.labels[order])
    assert len(train) == 512
