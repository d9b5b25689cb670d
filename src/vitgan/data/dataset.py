"""A set of images of one size, in memory, read as it is needed or streamed; and what tells it from any other.

Shapes: N images, B batch, C channels, R resolution.
"""

import abc
import contextlib
import hashlib
import json
import logging
import math
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
import torch

from vitgan.compat import usable_cores
from vitgan.config import MOST_RESOLUTION, check, option
from vitgan.data.reading import Fetched, Skipped, fetch, quiet_decoding, read_image, white_of
from vitgan.data.retry import Patience, Unreachable
from vitgan.data.sources import Source, open_source
from vitgan.data.sources.files import LeftOut
from vitgan.data.sources.labels import Labels, as_hashed
from vitgan.data.sources.streams import Stream
from vitgan.data.transforms import WHITE, Look, readable_suffixes
from vitgan.errors import UserError
from vitgan.terminal import class_list, printable

logger = logging.getLogger("vitgan")


# --- What tells a set from any other

MOST_BLOCKS = 64  # of one identity
MOST_TEXT = 80  # characters of one part of the content in a message
DIGITS = 32  # hexadecimal digits that are kept of a hash


@dataclass(frozen=True)
class Identity:
    """A hash of a set, and hashes of the blocks of its content, which say where two sets begin to differ.

    There are at most 64 blocks, so that it goes into every checkpoint. fingerprint: the hash of everything;
    labels: the hash of classes and labels; block_parts: the number of parts of the content in each block;
    blocks: the first part of each as text, and the block's hash; before: the fingerprint that earlier
    versions gave it, which found no labels or other ones, else "".
    """

    fingerprint: str
    labels: str
    block_parts: int
    blocks: tuple[tuple[str, str], ...]
    before: str = ""

    def facts(self) -> dict[str, Any]:
        """The fields, ready for JSON."""
        blocks = [list(block) for block in self.blocks]
        return {
            "fingerprint": self.fingerprint,
            "labels": self.labels,
            "block_parts": self.block_parts,
            "blocks": blocks,
        }


def identify(
    head: Sequence[Any],
    labels: np.ndarray | None,
    classes: Sequence[str],
    content: Iterable[bytes],
) -> Identity:
    """The identity of N images.

    head: further values, ready for JSON, that the fingerprint covers; labels: int64 (N,) or None; content:
    what `vitgan.data.Source.content` yields.
    """
    whole, blocks = hashlib.sha256(json.dumps(head).encode()), _Blocks()
    of_labels = hashlib.sha256(json.dumps(list(classes)).encode())
    if labels is not None:
        of_labels.update(labels.astype("<i8").tobytes())
    whole.update(of_labels.digest())
    for part in content:
        whole.update(part)
        blocks.add(part)
    found = blocks.finished()
    return Identity(
        fingerprint=whole.hexdigest()[:DIGITS],
        labels=of_labels.hexdigest()[:DIGITS],
        block_parts=blocks.parts,
        blocks=found,
    )


def difference(then: dict[str, Any], now: Identity, count: int) -> str:
    """A clause that says how a set of `count` readable images differs from the one that `then` describes.

    `then` holds that set's `Identity.facts`, and its number of images under "images".
    """
    if then["images"] != count:
        return f"{then['images']:,} then, {count:,} now"
    if then.get("labels") != now.labels:
        return f"as many, {count:,}, but with other classes or labels"
    blocks, parts = [tuple(block) for block in then.get("blocks", [])], then.get("block_parts")
    if parts == now.block_parts:
        for before, after in zip(blocks, now.blocks, strict=False):
            if before != after:
                return f"as many, {count:,}, but {_first_difference(before[0], after[0], now.block_parts)}"
    return f"as many, {count:,}, but of other content"


def _first_difference(before: str, after: str, parts: int) -> str:
    if parts == 1:
        return f"the first that differs was {before!r} and is {after!r}"
    if before != after:
        return f"they differ from {before!r} on, which is {after!r} now"
    return f"one of {parts:,} from {after!r} on is another"


class _Blocks:
    """Hashes of a sequence of parts, in fewer than 64 blocks of equally many; the blocks grow by doubling."""

    def __init__(self) -> None:
        self.parts = 1
        self._whole: list[tuple[str, str]] = []
        self._first, self._hash, self._number = "", hashlib.sha256(), 0

    def add(self, part: bytes) -> None:
        if self._number == self.parts:
            self._end()
        if not self._number:
            self._first = " ".join(part.decode(errors="replace").split())[:MOST_TEXT]
        self._hash.update(hashlib.sha256(part).digest())
        self._number += 1

    def finished(self) -> tuple[tuple[str, str], ...]:
        if self._number:
            self._end()
        return tuple(self._whole)

    def _end(self) -> None:
        self._whole.append((self._first, self._hash.hexdigest()[:DIGITS]))
        self._first, self._hash, self._number = "", hashlib.sha256(), 0
        if len(self._whole) == MOST_BLOCKS:
            halves = zip(self._whole[::2], self._whole[1::2], strict=True)
            self._whole = [(first, _joined(a, b)) for (first, a), (_, b) in halves]
            self.parts *= 2


