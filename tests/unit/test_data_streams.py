"""`wds:` and `hf:`: sets that are read from beginning to end, shuffled within windows, and gone on with."""

import contextlib
import functools
import gzip
import http.server
import io
import itertools
import json
import multiprocessing
import pickle
import socket
import sys
import tarfile
import threading
import tracemalloc
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from urllib.error import HTTPError

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader
from torch.utils.data.dataloader import _MultiProcessingDataLoaderIter

from vitgan.cli import main
from vitgan.data import Batch, DataOptions, ImageSet, batches, open_source
from vitgan.data.reach import Unreachable
from vitgan.data.stream_source import Stream
from vitgan.data.streams import StreamImages, StreamReader
from vitgan.data.tars import MAX_MEMBER, expand
from vitgan.data.web import WebFile
from vitgan.engine.checkpoint import checkpoints, load_checkpoint
from vitgan.errors import UserError

SIDE = 4
COUNTS = (5, 4, 6)  # samples of the shards
COUNT = sum(COUNTS)
SAMPLE = 4 * 512  # bytes of one in a tar: two headers, the image and the label
pytestmark = pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")


@pytest.fixture(autouse=True)
def _forked(monkeypatch: pytest.MonkeyPatch) -> None:
    """Workers that know what a test has changed, however this Python starts them by itself."""
    if "fork" in multiprocessing.get_all_start_methods():
        forking = functools.partial(DataLoader, multiprocessing_context="fork")
        monkeypatch.setattr("vitgan.data.readers.DataLoader", forking)


def pixels(number: int) -> np.ndarray:
    """No two alike, none its own mirror image; the number stands in all of them."""
    found = np.random.default_rng(number).integers(0, 256, (SIDE, SIDE, 3), dtype=np.uint8)
    found[0, 0] = number
    return found


def encoded(number: int, kind: str = "PNG") -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels(number)).save(file, kind)
    return file.getvalue()


def write_tar(path: Path, members: Sequence[tuple[str, bytes | tarfile.TarInfo]], mode: str = "w") -> None:
    with tarfile.open(path, mode) as tar:  # type: ignore[call-overload]
        for name, content in members:
            if isinstance(content, tarfile.TarInfo):
                tar.addfile(content)
                continue
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))


def members(numbers: Sequence[int]) -> list[tuple[str, bytes]]:
    return [
        part
        for n in numbers
        for part in ((f"set/{n:03d}.png", encoded(n)), (f"set/{n:03d}.cls", str(n % 3).encode()))
    ]


@pytest.fixture
def shards(tmp_path: Path) -> Path:
    """Three tar files."""
    starts = np.cumsum([0, *COUNTS])
    for shard, start in enumerate(starts[:-1]):
        write_tar(tmp_path / f"set-{shard}.tar", members(range(start, start + COUNTS[shard])))
    return tmp_path


