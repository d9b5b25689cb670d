"""`vitgan data pack`: the same images in a few large files."""

import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Literal

import numpy as np
import pytest
import torch
from PIL import Image

from packings import COUNT, SHARD, SIDE, SOURCES, contents, labels, packing, pictures
from vitgan.cli import main
from vitgan.data import DataOptions, open_source
from vitgan.data.packed.reader import PackedSource, open_packed
from vitgan.data.packed.writer import pack, plan_of
from vitgan.engine.checkpoint import checkpoints, load_checkpoint
from vitgan.errors import UserError

pytestmark = pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")

Command = Callable[..., int]


@pytest.mark.parametrize("kind", SOURCES)
@pytest.mark.parametrize("channels", [1, 3])
def test_the_images_are_those_that_the_source_gives(
    kind: str, channels: Literal[1, 3], tmp_path: Path
) -> None:
    source = SOURCES[kind](tmp_path / "source")
    assert packing(source, tmp_path / "packed", channels=channels)
    options = DataOptions(source=source, resolution=SIDE, channels=channels, labels=True)
    expected, found = options.build(), replace(options, source=str(tmp_path / "packed")).build()
    assert len(found) == COUNT
    for memory_mib in (0, 64):
        images = replace(options, source=str(tmp_path / "packed"), memory_mib=memory_mib).build()
        assert torch.equal(images.get(range(COUNT)), expected.get(range(COUNT)))
    assert found.classes == expected.classes
    assert np.array_equal(labels(tmp_path / "packed"), labels(source))


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("side", [4, 11])
def test_they_are_brought_to_size_as_for_training(
    side: int, channels: Literal[1, 3], source: str, tmp_path: Path
) -> None:
    assert packing(source, tmp_path / "packed", side=side, channels=channels)
    options = DataOptions(source=source, resolution=side, channels=channels)
    found = replace(options, source=str(tmp_path / "packed")).build()
    assert torch.equal(found.get(range(COUNT)), options.build().get(range(COUNT)))


def test_a_set_without_labels_is_packed_without_them(tmp_path: Path) -> None:
    np.save(tmp_path / "source.npy", pictures())
    assert packing(str(tmp_path / "source.npy"), tmp_path / "packed")
    found = open_packed("packed", tmp_path / "packed")
    assert (found.labels, found.classes) == (None, ())
    assert not (tmp_path / "packed" / "labels.npy").exists()
    options = DataOptions(source=str(tmp_path / "source.npy"), resolution=SIDE)
    images = replace(options, source=str(tmp_path / "packed")).build()
    assert torch.equal(images.get(range(COUNT)), options.build().get(range(COUNT)))
    with pytest.raises(UserError, match="has no labels"):
        replace(options, source=str(tmp_path / "packed"), labels=True).build()


class Greys:
    """A computed source: every pixel of image n has the value n, and every seventh image is unreadable."""

    labels: np.ndarray | None = np.arange(COUNT) % 2
    classes: tuple[str, ...] = ("even", "odd")

    def __len__(self) -> int:
        return COUNT

    def item(self, index: int) -> str:
        return f"grey {index}"

    def picture(self, index: int) -> Image.Image:
        if index % 7 == 6:
            raise OSError("it is the seventh")
        return Image.new("L", (3, 3), index)

    def content(self) -> Iterator[bytes]:
        return iter([b"greys"])


def test_any_source_can_be_packed(tmp_path: Path) -> None:
    plan = replace(plan_of(Greys(), "greys", resolution=3, channels=1, shard_mib=1), shard_images=SHARD)
    assert pack(Greys(), tmp_path / "packed", plan, workers=1, progress=lambda _done: None)
    kept = [n for n in range(COUNT) if n % 7 != 6]
    found = open_packed("packed", tmp_path / "packed")
    assert [found.pixels(n).tolist() for n in range(len(found))] == [[[[n] * 3] * 3] for n in kept]
    assert found.labels is not None
    assert (found.labels.tolist(), found.classes) == ([n % 2 for n in kept], ("even", "odd"))
    lines = (tmp_path / "packed" / "skipped.jsonl").read_text().splitlines()
    assert [json.loads(line) for line in lines] == [
        {"name": f"grey {n}", "reason": "it is the seventh"} for n in (6, 13, 20)
    ]


