"""The largest singular values of a network's weights, against decompositions in float64."""

import copy
from dataclasses import replace

import pytest
import torch
from torch import nn

from vitgan.diagnostics.lipschitz import LayerSigma, largest_singular_value, normalised, sigmas
from vitgan.models import VisionTransformer, VisionTransformerOptions
from vitgan.nn import Convolution, Linear, ModulatedConvolution

OPTIONS = VisionTransformerOptions(patch=4, depth=1, width=12, heads=2, perceptron_width=20)


def network(**options: str) -> tuple[VisionTransformer, VisionTransformer]:
    """One after weights have moved and the power iteration has caught up, and the same at its start."""
    torch.manual_seed(0)
    start = replace(OPTIONS, **options).build(resolution=8, channels=1)
    moved = copy.deepcopy(start)
    with torch.no_grad():
        for parameter in moved.parameters():
            parameter.add_(0.5 * torch.randn_like(parameter))
    for _ in range(300):
        moved.advance()
    return moved, start


def by_name(found: list[LayerSigma]) -> dict[str, LayerSigma]:
    return {layer.layer: layer for layer in found}


def exact(layer: nn.Module) -> float:
    assert isinstance(layer, Linear)
    return float(torch.linalg.svdvals(layer.weight.detach().double() * layer.scale)[0])


@pytest.mark.parametrize("shape", [(5, 9), (9, 5), (1, 7), (4, 3, 3, 3)])
def test_the_largest_singular_value_is_that_of_a_decomposition(shape: tuple[int, ...]):
    weight = torch.randn(*shape, generator=torch.Generator().manual_seed(0))
    expected = float(torch.linalg.svdvals(weight.double().flatten(1))[0])
    assert largest_singular_value(weight) == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("norm", ["improved", "plain", "none"])
def test_sigma_is_told_of_the_stored_the_used_and_the_first_weight(norm: str):
    """Improved, the weight in use keeps its first sigma; plain, it has 1; without a norm it has its own."""
    moved, start = network(spectral_norm=norm)
    found = by_name(sigmas(moved, start))
    names = [name for name, module in moved.named_modules() if isinstance(module, Linear)]
    assert sorted(found) == sorted(names)
    for name, layer in found.items():
        assert layer.kind == "linear"
        assert layer.start == pytest.approx(exact(start.get_submodule(name)), rel=1e-6)
        assert layer.stored == pytest.approx(exact(moved.get_submodule(name)), rel=1e-6)
        used = {"improved": layer.start, "plain": 1.0, "none": layer.stored}[norm]
        assert layer.used == pytest.approx(used, rel=1e-4)
        assert layer.ratio == pytest.approx(used / layer.start, rel=1e-4)


def test_the_start_is_the_spectral_norms_own_where_it_has_one():
    moved, start = network()
    with torch.no_grad():
        for parameter in start.parameters():
            parameter.zero_()
    assert all(layer.start > 0.1 for layer in sigmas(moved, start))


def test_convolutions_are_named_so_and_of_the_weight_in_use():
    class Mixed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.own, self.torchs = Convolution(2, 3), nn.Conv2d(2, 3, 3)
            self.modulated = ModulatedConvolution(4, 5, 3, 6)
            self.table, self.norm = nn.Embedding(7, 3), nn.LayerNorm(3)

    torch.manual_seed(0)
    mixed = Mixed()
    found = by_name(sigmas(mixed, mixed))
    kinds = {name: layer.kind for name, layer in found.items()}
    assert kinds == dict.fromkeys(("own", "torchs", "modulated"), "convolution") | {
        "modulated.style": "linear"
    }
    weight = (mixed.modulated.weight * mixed.modulated.scale).detach().double()
    expected = torch.linalg.svdvals(weight.flatten(1))[0]
    assert found["modulated"].used == pytest.approx(float(expected), rel=1e-6)


def test_normalised_leaves_the_layers_as_they_were():
    moved, _ = network()
    layer = moved.embed
    with normalised(moved):
        assert layer.normalised is not None
    assert layer.normalised is None