def _joined(a: str, b: str) -> str:
    return hashlib.sha256((a + b).encode()).hexdigest()[:DIGITS]


# --- Sets of images

CHUNK = 64  # images that a thread decodes between two steps of the progress bar
TRANSFORM_VERSION = "1"  # a part of the fingerprint: raise it when the same file gives other pixels


@dataclass(frozen=True, kw_only=True)
class DataOptions:
    """Which images are trained on, and the form to which they are brought."""

    source: str = "digits"
    """A name (`vitgan list --parts`), a (packed) folder, .zip, .npy or .npz, wds:TARS, or hf:NAME."""
    resolution: int = option(32, least=1, most=MOST_RESOLUTION)
    """The side of the square images, in pixels."""
    channels: Literal[1, 3] = 3
    """1 for grey images, 3 for RGB."""
    labels: bool = False
    """Train with the classes of the set."""
    flip: bool = False
    """Mirror each image left to right with probability 1/2 whenever it is drawn."""
    memory_mib: int = option(4096, least=0)
    """A set whose pixels fit into so many MiB is decoded once and held in memory."""
    workers: int = option(2, least=0)
    """Processes that read ahead for a set that is not held in memory; never more than there are cores."""

    def build(self) -> "ImageSet":
        """Open the source; raises UserError where it cannot be opened, or lacks readable images or labels."""
        check(self, "data")
        source = open_source(self.source)
        if self.labels and source.labels is None:
            raise UserError(
                f"{self.source} has no labels{lacking_labels(source)}, or train a recipe without labels "
                "(--data.labels False)."
            )
        if isinstance(source, Stream):
            return StreamImages(self, source)
        size = len(source) * self.channels * self.resolution**2
        kind = MemoryImages if size <= self.memory_mib * 2**20 else LazyImages
        return kind(self, source)


def lacking_labels(source: Source) -> str:
    """Why a source has no labels, where it says so in `unlabelled`, and how it gets some, as a clause."""
    why = getattr(source, "unlabelled", "")
    advice = getattr(source, "labels_advice", "take one whose `labels` are integers")
    return f"{f' ({why})' if why else ''}: {advice}"


class ImageSet(abc.ABC):
    """Images of one size; len() gives their number N.

    Attributes
        options: the options that it was built from. name: the source as the user gave it. class_names: the
        names of the classes in the order of their numbers: of all that have images, unless `number_classes`
        gives others. class_labels: the class of each image, int64 (N,), None where there are no labels. Both
        are there whether or not the labels are asked for. class_counts: the number of images of each class
        that the source names, by its name; some may have none. every_class: those names, in the order that
        runs gave them before empty classes were left out and class folders were in natural order.
        lacking_labels: why the source has none, and how it gets some; "" where it has. left_out: what the
        source has beside its images. notes: what is odd in the range of its values, as clauses that begin
        with "its". identity, fingerprint: hashes of its content, labels, resolution and channels, the same
        whether or not it is in memory and however its classes are numbered. skipped: the images that could
        not be read so far.
    """

    def __init__(self, options: DataOptions, source: Source) -> None:
        self.options = options
        self.name = options.source
        self.skipped: list[Skipped] = []
        self.lacking_labels = lacking_labels(source) if source.labels is None else ""
        self.left_out: tuple[LeftOut, ...] = tell_left_out(self.name, source)
        self.notes: list[str] = getattr(source, "look", Look()).notes()
        self.identity = _identity(options, source)
        self._set_labels(source)

    def _set_labels(self, source: Source, kept: np.ndarray | None = None) -> None:
        self.class_labels: torch.Tensor | None = None
        self.class_names: tuple[str, ...] = ()
        self.every_class: tuple[str, ...] = ()
        self.class_counts: dict[str, int] = {}
        if source.labels is None:
            return
        labels = np.asarray(source.labels).astype(np.int64, copy=False)
        names = _distinct(source.classes)
        filled = np.bincount(labels, minlength=len(names)) > 0
        order = as_hashed(np.arange(len(names)), source.classes)[0]
        assert order is not None
        self.every_class = tuple(names[number] for number in np.argsort(order))
        labels = labels if kept is None else labels[kept]
        counts = np.bincount(labels, minlength=len(names)).tolist()
        self.class_counts = dict(zip(names, counts, strict=True))
        self.class_names, self.class_labels = tuple(names), torch.from_numpy(labels)
        self.number_classes([name for name, has in zip(names, filled.tolist(), strict=True) if has])

    def number_classes(self, names: Sequence[str]) -> None:
        """Number the classes in the order of `names`; those among them that the set lacks have no images.

        Nothing changes where there are no labels, a name is given twice, or a class that has images is not
        among the names.
        """
        numbers = {name: number for number, name in enumerate(names)}
        lacking = any(count and name not in numbers for name, count in self.class_counts.items())
        if self.class_labels is None or lacking or len(numbers) < len(names):
            return
        if self.class_names != tuple(names):
            table = torch.tensor([numbers.get(name, -1) for name in self.class_names])
            self.class_names, self.class_labels = tuple(names), table[self.class_labels]

    @property
    def labels(self) -> torch.Tensor | None:
        """The class of each image, int64 (N,); None unless `options.labels` asks for them."""
        return self.class_labels if self.options.labels else None

    @property
    def classes(self) -> tuple[str, ...]:
        """The names of the classes, in the order of their numbers; empty unless `options.labels` asks."""
        return self.class_names if self.options.labels else ()

    @property
    def note(self) -> str | None:
        """A sentence on classes of the source that have no images; None where each has some."""
        note, total = class_note(self.name, self.class_counts), len(self.class_counts)
        if note is None or len(self.class_names) < total:
            return note
        return f"{note} This run has all {total:,}, as it was begun."

    @property
    def fingerprint(self) -> str:
        """A hash of everything that tells this set from any other."""
        return self.identity.fingerprint

    @abc.abstractmethod
    def __len__(self) -> int: ...

    @abc.abstractmethod
    def get(self, indices: Sequence[int]) -> torch.Tensor:
        """The images `indices`, uint8 (B, C, R, R)."""


