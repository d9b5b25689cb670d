"""Streams, `wds:` and `hf:`: read from beginning to end, shuffled within windows, and resumed."""

import contextlib
import io
import itertools
import multiprocessing
import pickle
import tracemalloc
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data.dataloader import _MultiProcessingDataLoaderIter

from streamed import COUNT, SIDE, build, encoded, joined, members, numbers, pixels, take, write_tar
from vitgan.cli import main
from vitgan.data import batches, open_source
from vitgan.data.dataset import StreamImages
from vitgan.data.loader import StreamReader
from vitgan.data.sources.streams import Stream
from vitgan.data.sources.tars import expand
from vitgan.engine.checkpoint import checkpoints, load_checkpoint

pytestmark = [
    pytest.mark.usefixtures("forked"),
    pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning"),
]

Refused = Callable[..., str]


def test_patterns_expand_to_numbers_and_lists() -> None:
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
def test_compressed_tars_with_labels_in_json_are_read(mode: str, tmp_path: Path) -> None:
    content = [("a.x.jpg", encoded(1, "JPEG")), ("a.x.json", b'{"label": 4, "caption": "a cat"}')]
    write_tar(tmp_path / "set.tar", content, mode)
    images = build(f"wds:{tmp_path}/set.tar")
    assert (len(images), images.class_names) == (1, ("4",))
    assert images.labels is not None
    assert images.labels.tolist() == [0]


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
    """Where processes are not forked the stream is pickled, here one that has been read from."""
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
    """The set has 48 samples of 64 KiB each, of which a window takes four."""
    noise = np.random.default_rng(0).integers(0, 256, (146, 146, 3), dtype=np.uint8)
    file = io.BytesIO()
    Image.fromarray(noise).save(file, "PNG")
    write_tar(tmp_path / "set.tar", [(f"{n}.png", file.getvalue()) for n in range(48)])
    monkeypatch.setattr("vitgan.data.sources.streams.WINDOW_BYTES", 4 * len(file.getvalue()))
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
    monkeypatch.setattr("vitgan.data.packed.shards.CHUNK_IMAGES", 4)
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


@pytest.mark.slow
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
