"""The Vision Transformer (arXiv 2010.11929): ViTGAN's discriminator and, with K outputs, a classifier.

Shapes: B batch, C channels, H x W image, P patch, o overlap, L = HW / P^2 patches, D width, K outputs.
"""

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import partial
from typing import Literal

import torch
from torch import Tensor, nn

from vitgan.config import MOST_LAYERS, MOST_SIZE, check, factor, option
from vitgan.errors import UserError
from vitgan.models.base import Discriminator
from vitgan.nn import (
    Block,
    L2Attention,
    LayerNorm,
    Linear,
    MultilayerPerceptron,
    SelfAttention,
    patchify,
    recomputed,
)
from vitgan.nn.norm import Normalisation
from vitgan.registry import register

Attention = Literal["l2", "dot-product", "l2-attending-to-farthest"]
ATTENTIONS: dict[Attention, Callable[..., nn.Module]] = {
    "l2": L2Attention,
    "dot-product": SelfAttention,
    "l2-attending-to-farthest": partial(L2Attention, attend_to_farthest=True),
}


@register(kind="discriminator", name="vit")
@dataclass(frozen=True, kw_only=True)
class VisionTransformerOptions:
    """Options of the Vision Transformer.

    The defaults are ViTGAN's discriminator for CIFAR-10 (arXiv 2107.04589).
    """

    patch: int = option(4, least=1, most=MOST_SIZE)
    """Side P of a patch, pixels."""
    overlap: int | None = option(None, least=0, most=MOST_SIZE)
    """Pixels o by which a patch is extended on every side; None is half of P, rounded down."""
    depth: int = option(4, least=1, most=MOST_LAYERS)
    """Transformer blocks."""
    width: int = option(384, least=1, most=MOST_SIZE)
    """Size D of a token."""
    heads: int = option(6, least=1, most=MOST_SIZE)
    """Attention heads; must divide the width."""
    perceptron_width: int = option(1536, least=1, most=MOST_SIZE)
    """Hidden size of a block's MLP."""
    attention: Attention = "l2"
    """Attention logits: minus the squared L2 distance, the dot product, or the squared distance with the plus
    sign that the seminar deck prints (docs/method.md, erratum 1)."""
    spectral_norm: Normalisation = "improved"
    """Normalisation of every weight matrix."""
    head: Literal["tanh", "linear"] = "tanh"
    """Head on the class token: one hidden tanh layer, or linear."""
    gain: float = factor(1.0)
    """Standard deviation of the weights at the start, in units of 1 / sqrt(in features)."""
    equalised: bool = True
    """Equalised learning rate."""

    image_by_image = True

    def build(self, *, resolution: int, channels: int, classes: int = 0) -> "VisionTransformer":
        """The network; with `classes` > 0 its logit depends on a label (projection, arXiv 1802.05637).

        Raises UserError where a value is not one that the field takes, or sizes do not fit.
        """
        check(self, "discriminator")
        return VisionTransformer(self, resolution=resolution, channels=channels, classes=classes)


def check_transformer(part: str, resolution: int, patch: int, width: int, heads: int) -> None:
    """Raise UserError where the sizes of a transformer over patches do not fit."""
    if patch < 1 or resolution % patch:
        raise UserError(
            f"The resolution {resolution} is not divided by the {part}'s patch size {patch}: "
            f"set --{part}.patch to a divisor, or --data.resolution to a multiple."
        )
    if heads < 1 or width % heads:
        raise UserError(f"--{part}.width {width} is not a multiple of --{part}.heads {heads}.")


