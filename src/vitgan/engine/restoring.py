"""A run taken up where its newest whole checkpoint left it, on any number of processes."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from vitgan import processes
from vitgan.data import ImageSet
from vitgan.data.identity import difference
from vitgan.engine.checkpoint import load_newest
from vitgan.engine.task import Task
from vitgan.errors import UserError


@dataclass(frozen=True, kw_only=True)
class Restored:
    """Where a run stands."""

    found: bool
    """Whether there is a checkpoint."""
    images_seen: int = 0
    seconds: float = 0.0
    rollbacks: int = 0
    """How often it went back to a checkpoint, each time with other random numbers."""
    notes: list[str] = field(default_factory=list)
    """Lines to say about it."""


def restore(folder: Path, images: ImageSet, task: Task) -> Restored:
    """Load the newest checkpoint of `folder` that is whole into `task`; rank 0 alone reads it.

    Raises UserError where the run was trained on other images, or the processes see different ones.
    """
    notes: list[str] = []
    found = None
    with processes.together():
        if processes.rank() == 0:
            found = load_newest(folder, notes.append)
    tensors, description = found or (None, None)
    description = processes.told(description)
    with processes.together():
        _check_alike(images)
        if description is not None:
            _check_data(folder, description["data"], images)
    if description is None:
        return Restored(found=False, notes=notes)
    task.load(processes.told_tensors(tensors))
    notes.append(f"Resuming {folder} at {description['images']:,} images.")
    return Restored(
        found=True,
        images_seen=description["images"],
        seconds=description["seconds"],
        rollbacks=description["rollbacks"],
        notes=notes,
    )


def data_facts(images: ImageSet) -> dict[str, Any]:
    """What a checkpoint says of the images, to know them again."""
    return {"images": len(images), **images.identity.facts()}


def _check_alike(images: ImageSet) -> None:
    for rank, (fingerprint, count) in enumerate(processes.everyones([images.fingerprint, len(images)])):
        if fingerprint != images.fingerprint and processes.rank() == 0:
            raise UserError(
                f"Rank {rank} sees other images than rank 0 ({count:,} against {len(images):,}): give every "
                "machine the same --data."
            )


def _check_data(folder: Path, then: dict[str, Any], images: ImageSet) -> None:
    if then["fingerprint"] != images.fingerprint:
        raise UserError(
            f"{folder} was trained on other images ({difference(then, images.identity, len(images))}): "
            "give the same --data, or another folder with --out."
        )
