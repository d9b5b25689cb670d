"""A folder or a zip of images, and the labels that it carries."""

import os
import re
import stat
import zipfile
import zlib
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from PIL import Image

from vitgan.data.retry import Unreachable, reaching
from vitgan.data.sources.labels import (
    LABEL_FILE,
    Labels,
    above,
    of_parts,
    read_labels,
    same_labels,
    tidy,
    why_unlabelled,
)
from vitgan.data.transforms import (
    FORMATS,
    UnreadableImage,
    is_image,
    open_image,
    read_bounded,
    readable_suffixes,
)
from vitgan.errors import UserError, one_line
from vitgan.terminal import printable

# Only a folder of at most so many files and bytes is read to know its content; of others names and sizes
# count.
MOST_FILES_READ, MOST_BYTES_READ = 20_000, 2**30

DAMAGED_ZIP = (zipfile.BadZipFile, zlib.error, EOFError, OSError, RuntimeError, NotImplementedError)


# --- What is met in a source, and left out of it

# Of the system or of a program that shows pictures: thumbnails, bins, the second half of a file of macOS.
CLUTTER = frozenset(
    ("__macosx", "@eadir", "thumbs.db", "ehthumbs.db", "desktop.ini", "icon\r", "lost+found", "#recycle")
) | frozenset(("@recycle", "$recycle.bin", "system volume information"))
HIDDEN = "hidden, or a system's own"
NOT_PLAIN = "links, pipes, sockets and devices"
OUTSIDE = "names that lead outside"
HEIF = ", for which Pillow needs `pip install pillow-heif`"


@dataclass(frozen=True)
class LeftOut:
    """Files of a source that are not among its images.

    reason: what they are, in the plural; count: how many; name: the first of them; told: whether training
    says so at its start, or `vitgan data info` alone, as of hidden files.
    """

    reason: str
    count: int
    name: str
    told: bool = True

    def text(self) -> str:
        """The reason, count and example, as a clause."""
        return f"{self.reason}: {self.count:,}, as {printable(self.name)}"


class Inventory:
    """The files that are met in a source: the names of its images, and what is left out, by reason."""

    def __init__(self) -> None:
        self.names: list[str] = []
        self.label_files: dict[str, str] = {}
        """Each file called `dataset.json`: its tidy name and its own."""
        self._left: dict[str, LeftOut] = {}

    def leave(self, name: str, reason: str, *, told: bool = True) -> None:
        """Count a file or folder that is left out for a reason."""
        before = self._left.get(reason)
        count, name = (1, name) if before is None else (before.count + 1, min(before.name, name))
        self._left[reason] = LeftOut(reason, count, name, told)

    def judge(self, name: str, opened: Callable[[], IO[bytes]]) -> None:
        """Take a plain file as an image, or leave it out, by the end of its name.

        A name without an end that tells is judged by the content, which `opened` opens.
        """
        own = tidy(name)
        base = own.rpartition("/")[2]
        suffix = suffix_of(base)
        if base == LABEL_FILE:
            self.label_files[own] = name
        elif suffix in readable_suffixes():
            self.names.append(name)
        elif suffix:
            self.leave(name, of_suffix(suffix))
        else:
            try:
                with opened() as file:
                    self.names.append(name) if is_image(file) else self.leave(name, "no images, by content")
            except DAMAGED_ZIP as error:
                self.leave(name, f"files that cannot be read ({one_line(error)})")

    def labels_at(self, place: str) -> str | None:
        """The own name of the `dataset.json` in the first folder above `place` that has one, or in `place`.

        Any other is left out.
        """
        parts = place.split("/") if place else []
        above = ["/".join([*parts[:depth], LABEL_FILE]) for depth in range(len(parts) + 1)]
        found = next((self.label_files[path] for path in above if path in self.label_files), None)
        for own in self.label_files.values():
            if own != found:
                self.leave(own, f"{LABEL_FILE} elsewhere than above all images")
        return found

    @property
    def left_out(self) -> tuple[LeftOut, ...]:
        """What was left out, the most frequent reason first."""
        return tuple(sorted(self._left.values(), key=lambda left: (-left.count, left.reason)))


def is_clutter(path: str) -> bool:
    """Whether a part of the tidy `path` is hidden, or such as systems and programs put beside pictures."""
    parts = path.split("/")
    return any((part.startswith(".") and part != "..") or part.lower() in CLUTTER for part in parts)


