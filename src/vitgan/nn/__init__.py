"""The building blocks: tensors in, tensors out; no files, no configuration."""

from vitgan.nn.attention import (
    L2Attention,
    SelfAttention,
    dot_product_attention,
    fused_allowed,
    l2_attention,
)
from vitgan.nn.convolution import Convolution, ConvolutionalOutput, ModulatedConvolution
from vitgan.nn.implicit import ImplicitOutput, pixel_coordinates
from vitgan.nn.linear import LabelProjection, Linear
from vitgan.nn.norm import LayerNorm, SelfModulatedLayerNorm
from vitgan.nn.patches import LinearOutput, patchify, unpatchify
from vitgan.nn.spectral import SpectralNorm
from vitgan.nn.transformer import Block, MultilayerPerceptron, recomputed

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
