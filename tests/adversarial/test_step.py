"""A step of the game: a batch in parts, activations computed again, fakes used twice, and its kinds."""

import copy
from dataclasses import replace
from unittest import mock

import pytest
import torch
from torch import Tensor

import systems
from vitgan.adversarial import BCR, R1, CutMix, DiffAugment, Game, Logistic, Players, train_step
from vitgan.adversarial.penalties import PathLength
from vitgan.adversarial.step import Fakes, draw
from vitgan.models import VisionTransformerOptions, ViTGANGeneratorOptions
from vitgan.nn import Block

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


@pytest.mark.parity
@pytest.mark.parametrize("classes", [0, 3])
@pytest.mark.parametrize("parts", [2, 8])
def test_a_batch_in_parts_is_the_same_update(parts: int, classes: int):
    """Weights, buffers and every number of the log agree, with the same draws."""
    labels = torch.arange(8) % classes if classes else None
    whole = trained(players(classes), GAME, labels=labels)
    assert_same(trained(players(classes), replace(GAME, accumulate=parts), labels=labels), whole)


@pytest.mark.parity
@pytest.mark.parametrize("parts", [1, 2])
def test_activations_computed_again_are_the_same_update(parts: int):
    """Spectral norm, whose weights the second computation needs, and a penalty of second order are on."""
    pair = players()
    pair.generator.activation_checkpointing = pair.discriminator.activation_checkpointing = True
    assert_same(trained(pair, replace(GAME, accumulate=parts)), trained(players(), GAME))


@pytest.mark.parity
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


@pytest.mark.parity
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


@pytest.mark.parity
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


CONSISTENT = Game(loss=Logistic(), augment=DiffAugment(), terms=(BCR(),))


def kinds(game: Game, steps: int) -> list[tuple[bool, ...] | None]:
    return [game.kind(step) for step in range(steps)]


def test_steps_that_do_the_same_work_are_of_one_kind() -> None:
    assert len(set(kinds(CONSISTENT, 20))) == 1
    lazy = kinds(replace(CONSISTENT, terms=(BCR(), R1(gamma=1.0, every=4))), 9)
    assert lazy == [(True, True, step % 4 == 0) for step in range(9)]


def test_the_generators_steps_and_terms_are_told_apart() -> None:
    game = replace(CONSISTENT, generator_every=2, generator_terms=(PathLength(every=3),))
    assert kinds(game, 8) == [
        *[(False, True), (True, True, False)] * 2,
        *[(False, True), (True, True, True)],
        *[(False, True), (True, True, False)],
    ]


def test_a_step_that_decides_for_itself_is_of_no_kind() -> None:
    assert kinds(replace(CONSISTENT, terms=(BCR(), CutMix())), 2) == [None, None]
