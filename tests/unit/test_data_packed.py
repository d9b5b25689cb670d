"""`vitgan data pack`: the same images in a few large files, whatever interrupts the packing."""

import contextlib
import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
import traceback
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
import torch
from PIL import Image

from vitgan.cli import main
from vitgan.data import DataOptions, open_source
from vitgan.data.packed import PackedSource, open_packed
from vitgan.data.packing import pack, plan_of
from vitgan.engine.checkpoint import checkpoints, load_checkpoint
from vitgan.errors import UserError

SIDE, COUNT = 6, 23
SHARD = 5  # images
Command = Callable[..., int]
pytestmark = pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")


def pictures(count: int = COUNT) -> np.ndarray:
    return np.random.default_rng(3).integers(0, 256, (count, SIDE, SIDE + 2, 3), dtype=np.uint8)


def fill_folder(folder: Path) -> str:
    for number, pixels in enumerate(pictures()):
        place = folder / f"class{number % 3}"
        place.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(place / f"{number:02d}.png")
    return str(folder)


def fill_zip(folder: Path) -> str:
    fill_folder(folder)
    with zipfile.ZipFile(folder.with_suffix(".zip"), "w") as file:
        for path in sorted(folder.rglob("*.png")):
            file.write(path, path.relative_to(folder))
    return str(folder.with_suffix(".zip"))


def fill_array(folder: Path) -> str:
    np.savez(folder.with_suffix(".npz"), images=pictures(), labels=np.arange(COUNT) % 3)
    return str(folder.with_suffix(".npz"))


SOURCES = {"folder": fill_folder, "zip": fill_zip, "npz": fill_array}


def packing(source: str, out: Path, *, workers: int = 0, side: int = SIDE, channels: int = 3) -> bool:
    """Pack in shards of `SHARD` images."""
    found = open_source(source)
    plan = plan_of(found, source, resolution=side, channels=channels, shard_mib=1)
    plan = replace(plan, shard_images=SHARD)
    return pack(found, out, plan, workers=workers, progress=lambda _done: None)


def labels(source: str | Path) -> np.ndarray:
    found = open_source(str(source)).labels
    assert found is not None
    return found


def contents(folder: Path) -> dict[str, str]:
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


@pytest.fixture
def source(tmp_path: Path) -> str:
    return fill_folder(tmp_path / "source")


@pytest.fixture
def packed(source: str, tmp_path: Path) -> Path:
    assert packing(source, tmp_path / "packed")
    return tmp_path / "packed"


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
    """A source that is computed: image n has the value n everywhere, but every seventh fails."""

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
    monkeypatch.setattr("vitgan.data.conversion.CHUNK_IMAGES", 3)
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
    monkeypatch.setattr("vitgan.data.conversion.CHUNK_IMAGES", 10)
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
    monkeypatch.setattr("vitgan.data.packing.MAX_SHARDS", 22)
    with pytest.raises(UserError, match="more than 22 files: give a larger --shard-mib"):
        plan_of(found, source, resolution=512, channels=3, shard_mib=1)
    assert plan_of(found, source, resolution=512, channels=3, shard_mib=2).shard_images == 2


# Interrupted


def test_killed_at_any_moment_it_ends_with_the_same_files(source: str, packed: Path, tmp_path: Path) -> None:
    script = (
        "import sys, time; sys.path.insert(0, sys.argv[1])\n"
        "from pathlib import Path\n"
        "import vitgan.data.conversion as conversion, vitgan.data.shards as shards, test_data_packed\n"
        "conversion.CHUNK_IMAGES = 2\n"
        "close = shards.ShardWriter._close\n"
        "def slowly(writer):\n"
        "    time.sleep(0.1); close(writer); time.sleep(0.1)\n"
        "shards.ShardWriter._close = slowly\n"
        "print('begin', flush=True)\n"
        "test_data_packed.packing(sys.argv[2], Path(sys.argv[3]))\n"
    )
    out = tmp_path / "killed"
    kept = []
    for _ in range(4):
        child = subprocess.Popen(
            [sys.executable, "-c", script, str(Path(__file__).parent), source, str(out)],
            stdout=subprocess.PIPE,
        )
        assert child.stdout is not None
        assert child.stdout.readline() == b"begin\n"
        time.sleep(np.random.default_rng().uniform(0.0, 0.6))
        child.kill()
        child.wait()
        child.stdout.close()
        kept.append(len(list(out.glob("images-*.npy"))))
    assert kept == sorted(kept)
    packing(source, out)
    assert contents(out) == contents(packed)


@pytest.mark.parametrize("operation", ["rename", "replace", "unlink", "fsync"])
def test_killed_before_any_of_its_operations_it_ends_with_the_same_files(
    operation: str, source: str, packed: Path, tmp_path: Path
) -> None:
    """A process of its own that kills itself before its n-th call, and goes on in the next."""
    out, number = tmp_path / "killed", 0
    while (killed := _packed_by_a_child(source, out, operation, number)) and number < 40:
        number += 1
        if number % 3 == 0:
            shutil.rmtree(out, ignore_errors=True)
    assert not killed
    assert contents(out) == contents(packed)