def suffix_of(base: str) -> str:
    """The end of a file's name that tells its kind, as ".png"; empty where it has none, as in "a.2024-01"."""
    match = re.search(r"\.(?=[^.]*[A-Za-z])[A-Za-z0-9]{1,10}$", base)
    return "" if match is None else match[0].lower()


def of_suffix(suffix: str) -> str:
    """What files are that end in `suffix`, which are left out."""
    return f"{suffix} files{HEIF if suffix in FORMATS['HEIF'] else ''}"


# --- Folders and zips


@dataclass(frozen=True)
class Found:
    """The labels that a folder or a zip carries, and what was left out of it.

    labels: numbers and names, as `read_labels` gives them; before: what earlier versions took for the
    labels, None where that is the same; unlabelled: why there are none, as a clause; left_out: see `LeftOut`.
    """

    labels: Labels
    before: Labels | None = None
    unlabelled: str = ""
    left_out: tuple[LeftOut, ...] = ()


class NamedImages:
    """Images by their names, with what was `Found` beside them."""

    labels_advice = f"sort its images into one sub-folder a class, add a {LABEL_FILE}"

    def __init__(self, names: list[str], found: Found | None) -> None:
        found = found or Found((None, ()))
        self.names = names
        self.labels, self.classes = found.labels
        self.labels_before, self.unlabelled, self.left_out = found.before, found.unlabelled, found.left_out

    def __len__(self) -> int:
        return len(self.names)

    def item(self, index: int) -> str:
        """The name of one image, for messages."""
        return self.names[index]


class FolderSource(NamedImages):
    """Image files below `root`; names are paths relative to it, with forward slashes, sorted."""

    def __init__(self, root: Path, names: list[str], found: Found | None = None) -> None:
        super().__init__(names, found)
        self.root = root

    def picture(self, index: int) -> Image.Image:
        """One image, opened. Raises Unreachable where the folder is gone."""
        with reaching(self.root), (self.root / self.names[index]).open("rb") as file:
            data = read_bounded(file)
        return open_image(data)

    def content(self) -> Iterator[bytes]:
        """Names, sizes in bytes and, of a small set, checksums, which tell this set from any other."""
        sizes = [_size(self.root / name) for name in self.names]
        read = len(sizes) <= MOST_FILES_READ and sum(size or 0 for size in sizes) <= MOST_BYTES_READ
        for name, size in zip(self.names, sizes, strict=True):
            checksum = f" {_checksum(self.root / name)}" if read else ""
            yield f"{name} {size}{checksum}\n".encode(errors="surrogateescape")


def _size(path: Path) -> int | None:
    """The size of a file in bytes; None where the system does not say, as within a folder without access."""
    try:
        return path.stat().st_size
    except OSError:
        return None


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


class ZipSource(NamedImages):
    """Images inside a zip, read where they lie and never unpacked."""

    def __init__(self, path: Path, names: list[str], found: Found | None = None) -> None:
        super().__init__(names, found)
        self.path = path
        self._opened: tuple[int, zipfile.ZipFile] | None = None

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_opened": None}

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
    found = _walk(name, root)
    names = sorted(found.names)
    _check_others(name, names, found)
    return FolderSource(root, names, _labels(name, names, found, lambda file: (root / file).read_bytes()))


def open_zip(name: str, path: Path) -> ZipSource:
    """All images in a zip. Raises UserError where it is no zip or has none, or `dataset.json` is wrong."""
    found = Inventory()
    try:
        with zipfile.ZipFile(path) as archive:
            members = {info.filename: info for info in archive.infolist()}
            runs = runs_among(map(tidy, members))
            for run in runs:
                found.leave(run or ".", OF_VITGAN)
            for info in members.values():
                if not is_of_run(tidy(info.filename), runs):
                    _meet(found, archive, info)
            for twice in (Counter(archive.namelist()) - Counter(list(members))).elements():
                found.leave(twice, "members of a name that comes again")
            names = sorted(found.names)
            _check_others(name, names, found)
            return ZipSource(path, names, _labels(name, names, found, lambda file: _read(archive, file)))
    except (*DAMAGED_ZIP, UnicodeError) as error:
        raise UserError(
            f"{name} cannot be read as a zip ({error}): pack it again or pass a folder."
        ) from error


