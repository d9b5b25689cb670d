"""Sets of images that change, break, go away, or whose readers are killed."""

import ctypes
import io
import os
import shutil
import signal
import struct
import time
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from fault_injection.trial import Failed, Trial, fine, newest, refused, require, weights, whole
from vitgan.data import loader

LAZY = ("--data.memory-mib", 0, "--data.workers", 2)


def folder_of(trial: Trial, count: int = 13) -> Path:
    """Grey images of 8 x 8 pixels as files."""
    folder = trial.folder / "pictures"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    for number, pixels in enumerate(np.random.default_rng(0).integers(0, 256, (count, 8, 8), dtype=np.uint8)):
        Image.fromarray(pixels).save(folder / f"{number:02}.bmp")
    return folder


def add(folder: Path) -> None:
    shutil.copy(folder / "03.bmp", folder / "99.bmp")


def remove(folder: Path) -> None:
    (folder / "03.bmp").unlink()


def edit(folder: Path) -> None:
    content = bytearray((folder / "03.bmp").read_bytes())
    content[-1] ^= 255
    (folder / "03.bmp").write_bytes(content)


def rename(folder: Path) -> None:
    (folder / "03.bmp").rename(folder / "0x.bmp")


def label(folder: Path) -> None:
    labels = ", ".join(f'["{path.name}", 0]' for path in sorted(folder.iterdir()))
    (folder / "dataset.json").write_text(f'{{"labels": [{labels}]}}')


CHANGES: dict[Callable[[Path], None], str] = {
    add: "13 then, 14 now",
    remove: "13 then, 12 now",
    edit: "the first that differs was '03.bmp 1142",
    rename: "the first that differs was '03.bmp 1142",
    label: "with other classes or labels",
}


def changed(trial: Trial) -> tuple[int, str]:
    """An image more, less, edited without another size, renamed; labels."""
    for change, said in CHANGES.items():
        for more in ((), LAZY):
            trial.clear()
            data = folder_of(trial)
            fine(trial.ended(trial.words("--images", 8, *more, data=data)))
            change(data)
            refused(trial.ended(trial.words(*more, data=data)), "was trained on other images", said)
            fine(trial.ended(trial.words(*more, data=folder_of(trial))))
    return 2 * len(
        CHANGES
    ), "refused with the difference named, in memory and read as needed; as it was, it goes on"


