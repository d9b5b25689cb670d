"""Names of files as webdataset writes them: braces that count or list."""

import itertools
import re
from collections.abc import Iterator

from vitgan.errors import UserError
from vitgan.options import brief

MOST_SHARDS = 100_000
MOST_PATTERN, MOST_BRACES = 4096, 20  # characters, and of them opening braces
_RANGE = re.compile(r"(\d+)\.\.(\d+)")


def expand(pattern: str) -> list[str]:
    """The names of a pattern: {000..099} counts, {a,b} lists. Raises UserError above 100,000."""
    if len(pattern) > MOST_PATTERN or pattern.count("{") > MOST_BRACES:
        raise UserError(f"{brief(pattern)} is too long, or has more than {MOST_BRACES} braces: shorten it.")
    names = list(itertools.islice(_expanded(pattern), MOST_SHARDS + 1))
    if len(names) > MOST_SHARDS:
        raise UserError(f"{brief(pattern)} names more than {MOST_SHARDS:,} files: give fewer, larger ones.")
    return names


def _expanded(pattern: str) -> Iterator[str]:
    opening = pattern.find("{")
    closing = _closing(pattern, opening)
    if closing < 0:
        yield pattern
        return
    for choice in _choices(pattern[opening + 1 : closing]):
        for rest in _expanded(pattern[closing + 1 :]):
            yield pattern[:opening] + choice + rest


def _closing(pattern: str, opening: int) -> int:
    """Where the brace that opens there closes; -1 where it does not, or none opens."""
    depth = 0
    for place in range(opening, len(pattern)) if opening >= 0 else ():
        depth += {"{": 1, "}": -1}.get(pattern[place], 0)
        if depth == 0:
            return place
    return -1


def _choices(inside: str) -> Iterator[str]:
    match = _RANGE.fullmatch(inside)
    if match is not None:
        first, last = int(match[1]), int(match[2])
        yield from (f"{number:0{len(match[1])}}" for number in range(first, last + 1))
        return
    start = depth = 0
    for place, letter in enumerate(inside + ","):
        depth += {"{": 1, "}": -1}.get(letter, 0)
        if letter == "," and depth == 0:
            yield from _expanded(inside[start:place])
            start = place + 1
