"""Mistakes that stop a ViTGAN from learning, one test each: those that take a step of training."""

import copy
from dataclasses import dataclass, replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import vitgan
from vitgan.adversarial import BCR, DiffAugment, Game, GeneratorPass, Logistic, Pass, Players, train_step
from vitgan.adversarial.step import discriminator_pass, discriminator_step, draw, generator_step
from vitgan.engine.gan import step_generator
from vitgan.engine.optim import AdamOptions
from vitgan.models import Judgement, VisionTransformer, VisionTransformerOptions, ViTGANGeneratorOptions
from vitgan.nn import Linear

SMALL: dict[str, Any] = {"patch": 4, "depth": 2, "width": 16, "heads": 2, "perceptron_width": 24}
GENERATOR = ViTGANGeneratorOptions(latent_dim=8, mapping_depth=2, **SMALL)
DISCRIMINATOR = VisionTransformerOptions(**SMALL)
RECIPE = replace(vitgan.recipes.get("digits"), generator=GENERATOR, discriminator=DISCRIMINATOR)
GAME = Game(loss=Logistic(), augment=DiffAugment(), terms=(BCR(),))
CPU = torch.device("cpu")


def players(
    generator: ViTGANGeneratorOptions = GENERATOR,
    discriminator: VisionTransformerOptions = DISCRIMINATOR,
    rate: float = 0.002,
) -> Players:
    torch.manual_seed(0)
    one, other = (
        generator.build(resolution=8, channels=3),
        discriminator.build(resolution=8, channels=3),
    )
    adam = AdamOptions(learning_rate=rate)
    return Players(
        generator=one,
        discriminator=other,
        optimiser_generator=adam.build(one.parameters()),
        optimiser_discriminator=adam.build(other.parameters()),
    )


def real(step: int = 0, count: int = 8) -> Tensor:
    """Batches of smooth coloured gradients."""
    corners = torch.randn(count, 3, 2, 2, generator=torch.Generator().manual_seed(step))
    return nn.functional.interpolate(corners, size=8, mode="bilinear", align_corners=True).tanh()


def train(pair: Players, steps: int, game: Game = GAME) -> None:
    for step in range(steps):
        train_step(pair, game, real(step), None, step_generator(0, step, CPU), step)


def weights(module: nn.Module) -> dict[str, Tensor]:
    return {name: tensor.detach().clone() for name, tensor in module.state_dict().items()}


def changed(module: nn.Module, before: dict[str, Tensor]) -> set[str]:
    return {name for name, tensor in module.state_dict().items() if not torch.equal(tensor, before[name])}


def vectors(discriminator: nn.Module) -> set[str]:
    """Names of the buffers that hold u and v, those of a single number, which cannot turn, left out."""
    return {
        name
        for name, tensor in discriminator.named_buffers()
        if name.split(".")[-1].startswith(("left", "right")) and tensor.shape[1] > 1
    }


def largest(weight: Tensor) -> Tensor:
    """The largest singular value, by an exact decomposition."""
    return torch.linalg.matrix_norm(weight.detach(), 2)


def test_sigma_does_not_drift_from_its_start_during_training():
    """In 50 steps every weight that a pass uses keeps its first singular value within 1%.

    The vectors of the start, put to the last weights, are farther off: the test would see a missing advance.
    """
    pair = players(discriminator=replace(DISCRIMINATOR, depth=1), rate=0.01)
    layers = [module for module in pair.discriminator.modules() if isinstance(module, Linear)]
    initial = [largest(layer.effective_weight()) for layer in layers]
    stale = copy.deepcopy(pair.discriminator)
    drift: list[float] = []

    def measure(discriminator: nn.Module, _: Any) -> None:
        assert isinstance(discriminator, VisionTransformer)
        assert discriminator.spectral is not None
        own = [module for module in discriminator.modules() if isinstance(module, Linear)]
        with discriminator.spectral.applied():
            used = [largest(layer.effective_weight()) for layer in own]
        drift.append(max(abs(float(s / s0) - 1) for s, s0 in zip(used, initial, strict=True)))

    for step in range(50):
        hook = pair.discriminator.register_forward_pre_hook(measure) if step % 5 == 4 else None
        train_step(pair, GAME, real(step), None, step_generator(0, step, CPU), step)
        if hook is not None:
            hook.remove()
    # Patches, attention and perceptron of a block, and the head; the passes of both players' updates.
    assert len(layers) == 1 + 5 + 2
    assert len(drift) == 10 * 2
    assert max(drift) < 0.01
    stale.load_state_dict(dict(pair.discriminator.named_parameters()), strict=False)
    measure(stale, None)
    assert drift[-1] > 2 * max(drift[:-1])


