"""The run's log: one JSON object a line in `log.jsonl`, and the same numbers through further loggers.

Every entry has the number of images seen. A resumed run first drops what was logged after its checkpoint, so
that no part of the curves is there twice.
"""

import contextlib
import io
import json
import math
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from vitgan.io import replacing
from vitgan.registry import register
from vitgan.terminal import printable

GROUPS = ("loss", "term", "logit", "gradient_norm", "images_per_second", "learning_rate", "evaluation")


class LogWriter(Protocol):
    """A destination of the numbers and sample grids of one run while it trains."""

    def scalars(self, images: int, values: Mapping[str, float]) -> None:
        """Record values, by name, that were measured at `images` images seen; they may be NaN or infinite."""
        ...

    def sample(self, images: int, path: Path) -> None:
        """Record the sample grid in the PNG file `path`, which was drawn at `images` images seen."""
        ...

    def close(self) -> None:
        """Called once, when the run ends or is interrupted."""
        ...


class Logger(Protocol):
    """Options of a destination of the log: a registered, frozen, keyword-only dataclass.

    Where several processes train together, only rank 0 starts it.
    """

    def start(self, folder: Path, *, images_seen: int, recipe: dict[str, Any]) -> LogWriter:
        """Begin the log of the run in `folder`, or resume it at `images_seen` images.

        Entries of an earlier process about more than `images_seen` images are obsolete: the run does not go
        on from them. `recipe` is all settings, as `Recipe.to_dict` returns them.
        """
        ...


@register(name="tensorboard")
@dataclass(frozen=True, kw_only=True)
class TensorBoard:
    """Events for TensorBoard in the run's folder, `RUN/tensorboard`."""

    def start(self, folder: Path, *, images_seen: int, recipe: dict[str, Any]) -> "_EventFile":  # noqa: ARG002
        return _EventFile(folder / "tensorboard", first_step=images_seen + 1)


class RunLog:
    """Appends to `folder/log.jsonl`, from `images_seen` on, and passes everything to the loggers' writers.

    Lines about more than `images_seen` images, and an incomplete last line, are dropped on opening. Every
    method raises OSError when the disk is full; a line is written completely or not at all.
    """

    def __init__(
        self,
        folder: Path,
        images_seen: int,
        loggers: Sequence[Logger] = (TensorBoard(),),
        recipe: dict[str, Any] | None = None,
    ) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / "log.jsonl"
        forget_after(path, images_seen)
        # Unbuffered: a buffer that could not be written would be tried again on closing.
        with contextlib.ExitStack() as opened:
            self._lines = _Whole(opened.enter_context(path.open("ab", buffering=0)))
            self._writers: list[LogWriter] = []
            for logger in loggers:
                self._writers.append(logger.start(folder, images_seen=images_seen, recipe=recipe or {}))
                opened.callback(self._writers[-1].close)
            self._opened = opened.pop_all()

    def scalars(self, images: int, values: dict[str, float]) -> None:
        """Write a line of `images` seen and `values`, which must have the "seconds" of training.

        NaN and infinity, which JSON lacks, are written as null.
        """
        assert "seconds" in values, "every line of the log has its time"
        record = {"images": images, **{key: _finite_or_none(value) for key, value in values.items()}}
        self._lines.write(f"{json.dumps(record, allow_nan=False)}\n".encode())
        for writer in self._writers:
            writer.scalars(images, values)

    def sample(self, images: int, png_path: Path) -> None:
        """Pass the sample grid at `png_path`, drawn at `images` images seen, to the writers."""
        for writer in self._writers:
            writer.sample(images, png_path)

    def close(self) -> None:
        """Close the file and the writers; nothing is buffered."""
        self._opened.close()


def read_log(folder: Path) -> list[dict]:
    """The lines of `folder/log.jsonl` in order, with null as NaN; empty where there is no file.

    Damaged lines and an incomplete last line are left out.
    """
    records = (record for _, record in _whole_lines(Path(folder) / "log.jsonl"))
    return [{key: math.nan if value is None else value for key, value in line.items()} for line in records]


