"""Peak memory of the step, in a process of its own."""

import json
import subprocess
import sys
from dataclasses import asdict, dataclass, fields, replace
from typing import Any

import torch

from vitgan.bench.settings import Settings, open_images, with_training
from vitgan.data import batches
from vitgan.engine.environment import keep_freed_memory, resident
from vitgan.engine.gan import GANTask, Recipe, build_networks
from vitgan.engine.recipe import TrainingOptions
from vitgan.engine.train import threads
from vitgan.errors import UserError

CODE = "from vitgan.bench.memory import main; main()"
STEPS = 3
MIB = 2**20
CHECKPOINTING = "activation_checkpointing"
RESIDENT = "resident memory of a fresh process at its highest over 3 steps, nothing subtracted"
ALLOCATED = "GPU memory allocated by torch at its highest over 3 steps of a fresh process"


@dataclass(frozen=True, kw_only=True)
class Memory:
    """Memory of a process that takes a few training steps; None where the system does not tell."""

    peak_mib: float | None
    """Peak in MiB: resident memory of the process on a CPU, torch's allocations on a GPU."""
    before_mib: float | None
    """Memory in MiB before images and networks were made: on a CPU that of interpreter and libraries."""


def measure_memory(settings: Settings) -> dict[str, dict[str, Memory]]:
    """Peak memory by precision, then "plain" and, where the networks can, "activation_checkpointing"."""
    kinds = _kinds(settings.recipe)
    return {
        precision: {
            kind: memory_of(
                with_training(settings.recipe_at(precision), **changes),
                data=settings.data,
                device=settings.device,
            )
            for kind, changes in kinds.items()
        }
        for precision in settings.precisions
    }


def _kinds(recipe: Recipe) -> dict[str, dict[str, Any]]:
    """Training options by name: with checkpointing only where both networks can."""
    networks = build_networks(replace(recipe, data=replace(recipe.data, labels=False)), None)
    can = all(getattr(network, "can_recompute", False) for network in networks)
    if CHECKPOINTING not in {field.name for field in fields(TrainingOptions)} or not can:
        return {"plain": {}}
    return {"plain": {CHECKPOINTING: False}, CHECKPOINTING: {CHECKPOINTING: True}}


def memory_of(recipe: Recipe, *, data: str | None, device: torch.device) -> Memory:
    """Memory of the steps of `recipe`, in a new process with as many threads as this one. Raises UserError
    where they fail."""
    order = {"recipe": recipe.to_dict(), "data": data, "device": str(device)}
    order["threads"] = torch.get_num_threads()
    done = subprocess.run(
        [sys.executable, "-P", "-c", CODE],
        input=json.dumps(order),
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        lines = done.stderr.strip().splitlines() or ["it was ended, perhaps for want of memory"]
        raise UserError(f"The steps whose memory is measured failed: {lines[-1].rstrip('.')}.")
    return Memory(**json.loads(done.stdout.splitlines()[-1]))


def main() -> None:
    """Take the steps that JSON on standard input describes, and print what they took."""
    order = json.loads(sys.stdin.read())
    recipe, device = Recipe.from_dict(order["recipe"]), torch.device(order["device"])
    with threads(order["threads"]):
        try:
            memory = steps_here(recipe, order["data"], device)
        except (UserError, torch.OutOfMemoryError) as error:
            sys.exit(" ".join(str(error).split()))
    print(json.dumps(asdict(memory)))


def steps_here(recipe: Recipe, data: str | None, device: torch.device) -> Memory:
    """The peak of this process over the first steps of `recipe`."""
    before = _now(device)
    if device.type == "cpu":
        keep_freed_memory()
    images = open_images(recipe.data, data, recipe.training.batch)
    task, options = GANTask(recipe, images, device), recipe.training
    stream = batches(images, batch=options.batch, seed=options.seed, images_seen=0, device=device)
    for step in range(STEPS):
        task.step(next(stream), step * options.batch)
    stream.close()
    return Memory(peak_mib=_highest(device), before_mib=before)


def _now(device: torch.device) -> float | None:
    return torch.cuda.memory_allocated(device) / MIB if device.type == "cuda" else _mib(resident())


def _highest(device: torch.device) -> float | None:
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / MIB
    return _mib(resident(highest=True))


def _mib(size: int | None) -> float | None:
    return None if size is None else size / MIB
