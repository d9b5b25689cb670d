"""`vitgan inspect`: spectra, Lipschitz bounds, attention and rank of a run's networks."""

import argparse
from pathlib import Path

from vitgan.errors import UserError
from vitgan.io import check_writable
from vitgan.terminal import STDOUT, add_output, answer, counted

SUMMARY = "look into a trained run: spectra, Lipschitz bounds, attention, rank"
EXAMPLES = """examples:
  vitgan inspect runs/digits
  vitgan inspect runs/faces --data FOLDER --out figures
"""


def add(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.add_argument("run", type=Path, metavar="RUN", help="a run's folder, or one of its checkpoints")
    parser.add_argument("--data", metavar="SOURCE", help="real images (those of the run)")
    parser.add_argument(
        "--count", type=int, default=64, metavar="N", help="real images, and as many fakes (64)"
    )
    parser.add_argument("--seed", type=int, default=0, metavar="S", help="of the images and the latents (0)")
    parser.add_argument("--out", type=Path, metavar="DIR", help="where the pictures go (RUN/inspect)")
    parser.add_argument("--device", choices=("cpu", "cuda"), help="by default a CUDA GPU where there is one")
    add_output(parser, file="where the numbers go (DIR/inspect.json); without PATH print them too")


def run(options: argparse.Namespace) -> int:
    """Print the table and write the files; returns the exit code 0. Raises UserError on a user's mistake."""
    if options.count < 1:
        raise UserError(f"--count must be at least 1, not {options.count}.")
    if not 0 <= options.seed < 2**63:
        raise UserError(f"--seed must be at least 0, and less than 2^63, not {options.seed}.")
    out = options.run / "inspect" if options.out is None else options.out
    if out.is_file():
        raise UserError(f"{out} is a file: choose a folder with --out.")
    check_writable(options.json)
    from vitgan.diagnostics import inspect_run
    from vitgan.diagnostics.inspection import table
    from vitgan.engine.train import choose_device
    from vitgan.sharing import find

    result = inspect_run(
        find(options.run),
        data=options.data,
        count=options.count,
        seed=options.seed,
        out=out,
        device=choose_device(options.device),
        json_path=None if options.json == STDOUT else options.json,
    )
    answer(options, result, f"{table(result)}\n\n{counted(len(result['figures']), 'picture')} in {out}")
    return 0
