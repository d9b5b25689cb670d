"""What a recorder hears of the step's spans."""

import time

import pytest
import torch

from vitgan.spans import Recorder, span

CPU = torch.device("cpu")


def test_a_span_counts_its_own_time_alone():
    recorder = Recorder(CPU)
    start = time.perf_counter()
    with recorder.listening(), span("outer"):
        time.sleep(0.02)
        with span("inner"):
            time.sleep(0.05)
        time.sleep(0.02)
    whole = time.perf_counter() - start
    assert recorder.seconds["inner"] >= 0.05
    assert recorder.seconds["outer"] >= 0.04
    assert recorder.seconds["inner"] + recorder.seconds["outer"] <= whole


def test_nothing_is_heard_outside_and_errors_close_what_is_open():
    recorder = Recorder(CPU)
    with span("before"):
        pass
    with pytest.raises(ZeroDivisionError), recorder.listening(), span("failing"):
        raise ZeroDivisionError
    with span("after"):
        pass
    assert set(recorder.seconds) == {"failing"}


def test_profilers_see_the_names():
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profile, span("step"):
        torch.ones(2).sum()
    assert "vitgan: step" in {event.key for event in profile.key_averages()}
