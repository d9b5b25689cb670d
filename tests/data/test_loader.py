"""Batches: a pure function of the seed and the position in the run."""

import itertools
import multiprocessing
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from vitgan.data import Batch, DataOptions, ImageSet, batches
from vitgan.data.loader import draw

pytestmark = pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")

COUNT = 7


@pytest.fixture
def source(tmp_path: Path) -> str:
    """Seven images of three channels, no two alike, none its own mirror image; the label is the index."""
    images = np.random.default_rng(0).integers(0, 256, (COUNT, 4, 4, 3), dtype=np.uint8)
    np.savez(tmp_path / "set.npz", images=images, labels=np.arange(COUNT))
    return str(tmp_path / "set.npz")


def build(source: str, **changes: Any) -> ImageSet:
    return DataOptions(**{"source": source, "resolution": 4, "labels": True, "flip": True, **changes}).build()


def take(
    images: ImageSet, number: int, *, batch: int = 3, seed: int = 0, images_seen: int = 0, **ranks: int
) -> list[Batch]:
    stream = batches(images, batch=batch, seed=seed, images_seen=images_seen, device="cpu", **ranks)
    taken = list(itertools.islice(stream, number))
    stream.close()
    return taken


def samples(taken: list[Batch]) -> tuple[torch.Tensor, torch.Tensor]:
    return torch.cat([b.images for b in taken]), torch.cat([b.labels for b in taken if b.labels is not None])


def equal(first: list[Batch], second: list[Batch]) -> bool:
    return all(torch.equal(a, b) for a, b in zip(samples(first), samples(second), strict=True))


def test_values_are_floats_from_minus_one_to_one(tmp_path: Path) -> None:
    ramp = np.arange(256, dtype=np.uint8).reshape(1, 16, 16)
    np.save(tmp_path / "ramp.npy", ramp)
    images = DataOptions(source=str(tmp_path / "ramp.npy"), resolution=16, channels=1).build()
    batch = take(images, 1, batch=1)[0]
    assert batch.labels is None
    assert batch.images.dtype == torch.float32
    assert batch.images.shape == (1, 1, 16, 16)
    assert (batch.images.min(), batch.images.max()) == (-1, 1)
    assert np.array_equal(((batch.images + 1) * 127.5).round().byte().numpy()[0], ramp)


def test_every_epoch_holds_every_image_once_in_a_new_order(source: str) -> None:
    _, labels = samples(take(build(source), 10))
    epochs = labels[: 4 * COUNT].view(4, COUNT).tolist()
    assert all(sorted(epoch) == list(range(COUNT)) for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) > 1


def test_labels_belong_to_their_images(source: str) -> None:
    images = build(source, flip=False)
    pixels, labels = samples(take(images, 5))
    assert torch.equal(pixels, images.get(labels.tolist()).float() / 127.5 - 1)


def test_seeds_give_different_streams(source: str) -> None:
    images = build(source)
    assert not equal(take(images, 5, seed=0), take(images, 5, seed=1))


def test_flips_are_half_and_mirror_the_width(source: str) -> None:
    images = build(source)
    pixels, labels = samples(take(images, 100))
    straight = images.get(labels.tolist()).float() / 127.5 - 1
    flipped = torch.tensor([not torch.equal(a, b) for a, b in zip(pixels, straight, strict=True)])
    assert torch.equal(torch.where(flipped[:, None, None, None], straight.flip(3), straight), pixels)
    assert 0.4 < flipped.float().mean() < 0.6
    assert len(set(flipped[:294].view(-1, COUNT).sum(1).tolist())) > 2


