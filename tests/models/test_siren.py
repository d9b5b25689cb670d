"""SIREN against a slow float64 twin, and the properties that its paper claims.

Shapes: N points, C channels, D width.
"""

import math

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from vitgan.errors import UserError
from vitgan.models.siren import Siren, SirenOptions, image_coordinates
from vitgan.nn import Linear, pixel_coordinates

pytestmark = pytest.mark.parity


def siren(seed: int = 0, *, depth: int = 5, width: int = 64, channels: int = 3) -> Siren:
    torch.manual_seed(seed)
    return SirenOptions(depth=depth, width=width).build(channels=channels)


def points(count: int, seed: int = 0) -> Tensor:
    return 2 * torch.rand(count, 2, generator=torch.Generator().manual_seed(seed)) - 1


def layers(model: Siren) -> list[Linear]:
    return [layer for layer in model.layers if isinstance(layer, Linear)]


def twin(model: Siren, v: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """One point after the other, in float64: f(v) (C,) and its Jacobian (C, 2) by the chain rule."""
    matrices = [layer.weight.detach().double().numpy() for layer in layers(model)]
    biases = [layer.bias.detach().double().numpy() for layer in layers(model) if layer.bias is not None]
    x, jacobian, omega = v.astype(np.float64), np.eye(2), model.options.omega_0
    for matrix, bias in zip(matrices[:-1], biases[:-1], strict=True):
        argument = omega * (matrix @ x + bias)
        jacobian = np.diag(omega * np.cos(argument)) @ matrix @ jacobian
        x = np.sin(argument)
    return matrices[-1] @ x + biases[-1], matrices[-1] @ jacobian


def test_the_network_and_its_gradient_are_those_of_the_equation() -> None:
    model, v = siren(), points(20).double()
    values, jacobians = zip(*(twin(model, point) for point in v.numpy()), strict=True)
    torch.testing.assert_close(model(v), torch.from_numpy(np.stack(values)), rtol=0, atol=1e-6)
    slope = np.linalg.norm(np.stack(jacobians).mean(1), axis=1)
    torch.testing.assert_close(model.slope(v), torch.from_numpy(slope), rtol=1e-5, atol=1e-5)


def test_arguments_of_the_sines_are_distributed_as_the_paper_says() -> None:
    """Behind the first sine they are arcsine, then normal, of a variance that converges with depth."""
    model, x, variance = siren(depth=8, width=512), points(512), 1.0
    for i, layer in enumerate(layers(model)[:-1]):
        argument = 30 * layer(x)
        x = torch.sin(argument)
        if i == 0:
            moments = [x.mean().item(), x.square().mean().item(), x.pow(4).mean().item()]
            assert moments == pytest.approx([0, 1 / 2, 3 / 8], abs=0.04)
            continue
        assert argument.var().item() == pytest.approx(variance, abs=0.08)
        kurtosis = argument.pow(4).mean() / argument.square().mean().square()
        assert kurtosis.item() == pytest.approx(3, abs=0.3)
        variance = 1 - math.exp(-2 * variance)
    assert variance == pytest.approx(0.797, abs=0.01)


def test_weights_start_uniform_within_the_papers_bounds() -> None:
    model = siren(width=256)
    bounds = [1 / 2, *[math.sqrt(6 / 256) / 30] * 4]
    for layer, bound in zip(layers(model), bounds, strict=True):
        greatest = layer.weight.detach().abs().max().item()
        assert 0.98 * bound < greatest <= bound
        assert layer.weight.detach().var().item() == pytest.approx(bound**2 / 3, rel=0.1)


def test_f_is_no_odd_function() -> None:
    """Without phases f(-v) = -f(v), and every picture would have to unlearn that."""
    model, v = siren(), points(200)
    even = (model(v) + model(-v)).square().mean()
    assert even > 0.5 * (model(v) - model(-v)).square().mean()


def test_coordinates_are_the_centres_of_pixels_rows_first() -> None:
    assert torch.equal(image_coordinates(5, 5), pixel_coordinates(5))
    wide = image_coordinates(1, 4)
    assert wide.tolist() == [[-0.75, 0.0], [-0.25, 0.0], [0.25, 0.0], [0.75, 0.0]]


def test_render_puts_every_pixel_in_its_place_at_any_size() -> None:
    model = siren(channels=2)
    image = model.render(4, 6)
    assert image.shape == (2, 4, 6)
    at = torch.tensor([[(5 + 0.5) / 3 - 1, (1 + 0.5) / 2 - 1]])  # column 5, row 1
    torch.testing.assert_close(image[:, 1, 5], model(at)[0])
    finer = model.render(12, 18)[:, 1::3, 1::3]  # the centre of three is the centre of one
    torch.testing.assert_close(finer, image, rtol=0, atol=1e-4)


def test_it_fits_high_frequencies_that_a_relu_network_of_its_size_does_not() -> None:
    v = image_coordinates(24, 24)
    target = torch.sin(40 * v[:, :1]) * torch.cos(31 * v[:, 1:])
    torch.manual_seed(0)
    hidden = [nn.Linear(2, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU()]
    relu = nn.Sequential(*hidden, nn.Linear(64, 1))
    sines = siren(depth=4, channels=1)
    assert sum(p.numel() for p in relu.parameters()) == sum(p.numel() for p in sines.parameters())
    assert fit(sines, v, target) > fit(relu, v, target) + 20


def fit(model: nn.Module, v: Tensor, target: Tensor) -> float:
    """PSNR after 150 steps, dB."""
    optimiser = torch.optim.Adam(model.parameters(), 1e-3)
    error = torch.zeros(())
    for _ in range(150):
        error = (model(v) - target).square().mean()
        optimiser.zero_grad()
        error.backward()
        optimiser.step()
    return 10 * math.log10(4 / error.item())


def test_bfloat16_passes_forward_and_backward() -> None:
    model, v = siren(), points(50)
    colours = model(v.bfloat16())
    assert colours.dtype == torch.bfloat16
    assert (colours.float() - model(v)).abs().mean() < 0.5 * model(v).std()
    colours.float().square().mean().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() and p.grad.any() for p in model.parameters())


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (SirenOptions(depth=1), "--network.depth must be at least 2"),
        (SirenOptions(omega_0=0.0), "--network.omega-0 must be greater than 0"),
    ],
)
def test_sizes_that_make_no_network_are_refused(options: SirenOptions, sentence: str) -> None:
    with pytest.raises(UserError, match=sentence):
        options.build(channels=3)