class VisionTransformer(Discriminator):
    """[class; patches E] + E_pos, pre-norm blocks, LN of the class token, head (seminar deck, eq. 1-4).

    images (B, C, H, W) in [-1, 1], labels (B,) or None -> logits (B, K) in fp32, K = `outputs`.
    """

    can_recompute = True

    def __init__(
        self,
        options: VisionTransformerOptions,
        *,
        resolution: int,
        channels: int,
        outputs: int = 1,
        classes: int = 0,
    ) -> None:
        super().__init__(resolution=resolution, channels=channels, classes=classes)
        check_transformer("discriminator", resolution, options.patch, options.width, options.heads)
        self.options = options
        self.overlap = options.patch // 2 if options.overlap is None else options.overlap
        linear = partial(Linear, equalised=options.equalised)
        width = options.width
        self.embed = linear(channels * (options.patch + 2 * self.overlap) ** 2, width)
        self.class_token = nn.Parameter(torch.randn(1, 1, width) * options.gain)
        self.position = nn.Parameter(torch.randn(1, (resolution // options.patch) ** 2 + 1, width) * 0.5)
        inner = partial(_scaled_linear, gain_factor=options.gain, equalised=options.equalised)
        self.blocks = nn.ModuleList(_block(options, inner) for _ in range(options.depth))
        self.norm = LayerNorm(width)
        hidden = [inner(width, width), nn.Tanh()] if options.head == "tanh" else []
        self.head = nn.Sequential(*hidden, linear(width, outputs))
        self.label = self.label_projection(width, equalised=options.equalised, unit_variance=True)
        self.normalise(options.spectral_norm)

    def forward(self, images: Tensor, labels: Tensor | None = None) -> Tensor:
        with self.normalised() as again:
            y = self.features(images, again)
            return self.labelled(self.head(y).float(), y, labels, self.label)

    def features(
        self, images: Tensor, again: Callable[[], AbstractContextManager[object]] = nullcontext
    ) -> Tensor:
        """y = LN(h_L^0), (B, D), from images (B, C, H, W). The last block computes the class token alone.

        It computes with normalised weights only within `normalised`, as `forward` does; `again` enters that
        context anew for activations that the backward pass computes again.
        """
        patches = self.embed(patchify(images, self.options.patch, self.overlap))  # (B, L, D)
        class_token = self.class_token.to(patches.dtype).expand(len(patches), -1, -1)
        h = torch.cat((class_token, patches), 1) + self.position.to(patches.dtype)  # (B, L + 1, D)
        call = partial(recomputed, again=again) if self.activation_checkpointing else _call
        for i, block in enumerate(self.blocks):
            h = call(block, h, None, 1 if i == len(self.blocks) - 1 else None)
        return self.norm(h[:, 0])


def _call(block: nn.Module, *inputs: Tensor | int | None) -> Tensor:
    return block(*inputs)


def _scaled_linear(*arguments: int, gain_factor: float, gain: float = 1.0, **keywords: bool) -> Linear:
    return Linear(*arguments, gain=gain * gain_factor, **keywords)  # type: ignore[arg-type]


def _block(options: VisionTransformerOptions, linear: Callable[..., Linear]) -> Block:
    width = options.width
    return Block(
        ATTENTIONS[options.attention](width, options.heads, linear),
        MultilayerPerceptron(width, options.perceptron_width, linear),
        partial(LayerNorm, width),
    )


@torch.no_grad()
def load_timm(model: VisionTransformer, state: Mapping[str, Tensor]) -> None:
    """Copy the weights of a timm VisionTransformer into `model`, which then gives the same logits.

    `model` must have dot-product attention, overlap 0, a linear head and spectral_norm "none", else UserError
    is raised. timm's key bias is left out: it adds one number to all logits of a row of attention, which
    softmax ignores. Raises ValueError when a shape or the number of blocks differs.
    """
    options = model.options
    found = (options.attention, model.overlap, options.head, options.spectral_norm)
    if found != ("dot-product", 0, "linear", "none"):
        raise UserError(
            "A timm ViT needs attention 'dot-product', overlap 0, head 'linear', spectral_norm 'none'."
        )
    blocks = len({name.split(".")[1] for name in state if name.startswith("blocks.")})
    if blocks != len(model.blocks):
        raise ValueError(f"The weights are of {blocks} blocks, the model has {len(model.blocks)}.")
    _assign(model.embed, state["patch_embed.proj.weight"].flatten(1), state["patch_embed.proj.bias"])
    _check_shape(state["cls_token"], model.class_token)
    model.class_token.copy_(state["cls_token"])
    _check_shape(state["pos_embed"], model.position)
    model.position.copy_(state["pos_embed"])
    for i, block in enumerate(model.blocks):
        assert isinstance(block, Block)
        _load_timm_block(block, {k.removeprefix(f"blocks.{i}."): v for k, v in state.items()})
    _load_norm(model.norm, state, "norm")
    head = model.head[-1]
    assert isinstance(head, Linear)
    _assign(head, state["head.weight"], state["head.bias"])


def _load_timm_block(block: Block, state: Mapping[str, Tensor]) -> None:
    attention, perceptron = block.attention, block.perceptron
    assert isinstance(attention, SelfAttention)
    assert isinstance(perceptron, MultilayerPerceptron)
    weights, biases = state["attn.qkv.weight"].chunk(3), state["attn.qkv.bias"].chunk(3)
    _assign(attention.query, weights[0], biases[0])
    _assign(attention.key, weights[1], None)
    _assign(attention.value, weights[2], biases[2])
    _assign(attention.out, state["attn.proj.weight"], state["attn.proj.bias"])
    _assign(perceptron.up, state["mlp.fc1.weight"], state["mlp.fc1.bias"])
    _assign(perceptron.down, state["mlp.fc2.weight"], state["mlp.fc2.bias"])
    _load_norm(block.norm_attention, state, "norm1")
    _load_norm(block.norm_perceptron, state, "norm2")


def _load_norm(norm: nn.Module, state: Mapping[str, Tensor], name: str) -> None:
    norm.load_state_dict({"weight": state[f"{name}.weight"], "bias": state[f"{name}.bias"]})


def _assign(layer: Linear, weight: Tensor, bias: Tensor | None) -> None:
    _check_shape(weight, layer.weight)
    layer.assign(weight, bias)


def _check_shape(weight: Tensor, own: Tensor) -> None:
    if weight.shape != own.shape:
        raise ValueError(f"A weight has shape {tuple(weight.shape)}, the model's {tuple(own.shape)}.")
