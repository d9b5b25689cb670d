"""How the cost of a training step grows with batch, width, depth, tokens and resolution.

    python benchmarks/scaling.py --json scaling.json --plot scaling.png [--threads 2] [--memory]

Each size is varied alone, from a small ViTGAN (32 x 32 images, patch 4, width 128, 2 blocks, batch 16, fp32)
on random images. Tokens are varied by the patch at a fixed resolution, the resolution at a fixed patch.
Seconds are the fastest of a few steps. The exponent of seconds over size is fitted in the upper half of each
range, and the exponent of the counted FLOPs there stands beside it. Under 4 minutes on 2 CPU cores; --memory,
which starts a process for every size, about doubles that.
"""

import argparse
import json
import sys
from pathlib import Path

from vitgan.bench.scaling import RANGES, Base, Scaling, measure_range, to_dict, write_figure
from vitgan.engine.environment import environment, keep_freed_memory
from vitgan.engine.train import choose_device, threads
from vitgan.io import replacing


def main() -> None:
    """Measure every range, print a line for each, write the files."""
    parser = argparse.ArgumentParser(description="How the cost of a training step grows.")
    parser.add_argument("--json", type=Path, metavar="PATH")
    parser.add_argument("--plot", type=Path, metavar="PATH")
    parser.add_argument("--device", choices=("cpu", "cuda"))
    parser.add_argument("--threads", type=int, metavar="N")
    parser.add_argument("--rounds", type=int, default=4, metavar="N")
    parser.add_argument("--memory", action="store_true")
    options = parser.parse_args()
    device, base, found = choose_device(options.device), Base(), list[Scaling]()
    keep_freed_memory()
    with threads(options.threads):
        facts = environment(device)
        for varied in RANGES:
            one = measure_range(varied, base, device=device, rounds=options.rounds, memory=options.memory)
            print(line(one), flush=True)
            found.append(one)
    if options.json is not None:
        report = {"environment": facts, "command": " ".join(sys.argv), **to_dict(base, found)}
        options.json.parent.mkdir(parents=True, exist_ok=True)
        with replacing(options.json) as temporary:
            temporary.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    if options.plot is not None:
        write_figure(options.plot, found, f"A step of a small ViTGAN in fp32, {facts['processor']}")


def line(found: Scaling) -> str:
    """The exponents and the seconds of a range."""
    points = ", ".join(f"{point.size}: {point.seconds:.3f}" for point in found.points)
    memory = "" if found.memory_exponent is None else f", memory {found.memory_exponent:.2f}"
    exponents = f"{found.exponent:.2f} (FLOPs {found.expected_exponent:.2f}{memory})"
    return f"{found.name:10}  exponent {exponents} from {found.fitted_from:g} on; seconds {points}"


if __name__ == "__main__":
    main()