@pytest.mark.parametrize("seen", [3, 6, 21, 300])
@pytest.mark.parametrize("memory_mib", [0, 1])
def test_entering_late_continues(source: str, seen: int, memory_mib: int) -> None:
    images = build(source, memory_mib=memory_mib, workers=0)
    whole = take(images, seen // 3 + 4)
    assert equal(take(images, 4, images_seen=seen), whole[seen // 3 :])


def test_the_size_of_a_batch_does_not_change_the_order(source: str) -> None:
    images = build(source)
    pixels = samples(take(images, 20, batch=3))[0]
    assert torch.equal(samples(take(images, 3, batch=20))[0], pixels)
    assert torch.equal(samples(take(images, 11, batch=5, images_seen=5))[0], pixels[5:])


@pytest.mark.parametrize("memory_mib", [0, 1])
@pytest.mark.parametrize("ranks", [2, 3, 6])
def test_the_ranks_share_out_every_batch(source: str, memory_mib: int, ranks: int) -> None:
    images = build(source, memory_mib=memory_mib, workers=0)
    whole = take(images, 5, batch=6, images_seen=4)
    parts = [take(images, 5, batch=6, images_seen=4, rank=rank, ranks=ranks) for rank in range(ranks)]
    joined = [batch for step in zip(*parts, strict=True) for batch in step]
    assert all(len(batch.images) == 6 // ranks for batch in joined)
    assert equal(joined, whole)


def test_ranks_that_do_not_divide_a_batch_have_parts_that_differ_by_one(source: str) -> None:
    images = build(source)
    parts = [take(images, 1, batch=7, rank=rank, ranks=3)[0] for rank in range(3)]
    assert [len(part.images) for part in parts] == [2, 2, 3]
    assert equal(parts, take(images, 1, batch=7))


def test_more_ranks_than_images_in_a_batch_are_a_mistake(source: str) -> None:
    with pytest.raises(AssertionError):
        take(build(source), 1, batch=2, rank=0, ranks=3)


@pytest.mark.parametrize("workers", [0, 1, 2])
def test_memory_and_workers_give_one_stream(source: str, workers: int) -> None:
    lazy = build(source, memory_mib=0, workers=workers)
    assert equal(take(lazy, 9, images_seen=2), take(build(source), 9, images_seen=2))


def test_closing_ends_the_workers(source: str) -> None:
    before = set(multiprocessing.active_children())
    stream = batches(build(source, memory_mib=0, workers=1), batch=2, seed=0, images_seen=0, device="cpu")
    next(stream)
    assert len(set(multiprocessing.active_children()) - before) == 1
    stream.close()
    assert set(multiprocessing.active_children()) <= before


def refuse(*_: Any) -> None:
    raise RuntimeError("unable to allocate shared memory(shm) for file </torch_1>: No space left on device")


@pytest.mark.parametrize("free", [0, 10**9], ids=["small from the start", "filled by others"])
def test_batches_come_without_shared_memory_where_it_is_small(
    source: str, free: int, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    found = os.statvfs("/dev/shm")
    values = list(found)
    values[4] = free // found.f_frsize
    monkeypatch.setattr("vitgan.data.loader.os.statvfs", lambda _: os.statvfs_result(values))
    monkeypatch.setattr(torch.UntypedStorage, "_share_fd_cpu_", refuse)
    lazy = build(source, memory_mib=0, workers=2)
    assert equal(take(lazy, 9), take(build(source), 9))
    assert ("--shm-size" in caplog.text) is (free == 0)


def test_workers_end_with_a_killed_process_although_nobody_reads_their_pipe(tmp_path: Path) -> None:
    """Its children hold the lock of a run's folder, and a batch of 3 MiB fills a pipe."""
    np.save(tmp_path / "set.npy", np.zeros((8, 256, 256, 3), dtype=np.uint8))
    code = (
        "import os, sys\nfrom vitgan.data import DataOptions, batches, loader\n"
        "loader._room_to_share = lambda size: False\n"
        "options = DataOptions(source=sys.argv[1], resolution=256, memory_mib=0, workers=2)\n"
        "stream = batches(options.build(), batch=16, seed=0, images_seen=0, device='cpu')\n"
        "next(stream)\nos.kill(os.getpid(), 9)\n"
    )
    ended = subprocess.run(
        [sys.executable, "-c", code, tmp_path / "set.npy"], stdout=subprocess.PIPE, timeout=60, check=False
    )  # returns when the last process that holds the pipe has ended
    assert ended.returncode == -signal.SIGKILL


@pytest.mark.parametrize("memory_mib", [0, 1])
def test_the_global_generator_is_left_alone(source: str, memory_mib: int) -> None:
    before = torch.random.get_rng_state()
    take(build(source, memory_mib=memory_mib), 2)
    assert torch.equal(torch.random.get_rng_state(), before)


def test_the_order_is_frozen() -> None:
    """These numbers may never change: saved runs are resumed by them."""
    assert draw(COUNT, 5, 4, 12).tolist() == [[5, 0, 1, 2, 0, 6, 1, 5], [0, 1, 0, 1, 1, 0, 1, 0]]


def test_entering_late_replays_nothing() -> None:
    """Sample 10^12 of a run is drawn without drawing those before it."""
    assert draw(COUNT, 0, 10**12, 10**12 + 3).shape == (2, 3)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
@pytest.mark.parametrize("memory_mib", [0, 1])
def test_cuda_gives_the_same_stream(source: str, memory_mib: int) -> None:
    images = build(source, memory_mib=memory_mib)
    stream = batches(images, batch=3, seed=0, images_seen=0, device="cuda")
    taken = list(itertools.islice(stream, 5))
    stream.close()
    assert all(b.images.is_cuda and b.labels is not None and b.labels.is_cuda for b in taken)
    on_cpu = [Batch(b.images.cpu(), None if b.labels is None else b.labels.cpu()) for b in taken]
    for found, expected in zip(on_cpu, take(images, 5), strict=True):
        torch.testing.assert_close(found.images, expected.images, rtol=0, atol=1e-6)
        assert found.labels is not None
        assert expected.labels is not None
        assert torch.equal(found.labels, expected.labels)
