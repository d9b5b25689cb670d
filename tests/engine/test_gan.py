"""The settings of a GAN's training reach its networks and its game; compiled blocks compute what they did."""

from collections.abc import Callable
from dataclasses import replace
from unittest import mock

import pytest
import torch
from torch import Tensor

import systems
import vitgan
from vitgan.adversarial import Players
from vitgan.data import Batch
from vitgan.engine.compile import Compiled, compile_blocks
from vitgan.engine.gan import GANTask, Recipe
from vitgan.errors import UserError
from vitgan.models import VisionTransformerOptions, ViTGANGeneratorOptions
from vitgan.recipes.settings import override

CPU = torch.device("cpu")
SIZES = {"patch": 2, "depth": 2, "width": 16, "heads": 2, "perceptron_width": 24}


def tiny_recipe(*words: str) -> Recipe:
    sizes = [
        f"--{part}.{k.replace('_', '-')}={v}"
        for part in ("generator", "discriminator")
        for k, v in SIZES.items()
    ]
    flags = ["--generator.latent-dim=8", "--generator.mapping-depth=2", "--training.batch=8", *sizes, *words]
    return override(vitgan.recipes.get("digits"), flags)


def test_settings_reach_the_networks():
    task = GANTask(
        tiny_recipe("--training.activation-checkpointing=True", "--training.accumulate=2"), None, CPU
    )
    assert task.state.players.generator.activation_checkpointing
    assert task.state.players.discriminator.activation_checkpointing
    assert task.game.accumulate == 2
    assert task.game.shared_fakes
    assert not GANTask(tiny_recipe("--training.shared-fakes=False"), None, CPU).game.shared_fakes


def test_systems_that_do_not_know_how_to_compute_again_say_so():
    recipe = vitgan.recipes.get("digits-stylegan2")
    recipe = replace(recipe, training=replace(recipe.training, activation_checkpointing=True))
    with pytest.raises(UserError, match="StyleGAN2Generator has no activation checkpointing"):
        GANTask(recipe, None, CPU)


def test_a_batch_that_its_parts_do_not_divide_is_refused():
    with pytest.raises(UserError, match=r"batch 8 is not a multiple of --training.accumulate 3"):
        tiny_recipe("--training.accumulate=3")


GENERATOR = ViTGANGeneratorOptions(latent_dim=8, mapping_depth=2, **SIZES)  # type: ignore[arg-type]
DISCRIMINATOR = VisionTransformerOptions(**SIZES)  # type: ignore[arg-type]


def players(classes: int = 0) -> Players:
    torch.manual_seed(0)
    one = GENERATOR.build(resolution=8, channels=1, classes=classes)
    other = DISCRIMINATOR.build(resolution=8, channels=1, classes=classes)
    return systems.players(one.double(), other.double())


def assert_same(found: dict[str, Tensor], expected: dict[str, Tensor], tolerance: float = 1e-5) -> None:
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        assert torch.isfinite(value).all()
        torch.testing.assert_close(found[name], value, rtol=tolerance, atol=tolerance, msg=name)


def eager_backend(fail: bool) -> Callable[..., object]:
    def compile_or_fail(function: Callable[..., object], **_: object) -> Callable[..., object]:
        if fail:
            raise RuntimeError("No working C++ compiler found.\nand much more")
        return torch._dynamo.optimize("eager")(function)

    return compile_or_fail


@pytest.mark.parity
@pytest.mark.filterwarnings("ignore")  # of the compiler's own
def test_compiled_blocks_are_the_same_update():
    """The graph that is captured computes what the code does; no compiler is needed to see that."""
    recipe = tiny_recipe("--terms.r1.gamma=0.1")
    batch = Batch(systems.toy_images(8, 1)[:8], None)
    plain = GANTask(recipe, None, CPU)
    with mock.patch("torch.compile", eager_backend(fail=False)):
        task = GANTask(replace(recipe, training=replace(recipe.training, compile="on")), None, CPU)
    assert task.note is not None
    assert "Compiling 5 blocks" in task.note
    for one in (plain, task):
        one.step(batch, 0)
        one.step(batch, 8)
    assert_same(task.tensors(), plain.tensors())


@pytest.mark.parity
def test_without_a_compiler_training_goes_on():
    with mock.patch("torch.compile", eager_backend(fail=True)):
        pair = players()
        line = compile_blocks("on", CPU, pair.generator, pair.discriminator)
    assert line == (
        "torch.compile does not work here (No working C++ compiler found): training goes on without it."
    )
    assert not any(isinstance(m.forward, Compiled) for m in pair.generator.modules())


@pytest.mark.parity
def test_a_cpu_compiles_only_when_told_to():
    pair = players()
    assert compile_blocks("auto", CPU, pair.generator) is None
    assert compile_blocks("off", CPU, pair.generator) is None
    assert compile_blocks("on", CPU, torch.nn.Linear(1, 1)) is not None
