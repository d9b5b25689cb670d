"""Times of calls, taken in turn so that a machine's slow moments fall on all of them."""

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch


@dataclass(frozen=True, kw_only=True)
class Seconds:
    """Of one call, over several."""

    median: float
    minimum: float
    maximum: float

    @staticmethod
    def over(samples: Sequence[float]) -> "Seconds":
        """Of at least one sample."""
        return Seconds(median=statistics.median(samples), minimum=min(samples), maximum=max(samples))


def synchronise(device: torch.device) -> None:
    """Wait until the device has done what it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def seconds(call: Callable[[], object], device: torch.device, repeats: int = 1) -> float:
    """Of one call, the device's work included: the mean of `repeats` calls one after the other."""
    synchronise(device)
    start = time.perf_counter()
    for _ in range(repeats):
        call()
    synchronise(device)
    return (time.perf_counter() - start) / repeats


def interleaved(
    calls: Mapping[str, Callable[[], object]], *, rounds: int, device: torch.device, repeats: int = 1
) -> dict[str, Seconds]:
    """Each call once to warm up, then `rounds` rounds of one sample of each."""
    for call in calls.values():
        call()
    samples: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(rounds):
        for name, call in calls.items():
            samples[name].append(seconds(call, device, repeats))
    return {name: Seconds.over(found) for name, found in samples.items()}