def split_key(key: str) -> tuple[str, str]:
    """The group of a logged number and its name within the group: "term_r1" gives ("term", "r1").

    A key of no known group is split after its first word; a key that is a group has the empty name.
    """
    for group in GROUPS:
        if key == group or key.startswith(f"{group}_"):
            return group, key[len(group) + 1 :]
    group, _, name = key.partition("_")
    return group, name


class _EventFile:
    """A file of TensorBoard events, written without buffering or threads.

    `SummaryWriter` writes from a thread: there a full disk gives a traceback and raises only at a later call,
    and Python 3.12 warns of workers that are forked beside a thread.
    """

    def __init__(self, folder: Path, first_step: int):
        # Protobuf makes these names when it is imported, where no type checker sees them.
        from tensorboard.compat.proto.event_pb2 import (  # pyright: ignore[reportAttributeAccessIssue]
            Event,  # pyright: ignore[reportAttributeAccessIssue]
            SessionLog,  # pyright: ignore[reportAttributeAccessIssue]
        )
        from tensorboard.summary.writer.record_writer import RecordWriter

        folder.mkdir(exist_ok=True)
        # TensorBoard reads the files in the order of their names.
        file = (folder / f"events.out.tfevents.{time.time_ns()}").open("xb", buffering=0)
        self._records, self._event = RecordWriter(_Whole(file)), Event
        start = SessionLog(status=SessionLog.START)
        self._write(file_version="brain.Event:2")
        self._write(session_log=start, step=first_step)  # hides what earlier files hold from this step on

    def scalars(self, images: int, values: Mapping[str, float]) -> None:
        from torch.utils.tensorboard.summary import scalar

        for key, value in values.items():
            self._add(images, scalar("/".join(filter(None, split_key(printable(key)))), value))

    def sample(self, images: int, path: Path) -> None:
        import numpy as np
        from PIL import Image
        from torch.utils.tensorboard.summary import image

        with Image.open(path) as picture:
            pixels = np.asarray(picture.convert("RGB"))  # (H, W, 3)
        self._add(images, image("samples", pixels, dataformats="HWC"))

    def _add(self, step: int, summary: Any) -> None:
        self._write(summary=summary, step=step)

    def close(self) -> None:
        self._records.close()

    def _write(self, **content: Any) -> None:
        self._records.write(self._event(wall_time=time.time(), **content).SerializeToString())


class _Whole:
    """An unbuffered file whose writes are complete or, where they raise OSError, undone."""

    def __init__(self, file: io.FileIO):
        self._file, self.close, self.flush = file, file.close, file.flush

    def write(self, content: bytes) -> None:
        start = self._file.seek(0, os.SEEK_END)
        try:
            while content:
                content = content[self._file.write(content) :]
        except OSError:
            self._file.truncate(start)
            raise


def _finite_or_none(value: float) -> float | None:
    return value if math.isfinite(value) else None


def _whole_lines(path: Path) -> Iterator[tuple[bytes, dict]]:
    """Each complete line that parses, and its contents."""
    content = path.read_bytes() if path.exists() else b""
    # What follows the last line end was never finished, even where it happens to parse.
    for line in content.split(b"\n")[:-1]:
        with contextlib.suppress(ValueError, RecursionError):
            record = json.loads(line)
            if isinstance(record, dict) and type(record.get("images")) is int:
                yield line + b"\n", record


def forget_after(path: Path, images_seen: int) -> None:
    """Drop the lines of `path` about more than `images_seen` images, and an incomplete last line."""
    if not path.exists():
        return
    kept = [line for line, record in _whole_lines(path) if record["images"] <= images_seen]
    with replacing(path) as temporary:
        temporary.write_bytes(b"".join(kept))
