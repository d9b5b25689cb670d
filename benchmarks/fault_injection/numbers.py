"""Numbers of training that are not finite, or explode."""

import json
from collections.abc import Callable

from fault_injection.trial import Trial, fine, newest, refused, require, whole
from vitgan.adversarial import BCR
from vitgan.engine.checkpoint import checkpoints, load_checkpoint
from vitgan.engine.loggers import read_log


def poison(step: int, factor: float, times: int) -> Callable[[], None]:
    """In a child: the bCR losses of that step are multiplied, on its first visits."""

    def arm() -> None:
        real, left = BCR.losses, times

        def losses(self, seen):
            nonlocal left
            found = real(self, seen)
            if seen.step == step and left:
                left -= 1
                found = {name: value * factor for name, value in found.items()}
            return found

        BCR.losses = losses

    return arm


def finite(trial: Trial) -> None:
    """Require that every tensor of every checkpoint is finite."""
    for folder in checkpoints(trial.run):
        bad = [name for name, tensor in load_checkpoint(folder)[0].items() if not tensor.isfinite().all()]
        require(not bad, f"{bad} are not finite in {folder.name}")


def stops(trial: Trial) -> tuple[int, str]:
    """A loss becomes NaN, infinite, or 1e12 times as large, at image 36."""
    for factor, how in (
        (float("nan"), "became nan"),
        (float("inf"), "became inf"),
        (1e12, r"exploded to \d"),
    ):
        trial.clear()
        said = refused(
            trial.ended(trial.words(), poison(9, factor, 1)),
            f"bcr_real {how}.* at image 36",
            "gradient norms: discriminator ",
            "The last good checkpoint is at image 32",
            "--on-nan rollback",
        )
        require(newest(trial.run) == 32, said)
        finite(trial)
        (line,) = [line for line in read_log(trial.run) if "diverged_term_bcr_real" in line]
        require(line["images"] == 36 and "gradient_norm_discriminator" in line, str(line))
        fine(trial.ended(trial.words()))
        newly = [line["images"] for line in read_log(trial.run)]
        require(newly == list(range(4, 100, 4)), f"the log has {newly}")
    return 3, "term, image and gradient norms are said and in the log; the last good checkpoint is kept"


def rolls_back(trial: Trial) -> tuple[int, str]:
    """The same with `--on-nan rollback`, once and twice in a row."""
    for times in (1, 2):
        trial.clear()
        words = trial.words("--on-nan", "rollback", "--training.accumulate", 1)
        said = fine(trial.ended(words, poison(9, float("nan"), times)))
        require(said.count("Going back to image 32 with other random numbers") == times, said)
        whole(trial.run)
        finite(trial)
        events = [json.loads(line) for line in (trial.run / "events.jsonl").read_text().splitlines()]
        require([event["event"] for event in events].count("rolled back") == times, str(events))
        require(load_checkpoint(checkpoints(trial.run)[-1])[1]["rollbacks"] == times, "it is not counted")
    return 2, "goes back to the last checkpoint, draws other random numbers, ends"


def gives_up(trial: Trial) -> tuple[int, str]:
    """The same where it happens every time."""
    words = trial.words("--on-nan", "rollback")
    said = refused(trial.ended(words, poison(9, float("nan"), 99)), "after 5 returns to the last checkpoint")
    require(newest(trial.run) == 32, said)
    finite(trial)
    return 1, "stops after five returns without progress; the last good checkpoint is kept"


def learning_rate(trial: Trial) -> tuple[int, str]:
    """A learning rate of 1e30, from the start."""
    words = trial.words("--optimiser-discriminator.learning-rate", 1e30)
    refused(trial.ended(words), "Training stopped: .* at image ", "Lower the learning rates")
    finite(trial)
    return 1, "stops with the sentence; no checkpoint holds a weight that is not finite"
