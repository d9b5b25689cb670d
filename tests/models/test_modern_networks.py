"""The modern generator and discriminator: their twins, start, gradients, saving, labels and refusals."""

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

import modern_twins as twins
from vitgan.errors import UserError
from vitgan.models.modern import ModernDiscriminatorOptions, ModernGeneratorOptions

SMALL: dict[str, Any] = {"widths": (8,), "depths": (1,), "head_width": 4}
GENERATOR: dict[str, Any] = {**SMALL, "latent_dim": 5, "latent_width": 6, "output_width": 4}
DISCRIMINATOR: dict[str, Any] = {**SMALL, "stem_widths": (4, 5)}
NEW: dict[str, Any] = {"normalised": True, "rotary": True, "depthwise": True, "activation": "swiglu"}
STAGES: dict[str, Any] = {"widths": (12, 8), "depths": (1, 2)}
GENERATORS: list[dict[str, Any]] = [
    {},
    {"output": "linear", "gated": False},
    {**NEW, **STAGES, "outputs": 2},
    {"equalised": True, "output": "implicit"},
]
DISCRIMINATORS: list[dict[str, Any]] = [
    {},
    {"stem": "patches", **NEW, "layer_scale": 0.1},
    {**STAGES, "head_depth": 0, "equalised": True},
]


def generator(classes: int = 0, resolution: int = 16, channels: int = 3, **options: Any) -> Any:
    torch.manual_seed(0)
    made = ModernGeneratorOptions(**{**GENERATOR, **options})
    return made.build(resolution=resolution, channels=channels, classes=classes)


def discriminator(classes: int = 0, resolution: int = 16, channels: int = 3, **options: Any) -> Any:
    torch.manual_seed(0)
    made = ModernDiscriminatorOptions(**{**DISCRIMINATOR, **options})
    return made.build(resolution=resolution, channels=channels, classes=classes)


def scrambled(module: Any) -> Any:
    seeded = torch.Generator().manual_seed(0)
    module.double()
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(0.2 * torch.randn(parameter.shape, generator=seeded, dtype=torch.float64))
    return module


