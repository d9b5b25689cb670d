"""An unreadable image is named and left out, the others are read; images of every kind are converted."""

import io
import itertools
import logging
import multiprocessing
import os
import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from tiny_runs import final, images_seen
from vitgan.cli import main
from vitgan.data import DataOptions, batches
from vitgan.errors import UserError

pytestmark = [pytest.mark.faults, pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")]


def encoded(image: Image.Image, kind: str = "PNG", **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def png(value: int) -> bytes:
    return encoded(Image.new("RGB", (4, 4), (value, value, value)))


def noise(side: int) -> Image.Image:
    return Image.fromarray(np.random.default_rng(0).integers(0, 256, (side, side, 3), dtype=np.uint8))


def truncated_jpeg() -> bytes:
    return encoded(noise(64), "JPEG")[:1500]


def corrupt_png() -> bytes:
    data = bytearray(encoded(noise(16)))
    data[len(data) // 2] ^= 255
    return bytes(data)


def large_png(side: int) -> bytes:
    """A PNG whose header says side x side pixels, but which holds hardly any data."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", side, side, 8, 0, 0, 0, 0)
    parts = {b"IHDR": header, b"IDAT": zlib.compress(bytes(99)), b"IEND": b""}
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunk(kind, data) for kind, data in parts.items())


BROKEN = {
    "1_truncated.jpg": truncated_jpeg(),
    "2_empty.png": b"",
    "3_text.png": b"no image",
    "5_half.png": png(9)[:50],
}
DAMAGED = {
    "truncated": (BROKEN["1_truncated.jpg"], "truncated"),
    "zero bytes": (BROKEN["2_empty.png"], "the file is empty"),
    "text": (BROKEN["3_text.png"], "it is no image of a known format"),
    "half": (BROKEN["5_half.png"], ""),
    "corrupt": (corrupt_png(), ""),
    "1 pixel": (encoded(Image.new("L", (1, 1))), "it has 1 x 1 pixels, fewer than 2 a side"),
    "20,000 x 20,000 pixels": (large_png(20_000), "it is larger than 64 megapixels"),
}
COLOUR = (200, 100, 50)
FLAT, OTHER = Image.new("RGB", (16, 16), COLOUR), Image.new("RGB", (16, 16), "blue")
FRAMES: dict[str, Any] = {"save_all": True, "append_images": [OTHER, FLAT]}
CONVERTED = {
    "20,000 x 20 pixels": (encoded(Image.new("RGB", (20_000, 20), COLOUR)), COLOUR),
    "20 x 20,000 pixels": (encoded(Image.new("RGB", (20, 20_000), COLOUR)), COLOUR),
    "CMYK": (encoded(FLAT.convert("CMYK"), "JPEG"), COLOUR),
    "palette": (encoded(FLAT.convert("P", palette=Image.Palette.ADAPTIVE)), COLOUR),
    "16 bit": (encoded(Image.fromarray(np.full((16, 16), 90 * 257, np.uint16))), (90, 90, 90)),
    "RGBA": (encoded(Image.new("RGBA", (16, 16), (*COLOUR, 0))), (255, 255, 255)),
    "grey and alpha": (encoded(Image.new("LA", (16, 16), (90, 255))), (90, 90, 90)),
    "1 bit": (encoded(Image.new("1", (16, 16), 1)), (255, 255, 255)),
    "animated GIF": (encoded(FLAT, "GIF", **FRAMES), COLOUR),
    "animated PNG": (encoded(FLAT, "PNG", **FRAMES), COLOUR),
    "animated WebP": (encoded(FLAT, "WEBP", lossless=True, **FRAMES), COLOUR),
}


def write_folder(root: Path, files: dict[str, bytes]) -> str:
    for name, data in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(data)
    return str(root)


def build(source: str | Path, **changes: Any) -> Any:
    return DataOptions(**{"source": str(source), "resolution": 4, **changes}).build()


def test_unreadable_images_are_left_out_named_and_counted(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    source = write_folder(tmp_path, {"0.png": png(1), "4.png": png(2), **BROKEN})
    with caplog.at_level(logging.WARNING, "vitgan"):
        images = build(source)
    assert images.get(range(len(images)))[:, 0, 0, 0].tolist() == [1, 2]
    assert [item.name for item in images.skipped] == sorted(BROKEN)
    assert images.skipped[1].reason == "the file is empty"
    assert all("0x" not in item.reason for item in images.skipped)
    assert "4 of the 6 images" in caplog.text
    assert "3_text.png" in caplog.text


@pytest.mark.parametrize("memory_mib", [0, 1])
@pytest.mark.parametrize("kind", CONVERTED)
def test_images_of_every_kind_are_converted(kind: str, memory_mib: int, tmp_path: Path) -> None:
    content, colour = CONVERTED[kind]
    source = write_folder(tmp_path, {"0.png": png(1), "1.png": content, "2.png": png(2)})
    images = build(source, memory_mib=memory_mib)
    assert images.skipped == []
    found = images.get(range(3)).int()  # (N, C, H, W)
    wanted = torch.tensor([(1, 1, 1), colour, (2, 2, 2)])[:, :, None, None].expand_as(found)
    assert (found - wanted).abs().max() <= 4


@pytest.mark.parametrize("memory_mib", [0, 1])
@pytest.mark.parametrize("kind", DAMAGED)
def test_damage_of_every_kind_is_named_and_counted(
    kind: str, memory_mib: int, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    content, reason = DAMAGED[kind]
    source = write_folder(tmp_path, {"0.png": png(1), "1.png": content, "2.png": png(2)})
    with caplog.at_level(logging.WARNING, "vitgan"):
        images = build(source, memory_mib=memory_mib)
        found = images.get(range(len(images)))[:, 0, 0, 0].tolist()
    assert found == ([1, 2] if memory_mib else [1, 2, 2])
    (skipped,) = images.skipped
    assert skipped.name == "1.png"
    assert skipped.reason
    assert reason in skipped.reason
    assert f"1.png of {source}" in caplog.text
    assert ("1 of the 3 images" if memory_mib else "1 so far") in caplog.text


@pytest.mark.parametrize("kind", [*DAMAGED, *CONVERTED])
def test_training_goes_through_images_of_every_kind(
    kind: str, tiny: list[str], no_curves: None, caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    """The run goes through the set of six images twice."""
    del no_curves
    odd = (DAMAGED | CONVERTED)[kind][0]
    files = {f"{number}.png": png(40 * number) for number in range(5)}
    source = write_folder(tmp_path / "set", {**files, "odd.png": odd})
    words = ["train", "digits", "--data", source, "--out", str(tmp_path / "run"), "--images", "12", *tiny]
    assert main([*words, "--device", "cpu", "--data.memory-mib", "0", "--data.workers", "0"]) == 0
    assert images_seen(tmp_path / "run") == 12
    assert all(tensor.isfinite().all() for tensor in final(tmp_path / "run").values())
    assert caplog.text.count("odd.png") == (kind in DAMAGED)


def test_labels_follow_the_images_that_are_left(tmp_path: Path) -> None:
    source = write_folder(tmp_path, {"a/1.png": b"no", "a/2.png": png(1), "b/1.png": png(2), "b/2.png": b""})
    images = build(source, labels=True)
    assert images.labels.tolist() == [0, 1]
    assert images.class_counts == {"a": 1, "b": 1}


@pytest.mark.parametrize("workers", [0, 2])
def test_a_broken_image_while_training_is_replaced_and_told_once(
    tmp_path: Path, workers: int, caplog: pytest.LogCaptureFixture
) -> None:
    files = {"a/0.png": png(0), "a/2.png": png(2), "b/4.png": png(4), "a/1.png": b"no", "b/5.png": b"no"}
    images = build(write_folder(tmp_path, files), memory_mib=0, workers=workers, labels=True)
    stream = batches(images, batch=5, seed=0, images_seen=0, device="cpu")
    with caplog.at_level(logging.WARNING, "vitgan"):
        taken = list(itertools.islice(stream, 4))
    stream.close()
    values = torch.stack([((b.images[:, 0, 0, 0] + 1) * 127.5).round() for b in taken])
    assert all(
        row.sort().values.tolist() == [0, 0, 2, 2, 4] for row in values
    )  # 5.png -> 0.png, 1.png -> 2.png
    labels = torch.stack([b.labels for b in taken if b.labels is not None])
    assert torch.equal(labels, (values == 4).long())
    assert sorted(item.name for item in images.skipped) == ["a/1.png", "b/5.png"]
    assert sum("a/1.png" in record.getMessage() for record in caplog.records) == 1


def test_images_that_all_break_while_training_end_it(tmp_path: Path) -> None:
    images = build(write_folder(tmp_path, {"0.png": png(0), "1.png": png(1)}), memory_mib=0)
    for path in tmp_path.iterdir():
        path.write_bytes(b"no image")
    before = set(multiprocessing.active_children())
    with pytest.raises(UserError, match="has no readable image"):
        next(batches(images, batch=2, seed=0, images_seen=0, device="cpu"))
    assert set(multiprocessing.active_children()) <= before


def test_workers_outlive_a_signal_to_the_group_but_not_their_parents(tmp_path: Path) -> None:
    images = build(write_folder(tmp_path, {"0.png": png(0), "1.png": png(1)}), memory_mib=0, workers=1)
    before = set(multiprocessing.active_children())
    stream = batches(images, batch=2, seed=0, images_seen=0, device="cpu")
    next(stream)
    (worker,) = set(multiprocessing.active_children()) - before
    assert worker.pid is not None
    assert os.getpgid(worker.pid) != os.getpgid(0)
    worker.terminate()
    worker.join(timeout=10)
    assert not worker.is_alive()
    stream.close()
