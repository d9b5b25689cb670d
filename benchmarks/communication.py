"""What training on several processes sends: counted on two, measured on this CPU, and a model of it.

    python benchmarks/communication.py --json benchmarks/results/communication.json

Counted: one cycle of steps of each recipe on two gloo processes; the gradients must be what the parameters
say. Measured: 1 and 2 processes of one thread in turn, the same total batch. Modelled: seconds of a step on
N processes as compute plus communication (communication_model.py). About 4 minutes on 2 CPU cores.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any
from unittest import mock

import torch
import torch.distributed as distributed
from communication_model import assumptions, model, summary
from torch.utils._python_dispatch import TorchDispatchMode

import vitgan
from vitgan.bench.settings import open_images, with_training
from vitgan.data import batches
from vitgan.distributed import collectives
from vitgan.distributed.launch import process_group
from vitgan.engine.environment import environment
from vitgan.engine.train import threads
from vitgan.io import replacing

COUNTED = ("digits", "cifar10-small", "cifar10", "celeba", "lsun-bedroom", "vit-classifier-small")
COUNTED += ("vit-classifier", "cifar10-biggan-diffaug", "cifar10-stylegan2", "cifar10-contrad")
MEASURED = {"digits": 60, "cifar10-small": 20}  # steps of a round
MODELLED = ("cifar10", "celeba")
CLOCK_RANKS = (2, 4, 8)
CLOCKS = 1000  # of each
BATCH = 8  # of a counted step, both processes together
CPU = torch.device("cpu")


class Operations(TorchDispatchMode):
    """Counts what torch launches, views aside."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        alias = [result.alias_info for result in func._schema.returns]
        self.count += not any(one is not None and not one.is_write for one in alias)
        return func(*args, **(kwargs or {}))


def main() -> None:
    """Count, measure, model; a line each; the file."""
    parser = argparse.ArgumentParser(description="What several processes send, and what it costs.")
    parser.add_argument("--json", type=Path, metavar="PATH")
    parser.add_argument("--rounds", type=int, default=5, metavar="N")
    parser.add_argument("--worker", nargs="+", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker:
        return worker(*options.worker)
    counted = launched(2, "count", *COUNTED)
    for name, one in counted.items():
        print(f"{name}: {one['bytes_per_step'] / 1e6:.2f} MB in {one['messages_per_step']:g} messages a step")
        assert one["gradient_bytes"] == one["gradient_bytes_of_parameters"], name
    measured = {name: measure(name, steps, options.rounds) for name, steps in MEASURED.items()}
    clocks = {ranks: launched(ranks, "clock") for ranks in CLOCK_RANKS}
    print("the clock:", ", ".join(f"{1e6 * t:.0f} us on {ranks}" for ranks, t in clocks.items()))
    hop = statistics.median([seconds / (2 * (ranks - 1)) for ranks, seconds in clocks.items()])
    modelled = [line for name in MODELLED for line in model(name, counted, hop)]
    print(*map(summary, modelled), sep="\n")
    if options.json is not None:
        report = {"environment": environment(CPU), "command": " ".join(["python", *sys.argv])}
        report |= {"counted": counted, "measured": measured, "clock_seconds": clocks}
        report |= {"assumptions": assumptions(hop), "model": modelled}
        with replacing(options.json) as temporary:
            temporary.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    return None


def launched(ranks: int, *words: str) -> Any:
    """What rank 0 of so many processes of this script, as torchrun starts them, has found."""
    command = [sys.executable, __file__, "--worker", *words]
    if ranks > 1:
        torchrun = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(ranks)]
        command[1:1] = torchrun
    own = os.environ | {"OMP_NUM_THREADS": "1"}
    return json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE, env=own).stdout)


def worker(what: str, *words: str) -> None:
    """One process of those that count or are timed."""
    with process_group(CPU), threads(1):
        if what == "count":
            found: Any = {name: count(name) for name in words}
        else:
            found = clock() if what == "clock" else timed(words[0], int(words[1]))
        if collectives.rank() == 0:
            print(json.dumps(found))


