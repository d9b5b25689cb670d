"""How far the weights of a run depend on the number of processes that train it.

    python benchmarks/rank_agreement.py --json benchmarks/results/rank-agreement-cpu.json

Each recipe is trained for 20 steps in fp32 on the CPU, by one process and by several (gloo, one thread each),
from the same seed; the last checkpoints are compared tensor by tensor. Some minutes on 2 cores.
"""

import argparse
import json
import os
import socket
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch

from vitgan.engine.checkpoint import checkpoints, load_checkpoint
from vitgan.engine.environment import environment

STEPS = 20
COMPARED = {
    "digits": (128, (2, 3, 4)),
    "digits-vanilla-vit": (128, (2,)),
    "digits-transgan-xl": (64, (2,)),
    "digits-stylegan2": (64, (2,)),
    "digits-unet-d": (64, (2,)),
    "digits-contrad": (128, (2,)),
    "digits-biggan-diffaug": (64, (2,)),
}
MOMENTS = (".exp_avg", ".exp_avg_sq", ".step")


def main() -> None:
    """Train, compare, print, write the JSON."""
    parser = argparse.ArgumentParser(description="Weights of one process against those of several.")
    parser.add_argument("--json", type=Path, metavar="PATH")
    parser.add_argument("--recipe", nargs="+", choices=COMPARED, default=list(COMPARED))
    options = parser.parse_args()
    found = []
    with tempfile.TemporaryDirectory() as place:
        for name in options.recipe:
            batch, numbers = COMPARED[name]
            alone = trained(Path(place), name, batch, 1)
            for ranks in numbers:
                several = trained(Path(place), name, batch, ranks)
                found.append(show(name, batch, f"1 process and {ranks}", alone, several))
                if ranks == 4:
                    parts = trained(Path(place), name, batch, 1, "--training.accumulate", "4")
                    found.append(show(name, batch, "4 processes and 1 with accumulate 4", parts, several))
    report = {"environment": environment(torch.device("cpu")), "command": " ".join(sys.argv), "found": found}
    if options.json is not None:
        options.json.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")


def trained(place: Path, name: str, batch: int, ranks: int, *more: str) -> dict[str, torch.Tensor]:
    """The last state of a run."""
    folder = place / "-".join((name, str(ranks), *more[1:]))
    with socket.socket() as asked:
        asked.bind(("127.0.0.1", 0))
        port = asked.getsockname()[1]
    settings = {"device": "cpu", "precision": "fp32", "images": STEPS * batch, "training.batch": batch}
    words = [f"--{key}={value}" for key, value in settings.items()]
    torchrun = [sys.executable, "-m", "torch.distributed.run", f"--nproc-per-node={ranks}"]
    command = [*torchrun, f"--master-port={port}", "-m", "vitgan", "train", name, f"--out={folder}", *words]
    subprocess.run([*command, "--quiet", *more], check=True, env=os.environ | {"OMP_NUM_THREADS": "1"})
    return load_checkpoint(checkpoints(folder)[-1])[0]


def show(
    name: str, batch: int, what: str, a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]
) -> dict[str, Any]:
    """The largest differences of all tensors, and of those that are no moments of an optimiser."""
    assert a.keys() == b.keys()
    by_name = {key: (a[key].double() - b[key].double()).abs().max().item() for key in a}
    weights = max(value for key, value in by_name.items() if not key.endswith(MOMENTS))
    line = {"recipe": name, "batch": batch, "compared": what}
    line |= {"largest": max(by_name.values()), "largest_of_weights": weights}
    print(f"{name}, batch {batch}, {what}: {line['largest']:.1e}, weights {weights:.1e}", flush=True)
    return line


if __name__ == "__main__":
    main()