def _meet(found: Inventory, archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> None:
    """Take a member of a zip as an image or leave it out; a folder is neither."""
    kind = stat.S_IFMT(info.external_attr >> 16)  # 0 where the zip was not made on Unix
    if info.is_dir() or info.filename.endswith("\\"):
        return
    if is_clutter(tidy(info.filename)):
        found.leave(info.filename, HIDDEN, told=False)
    elif kind not in (0, stat.S_IFREG):
        found.leave(info.filename, NOT_PLAIN)
    elif ".." in tidy(info.filename).split("/"):
        found.leave(info.filename, OUTSIDE)
    else:
        found.judge(info.filename, lambda: archive.open(info))


def _read(archive: zipfile.ZipFile, name: str) -> bytes:
    try:
        with archive.open(name) as file:
            return read_bounded(file)
    except UnreadableImage as error:
        raise zipfile.BadZipFile(f"{LABEL_FILE}: {error}") from error


# --- Labels and what was found


def _labels(name: str, names: list[str], found: Inventory, read: Callable[[str], bytes]) -> Found:
    """The labels of the images `names`, out of a `dataset.json` that `read` reads, or of their folders.

    Raises UserError where there are no images, or `dataset.json` is wrong.
    """
    paths = [tidy(path) for path in names]
    place = above(paths)
    file = found.labels_at(place)
    if not names:
        lines = "; ".join(left.text() for left in found.left_out)
        raise UserError(
            f"{name} has no images{f' ({lines})' if lines else ''}: put files that end in "
            f"{', '.join(readable_suffixes())} into it."
        )
    text = None if file is None else read(file)
    where = "" if file is None else tidy(file).removesuffix(LABEL_FILE)
    labels = read_labels(name, paths, text, where)
    before = None if file == LABEL_FILE else of_parts([path.split("/") for path in names])
    why = "" if labels[0] is not None else why_unlabelled(paths, place, text is not None)
    same = before is None or same_labels(before, labels)
    return Found(labels, None if same else before, why, found.left_out)


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
PICTURES = frozenset(("table.png", "curves.png", "gradient_norms.png"))


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


OF_VITGAN = "folders of vitgan's own (runs, tables, exports)"


def _check_others(name: str, names: list[str], found: Inventory) -> None:
    """Raise UserError where a source has no images beside those in folders that vitgan has written."""
    own = next((left for left in found.left_out if left.reason == OF_VITGAN), None)
    if own is not None and not names:
        raise UserError(
            f"{name} has no images but those that vitgan wrote ({printable(own.name)} is a run's folder, or "
            "another of its own): pass the images that are to be learned."
        )


# --- Walking


def _walk(name: str, root: Path) -> Inventory:
    """What lies below a folder, with paths relative to it; links to folders are followed.

    Raises UserError where the folder itself may not be read.
    """
    found, seen = Inventory(), set[str]()
    folders, links = [""], list[str]()  # a folder that is there twice goes by its own name, not by a link's
    while folders or links:
        folder = folders.pop() if folders else links.pop()
        real = os.path.realpath(root / folder)
        if real in seen:  # a link back to a folder above would never end
            found.leave(folder, "links to folders that are read already", told=False)
            continue
        seen.add(real)
        try:
            with os.scandir(root / folder) as scanned:
                entries = sorted(scanned, key=lambda entry: entry.name)
        except OSError as error:
            if not folder:
                raise UserError(
                    f"{name} cannot be read ({error.strerror}): see to its permissions, or pass another."
                ) from error
            found.leave(folder, f"folders that cannot be read ({error.strerror})")
            continue
        if is_written([entry.name for entry in entries], not folder):
            found.leave(folder or ".", OF_VITGAN)
            own = WRITTEN | PICTURES
            entries = [] if folder else [entry for entry in entries if entry.name not in own]
        elif folder and not entries:
            found.leave(folder, "empty folders")
        for entry in reversed(entries):
            if (path := _enter(found, root, folder, entry)) is not None:
                (links if entry.is_symlink() else folders).append(path)
    return found


def _enter(found: Inventory, root: Path, folder: str, entry: os.DirEntry[str]) -> str | None:
    """The path of an entry that is a folder to walk into; any other is taken or left out."""
    path = f"{folder}/{entry.name}" if folder else entry.name
    if is_clutter(entry.name):
        found.leave(path, HIDDEN, told=False)
        return None
    try:
        if entry.is_dir():
            return path
        if entry.is_file():
            found.judge(path, lambda: (root / path).open("rb"))
            return None
        entry.stat()  # raises for a link to nowhere
        found.leave(path, "pipes, sockets and devices")
    except OSError as error:
        broken = "broken links" if entry.is_symlink() else f"files that cannot be reached ({error.strerror})"
        found.leave(path, broken)
    return None
