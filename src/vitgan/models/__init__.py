"""Whole systems, one a file."""

from vitgan.models.vit import Discriminator, DiscriminatorOptions
from vitgan.models.vitgan import Generator, GeneratorOptions

__all__ = ["Discriminator", "DiscriminatorOptions", "Generator", "GeneratorOptions"]
