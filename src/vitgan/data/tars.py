"""`wds:`: tar files of samples in the layout of webdataset, on this machine or a web server.

The members of a sample have one name up to the first dot of the base name: the first that ends as an image
does is the image, `.cls` holds the number of the class, `.json` perhaps {"label": number}. Nothing is ever
extracted to a file, and nothing is unpickled.
Shapes: N samples.
"""

import contextlib
import hashlib
import json
import logging
import lzma
import re
import tarfile
import zlib
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from vitgan.data.files import SUFFIXES
from vitgan.data.patterns import expand
from vitgan.data.reach import Unreachable, reaching
from vitgan.data.stream_source import Sample, Stream
from vitgan.data.transforms import reason
from vitgan.data.web import WebFile
from vitgan.errors import UserError
from vitgan.replacing import replacing

logger = logging.getLogger("vitgan")
MAX_MEMBER = 2**26  # bytes
MAX_TEXT = 2**20  # bytes of a label's file, and of the names of one member
MOST_CLASSES = 1_000_000
DAMAGE = (tarfile.TarError, EOFError, zlib.error, lzma.LZMAError, OSError, ValueError)
_ENDS = ("EmptyHeaderError", "InvalidHeaderError", "TruncatedHeaderError")  # by name: no type stub has them
BROKEN: tuple[type[tarfile.TarError], ...] = tuple(getattr(tarfile, name) for name in _ENDS)


@dataclass(frozen=True)
class Shard:
    """What a tar file holds: samples, bytes of their images, labels if all have one, hash of its members."""

    count: int
    size: int
    labels: list[int] | None
    digest: str


class TarStream(Stream):
    """The samples of tar files; a shard that is damaged ends where the damage begins."""

    def __init__(self, urls: list[str], shards: list[Shard]) -> None:
        counts = [shard.count for shard in shards]
        super().__init__(counts, sum(shard.size for shard in shards) / max(sum(counts), 1))
        self.urls, self._digests = urls, [shard.digest for shard in shards]
        self.labels = None
        if all(shard.labels is not None for shard in shards):
            self.labels = np.array([n for shard in shards for n in shard.labels or ()], dtype=np.int64)
        highest = -1 if self.labels is None else int(self.labels.max())
        self.classes = tuple(str(number) for number in range(highest + 1))

    def read(self, shard: int, start: int) -> Iterator[Sample]:
        """The samples of a shard from number `start` on. Raises Unreachable."""
        first, count, number = int(self.offsets[shard]), self.counts[shard], start
        place = self.urls[shard].rsplit("/", 1)[-1]
        for group in _groups(self.urls[shard], data_from=start):
            if start <= group.number < count:
                number = group.number + 1
                yield Sample(first + group.number, f"{group.name} in {place}", group.data, group.reason)
        for missing in range(number, count):
            yield Sample(first + missing, f"sample {missing} in {place}", None, "the file ends before it")

    def content(self) -> Iterator[bytes]:
        """What tells this set from any other: the names and sizes of its members."""
        yield from (f"file {number} {digest}".encode() for number, digest in enumerate(self._digests))


def open_tars(source: str, cache: Path) -> TarStream:
    """The samples of `wds:` and tar files, joined by `::`, with {000..099} and {a,b} in their names.

    What was counted in files of a web server is kept in `cache`/counts. Raises UserError.
    """
    urls = [url for part in source.removeprefix("wds:").split("::") for url in expand(part)]
    for url in urls:
        _check_url(source, url)
    shards = [_counted(url, cache / "counts") for url in urls]
    if not sum(shard.count for shard in shards):
        raise UserError(
            f"{source} has no images: its samples need a member that ends in .jpg, .png or alike."
        )
    return TarStream(urls, shards)


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
    try:
        if not _is_web(url):
            return _scan(url)
        with WebFile(url) as file:
            key = hashlib.sha256(f"{url}\n{file.size}\n{file.tag}".encode()).hexdigest()
    except Unreachable as loss:
        raise UserError(f"{url} cannot be read ({loss.reason}): check the address and the network.") from loss
    path = cache / f"{key}.json"
    with contextlib.suppress(OSError, ValueError, TypeError):
        return Shard(**json.loads(path.read_bytes()))
    shard = _scan(url)
    with contextlib.suppress(OSError):  # it is counted again the next time
        cache.mkdir(parents=True, exist_ok=True)
        with replacing(path) as temporary:
            temporary.write_text(json.dumps(asdict(shard)), "utf-8")
    return shard


def _scan(url: str) -> Shard:
    size, digest, labels = 0, hashlib.sha256(), list[int | None]()
    try:
        for group in _groups(url, data_from=None):
            size += group.size
            labels.append(group.label)
            digest.update(f"{group.name} {group.size} {group.label}\n".encode(errors="surrogateescape"))
    except Unreachable as loss:
        raise UserError(f"{url} cannot be read ({loss.reason}): check that it is there to its end.") from loss
    known = [label for label in labels if label is not None]
    return Shard(len(labels), size, known if len(known) == len(labels) else None, digest.hexdigest())