def test_vectors_advance_once_a_discriminator_update():
    """u and v advance once a discriminator update, as one call of advance does, and at no other time."""
    pair = players()
    discriminator = pair.discriminator
    assert isinstance(discriminator, VisionTransformer)
    train(pair, 2)
    before = copy.deepcopy(discriminator)
    rng = torch.Generator().manual_seed(0)
    _, judged = discriminator_step(pair, GAME, real(), real(1), None, rng, 2)
    after = weights(discriminator)
    twin = copy.deepcopy(discriminator)
    for name in vectors(discriminator):
        twin.get_buffer(name).copy_(before.get_buffer(name))
    twin.advance()
    assert len(vectors(discriminator)) >= 8
    for name in vectors(discriminator):
        assert torch.equal(after[name], twin.get_buffer(name))
    rng = torch.Generator().manual_seed(0)
    generator_step(pair, GAME, draw(pair.generator, GAME, 8, None, rng, learn=True), judged, None, rng, 2)
    discriminator.eval()(real())
    discriminator.train()(real())
    assert changed(discriminator, after) == set()


def test_vectors_move_in_every_update():
    pair = players()
    for step in range(3):
        before = weights(pair.discriminator)
        train_step(pair, GAME, real(step), None, step_generator(0, step, CPU), step)
        assert vectors(pair.discriminator) <= changed(pair.discriminator, before)


def test_the_initial_sigma_outlives_a_reload():
    """A new discriminator of another seed gives the saved one's output, after one more advance as well."""
    pair = players()
    train(pair, 5)
    saved = pair.discriminator
    torch.manual_seed(99)
    other = DISCRIMINATOR.build(resolution=8, channels=3)
    before = other(real())
    other.load_state_dict(saved.state_dict())
    assert not torch.equal(before, saved(real()))
    assert torch.equal(other(real()), saved(real()))
    assert any("initial" in name for name in saved.state_dict())
    assert isinstance(saved, VisionTransformer)
    for model in (saved, other):
        model.advance()
    assert torch.equal(other(real()), saved(real()))


def test_no_weight_is_missing_from_the_optimiser():
    pair = players()
    for network, optimiser in (
        (pair.generator, pair.optimiser_generator),
        (pair.discriminator, pair.optimiser_discriminator),
    ):
        held = {id(p) for group in optimiser.param_groups for p in group["params"]}
        assert {id(m.weight) for m in network.modules() if isinstance(m, Linear)} <= held
        assert {id(p) for p in network.parameters()} == held


def assert_all_move(network: nn.Module, pair: Players) -> None:
    before = weights(network)
    train(pair, 3)
    for name, parameter in network.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.abs().max() > 0, name
        assert not torch.equal(parameter, before[name]), name


@pytest.mark.parametrize("output", ["linear", "implicit", "conv"])
@pytest.mark.parametrize("entry", ["A", "B", "C"])
def test_every_parameter_of_the_generator_moves(entry: Any, output: Any):
    pair = players(replace(GENERATOR, entry=entry, output=output))
    assert_all_move(pair.generator, pair)


@pytest.mark.parametrize("combine", ["concatenation", "sum", "modulation"])
def test_every_parameter_of_the_implicit_output_moves(combine: Any):
    pair = players(replace(GENERATOR, implicit_combine=combine, implicit_demodulate=True))
    assert_all_move(pair.generator, pair)


@pytest.mark.parametrize("attention", ["l2", "dot-product", "l2-attending-to-farthest"])
@pytest.mark.parametrize("spectral_norm", ["improved", "plain", "none"])
def test_every_parameter_of_the_discriminator_moves(attention: Any, spectral_norm: Any):
    pair = players(discriminator=replace(DISCRIMINATOR, attention=attention, spectral_norm=spectral_norm))
    assert_all_move(pair.discriminator, pair)