def random(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


@pytest.mark.parametrize("classes", [0, 3])
@pytest.mark.parametrize("options", GENERATORS[:3])
def test_the_generator_is_its_twin(options: dict[str, Any], classes: int) -> None:
    module = scrambled(generator(classes, **options))
    z, labels = random(2, 5), torch.tensor([2, 0]) if classes else None
    expected = torch.stack(
        [twins.generator(module, z[i], None if labels is None else int(labels[i])) for i in range(2)]
    )
    torch.testing.assert_close(module(z, labels), expected, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("classes", [0, 3])
@pytest.mark.parametrize("options", DISCRIMINATORS)
def test_the_discriminator_is_its_twin(options: dict[str, Any], classes: int) -> None:
    module = scrambled(discriminator(classes, **options))
    images, labels = random(2, 3, 16, 16), torch.tensor([2, 0]) if classes else None
    module.float().double()  # the parameters are those of fp32
    expected = torch.stack(
        [twins.discriminator(module, images[i], None if labels is None else int(labels[i])) for i in range(2)]
    )
    found = module(images, labels)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, expected.float().unsqueeze(1), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("options", GENERATORS)
@pytest.mark.parametrize("classes", [0, 3])
def test_every_parameter_of_the_generator_gets_a_gradient_and_moves(
    options: dict[str, Any], classes: int
) -> None:
    module = generator(classes, **options)
    labels = torch.arange(6) % 3 if classes else None
    _assert_all_move(module, lambda: (module(random(6, 5).float(), labels) * random(6, 3, 16, 16)).sum())


@pytest.mark.parametrize("options", DISCRIMINATORS)
@pytest.mark.parametrize("classes", [0, 3])
def test_every_parameter_of_the_discriminator_gets_a_gradient_and_moves(
    options: dict[str, Any], classes: int
) -> None:
    module = discriminator(classes, **options)
    labels = torch.arange(6) % 3 if classes else None
    _assert_all_move(module, lambda: (module(random(6, 3, 16, 16).float(), labels) * random(6, 1)).sum())


def _assert_all_move(module: nn.Module, loss: Any) -> None:
    before = {name: p.detach().clone() for name, p in module.named_parameters()}
    optimiser = torch.optim.Adam(module.parameters(), 1e-3)
    for _ in range(2):  # what is zero at the start may stop a gradient once
        optimiser.zero_grad()
        loss().backward()
        optimiser.step()
    for name, parameter in module.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.abs().sum() > 0, name
        assert not torch.equal(parameter, before[name]), name


@pytest.mark.parametrize("output", ["convolutional", "linear", "implicit"])
@pytest.mark.parametrize("resolution", [8, 28, 32])
def test_images_at_the_start_are_neither_flat_nor_saturated(output: str, resolution: int) -> None:
    torch.manual_seed(0)
    options = ModernGeneratorOptions(output=output)  # type: ignore[arg-type]
    images = options.build(resolution=resolution, channels=3)(torch.randn(32, options.latent_dim))
    assert images.shape == (32, 3, resolution, resolution)
    assert 0.1 <= images.std() <= 1
    assert images.std(0).mean() > 0.05  # one image is not the other


@pytest.mark.parametrize("resolution", [8, 28, 32])
def test_logits_at_the_start_tell_images_apart_and_are_small(resolution: int) -> None:
    torch.manual_seed(0)
    depth = 2 if resolution == 8 else 3
    module = ModernDiscriminatorOptions(stem_widths=(64, 128, 192)[:depth]).build(
        resolution=resolution, channels=3
    )
    logits = module(torch.rand(32, 3, resolution, resolution) * 2 - 1)
    assert logits.std() > 1e-3
    assert logits.abs().max() < 10


def test_what_is_saved_gives_the_same_images_and_logits(tmp_path: Path) -> None:
    z, images = torch.randn(3, 5), torch.randn(3, 3, 16, 16)
    cases = ((generator, GENERATORS, z), (discriminator, DISCRIMINATORS, images))
    for make, options, given in cases:
        for i, own in enumerate(options):
            module = scrambled(make(**own)).float()
            save_file(module.state_dict(), tmp_path / f"{i}.safetensors")
            other = make(**own)
            other.load_state_dict(load_file(tmp_path / f"{i}.safetensors"))
            assert torch.equal(module(given), other(given))


def test_checkpointed_activations_give_the_same_gradient() -> None:
    for module, given in (
        (generator(**STAGES), torch.randn(2, 5)),
        (discriminator(**STAGES), torch.randn(2, 3, 16, 16)),
    ):
        found = []
        for again in (False, True):
            module.activation_checkpointing = again
            module.zero_grad()
            module(given).square().sum().backward()
            found.append([p.grad.clone() for p in module.parameters()])
        for plain, recomputed in zip(*found, strict=True):
            torch.testing.assert_close(plain, recomputed)


def test_samples_are_a_function_of_seed_and_label() -> None:
    module = generator(classes=3)
    labels = torch.tensor([0, 1, 2, 0])
    images = module.sample(4, seed=3, labels=labels)
    assert images.dtype == torch.uint8
    assert torch.equal(images, module.sample(4, seed=3, labels=labels))
    assert not torch.equal(images, module.sample(4, seed=3, labels=labels.flip(0)))
    assert module.sample(4, seed=3, truncation=0.5).shape == (4, 3, 16, 16)


def test_an_implicit_output_renders_finer_and_others_refuse() -> None:
    module = generator(output="implicit")
    w = module.mapping(torch.randn(2, 5))
    assert module.render(w, 3).shape == (2, 3, 48, 48)
    assert torch.equal(module.render(w, 1), module.synthesise(w))
    with pytest.raises(UserError, match="implicit"):
        generator().render(w, 2)


def test_the_modulations_are_a_matrix_for_every_vector() -> None:
    module = generator(**STAGES)
    shapes = [tuple(weight.shape) for weight in module.modulations()]
    assert shapes == [(12, 6)] * 6 + [(8, 6)] * 12 + [(8, 6)] * 2


@pytest.mark.parametrize(
    ("make", "options", "message"),
    [
        (generator, {"patch": 3}, "not divided"),
        (generator, {"widths": (8, 8), "depths": (1, 1), "patch": 16}, "coarsest"),
        (generator, {"widths": (8, 8)}, "as many"),
        (generator, {"head_width": 5}, "multiple"),
        (generator, {"outputs": 2}, "last blocks"),
        (generator, {"patch": 1}, "power of two"),
        (discriminator, {"stem_widths": (4, 4, 4, 4, 4)}, "too often"),
        (discriminator, {"stem": "patches", "patch": 3}, "not divided"),
        (discriminator, {"depths": ()}, "as many"),
    ],
)
def test_sizes_that_do_not_fit_are_refused(make: Any, options: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        make(**options)


def test_bf16_activations_give_fp32_logits_near_those_of_fp32() -> None:
    module = discriminator()
    images = torch.randn(4, 3, 16, 16)
    short = module(images.bfloat16())
    assert short.dtype == torch.float32
    torch.testing.assert_close(short, module(images), rtol=0.1, atol=0.1)
