"""The source `wds:TARS`: tar files of samples in the layout of webdataset, on this machine or a web server.

The members of a sample have the same name up to the first dot of the base name, or up to the last where names
have dots of their own. The first of them whose name ends as that of an image is its image; `.cls`, or "label"
in `.json`, is the number of its class.
"""

import contextlib
import hashlib
import http.client
import itertools
import json
import logging
import lzma
import re
import tarfile
import time
import urllib.error
import urllib.request
import zlib
from collections.abc import Iterator
from dataclasses import asdict, astuple, dataclass, field, fields, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from vitgan.compat import BoundedHeader, next_member
from vitgan.config import brief
from vitgan.data.retry import Unreachable, reaching
from vitgan.data.sources.arrays import MOST_CLASSES
from vitgan.data.sources.files import (
    HIDDEN,
    NOT_PLAIN,
    OUTSIDE,
    Inventory,
    LeftOut,
    is_clutter,
    of_suffix,
    suffix_of,
)
from vitgan.data.sources.labels import tidy
from vitgan.data.sources.streams import Sample, Stream, read_count, write_count
from vitgan.data.transforms import readable_suffixes, reason
from vitgan.errors import UserError
from vitgan.terminal import printable

logger = logging.getLogger("vitgan")
MOST_SHARDS = 100_000
MOST_PATTERN, MOST_BRACES = 4096, 20  # characters, and opening braces among them
_RANGE = re.compile(r"(\d+)\.\.(\d+)")


# --- Names with {000..099} and {a,b}


def expand(pattern: str) -> list[str]:
    """The names that a pattern stands for: {000..099} counts, {a,b} lists. Raises UserError above 100,000."""
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
    """The place of the brace that closes the one at `opening`; -1 where there is none, or `opening` is -1."""
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


# --- Files of a web server

TIMEOUT = 30.0  # seconds without an answer after which a connection is given up
PAUSES = (0.5, 1.0, 2.0)  # seconds before each new try
PASSING = (408, 425, 429, 500, 502, 503, 504)  # HTTP statuses that may be gone at the next try


class WebFile:
    """The file of a URL, which can only be read on. After a broken connection it goes on where it broke.

    size: in bytes, or None where the server does not say; tag: the server's ETag or date of the file, or "".
    """

    def __init__(self, url: str) -> None:
        self.url, self.tag = url, ""
        self.size: int | None = None
        self._answer: Any = None
        self._position = 0
        self.read(0)

    def __enter__(self) -> "WebFile":
        return self

    def __exit__(self, *_error: object) -> None:
        self.close()

    def read(self, size: int) -> bytes:
        """At most `size` bytes, b"" at the end. Raises Unreachable where four tries have failed."""
        for pause in (*PAUSES, None):
            try:
                return self._read(size)
            except (OSError, http.client.HTTPException) as error:
                self.close()
                if answered := isinstance(error, urllib.error.HTTPError):
                    error.close()
                if pause is None or (answered and error.code not in PASSING):
                    raise Unreachable(self.url, " ".join(str(error).split())) from error
                time.sleep(pause)
        raise AssertionError

    def close(self) -> None:
        """End the connection."""
        if self._answer is not None:
            self._answer.close()
            self._answer = None

    def _read(self, size: int) -> bytes:
        self._answer = self._answer or self._connect()
        data: bytes = self._answer.read(size) if size else b""
        self._position += len(data)
        if size and not data and self.size is not None and self._position < self.size:
            raise ConnectionError("the connection ended too early")
        return data

    def _connect(self) -> Any:
        headers = {"User-Agent": "vitgan"}
        if self._position:
            headers["Range"] = f"bytes={self._position}-"
        answer = urllib.request.urlopen(urllib.request.Request(self.url, headers=headers), timeout=TIMEOUT)
        tag = answer.headers.get("ETag") or answer.headers.get("Last-Modified") or ""
        if self._position and tag != self.tag:
            raise ConnectionError("the file is another one now")
        if self._position and answer.status != http.HTTPStatus.PARTIAL_CONTENT:
            _pass_over(answer, self._position)
        if not self._position:
            length = answer.headers.get("Content-Length", "")
            self.size, self.tag = int(length) if length.isdecimal() else None, tag
        return answer


def _pass_over(answer: Any, count: int) -> None:
    while count and (data := answer.read(min(count, 2**20))):
        count -= len(data)


# --- The stream

