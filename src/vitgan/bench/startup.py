"""How long the command line takes to answer, and what importing the package loads."""

import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch

from vitgan.bench.timing import Seconds, interleaved

HEAVY = ("gradio", "tensorboard", "torchvision", "matplotlib", "torch")
COMMANDS = {
    "vitgan --help": ("-m", "vitgan", "--help"),
    "vitgan list": ("-m", "vitgan", "list"),
    "import vitgan": ("-c", "import vitgan"),
}
LOADED = f"import json, sys, vitgan; print(json.dumps([name for name in {HEAVY} if name in sys.modules]))"


@dataclass(frozen=True, kw_only=True)
class Startup:
    """Of this Python and this machine."""

    seconds: dict[str, Seconds]
    """By command, a process of its own each, its files in the system's cache."""
    imported: dict[str, bool]
    """Heavy modules, and whether `import vitgan` loads each."""


def measure_startup(launches: int) -> Startup:
    """Start each command once to warm up, then `launches` times in turn."""
    calls: dict[str, Callable[[], object]] = {
        name: partial(_output, words) for name, words in COMMANDS.items()
    }
    times = interleaved(calls, rounds=launches, device=torch.device("cpu"))
    loaded = json.loads(_output(("-c", LOADED)))
    return Startup(seconds=times, imported={name: name in loaded for name in HEAVY})


def _output(words: tuple[str, ...]) -> str:
    return subprocess.run([sys.executable, *words], capture_output=True, text=True, check=True).stdout
