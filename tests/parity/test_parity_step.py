"""The lean step against the plain one: parts of a batch, activations computed again, fakes used twice."""

import copy
from collections.abc import Callable
from dataclasses import replace
from unittest import mock

import pytest
import torch
from torch import Tensor

import systems
import vitgan
from vitgan.adversarial import BCR, R1, DiffAugment, Game, Logistic, Players, train_step
from vitgan.adversarial.step import Fakes, draw
from vitgan.data import Batch
from vitgan.engine.compile import Compiled, compile_blocks
from vitgan.engine.gan import GANTask, Recipe
from vitgan.errors import UserError
from vitgan.models import VisionTransformerOptions, ViTGANGeneratorOptions
from vitgan.nn import Block
from vitgan.recipes.overrides import override

CPU = torch.device("cpu")
SIZES = {"patch": 2, "depth": 2, "width": 16, "heads": 2, "perceptron_width": 24}
GENERATOR = ViTGANGeneratorOptions(latent_dim=8, mapping_depth=2, **SIZES)  # type: ignore[arg-type]
DISCRIMINATOR = VisionTransformerOptions(**SIZES)  # type: ignore[arg-type]
GAME = Game(loss=Logistic(), augment=DiffAugment(), terms=(BCR(), R1(gamma=0.1, every=1)))


def players(classes: int = 0) -> Players:
    torch.manual_seed(0)
    one = GENERATOR.build(resolution=8, channels=1, classes=classes)
    other = DISCRIMINATOR.build(resolution=8, channels=1, classes=classes)
    return systems.players(one.double(), other.double())


def trained(pair: Players, game: Game, steps: int = 2, labels: Tensor | None = None) -> dict[str, Tensor]:
    """Every tensor of both players, and the last step's numbers, after `steps` of 8 images in float64."""
    game = replace(game, dtype=torch.float64)
    seen: dict[str, Tensor] = {}
    for step in range(steps):
        rng = torch.Generator().manual_seed(step)
        seen = train_step(pair, game, systems.toy_images(8, 1)[:8].double(), labels, rng, step)
    networks = {"g": pair.generator, "d": pair.discriminator}
    return {f"{n}.{k}": v for n, m in networks.items() for k, v in m.state_dict().items()} | seen


def assert_same(found: dict[str, Tensor], expected: dict[str, Tensor], tolerance: float = 1e-5) -> None:
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        assert torch.isfinite(value).all()
        torch.testing.assert_close(found[name], value, rtol=tolerance, atol=tolerance, msg=name)


@pytest.mark.parametrize("classes", [0, 3])
@pytest.mark.parametrize("parts", [2, 8])
def test_a_batch_in_parts_is_the_same_update(parts: int, classes: int):
    """Weights, buffers and every number of the log, with the same draws."""
    labels = torch.arange(8) % classes if classes else None
    whole = trained(players(classes), GAME, labels=labels)
    assert_same(trained(players(classes), replace(GAME, accumulate=parts), labels=labels), whole)


@pytest.mark.parametrize("parts", [1, 2])
def test_activations_computed_again_are_the_same_update(parts: int):
    """With spectral norm, whose weights the second computation needs, and a penalty of second order."""
    pair = players()
    pair.generator.activation_checkpointing = pair.discriminator.activation_checkpointing = True
    assert_same(trained(pair, replace(GAME, accumulate=parts)), trained(players(), GAME))


def test_activations_are_computed_again():
    """The first block of each network runs twice in an update that keeps no activations."""
    pair, calls = players(), {"g": 0, "d": 0}
    for name, network in (("g", pair.generator), ("d", pair.discriminator)):
        block = next(m for m in network.modules() if isinstance(m, Block))
        block.norm_attention.register_forward_hook(lambda *_, n=name: calls.update({n: calls[n] + 1}))
    game = replace(GAME, terms=(BCR(),))
    trained(pair, game, steps=1)
    assert calls == {"g": 1, "d": 2}
    pair.generator.activation_checkpointing = pair.discriminator.activation_checkpointing = True
    trained(pair, game, steps=1)
    assert calls == {"g": 1 + 2, "d": 2 + 4}


def test_shared_fakes_are_the_gradient_of_the_same_latents():
    """One forward for both updates gives what two forwards of the same z give: D's update leaves G alone."""
    pair = players()
    game = replace(GAME, dtype=torch.float64)
    shared = trained(copy.deepcopy(pair), GAME, steps=1)
    made: list[Fakes] = []

    def again(*arguments: object, **named: object) -> Fakes:
        if made:  # G's own draw: the z of D's update, passed through G anew
            inputs = made[0]._inputs[0]
            made.append(Fakes(pair.generator, *inputs, torch.Generator(), learn=True))
        else:
            made.append(draw(*arguments, **named))  # type: ignore[arg-type]
        return made[-1]

    with mock.patch("vitgan.adversarial.step.draw", again):
        separate = trained(pair, replace(game, shared_fakes=False), steps=1)
    assert len(made) == 2
    assert_same(separate, shared, 1e-9)


def test_separate_fakes_are_others():
    drawn: list[Tensor] = []

    def noted(*arguments: object, **named: object) -> Fakes:
        fakes = draw(*arguments, **named)  # type: ignore[arg-type]
        drawn.append(fakes.images)
        return fakes

    with mock.patch("vitgan.adversarial.step.draw", noted):
        trained(players(), replace(GAME, shared_fakes=False), steps=1)
        trained(players(), GAME, steps=1)
    first, second, shared = drawn
    assert (first - second).abs().max() > 1e-3
    assert torch.equal(first, shared)


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


def test_a_batch_that_its_parts_do_not_divide():
    with pytest.raises(UserError, match=r"batch 8 is not a multiple of --training.accumulate 3"):
        tiny_recipe("--training.accumulate=3")


def eager_backend(fail: bool) -> Callable[..., object]:
    def compile_or_fail(function: Callable[..., object], **_: object) -> Callable[..., object]:
        if fail:
            raise RuntimeError("No working C++ compiler found.\nand much more")
        return torch._dynamo.optimize("eager")(function)

    return compile_or_fail


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


def test_without_a_compiler_training_goes_on():
    with mock.patch("torch.compile", eager_backend(fail=True)):
        pair = players()
        line = compile_blocks("on", CPU, pair.generator, pair.discriminator)
    assert line == (
        "torch.compile does not work here (No working C++ compiler found): training goes on without it."
    )
    assert not any(isinstance(m.forward, Compiled) for m in pair.generator.modules())


def test_a_cpu_compiles_only_when_told_to():
    pair = players()
    assert compile_blocks("auto", CPU, pair.generator) is None
    assert compile_blocks("off", CPU, pair.generator) is None
    assert compile_blocks("on", CPU, torch.nn.Linear(1, 1)) is not None
