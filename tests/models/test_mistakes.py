"""Mistakes that stop a ViTGAN from learning, one test each: those that a single forward pass shows.

tests/adversarial has those that take a step of training, tests/engine those of the average and of a resumed
run.
"""

import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from vitgan import recipes
from vitgan.adversarial import BCR, DiffAugment
from vitgan.engine.gan import Recipe
from vitgan.errors import UserError
from vitgan.models import VisionTransformerOptions, ViTGANGeneratorOptions
from vitgan.nn import (
    Block,
    ConvolutionalOutput,
    ImplicitOutput,
    L2Attention,
    LayerNorm,
    Linear,
    LinearOutput,
    MultilayerPerceptron,
    SelfAttention,
    SelfModulatedLayerNorm,
    l2_attention,
    patchify,
)
from vitgan.recipes.settings import override

WIDTH, HEADS = 16, 4
NO_AUGMENT = DiffAugment(translation=0, colour=0, cutout=0, scaling=0)
SMALL: dict[str, Any] = {"patch": 2, "depth": 2, "width": WIDTH, "heads": HEADS, "perceptron_width": 24}


def test_query_and_key_are_tied_by_one_matrix():
    """L2 attention owns one query/key matrix of shape (D, D), and no other matrix but value and out."""
    weights = {name: tuple(p.shape) for name, p in L2Attention(WIDTH, HEADS).named_parameters()}
    matrices = {name: shape for name, shape in weights.items() if name.endswith("weight")}
    assert matrices == dict.fromkeys(("query_key.weight", "value.weight", "out.weight"), (WIDTH, WIDTH))


def attention_logits(query: Tensor, key: Tensor) -> Tensor:
    """The logits less each row's mean, read off the attention matrix."""
    matrix = l2_attention(
        query, key, torch.eye(key.shape[-2], dtype=key.dtype).expand(*key.shape[:2], -1, -1)
    )
    return matrix.log() - matrix.log().mean(-1, keepdim=True)


def test_the_norm_of_the_key_is_not_that_of_the_query():
    """A key twice as far from every query has a lower logit by the difference of the squared distances."""
    query = torch.zeros(1, 1, 1, 4, dtype=torch.float64)
    key = torch.zeros(1, 1, 2, 4, dtype=torch.float64)
    key[..., 0, 0], key[..., 1, 0] = 1, 2
    near, far = attention_logits(query, key)[0, 0, 0].tolist()
    assert near - far == pytest.approx((4 - 1) / math.sqrt(4))


def test_scaling_is_by_the_head_and_before_the_softmax():
    """Rows sum to 1, and one distance in heads of 4 and of 16 features differs in logit by a factor of 2."""
    gaps = []
    for size in (4, 16):
        key = torch.zeros(1, 1, 2, size, dtype=torch.float64)
        key[..., 1, 0] = 1
        matrix = l2_attention(key, key, torch.eye(2, dtype=torch.float64)[None, None])[0, 0]
        assert matrix.sum(1).tolist() == pytest.approx([1, 1])
        gaps.append((matrix[0, 0].log() - matrix[0, 1].log()).item())
    assert gaps == pytest.approx([1 / 2, 1 / 4])


@pytest.mark.parametrize("attention", [L2Attention, SelfAttention])
def test_heads_do_not_see_each_other(attention: type[nn.Module]):
    """With an identity at the end, the value of one head changes the features of that head alone."""
    module = attention(WIDTH, HEADS)
    assert isinstance(module, (L2Attention, SelfAttention))
    module.out.assign(torch.eye(WIDTH))
    x = torch.randn(1, 5, WIDTH)
    before = module(x)
    weight = module.value.effective_weight().detach().clone()
    weight[4:8] += 1
    module.value.assign(weight)
    changed = (module(x) - before).abs().amax((0, 1)) > 1e-6
    assert changed.nonzero().flatten().tolist() == [4, 5, 6, 7]


@pytest.mark.parametrize("misspelt", ["spectral", "spectral_normalisation", "use_isn"])
def test_a_misspelt_option_does_not_turn_improved_spectral_norm_off(misspelt: str):
    """An option that is not there is an error in Python, in a file and on the command line."""
    recipe = recipes.get("digits")
    assert recipe.discriminator.spectral_norm == "improved"
    keywords: dict[str, Any] = {misspelt: "improved"}
    with pytest.raises(TypeError, match=misspelt):
        VisionTransformerOptions(**keywords)
    written = recipe.to_dict()
    written["discriminator"][misspelt] = "improved"
    with pytest.raises(UserError, match=misspelt):
        Recipe.from_dict(written)
    with pytest.raises(UserError, match=misspelt.replace("_", "[-_]")):
        override(recipe, [f"--discriminator.{misspelt.replace('_', '-')}", "improved"])


