"""Memory of a long run."""

import json

from fault_injection.trial import Trial, fine, require
from vitgan.data import Batch
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
