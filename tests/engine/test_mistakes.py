"""Mistakes that stop a ViTGAN from learning, one test each: those of the average and of a resumed run."""

import copy
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

import vitgan
from vitgan.adversarial import BCR, DiffAugment, Game, Logistic, train_step
from vitgan.data import batches
from vitgan.engine.checkpoint import save_checkpoint
from vitgan.engine.gan import Recipe, State, build_state, step_generator
from vitgan.engine.optim import update_average
from vitgan.models import VisionTransformerOptions, ViTGANGeneratorOptions

SMALL: dict[str, Any] = {"patch": 4, "depth": 2, "width": 16, "heads": 2, "perceptron_width": 24}
RECIPE = replace(
    vitgan.recipes.get("digits"),
    generator=ViTGANGeneratorOptions(latent_dim=8, mapping_depth=2, **SMALL),
    discriminator=VisionTransformerOptions(**SMALL),
)
RECIPE = replace(RECIPE, data=replace(RECIPE.data, resolution=8))
GAME = Game(loss=Logistic(), augment=DiffAugment(), terms=(BCR(),))
CPU = torch.device("cpu")


def trained(steps: int, state: State | None = None, start: int = 0) -> State:
    """`state`, or a new one, after steps on images that are a function of the step."""
    state = build_state(RECIPE, None, CPU) if state is None else state
    for step in range(start, start + steps):
        images = torch.randn(8, 1, 8, 8, generator=torch.Generator().manual_seed(step)).clamp(-1, 1)
        train_step(state.players, GAME, images, None, step_generator(0, step, CPU), step)
        update_average(state.average, state.players.generator, 0.9)
    return state


def weights(module: nn.Module) -> dict[str, Tensor]:
    return {name: tensor.detach().clone() for name, tensor in module.state_dict().items()}


def test_the_average_moves_in_every_update_alike():
    """Every parameter of the average moves in the third update as in the first, by the same share."""
    state = trained(1)
    model = state.players.generator
    average = copy.deepcopy(model)
    for step in range(1, 4):
        trained(1, state, start=step)
        before = weights(average)
        update_average(average, model, 0.75)
        for name, new in model.named_parameters():
            expected = 0.75 * before[name] + 0.25 * new.detach()
            torch.testing.assert_close(average.get_parameter(name).detach(), expected)
            assert not torch.equal(before[name], expected), name


def test_buffers_do_not_stay_behind():
    average, model = nn.BatchNorm1d(3), nn.BatchNorm1d(3)
    model(torch.randn(5, 3))
    update_average(average, model, 0.99)
    for name, buffer in model.named_buffers():
        assert torch.equal(average.get_buffer(name), buffer), name


def test_samples_are_not_of_the_raw_generator(tmp_path: Path):
    """`vitgan.load` returns the averaged generator."""
    state = trained(3)
    data = {"fingerprint": "", "images": 13}
    description = {"recipe": RECIPE.to_dict(), "classes": 0, "seconds": 0.0, "data": data}
    loaded = vitgan.load(save_checkpoint(tmp_path, 192, state.tensors(), description))
    z = loaded.latents(4, seed=0)
    assert torch.equal(loaded(z), state.average(z))
    assert not torch.equal(loaded(z), state.players.generator(z))


def test_a_resumed_run_loses_no_optimiser_average_or_sigma():
    """Two steps, all tensors into a new run of other weights, and two more are four steps bit for bit."""
    whole = trained(4)
    half = trained(2).tensors()
    other: Recipe = replace(RECIPE, training=replace(RECIPE.training, seed=5))
    resumed = build_state(other, None, CPU)
    resumed.load(half)
    trained(2, resumed, start=2)
    expected = whole.tensors()
    assert resumed.tensors().keys() == expected.keys()
    for name, tensor in resumed.tensors().items():
        assert torch.equal(tensor, expected[name]), name


def test_a_resumed_run_keeps_the_order_of_the_data(tmp_path: Path):
    """A stream entered at image 40 continues the one from image 0."""
    path = tmp_path / "images.npy"
    np.save(path, np.random.default_rng(0).integers(0, 256, (50, 8, 8), dtype=np.uint8))
    data = replace(RECIPE.data, source=str(path)).build()

    def stream(images_seen: int, count: int) -> Tensor:
        found = batches(data, batch=20, seed=3, images_seen=images_seen, device="cpu")
        return torch.cat([batch.images for batch in islice(found, count)])

    assert torch.equal(stream(0, 5)[40:], stream(40, 3))
    assert not torch.equal(stream(0, 1), stream(20, 1))
