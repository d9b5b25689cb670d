"""The progress of a run for the person who watches it: a bar on a terminal, else occasional plain lines."""

import sys
import time
from collections import deque
from datetime import datetime

from vitgan.terminal import can_draw

SECONDS_BETWEEN_LINES, MOST_SECONDS_BETWEEN_LINES = 10.0, 600.0
LINES_A_SESSION = 60  # after so many lines the seconds between them grow with the time that has passed
SECONDS_OF_SILENCE = 60.0
SECONDS_BETWEEN_DRAWINGS = 0.1
SECONDS_OF_PRESENT_SPEED = 30.0
LOSSES = {"loss_discriminator": "loss D", "loss_generator": "loss G"}


class Progress:
    """Images seen, images/s, losses and time left, on stderr.

    It is a bar where stderr is a terminal, else lines without control characters; with `quiet` there is
    nothing, messages included. Lines come about every 10 seconds of training at first and every 10 minutes
    after 10 hours. The time left is that to whichever of `target_images` and `target_seconds` comes first at
    the present speed.
    """

    def __init__(
        self,
        *,
        images_seen: int,
        target_images: int | None,
        target_seconds: float | None,
        seconds: float,
        quiet: bool = False,
    ):
        self._target_images, self._target_seconds = target_images, target_seconds
        self._recent = deque([(images_seen, seconds)])  # (images, seconds), oldest first
        self._quiet = quiet
        self._unseen: tuple[int, float, dict[str, float]] | None = None  # the last update, until it is shown
        self._bar = _bar(self._bounded) if not quiet and can_draw(sys.stderr) else None
        self._began, self._last_shown = seconds, -float("inf")
        self._last_line = time.monotonic()

    def update(self, images: int, seconds: float, values: dict[str, float]) -> None:
        """Show `images` seen, `seconds` of training in all, and `values`, which are named as in the log."""
        self._recent.append((images, seconds))
        while len(self._recent) > 2 and self._recent[1][1] <= seconds - SECONDS_OF_PRESENT_SPEED:
            self._recent.popleft()
        self._unseen = (images, seconds, values)
        now = time.monotonic() if self._bar is not None else seconds
        if now - self._last_shown >= self._pause(seconds):
            self._last_shown = now
            self._show()

    def beat(self, images: int, seconds: float, state: str) -> None:
        """Print a line that the run is alive, where none has come for a minute longer than usual."""
        if (
            self._bar is None
            and time.monotonic() - self._last_line >= self._pause(seconds) + SECONDS_OF_SILENCE
        ):
            self.message(f"{datetime.now():%Y-%m-%d %H:%M:%S}, {state}: {images:,} images")

    def _pause(self, seconds: float) -> float:
        if self._bar is not None:
            return SECONDS_BETWEEN_DRAWINGS
        grown = (seconds - self._began) / LINES_A_SESSION
        return min(max(SECONDS_BETWEEN_LINES, grown), MOST_SECONDS_BETWEEN_LINES)

    def message(self, text: str) -> None:
        """Print a line for the user, above the bar if there is one."""
        if self._bar is not None:
            self._bar.write(text, file=sys.stderr)
        elif not self._quiet:
            self._print(text)

    def close(self) -> None:
        """Show the last update, and leave the bar as it is."""
        self._show()
        if self._bar is not None:
            self._bar.close()

    @property
    def _bounded(self) -> bool:
        return self._target_images is not None or self._target_seconds is not None

    def _show(self) -> None:
        if self._unseen is None or self._quiet:
            return
        images, seconds, values = self._unseen
        self._unseen = None
        text = self._text(images, seconds, values)
        if self._bar is None:
            self._print(text)
        else:
            self._bar.n = self._fraction_done(images, seconds)
            self._bar.set_description_str(text)

    def _print(self, text: str) -> None:
        self._last_line = time.monotonic()
        print(text, file=sys.stderr, flush=True)

    def _text(self, images: int, seconds: float, values: dict[str, float]) -> str:
        speed = self._speed()
        parts = [f"{images:,} images", f"{speed:,.{0 if speed >= 10 else 1}f} images/s"]
        parts += [f"{label} {values[key]:.3f}" for key, label in LOSSES.items() if key in values]
        left = self._seconds_left(images, seconds, speed)
        if left is not None:
            parts.append(f"{clock(left)} left")
        return ", ".join(parts)

    def _speed(self) -> float:
        (first_images, first_seconds), (images, seconds) = self._recent[0], self._recent[-1]
        return (images - first_images) / max(seconds - first_seconds, 1e-9)

    def _seconds_left(self, images: int, seconds: float, speed: float) -> float | None:
        limits = []
        if self._target_seconds is not None:
            limits.append(self._target_seconds - seconds)
        if self._target_images is not None and speed > 0:
            limits.append((self._target_images - images) / speed)
        return max(min(limits), 0.0) if limits else None

    def _fraction_done(self, images: int, seconds: float) -> float:
        fractions = [
            done / target
            for done, target in ((images, self._target_images), (seconds, self._target_seconds))
            if target
        ]
        return min(max(fractions, default=0.0), 1.0)


def clock(seconds: float) -> str:
    """A duration as hours:minutes:seconds, as in 1:02:03, or without hours, as in 2:03."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def _bar(bounded: bool):
    from tqdm import tqdm

    class Bar(tqdm):
        monitor_interval = 0  # no thread beside the run, which may still fork its workers

    layout = "{percentage:3.0f}% |{bar:20}| {desc}" if bounded else "{desc}"
    return Bar(total=1.0, bar_format=layout, file=sys.stderr, dynamic_ncols=True, leave=True)
