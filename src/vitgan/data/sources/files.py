"""A folder or a zip of images, and the labels that it carries."""

import logging
import os
import stat
import zipfile
import zlib
from collections.abc import Collection, Iterable, Iterator
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
from PIL import Image

from vitgan.config import brief
from vitgan.data.retry import Unreachable, reaching
from vitgan.data.sources.arrays import MOST_CLASSES
from vitgan.data.transforms import UnreadableImage, open_image, read_bounded
from vitgan.errors import UserError
from vitgan.io import parse_json
from vitgan.terminal import counted

logger = logging.getLogger("vitgan")

SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".ppm", ".pgm")
LABEL_FILE = "dataset.json"
# Only a folder of at most so many files and bytes is read to know its content; of others names and sizes
# count.
MOST_FILES_READ, MOST_BYTES_READ = 20_000, 2**30

Labels = tuple[np.ndarray | None, tuple[str, ...]]


class FolderSource:
    """Image files below `root`; names are paths relative to it, with forward slashes, sorted."""

    def __init__(self, root: Path, names: list[str], labels: Labels = (None, ())) -> None:
        self.root = root
        self.names = names
        self.labels, self.classes = labels

    def __len__(self) -> int:
        return len(self.names)

    def item(self, index: int) -> str:
        """The name of one image, for messages."""
        return self.names[index]

    def picture(self, index: int) -> Image.Image:
        """One image, opened. Raises Unreachable where the folder is gone."""
        with reaching(self.root), (self.root / self.names[index]).open("rb") as file:
            data = read_bounded(file)
        return open_image(data)

    def content(self) -> Iterator[bytes]:
        """Names, sizes in bytes and, of a small set, checksums, which tell this set from any other."""
        sizes = [(self.root / name).stat().st_size for name in self.names]
        read = len(sizes) <= MOST_FILES_READ and sum(sizes) <= MOST_BYTES_READ
        for name, size in zip(self.names, sizes, strict=True):
            checksum = f" {_checksum(self.root / name)}" if read else ""
            yield f"{name} {size}{checksum}\n".encode(errors="surrogateescape")


def _checksum(path: Path) -> int | str:
    """The CRC-32 of a file, or "unreadable"."""
    try:
        with path.open("rb") as file:
            total = 0
            while data := file.read(2**20):
                total = zlib.crc32(data, total)
            return total
    except OSError:
        return "unreadable"


class ZipSource:
    """Images inside a zip, read where they lie and never unpacked."""

    def __init__(self, path: Path, names: list[str], labels: Labels = (None, ())) -> None:
        self.path = path
        self.names = names
        self.labels, self.classes = labels
        self._opened: tuple[int, zipfile.ZipFile] | None = None

    def __len__(self) -> int:
        return len(self.names)

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_opened": None}

    def item(self, index: int) -> str:
        """The name of one image, for messages."""
        return self.names[index]

    def picture(self, index: int) -> Image.Image:
        """One image, opened. Raises Unreachable where the zip is gone."""
        try:
            with reaching(self.path), self._archive().open(self.names[index]) as file:
                data = read_bounded(file)
        except Unreachable:
            self._opened = None  # the file may come back as another one
            raise
        return open_image(data)

    def content(self) -> Iterator[bytes]:
        """Names, sizes in bytes and checksums, which tell this set from any other."""
        for name in self.names:
            info = self._archive().getinfo(name)
            yield f"{name} {info.file_size} {info.CRC}\n".encode()

    def _archive(self) -> zipfile.ZipFile:
        # A forked worker shares the file offset with its parent, so every process opens the zip itself.
        if self._opened is None or self._opened[0] != os.getpid():
            self._opened = (os.getpid(), zipfile.ZipFile(self.path))
        return self._opened[1]


def open_folder(name: str, root: Path) -> FolderSource:
    """All images below a folder. Raises UserError where there are none, or `dataset.json` is wrong."""
    runs: list[str] = []
    names = sorted(_walk(root, runs))
    _tell_runs(name, names, runs)
    _check_any(name, names)
    label_file = root / LABEL_FILE
    text = label_file.read_bytes() if label_file.is_file() else None
    return FolderSource(root, names, read_labels(name, names, text))


