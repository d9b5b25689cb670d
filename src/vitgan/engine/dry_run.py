"""A dry run: the sizes, memory, speed and hours of a run, from a few of its steps, with nothing written."""

import gc
import math
import shutil
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import nn

from vitgan.data import Batch, ImageSet, batches
from vitgan.distributed import collectives
from vitgan.engine.checkpoint import checkpoints, load_newest
from vitgan.engine.environment import (
    GIBIBYTE,
    free_memory,
    keep_freed_memory,
    peak,
    resident,
    return_freed_memory,
    within_memory,
)
from vitgan.engine.progress import clock
from vitgan.engine.recipe import RunRecipe
from vitgan.engine.run_folder import check
from vitgan.engine.task import Task
from vitgan.errors import UserError, lacks_memory
from vitgan.terminal import counted

LEAST_STEPS, LEAST_SECONDS = 5, 3.0  # measured after the first two steps, which are slower


@dataclass(frozen=True, kw_only=True)
class Rehearsal:
    """The findings of a dry run. Sizes are in bytes."""

    parameters: dict[str, int]
    """Number of parameters of each network."""
    images: int
    """Number of training images."""
    in_memory: bool
    """Whether the images are held in memory."""
    images_seen: int
    """Images seen at which the run would resume; 0 for a new run."""
    memory: int | None
    """Peak memory of the process, or of the GPU; None where the system does not say."""
    images_per_second: float
    """Training speed, measured over a few steps."""
    images_left: int | None
    """Images until the run's end; None where it is bounded by minutes only."""
    hours: float | None
    """Hours until the run's end at the measured speed; None for a run without an end."""
    checkpoint: int
    """Size of one checkpoint."""
    disk_free: int
    """Free space on the disk where the run's folder is or will be."""

    def lines(self) -> dict[str, str]:
        """The findings as text for the user, by heading."""
        own = {f"parameters, {name}": f"{count:,}" for name, count in self.parameters.items()}
        where = "in memory" if self.in_memory else "read as needed"
        begin = f"goes on at {self.images_seen:,} images" if self.images_seen else "begins anew"
        end = "none: give --images or --minutes"
        if self.hours is not None:
            end = f"{clock(3600 * self.hours)} from now"
        left = "" if self.images_left is None else f", {counted(self.images_left, 'image')} left"
        return {
            **own,
            "data": f"{counted(self.images, 'image')}, {where}",
            "run": begin + left,
            "memory": "unknown" if self.memory is None else f"{self.memory / 2**20:,.0f} MiB at its peak",
            "speed": f"{self.images_per_second:,.1f} images/s",
            "end": end,
            "checkpoint": f"{self.checkpoint / 2**20:,.1f} MiB each",
            "disk": f"{self.disk_free / 2**30:,.1f} GiB free",
        }


def rehearse(recipe: RunRecipe, folder: Path, *, device: torch.device) -> Rehearsal:
    """Build the run of `recipe` in `folder`, measure a few steps and discard them; nothing is written.

    Raises UserError where the run could not start, or its step would not fit into the memory: it is measured
    on a few images first, and never takes more than is free.
    """
    check(folder, recipe)
    if device.type == "cpu":
        keep_freed_memory()
    images = recipe.data.build()
    require_memory(recipe, images, device)
    with within_memory(free_memory() if device.type == "cpu" else None), explained(recipe):
        return _rehearse(recipe, images, folder, device)


def _rehearse(recipe: RunRecipe, images: ImageSet, folder: Path, device: torch.device) -> Rehearsal:
    task, images = recipe.begin(images, device)
    found = load_newest(folder, lambda _: None) if checkpoints(folder) else None
    seen, seconds = (0, 0.0) if found is None else (found[1]["images"], found[1]["seconds"])
    speed = _speed(recipe, task, images, seen, device)
    options = recipe.training
    left = None if options.images is None else max(options.images - seen, 0)
    ends = [] if left is None else [left / speed]
    ends += [] if options.minutes is None else [max(60 * options.minutes - seconds, 0.0)]
    return Rehearsal(
        parameters={name: _count(network) for name, network in task.networks.items()},
        images=len(images),
        in_memory=hasattr(images, "pixels"),
        images_seen=seen,
        memory=peak(device),
        images_per_second=speed,
        images_left=left,
        hours=min(ends) / 3600 if ends else None,
        checkpoint=sum(tensor.nbytes for tensor in task.tensors().values()),
        disk_free=_free(folder),
    )


