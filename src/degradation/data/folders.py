"""Images as files: folders of classes as torchvision lays ImageNet and Imagenette out, and a subset in the package.

ImageNet: Russakovsky et al., "ImageNet Large Scale Visual Recognition Challenge", 2015. Imagenette: fast.ai's subset.
"""

import contextlib
import hashlib
import io
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import filelock
from PIL import Image
from torchvision.datasets import Imagenette
from torchvision.datasets.folder import IMG_EXTENSIONS, find_classes, make_dataset

from degradation.config import IMAGENETTE, IMAGES, DataError, find_root

IMAGENETTE_MINI = Path(__file__).parent / "imagenette_mini"
NAMED = 5  # classes named in a message; of more, how many there are

Found = tuple[list[Any], list[int]]  # files (or images in memory), and their labels


def read_image(source: str | Image.Image) -> Image.Image:
    """An image in RGB, whatever its mode in the file (greyscale, CMYK, palette); a DataError where it is damaged."""
    if isinstance(source, Image.Image):
        return source
    try:
        with open(source, "rb") as file:
            return Image.open(file).convert("RGB")
    # What PIL raises for a file cut short, for no image at all, and for one that claims to be enormous.
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        told = str(error).replace(f" {error.filename!r}", "") if isinstance(error, OSError) else str(error)
        raise DataError(f"{source} cannot be read ({told}); fetch it again, and the same command resumes") from error


@contextlib.contextmanager
def fetching(root: Path) -> Iterator[None]:
    """A folder, made and locked, to download images to: of one that was mistyped nothing stays where that fails."""
    made = [path for path in (root, *root.parents) if not path.exists()]
    try:
        root.mkdir(parents=True, exist_ok=True)
        with filelock.FileLock(root / ".download.lock"):
            yield
    except Exception:
        with contextlib.suppress(OSError):
            if made:
                (root / ".download.lock").unlink(missing_ok=True)
            for path in made:
                path.rmdir()
        raise


def find_images(name: str, data_dir: str | Path, download: bool = True) -> tuple[Found, Found]:
    """The training and validation files of <data_dir>/<name>/{train,val}/<class>/, or of <data_dir> itself.

    Labels follow the sorted names of the classes. Imagenette is downloaded where it is missing.

    Raises:
        DataError: a folder is missing, a validation folder is not sorted into classes, or the two have other classes.
    """
    above = Path(data_dir).expanduser()
    root, reason = find_root(name, above) or above / name, ""
    if name in IMAGENETTE and not root.exists() and download:
        try:
            with fetching(above):
                Imagenette(str(above), size=IMAGENETTE[name], download=not root.exists())
        except Exception as error:  # whatever torchvision, urllib or the disk raise: the remedy is the same
            reason = f" and could not be downloaded ({(str(error) or type(error).__name__).splitlines()[0]})"
    splits = [root / "train", root / "val"]
    for split in splits:
        if not split.is_dir():
            raise DataError(
                f"{name} is not in {above}{reason}: {split} is missing; name the folder that holds {name}/train and "
                f"{name}/val as DATA_DIR, or use data=imagenette_mini, which needs no files"
            )
    (train, classes), (val, others) = map(_find_split, splits)
    for split, lacking in zip(splits, (set(others) - set(classes), set(classes) - set(others)), strict=True):
        if lacking:
            names = ", ".join(sorted(lacking)) if len(lacking) <= NAMED else f"{len(lacking)} of the other's classes"
            raise DataError(f"{split} lacks {names}: train and val must have the same classes")
    if name in IMAGENETTE and (counts := (len(train[0]), len(val[0]))) != IMAGES[name]:
        held, whole = ("{:,} training and {:,} validation images".format(*pair) for pair in (counts, IMAGES[name]))
        raise DataError(
            f"{root} holds {held}, but Imagenette has {whole}: delete it to have it downloaded again; "
            "images of your own go by another data.name"
        )
    return train, val


def _find_split(folder: Path) -> tuple[Found, list[str]]:
    try:
        names, index = find_classes(str(folder))
    except FileNotFoundError:
        stray = sum(path.suffix.lower() in IMG_EXTENSIONS for path in folder.iterdir())
        raise DataError(
            f"{folder} holds {stray:,} images and no folders: sort them into one folder per class"
        ) from None
    try:
        pairs = make_dataset(str(folder), index, IMG_EXTENSIONS)
    except FileNotFoundError:  # a class without images
        empty = [name for name in names if not any((folder / name).rglob("*.*"))]
        raise DataError(f"{folder} holds no images of {', '.join(empty[:NAMED]) or 'a known kind'}") from None
    return ([path for path, _ in pairs], [label for _, label in pairs]), names


def read_imagenette_mini(folder: Path = IMAGENETTE_MINI) -> tuple[Found, Found]:
    """The embedded subset, decoded: the first 200 training and 100 validation images of every class of Imagenette."""
    splits = []
    for split in ("train", "val"):
        try:
            content = (folder / f"{split}.zip").read_bytes()
            if f"{hashlib.sha256(content).hexdigest()}  {split}.zip" not in (folder / "SHA256SUMS").read_text():
                raise ValueError(f"{split}.zip is not as SHA256SUMS says")
            with zipfile.ZipFile(io.BytesIO(content)) as archive:
                names = sorted(archive.namelist())
                images = [Image.open(io.BytesIO(archive.read(name))).convert("RGB") for name in names]
        except (OSError, ValueError, zipfile.BadZipFile) as error:
            raise DataError(f"the images in {folder} are damaged ({error}); install the package again") from error
        classes = sorted({Path(name).parent.name for name in names})
        splits.append((images, [classes.index(Path(name).parent.name) for name in names]))
    return splits[0], splits[1]
