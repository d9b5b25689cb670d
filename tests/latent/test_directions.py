"""Directions of the latent space: principal components, factorised modulations, and edits along them."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import vitgan
from sizes import build, small
from vitgan.cli import main
from vitgan.errors import UserError
from vitgan.latent import edited, factorised, principal_components
from vitgan.latent.interpolation import latent_of

Command = Callable[..., int]


# Directions


@pytest.mark.parametrize("name", ["digits", "digits-stylegan2", "digits-biggan-diffaug"])
def test_principal_components_are_those_of_w(name: str) -> None:
    generator = build(name)
    found = principal_components(generator, 5)
    vectors = torch.stack([direction.vector.flatten() for direction in found])
    torch.testing.assert_close(vectors @ vectors.mT, torch.eye(5), rtol=0, atol=1e-4)
    deviations = [direction.deviation for direction in found]
    assert deviations == sorted(deviations, reverse=True)
    with torch.no_grad():
        w = generator.mapping(generator.latents(4096, seed=0), None).flatten(1)
    for direction in found:
        along = (w - w.mean(0)) @ direction.vector.flatten()
        assert along.std().item() == pytest.approx(direction.deviation, rel=1e-3)
    assert sum(direction.share for direction in found) <= 1


def test_a_w_that_is_the_same_in_every_layer_is_decomposed_once_to_the_same_end() -> None:
    generator = build("digits-stylegan2")
    with torch.no_grad():
        w = generator.mapping(generator.latents(4096, seed=0), None)
    assert w.shape[1] > 1
    flat = w.flatten(1).double()
    _, sigma, vectors = torch.linalg.svd(flat - flat.mean(0), full_matrices=False)
    for k, direction in enumerate(principal_components(generator, 3)):
        assert direction.vector.shape == w.shape[1:]
        assert direction.deviation == pytest.approx(sigma[k].item() / 4095**0.5, rel=1e-4)
        assert direction.share == pytest.approx((sigma[k] ** 2 / sigma.square().sum()).item(), rel=1e-4)
        assert (direction.vector.flatten().double() @ vectors[k]).abs().item() == pytest.approx(1, abs=1e-4)


@pytest.mark.parametrize("name", ["digits", "digits-stylegan2"])
def test_factorised_directions_move_the_modulations_most(name: str) -> None:
    generator = build(name)
    found = factorised(generator, 3)
    weights = torch.cat(generator.modulations())
    width = weights.shape[1]

    def response(vector: torch.Tensor) -> float:
        part = vector.reshape(-1, width)[0]
        return (weights @ (part / part.norm())).norm().item()

    responses = [response(direction.vector) for direction in found]
    assert responses == sorted(responses, reverse=True)
    assert responses[0] == pytest.approx(torch.linalg.matrix_norm(weights, 2).item(), rel=1e-4)
    random = [response(torch.randn(width)) for _ in range(50)]
    assert responses[0] > max(random)
    assert all(direction.vector.norm().item() == pytest.approx(1, abs=1e-4) for direction in found)


def test_a_generator_without_modulations_has_no_factorised_directions() -> None:
    for generator in (small(entry="A"), build("digits-biggan-diffaug")):
        with pytest.raises(UserError, match="only its principal components are there"):
            factorised(generator)


def test_an_edit_moves_w_by_deviations() -> None:
    generator = small()
    directions = {direction.name: direction for direction in principal_components(generator, 2)}
    w = latent_of(generator, 0)
    moved = edited(w, {"pca 1": 2.0, "pca 2": -1.0}, directions)
    first, second = directions.values()
    expected = 2 * first.deviation * first.vector - second.deviation * second.vector
    torch.testing.assert_close(moved - w, expected.unsqueeze(0))
    assert torch.equal(edited(w, {}, directions), w)


def test_the_command_writes_strips_and_numbers(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["directions", str(run), "--count", "3"]) == 0
    out = run / "directions"
    assert capsys.readouterr().out.splitlines()[-3:] == [
        f"Wrote {out / name}" for name in ("pca.png", "sefa.png", "directions.json")
    ]
    with Image.open(out / "sefa.png") as picture:
        assert picture.size == (2 + 9 * 50, 2 + 3 * 50)
    found = json.loads((out / "directions.json").read_text())["directions"]
    assert [one["name"] for one in found] == ["pca 1", "pca 2", "pca 3", "sefa 1", "sefa 2", "sefa 3"]
    assert np.linalg.norm(found[0]["vector"]) == pytest.approx(1, abs=1e-4)
    assert vitgan.load(run).sample(1).shape == (1, 1, 8, 8)
