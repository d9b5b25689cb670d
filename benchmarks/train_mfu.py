"""How near `vitgan train` itself comes to the machine's limit: logging, samples and checkpoints included.

    python benchmarks/train_mfu.py --data cifar10_train.zip --minutes 4 --out runs/mfu --json mfu.json

For each precision it measures the peak of matrix products, trains the recipe from nothing by the
command line for so many minutes of training, and measures the peak again. The rate is that of the
whole run, all images over all seconds of the training clock: the slow first step, grids and
checkpoints are in it. Model FLOPs an image are the method's, counted from the shapes (`vitgan bench
--parts flops`).
"""

import argparse
import json
import statistics
import subprocess
import sys
from pathlib import Path
from typing import Any

import torch

import vitgan
from vitgan.bench.flops import method_flops, performed_flops
from vitgan.bench.peak import measure_peak
from vitgan.bench.settings import Sizes
from vitgan.engine.environment import environment
from vitgan.engine.loggers import read_log
from vitgan.engine.recipe import Precision
from vitgan.engine.train import choose_device

ROUNDS = 15


def main() -> None:
    """A run for each precision, then a line each."""
    parser = argparse.ArgumentParser(description="Measure vitgan train against the machine's limit.")
    parser.add_argument("--recipe", default="cifar10", metavar="R")
    parser.add_argument("--data", metavar="SOURCE")
    parser.add_argument("--minutes", type=float, default=4.0, metavar="M")
    parser.add_argument("--precision", nargs="+", default=["fp32", "bf16"], choices=["fp32", "bf16"])
    parser.add_argument("--out", type=Path, default=Path("runs/mfu"), metavar="DIR")
    parser.add_argument("--json", type=Path, metavar="PATH")
    options = parser.parse_args()
    device = choose_device(None)
    found = {name: measured(options, name, device) for name in options.precision}
    report = {"environment": environment(device), "recipe": options.recipe, "runs": found}
    for name, run in found.items():
        print(
            f"{name}: {run['images_per_second']:.2f} images/s over {run['seconds']:.0f} s, "
            f"peak {run['peak_gflops']:.1f} GFLOP/s, MFU {run['mfu']:.1%}, HFU {run['hfu']:.1%}"
        )
    if options.json is not None:
        options.json.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")


def measured(options: argparse.Namespace, precision: Precision, device: torch.device) -> dict[str, Any]:
    """Peak, run, peak; the peak is the mean of both."""
    before = peak(precision, device)
    folder = options.out / precision
    command = [sys.executable, "-m", "vitgan", "train", options.recipe, "--out", str(folder), "--quiet"]
    command += ["--minutes", str(options.minutes), "--precision", precision]
    command += ["--data", options.data] if options.data else []
    subprocess.run(command, check=True)
    rate = statistics.mean((before, peak(precision, device)))
    last = read_log(folder)[-1]
    speed = last["images"] / last["seconds"]
    recipe = vitgan.recipes.get(options.recipe)
    flops = {"mfu": method_flops(recipe), "hfu": performed_flops(recipe)}
    return {
        "images": last["images"],
        "seconds": last["seconds"],
        "images_per_second": speed,
        "peak_gflops": rate,
        **{name: count * speed / (1e9 * rate) for name, count in flops.items()},
    }


def peak(precision: Precision, device: torch.device) -> float:
    """GFLOP/s of the best route now."""
    sizes = Sizes.of(device)
    peaks = measure_peak((precision,), device, sides=sizes.products, rounds=ROUNDS, repeats=sizes.repeats)
    return peaks[precision].gflops


if __name__ == "__main__":
    main()
