"""Named parts of a training step, so that their times can be measured.

Code that is timed stands within `with span("optimiser"):`, which costs about 10 microseconds while no
`Recorder` listens. torch's profiler shows the same names.
"""

import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager

import torch


class Recorder:
    """Adds up the seconds spent in each span, by name; those in a span within another count for the inner
    one.

    On a CUDA device the host waits at the beginning and the end of every span until the device has done all
    its work, so the seconds include the device's.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.seconds: dict[str, float] = defaultdict(float)
        self._open: list[str] = []
        self._since = 0.0

    @contextmanager
    def listening(self) -> Iterator[None]:
        """A context within which every span is measured. One recorder can listen at a time."""
        global _recorder
        assert _recorder is None, "one recorder at a time"
        _recorder = self
        try:
            yield
        finally:
            _recorder = None

    @contextmanager
    def span(self, name: str) -> Iterator[None]:
        """A context whose time counts for `name`, and no longer for the span around it."""
        self._turn(open_name=name)
        try:
            yield
        finally:
            self._turn(open_name=None)

    def _turn(self, open_name: str | None) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        now = time.perf_counter()
        if self._open:
            self.seconds[self._open[-1]] += now - self._since
        self._since = now
        if open_name is None:
            self._open.pop()
        else:
            self._open.append(open_name)


_recorder: Recorder | None = None


def recording() -> bool:
    """Whether a `Recorder` listens now, so that the spans wait for the device."""
    return _recorder is not None


def span(name: str) -> AbstractContextManager[object]:
    """A context that gives the work within it a name, for a `Recorder` and for torch's profiler."""
    return torch.profiler.record_function(f"vitgan: {name}") if _recorder is None else _recorder.span(name)