def bad_images() -> dict[str, tuple[bytes, bool]]:
    """Each kind: content of a `.png`, and whether it can be used."""
    rng = np.random.default_rng(1)
    grey = Image.fromarray(rng.integers(0, 256, (16, 16), dtype=np.uint8))
    colour = Image.fromarray(rng.integers(0, 256, (16, 16, 3), dtype=np.uint8))
    deep = Image.fromarray(rng.integers(0, 2**16, (16, 16), dtype=np.uint16))
    whole, jpeg = encoded(colour, "PNG"), encoded(colour.resize((64, 64)), "JPEG")
    corrupt = bytearray(whole)
    corrupt[len(corrupt) // 2] ^= 255
    frames = [grey.rotate(angle) for angle in (0, 90, 180)]
    return {
        "zero bytes": (b"", False),
        "text": (b"no image at all", False),
        "corrupt": (bytes(corrupt), False),
        "truncated": (jpeg[: len(jpeg) // 2], False),
        "1 pixel": (encoded(grey.resize((1, 1)), "PNG"), False),
        "20,000 x 20,000 pixels": (bomb(20_000), False),
        "20,000 x 20 pixels": (encoded(Image.new("L", (20_000, 20)), "PNG"), True),
        "CMYK": (encoded(colour.convert("CMYK"), "JPEG"), True),
        "palette": (encoded(colour.convert("P"), "PNG"), True),
        "16 bit": (encoded(deep, "PNG"), True),
        "RGBA": (encoded(colour.convert("RGBA"), "PNG"), True),
        "1 bit": (encoded(grey.convert("1"), "PNG"), True),
        "animated GIF": (encoded(frames[0], "GIF", save_all=True, append_images=frames[1:]), True),
        "animated PNG": (encoded(frames[0], "PNG", save_all=True, append_images=frames[1:]), True),
    }


def encoded(image: Image.Image, kind: str, **options) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def bomb(side: int) -> bytes:
    """A PNG of a few hundred bytes whose header promises side x side pixels."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", side, side, 8, 0, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + chunk(b"IDAT", zlib.compress(bytes(9999)))
        + chunk(b"IEND", b"")
    )


def bad(trial: Trial) -> tuple[int, str]:
    """Each kind alone among good images, then all of them together, in memory and read as needed."""
    kinds = bad_images()
    alone = [[kind] for kind in kinds] if not trial.quick else []
    converted, named = [], []
    for chosen in [*alone, list(kinds)]:
        for more in ((), LAZY) if len(chosen) > 1 else ((),):
            trial.clear()
            data = folder_of(trial)
            for number, kind in enumerate(chosen):
                (data / f"bad{number}.png").write_bytes(kinds[kind][0])
            said = fine(trial.ended(trial.words(*more, data=data)))
            wanted = [f"bad{number}.png" for number, kind in enumerate(chosen) if not kinds[kind][1]]
            found = [f"bad{number}.png" for number in range(len(chosen)) if f"bad{number}.png" in said]
            require(found == wanted, f"{chosen}: {found} are named, not {wanted}: {said}")
            whole(trial.run)
    named = [kind for kind, (_, usable) in kinds.items() if not usable]
    converted = [kind for kind, (_, usable) in kinds.items() if usable]
    return len(alone) + 2, f"counted and named: {', '.join(named)}; converted: {', '.join(converted)}"


def obey_permissions() -> None:
    """Have this process, where it is root's, refused what the permissions of a file refuse."""
    libc = ctypes.CDLL(None, use_errno=True)
    header, sets = (ctypes.c_uint32 * 2)(0x20080522, 0), (ctypes.c_uint32 * 6)()
    if libc.capget(header, sets):
        raise Failed(f"not tried: {os.strerror(ctypes.get_errno())}, be on Linux")
    for place in range(3):  # effective, permitted and inheritable
        sets[place] &= ~0b110  # CAP_DAC_OVERRIDE and CAP_DAC_READ_SEARCH
    if libc.capset(header, sets):
        raise Failed(f"not tried: {os.strerror(ctypes.get_errno())}")


def unreadable_folder(trial: Trial) -> tuple[int, str]:
    """A class's folder that the process may not read."""
    data = trial.folder / "classes"
    shutil.rmtree(data, ignore_errors=True)
    for name in ("cat", "dog", "emu"):
        shutil.copytree(folder_of(trial), data / name)
    (data / "cat").chmod(0)
    try:
        for more in ((), LAZY):
            trial.clear()
            said = fine(trial.ended(trial.words(*more, data=data), obey_permissions))
            line = "folders that cannot be read (Permission denied): 1, as cat"
            require(said.count(line) == 1, f"the folder is not named: {said}")
            whole(trial.run)
    finally:
        (data / "cat").chmod(0o755)
    return 2, "left out, counted and named in one line, in memory and read as needed"


def undecodable(trial: Trial) -> tuple[int, str]:
    """Names of the set, of a class, of a damaged image and of the run that are not UTF-8."""
    name = os.fsdecode(b"caf\xe9")
    data, run = trial.folder / name, trial.folder / f"run{name}"
    for folder in (data, run):
        shutil.rmtree(folder, ignore_errors=True)
    for kind in (name, "b"):
        shutil.copytree(folder_of(trial), data / kind)
    (data / name / f"{name}.png").write_bytes(b"no image")
    for more in ((), LAZY):
        shutil.rmtree(run, ignore_errors=True)
        words = ("--data.labels", True, *more)
        fine(trial.ended(trial.words("--images", 48, *words, data=data, run=run)))
        said = fine(trial.ended(trial.words(*words, data=data, run=run)))
        require("at 48 images" in said, f"it did not go on: {said}")
        whole(run)
        page = (run / "report.html").read_text("utf-8")
        require(r"caf\udce9" in page, "the report does not show the name as an escape")
    return 2, "trained, stopped and gone on with; shown as escapes in the report"


def goes_away(trial: Trial) -> tuple[int, str]:
    """The folder is moved away while it is read, and comes back."""
    os.environ["VITGAN_DATA_PATIENCE"] = "60"
    data, times = folder_of(trial), 1 if trial.quick else 5
    fine(trial.ended(trial.words(*LAZY, data=data)))
    undisturbed = weights(trial.run)
    for _ in range(times):
        trial.clear()
        child = trial.start(trial.words(*LAZY, data=data))
        child.until(lambda: newest(trial.run))
        away = data.rename(data.with_name("away"))
        child.until(lambda: "waiting for it" in child.said())  # noqa: B023
        time.sleep(trial.dice.uniform(0.0, 2.0))
        away.rename(data)
        said = fine(child.wait())
        require(said.count("waiting for it") == said.count("It is back") == 1, said)
        whole(trial.run)
        require(weights(trial.run) == undisturbed, "other weights")
    return times, "one line that it waits, one that it is back; bit for bit"


def stays_away(trial: Trial) -> tuple[int, str]:
    """The folder is moved away and stays there for longer than VITGAN_DATA_PATIENCE, here 2 seconds."""
    data = folder_of(trial)
    fine(trial.ended(trial.words(*LAZY, data=data)))
    undisturbed = weights(trial.run)
    trial.clear()
    os.environ["VITGAN_DATA_PATIENCE"] = "2"
    child = trial.start(trial.words(*LAZY, data=data))
    child.until(lambda: newest(trial.run))
    away = data.rename(data.with_name("away"))
    refused(child.wait(), "pictures cannot be reached any more", "goes on from its last checkpoint")
    away.rename(data)
    fine(trial.ended(trial.words(*LAZY, data=data)))
    whole(trial.run)
    require(weights(trial.run) == undisturbed, "other weights")
    return 1, "a clear stop; with the folder back, the same command goes on bit for bit"


def killed_reader(trial: Trial) -> tuple[int, str]:
    """SIGKILL to a process that reads ahead."""
    data, times = folder_of(trial), 1 if trial.quick else 10
    fine(trial.ended(trial.words(*LAZY, data=data)))
    undisturbed = weights(trial.run)
    for _ in range(times):
        trial.clear()
        child = trial.start(trial.words(*LAZY, data=data))
        child.until(lambda: newest(trial.run) >= 8)
        os.kill(trial.dice.choice(readers(child.number)), signal.SIGKILL)
        said = fine(child.wait())
        require(said.count("A data worker was lost") == 1, said)
        whole(trial.run)
        require(weights(trial.run) == undisturbed, "other weights")
    return times, "said in one line, started again at the same image; bit for bit"


def readers(number: int) -> list[int]:
    """The children of a process."""
    return [int(one) for one in Path(f"/proc/{number}/task/{number}/children").read_text().split()]


def small_shared_memory(trial: Trial) -> tuple[int, str]:
    """Shared memory that has too little room from the start, and that others fill during the run."""
    data = folder_of(trial)
    fine(trial.ended(trial.words(*LAZY, data=data)))
    undisturbed = weights(trial.run)
    for free, lines in ((0, 1), (2**30, 0)):
        trial.clear()
        said = fine(trial.ended(trial.words(*LAZY, data=data), lambda: without_shared_memory(free)))  # noqa: B023
        require(said.count("--shm-size") == lines, said)
        whole(trial.run)
        require(weights(trial.run) == undisturbed, "other weights")
    return 2, "the data workers send their batches through pipes, said in one line; bit for bit"


def without_shared_memory(free: int) -> None:
    """In a child: the system says so many bytes are free, and gives none of them."""
    found = list(os.statvfs("/dev/shm"))
    found[4] = free // int(found[1])

    def refuse(*_: object) -> None:
        raise RuntimeError("unable to allocate shared memory(shm): No space left on device (28)")

    loader.os.statvfs = lambda _: os.statvfs_result(found)  # type: ignore[attr-defined]
    torch.UntypedStorage._share_fd_cpu_ = refuse  # type: ignore[method-assign]
