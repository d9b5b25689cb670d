"""Tar files as sources: the members that are read, and files that are damaged."""

import contextlib
import gzip
import itertools
import tarfile
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from streamed import COUNT, COUNTS, build, encoded, joined, members, numbers, take, write_tar
from vitgan.data import Batch, batches, open_source
from vitgan.data.sources.tars import MAX_MEMBER
from vitgan.errors import UserError
from web_server import Server

pytestmark = [
    pytest.mark.usefixtures("forked"),
    pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning"),
]

SAMPLE = 4 * 512  # bytes of one in a tar: two headers, the image and the label


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
    """Overwrite a byte in the header of the fourth sample."""
    return data[: 3 * SAMPLE + 10] + b"?" + data[3 * SAMPLE + 11 :]


def long_header(data: bytes) -> bytes:
    """Give the fourth sample a name longer than 1 MiB."""
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
    server: tuple[str, type[Server]],
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


DOTS = {
    "a date": "IMG_2024.01.02_{:04}",
    "a counter": "img.{:04}",
    "two dots": "a.b.{:04}",
    "a version": "v1.2/frame.v1.2.{}",
    "no dots": "{:04}",
}


@pytest.mark.parametrize("name", DOTS.values(), ids=DOTS)
@pytest.mark.parametrize("ends", [(".png", ".cls"), (".PNG", ".cls", ".txt")])
def test_names_with_dots_are_samples_of_their_own(name: str, ends: tuple[str, ...], tmp_path: Path) -> None:
    files = [
        (f"{name.format(n)}{end}", encoded(n) if end.lower() == ".png" else str(n % 3).encode())
        for n in range(12)
        for end in ends
    ]
    write_tar(tmp_path / "set.tar", files)
    images = build(f"wds:{tmp_path}/set.tar")
    assert images.labels is not None
    assert images.labels.tolist() == [n % 3 for n in range(12)]
    assert numbers(images.get(range(12)).float() / 127.5 - 1) == list(range(12))
    assert images.left_out == ()


def test_several_images_of_a_sample_are_one_and_the_others_counted(tmp_path: Path) -> None:
    write_tar(tmp_path / "a-0.tar", [(f"{n}.view{v}.png", encoded(n)) for n in range(9) for v in range(3)])
    write_tar(tmp_path / "a-1.tar", [(f"9.view{v}.png", encoded(9)) for v in range(3)])
    images = build(f"wds:{tmp_path}/a-{{0..1}}.tar", labels=False)
    assert numbers(images.get(range(len(images))).float() / 127.5 - 1) == list(range(10))
    (left,) = images.left_out
    assert (left.count, left.reason, left.told) == (20, "images beside the first of a sample", True)


def test_what_is_no_sample_is_counted_by_its_kind(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    link = tarfile.TarInfo("c.png")
    link.type, link.linkname = tarfile.SYMTYPE, "a.png"
    folder = tarfile.TarInfo("set")
    folder.type = tarfile.DIRTYPE
    odd = [
        ("set", folder),
        ("a.mp4", b"x"),
        ("b.mp4", b"x"),
        ("c.png", link),
        ("../d.png", b"x"),
        ("LICENSE", b"x"),
    ]
    hidden = [(f"./._{name}", b"x") for name, _ in members(range(3))]
    described = [one for n in range(3) for one in (*members([n]), (f"set/{n:03}.txt", b"a caption"))]
    write_tar(tmp_path / "set.tar", [*odd, *hidden, *described])
    images = build(f"wds:{tmp_path}/set.tar")
    assert images.class_counts == {"0": 1, "1": 1, "2": 1}
    found = {left.reason: (left.count, left.told) for left in images.left_out}
    assert found["hidden, or a system's own"] == (6, False)
    assert found[".mp4 files"] == (2, True)
    assert found["links, pipes, sockets and devices"] == (1, True)
    assert found["names that lead outside"] == (1, True)
    assert found["names without an end as .png"] == (1, True)
    assert len(caplog.messages) == 1


def test_the_sample_without_a_class_is_named(tmp_path: Path) -> None:
    write_tar(tmp_path / "set.tar", [*members([1]), ("a/b.png", encoded(2))])
    with pytest.raises(
        UserError, match=r"has no labels \(a/b.png has no class\): give each sample a member .cls"
    ):
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

    monkeypatch.setattr("vitgan.data.retry.time", SimpleNamespace(sleep=back))
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
def test_wrong_sources_are_refused_in_a_sentence(source: str, said: str) -> None:
    with pytest.raises(UserError, match=said):
        open_source(source)


def test_a_tar_without_images_and_a_file_that_is_no_tar_are_refused(tmp_path: Path) -> None:
    write_tar(tmp_path / "set.tar", [("a.txt", b"text")])
    (tmp_path / "none.tar").write_bytes(b"none" * 1000)
    for name in ("set", "none"):
        with pytest.raises(UserError, match="has no images: its samples need a member that ends in"):
            open_source(f"wds:{tmp_path}/{name}.tar")