def _speed(recipe: RunRecipe, task: Task, images: ImageSet, seen: int, device: torch.device) -> float:
    """Images per second, measured over some steps from image `seen` on."""
    options = recipe.training
    stream = batches(images, batch=options.batch, seed=options.seed, images_seen=seen, device=device)
    steps, began = 0, 0.0
    with closing(stream):
        while steps < 2 + LEAST_STEPS or time.perf_counter() - began < LEAST_SECONDS:
            if steps == 2:
                _settle(device)
                began = time.perf_counter()
            task.step(next(stream), seen + steps * options.batch)
            steps += 1
        _settle(device)
    return (steps - 2) * options.batch / (time.perf_counter() - began)


# --- The memory of a step, before it is taken

SURE = 2**18
"""Bytes a pixel of a batch, more than the networks here take: where so much is free nothing is measured."""
MARGIN = 0.9  # of the free memory that the advice counts on
NOISE = 2**26  # bytes by which two measurements may differ for no reason


def require_memory(recipe: RunRecipe, images: ImageSet, device: torch.device) -> None:
    """Raise UserError, with what to set, where a training step of `recipe` on the CPU would not fit.

    Steps of a few images are measured, on networks of their own, and the batch extrapolated, for the memory
    of a step grows with its images linearly. A GPU raises an error of its own, and kills nothing. Of several
    processes none is measured.
    """
    free, options = free_memory(), recipe.training
    if device.type != "cpu" or free is None or collectives.world_size() > 1:
        return
    if options.batch * recipe.data.resolution**2 * SURE <= free:
        return
    try:
        with within_memory(free):
            needed, size = _needed(recipe, images, device, free)
            parts = None if needed <= free else _parts_that_fit(recipe, images, device, size, free)
    finally:
        return_freed_memory()
    if needed <= free:
        return
    if math.isinf(needed):
        raise UserError(
            f"Not even a few images a step fit into the memory ({_size(free)} are free): make the networks "
            "smaller (their width or depth), or lower --data.resolution."
        )
    raise UserError(
        f"A step would take about {_size(needed)}, and {_size(free)} of memory are free: "
        f"{_less(recipe, parts)}."
    )


@contextmanager
def explained(recipe: RunRecipe) -> Iterator[None]:
    """A context in which an error of memory that is exhausted becomes a UserError that says what to set."""
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        if not lacks_memory(error):
            raise
        gpu = isinstance(error, torch.OutOfMemoryError)
        parts = 2 * (recipe.training.accumulate or 1)
        fits = recipe.training.batch % parts == 0
        text = "The GPU's memory is full" if gpu else "The memory is full"
        other = "free the GPU" if gpu else "end what else takes memory"
        raise UserError(f"{text}: {_less(recipe, parts if fits else None)}, or {other}.") from error


def _size(count: float) -> str:
    return f"{count / GIBIBYTE:,.1f} GiB" if count >= GIBIBYTE else f"{count / 2**20:,.0f} MiB"


def _less(recipe: RunRecipe, parts: int | None) -> str:
    """What to set so that a step takes less memory; `parts` is the number of micro-batches, or None."""
    if not hasattr(recipe, "generator"):
        return "lower --training.batch"
    if parts is not None:
        return (
            f"set --training.accumulate {parts}, which computes the same batch in {parts} parts, or lower "
            "--training.batch"
        )
    if recipe.training.activation_checkpointing:
        return "lower --training.batch or --data.resolution"
    return "set --training.activation-checkpointing True, or lower --training.batch or --data.resolution"


