"""What tells a set of images from any other, and where two of them begin to differ.

Shapes: N images.
"""

import hashlib
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

MOST_BLOCKS = 64
MOST_TEXT = 80  # characters of one part in a message
DIGITS = 32  # of a hash


@dataclass(frozen=True)
class Identity:
    """The hash of a set, and of the blocks of its content, few enough for every checkpoint.

    fingerprint: of everything; labels: of the classes and labels; block_parts: how many parts of the content
    each block has; blocks: (first part as text, hash) of each.
    """

    fingerprint: str
    labels: str
    block_parts: int
    blocks: tuple[tuple[str, str], ...]

    def facts(self) -> dict[str, Any]:
        """It, for JSON."""
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
    """The identity of N images whose content comes in parts, with labels int64 (N,) or None."""
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
    """How a set of `count` readable images differs from the one whose `facts` and count `then` holds."""
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
    """Hashes of a sequence of parts in blocks of equal size, which double rather than become too many."""

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
