"""Whole systems, one a file."""

from vitgan.models.discriminator import Discriminator, Judgement
from vitgan.models.generator import Generator, to_uint8
from vitgan.models.vit import VisionTransformer, VisionTransformerOptions
from vitgan.models.vitgan import ViTGANGenerator, ViTGANGeneratorOptions

__all__ = [
    "Discriminator",
    "Generator",
    "Judgement",
    "ViTGANGenerator",
    "ViTGANGeneratorOptions",
    "VisionTransformer",
    "VisionTransformerOptions",
    "to_uint8",
]
