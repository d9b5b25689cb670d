"""Evaluation of a run while it trains, and its best checkpoint."""

import json
import shutil
from pathlib import Path
from typing import Any

import torch

from vitgan.data import ImageSet
from vitgan.distributed import collectives
from vitgan.engine.checkpoint import (
    DamagedCheckpoint,
    NewerCheckpoint,
    load_description,
    numbered,
    write_checkpoint,
)
from vitgan.engine.loggers import forget_after
from vitgan.engine.recipe import EvaluationOptions
from vitgan.metrics import Evaluation, Evaluator, headline
from vitgan.metrics.protocol import better
from vitgan.models import Generator

EVALUATIONS, BEST = "evaluations.jsonl", "best"


class Watch:
    """Evaluates a run's generator and keeps the checkpoint that scored best, under `RUN/best/`."""

    def __init__(
        self,
        options: EvaluationOptions,
        folder: Path,
        images: ImageSet,
        device: torch.device,
        images_seen: int,
    ) -> None:
        self.folder = folder
        if collectives.rank() == 0:
            forget_after(folder / EVALUATIONS, images_seen)
        self.evaluator = Evaluator(
            images,
            features=options.features,
            metrics=options.chosen(),
            count=options.count,
            device=device,
        )

    def score(self, generator: Generator) -> Evaluation:
        """Evaluate `generator` against the run's images."""
        return self.evaluator.score(generator)

    def note(self, found: Evaluation, images_seen: int) -> None:
        """Append the evaluation, metrics and protocol, to `evaluations.jsonl`."""
        line = json.dumps({"images": images_seen, **found.to_dict()})
        with (self.folder / EVALUATIONS).open("a", encoding="utf-8") as file:
            file.write(line + "\n")

    def line(self, found: Evaluation, images_seen: int) -> str:
        """A line about the evaluation for the user."""
        name, value = headline(found.metrics)
        facts = found.protocol
        return (
            f"{images_seen:,} images: {name} {value:.4g} ({facts.features}, {facts.fakes:,} fakes against "
            f"{facts.reals:,} reals, protocol {facts.key()})"
        )

    def is_best(self, found: Evaluation) -> bool:
        """Whether its headline is better than every earlier one of its protocol; a NaN never is."""
        best = best_evaluation(self.folder)
        name, value = headline(found.metrics)
        before = None if best is None else best["metrics"].get(name)
        if best is None or before is None or best["protocol"]["key"] != found.protocol.key():
            return value == value
        return value > before if better(name) == "higher" else value < before

    def keep(self, images_seen: int, tensors: dict[str, torch.Tensor], description: dict[str, Any]) -> None:
        """Write the new best checkpoint, then delete the previous one."""
        place = self.folder / BEST
        write_checkpoint(place / f"{images_seen:012d}", images_seen, tensors, description)
        for old in numbered(place):
            if int(old.name) != images_seen:
                shutil.rmtree(old, ignore_errors=True)


def best_evaluation(folder: Path) -> dict[str, Any] | None:
    """The evaluation of the best checkpoint of the run in `folder`; None where none can be read."""
    for checkpoint in reversed(numbered(folder / BEST)):
        try:
            return load_description(checkpoint).get("evaluation")
        except (DamagedCheckpoint, NewerCheckpoint):
            continue
    return None
