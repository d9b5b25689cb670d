"""Second derivatives through StyleGAN2, by R1 and by path length, against finite differences in float64.

Shapes: B batch, C channels, H x W image, E width of w, L styles.
"""

import copy
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

import twins
from vitgan.adversarial import R1, GeneratorPass, Pass, PathLength
from vitgan.models import (
    Judgement,
    StyleGAN2DiscriminatorOptions,
    StyleGAN2Generator,
    StyleGAN2GeneratorOptions,
)
from vitgan.models.stylegan2 import minibatch_deviation
from vitgan.nn import ModulatedConvolution
from vitgan.nn.convolution import Blur, Upsample

pytestmark = pytest.mark.parity

GENERATOR = StyleGAN2GeneratorOptions(channel_base=32, channel_max=6, latent_dim=5, width=4, mapping_depth=2)
DISCRIMINATOR = StyleGAN2DiscriminatorOptions(channel_base=32, channel_max=6, group=2)


def close(found: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(found.detach().double(), expected, rtol=1e-4, atol=0)


def test_second_derivatives_of_the_parts_are_those_of_finite_differences():
    """They go through every operation that path length or R1 passes."""
    x, w = twins.random(2, 2, 4, 4).requires_grad_(), twins.random(2, 3, seed=2).requires_grad_()
    up = ModulatedConvolution(2, 2, 3, 3, up=True).double()
    assert torch.autograd.gradgradcheck(up, (x, w))
    assert torch.autograd.gradgradcheck(Upsample().double(), x)
    assert torch.autograd.gradgradcheck(Blur(padding=1, stride=2).double(), x)
    assert torch.autograd.gradgradcheck(lambda images: minibatch_deviation(images, 2), x)


def direction(parameter: Tensor, seed: int) -> Tensor:
    return twins.random(parameter.numel(), seed=seed).view_as(parameter)


def slope_and_gradient(model: nn.Module, penalty: Tensor, exact: Callable[[nn.Module], Tensor]) -> None:
    """The gradient of `penalty` along a random direction is the float64 finite difference of `exact`."""
    penalty.backward()
    moving = copy.deepcopy(model).double()
    directions = {n: direction(p, seed=k) for k, (n, p) in enumerate(model.named_parameters())}

    def moved(distance: float) -> float:
        for name, start in model.named_parameters():
            moving.get_parameter(name).data = start.detach().double() + distance * directions[name]
        return exact(moving).item()

    slope = (moved(1e-5) - moved(-1e-5)) / 2e-5
    gradients = {n: p.grad for n, p in model.named_parameters() if p.grad is not None}
    found = sum(float((g.double() * directions[n]).sum()) for n, g in gradients.items())
    assert found == pytest.approx(slope, rel=1e-3)


def test_r1_and_its_gradient_are_those_of_whole_jacobians():
    """R1 is gamma / 2 E |grad D|^2, where D's logit of an image depends on its group."""
    torch.manual_seed(0)
    model = twins.scramble(DISCRIMINATOR.build(resolution=16, channels=3))
    images = twins.random(2, 3, 16, 16)

    def exact(network: nn.Module) -> Tensor:
        jacobian = torch.autograd.functional.jacobian(lambda x: network(x).sum(), images)
        assert isinstance(jacobian, Tensor)
        return 0.7 / 2 * jacobian.square().sum() / 2

    logits = Judgement(torch.zeros(2, 1))
    seen = Pass(model, 0, torch.Generator(), images.float(), images.float(), None, logits, logits, None, None)
    penalty = R1(gamma=0.7, every=1).losses(seen)["r1"]
    close(penalty, exact(copy.deepcopy(model).double()))
    slope_and_gradient(model, penalty, exact)


def drawn(count: int, size: int, seed: int) -> tuple[Tensor, Tensor]:
    """The latents and the pixels' noise y that PathLength draws."""
    rng = torch.Generator().manual_seed(seed)
    z = torch.randn(count, 5, generator=rng)
    return z.double(), torch.randn(count, 3, size, size, generator=rng).double() / size


def test_path_length_and_its_gradient_are_those_of_whole_jacobians():
    """It is every weight E(|J^T y| - a)^2, sample by sample, and a becomes 0.99 a + 0.01 E |J^T y|."""
    torch.manual_seed(0)
    model = twins.scramble(GENERATOR.build(resolution=8, channels=3))
    model.path_length_mean.fill_(3.0)
    z, y = drawn(3, 8, 11)

    def lengths(network: StyleGAN2Generator) -> Tensor:
        norms = []
        for latent, noise in zip(z, y, strict=True):
            w = network.mapping(latent[None])
            jacobian = torch.autograd.functional.jacobian(network.synthesise, w, create_graph=False)
            assert isinstance(jacobian, Tensor)  # (1, C, H, W, 1, L, E)
            product = torch.einsum("chw,chwle->le", noise, jacobian[0, :, :, :, 0])
            norms.append(torch.sqrt((product**2).sum(1).mean()))
        return torch.stack(norms)

    mean = 0.99 * 3.0 + 0.01 * lengths(copy.deepcopy(model).double()).mean()

    def exact(network: nn.Module) -> Tensor:
        assert isinstance(network, StyleGAN2Generator)
        return 5 * 0.7 * ((lengths(network) - mean) ** 2).mean()

    seen = GeneratorPass(model, 4, torch.Generator().manual_seed(11), 6, None, torch.float32)
    penalty = PathLength(weight=0.7, every=5).losses(seen)["path_length"]
    close(penalty, exact(copy.deepcopy(model).double()))
    assert model.path_length_mean.item() == pytest.approx(mean.item(), rel=1e-4)
    slope_and_gradient(model, penalty, exact)
