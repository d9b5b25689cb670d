"""What a run writes and says beside its checkpoints: log, events, samples, heartbeat, report, progress.

`RUN/events.jsonl` has a line for every start, stop and fault; `RUN/heartbeat.json` says how the run stands
now, every few seconds: a file whose time does not move belongs to a run that hangs or is gone.
"""

import contextlib
import json
import os
import shutil
import socket
import time
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from vitgan import processes
from vitgan.engine.environment import environment
from vitgan.engine.images import save_png
from vitgan.engine.log import RunLog
from vitgan.engine.metrics import Diverged
from vitgan.engine.progress import Progress
from vitgan.engine.report import write_report
from vitgan.engine.spacing import passed, spacing
from vitgan.engine.supervised_recipes import AnyRecipe
from vitgan.replacing import replacing

EVENTS, HEARTBEAT = "events.jsonl", "heartbeat.json"
SECONDS_BETWEEN_BEATS = 10.0
MOST_SAMPLES = 200  # pictures that stay, evenly spread over the run


class Records:
    """The files of one run, from `images_seen` on. Methods that write raise OSError when the disk is full."""

    def __init__(
        self,
        recipe: AnyRecipe,
        folder: Path,
        device: torch.device,
        *,
        images_seen: int,
        seconds: float,
        quiet: bool,
    ) -> None:
        self.recipe, self.folder, self.device = recipe, folder, device
        self.log = RunLog(folder, images_seen)
        options = recipe.training
        self.progress = Progress(
            images_seen=images_seen,
            target_images=options.images,
            target_seconds=None if options.minutes is None else options.minutes * 60,
            seconds=seconds,
            quiet=quiet,
        )
        self.message = self.progress.message
        self._beaten = -SECONDS_BETWEEN_BEATS
        self._speed = 0.0

    def scalars(self, images_seen: int, line: dict[str, float]) -> None:
        """One line of the log, in the progress too."""
        self.log.scalars(images_seen, line)
        self._speed = line["images_per_second"]
        self.progress.update(images_seen, line["seconds"], line)

    def event(self, kind: str, images_seen: int, **facts: Any) -> None:
        """One line of what happened to the run, with the time of the day."""
        line = {"time": _now(), "event": kind, "images": images_seen, **facts}
        with (self.folder / EVENTS).open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")

    def beat(self, images_seen: int, seconds: float, state: str, *, now: bool = False) -> None:
        """How the run stands, at most every 10 seconds unless it must be `now`; a full disk is no error.

        A line says so too where nothing else was said for long.
        """
        clock = time.monotonic()
        if not now and clock - self._beaten < SECONDS_BETWEEN_BEATS:
            return
        self._beaten = clock
        self.progress.beat(images_seen, seconds, state)
        facts = {
            "time": _now(),
            "state": state,
            "images": images_seen,
            "seconds": round(seconds, 1),
            "images_per_second": round(self._speed, 1),
            "host": socket.gethostname(),
            "process": os.getpid(),
            "processes": processes.ranks(),
            **_resources(self.folder, self.device),
        }
        with contextlib.suppress(OSError), replacing(self.folder / HEARTBEAT) as temporary:
            temporary.write_text(json.dumps(facts, indent=1) + "\n", encoding="utf-8")

    def sample(self, images_seen: int, picture: Image.Image) -> None:
        """Keep a picture, and only as many of the earlier ones as show the run evenly."""
        folder = self.folder / "samples"
        folder.mkdir(exist_ok=True)
        path = folder / f"{images_seen:012d}.png"
        save_png(path, picture)
        self.log.sample(images_seen, path)
        options = self.recipe.training
        every = spacing(options.sample_every, images_seen, MOST_SAMPLES)
        earlier = [p for p in folder.glob("*.png") if p.stem.isdecimal() and int(p.stem) < images_seen]
        for old in earlier:
            if not passed(int(old.stem), every, options.batch):
                old.unlink(missing_ok=True)

    def has_sample(self, images_seen: int) -> bool:
        """Whether the picture at `images_seen` is there."""
        return (self.folder / "samples" / f"{images_seen:012d}.png").exists()

    def diverged(self, error: Diverged, clocks: Mapping[str, float]) -> None:
        """The step that went wrong, with all of its numbers, in log and events."""
        self.log.scalars(error.images, {**clocks, **error.values, f"diverged_{error.term}": 1.0})
        norms = {k: v for k, v in error.values.items() if k.startswith("gradient_norm")}
        shown = {key: value if abs(value) < float("inf") else str(value) for key, value in norms.items()}
        self.event("diverged", error.images, term=error.term, reason=str(error), **shown)

    def report(self, status: str) -> None:
        """Write the run's page."""
        write_report(
            self.folder,
            title=f"vitgan {self.recipe.name}",
            recipe=self.recipe.to_dict(),
            environment=environment(self.device),
            status=status,
        )

    def close(self) -> None:
        self.progress.close()
        self.log.close()


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


def _resources(folder: Path, device: torch.device) -> dict[str, float]:
    """Memory of this process and of the GPU, MiB, and what is free on the run's disk, GiB."""
    found = {"disk_free_gib": round(shutil.disk_usage(folder).free / 2**30, 2)}
    with contextlib.suppress(OSError):
        pages = int(Path("/proc/self/statm").read_text().split()[1])
        found["memory_mib"] = round(pages * os.sysconf("SC_PAGE_SIZE") / 2**20)
    if device.type == "cuda":
        found["gpu_memory_mib"] = round(torch.cuda.max_memory_allocated(device) / 2**20)
    return found