def open_zip(name: str, path: Path) -> ZipSource:
    """All images in a zip. Raises UserError where it is no zip or has none, or `dataset.json` is wrong."""
    try:
        with zipfile.ZipFile(path) as archive:
            members = {info.filename for info in archive.infolist() if _is_file(info)}
            text = _label_text(archive) if LABEL_FILE in members else None
    except (zipfile.BadZipFile, zlib.error, OSError, RuntimeError, NotImplementedError) as error:
        raise UserError(
            f"{name} cannot be read as a zip ({error}): pack it again or pass a folder."
        ) from error
    runs = runs_among(members)
    names = sorted(member for member in members if _is_image(member) and not is_of_run(member, runs))
    _tell_runs(name, names, sorted(runs))
    _check_any(name, names)
    return ZipSource(path, names, read_labels(name, names, text))


def _is_file(info: zipfile.ZipInfo) -> bool:
    kind = stat.S_IFMT(info.external_attr >> 16)  # 0 where the zip was not made on Unix
    return not info.is_dir() and kind in (0, stat.S_IFREG)


def _label_text(archive: zipfile.ZipFile) -> bytes:
    try:
        with archive.open(LABEL_FILE) as file:
            return read_bounded(file)
    except UnreadableImage as error:
        raise zipfile.BadZipFile(f"{LABEL_FILE}: {error}") from error


def read_labels(name: str, names: list[str], text: bytes | None) -> Labels:
    """The labels int64 (N,) of the images `names`, or None, and the names of the classes.

    They come from `text`, the content of a `dataset.json` as StyleGAN's `dataset_tool.py` writes it, with the
    names of the classes beside the labels; without one from the sub-folders, where every image lies in
    exactly one and there are two or more. Raises UserError, naming the entry, where `text` is wrong.
    """
    if text is None:
        return _from_folders(names)
    where = f"{LABEL_FILE} of {name}"
    try:
        content = parse_json(text)
    except ValueError as error:
        reason = " ".join(str(error).split())[:200]
        raise UserError(f"{where} is not JSON ({reason}): correct or remove it.") from error
    if not isinstance(content, dict) or not isinstance(content.get("labels"), list | None):
        raise UserError(f'{where} must be {{"labels": [[path, index], ...] or null, "classes": [...]}}.')
    if content.get("labels") is None:
        return None, ()
    return _from_entries(where, names, content["labels"], content.get("classes") or [])


def _from_entries(where: str, names: list[str], entries: list[Any], classes: list[Any]) -> Labels:
    if not isinstance(classes, list):
        raise UserError(f"{where} has the classes {brief(classes)}, but they must be a list of names.")
    positions = {name: position for position, name in enumerate(names)}
    labels = np.full(len(names), -1, dtype=np.int64)
    for entry in entries:
        position, index = _checked_entry(where, entry, positions, len(classes))
        if labels[position] >= 0:
            raise UserError(f"{where} names {entry[0]!r} twice: leave one entry an image.")
        labels[position] = index
    if missing := np.flatnonzero(labels < 0).tolist():
        raise UserError(f"{where} has no entry for {names[missing[0]]!r}: give every image a label.")
    if not classes:
        classes = list(range(int(labels.max()) + 1))
    return labels, tuple(str(item) for item in classes)


def _checked_entry(where: str, entry: Any, positions: dict[str, int], classes: int) -> tuple[int, int]:
    match entry:
        case [str(path), int(index)] if not isinstance(index, bool):
            pass
        case _:
            raise UserError(f"{where} has the entry {brief(entry)}, but each must be [path, index].")
    if PurePosixPath(path).is_absolute() or ".." in PurePosixPath(path).parts:
        raise UserError(
            f"{where} has the entry {brief(entry)}, whose path leads outside: use paths within the set."
        )
    if path not in positions:
        raise UserError(f"{where} has the entry {brief(entry)}, but there is no such image.")
    if not 0 <= index < (classes or MOST_CLASSES):
        raise UserError(
            f"{where} has the entry {brief(entry)}, but there are {classes or f'at most {MOST_CLASSES:,}'} "
            "classes, counted from 0."
        )
    return positions[path], index


