"""Images that are already an array: `.npy` and `.npz` files, and sets that a library hands over as one.

Shapes: N images, H x W pixels, C channels.
"""

import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from vitgan.errors import UserError

MOST_CLASSES = 1_000_000
UNPACKED, MOST_RATIO = 2**30, 100  # an array may unpack to 1 GiB, or to 100 times its packed size
AT_ONCE = 256  # images that are hashed together
LABEL_KEYS = ("labels", "label", "y")
SHAPES = "(N, H, W), (N, H, W, C) or (N, C, H, W) with C of 1 or 3"


class ArraySource:
    """A source of images in one array: uint8, or floats in [0, 1], (N, H, W), (N, H, W, C) or (N, C, H, W).

    labels: integers (N,) from 0 upwards, or None; classes: the names of the classes, their numbers where it
    is empty; name: what messages call the source. Raises UserError where the arrays are anything else.
    """

    unlabelled = ""
    labels_advice = f"save the images as .npz with the integers under {LABEL_KEYS[0]}"

    def __init__(
        self, name: str, images: np.ndarray, labels: np.ndarray | None = None, classes: tuple[str, ...] = ()
    ) -> None:
        self.images = _channels_last(name, images)
        _check_values(name, self.images)
        self.labels = None if labels is None else _checked_labels(name, labels, len(images))
        if self.labels is not None and not classes:
            classes = tuple(str(number) for number in range(int(self.labels.max()) + 1))
        _check_classes(name, self.labels, classes)
        self.classes = tuple(classes)

    def __len__(self) -> int:
        return len(self.images)

    def item(self, index: int) -> str:
        """The name of one image, for messages."""
        return f"image {index}"

    def picture(self, index: int) -> Image.Image:
        """One image, (H, W) or (H, W, 3), as a picture."""
        pixels = self.images[index]
        if pixels.dtype != np.uint8:
            pixels = np.rint(pixels.astype(np.float64) * 255.0).astype(np.uint8)
        return Image.fromarray(np.ascontiguousarray(pixels[..., 0] if pixels.shape[-1] == 1 else pixels))

    def content(self) -> Iterator[bytes]:
        """The shape, and hashes of the values, which tell this set from any other."""
        yield f"{self.images.shape} {self.images.dtype.str}".encode()
        for start in range(0, len(self), AT_ONCE):
            values = np.ascontiguousarray(self.images[start : start + AT_ONCE])
            yield f"images from {start} on {hashlib.sha256(values.data).hexdigest()}".encode()


def open_array_file(name: str, path: Path) -> ArraySource:
    """The images of a `.npy` file, or of a `.npz` file with `images` (or one array) and perhaps `labels`.

    Pickled objects are never read. Raises UserError for a file that is damaged or holds anything else.
    """
    try:
        arrays = _arrays(path)
    except Exception as error:  # NumPy's readers raise almost anything on damaged headers
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise UserError(
            f"{name} cannot be read as NumPy arrays ({reason}): save it again with numpy."
        ) from error
    if isinstance(arrays, np.ndarray):
        return ArraySource(name, arrays)
    return _from_npz(name, arrays)


def _arrays(path: Path) -> np.ndarray | dict[str, np.ndarray]:
    """The array of a `.npy` file, not yet read, or all arrays of a `.npz` file by name."""
    if path.suffix.lower() == ".npy":
        return np.lib.format.open_memmap(path, mode="r")
    with path.open("rb") as opened, np.lib.npyio.NpzFile(opened, allow_pickle=False) as file:
        _check_unpacked(file.zip)
        arrays = {key: file[key] for key in file.files}
    if unknown := next((key for key, value in arrays.items() if not isinstance(value, np.ndarray)), None):
        raise ValueError(f"{unknown} is no array")
    return arrays


def _check_unpacked(archive: Any) -> None:
    """Raise ValueError, before anything is unpacked, for a small file whose array would fill the memory."""
    for info in archive.infolist():
        if info.file_size > max(UNPACKED, info.compress_size * MOST_RATIO):
            raise ValueError(f"{info.filename} unpacks to {info.file_size / 2**20:,.0f} MiB")


def _from_npz(name: str, arrays: dict[str, np.ndarray]) -> ArraySource:
    labels = next((arrays.pop(key) for key in LABEL_KEYS if key in arrays), None)
    if "images" not in arrays and len(arrays) != 1:
        keys = ", ".join(arrays) or "nothing else"
        raise UserError(f"{name} holds {keys}: name the array of images `images` and its labels `labels`.")
    images = arrays["images"] if "images" in arrays else next(iter(arrays.values()))
    return ArraySource(name, images, labels)


def _channels_last(name: str, images: np.ndarray) -> np.ndarray:
    if images.ndim == 3:
        images = images[..., None]
    elif images.ndim == 4 and images.shape[-1] not in (1, 3) and images.shape[1] in (1, 3):
        images = images.transpose(0, 2, 3, 1)
    if images.ndim != 4 or images.shape[-1] not in (1, 3):
        raise UserError(f"{name} has the shape {images.shape}, but must have {SHAPES}.")
    if not images.size:
        raise UserError(f"{name} holds no images: pass an array with at least one.")
    return images


def _check_values(name: str, images: np.ndarray) -> None:
    if images.dtype == np.uint8:
        return
    # A comparison with NaN is false, so an array that holds one is refused, too.
    if np.issubdtype(images.dtype, np.floating) and images.min() >= 0 and images.max() <= 1:
        return
    raise UserError(f"{name} has values of type {images.dtype}, but must have uint8, or floats in [0, 1].")


def _checked_labels(name: str, labels: np.ndarray, count: int) -> np.ndarray:
    if labels.shape != (count,) or not np.issubdtype(labels.dtype, np.integer) or labels.min() < 0:
        raise UserError(
            f"{name} has labels of shape {labels.shape} and type {labels.dtype}, "
            f"but must have {count} integers from 0 upwards."
        )
    if labels.max() >= MOST_CLASSES:
        raise UserError(
            f"{name} has a label {labels.max()}, but must have less than {MOST_CLASSES:,} classes."
        )
    return labels.astype(np.int64)


def _check_classes(name: str, labels: np.ndarray | None, classes: tuple[str, ...]) -> None:
    if labels is not None and labels.max() >= len(classes):
        raise UserError(f"{name} has a label {labels.max()}, but only {len(classes)} names of classes.")


def check_source(name: str, source: Any) -> None:
    """Raise UserError where what somebody's own part `name` opened is no `vitgan.data.Source` of images."""
    needed = ("labels", "classes", "__len__", "item", "picture", "content")
    if lacking := [field for field in needed if not hasattr(source, field)]:
        raise UserError(
            f"open() of the source {name} gave a {type(source).__name__} without {lacking[0]}: return what "
            "vitgan.data.Source describes, such as a vitgan.data.ArraySource."
        )
    if not len(source):
        raise UserError(f"{name} holds no images: it must have at least one.")
    if source.labels is not None:
        _checked_labels(name, np.asarray(source.labels), len(source))
        _check_classes(name, np.asarray(source.labels), source.classes)