@pytest.mark.parametrize(
    ("part", "field", "value"),
    [
        ("discriminator", "spectral_norm", "imporved"),
        ("discriminator", "attention", "L2"),
        ("discriminator", "head", "mlp"),
        ("generator", "entry", "D"),
        ("generator", "output", "siren"),
        ("generator", "implicit_combine", "modulate"),
    ],
)
def test_a_misspelt_value_does_not_fall_through_to_another_choice(part: str, field: str, value: str):
    recipe = recipes.get("digits")
    written = recipe.to_dict()
    written[part][field] = value
    with pytest.raises(UserError, match=value):
        Recipe.from_dict(written)
    with pytest.raises(UserError, match=value):
        override(recipe, [f"--{part}.{field.replace('_', '-')}", value])


@pytest.mark.parametrize(
    "options",
    [
        VisionTransformerOptions(**SMALL, spectral_norm="imporved"),  # type: ignore[arg-type]
        VisionTransformerOptions(**SMALL, attention="L2"),  # type: ignore[arg-type]
        VisionTransformerOptions(**SMALL, head="Tanh"),  # type: ignore[arg-type]
        ViTGANGeneratorOptions(**SMALL, output="neurrep"),  # type: ignore[arg-type]
        ViTGANGeneratorOptions(**SMALL, implicit_combine="concat"),  # type: ignore[arg-type]
        ViTGANGeneratorOptions(**SMALL, entry="c"),  # type: ignore[arg-type]
    ],
)
def test_a_misspelt_value_in_python_is_refused(options: VisionTransformerOptions | ViTGANGeneratorOptions):
    with pytest.raises(UserError, match="must be one of"):
        options.build(resolution=8, channels=1)


def test_consistency_of_an_image_with_itself_is_refused():
    """bCR against clean images, with nothing augmented, would be zero and say nothing."""
    recipe = recipes.get("cifar10")
    with pytest.raises(UserError, match="compares each image with itself"):
        replace(recipe, augment=NO_AUGMENT, terms=(BCR(against="clean"),))
    replace(recipe, augment=NO_AUGMENT, terms=(BCR(),))


def test_self_modulation_is_not_by_scalars():
    """gamma and beta have a value for each of the D features."""
    norm = SelfModulatedLayerNorm(WIDTH, 5)
    w = torch.randn(2, 5)
    for affine in (norm.gamma, norm.beta):
        assert affine(w).shape == (2, WIDTH)
        assert affine(w).std(1).min() > 0.01


def test_self_modulation_is_not_shared_by_the_sublayers():
    """Each block has two norms and the end has one, each with two affine maps of its own."""
    generator = ViTGANGeneratorOptions(**SMALL).build(resolution=8, channels=3)
    norms = [module for module in generator.modules() if isinstance(module, SelfModulatedLayerNorm)]
    assert len(norms) == 2 * 2 + 1
    storages = {p.data_ptr() for norm in norms for p in norm.parameters()}
    assert len(storages) == 4 * len(norms)


@pytest.mark.parametrize("norm", [lambda: LayerNorm(WIDTH), lambda: SelfModulatedLayerNorm(WIDTH, 5)])
def test_the_residual_is_h_itself_and_the_perceptrons_output_is_kept(norm: Any):
    """With both sublayers' last weights at 0, a block adds their last biases to h itself."""
    block = Block(SelfAttention(WIDTH, HEADS), MultilayerPerceptron(WIDTH, 24), norm)
    h, w = 3 * torch.randn(2, 5, WIDTH) + 1, torch.randn(2, 5)
    attention, perceptron = torch.randn(WIDTH), torch.randn(WIDTH)
    assert isinstance(block.attention, SelfAttention)
    assert isinstance(block.perceptron, MultilayerPerceptron)
    block.attention.out.assign(torch.zeros(WIDTH, WIDTH), attention)
    block.perceptron.down.assign(torch.zeros(WIDTH, 24), perceptron)
    torch.testing.assert_close(block(h, w), h + attention + perceptron)