@pytest.fixture
def wds(shards: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """The three as one source, in windows of at most four samples."""
    monkeypatch.setattr("vitgan.data.stream_source.WINDOW_SAMPLES", 4)
    return f"wds:{shards}/set-{{0..2}}.tar"


def build(source: str, **changes: Any) -> ImageSet:
    options = {"source": source, "resolution": SIDE, "channels": 3, "labels": True, "flip": True}
    return DataOptions(**{**options, **changes}).build()  # type: ignore[arg-type]


def take(images: ImageSet, number: int, *, batch: int = 3, **more: Any) -> list[Batch]:
    options = {"seed": 0, "images_seen": 0, "device": "cpu", **more}
    with contextlib.closing(batches(images, batch=batch, **options)) as stream:
        return list(itertools.islice(stream, number))


def joined(taken: list[Batch]) -> tuple[torch.Tensor, torch.Tensor]:
    labels = [batch.labels for batch in taken if batch.labels is not None]
    return torch.cat([batch.images for batch in taken]), torch.cat(labels)


def numbers(images: torch.Tensor) -> list[int]:
    """Which sample each image (B, C, R, R) is, mirrored or not."""
    known = {pixels(n).tobytes(): n for n in range(COUNT)} | {
        pixels(n)[:, ::-1].tobytes(): n for n in range(COUNT)
    }
    shown = ((images + 1) * 127.5).round().byte().permute(0, 2, 3, 1).numpy()
    return [known[image.tobytes()] for image in shown]


def test_patterns_count_and_list() -> None:
    assert expand("a-{08..11}.tar") == ["a-08.tar", "a-09.tar", "a-10.tar", "a-11.tar"]
    assert expand("{x,y}/{0..1}.tar") == ["x/0.tar", "x/1.tar", "y/0.tar", "y/1.tar"]
    assert expand("{a,b{1,2}}.tar") == ["a.tar", "b1.tar", "b2.tar"]
    assert expand("plain.tar") == ["plain.tar"]
    assert expand("open{1,2.tar") == ["open{1,2.tar"]


def test_samples_labels_and_order_are_those_of_the_files(wds: str) -> None:
    images = build(wds, labels=True)
    assert (len(images), images.classes) == (COUNT, ("0", "1", "2"))
    expected = np.stack([pixels(n).transpose(2, 0, 1) for n in range(COUNT)])
    assert np.array_equal(images.get(range(COUNT)).numpy(), expected)
    assert images.labels is not None
    assert images.labels.tolist() == [n % 3 for n in range(COUNT)]


@pytest.mark.parametrize("mode", ["w:gz", "w:bz2", "w:xz"])
def test_compressed_tars_jpegs_and_labels_in_json(mode: str, tmp_path: Path) -> None:
    content = [("a.x.jpg", encoded(1, "JPEG")), ("a.x.json", b'{"label": 4, "caption": "a cat"}')]
    write_tar(tmp_path / "set.tar", content, mode)
    images = build(f"wds:{tmp_path}/set.tar")
    assert (len(images), len(images.classes)) == (1, 5)
    assert images.labels is not None
    assert images.labels.tolist() == [4]


@pytest.mark.parametrize("workers", [0, 2])
def test_every_epoch_holds_every_sample_once_in_an_order_of_its_own(workers: int, wds: str) -> None:
    images, labels = joined(take(build(wds, workers=workers), 3 * COUNT // 5, batch=5))
    seen = np.array(numbers(images)).reshape(3, COUNT)
    assert np.array_equal(np.sort(seen), np.tile(np.arange(COUNT), (3, 1)))
    assert len({tuple(epoch) for epoch in seen.tolist()}) == 3
    assert labels.tolist() == [n % 3 for n in seen.flatten()]
    other = numbers(joined(take(build(wds), COUNT // 5, batch=5, seed=1))[0])
    assert other != seen[0].tolist()


@pytest.mark.parametrize("seen", [1, 4, 13, 16, 44])
@pytest.mark.parametrize("workers", [0, 2])
def test_it_goes_on_at_the_exact_sample(seen: int, workers: int, wds: str) -> None:
    whole, labels = joined(take(build(wds), 60, batch=1))
    rest, rest_labels = joined(take(build(wds, workers=workers), 4, batch=4, images_seen=seen))
    assert torch.equal(rest, whole[seen : seen + 16])
    assert torch.equal(rest_labels, labels[seen : seen + 16])


@pytest.mark.parametrize("ranks", [2, 3])
def test_the_ranks_share_out_every_batch(ranks: int, wds: str) -> None:
    whole, _ = joined(take(build(wds), 5, batch=6))
    parts = [take(build(wds), 5, batch=6, rank=rank, ranks=ranks) for rank in range(ranks)]
    shared = torch.cat([part[step].images for step in range(5) for part in parts])
    assert torch.equal(shared, whole)


def test_a_window_reads_its_shards_once(wds: str, monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[tuple[int, int]] = []
    source = open_source(wds)
    assert isinstance(source, Stream)
    real = type(source).read

    def noted(stream: Stream, shard: int, start: int) -> Iterator[Any]:
        read.append((shard, start))
        return real(stream, shard, start)  # type: ignore[arg-type]

    monkeypatch.setattr(type(source), "read", noted)
    take(build(wds, workers=0), COUNT, batch=1)
    assert sorted(set(read)) == [(0, 0), (1, 0), (2, 0)]


@pytest.mark.parametrize("kind", ["wds", "hub_folder"])
def test_what_goes_to_another_process_reads_the_same(kind: str, request: pytest.FixtureRequest) -> None:
    """As pickles, for systems that cannot fork; after it was in use here."""
    images = build(request.getfixturevalue(kind))
    assert isinstance(images, StreamImages)
    assert isinstance(images.source, Stream)
    reader = StreamReader(images.source, images.options, flip=True, seed=3)
    spans = [(start, start + 4) for start in range(0, 40, 4)]
    expected = [reader(span) for span in spans]
    copy = pickle.loads(pickle.dumps(reader))
    for span, one in zip(spans, expected, strict=True):
        other = copy(span)
        assert one.pixels is not None
        assert torch.equal(one.pixels, other.pixels)
        assert torch.equal(one.indices, other.indices)


def test_windows_are_smaller_where_samples_are_large_and_one_is_held(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """48 samples of 64 KiB, four to a window."""
    noise = np.random.default_rng(0).integers(0, 256, (146, 146, 3), dtype=np.uint8)
    file = io.BytesIO()
    Image.fromarray(noise).save(file, "PNG")
    write_tar(tmp_path / "set.tar", [(f"{n}.png", file.getvalue()) for n in range(48)])
    monkeypatch.setattr("vitgan.data.stream_source.WINDOW_BYTES", 4 * len(file.getvalue()))
    images = build(f"wds:{tmp_path}/set.tar", labels=False, workers=0)
    assert isinstance(images, StreamImages)
    assert isinstance(images.source, Stream)
    assert images.source.windows == 12
    tracemalloc.start()
    assert len(take(images, 40)) == 40
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert 4 * len(file.getvalue()) < peak < 12 * len(file.getvalue())


@pytest.mark.parametrize("kind", ["wds", "hub_folder"])
@pytest.mark.parametrize("workers", ["0", "2"])
def test_a_stream_can_be_packed(
    workers: str, kind: str, tmp_path: Path, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("vitgan.data.conversion.CHUNK_IMAGES", 4)
    source: str = request.getfixturevalue(kind)
    assert main(["data", "pack", source, str(tmp_path / "packed"), "--workers", workers, "--quiet"]) == 0
    packed, stream = build(str(tmp_path / "packed")), build(source)
    assert packed.classes == stream.classes
    assert torch.equal(packed.get(range(COUNT)), stream.get(range(COUNT)))
    assert packed.labels is not None
    assert stream.labels is not None
    assert torch.equal(packed.labels, stream.labels)


def test_a_reader_that_is_killed_costs_no_sample(
    wds: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(_MultiProcessingDataLoaderIter._try_get_data, "__defaults__", (0.2,))
    before = set(multiprocessing.active_children())
    options: dict[str, Any] = {"batch": 3, "seed": 0, "images_seen": 0, "device": "cpu"}
    with contextlib.closing(batches(build(wds, workers=2), **options)) as stream:
        found = [next(stream)]
        reader = (set(multiprocessing.active_children()) - before).pop()
        reader.kill()
        reader.join()
        found += itertools.islice(stream, 14)
    expected = joined(take(build(wds), 15))
    assert all(torch.equal(a, b) for a, b in zip(joined(found), expected, strict=True))
    assert caplog.text.count("A data worker was lost") == 1


# What a tar may hold


def test_members_that_lead_outside_links_and_devices_are_passed_over(tmp_path: Path) -> None:
    odd = []
    for name, kind in (
        ("d/l.png", tarfile.SYMTYPE),
        ("d/h.png", tarfile.LNKTYPE),
        ("d/c.png", tarfile.CHRTYPE),
    ):
        info = tarfile.TarInfo(name)
        info.type, info.linkname = kind, "/etc/passwd"
        odd.append((name, info))
    outside = [(name, encoded(9)) for name in ("../out.png", "/abs.png", "a/../../b.png")]
    write_tar(tmp_path / "set.tar", [*odd, *outside, *members([3])])
    before = set(tmp_path.parent.rglob("*"))
    images = build(f"wds:{tmp_path}/set.tar")
    assert len(images) == 1
    assert numbers(images.get([0]).float() / 127.5 - 1) == [3]
    assert set(tmp_path.parent.rglob("*")) == before


def test_unreadable_samples_are_named_and_replaced(shards: Path) -> None:
    write_tar(shards / "set-1.tar", [("set/050.png", b"no picture"), ("set/050.cls", b"0"), *members([5])])
    images = build(f"wds:{shards}/set-{{0..1}}.tar", labels=False, workers=0)
    assert len(images) == 7
    seen = numbers(joined_images(take(images, 7, batch=1)))
    assert set(seen) == {0, 1, 2, 3, 4, 5}
    assert [item.name for item in images.skipped] == ["set/050.png in set-1.tar"]


def joined_images(taken: list[Batch]) -> torch.Tensor:
    return torch.cat([batch.images for batch in taken])


def altered(data: bytes) -> bytes:
    """A wrong byte in the header of the fourth sample."""
    return data[: 3 * SAMPLE + 10] + b"?" + data[3 * SAMPLE + 11 :]


def long_header(data: bytes) -> bytes:
    """A name of more than a MiB for the fourth sample."""
    info = tarfile.TarInfo("name")
    info.type, info.size = tarfile.GNUTYPE_LONGNAME, 2**20 + 1
    return data[: 3 * SAMPLE] + info.tobuf(tarfile.GNU_FORMAT) + bytes(2**20 + 512) + data[3 * SAMPLE :]


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        pytest.param(lambda data: data[: 3 * SAMPLE], "empty header", id="cut between two samples"),
        pytest.param(lambda data: data[: 3 * SAMPLE + 200], "truncated header", id="cut in a header"),
        pytest.param(lambda data: data[: 3 * SAMPLE + 530], "unexpected end of data", id="cut in an image"),
        pytest.param(lambda data: data[: 4 * SAMPLE - 1024], "empty header", id="cut before a label"),
        pytest.param(lambda data: data[: 4 * SAMPLE - 512], "unexpected end of data", id="cut in a label"),
        pytest.param(altered, "bad checksum", id="altered"),
        pytest.param(long_header, "a header is longer than 1 MiB", id="a long header"),
    ],
)
@pytest.mark.parametrize("local", [True, False], ids=["local", "on the web"])
def test_a_damaged_end_is_told_and_costs_neither_what_comes_before_nor_the_labels(
    local: bool,
    spoil: Callable[[bytes], bytes],
    said: str,
    shards: Path,
    wds: str,
    server: tuple[str, type["_Server"]],
    caplog: pytest.LogCaptureFixture,
) -> None:
    file = shards / "set-2.tar"
    file.write_bytes(spoil(file.read_bytes()))
    images = build(wds if local else server[0])
    (told,) = [record.getMessage() for record in caplog.records]
    assert told.endswith(f"set-2.tar is damaged ({said}): what comes before is used.")
    assert numbers(images.get(range(len(images))).float() / 127.5 - 1) == list(range(12))
    assert images.skipped == []
    assert images.labels is not None
    assert images.labels.tolist() == [n % 3 for n in range(12)]


def test_a_compressed_file_that_is_cut_is_told_and_what_comes_before_is_used(
    shards: Path, caplog: pytest.LogCaptureFixture
) -> None:
    file = shards / "set-2.tar.gz"
    whole = gzip.compress((shards / "set-2.tar").read_bytes())
    file.write_bytes(whole[: len(whole) // 2])
    images = build(f"wds:{file}")
    assert f"{file} is damaged (Compressed file ended" in caplog.text
    assert 0 < len(images) < COUNTS[2]
    found = numbers(images.get(range(len(images))).float() / 127.5 - 1)
    assert found == list(range(9, 9 + len(images)))


def test_a_cut_image_without_a_label_is_named_and_replaced(tmp_path: Path) -> None:
    write_tar(tmp_path / "set.tar", [(f"{n}.png", encoded(n)) for n in range(4)])
    data = (tmp_path / "set.tar").read_bytes()
    (tmp_path / "set.tar").write_bytes(data[: 3 * SAMPLE // 2 + 530])
    images = build(f"wds:{tmp_path}/set.tar", labels=False)
    assert numbers(images.get(range(4)).float() / 127.5 - 1) == [0, 1, 2, 0]
    assert [(item.name, item.reason) for item in images.skipped] == [
        ("3.png in set.tar", "unexpected end of data")
    ]


@pytest.mark.parametrize("workers", [0, 2])
def test_a_file_that_is_cut_while_training_costs_the_samples_that_are_gone(
    workers: int, wds: str, shards: Path
) -> None:
    images = build(wds, workers=workers)
    file = shards / "set-1.tar"
    file.write_bytes(file.read_bytes()[: 2 * SAMPLE])
    found, labels = joined(take(images, 2 * COUNT // 3))
    seen = numbers(found)
    assert len(seen) == 2 * COUNT
    assert set(seen) == set(range(COUNT)) - {7, 8}
    assert labels.tolist() == [n % 3 for n in seen]
    assert sorted((item.name, item.reason) for item in images.skipped) == [
        (f"sample {number} in set-1.tar", "the file ends before it") for number in (2, 3)
    ]


def test_an_image_above_64_mib_is_named_and_not_read(tmp_path: Path) -> None:
    write_tar(tmp_path / "last.tar", members([3]))
    info = tarfile.TarInfo("set/000.png")
    info.size = MAX_MEMBER + 1
    with (tmp_path / "set.tar").open("wb") as file:
        file.write(info.tobuf())
        file.seek(512 + MAX_MEMBER + 512)
        file.write((tmp_path / "last.tar").read_bytes())
    tracemalloc.start()
    images = build(f"wds:{tmp_path}/set.tar", labels=False)
    assert numbers(images.get([0, 1]).float() / 127.5 - 1) == [3, 3]
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert [item.reason for item in images.skipped] == ["it is larger than 64 MiB"]
    assert peak < 2**24


@pytest.mark.parametrize("text", [None, b"", b"cat", b"-1", b"1.0", b"true", b"1000000", b"[" * 9999])
def test_a_sample_without_a_valid_label_leaves_the_set_without_labels(
    text: bytes | None, tmp_path: Path
) -> None:
    odd = [("set/001.png", encoded(1))] + ([] if text is None else [("set/001.cls", text)])
    write_tar(tmp_path / "set.tar", [*odd, *members([2])])
    assert len(build(f"wds:{tmp_path}/set.tar", labels=False)) == 2
    with pytest.raises(UserError, match="has no labels"):
        build(f"wds:{tmp_path}/set.tar")


def test_files_are_joined_in_the_order_of_their_names_in_the_source(shards: Path) -> None:
    images = build(f"wds:{shards}/set-2.tar::{shards}/set-{{1,0}}.tar")
    assert numbers(images.get(range(COUNT)).float() / 127.5 - 1) == [*range(9, 15), *range(5, 9), *range(5)]


@pytest.mark.parametrize("workers", [0, 2])
def test_files_that_go_away_are_waited_for(
    workers: int, wds: str, shards: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def back(_seconds: float) -> None:
        for file in away.iterdir():
            file.rename(shards / file.name)

    monkeypatch.setattr("vitgan.data.reach.time", SimpleNamespace(sleep=back))
    images = build(wds, workers=workers)
    with contextlib.closing(batches(images, batch=3, seed=0, images_seen=0, device="cpu")) as stream:
        found = [next(stream)]
        away = shards / "away"
        away.mkdir()
        for file in shards.glob("set-*.tar"):
            file.rename(away / file.name)
        found += itertools.islice(stream, 14)
    assert list(away.iterdir()) == []
    expected = joined(take(build(wds), 15))
    assert all(torch.equal(a, b) for a, b in zip(joined(found), expected, strict=True))
    assert (caplog.text.count("waiting for it"), caplog.text.count("It is back")) == (1, 1)
    assert images.skipped == []


@pytest.mark.parametrize(
    ("source", "said"),
    [
        ("wds:pipe:cat x.tar", "would run a shell command, which is never done"),
        ("wds:s3://bucket/x.tar", "has the scheme s3, which cannot be read"),
        ("wds:nowhere.tar", "There is no file 'nowhere.tar'"),
        ("wds:{0..999999}.tar", "names more than 100,000 files"),
    ],
)
def test_sources_that_are_refused(source: str, said: str) -> None:
    with pytest.raises(UserError, match=said):
        open_source(source)


def test_a_tar_without_images_and_a_file_that_is_no_tar(tmp_path: Path) -> None:
    write_tar(tmp_path / "set.tar", [("a.txt", b"text")])
    (tmp_path / "none.tar").write_bytes(b"none" * 1000)
    for name in ("set", "none"):
        with pytest.raises(UserError, match="has no images: its samples need a member that ends in"):
            open_source(f"wds:{tmp_path}/{name}.tar")


# A web server


class _Server(http.server.SimpleHTTPRequestHandler):
    """Serves a folder, and notes the ranges that are asked for.

    breaking: so many answers break off; refusing: so many are refused, with status 503; ranges: whether it
    knows them; tag: of every file.
    """

    folder = ""
    breaking = refusing = 0
    ranges = True
    tag = "1"
    asked: list[str | None]

    def do_GET(self) -> None:
        own, path = type(self), Path(self.folder) / self.path.lstrip("/")
        wanted = self.headers.get("Range") if own.ranges else None
        own.asked.append(wanted)
        if own.refusing > 0 or not path.exists():
            own.refusing -= 1
            self.send_error(503 if path.exists() else 404)
            return
        start = int(wanted.removeprefix("bytes=").split("-")[0]) if wanted else 0
        self._answer(path.read_bytes(), start, partly=wanted is not None)

    def _answer(self, data: bytes, start: int, *, partly: bool) -> None:
        self.send_response(206 if partly else 200)
        if partly:
            self.send_header("Content-Range", f"bytes {start}-{len(data) - 1}/{len(data)}")
        self.send_header("Content-Length", str(len(data) - start))
        self.send_header("ETag", self.tag)
        self.end_headers()
        rest = data[start:]
        if type(self).breaking > 0:
            type(self).breaking -= 1
            rest = rest[: len(rest) // 2]
            self.close_connection = True
        self.wfile.write(rest)

    def log_message(self, format: str, *arguments: Any) -> None:
        pass


@pytest.fixture
def server(
    shards: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> Iterator[tuple[str, type[_Server]]]:
    """The address of the three shards, and what answers there."""
    monkeypatch.setenv("VITGAN_DATA", str(tmp_path / "cache"))
    monkeypatch.setattr("vitgan.data.web.PAUSES", (0.0, 0.0, 0.0))
    handler = type("Handler", (_Server,), {"folder": str(shards), "asked": []})
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as running:
        thread = threading.Thread(target=running.serve_forever, args=(0.01,))
        thread.start()
        yield f"wds:http://127.0.0.1:{running.server_address[1]}/set-{{0..2}}.tar", handler
        running.shutdown()
        thread.join()


def test_a_web_server_gives_the_same_stream(server: tuple[str, type[_Server]], wds: str) -> None:
    web, handler = server
    found, expected = (joined(take(build(source, workers=0), 12)) for source in (web, wds))
    assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))
    before = len(handler.asked)
    assert len(build(web)) == COUNT
    assert len(handler.asked) - before < 2 * len(COUNTS)  # each for its date; the counts were kept


@pytest.mark.parametrize("ranges", [True, False])
def test_a_connection_that_breaks_is_taken_up_where_it_broke(
    ranges: bool, server: tuple[str, type[_Server]], wds: str
) -> None:
    """A server that knows no ranges sends the file anew: what is known of it is passed over."""
    web, handler = server
    images = build(web)
    handler.breaking, handler.ranges = 4 if ranges else 2, ranges
    found = joined(take(images, 12))
    assert all(torch.equal(a, b) for a, b in zip(found, joined(take(build(wds), 12)), strict=True))
    assert handler.breaking == 0
    assert images.skipped == []
    taken_up = [wanted for wanted in handler.asked if wanted is not None and wanted != "bytes=0-"]
    assert bool(taken_up) == ranges


def test_a_connection_that_breaks_while_the_file_is_replaced_is_not_taken_up(
    server: tuple[str, type[_Server]],
) -> None:
    web, handler = server
    handler.breaking = 1
    with WebFile(web.removeprefix("wds:").replace("{0..2}", "1")) as file:
        assert len(file.read(512)) == 512
        handler.tag = "2"
        with pytest.raises(Unreachable, match="the file is another one now"):
            list(iter(lambda: file.read(4096), b""))


def test_a_server_that_is_overloaded_is_asked_again(server: tuple[str, type[_Server]]) -> None:
    web, handler = server
    handler.refusing = 3
    assert len(build(web)) == COUNT
    assert handler.refusing == 0


def test_a_file_that_the_server_does_not_have_is_asked_for_once(server: tuple[str, type[_Server]]) -> None:
    web, handler = server
    with pytest.raises(UserError, match=r"set-3\.tar cannot be read \(HTTP Error 404: Not Found\)"):
        open_source(web.replace("0..2", "3..9"))
    assert len(handler.asked) == 1


def test_an_answer_that_refuses_is_closed(server: tuple[str, type[_Server]]) -> None:
    with pytest.raises(Unreachable) as caught:
        WebFile(server[0].removeprefix("wds:"))
    assert isinstance(caught.value.__cause__, HTTPError)
    assert caught.value.__cause__.closed


def test_a_server_that_is_gone_for_a_while_is_waited_for(
    server: tuple[str, type[_Server]],
    wds: str,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    web, handler = server
    monkeypatch.setattr("vitgan.data.reach.FIRST_PAUSE", 0.01)
    images = build(web, workers=0)
    handler.refusing = 14
    found = joined(take(images, 12))
    assert all(torch.equal(a, b) for a, b in zip(found, joined(take(build(wds), 12)), strict=True))
    assert (caplog.text.count("waiting for it"), caplog.text.count("It is back")) == (1, 1)


def test_a_server_that_is_gone_ends_it_with_a_sentence(
    server: tuple[str, type[_Server]], monkeypatch: pytest.MonkeyPatch
) -> None:
    web, handler = server
    monkeypatch.setenv("VITGAN_DATA_PATIENCE", "0.2")
    images = build(web)
    handler.refusing = 10**6
    with pytest.raises(UserError, match=r"set-\d\.tar cannot be reached any more .*503"):
        take(images, 12)


# The Hub's library


@pytest.fixture
def hub_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """An imagefolder of two classes."""
    pytest.importorskip("datasets")
    monkeypatch.setenv("VITGAN_DATA", str(tmp_path / "cache"))
    monkeypatch.setattr("vitgan.data.stream_source.WINDOW_SAMPLES", 4)
    for number in range(COUNT):
        place = tmp_path / "hub" / "train" / ("cat", "dog")[number % 2]
        place.mkdir(parents=True, exist_ok=True)
        (place / f"{number:02d}.png").write_bytes(encoded(number))
    return f"hf:{tmp_path / 'hub'}"


@pytest.fixture
def hub_tables(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """The same as tables in two parquet files."""
    library: Any = pytest.importorskip("datasets")
    monkeypatch.setenv("VITGAN_DATA", str(tmp_path / "cache"))
    monkeypatch.setattr("vitgan.data.stream_source.WINDOW_SAMPLES", 4)
    kinds = library.Features({"label": library.ClassLabel(names=["cat", "dog"]), "picture": library.Image()})
    for part, found in enumerate((range(7), range(7, COUNT))):
        rows = {
            "label": [n % 2 for n in found],
            "picture": [{"bytes": encoded(n), "path": None} for n in found],
        }
        (tmp_path / "tables").mkdir(exist_ok=True)
        table = library.Dataset.from_dict(rows, features=kinds)
        table.to_parquet(tmp_path / "tables" / f"train-{part}.parquet")
    return f"hf:{tmp_path / 'tables'}"


@pytest.mark.parametrize("kind", ["hub_folder", "hub_tables"])
def test_sets_of_the_hubs_library(kind: str, request: pytest.FixtureRequest) -> None:
    images = build(request.getfixturevalue(kind), flip=False)
    assert (len(images), images.classes) == (COUNT, ("cat", "dog"))
    found, labels = joined(take(images, COUNT, batch=1))
    assert sorted(numbers(found)) == list(range(COUNT))
    assert labels.tolist() == [n % 2 for n in numbers(found)]


@pytest.mark.parametrize("kind", ["hub_folder", "hub_tables"])
@pytest.mark.parametrize("workers", [0, 2])
def test_sets_of_the_hubs_library_go_on_at_the_exact_sample(
    workers: int, kind: str, request: pytest.FixtureRequest
) -> None:
    source: str = request.getfixturevalue(kind)
    whole, labels = joined(take(build(source, workers=0), 36, batch=1))
    for seen in (6, 20):
        rest, rest_labels = joined(take(build(source, workers=workers), 4, batch=4, images_seen=seen))
        assert torch.equal(rest, whole[seen : seen + 16])
        assert torch.equal(rest_labels, labels[seen : seen + 16])


def test_a_row_without_an_image_and_a_file_that_is_gone_are_named_and_replaced(
    tmp_path: Path, hub_folder: str
) -> None:
    library: Any = pytest.importorskip("datasets")
    rows = {"image": [{"bytes": encoded(1), "path": None}, None]}
    (tmp_path / "holes").mkdir()
    table = library.Dataset.from_dict(rows, features=library.Features({"image": library.Image()}))
    table.to_parquet(tmp_path / "holes" / "train.parquet")
    images = build(f"hf:{tmp_path / 'holes'}", labels=False)
    assert numbers(images.get([0, 1]).float() / 127.5 - 1) == [1, 1]
    assert [(item.name, item.reason) for item in images.skipped] == [("image 1", "there is none")]
    images = build(hub_folder)
    (tmp_path / "hub" / "train" / "cat" / "02.png").unlink()
    assert numbers(images.get([0, 1]).float() / 127.5 - 1) == [0, 4]
    assert [item.name for item in images.skipped] == ["image 1"]
    assert "No such file" in images.skipped[0].reason


@pytest.mark.parametrize("cut", [True, False])
def test_a_damaged_table_is_refused_in_a_sentence(cut: bool, hub_tables: str) -> None:
    path = Path(hub_tables.removeprefix("hf:")) / "train-1.parquet"
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 2] if cut else data[:4] + bytes(200) + data[204:])
    with pytest.raises(UserError, match=r"cannot be read to its end \(.*\): check its files") as caught:
        open_source(hub_tables)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("kind", ["hub_folder", "hub_tables"])
@pytest.mark.parametrize("workers", [0, 2])
def test_a_folder_of_the_hubs_library_that_goes_away_is_waited_for(
    workers: int,
    kind: str,
    request: pytest.FixtureRequest,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    source: str = request.getfixturevalue(kind)
    folder = Path(source.removeprefix("hf:"))
    away = folder.with_name("away")
    monkeypatch.setattr("vitgan.data.reach.time", SimpleNamespace(sleep=lambda _: away.rename(folder)))
    expected, images = joined(take(build(source, workers=0), 12)), build(source, workers=workers)
    with contextlib.closing(batches(images, batch=3, seed=0, images_seen=0, device="cpu")) as stream:
        found = [next(stream)]
        folder.rename(away)
        found += itertools.islice(stream, 11)
    assert all(torch.equal(a, b) for a, b in zip(joined(found), expected, strict=True))
    assert images.skipped == []
    assert (caplog.text.count("waiting for it"), caplog.text.count("It is back")) == (1, 1)


def test_what_was_counted_before_is_counted_again_where_the_set_has_changed(
    hub_folder: str, tmp_path: Path
) -> None:
    assert len(open_source(hub_folder)) == COUNT
    assert len(list((tmp_path / "cache" / "counts").iterdir())) == 1
    (tmp_path / "hub" / "train" / "cat" / "99.png").write_bytes(encoded(99))
    source = open_source(hub_folder)
    assert source.labels is not None
    assert np.bincount(source.labels).tolist() == [9, 7]


def test_a_set_without_classes_has_no_labels(tmp_path: Path, hub_folder: str) -> None:
    for file in (tmp_path / "hub").glob("*/*/*.png"):
        file.rename(tmp_path / "hub" / "train" / file.name)
    assert len(build(hub_folder, labels=False)) == COUNT
    with pytest.raises(UserError, match="has no labels"):
        build(hub_folder)


def test_a_set_of_the_hub_that_is_not_here_is_refused_in_a_sentence_without_the_network(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """As with HF_HUB_OFFLINE=1, which the libraries read as they are imported."""
    library: Any = pytest.importorskip("datasets")
    asked: list[Any] = []
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr(library.config, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(socket, "getaddrinfo", lambda *names, **_: asked.append(names) or [])
    with pytest.raises(
        UserError, match=r"hf:nobody/nothing cannot be opened \(.*\): check the name"
    ) as caught:
        open_source("hf:nobody/nothing")
    assert "\n" not in str(caught.value)
    assert asked == []


def test_the_hubs_library_missing_names_the_command_to_install_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(UserError, match=r'pip install "vitgan\[hub\]"'):
        open_source("hf:some/set")


def test_a_set_that_is_not_there_or_has_no_images(tmp_path: Path, hub_folder: str) -> None:
    (tmp_path / "texts").mkdir()
    (tmp_path / "texts" / "train.jsonl").write_text(json.dumps({"text": "a"}) + "\n")
    with pytest.raises(UserError, match="has no column of images, but text: pass another set"):
        open_source(f"hf:{tmp_path / 'texts'}")
    with pytest.raises(UserError, match=r"cannot be opened .*: check the name, the configuration, the split"):
        open_source(f"{hub_folder}::test")
    with pytest.raises(UserError, match=r"is no data set: write hf:NAME, or hf:NAME:CONFIG:SPLIT"):
        open_source("hf:")


# Training


@pytest.mark.parametrize("kind", ["wds", "hub_folder"])
def test_a_run_in_two_parts_is_the_run_in_one_bit_for_bit(
    kind: str, tiny: list[str], tmp_path: Path, request: pytest.FixtureRequest, no_curves: None
) -> None:
    del no_curves
    source: str = request.getfixturevalue(kind)

    def train(name: str, images: int) -> dict[str, torch.Tensor]:
        words = ["train", "digits", "--data", source, "--out", str(tmp_path / name), "--device", "cpu", *tiny]
        words += ["--data.resolution", str(SIDE), "--data.channels", "3", "--data.flip", "True"]
        words += ["--data.labels", "True"]
        words += ["--generator.patch", "2", "--discriminator.patch", "2", "--images", str(images)]
        assert main(words) == 0
        return load_checkpoint(checkpoints(tmp_path / name)[-1])[0]

    straight = train("straight", 52)
    train("parts", 20)
    parts = train("parts", 52)
    assert [name for name in straight if not torch.equal(straight[name], parts[name])] == []


Refused = Callable[..., str]


def test_another_set_of_tars_is_refused(
    shards: Path, wds: str, tiny: list[str], tmp_path: Path, refused: Refused, no_curves: None
) -> None:
    del no_curves
    words = ["train", "digits", "--data", wds, "--out", str(tmp_path / "run"), "--device", "cpu", *tiny]
    words += ["--data.resolution", str(SIDE), "--data.channels", "3", "--quiet"]
    words += ["--generator.patch", "2", "--discriminator.patch", "2"]
    assert main([*words, "--images", "8"]) == 0
    write_tar(shards / "set-1.tar", members(range(5, 8)))
    said = refused(main([*words, "--images", "16"]))
    assert "was trained on other images (15 then, 14 now)" in said