def _from_folders(names: list[str]) -> Labels:
    """The sub-folders as classes; no labels where an image lies elsewhere, or there is one folder only."""
    parts = [name.split("/") for name in names]
    classes = sorted({part[0] for part in parts})
    if any(len(part) != 2 for part in parts) or len(classes) < 2:
        return None, ()
    index = {name: number for number, name in enumerate(classes)}
    return np.array([index[part[0]] for part in parts], dtype=np.int64), tuple(classes)


# --- Folders that vitgan itself has written, whose pictures are no training images

# What lies in such a folder: all of one of these.
RUNS = (
    frozenset(("recipe.json", ".lock")),
    frozenset(("recipe.json", "log.jsonl")),
    frozenset(("recipe.json", "checkpoints")),
    frozenset(("rows", "table.json")),
)
OTHERS = (
    frozenset(("config.json", "model.safetensors", "samples.png")),
    frozenset(("found.png", "both.png", "w.npy")),
)
# Folders of a run: of a run that was begun in the folder of its images these alone are left out.
WRITTEN = frozenset(("samples", "checkpoints", "best", "tensorboard", "inspect", "directions", "rows"))
PICTURES = frozenset(("table.png", "gradient_norms.png"))


def is_written(entries: Collection[str], top: bool) -> bool:
    """Whether a folder of these entries was written by vitgan: a run, a table, an export or a projection.

    `top` is whether it is the folder of the images itself, which counts as a run or a table alone.
    """
    return any(marks.issubset(entries) for marks in (RUNS if top else RUNS + OTHERS))


def runs_among(names: Iterable[str]) -> set[str]:
    """The folders among the paths `names` that vitgan has written; "" is the one that holds all."""
    entries: dict[str, set[str]] = {}
    for name in names:
        parts = name.split("/")
        for depth, part in enumerate(parts):
            entries.setdefault("/".join(parts[:depth]), set()).add(part)
    return {folder for folder, inside in entries.items() if is_written(inside, not folder)}


def is_of_run(name: str, runs: Collection[str]) -> bool:
    """Whether the path `name` is of one of the folders `runs`, those of `runs_among`."""
    parts = name.split("/")
    above = {"/".join(parts[:depth]) for depth in range(1, len(parts))}
    return not above.isdisjoint(runs) or ("" in runs and (parts[0] in WRITTEN or name in PICTURES))


def _tell_runs(name: str, names: list[str], runs: list[str]) -> None:
    """Warn of the folders `runs` that are left out; raises UserError where there is nothing else."""
    if not runs:
        return
    first = runs[0] or "."
    if not names:
        raise UserError(
            f"{name} has no images but those that vitgan wrote ({first} is a run's folder, or another of its "
            "own): pass the images that are to be learned."
        )
    logger.warning(
        "%s of vitgan's own in %s, as %s, %s left out: runs, tables, exports.",
        counted(len(runs), "folder"),
        name,
        first,
        "is" if len(runs) == 1 else "are",
    )


def _walk(root: Path, runs: list[str]) -> Iterator[str]:
    """The paths of all images below `root`, relative to it; links to folders are followed.

    Folders that vitgan has written are left out, and added to `runs`.
    """
    seen: set[str] = set()
    for folder, folders, files in os.walk(root, followlinks=True):
        real = os.path.realpath(folder)
        if real in seen:  # a link back to a folder above would never end
            folders.clear()
            continue
        seen.add(real)
        relative = Path(folder).relative_to(root)
        folders.sort()
        top = not relative.parts
        if is_written([*folders, *files], top):
            runs.append("" if top else relative.as_posix())
            folders[:] = [inner for inner in folders if top and inner not in WRITTEN]
            files = [file for file in files if top and file not in PICTURES]
        yield from (path for file in files if _is_image(path := (relative / file).as_posix()))


def _is_image(path: str) -> bool:
    parts = path.split("/")
    hidden = any(part.startswith(".") or part == "__MACOSX" for part in parts)
    return not hidden and path.lower().endswith(SUFFIXES)


def _check_any(name: str, names: list[str]) -> None:
    if not names:
        raise UserError(f"{name} has no images: put files that end in {', '.join(SUFFIXES)} into it.")