MAX_MEMBER = 2**26  # bytes of an image
MAX_TEXT = 2**20  # bytes of the file of a label
DAMAGE = (tarfile.TarError, EOFError, zlib.error, lzma.LZMAError, OSError, ValueError)


@dataclass(frozen=True)
class Shard:
    """What was counted in a tar file.

    count: its samples; size: the bytes of their images; labels: one a sample, None where one is missing;
    digest: the SHA-256 of the names, sizes and labels of its samples; unlabelled: the name of the first
    sample without a label, or ""; dotted: whether names have dots of their own, so that a sample's name ends
    at the last dot and not at the first; left_out: the fields of each `LeftOut`.
    """

    count: int
    size: int
    labels: list[int] | None
    digest: str
    unlabelled: str
    dotted: bool
    left_out: list[list[Any]]


class TarStream(Stream):
    """The samples of tar files, each file a shard; a damaged file ends where the damage begins."""

    labels_advice = 'give each sample a member .cls, or "label" in .json, with the number of its class'

    def __init__(self, urls: list[str], shards: list[Shard]) -> None:
        counts = [shard.count for shard in shards]
        super().__init__(counts, sum(shard.size for shard in shards) / max(sum(counts), 1))
        self.urls, self._digests = urls, [shard.digest for shard in shards]
        self._dotted = [shard.dotted for shard in shards]
        self.left_out = _left_out_of(shards)
        lacking = next((shard.unlabelled for shard in shards if shard.labels is None), "")
        self.unlabelled = lacking and f"{printable(lacking)} has no class"
        self.labels = None
        if all(shard.labels is not None for shard in shards):
            self.labels = np.array([n for shard in shards for n in shard.labels or ()], dtype=np.int64)
        highest = -1 if self.labels is None else int(self.labels.max())
        self.classes = tuple(str(number) for number in range(highest + 1))

    def read(self, shard: int, start: int) -> Iterator[Sample]:
        """The samples of a shard from its number `start` on. Raises Unreachable where the file is gone."""
        first, count, number = int(self.offsets[shard]), self.counts[shard], start
        place = self.urls[shard].rsplit("/", 1)[-1]
        for group in _groups(self.urls[shard], start, dotted=self._dotted[shard]):
            if start <= group.number < count:
                number = group.number + 1
                yield Sample(first + group.number, f"{group.name} in {place}", group.data, group.reason)
        for missing in range(number, count):
            yield Sample(first + missing, f"sample {missing} in {place}", None, "the file ends before it")

    def content(self) -> Iterator[bytes]:
        """Hashes of the names and sizes of the members, which tell this set from any other."""
        yield from (f"file {number} {digest}".encode() for number, digest in enumerate(self._digests))


def open_tars(source: str, cache: Path) -> TarStream:
    """The samples of `wds:` and tar files, joined by `::`, with {000..099} and {a,b} in their names.

    What was counted in files of a web server is kept in the folder `cache`/counts. Raises UserError where a
    file cannot be read, or none has an image.
    """
    urls = [url for part in source.removeprefix("wds:").split("::") for url in expand(part)]
    for url in urls:
        _check_url(source, url)
    shards = [_counted(url, cache / "counts") for url in urls]
    dotted = 2 * sum(shard.count for shard in shards if shard.dotted) > sum(shard.count for shard in shards)
    for number, shard in enumerate(shards):
        if shard.dotted != dotted:  # a file of few samples may look otherwise than the others of its set
            shards[number] = _scan(urls[number], dotted)
    if not sum(shard.count for shard in shards):
        lines = "; ".join(left.text() for left in _left_out_of(shards))
        raise UserError(
            f"{source} has no images: its samples need a member that ends in .jpg, .png or alike"
            f"{f' ({lines})' if lines else ''}."
        )
    return TarStream(urls, shards)


def _left_out_of(shards: list[Shard]) -> tuple[LeftOut, ...]:
    """What was left out of several tar files, the most frequent reason first."""
    found: dict[str, LeftOut] = {}
    for left in (LeftOut(*one) for shard in shards for one in shard.left_out):
        before = found.get(left.reason)
        found[left.reason] = left if before is None else replace(before, count=before.count + left.count)
    return tuple(sorted(found.values(), key=lambda left: (-left.count, left.reason)))


def _check_url(source: str, url: str) -> None:
    if url.startswith("pipe:"):
        raise UserError(
            f"{source} would run a shell command, which is never done: pass paths or http(s) URLs."
        )
    if (scheme := re.match(r"([a-z0-9+]{2,}):", url)) and not _is_web(url):
        raise UserError(
            f"{source} has the scheme {scheme[1]}, which cannot be read: pass paths or http(s) URLs."
        )
    if not _is_web(url) and not Path(url).expanduser().is_file():
        raise UserError(f"There is no file {url!r}: pass wds: and tar files, as wds:train-{{000..099}}.tar.")


