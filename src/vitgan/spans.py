"""Named stretches of a step, for whoever measures it.

`with span("optimiser"):` costs about 10 us until a `Recorder` listens. torch's profiler shows the same names.
"""

import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager

import torch


class Recorder:
    """Seconds by name of span, of the time spent in the span itself and not in one within it."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.seconds: dict[str, float] = defaultdict(float)
        self._open: list[str] = []
        self._since = 0.0

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Within it every span is measured; the device finishes its work at every border."""
        global _recorder
        assert _recorder is None, "one recorder at a time"
        _recorder = self
        try:
            yield
        finally:
            _recorder = None

    @contextmanager
    def span(self, name: str) -> Iterator[None]:
        """One stretch; the span around it stands still meanwhile."""
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
    """Whether a recorder listens."""
    return _recorder is not None


def span(name: str) -> AbstractContextManager[object]:
    """A named stretch of work."""
    return torch.profiler.record_function(f"vitgan: {name}") if _recorder is None else _recorder.span(name)
