"""A packed folder as a source: images of one size in a few large files, read at random in constant memory.

Its files are described in `vitgan.data.packed.index`. Shapes: N images, C channels, R resolution.
"""

import os
import threading
import zlib
from collections import OrderedDict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from vitgan.data.packed.index import (
    CHECKSUMS,
    HEADER,
    INDEX,
    LABELS,
    Damaged,
    File,
    Index,
    npy_header,
    read_index,
    shard_name,
)
from vitgan.data.retry import Unreachable, reaching
from vitgan.data.transforms import UnreadableImage
from vitgan.errors import UserError
from vitgan.io import sha256_of

MOST_OPEN = 64  # files that one process keeps open
PACKING = ".packing"  # a folder within the packed one, which is there while the packing is not finished


class PackedSource:
    """The images of a packed folder; whenever one is read, it is compared with its checksum.

    It reads from the files rather than mapping them: memory stays constant, and a disk that fails or a file
    that is cut short is an error, where a mapping would end the process.
    """

    def __init__(self, folder: Path, index: Index, labels: np.ndarray | None) -> None:
        self.folder, self.index = folder, index
        self.labels, self.classes = labels, index.classes
        self._files = _Files(folder)

    def __len__(self) -> int:
        return self.index.count

    def item(self, index: int) -> str:
        """The name of one image, for messages."""
        shard, row = divmod(index, self.index.plan.shard_images)
        return f"image {row} of {shard_name(shard)}"

    def has(self, resolution: int, channels: int) -> bool:
        """Whether `pixels` gives images of this form, so that none has to be transformed."""
        return (resolution, channels) == (self.index.plan.resolution, self.index.plan.channels)

    def pixels(self, index: int) -> np.ndarray:
        """One image, uint8 (C, R, R). Raises UnreadableImage where it does not match its checksum."""
        plan, size = self.index.plan, self.index.plan.image_bytes
        shard, row = divmod(index, plan.shard_images)
        data = self._files.read(shard_name(shard), HEADER + row * size, size)
        checksum = self._files.read(CHECKSUMS, HEADER + 4 * index, 4)
        if len(data) != size or zlib.crc32(data) != int.from_bytes(checksum, "little"):
            raise UnreadableImage("it does not match its checksum")
        side = plan.resolution
        return np.frombuffer(data, np.uint8).reshape(plan.channels, side, side).copy()

    def picture(self, index: int) -> Image.Image:
        """One image as a picture. Raises UnreadableImage where it does not match its checksum."""
        pixels = self.pixels(index).transpose(1, 2, 0)  # (R, R, C)
        return Image.fromarray(pixels[..., 0] if pixels.shape[-1] == 1 else np.ascontiguousarray(pixels))

    def content(self) -> Iterator[bytes]:
        """The hash of each shard, which tells this set from any other."""
        for name, _, file in self.index.shards:
            yield f"{name} {file.sha256}\n".encode()

    def damaged(self) -> Iterator[str]:
        """The names of the files that do not match their SHA-256; every file is read whole."""
        shards = {name: file for name, _, file in self.index.shards}
        for name, file in {**shards, **self.index.arrays}.items():
            try:
                _check_file(self.folder, name, file)
                if sha256_of(self.folder / name) != file.sha256:
                    raise Damaged(f"{name} does not match its SHA-256")
            except (Damaged, OSError):
                yield name