@pytest.mark.parametrize(("resolution", "patch"), [(32, 4), (64, 8)])
def test_the_sequence_has_64_patches_and_not_49(resolution: int, patch: int):
    """At the paper's sizes the discriminator's sequence is 64 tokens and the class token, overlap or not."""
    for overlap in (0, patch // 2):
        assert patchify(torch.zeros(1, 3, resolution, resolution), patch, overlap).shape[1] == 64
        options = replace(VisionTransformerOptions(**SMALL), patch=patch, overlap=overlap)
        model = options.build(resolution=resolution, channels=3)
        lengths: list[int] = []
        model.blocks[0].register_forward_hook(lambda _, args, __, seen=lengths: seen.append(args[0].shape[1]))
        model(torch.zeros(1, 3, resolution, resolution))
        assert lengths == [65]


@pytest.mark.parametrize(("kind", "reach"), [("linear", 0), ("implicit", 0), ("conv", 3)])
def test_tokens_are_not_reshaped_as_an_image(kind: str, reach: int):
    """Token k of 8 x 8 moves patch (k // 8, k % 8); where the output convolves, at most three around it."""
    output = {
        "linear": lambda: LinearOutput(WIDTH, 4, 3),
        "implicit": lambda: ImplicitOutput(WIDTH, 4, 3, hidden=WIDTH),
        "conv": lambda: ConvolutionalOutput(WIDTH, 4, 3, 5),
    }[kind]()
    tokens, w = torch.randn(1, 64, WIDTH), torch.randn(1, 5)
    before = output(tokens, w)
    for k in (0, 7, 14, 35, 57):
        moved = tokens.clone()
        moved[:, k] += 1
        change = (output(moved, w) - before)[0].abs().sum(0)
        rows, columns = (change > 1e-6).view(8, 4, 8, 4).any(3).any(1).nonzero().unbind(1)
        assert max((rows - k // 8).abs().max(), (columns - k % 8).abs().max()) <= reach
        assert (change.view(8, 4, 8, 4)[k // 8, :, k % 8] > 0).all()


@pytest.mark.parametrize("output", ["linear", "implicit", "conv"])
@pytest.mark.parametrize("entry", ["A", "B", "C"])
@torch.no_grad()
def test_images_have_contrast_at_the_start(entry: Any, output: Any):
    """At the paper's size the first images have a deviation in [0.1, 1], and differ between latents."""
    torch.manual_seed(0)
    generator = ViTGANGeneratorOptions(entry=entry, output=output).build(resolution=32, channels=3)
    images = generator(torch.randn(8, generator.latent_dim))
    assert 0.1 <= images.std() <= 1
    assert images.std(0).mean() > (0.003 if entry == "B" else 0.05)


@pytest.mark.parametrize("name", recipes.BASES)
@torch.no_grad()
def test_images_of_a_recipe_have_contrast_at_the_start(name: str):
    recipe = recipes.get(name)
    torch.manual_seed(0)
    generator = recipe.generator.build(resolution=recipe.data.resolution, channels=recipe.data.channels)
    assert 0.1 <= generator(torch.randn(8, generator.latent_dim)).std() <= 1


def test_the_sine_network_sees_the_coordinates():
    """Every pixel of a patch has a colour of its own."""
    colours = ImplicitOutput(WIDTH, 4, 3, hidden=WIDTH)(torch.randn(1, 1, WIDTH))
    assert torch.pdist(colours[0].flatten(1).T).min() > 1e-3


def test_the_sine_network_has_no_final_sine():
    """The colours are linear in the last layer's weight: ten times the weight, ten times the colour."""
    module = ImplicitOutput(WIDTH, 4, 3, hidden=WIDTH, combine="sum")
    assert isinstance(module.colour, Linear)
    tokens = torch.randn(1, 4, WIDTH)
    before = module(tokens)
    module.colour.assign(10 * module.colour.effective_weight())
    torch.testing.assert_close(module(tokens), 10 * before)
    assert module(tokens).abs().max() > 1


@pytest.mark.parametrize("hidden", [16, 400])
def test_a_sine_layer_is_not_initialised_by_fan_out(hidden: int):
    """Its weights fill SIREN's U(+-sqrt(6 / I) / omega_0) with I its inputs, whatever its outputs."""
    module = ImplicitOutput(64, 4, 3, hidden=hidden, combine="sum", omega_0=30.0)
    assert isinstance(module.sine, Linear)
    bound = math.sqrt(6 / 64) / 30
    weight = module.sine.effective_weight()
    assert 0.97 * bound < weight.abs().max() <= bound * 1.0001
    assert weight.std().item() == pytest.approx(bound / math.sqrt(3), rel=0.05)


def test_fourier_features_are_trained():
    module = ImplicitOutput(WIDTH, 4, 3, hidden=WIDTH)
    module(torch.randn(1, 4, WIDTH)).square().sum().backward()
    assert module.fourier.weight.grad is not None
    assert module.fourier.weight.grad.abs().min() > 0


def test_the_overlap_is_half_a_patch_by_default():
    assert replace(VisionTransformerOptions(**SMALL), patch=4).build(resolution=8, channels=1).overlap == 2
    assert replace(VisionTransformerOptions(**SMALL), overlap=0).build(resolution=8, channels=1).overlap == 0