def _needed(recipe: RunRecipe, images: ImageSet, device: torch.device, free: int) -> tuple[float, int]:
    """Bytes that a step of `recipe` takes, extrapolated from steps of few images; infinite where none fits.

    The second number is that of the images of the smaller of the last two steps.

    Where it comes near what is free, and few images tell little, steps of more are measured.
    """
    batch, accumulate = recipe.training.batch, recipe.training.accumulate
    size = min(2 * (accumulate or 1), batch)
    _measured(recipe, images, device, size, accumulate)  # a first step loads what later ones find loaded
    while True:
        small = _measured(recipe, images, device, size, accumulate)
        if size == batch or math.isinf(small):
            return small, size
        large = _measured(recipe, images, device, min(2 * size, batch), accumulate)
        if math.isinf(large):
            return small * batch / size, size
        slope = max(large - small, 0) / (min(2 * size, batch) - size)
        needed = small + slope * (batch - size)
        unsure = needed > free / 2 and large - small < NOISE
        if not unsure or 8 * size > batch or small + slope * 7 * size > free / 2:
            return needed, size
        size *= 4


def _parts_that_fit(
    recipe: RunRecipe, images: ImageSet, device: torch.device, size: int, free: int
) -> int | None:
    """The least number of micro-batches with which a step fits; None where none does, or there are none.

    A step of B images in N parts takes a + b B + c B / N bytes; three steps, of `size` images and twice as
    many, give a, b and c.
    """
    batch, now = recipe.training.batch, recipe.training.accumulate or 1
    if not hasattr(recipe, "generator"):
        return None
    size = 2 * size // (recipe.training.accumulate or 2)
    size += size % 2
    steps = ((size, 2), (2 * size, 4), (2 * size, 2))
    few, many, larger = (_measured(recipe, images, device, number, parts) for number, parts in steps)
    part, image = max(larger - many, 0) / (size / 2), max(many - few, 0) / size
    fixed = few - size * image - size / 2 * part
    if math.isnan(fixed) or math.isinf(fixed):
        return None
    for parts in range(now + 1, batch // 2 + 1):
        if batch % parts == 0 and fixed + image * batch + part * batch / parts <= MARGIN * free:
            return parts
    return None


def _measured(
    recipe: RunRecipe, images: ImageSet, device: torch.device, size: int, accumulate: int | None
) -> float:
    """Peak bytes of networks, optimisers and a step of `size` images; infinite where they do not fit.

    It is the first step, which the moments of Adam, two numbers a parameter, come only at the end of.
    """
    changes = {"batch": size, "accumulate": accumulate, "sample_count": 1, "compile": "off"}
    if not hasattr(recipe, "generator"):
        del changes["accumulate"], changes["compile"]
    small = replace(recipe, training=replace(recipe.training, **changes))
    shape = (size, recipe.data.channels, recipe.data.resolution, recipe.data.resolution)
    labels = torch.zeros(size, dtype=torch.int64, device=device) if images.classes else None
    gc.collect()
    return_freed_memory()
    before = resident() or 0
    every = recipe.training.generator_every
    try:
        with torch.random.fork_rng(devices=[]):
            task = small.begin(images, device)[0]
            for step in sorted({0, every - 1}):  # lazy terms are due at 0, the generator learns at the other
                task.step(Batch(torch.rand(shape, device=device) * 2 - 1, labels), step * size)
    except (MemoryError, RuntimeError) as error:
        if not lacks_memory(error):
            raise
        return math.inf
    moments = sum(2 * p.nbytes for network in task.networks.values() for p in network.parameters())
    return max((resident(highest=True) or 0) - before, 0) + moments


def _settle(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _count(network: nn.Module) -> int:
    return sum(parameter.numel() for parameter in network.parameters())


def _free(folder: Path) -> int:
    place = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    return shutil.disk_usage(place).free