class _Files:
    """The files of a folder, opened when needed; those read last stay open, in forked processes too."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._open: OrderedDict[str, int] = OrderedDict()
        self._lock = threading.Lock()

    def __getstate__(self) -> dict[str, Any]:
        return {"folder": self.folder}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__(state["folder"])

    def read(self, name: str, start: int, size: int) -> bytes:
        """At most `size` bytes of a file from `start` on.

        Raises Unreachable where the folder is gone, OSError where it is not and the file cannot be read.
        """
        with self._lock:
            try:
                with reaching(self.folder):
                    return _read_at(self._handle(name), start, size)
            except Unreachable:
                self.close()  # the files may come back as others
                raise

    def close(self) -> None:
        """Close all files; what is read next opens its file again."""
        while self._open:
            os.close(self._open.popitem()[1])

    def __del__(self) -> None:
        self.close()

    def _handle(self, name: str) -> int:
        if name not in self._open:
            self._open[name] = os.open(self.folder / name, os.O_RDONLY | getattr(os, "O_BINARY", 0))
            if hasattr(os, "posix_fadvise"):
                os.posix_fadvise(self._open[name], 0, 0, os.POSIX_FADV_RANDOM)
        self._open.move_to_end(name)
        handle = self._open[name]
        if len(self._open) > MOST_OPEN:
            os.close(self._open.popitem(last=False)[1])
        return handle


def _read_at(handle: int, start: int, size: int) -> bytes:
    if hasattr(os, "pread"):
        return os.pread(handle, size, start)
    os.lseek(handle, start, os.SEEK_SET)
    return os.read(handle, size)


def is_packed(folder: Path) -> bool:
    """Whether `folder` is a packed one, even if it is damaged or not finished."""
    if (folder / PACKING).is_dir():
        return True
    try:
        with (folder / INDEX).open("rb") as file:
            return b'"packed"' in file.read(64) or (folder / shard_name(0)).exists()
    except OSError:
        return False


def open_packed(name: str, folder: Path) -> PackedSource:
    """The images of a packed folder.

    Checked are the index, by its hash and in itself; the checksums and labels, by their hashes; and the size,
    type and shape of every file. Raises UserError where anything differs.
    """
    if not (folder / INDEX).exists():
        raise UserError(f"{name} is not packed to its end: give the same `vitgan data pack` command again.")
    try:
        index = read_index(folder)
        for shard, images, file in index.shards:
            _check_file(folder, shard, file, index.plan.header(images))
        checksums = npy_header("<u4", (index.count,))
        _check_file(folder, CHECKSUMS, index.arrays[CHECKSUMS], checksums)
        if sha256_of(folder / CHECKSUMS) != index.arrays[CHECKSUMS].sha256:
            raise Damaged(f"{CHECKSUMS} does not match its SHA-256")
        return PackedSource(folder, index, _labels(folder, index))
    except (Damaged, OSError) as error:
        text = str(error) if isinstance(error, Damaged) else f"{error.filename}: {error.strerror}"
        raise UserError(
            f"{name} is damaged ({text}): pack it again into another folder, or copy it again."
        ) from error


def _labels(folder: Path, index: Index) -> np.ndarray | None:
    """The labels int64 (N,), or None where there are none. Raises Damaged."""
    if not index.labels:
        return None
    header = npy_header("<i8", (index.count,))
    _check_file(folder, LABELS, index.arrays[LABELS], header)
    if sha256_of(folder / LABELS) != index.arrays[LABELS].sha256:
        raise Damaged(f"{LABELS} does not match its SHA-256")
    labels = np.fromfile(folder / LABELS, "<i8", offset=HEADER).astype(np.int64)
    if labels.min() < 0 or labels.max() >= len(index.classes):
        raise Damaged(f"{LABELS} has labels beyond its {len(index.classes)} classes")
    return labels


def _check_file(folder: Path, name: str, file: File, header: bytes | None = None) -> None:
    """Raise Damaged where a file is missing, a link, of another size, or does not begin with `header`."""
    path = folder / name
    if path.is_symlink():
        raise Damaged(f"{name} is a link")
    if not path.is_file():
        raise Damaged(f"{name} is missing")
    if (size := path.stat().st_size) != file.bytes:
        raise Damaged(f"{name} has {size:,} bytes, not {file.bytes:,}")
    if header is not None:
        with path.open("rb") as opened:
            if opened.read(HEADER) != header:
                raise Damaged(f"{name} has another shape or kind of values")
