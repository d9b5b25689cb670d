"""CelebA 64x64 at the paper's settings (spec, training table)."""

from dataclasses import replace

from vitgan.data import DataOptions
from vitgan.engine.ema import EMAOptions
from vitgan.models import VisionTransformerOptions, ViTGANGeneratorOptions
from vitgan.recipes.cifar10 import CIFAR10

CELEBA = replace(
    CIFAR10,
    name="celeba",
    data=DataOptions(source="celeba", resolution=64, channels=3),
    generator=ViTGANGeneratorOptions(patch=8, depth=6),
    discriminator=VisionTransformerOptions(patch=8, depth=6),
    ema=EMAOptions(half_life=20_000),
)

RECIPES = {"celeba": CELEBA}
