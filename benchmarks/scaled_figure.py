"""What `vitgan sample --scale` adds: the same samples enlarged by repetition, bicubically, and rendered.

    python benchmarks/scaled_figure.py RUN --out figure.png [--scale 4] [--count 6] [--seed 0]

A row each. It prints how far the rendered images, averaged down, are from the samples, and the same of the
bicubic ones: root mean squares in units of 1/255.
"""

import argparse
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

import vitgan
from vitgan.engine.grid import grid, save_png


def main() -> None:
    """Draw, enlarge, write."""
    parser = argparse.ArgumentParser(description="Rendering beside enlarging.")
    parser.add_argument("run", metavar="RUN")
    parser.add_argument("--out", type=Path, required=True, metavar="PATH")
    parser.add_argument("--scale", type=int, default=4, metavar="K")
    parser.add_argument("--count", type=int, default=6, metavar="N")
    parser.add_argument("--seed", type=int, default=0, metavar="S")
    options = parser.parse_args()
    generator, scale = vitgan.load(options.run), options.scale
    plain = generator.sample(options.count, seed=options.seed)
    rendered = generator.sample(options.count, seed=options.seed, scale=scale)
    repeated = plain.repeat_interleave(scale, 2).repeat_interleave(scale, 3)
    smooth = F.interpolate(plain.float(), scale_factor=scale, mode="bicubic", align_corners=False)
    smooth = smooth.round().clamp(0, 255).to(torch.uint8)
    options.out.parent.mkdir(parents=True, exist_ok=True)
    save_png(options.out, grid(torch.cat((repeated, smooth, rendered)), columns=options.count))
    for name, images in (("bicubic", smooth), ("rendered", rendered)):
        print(f"{name}: {difference(images, plain):.1f} from the samples when averaged down")


def difference(images: Tensor, plain: Tensor) -> float:
    """Root mean square over all pixels."""
    small = F.avg_pool2d(images.float(), images.shape[-1] // plain.shape[-1])
    return (small - plain.float()).square().mean().sqrt().item()


if __name__ == "__main__":
    main()
