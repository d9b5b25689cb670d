"""The building blocks: tensors in, tensors out; no files, no configuration."""

from vitgan.nn.attention import (
    Block,
    L2Attention,
    MultilayerPerceptron,
    SelfAttention,
    dot_product_attention,
    fused_allowed,
    l2_attention,
    recomputed,
)
from vitgan.nn.convolution import Convolution, ConvolutionalOutput, ModulatedConvolution
from vitgan.nn.implicit import ImplicitOutput, pixel_coordinates
from vitgan.nn.linear import LabelProjection, Linear
from vitgan.nn.norm import LayerNorm, SelfModulatedLayerNorm, SpectralNorm
from vitgan.nn.stems import LinearOutput, patchify, unpatchify

__all__ = [
    "Block",
    "Convolution",
    "ConvolutionalOutput",
    "ImplicitOutput",
    "L2Attention",
    "LabelProjection",
    "LayerNorm",
    "Linear",
    "LinearOutput",
    "ModulatedConvolution",
    "MultilayerPerceptron",
    "SelfAttention",
    "SelfModulatedLayerNorm",
    "SpectralNorm",
    "dot_product_attention",
    "fused_allowed",
    "l2_attention",
    "patchify",
    "pixel_coordinates",
    "recomputed",
    "unpatchify",
]
