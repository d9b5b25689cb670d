"""Generators and discriminators, one published system in each file."""

from vitgan.models.base import Discriminator, Generator, Judgement, from_uint8, to_uint8
from vitgan.models.biggan import (
    BigGANDiscriminator,
    BigGANDiscriminatorOptions,
    BigGANGenerator,
    BigGANGeneratorOptions,
)
from vitgan.models.contrad import ContraDDiscriminator, ContraDDiscriminatorOptions, ResidualOptions
from vitgan.models.modern import (
    ModernDiscriminator,
    ModernDiscriminatorOptions,
    ModernGenerator,
    ModernGeneratorOptions,
)
from vitgan.models.siren import Siren, SirenOptions
from vitgan.models.stylegan2 import (
    StyleGAN2Discriminator,
    StyleGAN2DiscriminatorOptions,
    StyleGAN2Generator,
    StyleGAN2GeneratorOptions,
)
from vitgan.models.transgan import (
    TransGANDiscriminator,
    TransGANDiscriminatorOptions,
    TransGANGenerator,
    TransGANGeneratorOptions,
)
from vitgan.models.unet import UNetDiscriminator, UNetDiscriminatorOptions
from vitgan.models.vit import VisionTransformer, VisionTransformerOptions
from vitgan.models.vitgan import ViTGANGenerator, ViTGANGeneratorOptions

__all__ = [
    "BigGANDiscriminator",
    "BigGANDiscriminatorOptions",
    "BigGANGenerator",
    "BigGANGeneratorOptions",
    "ContraDDiscriminator",
    "ContraDDiscriminatorOptions",
    "Discriminator",
    "Generator",
    "Judgement",
    "ModernDiscriminator",
    "ModernDiscriminatorOptions",
    "ModernGenerator",
    "ModernGeneratorOptions",
    "ResidualOptions",
    "Siren",
    "SirenOptions",
    "StyleGAN2Discriminator",
    "StyleGAN2DiscriminatorOptions",
    "StyleGAN2Generator",
    "StyleGAN2GeneratorOptions",
    "TransGANDiscriminator",
    "TransGANDiscriminatorOptions",
    "TransGANGenerator",
    "TransGANGeneratorOptions",
    "UNetDiscriminator",
    "UNetDiscriminatorOptions",
    "ViTGANGenerator",
    "ViTGANGeneratorOptions",
    "VisionTransformer",
    "VisionTransformerOptions",
    "from_uint8",
    "to_uint8",
]
