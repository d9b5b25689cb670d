"""Packing a million images and reading them at random: images/s and resident memory.

    python benchmarks/data_scale.py --json data_scale.json [--count 1000000] [--out FOLDER] [--keep]

The images, 64 x 64 RGB, are computed from their number, so nothing but the packed folder lies on the disk:
12.3 GB at the default count, deleted afterwards without --keep. The first batch that is read is compared with
the images it should hold. Memory is the sum over this process and its readers, sampled while they work, of
Linux's Pss, in which a page that several share counts once, and of VmRSS, in which it counts for each. The
training steps are those of the recipe `cifar10-small`, brought to 64 x 64, and of `digits`, also at 64 x 64.
"""

import argparse
import itertools
import json
import os
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from vitgan.data import DataOptions, ImageSet, batches
from vitgan.data.loader import draw
from vitgan.data.packed.writer import pack, plan_of
from vitgan.engine.environment import environment

SIDE, BATCH, RECIPES = 64, 128, ("cifar10-small", "digits")
MIB = 2**20


class Computed:
    """A source of `count` images, each computed from its number."""

    labels: np.ndarray | None = None
    classes: tuple[str, ...] = ()

    def __init__(self, count: int) -> None:
        self.count = count
        self.base = np.random.default_rng(0).integers(0, 256, (SIDE, SIDE, 3), dtype=np.uint8)

    def __len__(self) -> int:
        return self.count

    def item(self, index: int) -> str:
        """Its name."""
        return f"image {index}"

    def picture(self, index: int) -> Image.Image:
        """One image: noise turned by an amount of its own, its number in the first row."""
        pixels = np.roll(self.base, (index % SIDE, index // SIDE % SIDE), (0, 1))
        pixels[0, :8, 0] = np.frombuffer(index.to_bytes(8, "little"), np.uint8)
        return Image.fromarray(pixels)

    def content(self) -> Iterator[bytes]:
        """What tells it from any other."""
        yield f"computed {self.count}".encode()


def main() -> None:
    """Pack, read, train a few steps, write the JSON."""
    parser = argparse.ArgumentParser(description="Packing a million images and reading them at random.")
    parser.add_argument("--json", type=Path, metavar="PATH")
    parser.add_argument("--count", type=int, default=1_000_000, metavar="N")
    parser.add_argument(
        "--batches", type=int, default=4000, metavar="N", help="read with each number of workers"
    )
    parser.add_argument("--out", type=Path, metavar="FOLDER")
    parser.add_argument("--keep", action="store_true")
    options = parser.parse_args()
    out = options.out or Path(tempfile.gettempdir()) / "vitgan-data-scale"
    report: dict[str, Any] = {"environment": environment(torch.device("cpu")), "command": " ".join(sys.argv)}
    report["load_before"] = os.getloadavg()
    try:
        report["packing"] = show("packing", packing(options.count, out))
        report["reading"] = [show("reading", reading(out, w, options.batches)) for w in (0, 2)]
    finally:
        if not options.keep:
            shutil.rmtree(out, ignore_errors=True)
    report["training"] = [show("training", training(name)) for name in RECIPES]
    if options.json is not None:
        options.json.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")


def show(what: str, found: dict[str, Any]) -> dict[str, Any]:
    """Prints a line, and gives back what was found."""
    print(f"{what}: {json.dumps(found)}", flush=True)
    return found


def packing(count: int, out: Path) -> dict[str, Any]:
    """Pack `count` images into `out`."""
    source, workers = Computed(count), len(os.sched_getaffinity(0))
    plan = plan_of(source, "computed", resolution=SIDE, channels=3, shard_mib=256)
    memory = Memory()
    start = time.perf_counter()
    new = pack(source, out, plan, workers=workers, progress=lambda _done: memory.sample())
    seconds = time.perf_counter() - start
    size = sum(path.stat().st_size for path in out.iterdir())
    facts = {"images": count, "bytes": size, "workers": workers, "seconds": seconds, **memory.facts()}
    return {**facts, "images_per_second": count / seconds if new else None}


def reading(out: Path, workers: int, number: int) -> dict[str, Any]:
    """Read `number` random batches of 128 with so many workers."""
    memory, start = Memory(), time.perf_counter()
    options = DataOptions(source=str(out), resolution=SIDE, channels=3, memory_mib=0, workers=workers)
    images = options.build()
    opening = time.perf_counter() - start
    stream = batches(images, batch=BATCH, seed=0, images_seen=0, device="cpu")
    with closing(stream):
        check(images, next(stream).images)
        start = time.perf_counter()
        for batch in itertools.islice(stream, number - 1):
            assert batch.images.shape[0] == BATCH
            memory.sample()
        seconds = time.perf_counter() - start
        facts = memory.facts()
    speed = (number - 1) * BATCH / seconds
    return {
        "workers": workers,
        "batches": number,
        "seconds_to_open": opening,
        "seconds": seconds,
        "images_per_second": speed,
        "milliseconds_a_batch": 1000 * BATCH / speed,
        **facts,
    }


def check(images: ImageSet, batch: torch.Tensor) -> None:
    """That the first batch of a run holds the images that were drawn for it."""
    source = Computed(len(images))
    for index, pixels in zip(draw(len(images), 0, 0, BATCH)[0].tolist(), batch, strict=True):
        wanted = np.asarray(source.picture(index)).transpose(2, 0, 1)
        assert np.array_equal(((pixels + 1) * 127.5).round().byte().numpy(), wanted)


def training(name: str) -> dict[str, Any]:
    """Images/s of a recipe's step at 64 x 64, the median of three after the first."""
    from vitgan.bench.settings import open_images
    from vitgan.bench.steps import Stepper
    from vitgan.recipes import get

    recipe = get(name)
    recipe = replace(recipe, data=replace(recipe.data, resolution=SIDE, channels=3))
    images = open_images(recipe.data, None, recipe.training.batch)
    stepper = Stepper(recipe, images, torch.device("cpu"))
    with closing(stepper.stream):
        seconds = statistics.median(stepper.timed(recorded=False) for _ in range(3))
    batch = recipe.training.batch
    return {"recipe": name, "batch": batch, "seconds_a_step": seconds, "images_per_second": batch / seconds}


class Memory:
    """Resident memory of this process and its children, summed, now and then; MiB."""

    def __init__(self) -> None:
        self.before = resident()
        self.highest, self.number, self._last = dict(self.before), 0, 0.0

    def sample(self) -> None:
        """Look, at most five times a second."""
        if (now := time.monotonic()) - self._last < 0.2:
            return
        self._last, self.number = now, self.number + 1
        self.highest = {name: max(self.highest[name], value) for name, value in resident().items()}

    def facts(self) -> dict[str, Any]:
        """What was found."""
        above = {name: self.highest[name] - self.before[name] for name in self.before}
        found = {"before": self.before, "highest": self.highest, "above_before": above}
        by_kind = {
            f"{kind}_mib_{what}": values[kind] for kind in self.before for what, values in found.items()
        }
        return by_kind | {"samples": self.number}


def resident() -> dict[str, float]:
    """Pss and Rss, summed over this process and its children, MiB."""
    found = [rollup(pid) for pid in (os.getpid(), *children())]
    return {name.lower(): sum(one[name] for one in found) for name in ("Pss", "Rss")}


def children() -> list[int]:
    """Processes that any thread of this one has started."""
    files = Path("/proc/self/task").glob("*/children")
    return [int(pid) for file in files for pid in file.read_text().split()]


def rollup(pid: int) -> dict[str, float]:
    """Pss and Rss of a process, MiB; 0 where it has ended."""
    found = {"Pss": 0.0, "Rss": 0.0}
    try:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    except OSError:
        return found
    for line in lines:
        name, _, value = line.partition(":")
        if name in found:
            found[name] = int(value.split()[0]) * 1024 / MIB
    return found


if __name__ == "__main__":
    main()
