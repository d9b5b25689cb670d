"""A dry run: the sizes, memory, speed and hours of a run, from a few of its steps, with nothing written."""

import shutil
import time
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from vitgan.data import ImageSet, batches
from vitgan.engine.checkpoint import checkpoints, load_newest
from vitgan.engine.environment import keep_freed_memory, peak
from vitgan.engine.progress import clock
from vitgan.engine.recipe import RunRecipe
from vitgan.engine.run_folder import check
from vitgan.engine.task import Task
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

    Raises UserError where the run could not start.
    """
    check(folder, recipe)
    if device.type == "cpu":
        keep_freed_memory()
    task, images = recipe.begin(recipe.data.build(), device)
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


def _settle(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _count(network: nn.Module) -> int:
    return sum(parameter.numel() for parameter in network.parameters())


def _free(folder: Path) -> int:
    place = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    return shutil.disk_usage(place).free