def _is_web(url: str) -> bool:
    return url.startswith(("http://", "https://"))


def _counted(url: str, cache: Path) -> Shard:
    """What is in a tar file; of one on a web server it is remembered in the folder `cache`."""
    try:
        if not _is_web(url):
            return _scan(url)
        with WebFile(url) as file:
            names = " ".join(one.name for one in fields(Shard))  # of another version: again
            key = hashlib.sha256(f"{url}\n{file.size}\n{file.tag}\n{names}".encode()).hexdigest()
    except Unreachable as loss:
        raise UserError(f"{url} cannot be read ({loss.reason}): check the address and the network.") from loss
    path = cache / f"{key}.json"
    with contextlib.suppress(TypeError):  # it is not there, or damaged
        return Shard(**read_count(path))
    shard = _scan(url)
    write_count(path, asdict(shard))
    return shard


def _scan(url: str, dotted: bool | None = None) -> Shard:
    """What is in a tar file, which is read to its end; None for `dotted` finds out what the names are like.

    Raises UserError where it cannot be reached.
    """
    try:
        names = _Names()
        shard = _summed(url, names, dotted=bool(dotted))
        return _summed(url, names, dotted=True) if dotted is None and names.dotted else shard
    except Unreachable as loss:
        raise UserError(f"{url} cannot be read ({loss.reason}): check that it is there to its end.") from loss


class _Names:
    """Counts by which the names of a tar's images are told from those with dots of their own.

    In webdataset's layout a sample's name ends at the first dot: "7.left.png" and "7.right.png" are of one
    sample. Of images called "a.1.png", "a.2.png" there would be one. There more different ends, such as
    ".1.png", than samples are met, and the ends have numbers before their last dot.
    """

    MOST = 100_000  # different ends that are remembered

    def __init__(self) -> None:
        self.samples = 0
        self._ends: set[str] = set()

    def add(self, end: str) -> None:
        """Count an image whose name ends in `end` behind the sample's name, as "1.png"."""
        if len(self._ends) < self.MOST and re.search(r"\d.*\.", end):
            self._ends.add(end)

    @property
    def dotted(self) -> bool:
        """Whether a sample's name ends at its last dot."""
        return len(self._ends) > self.samples


def _summed(url: str, names: _Names, *, dotted: bool = False) -> Shard:
    size, digest, labels, unlabelled = 0, hashlib.sha256(), list[int | None](), ""
    left = Inventory()
    for group in _groups(url, None, dotted=dotted, left=left, names=names):
        size += group.size
        labels.append(group.label)
        if group.label is None and not unlabelled:
            unlabelled = group.name
        digest.update(f"{group.name} {group.size} {group.label}\n".encode(errors="surrogateescape"))
    names.samples = len(labels)
    known = [label for label in labels if label is not None]
    return Shard(
        count=len(labels),
        size=size,
        labels=known if len(known) == len(labels) else None,
        digest=digest.hexdigest(),
        unlabelled=unlabelled,
        dotted=dotted,
        left_out=[list(astuple(one)) for one in left.left_out],
    )


@dataclass
class _Group:
    """A sample, filled in as its members are met.

    number: in its shard; key: the name that its members share; name, size, data: of its image, with the
    reason why there is no data; label: the number of its class, or None; others: members that are neither.
    """

    number: int
    key: str
    name: str = ""
    size: int = 0
    data: bytes | None = None
    reason: str = ""
    label: int | None = None
    others: list[str] = field(default_factory=list)

    def end(self, left: Inventory) -> None:
        """Count the members of a sample without an image as left out; beside an image they describe it."""
        for name in () if self.name else self.others:
            suffix = suffix_of(name.rpartition("/")[2])
            left.leave(name, of_suffix(suffix) if suffix else "names without an end as .png")


