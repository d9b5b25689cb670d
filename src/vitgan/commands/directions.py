"""`vitgan directions`: find directions of the latent space and show what changes along them."""

import argparse
from pathlib import Path

from vitgan.errors import UserError
from vitgan.terminal import add_output, answer

SUMMARY = "find directions of the latent space, and show what changes along them"
EXAMPLES = """examples:
  vitgan directions digits --out directions
  vitgan directions runs/faces --count 10 --reach 2
"""


def add(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.add_argument("run", metavar="RUN", help="as for `vitgan sample`")
    parser.add_argument("--count", type=int, default=6, metavar="N", help="directions of each kind (6)")
    parser.add_argument("--seed", type=int, default=0, metavar="S", help="of the images that move (0)")
    parser.add_argument("--reach", type=float, default=3.0, metavar="D", help="standard deviations (3)")
    parser.add_argument("--class", dest="label", metavar="K", help="a class, by name or number")
    parser.add_argument("--out", type=Path, metavar="DIR", help="(RUN/directions)")
    parser.add_argument("--device", choices=("cpu", "cuda"), help="by default a CUDA GPU where there is one")
    add_output(parser)


def run(options: argparse.Namespace) -> int:
    """Find the directions and write strips and vectors; returns the exit code 0."""
    if not 1 <= options.count <= 100:
        raise UserError(f"--count must be from 1 to 100, not {options.count}.")
    if not 0 < options.reach <= 100:
        raise UserError(f"--reach must be greater than 0 and at most 100, not {options.reach}.")
    if not 0 <= options.seed < 2**63:
        raise UserError("--seed must be at least 0, and less than 2^63.")
    from vitgan import load
    from vitgan.engine.train import choose_device
    from vitgan.latent.directions import write_directions
    from vitgan.sharing import find

    device = choose_device(options.device)
    folder = find(options.run)
    own = (
        options.out is None and folder != Path(options.run).expanduser()
    )  # of the package or the Hub, whose folder is not the user's
    out = options.out or (Path("directions") if own else folder / "directions")
    chosen = {name: getattr(options, name) for name in ("count", "seed", "reach", "label")}
    written = write_directions(load(options.run).to(device), out, **chosen)
    answer(options, {"run": options.run, "files": written}, "\n".join(f"Wrote {path}" for path in written))
    return 0
