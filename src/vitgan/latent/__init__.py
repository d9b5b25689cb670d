"""Moving about in the latent space of a trained generator: between seeds, along directions, to a picture."""

from vitgan.latent.directions import Direction, edited, factorised, principal_components
from vitgan.latent.frames import save_frames
from vitgan.latent.interpolation import walk
from vitgan.latent.pictures import read_picture
from vitgan.latent.projection import Projection, project

__all__ = [
    "Direction",
    "Projection",
    "edited",
    "factorised",
    "principal_components",
    "project",
    "read_picture",
    "save_frames",
    "walk",
]
