"""Times of calls taken in turn, and the rate at which this machine multiplies matrices.

Shapes: n side of a square matrix.
"""

import statistics
import time
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch

from vitgan.engine.recipe import Precision, activation_dtype
from vitgan.nn.linear import affine


@dataclass(frozen=True, kw_only=True)
class Seconds:
    """Wall-clock seconds of one call, over several samples."""

    median: float
    minimum: float
    maximum: float

    @staticmethod
    def over(samples: Sequence[float]) -> "Seconds":
        """Median and extremes of at least one sample."""
        return Seconds(median=statistics.median(samples), minimum=min(samples), maximum=max(samples))


def synchronise(device: torch.device) -> None:
    """Wait until the device has finished all work that was queued."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def seconds(call: Callable[[], object], device: torch.device, repeats: int = 1) -> float:
    """Seconds of one call, the device's work included: the mean of `repeats` calls one after the other."""
    synchronise(device)
    start = time.perf_counter()
    for _ in range(repeats):
        call()
    synchronise(device)
    return (time.perf_counter() - start) / repeats


def interleaved(
    calls: Mapping[str, Callable[[], object]], *, rounds: int, device: torch.device, repeats: int = 1
) -> dict[str, Seconds]:
    """Time every call: once to warm up, then `rounds` rounds of one sample of each."""
    for call in calls.values():
        call()
    samples: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(rounds):
        for name, call in calls.items():
            samples[name].append(seconds(call, device, repeats))
    return {name: Seconds.over(found) for name, found in samples.items()}


@dataclass(frozen=True, kw_only=True)
class Peak:
    """The rate of matrix products at one precision."""

    gflops: float
    """The best route's median over the moments, 10^9 floating-point operations a second."""
    route: str
    routes: dict[str, float]
    """Median of every route, 10^9 floating-point operations a second."""
    moments: int


class PeakMeter:
    """Times square products by every route, one sample of each a call of `sample`.

    The routes are `torch.mm` (n, n) (n, n) and, on a CPU, the library's own product of rows and a weight,
    which is a 1 x 1 convolution where that is faster. A product of n is 2 n^3 operations. The peak of several
    moments is the best of the routes' medians over them: of moments before, between and after the steps it
    is what the machine could do while it took those steps.
    """

    def __init__(
        self, precision: Precision, device: torch.device, sides: tuple[int, ...], repeats: int = 1
    ) -> None:
        self.device, self.repeats = device, repeats
        self._calls: dict[str, tuple[int, Callable[[], object]]] = {}
        dtype = activation_dtype(precision, device)
        for side in sides:
            for name, call in _routes(side, dtype, device).items():
                call()
                self._calls[f"{name} {side}"] = (side, call)
        self._rates: dict[str, list[float]] = defaultdict(list)

    def sample(self) -> None:
        """Time every route once: one moment."""
        for name, (side, call) in self._calls.items():
            self._rates[name].append(2e-9 * side**3 / seconds(call, self.device, self.repeats))

    def peak(self) -> Peak:
        """The peak over the moments so far, of which there is at least one."""
        medians = {name: statistics.median(rates) for name, rates in self._rates.items()}
        best = max(medians, key=lambda name: medians[name])
        moments = len(self._rates[best])
        return Peak(gflops=medians[best], route=best, routes=medians, moments=moments)


def _routes(side: int, dtype: torch.dtype, device: torch.device) -> dict[str, Callable[[], object]]:
    left, right = torch.randn(2, side, side, device=device).to(dtype)
    calls: dict[str, Callable[[], object]] = {"torch.mm": lambda: torch.mm(left, right)}
    if device.type == "cpu":
        rows = left.unflatten(0, (2, -1))  # (2, n / 2, n)
        calls["vitgan.nn.linear.affine"] = torch.no_grad()(lambda: affine(rows, right))
    return calls


def measure_peak(
    precisions: tuple[Precision, ...],
    device: torch.device,
    *,
    sides: tuple[int, ...],
    rounds: int,
    repeats: int = 1,
) -> dict[str, Peak]:
    """The peak of each precision, the precisions taking turns."""
    meters = {name: PeakMeter(name, device, sides, repeats) for name in precisions}
    for _ in range(rounds):
        for meter in meters.values():
            meter.sample()
    return {name: meter.peak() for name, meter in meters.items()}
