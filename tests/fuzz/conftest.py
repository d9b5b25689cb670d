"""How the parsers are fuzzed: a few inputs, always the same; or `--fuzz-inputs N`, others each time."""

import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, seed, settings
from hypothesis.strategies import SearchStrategy

INPUTS = 300
UNHURRIED = (HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.filter_too_much)
Fuzz = Callable[..., None]


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def fuzz(request: pytest.FixtureRequest, capsys: pytest.CaptureFixture[str]) -> Fuzz:
    """fuzz(check, strategy) calls check(input) for each input and fails on the first that it raises for."""
    asked = request.config.getoption("--fuzz-inputs")

    def run(check: Callable[[Any], None], inputs: SearchStrategy[Any]) -> None:
        number = 0

        @settings(
            max_examples=asked or INPUTS,
            deadline=None,
            database=None,
            derandomize=asked is None,
            suppress_health_check=UNHURRIED,
        )
        @given(inputs)
        def each(value: Any) -> None:
            nonlocal number
            number += 1
            check(value)

        if asked is not None:
            chosen = random.SystemRandom().getrandbits(64)
            each = seed(chosen)(each)
            with capsys.disabled():
                print(f"\n{request.node.name}: seed {chosen}", flush=True)
        each()
        assert number >= (asked or INPUTS)

    return run


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """A folder for the files that are fuzzed."""
    return tmp_path