class MemoryImages(ImageSet):
    """A set whose pixels, uint8 (N, C, R, R), are in memory; N does not count the unreadable images."""

    def __init__(self, options: DataOptions, source: Source) -> None:
        super().__init__(options, source)
        self.pixels, failed = _decode(source, options)
        if failed:
            kept = np.setdiff1d(np.arange(len(source)), list(failed))
            for row, index in enumerate(kept):  # in place, for a second copy of the set might not fit
                self.pixels[row] = self.pixels[int(index)]
            self.pixels = self.pixels[: len(kept)]
            self._set_labels(source, kept)
            self._tell_skipped([failed[index] for index in sorted(failed)], len(source))

    def __len__(self) -> int:
        return len(self.pixels)

    def get(self, indices: Sequence[int]) -> torch.Tensor:
        """The images `indices`, uint8 (B, C, R, R)."""
        return self.pixels[torch.as_tensor(indices, dtype=torch.int64)]

    def _tell_skipped(self, skipped: list[Skipped], total: int) -> None:
        self.skipped = skipped
        if len(skipped) == total:
            raise _no_readable(self.name, skipped[0])
        for item in skipped:
            logger.warning("%s of %s was left out: %s.", item.name, self.name, item.reason)
        verb = "was" if len(skipped) == 1 else "were"
        logger.warning("%d of the %d images of %s %s left out.", len(skipped), total, self.name, verb)


class LazyImages(ImageSet):
    """A set that is read as it is needed; in place of an unreadable image comes the next readable one."""

    def __init__(self, options: DataOptions, source: Source) -> None:
        super().__init__(options, source)
        self.source = source
        self.patience = Patience()
        looked_at = isinstance(source, Stream) and getattr(source, "look", Look()).count
        if not looked_at:
            self.get([0])  # where nothing at all can be read, this raises now

    def __len__(self) -> int:
        return len(self.source)

    def get(self, indices: Sequence[int]) -> torch.Tensor:
        """The images `indices`, uint8 (B, C, R, R), each unreadable one replaced by the next readable one."""
        return self.patience(lambda: self.accept(fetch(self.source, self.options, indices)))

    def accept(self, fetched: Fetched) -> torch.Tensor:
        """The pixels of a batch, uint8 (B, C, R, R); warns once of each image in it that could not be read.

        This process keeps the list `skipped`; `fetched` may come from another. Raises Unreachable where the
        source could not be reached, UserError where no image at all could be read.
        """
        if fetched.lost is not None:
            raise Unreachable(*fetched.lost)
        known = {item.name for item in self.skipped}
        for item in fetched.skipped:
            if item.name not in known:
                known.add(item.name)
                self.skipped.append(item)
                number = len(self.skipped)
                logger.warning(
                    "%s of %s cannot be read (%s): skipped, %d so far.",
                    item.name,
                    self.name,
                    item.reason,
                    number,
                )
        if fetched.pixels is None:
            raise _no_readable(self.name, fetched.skipped[0])
        return fetched.pixels


