"""`vitgan project`: find the latent whose image is nearest to a picture."""

import argparse
import sys
from pathlib import Path

from vitgan.errors import UserError
from vitgan.terminal import add_output, answer, can_draw

SUMMARY = "find the latent whose image is nearest to a picture"
EXAMPLES = """examples:
  vitgan project digits PICTURE.png --out found
  vitgan project runs/faces ME.jpg --steps 1000 --out found
"""


def add(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.add_argument("run", metavar="RUN", help="as for `vitgan sample`")
    parser.add_argument("image", metavar="IMAGE", type=Path, help="any picture; its centre square is used")
    parser.add_argument("--steps", type=int, default=300, metavar="N", help="of the search (300)")
    parser.add_argument("--seed", type=int, default=0, metavar="S", help="of the latents it begins from (0)")
    parser.add_argument("--class", dest="label", metavar="K", help="a class, by name or number")
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="a folder for what is found")
    parser.add_argument("--device", choices=("cpu", "cuda"), help="by default a CUDA GPU where there is one")
    add_output(parser)


def run(options: argparse.Namespace) -> int:
    """Search for the nearest image and write it; returns the exit code 0."""
    if not 1 <= options.steps <= 100_000:
        raise UserError(f"--steps must be from 1 to 100,000, not {options.steps}.")
    if not 0 <= options.seed < 2**63:
        raise UserError("--seed must be at least 0, and less than 2^63.")
    if options.out.is_file():
        raise UserError(f"{options.out} is a file: give a folder with --out.")
    if not options.image.is_file():
        why = "it is a folder" if options.image.is_dir() else "No such file"
        raise UserError(f"{options.image} cannot be read ({why}): give the file of a picture.")
    from vitgan import load
    from vitgan.engine.train import choose_device
    from vitgan.latent import project, read_picture
    from vitgan.latent.interpolation import label_of

    device = choose_device(options.device)
    generator = load(options.run).to(device)
    picture, label = read_picture(options.image, generator), label_of(generator, options.label)
    options.out.mkdir(parents=True, exist_ok=True)
    with _bar(options.steps) as bar:

        def show(step: int, steps: int, loss: float) -> bool:  # noqa: ARG001
            bar.set_postfix_str(f"difference {loss:.4g}", refresh=False)
            bar.update(step - bar.n)
            return True

        search = {"steps": options.steps, "label": label, "seed": options.seed, "progress": show}
        found = project(generator, picture, **search)
    _write(options.out, picture, found)
    facts = {"run": options.run, "image": options.image, "out": options.out}
    numbers = {"difference": found.difference, "difference_at_start": found.losses[0]}
    text = f"mean squared difference {found.difference:.4g}, {found.losses[0]:.4g} at the start."
    answer(options, facts | numbers, f"Wrote {options.out}: {text}")
    return 0


def _bar(steps: int):
    from tqdm import tqdm

    hidden = not can_draw(sys.stderr)
    return tqdm(total=steps, unit=" steps", file=sys.stderr, disable=hidden, leave=False, dynamic_ncols=True)


def _write(out: Path, picture, found) -> None:
    """Write `both.png`, the picture beside the nearest image, `found.png`, that alone, and `w.npy`."""
    import numpy as np
    import torch

    from vitgan.engine.grid import grid, save_png
    from vitgan.engine.grid import picture as as_it_is
    from vitgan.io import replacing
    from vitgan.models import to_uint8

    image = to_uint8(found.image).cpu()
    save_png(out / "both.png", grid(torch.cat((picture.unsqueeze(0), image)), columns=2))
    save_png(out / "found.png", as_it_is(image[0]))
    with replacing(out / "w.npy") as temporary, temporary.open("wb") as file:
        np.save(file, found.w.cpu().numpy())
