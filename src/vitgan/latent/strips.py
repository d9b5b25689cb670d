"""Directions as pictures: a row each, the image moving from one side to the other.

Shapes: K directions, N images of a row.
"""

import json
from pathlib import Path

import torch
from torch import Tensor

from vitgan.engine.images import grid, save_png
from vitgan.errors import UserError
from vitgan.latent.directions import Direction, edited, factorised, principal_components
from vitgan.latent.interpolation import latent_of
from vitgan.models import Generator, to_uint8
from vitgan.replacing import replacing

COLUMNS = 9


def write_directions(
    generator: Generator, out: Path, *, count: int, seed: int, reach: float, label: int | None = None
) -> list[Path]:
    """`pca.png`, `sefa.png` where w modulates, and `directions.json` in `out`; the files written."""
    if out.is_file():
        raise UserError(f"{out} is a file: give a folder with --out.")
    kinds = {"pca": principal_components(generator, count)}
    if generator.modulations():
        kinds["sefa"] = factorised(generator, count)
    w = latent_of(generator, seed, label)
    out.mkdir(parents=True, exist_ok=True)
    written = []
    for kind, directions in kinds.items():
        images = torch.cat([row(generator, w, direction, reach) for direction in directions])
        save_png(out / f"{kind}.png", grid(images, columns=COLUMNS))
        written.append(out / f"{kind}.png")
    found = [_facts(direction) for directions in kinds.values() for direction in directions]
    with replacing(out / "directions.json") as temporary:
        temporary.write_text(json.dumps({"seed": seed, "directions": found}, indent=1) + "\n", "utf-8")
    return [*written, out / "directions.json"]


@torch.no_grad()
def row(generator: Generator, w: Tensor, direction: Direction, reach: float) -> Tensor:
    """The image of w (1, ...) moved from -reach to +reach deviations, uint8 (N, C, R, R)."""
    amounts = torch.linspace(-reach, reach, COLUMNS).tolist()
    moved = [edited(w, {direction.name: amount}, {direction.name: direction}) for amount in amounts]
    return to_uint8(generator.synthesise(torch.cat(moved))).cpu()


def _facts(direction: Direction) -> dict[str, object]:
    return {
        "name": direction.name,
        "deviation": direction.deviation,
        "share": direction.share,
        "vector": direction.vector.flatten().tolist(),
    }
