"""Memory of a long run, and a run that needs more than there is."""

import json
import re
import resource
from pathlib import Path

from fault_injection.trial import Trial, fine, refused, require
from vitgan.data import Batch
from vitgan.engine.checkpoint import checkpoints
from vitgan.engine.environment import resident
from vitgan.engine.loop import Run

MIB_OF_GROWTH = 16  # at most; half of it in the quick trial, whose steps are few
SECONDS = 900  # for all steps


def flat(trial: Trial) -> tuple[int, str]:
    """Resident memory at a tenth of the steps and at the end, in memory and with readers."""
    steps, most = (200, MIB_OF_GROWTH / 2) if trial.quick else (10_000, MIB_OF_GROWTH)
    grown = []
    for more in ((), ("--data.memory-mib", 0, "--data.workers", 1)):
        trial.clear()
        words = ["--training.images", 4 * steps, "--training.checkpoint-every", 400]
        words += ["--training.log-every", 40, "--training.sample-every", 400, *more]
        fine(trial.start(trial.words(*words), lambda: measure(trial, steps)).wait(SECONDS))
        found = json.loads((trial.folder / "memory.json").read_text())
        grown.append(found["end"] - found["tenth"])
        require(grown[-1] < most, f"it grew by {grown[-1]:.1f} MiB")
    return steps, f"from step {steps // 10:,} to {steps:,} it grew by {max(grown):.1f} MiB at most"


def too_large(trial: Trial) -> tuple[int, str]:
    """A dry run and a run whose step needs more than `ulimit -v` leaves, and the step that is advised."""
    words = ["--data.resolution", 32, "--generator.patch", 4, "--discriminator.patch", 4]
    words += ["--generator.width", 64, "--discriminator.width", 64, "--discriminator.depth", 2]
    words = trial.words(*words, "--training.batch", 1024, "--training.images", 1024)
    advice = ""
    for more in (["--dry-run"], []):
        line = refused(trial.ended([*words, *more], limited), "A step would take about", "of memory are free")
        advice = line.partition("set --training.accumulate ")[2].partition(",")[0]
        require(advice.isdigit(), line)
        require(not checkpoints(trial.run), "it has begun")
    fine(trial.start([*words, "--training.accumulate", advice], limited).wait(SECONDS))
    return 2, "refused before the first step, with the --training.accumulate with which it fits; it does"


def limited() -> None:
    """In a child: leave it 700 MiB beyond what it has."""
    size = re.search(r"VmSize:\s+(\d+) kB", Path("/proc/self/status").read_text("ascii"))
    assert size is not None
    most = int(size[1]) * 1024 + 700 * 2**20
    resource.setrlimit(resource.RLIMIT_AS, (most, most))


def measure(trial: Trial, steps: int) -> None:
    """In a child: note the resident memory at a tenth of the steps, and at the end."""
    step, found = Run._step, {}

    def stepping(self: Run, batch: Batch) -> None:
        step(self, batch)
        number = self.images_seen // 4
        if number in (steps // 10, steps):
            found["end" if number == steps else "tenth"] = (resident() or 0) / 2**20
            (trial.folder / "memory.json").write_text(json.dumps(found))

    Run._step = stepping