@dataclass
class _Group:
    """A sample as its members come: number in the shard, key, name, size and content of the image, label."""

    number: int
    key: str
    name: str = ""
    size: int = 0
    data: bytes | None = None
    reason: str = ""
    label: int | None = None


def _groups(url: str, data_from: int | None) -> Iterator[_Group]:
    """Samples of a tar file that have an image: with its content from number `data_from` on, else the label.

    They end where the file is damaged: with the sample there, unless its label is among what is lost. Raises
    Unreachable.
    """
    group, labelled = _Group(0, ""), True
    try:
        for found in _members(url):
            key, suffix = _split(found.info.name)
            if key != group.key:
                if group.name:
                    yield group
                    labelled = group.label is not None
                group = _Group(group.number + bool(group.name), key)
            _take(group, found, suffix, data_from)
    except DAMAGE as error:
        if data_from is None:
            logger.warning("%s is damaged (%s): what comes before is used.", url, reason(error))
            if labelled and group.label is None:  # it would cost the whole set its labels
                return
    if group.name:
        yield group


def _take(group: _Group, found: "_Found", suffix: str, data_from: int | None) -> None:
    """What a member adds to its sample."""
    if not group.name and found.info.name.lower().endswith(SUFFIXES):
        group.name, group.size = found.info.name, found.info.size
        if data_from is not None and group.number >= data_from:
            group.data, group.reason = found.read(MAX_MEMBER)
    elif data_from is None and (kind := suffix.rpartition(".")[2]) in ("cls", "json") and group.label is None:
        group.label = _label(kind, found.read(MAX_TEXT)[0] or b"")


class _Found(NamedTuple):
    """A member of a tar that is being read."""

    url: str
    tar: tarfile.TarFile
    info: tarfile.TarInfo

    def read(self, most: int) -> tuple[bytes | None, str]:
        """What is in it, or None and why there is nothing. Raises Unreachable."""
        if self.info.size > most:
            return None, f"it is larger than {most // 2**20} MiB"
        file = self.tar.extractfile(self.info)
        assert file is not None, "it is a plain file"
        try:
            with _reaching(self.url), file:
                return file.read(), ""
        except DAMAGE as error:
            return None, reason(error)


def _members(url: str) -> Iterator[_Found]:
    """The plain files of a tar whose names lead nowhere outside. Raises DAMAGE, and Unreachable."""
    with contextlib.ExitStack() as stack:
        if _is_web(url):
            file: Any = stack.enter_context(WebFile(url))
            tar = stack.enter_context(tarfile.open(fileobj=file, mode="r|*", tarinfo=_Member))
        else:
            with _reaching(url):
                tar = stack.enter_context(tarfile.open(Path(url).expanduser(), "r:*", tarinfo=_Member))
        while (member := _next(tar, url)) is not None:
            if member.isreg() and not _leads_outside(member.name):
                yield _Found(url, tar, member)


def _next(tar: tarfile.TarFile, url: str) -> tarfile.TarInfo | None:
    vars(tar)["members"] = []  # it would keep a note of every one
    with _reaching(url):
        return tar.next()


def _reaching(url: str) -> contextlib.AbstractContextManager[None]:
    return contextlib.nullcontext() if _is_web(url) else reaching(Path(url).expanduser())


class _Member(tarfile.TarInfo):
    """Refuses headers whose text, read whole, would fill the memory, and those that are broken or cut off."""

    @classmethod
    def fromtarfile(cls, file: tarfile.TarFile) -> Any:  # pyright: ignore[reportIncompatibleMethodOverride]
        try:
            return super().fromtarfile(file)
        except BROKEN as error:  # which tarfile would take for the end of the file
            raise tarfile.ReadError(reason(error)) from error

    def _proc_member(self, file: tarfile.TarFile) -> Any:
        texts = (tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK)
        texts += (tarfile.XHDTYPE, tarfile.XGLTYPE, tarfile.SOLARIS_XHDTYPE)
        if self.type in texts and self.size > MAX_TEXT:
            raise tarfile.ReadError("a header is longer than 1 MiB")
        return super()._proc_member(file)  # pyright: ignore[reportAttributeAccessIssue]


def _label(suffix: str, text: bytes) -> int | None:
    try:
        label = json.loads(text)
    except (ValueError, RecursionError):
        return None
    if suffix == "json":
        label = label.get("label") if isinstance(label, dict) else None
    if not isinstance(label, int) or isinstance(label, bool):
        return None
    return label if 0 <= label < MOST_CLASSES else None


def _split(name: str) -> tuple[str, str]:
    """The key of a member, its name up to the first dot of the base name, and what follows that."""
    folder, _, base = name.rpartition("/")
    stem, _, suffix = base.partition(".")
    return f"{folder}/{stem}", suffix.lower()


def _leads_outside(name: str) -> bool:
    return name.startswith("/") or ".." in name.split("/")
