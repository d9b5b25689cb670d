"""Spectral normalisation, plain and improved, against exact decompositions in float64."""

import pytest
import torch
from torch import Tensor

import twins
from vitgan.nn import Linear, SpectralNorm

pytestmark = pytest.mark.parity

ADVANCES = 400


def layers(**keywords: float | bool) -> list[Linear]:
    """Layers of two shapes, two of them alike, with different equalising constants."""
    torch.manual_seed(0)
    shapes = ((6, 5, 1.0), (6, 5, 0.3), (4, 9, 1.0))
    return [Linear(i, o, gain=gain, **keywords).double() for o, i, gain in shapes]  # type: ignore[arg-type]


def largest(weight: Tensor) -> Tensor:
    return torch.linalg.svdvals(weight)[0]


def normalised(layer: Linear, initial: Tensor, *, improved: bool) -> Tensor:
    weight = twins.weight_of(layer)
    return weight / largest(weight) * (initial if improved else 1)


def used(norm: SpectralNorm, group: list[Linear]) -> list[Tensor]:
    with norm.applied():
        return [layer.effective_weight() for layer in group]


@pytest.mark.parametrize("improved", [True, False])
@pytest.mark.parametrize("equalised", [True, False])
def test_effective_weights_are_those_of_exact_norms(improved: bool, equalised: bool):
    """They are sigma(W_init) W / sigma(W), or W / sigma(W), each layer by its own norms (erratum 3)."""
    group = layers(equalised=equalised)
    initial = [largest(twins.weight_of(layer)) for layer in group]
    norm = SpectralNorm(group, improved=improved).double()
    for k, layer in enumerate(group):
        twins.scramble(layer, k)
    for _ in range(ADVANCES):
        norm.advance()
    for found, layer, sigma in zip(used(norm, group), group, initial, strict=True):
        expected = normalised(layer, sigma, improved=improved)
        torch.testing.assert_close(found.detach(), expected, rtol=1e-6, atol=1e-7)
        torch.testing.assert_close(largest(found.detach()), sigma if improved else torch.ones_like(sigma))


def test_improved_norm_changes_nothing_at_the_start():
    group = layers()
    before = [twins.weight_of(layer) for layer in group]
    for found, expected in zip(used(SpectralNorm(group).double(), group), before, strict=True):
        torch.testing.assert_close(found.detach(), expected, rtol=1e-6, atol=1e-7)


def test_one_advance_is_one_step_of_power_iteration():
    """v = W^T u / |W^T u|, u = W v / |W v|, layer by layer."""
    group = layers()
    norm = SpectralNorm(group).double()
    for k, layer in enumerate(group):
        twins.scramble(layer, k)
    before = [norm.get_buffer("left_0")[0], norm.get_buffer("left_0")[1], norm.get_buffer("left_1")[0]]
    before = [u.clone() for u in before]
    norm.advance()
    after = [
        (norm.get_buffer(f"left_{g}")[k], norm.get_buffer(f"right_{g}")[k])
        for g, k in ((0, 0), (0, 1), (1, 0))
    ]
    for layer, start, (left, right) in zip(group, before, after, strict=True):
        weight = twins.weight_of(layer)
        v = weight.T @ start
        v = v / v.norm()
        u = weight @ v
        torch.testing.assert_close(right, v, rtol=1e-6, atol=1e-7)
        torch.testing.assert_close(left, u / u.norm(), rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("improved", [True, False])
def test_the_gradient_is_that_through_the_exact_norm(improved: bool):
    """The stored weight's gradient is autograd's through the exact largest singular value."""
    group = layers()
    initial = [largest(twins.weight_of(layer)) for layer in group]
    norm = SpectralNorm(group, improved=improved).double()
    for k, layer in enumerate(group):
        twins.scramble(layer, k)
    for _ in range(ADVANCES):
        norm.advance()
    weighting = [twins.random(*layer.weight.shape, seed=k) for k, layer in enumerate(group)]
    effective = used(norm, group)
    torch.stack([(a * w).sum() for a, w in zip(weighting, effective, strict=True)]).sum().backward()
    for layer, sigma, a in zip(group, initial, weighting, strict=True):
        stored = layer.weight.detach().clone().requires_grad_()
        weight = stored * layer.scale
        exact = weight / largest(weight) * (sigma if improved else 1)
        (expected,) = torch.autograd.grad((a * exact).sum(), stored)
        assert layer.weight.grad is not None
        torch.testing.assert_close(layer.weight.grad, expected, rtol=1e-5, atol=1e-6)


def test_normalised_weights_are_used_only_within():
    """Outside of `applied` the layers compute with their own weights, after an error as well."""
    group = layers()
    norm = SpectralNorm(group).double()
    twins.scramble(group[0])
    inside: list[bool] = []

    def fail() -> None:
        with norm.applied():
            inside.append(group[0].normalised is not None)
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert inside == [True]
    assert all(layer.normalised is None for layer in group)
    assert torch.equal(group[0].effective_weight().detach(), twins.weight_of(group[0]))


def test_recalibrated_norm_takes_the_present_weights_as_initial():
    group = layers()
    norm = SpectralNorm(group).double()
    for layer in group:
        layer.assign(5 * twins.weight_of(layer))
    norm.recalibrate()
    for found, layer in zip(used(norm, group), group, strict=True):
        torch.testing.assert_close(found.detach(), twins.weight_of(layer), rtol=1e-6, atol=1e-7)
