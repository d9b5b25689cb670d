"""Lower bounds of a Lipschitz constant, against maps whose constant is known and full Jacobians."""

from collections.abc import Callable
from functools import partial
from typing import Literal

import pytest
import torch
from torch import Tensor, nn

from vitgan.diagnostics.lipschitz import ascend, gradient_norms, jacobian_norms, slopes
from vitgan.models import VisionTransformerOptions
from vitgan.nn import Block, L2Attention, LayerNorm, MultilayerPerceptron, SelfAttention

SHAPE = (1, 3, 3)


class Function(nn.Module):
    """A function of images (B, ...) as a discriminator."""

    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.function = function

    def forward(self, images: Tensor, labels: Tensor | None = None) -> Tensor:  # noqa: ARG002
        return self.function(images.flatten(1)).unsqueeze(1)


def images(count: int, seed: int = 0) -> Tensor:
    return torch.rand(count, *SHAPE, generator=torch.Generator().manual_seed(seed)) * 2 - 1


def test_a_linear_discriminator_is_as_steep_everywhere():
    w = torch.randn(9, generator=torch.Generator().manual_seed(1))
    discriminator = Function(lambda x: x @ w + 3)
    torch.testing.assert_close(gradient_norms(discriminator, images(4)), w.norm().expand(4))
    torch.testing.assert_close(ascend(discriminator, images(4))[1], w.norm().expand(4))


def test_the_ascent_finds_the_corner_of_the_box():
    """The gradient of |x|^2 / 2 has the norm |x|, at most sqrt(9) = 3 for pixels in [-1, 1]."""
    discriminator = Function(lambda x: x.square().sum(1) / 2)
    start = 0.2 * images(6).sign() + images(6) / 4
    points, norms = ascend(discriminator, start, steps=40)
    assert (norms > 2.99).all()
    assert norms.max() <= 3.00001
    assert points.abs().max() <= 1
    torch.testing.assert_close(gradient_norms(discriminator, points), norms)


def test_the_ascent_never_ends_below_its_start():
    """It keeps the best point met: started on a narrow peak, every step of this size leaves it."""
    discriminator = Function(lambda x: torch.tanh(100 * x[:, 0]))
    start = images(6) / 1000
    points, norms = ascend(discriminator, start, steps=3)
    assert (norms >= gradient_norms(discriminator, start)).all()
    torch.testing.assert_close(norms, gradient_norms(discriminator, points))


def test_a_piecewise_linear_discriminator_is_climbed_along_its_own_gradient():
    """A leaky ReLU's bend lies where its gradient leads: |grad D| is 0.2 before it and 1 behind it."""
    discriminator = Function(lambda x: nn.functional.leaky_relu(x[:, 0] - 0.4, 0.2))
    start = images(5) / 4
    torch.testing.assert_close(gradient_norms(discriminator, start), torch.full((5,), 0.2))
    torch.testing.assert_close(ascend(discriminator, start)[1], torch.ones(5))


@pytest.mark.parametrize("attention", ["l2", "dot-product"])
def test_a_vision_transformer_is_climbed_by_its_own_gradient_norms(attention: Literal["l2", "dot-product"]):
    """Both attentions have the second derivative that the ascent needs, and it climbs."""
    torch.manual_seed(0)
    options = VisionTransformerOptions(
        patch=4, depth=2, width=12, heads=2, perceptron_width=20, attention=attention
    )
    network = options.build(resolution=8, channels=1).eval()
    x = torch.rand(3, 1, 8, 8) * 2 - 1
    found = gradient_norms(network, x)
    for image, norm in zip(x, found, strict=True):
        jacobian = torch.autograd.functional.jacobian(network, image[None])
        torch.testing.assert_close(norm, jacobian.norm(), rtol=1e-5, atol=0)  # type: ignore[union-attr]
    assert (ascend(network, x)[1] > 1.1 * found).all()


def test_slopes_are_those_of_each_pair():
    a, b = images(3), images(4, seed=1)
    logits = (torch.randn(3, 1), torch.randn(4, 1))
    found = slopes(a, b, logits)
    for i in range(3):
        for j in range(4):
            expected = (logits[0][i] - logits[1][j]).abs().item() / (a[i] - b[j]).norm().item()
            assert found[i, j].item() == pytest.approx(expected, rel=1e-5)


def test_slopes_leave_out_the_same_image_and_other_labels():
    a, logits = images(3), torch.tensor([[0.0], [1.0], [2.0]])
    assert (slopes(a, a, (logits, logits)).diagonal() == 0).all()
    labels = torch.tensor([0, 1, 0])
    found = slopes(a, a, (logits, logits), (labels, labels)) > 0
    assert found.nonzero().tolist() == [[0, 2], [2, 0]]


@pytest.mark.parametrize("kind", [SelfAttention, L2Attention])
def test_jacobian_norms_are_largest_singular_values(kind: Callable[..., nn.Module]):
    """They are of a whole block, each sample alone, against the full Jacobian's decomposition."""
    torch.manual_seed(0)
    block = (
        Block(kind(6, 2), MultilayerPerceptron(6, 8), partial(LayerNorm, 6)).double().requires_grad_(False)
    )
    x = torch.randn(3, 4, 6, dtype=torch.float64)
    found = jacobian_norms(lambda h: block(h, first=2), x, iterations=300)
    for sample, norm in zip(x, found, strict=True):
        full = torch.autograd.functional.jacobian(lambda h: block(h[None], first=2)[0], sample)
        assert isinstance(full, Tensor)
        sigma = torch.linalg.svdvals(full.reshape(12, 24))[0]
        torch.testing.assert_close(norm, sigma, rtol=1e-7, atol=0)


def test_few_iterations_stay_below():
    torch.manual_seed(0)
    matrix = torch.randn(5, 7, dtype=torch.float64)
    x = torch.randn(4, 7, dtype=torch.float64)
    sigma = torch.linalg.svdvals(matrix)[0]
    for iterations in (0, 1, 5):
        assert (jacobian_norms(lambda v: v @ matrix.T, x, iterations=iterations) <= sigma * (1 + 1e-12)).all()