class StreamImages(LazyImages):
    """A set that can only be read in its order; batches come shuffled within windows (`loader.StreamReader`).

    get() is fast where the indices ascend.
    """


def count_classes(source: Source) -> dict[str, int]:
    """The number of images of each class of a source by its name, classes without images included."""
    if source.labels is None:
        return {}
    names = _distinct(source.classes)
    return dict(zip(names, np.bincount(source.labels, minlength=len(names)).tolist(), strict=True))


def class_note(name: str, counts: Mapping[str, int]) -> str | None:
    """A sentence on the classes of the source `name` that have no images; None where each has some."""
    filled = [own for own, count in counts.items() if count]
    if len(filled) == len(counts):
        return None
    return (
        f"{name} has images of {len(filled):,} of {len(counts):,} classes, which alone count: "
        f"{class_list(filled)}."
    )


def tell_left_out(name: str, source: Source) -> tuple[LeftOut, ...]:
    """What a source has beside its images, which a warning says; a source of one's own need not say any."""
    left_out: tuple[LeftOut, ...] = getattr(source, "left_out", ())
    for note in getattr(source, "look", Look()).notes():
        logger.warning("%s: %s.", printable(name), printable(note))
    if told := "; ".join(left.text() for left in left_out if left.told):
        logger.warning("Left out of %s: %s.", printable(name), told)
    return left_out


def describe(images: ImageSet) -> dict[str, Any]:
    """What `vitgan data info` and a run's report say of a set, ready for JSON."""
    return {
        "source": images.name,
        "count": len(images),
        "resolution": images.options.resolution,
        "channels": images.options.channels,
        "classes": images.class_counts,
        "in_memory": isinstance(images, MemoryImages),
        "skipped": [{"name": item.name, "reason": item.reason} for item in images.skipped],
        "notes": images.notes,
        "left_out": [
            {"reason": left.reason, "count": left.count, "name": printable(left.name)}
            for left in images.left_out
        ],
        "fingerprint": images.fingerprint,
    }


def _identity(options: DataOptions, source: Source) -> Identity:
    head = [TRANSFORM_VERSION, len(source), options.resolution, options.channels]
    if (white := white_of(source)) != WHITE:
        head += [white.bits16, white.bits32, white.floats]
    found = identify(head, *as_hashed(source.labels, source.classes), source.content())
    before: Labels | None = getattr(source, "labels_before", None)
    if before is None:
        return found
    earlier = identify(head, *as_hashed(*before), source.content())
    return replace(found, before=earlier.fingerprint)


def _distinct(classes: Sequence[str]) -> list[str]:
    """The names of the classes, each once: one that is there already has its number behind it.

    What is no text, as bytes of a file's name that are not UTF-8, is escaped.
    """
    names: dict[str, None] = {}
    for number, name in enumerate(classes):
        own = printable(name)
        while own in names:
            own = f"{own} ({number})"
        names[own] = None
    return list(names)


def _decode(source: Source, options: DataOptions) -> tuple[torch.Tensor, dict[int, Skipped]]:
    """All pixels, uint8 (N, C, R, R), and the images that could not be read, by index; their pixels are 0."""
    from tqdm import tqdm

    pixels = np.zeros((len(source), options.channels, options.resolution, options.resolution), dtype=np.uint8)
    failed: dict[int, Skipped] = {}
    patience = Patience()

    def decode_chunk(start: int) -> int:
        stop = min(start + CHUNK, len(source))
        for index in range(start, stop):
            result = patience(lambda at=index: read_image(source, at, options))
            if isinstance(result, Skipped):
                failed[index] = result
            else:
                pixels[index] = result
        return stop - start

    pool = ThreadPoolExecutor(_threads(source))
    try:
        with quiet_decoding(), tqdm(total=len(source), unit=" images", delay=2, disable=None) as bar:
            for done in pool.map(decode_chunk, range(0, len(source), CHUNK)):
                bar.update(done)
    finally:
        pool.shutdown(cancel_futures=True)
    return torch.from_numpy(pixels), failed


def _threads(source: Source) -> int:
    """How many threads decode: one below about 128 x 128 pixels, where several only wait for the GIL."""
    with contextlib.suppress(Exception):
        if math.prod(source.picture(0).size) < 128**2:
            return 1
    return usable_cores()


def _no_readable(name: str, first: Skipped) -> UserError:
    return UserError(
        f"{name} has no readable image (the first, {first.name}: {first.reason}): "
        f"pass images that end in {', '.join(readable_suffixes())} and open in a viewer."
    )