def _packed_by_a_child(source: str, out: Path, operation: str, number: int) -> bool:
    """Whether the child was killed before that call."""
    child = os.fork()
    if child == 0:
        code, left = 1, [number]

        def dying(real: Callable[..., Any]) -> Callable[..., Any]:
            def call(*arguments: Any, **named: Any) -> Any:
                left[0] -= 1
                if left[0] < 0:
                    os.kill(os.getpid(), signal.SIGKILL)
                return real(*arguments, **named)

            return call

        try:
            owner: Any = os if operation == "fsync" else Path
            setattr(owner, operation, dying(getattr(owner, operation)))
            packing(source, out)
            code = 0
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(code)
    status = os.waitpid(child, 0)[1]
    assert status in (0, signal.SIGKILL)
    return status == signal.SIGKILL


@contextlib.contextmanager
def half_packed(source: str, out: Path) -> Iterator[None]:
    """A packing that stopped after two shards."""
    found = open_source(source)
    plan = replace(plan_of(found, source, resolution=SIDE, channels=3, shard_mib=1), shard_images=SHARD)

    def stop(done: int) -> None:
        if done >= 2 * SHARD:
            raise KeyboardInterrupt

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("vitgan.data.conversion.CHUNK_IMAGES", SHARD)
        with pytest.raises(KeyboardInterrupt):
            pack(found, out, plan, workers=0, progress=stop)
    yield


def test_it_goes_on_where_it_stopped(source: str, packed: Path, tmp_path: Path) -> None:
    out, begun = tmp_path / "half", []
    with half_packed(source, out):
        assert len(list(out.glob("images-*.npy"))) == 2
        with pytest.raises(UserError, match=r"not packed to its end: give the same `vitgan data pack`"):
            open_source(str(out))
        found = open_source(source)
        plan = replace(plan_of(found, source, resolution=SIDE, channels=3, shard_mib=1), shard_images=SHARD)
        assert pack(found, out, plan, workers=0, progress=begun.append)
    assert begun[0] == 2 * SHARD
    assert contents(out) == contents(packed)


def test_another_source_or_form_is_refused_with_the_difference_named(source: str, tmp_path: Path) -> None:
    for out, state in ((tmp_path / "half", "half"), (tmp_path / "whole", "whole")):
        with half_packed(source, out) if state == "half" else contextlib.nullcontext():
            if state == "whole":
                packing(source, out)
            for changes, said in (
                ({"side": 4}, "resolution: 6, not 4"),
                ({"channels": 1}, "channels: 3, not 1"),
            ):
                with pytest.raises(UserError, match=said):
                    packing(source, out, **changes)
    (Path(source) / "class1" / "extra.png").write_bytes((Path(source) / "class1" / "01.png").read_bytes())
    for name in ("half", "whole"):
        with pytest.raises(UserError, match="the content of the source: that of 'source' as it was"):
            packing(source, tmp_path / name)


def test_another_size_of_files_is_refused(
    source: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["data", "pack", source, str(tmp_path / "packed"), "--workers", "0", "--shard-mib"]
    assert main([*words, "1"]) == 0
    before = contents(tmp_path / "packed")
    assert main([*words, "2"]) == 2
    assert "is packed otherwise, images a shard (--shard-mib): 9709, not 19418" in capsys.readouterr().err
    assert contents(tmp_path / "packed") == before


def test_a_second_process_is_refused(source: str, tmp_path: Path) -> None:
    out, entered, leave = tmp_path / "packed", threading.Event(), threading.Event()
    script = (
        "import sys; sys.path.insert(0, sys.argv[1])\n"
        "from pathlib import Path; import test_data_packed\n"
        "from vitgan.errors import UserError\n"
        "try: test_data_packed.packing(sys.argv[2], Path(sys.argv[3]))\n"
        "except UserError as error: print(error)\n"
    )
    found = open_source(source)
    plan = replace(plan_of(found, source, resolution=SIDE, channels=3, shard_mib=1), shard_images=SHARD)

    def wait(_done: int) -> None:
        entered.set()
        leave.wait(60)

    first = threading.Thread(target=lambda: pack(found, out, plan, workers=0, progress=wait))
    first.start()
    try:
        assert entered.wait(60)
        words = [sys.executable, "-c", script, str(Path(__file__).parent), source, str(out)]
        said = subprocess.run(words, capture_output=True, text=True, timeout=120, check=True).stdout
    finally:
        leave.set()
        first.join()
    assert f"Another process is packing into {out}" in said
    assert len(open_source(str(out))) == COUNT


def test_a_folder_that_holds_something_else_is_left_alone(source: str, tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "letter.txt").write_text("dear")
    with pytest.raises(UserError, match="is not empty: choose another folder"):
        packing(source, tmp_path / "mine")
    with pytest.raises(UserError, match="is a file: choose another folder"):
        packing(source, tmp_path / "mine" / "letter.txt")
    assert [path.name for path in (tmp_path / "mine").iterdir()] == ["letter.txt"]


def test_a_source_without_a_readable_image_leaves_nothing(tmp_path: Path) -> None:
    (tmp_path / "source").mkdir()
    (tmp_path / "source" / "a.png").write_bytes(b"")
    with pytest.raises(UserError, match=r"has no readable image \(the first, a\.png: "):
        packing(str(tmp_path / "source"), tmp_path / "packed")
    assert [path.name for path in (tmp_path / "packed").iterdir()] == [".lock"]


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
