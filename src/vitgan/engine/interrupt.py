"""Ctrl-C and SIGTERM as a wish to stop after the present step."""

import contextlib
import os
import signal
import threading
import time
from collections.abc import Iterator
from types import FrameType

STDERR = 2
TWICE = 3.0  # seconds: torchrun passes a signal on to processes whose terminal has sent it already


class Interrupt:
    """Whether a signal has asked to stop, and which."""

    def __init__(self) -> None:
        self.number = 0
        self._asked = 0.0
        self._pause = TWICE if "TORCHELASTIC_RUN_ID" in os.environ else 0.0

    @property
    def signal_name(self) -> str | None:
        return signal.Signals(self.number).name if self.number else None

    def __bool__(self) -> bool:
        return self.number > 0

    def ask(self, number: int, frame: FrameType | None = None) -> None:  # noqa: ARG002
        """Handles a signal; the second one stops at once with KeyboardInterrupt."""
        if self:
            if time.monotonic() - self._asked >= self._pause:
                raise KeyboardInterrupt
            return
        self.number, self._asked = number, time.monotonic()
        with contextlib.suppress(OSError):
            if os.isatty(STDERR):  # by the system's write: Python's own may not be entered twice
                os.write(STDERR, b"\nStopping after this step; once more to stop at once, unsaved.\n")


@contextlib.contextmanager
def stop_on_signals() -> Iterator[Interrupt]:
    """Within it SIGINT and SIGTERM set the Interrupt. Outside the main thread signals stay as they are."""
    interrupt = Interrupt()
    if threading.current_thread() is not threading.main_thread():
        yield interrupt
        return
    before = {number: signal.signal(number, interrupt.ask) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield interrupt
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