def _groups(
    url: str,
    data_from: int | None,
    *,
    dotted: bool,
    left: Inventory | None = None,
    names: _Names | None = None,
) -> Iterator[_Group]:
    """The samples of a tar file that have an image, which is read from sample number `data_from` on.

    With None no image is read, but the labels are. `dotted` as in `Shard`; `left` counts what is passed over,
    `names` the ends of the names. A damaged file ends with the sample in which the damage is, and before it
    where that sample has lost its label. Raises Unreachable where the file is gone.
    """
    left, names = left or Inventory(), names or _Names()
    group, labelled = _Group(0, ""), True
    try:
        for found in _members(url, left):
            key, suffix = _split(found.info.name, dotted)
            if key != group.key:
                group.end(left)
                if group.name:
                    yield group
                    labelled = group.label is not None
                group = _Group(group.number + bool(group.name), key)
            _take(group, found, suffix, data_from, left, names)
    except DAMAGE as error:
        if data_from is None:
            logger.warning("%s is damaged (%s): what comes before is used.", url, reason(error))
            if labelled and group.label is None:  # one sample without a label would leave the set without any
                return
    group.end(left)
    if group.name:
        yield group


def _take(
    group: _Group, found: "_Found", suffix: str, data_from: int | None, left: Inventory, names: _Names
) -> None:
    """Add to the sample what one of its members says."""
    name = found.info.name
    image = name.lower().endswith(readable_suffixes())
    if image:
        names.add(suffix)
    if image and not group.name:
        group.name, group.size = name, found.info.size
        if data_from is not None and group.number >= data_from:
            group.data, group.reason = found.read(MAX_MEMBER)
    elif image:
        left.leave(name, "images beside the first of a sample")
    elif data_from is None and (kind := suffix.rpartition(".")[2]) in ("cls", "json") and group.label is None:
        group.label = _label(kind, found.read(MAX_TEXT)[0] or b"")
    else:
        group.others.append(name)


class _Found(NamedTuple):
    """A plain file in a tar that is being read."""

    url: str
    tar: tarfile.TarFile
    info: tarfile.TarInfo

    def read(self, most: int) -> tuple[bytes | None, str]:
        """The content of at most `most` bytes and "", or None and why there is none. Raises Unreachable."""
        if self.info.size > most:
            return None, f"it is larger than {most // 2**20} MiB"
        file = self.tar.extractfile(self.info)
        assert file is not None, "only plain files are asked for"
        try:
            with _reaching(self.url), file:
                return file.read(), ""
        except DAMAGE as error:
            return None, reason(error)


def _members(url: str, left: Inventory) -> Iterator[_Found]:
    """The plain files of a tar whose names do not lead outside a folder that it would be unpacked into.

    Those that are hidden are passed over, as the "._" that macOS adds to each; `left` counts them.
    Raises one of DAMAGE where the tar is damaged, Unreachable where it is gone.
    """
    with contextlib.ExitStack() as stack:
        if _is_web(url):
            file: Any = stack.enter_context(WebFile(url))
            tar = stack.enter_context(tarfile.open(fileobj=file, mode="r|*", tarinfo=BoundedHeader))
        else:
            with _reaching(url):
                tar = stack.enter_context(tarfile.open(Path(url).expanduser(), "r:*", tarinfo=BoundedHeader))
        while (member := _next(tar, url)) is not None:
            if member.isdir():
                continue
            if is_clutter(tidy(member.name)):
                left.leave(member.name, HIDDEN, told=False)
            elif not member.isreg():
                left.leave(member.name, NOT_PLAIN)
            elif _leads_outside(member.name):
                left.leave(member.name, OUTSIDE)
            else:
                yield _Found(url, tar, member)


def _next(tar: tarfile.TarFile, url: str) -> tarfile.TarInfo | None:
    with _reaching(url):
        return next_member(tar)


def _reaching(url: str) -> contextlib.AbstractContextManager[None]:
    return contextlib.nullcontext() if _is_web(url) else reaching(Path(url).expanduser())


def _label(suffix: str, text: bytes) -> int | None:
    """The number of a class that a member with the suffix "cls" or "json" holds; None where it holds none."""
    try:
        label = json.loads(text)
    except (ValueError, RecursionError):
        return None
    if suffix == "json":
        label = label.get("label") if isinstance(label, dict) else None
    if not isinstance(label, int) or isinstance(label, bool):
        return None
    return label if 0 <= label < MOST_CLASSES else None


def _split(name: str, dotted: bool) -> tuple[str, str]:
    """The name of a member up to the first dot of its base name, or the last, and what follows that dot."""
    folder, _, base = name.rpartition("/")
    stem, _, suffix = base.rpartition(".") if dotted and "." in base else base.partition(".")
    return f"{folder}/{stem}", suffix.lower()


def _leads_outside(name: str) -> bool:
    return name.startswith("/") or ".." in name.split("/")