def test_numpy_maps_the_files(source: str, packed: Path) -> None:
    shards = [np.load(path, mmap_mode="r") for path in sorted(packed.glob("images-*.npy"))]
    assert [len(shard) for shard in shards] == [5, 5, 5, 5, 3]
    images = DataOptions(source=source, resolution=SIDE, channels=3).build()
    assert np.array_equal(np.concatenate(shards), images.get(range(COUNT)).numpy())
    assert np.array_equal(np.load(packed / "labels.npy"), labels(source))


def test_a_packed_folder_can_be_packed_again_to_another_size(packed: Path, tmp_path: Path) -> None:
    assert packing(str(packed), tmp_path / "again", side=4)
    found = open_source(str(tmp_path / "again"))
    assert isinstance(found, PackedSource)
    smaller = np.asarray(open_source(str(packed)).picture(7).resize((4, 4), Image.Resampling.LANCZOS))
    assert np.abs(found.pixels(7).transpose(1, 2, 0).astype(int) - smaller).mean() < 40
    assert np.array_equal(labels(tmp_path / "again"), labels(packed))


@pytest.mark.parametrize("workers", [1, 2])
def test_the_files_do_not_depend_on_the_number_of_workers(
    workers: int, source: str, packed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("vitgan.data.packed.shards.CHUNK_IMAGES", 3)
    assert packing(source, tmp_path / "other", workers=workers)
    assert contents(tmp_path / "other") == contents(packed)


def test_images_that_cannot_be_read_are_counted_and_named(source: str, tmp_path: Path) -> None:
    (Path(source) / "class0" / "06.png").write_bytes(b"")
    (Path(source) / "class2" / "99.png").write_bytes(b"no picture")
    whole = sorted(Path(source).rglob("*.png"))[-2]
    whole.write_bytes(whole.read_bytes()[:50])
    assert packing(source, tmp_path / "packed")
    lines = [json.loads(line) for line in (tmp_path / "packed" / "skipped.jsonl").read_text().splitlines()]
    assert [line["name"] for line in lines] == ["class0/06.png", f"class2/{whole.name}", "class2/99.png"]
    assert all(line["reason"] for line in lines)
    found = open_packed("packed", tmp_path / "packed")
    assert (len(found), found.index.skipped) == (COUNT - 2, 3)
    assert found.labels is not None
    assert np.bincount(found.labels).tolist() == [7, 8, 6]


def test_the_command_says_what_it_did(
    source: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (Path(source) / "class0" / "06.png").write_bytes(b"")
    words = ["data", "pack", source, str(tmp_path / "packed"), "--workers", "1"]
    assert main(words) == 0
    said = capsys.readouterr().out
    assert "Images of 6 x 6 pixels, as the first one; --resolution changes that." in said
    assert f"Packed 22 images of 6 x 6 pixels in {tmp_path / 'packed'}." in said
    assert "1 was left out; skipped.jsonl names it." in said
    assert main(words) == 0
    assert "It is already packed: 22 images" in capsys.readouterr().out
    assert main(["data", "info", "--verify", str(tmp_path / "packed")]) == 0
    said = capsys.readouterr().out
    for text in ("packed from source", "22", "6 x 6 pixels, RGB", "class1", "every file is whole"):
        assert text in said


def test_progress_is_told(source: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    monkeypatch.setattr("vitgan.commands.data.SECONDS_BETWEEN_LINES", 0.0)
    monkeypatch.setattr("vitgan.data.packed.shards.CHUNK_IMAGES", 10)
    assert main(["data", "pack", source, str(tmp_path / "packed"), "--workers", "0"]) == 0
    lines = [line for line in capsys.readouterr().err.splitlines() if " images/s" in line]
    assert [line.split(" images")[0] for line in lines] == [f"{n} of 23" for n in (0, 10, 20, 23)]


def test_quiet_prints_nothing(
    source: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("vitgan.commands.data.SECONDS_BETWEEN_LINES", 0.0)
    assert main(["data", "pack", source, str(tmp_path / "packed"), "--workers", "0", "--quiet"]) == 0
    assert capsys.readouterr() == ("", "")


def test_what_could_not_be_opened_is_not_packed(source: str, monkeypatch: pytest.MonkeyPatch) -> None:
    found = open_source(source)
    with pytest.raises(UserError, match="--resolution is 65,537, but must be at most 65,536"):
        plan_of(found, source, resolution=2**16 + 1, channels=3, shard_mib=1)
    monkeypatch.setattr("vitgan.data.packed.writer.MAX_SHARDS", 22)
    with pytest.raises(UserError, match="more than 22 files: give a larger --shard-mib"):
        plan_of(found, source, resolution=512, channels=3, shard_mib=1)
    assert plan_of(found, source, resolution=512, channels=3, shard_mib=2).shard_images == 2


# Damage


def test_a_flipped_bit_costs_one_image_and_verify_names_the_file(
    packed: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = packed / "images-00001.npy"
    data = bytearray(file.read_bytes())
    data[128 + 2 * 3 * SIDE**2 + 17] ^= 4
    file.write_bytes(data)
    images = DataOptions(source=str(packed), resolution=SIDE, channels=3, memory_mib=64).build()
    assert len(images) == COUNT - 1
    assert [(item.name, item.reason) for item in images.skipped] == [
        ("image 2 of images-00001.npy", "it does not match its checksum")
    ]
    assert main(["data", "info", "--verify", str(packed)]) == 2
    said = capsys.readouterr()
    assert "1 file is damaged" in said.out
    assert "has damaged files, images-00001.npy: pack it again" in said.err


@pytest.mark.parametrize("name", ["index.json", "images-00002.npy", "checksums.npy", "labels.npy"])
@pytest.mark.parametrize("fault", ["truncated", "missing", "altered", "empty"])
def test_files_that_are_not_as_written_are_named(name: str, fault: str, packed: Path) -> None:
    file = packed / name
    data = bytearray(file.read_bytes())
    if fault == "missing":
        file.unlink()
    elif fault == "altered":
        data[60 if name == "images-00002.npy" else len(data) // 2] ^= 1  # the header of the shard
        file.write_bytes(data)
    else:
        file.write_bytes(data[: len(data) // 2 if fault == "truncated" else 0])
    said = "is not packed to its end" if (name, fault) == ("index.json", "missing") else f"is damaged .{name}"
    with pytest.raises(UserError, match=said):
        open_packed("the set", packed)


# Training


@pytest.mark.slow
def test_training_on_it_is_training_on_the_source_bit_for_bit(
    tiny: list[str], source: str, packed: Path, tmp_path: Path
) -> None:
    def train(name: str, data: str, images: int, *more: str) -> dict[str, torch.Tensor]:
        words = ["train", "digits", "--data", data, "--out", str(tmp_path / name), "--device", "cpu", *tiny]
        words += ["--data.resolution", str(SIDE), "--data.channels", "3", "--data.flip", "True", *more]
        assert main([*words, "--images", str(images)]) == 0
        return load_checkpoint(checkpoints(tmp_path / name)[-1])[0]

    sizes = ("--generator.patch", "2", "--discriminator.patch", "2")
    expected = train("source", source, 72, *sizes)
    train("packed", str(packed), 28, *sizes)
    read_as_needed = ("--data.memory-mib", "0", "--data.workers", "1")
    found = train("packed", str(packed), 72, *sizes, *read_as_needed)
    assert [name for name in expected if not torch.equal(expected[name], found[name])] == []
