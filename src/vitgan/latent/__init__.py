"""The latent space of a trained generator: interpolation, directions, and the projection of pictures."""

from vitgan.latent.directions import Direction, edited, factorised, principal_components
from vitgan.latent.interpolation import save_frames, walk
from vitgan.latent.projection import Projection, project, read_picture

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