def count(name: str) -> dict[str, Any]:
    """Of a mean step of `name`: bytes and messages that a process puts in, by the sending function."""
    recipe = with_training(vitgan.recipes.get(name), batch=BATCH, precision="fp32")
    images = open_images(recipe.data, None, BATCH)
    task, images = recipe.begin(images, CPU)
    rank, ranks = collectives.rank(), collectives.world_size()
    stream = batches(images, batch=BATCH, seed=0, images_seen=0, device=CPU, rank=rank, ranks=ranks)
    every = [term.every for term in getattr(recipe, "generator_terms", ()) if term.active]
    steps, sent, operations = max(recipe.training.generator_every, *every, 1), [], Operations()
    with closing(stream), ExitStack() as stack:
        for collective in ("all_reduce", "all_gather", "broadcast"):
            noted = recording(getattr(distributed, collective), sent)
            stack.enter_context(mock.patch.object(distributed, collective, noted))
        stack.enter_context(operations)
        for step in range(steps):
            task.step(next(stream), step * BATCH)
            collectives.all_reduce_max([0.0, 0.0])
    kinds = {
        kind: {
            "bytes": sum(size for k, size in sent if k == kind) / steps,
            "messages": sum(k == kind for k, _ in sent) / steps,
        }
        for kind in dict.fromkeys(kind for kind, _ in sent)
    }
    return {
        "steps": steps,
        "batch": BATCH,
        "parameters": {
            n: sum(p.numel() for p in network.parameters()) for n, network in task.networks.items()
        },
        "operations_per_step": operations.count / steps,
        "bytes_per_step": sum(size for _, size in sent) / steps,
        "messages_per_step": len(sent) / steps,
        "gradient_bytes": kinds["average_"]["bytes"],
        "gradient_bytes_of_parameters": gradient_bytes(recipe, task.networks, steps),
        "by_function": kinds,
    }


def gradient_bytes(recipe: Any, networks: dict[str, Any], steps: int) -> float:
    """Of a mean step, from the parameters: fp32 of each network once an update; a path-length mean is 4."""
    sizes = {name: sum(p.nbytes for p in network.parameters()) for name, network in networks.items()}
    share = {"generator": 1 / recipe.training.generator_every}
    lengths = sum(4 / term.every for term in getattr(recipe, "generator_terms", ()) if term.active)
    assert steps % recipe.training.generator_every == 0
    return sum(size * share.get(name, 1.0) for name, size in sizes.items()) + lengths


def recording(call: Any, sent: list[tuple[str, int]]) -> Any:
    """`call`, a collective of torch, that notes the function it was called by and its bytes."""

    def noted(*arguments: Any, **options: Any) -> Any:
        tensor = arguments[1] if isinstance(arguments[0], list) else arguments[0]
        sent.append((sys._getframe(1).f_code.co_qualname, tensor.nbytes))
        return call(*arguments, **options)

    return noted


def timed(name: str, steps: int) -> dict[str, float]:
    """Medians of `steps` steps after three: seconds of a step, and of them in `average_`."""
    recipe = with_training(vitgan.recipes.get(name), precision="fp32")
    task, images = recipe.begin(open_images(recipe.data, None, recipe.training.batch), CPU)
    where = {"rank": collectives.rank(), "ranks": collectives.world_size()}
    stream = batches(images, batch=recipe.training.batch, seed=0, images_seen=0, device=CPU, **where)
    average, spent, found = collectives.average_gradients_, [0.0], list[tuple[float, float]]()

    def average_(*arguments: Any) -> None:
        began = time.perf_counter()
        average(*arguments)
        spent[0] += time.perf_counter() - began

    collectives.average_gradients_ = average_
    with closing(stream):
        for step in range(steps + 3):
            began, spent[0] = time.perf_counter(), 0.0
            task.step(next(stream), step * recipe.training.batch)
            collectives.all_reduce_max([0.0, 0.0])
            found.append((time.perf_counter() - began, spent[0]))
    seconds, averaging = (statistics.median(column) for column in zip(*found[3:], strict=True))
    return {"seconds": seconds, "averaging": averaging}


def clock() -> float:
    """Median seconds of what a step sends beside its gradients: two numbers, by gloo."""
    found = []
    for _ in range(CLOCKS):
        began = time.perf_counter()
        collectives.all_reduce_max([0.0, 0.0])
        found.append(time.perf_counter() - began)
    return statistics.median(found)


def measure(name: str, steps: int, rounds: int) -> dict[str, Any]:
    """1 and 2 processes in turn."""
    found = [[launched(ranks, "time", name, str(steps)) for ranks in (1, 2)] for _ in range(rounds)]
    one, two = ([pair[i]["seconds"] for pair in found] for i in (0, 1))
    ratios = [a / b for a, b in zip(one, two, strict=True)]
    shares = [pair[1]["averaging"] / pair[1]["seconds"] for pair in found]
    middle = statistics.median
    print(
        f"{name}: {1e3 * middle(one):.1f} ms on 1, {1e3 * middle(two):.1f} on 2 (the rounds' ratios "
        f"{min(ratios):.2f} to {max(ratios):.2f}), {middle(shares):.1%} of it in averaging"
    )
    return {
        "batch": vitgan.recipes.get(name).training.batch,
        "seconds_1": one,
        "seconds_2": two,
        "median_seconds_1": middle(one),
        "median_seconds_2": middle(two),
        "ratio_of_medians": middle(one) / middle(two),
        "averaging_share": middle(shares),
    }


if __name__ == "__main__":
    main()
