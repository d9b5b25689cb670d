"""`vitgan interpolate`: a film of a walk through the latent space."""

import argparse
from pathlib import Path

from vitgan.errors import UserError
from vitgan.terminal import add_output, answer, counted

SUMMARY = "walk from seed to seed, as a film strip, a GIF or a film"
EXAMPLES = """examples:
  vitgan interpolate digits --seeds 1 2 3 --frames 96 --out walk.gif
  vitgan interpolate runs/faces --seeds 4 8 4 --out walk.mp4 --fps 30
"""


def add(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.add_argument("run", metavar="RUN", help="as for `vitgan sample`")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 0], metavar="S", help="(0 1 2 0)")
    parser.add_argument("--frames", type=int, default=96, metavar="N", help="in all (96)")
    parser.add_argument("--fps", type=int, default=25, metavar="F", help="frames a second (25)")
    parser.add_argument("--class", dest="label", metavar="K", help="a class, by name or number")
    parser.add_argument("--out", type=Path, required=True, metavar="PATH", help=".png, .gif or .mp4")
    parser.add_argument("--device", choices=("cpu", "cuda"), help="by default a CUDA GPU where there is one")
    add_output(parser)


def run(options: argparse.Namespace) -> int:
    """Write the film strip, GIF or film; returns the exit code 0. Raises UserError on a user's mistake."""
    if not 1 <= options.fps <= 240:
        raise UserError(f"--fps must be from 1 to 240, not {options.fps}.")
    if not 2 <= options.frames <= 100_000:
        raise UserError(f"--frames must be from 2 to 100,000, not {options.frames}.")
    if any(not 0 <= seed < 2**63 for seed in options.seeds):
        raise UserError("--seeds must be at least 0, and less than 2^63.")
    from vitgan import load
    from vitgan.engine.train import choose_device
    from vitgan.latent import save_frames, walk
    from vitgan.latent.interpolation import check_path

    check_path(options.out)
    device = choose_device(options.device)
    generator = load(options.run).to(device)
    options.out.parent.mkdir(parents=True, exist_ok=True)
    frames = walk(generator, options.seeds, options.frames, label=options.label)
    save_frames(options.out, frames, fps=options.fps)
    facts = {"run": options.run, "out": options.out, "seeds": options.seeds, "frames": len(frames)}
    answer(options, facts, f"Wrote {options.out}: {counted(len(frames), 'frame')}.")
    return 0
