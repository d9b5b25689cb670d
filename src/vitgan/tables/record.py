"""What is known of one row: the settings it was trained with, and what came of it."""

import dataclasses
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from vitgan.replacing import replacing

RECORD = "row.json"


@dataclass(frozen=True, kw_only=True)
class Record:
    """The content of `OUT/rows/ROW/row.json`."""

    recipe: dict[str, Any]
    status: Literal["complete", "interrupted", "diverged", "failed"]
    reason: str = ""
    """One line, of a row that diverged or failed."""
    diverged_at: int | None = None
    """Image in whose step a number was not finite."""
    images_seen: int = 0
    seconds: float = 0.0
    """Of training."""
    peak_memory: int | None = None
    """Bytes, the most of all the commands that trained the row."""
    memory_measure: str = ""
    """What `peak_memory` is."""
    parameters_generator: int | None = None
    parameters_discriminator: int | None = None
    flops_per_image: float | None = None
    environment: dict[str, str] = field(default_factory=dict)
    metrics: list[str] = field(default_factory=list)
    """Asked for in `evaluation`."""
    evaluation: dict[str, Any] | None = None
    """`vitgan.metrics.Evaluation.to_dict`; None before it, and where there is no checkpoint to score."""
    scored_at: int | None = None
    """Images seen by the checkpoint that was scored."""

    @property
    def finished(self) -> bool:
        """Trained as far as it goes."""
        return self.status in ("complete", "diverged")


def load(folder: Path) -> Record | None:
    """The record in `folder`; None when there is none that is whole."""
    try:
        return Record(**json.loads((folder / RECORD).read_text(encoding="utf-8")))
    except (FileNotFoundError, ValueError, TypeError):
        return None


def save(folder: Path, record: Record) -> None:
    """Write the record whole, or (OSError) not at all."""
    folder.mkdir(parents=True, exist_ok=True)
    with replacing(folder / RECORD) as temporary:
        temporary.write_text(json.dumps(dataclasses.asdict(record), indent=1) + "\n", encoding="utf-8")
