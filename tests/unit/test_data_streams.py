"""`wds:` and `hf:`: sets that are read from beginning to end, shuffled within windows, and gone on with."""

import contextlib
import http.server
import io
import itertools
import json
import sys
import tarfile
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from vitgan.cli import main
from vitgan.data import Batch, DataOptions, ImageSet, batches, open_source
from vitgan.data.stream_source import Stream
from vitgan.data.tars import expand
from vitgan.engine.checkpoint import checkpoints, load_checkpoint
from vitgan.errors import UserError

SIDE = 4
COUNTS = (5, 4, 6)  # samples of the shards
COUNT = sum(COUNTS)
pytestmark = pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")


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


def test_a_damaged_end_is_told_and_what_comes_before_is_used(
    shards: Path, caplog: pytest.LogCaptureFixture
) -> None:
    file = shards / "set-2.tar"
    file.write_bytes(file.read_bytes()[: 512 * 4 * 3 + 700])  # three samples and a part of the next
    images = build(f"wds:{file}", labels=False, flip=False)
    assert "is damaged" in caplog.text
    assert 3 <= len(images) <= 4
    assert numbers(images.get(range(3)).float() / 127.5 - 1) == [9, 10, 11]


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
    """Serves a folder with ranges; some answers break off, as many as `breaking` says."""

    folder = ""
    breaking = 0
    asked: list[str | None]

    def do_GET(self) -> None:
        data = (Path(self.folder) / self.path.lstrip("/")).read_bytes()
        wanted = self.headers.get("Range")
        type(self).asked.append(wanted)
        start = int(wanted.removeprefix("bytes=").split("-")[0]) if wanted else 0
        self.send_response(206 if wanted else 200)
        if wanted:
            self.send_header("Content-Range", f"bytes {start}-{len(data) - 1}/{len(data)}")
        self.send_header("Content-Length", str(len(data) - start))
        self.send_header("ETag", '"1"')
        self.end_headers()
        rest = data[start:]
        if type(self).breaking > 0:
            type(self).breaking -= 1
            self.wfile.write(rest[: len(rest) // 2])
            self.close_connection = True
            return
        self.wfile.write(rest)

    def log_message(self, format: str, *arguments: Any) -> None:
        pass


@pytest.fixture
def server(
    shards: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> Iterator[tuple[str, type[_Server]]]:
    """The address of the three shards, and what answers there."""
    monkeypatch.setenv("VITGAN_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("vitgan.data.web.PAUSES", (0.0, 0.0, 0.0))
    handler = type("Handler", (_Server,), {"folder": str(shards), "asked": []})
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as running:
        thread = threading.Thread(target=running.serve_forever)
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


def test_a_connection_that_breaks_is_taken_up_where_it_broke(
    server: tuple[str, type[_Server]], wds: str
) -> None:
    web, handler = server
    images = build(web)
    handler.breaking = 4
    found = joined(take(images, 12))
    assert all(torch.equal(a, b) for a, b in zip(found, joined(take(build(wds), 12)), strict=True))
    assert handler.breaking == 0
    assert any(wanted is not None and not wanted.startswith("bytes=0-") for wanted in handler.asked)


def test_a_server_that_is_gone_ends_it_with_a_sentence(
    server: tuple[str, type[_Server]], monkeypatch: pytest.MonkeyPatch
) -> None:
    web, handler = server
    monkeypatch.setenv("VITGAN_DATA_PATIENCE", "0.2")
    images = build(web)
    handler.breaking = 10**6
    handler.do_GET = lambda self: self.send_error(503)  # type: ignore[method-assign]
    with pytest.raises(UserError, match=r"set-\d\.tar cannot be reached any more .*503"):
        take(images, 12)


# The Hub's library


@pytest.fixture
def hub_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """An imagefolder of two classes."""
    pytest.importorskip("datasets")
    monkeypatch.setenv("VITGAN_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("vitgan.data.stream_source.WINDOW_SAMPLES", 4)
    for number in range(COUNT):
        place = tmp_path / "hub" / "train" / ("cat", "dog")[number % 2]
        place.mkdir(parents=True, exist_ok=True)
        (place / f"{number:02d}.png").write_bytes(encoded(number))
    return f"hf:{tmp_path / 'hub'}"


def test_a_folder_of_the_hubs_library(hub_folder: str) -> None:
    images = build(hub_folder, flip=False)
    assert (len(images), images.classes) == (COUNT, ("cat", "dog"))
    found, labels = joined(take(images, COUNT, batch=1))
    assert sorted(numbers(found)) == list(range(COUNT))
    assert labels.tolist() == [n % 2 for n in numbers(found)]
    rest, _ = joined(take(build(hub_folder, flip=False, workers=1), 2, batch=5, images_seen=5))
    assert torch.equal(rest, found[5:15])


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