def test_each_update_moves_its_own_player_alone():
    """A discriminator update leaves no gradient in the generator; each update moves its own player alone."""
    pair = players()
    train(pair, 1)
    pair.generator.zero_grad(set_to_none=True)
    before = weights(pair.generator), weights(pair.discriminator)
    rng = torch.Generator().manual_seed(0)
    fakes = draw(pair.generator, GAME, 8, None, rng, learn=True)
    _, judged = discriminator_step(pair, GAME, real(), fakes.images, None, rng, 1)
    assert all(p.grad is None for p in pair.generator.parameters())
    assert changed(pair.generator, before[0]) == set()
    assert changed(pair.discriminator, before[1])
    before = weights(pair.generator), weights(pair.discriminator)
    pair.discriminator.zero_grad(set_to_none=True)
    generator_step(pair, GAME, fakes, judged, None, rng, 1)
    assert all(p.grad is None for p in pair.discriminator.parameters())
    assert changed(pair.discriminator, before[1]) == set()
    assert changed(pair.generator, before[0])
    assert all(p.requires_grad for p in pair.discriminator.parameters())


@dataclass(frozen=True, kw_only=True)
class Counting:
    """A term of the generator that notes the step it is told, and adds nothing."""

    steps: list[int]
    active: bool = True

    def losses(self, seen: GeneratorPass) -> dict[str, Tensor]:
        self.steps.append(seen.step)
        return {}


def test_the_generator_moves_in_its_share_of_the_steps_alone():
    """With 3 for 1, G moves in every third step alone, and its terms count G's own updates."""
    pair, counting, moves = players(), Counting(steps=[]), []
    game = replace(GAME, generator_every=3, generator_terms=(counting,))
    for step in range(6):
        before = weights(pair.generator), weights(pair.discriminator)
        train_step(pair, game, real(step), None, step_generator(0, step, CPU), step)
        moves.append(bool(changed(pair.generator, before[0])))
        assert changed(pair.discriminator, before[1])
    assert moves == [False, False, True] * 2
    assert counting.steps == [0, 1]


@dataclass(frozen=True, kw_only=True)
class Marked(DiffAugment):
    """An augmentation that leaves its mark in every pixel."""

    mark: float = 0.0

    def __call__(self, images: Tensor, rng: torch.Generator) -> Tensor:  # noqa: ARG002
        return 0 * images + self.mark


def test_the_discriminator_sees_augmented_images_alone():
    """Real, fake, both second views, and the fakes of the generator's update: all have gone through T."""
    pair = players()
    seen: list[Tensor] = []
    pair.discriminator.register_forward_pre_hook(lambda _, arguments: seen.append(arguments[0].detach()))
    game = replace(GAME, augment=Marked(mark=7), terms=(BCR(augment=Marked(mark=5)),))
    train_step(pair, game, real(), None, torch.Generator().manual_seed(0), 0)
    in_discriminator, in_generator = seen
    assert [views.unique().tolist() for views in in_discriminator.split(16)] == [[7], [5]]
    assert in_generator.unique().tolist() == [7]
    assert len(in_generator) == 8


def test_bcr_does_not_broadcast():
    """Logits keep (B, 1) in every view, and a single pair that differs weighs 1 / B, not more."""
    pair = players()
    both = torch.cat((real(), real(1)))
    passes = discriminator_pass(pair.discriminator, GAME, both, None, torch.Generator().manual_seed(0), 0)
    for judged in (
        passes[0].judged_real,
        passes[0].judged_fake,
        passes[1].second_real,
        passes[1].second_fake,
    ):
        assert judged is not None
        assert judged.logits.shape == (8, 1)
    zero = Judgement(torch.zeros(8, 1))
    one, two = Judgement(torch.eye(8)[:, :1]), Judgement(2 * torch.eye(8)[:, :1])
    rng = torch.Generator()
    seen = Pass(pair.discriminator, 0, rng, both[:8], both[8:], None, zero, zero, one, two)
    losses = BCR(real=10.0, fake=10.0).losses(seen)
    assert losses["bcr_real"].item() == pytest.approx(10 / 8)
    assert losses["bcr_fake"].item() == pytest.approx(40 / 8)


@pytest.mark.parametrize("attention", ["l2", "dot-product"])
def test_the_discriminator_overfits_one_batch(attention: Any):
    discriminator = players(discriminator=replace(DISCRIMINATOR, attention=attention)).discriminator
    assert isinstance(discriminator, VisionTransformer)
    optimiser = AdamOptions(learning_rate=0.01).build(discriminator.parameters())
    images = torch.randn(16, 3, 8, 8, generator=torch.Generator().manual_seed(0)).clamp(-1, 1)
    loss = torch.tensor(torch.inf)
    for _ in range(150):
        discriminator.advance()
        logits = discriminator(images)
        loss = Logistic().discriminator(logits[:8], logits[8:])
        if loss.item() < 0.1:
            return
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    pytest.fail(f"the loss is still {loss.item()}")
