"""Class conditioning: a label joined to the latent, and a projection of it in the discriminator."""

import pytest
import torch

from vitgan.adversarial import BCR, R1, DiffAugment, Game, Logistic, Players, train_step
from vitgan.engine.optim import AdamOptions
from vitgan.models import (
    Discriminator,
    VisionTransformer,
    VisionTransformerOptions,
    ViTGANGenerator,
    ViTGANGeneratorOptions,
)
from vitgan.models.vitgan import MappingNetwork

CLASSES = 5
SIZES = {"patch": 4, "depth": 2, "width": 16, "heads": 2, "perceptron_width": 16}
LABELS = torch.tensor([0, 1, 2, 4])


def networks() -> tuple[ViTGANGenerator, VisionTransformer]:
    torch.manual_seed(0)
    generator = ViTGANGeneratorOptions(latent_dim=8, mapping_depth=2, **SIZES)  # type: ignore[arg-type]
    discriminator = VisionTransformerOptions(**SIZES)  # type: ignore[arg-type]
    return (
        generator.build(resolution=8, channels=3, classes=CLASSES),
        discriminator.build(resolution=8, channels=3, classes=CLASSES),
    )


def test_other_labels_give_other_images_of_the_same_latent():
    generator, _ = networks()
    z = torch.randn(1, 8).expand(CLASSES, -1)
    images = generator(z, torch.arange(CLASSES))
    distances = torch.pdist(images.flatten(1))
    assert distances.min() > 0.1
    assert torch.equal(generator(z[:2], torch.tensor([3, 3])).diff(dim=0).unique(), torch.zeros(1))


def test_other_labels_give_other_logits_of_the_same_image():
    _, discriminator = networks()
    logits = discriminator(torch.randn(1, 3, 8, 8).expand(CLASSES, -1, -1, -1), torch.arange(CLASSES))
    assert torch.pdist(logits).min() > 1e-3


def test_training_reaches_the_embeddings_of_the_labels_shown_and_of_no_other():
    """Both players' embeddings move for labels of the batch; labels reach every view of bCR and R1."""
    generator, discriminator = networks()
    assert isinstance(generator.mapping, MappingNetwork)
    assert generator.mapping.label is not None
    assert discriminator.label is not None
    options = AdamOptions(learning_rate=0.01)
    players = Players(
        generator=generator,
        discriminator=discriminator,
        optimiser_generator=options.build(generator.parameters()),
        optimiser_discriminator=options.build(discriminator.parameters()),
    )
    game = Game(loss=Logistic(), augment=DiffAugment(), terms=(BCR(), R1(gamma=1.0, every=1)))
    before = generator.mapping.label.weight.clone(), discriminator.label.weight.clone()
    metrics = train_step(players, game, torch.randn(4, 3, 8, 8), LABELS, torch.Generator().manual_seed(0), 0)
    moved = (generator.mapping.label.weight != before[0]).any(1)
    assert moved[LABELS].all()
    assert not moved[3]
    gradient = discriminator.label.weight.grad
    assert gradient is not None
    assert (gradient[:, LABELS] != 0).any(0).all()
    assert (discriminator.label.weight != before[1]).any(0)[LABELS].all()
    assert {"term_bcr_real", "term_r1"} < metrics.keys()
    assert all(torch.isfinite(value) for value in metrics.values())


def test_each_fake_keeps_the_label_it_was_made_with():
    """In the discriminator's pass the labels repeat in the order of the views, real before fake."""
    generator, discriminator = networks()
    seen: list[list[int]] = []
    shown: list[torch.Tensor] = []

    class Spy(Discriminator):
        def forward(self, images: torch.Tensor, labels: torch.Tensor | None = None) -> torch.Tensor:
            assert labels is not None
            seen.append(labels.tolist())
            shown.append(images)
            return discriminator(images, labels)

        def advance(self) -> None:
            discriminator.advance()

    options = AdamOptions()
    players = Players(
        generator=generator,
        discriminator=Spy(),
        optimiser_generator=options.build(generator.parameters()),
        optimiser_discriminator=options.build(discriminator.parameters()),
    )
    off = DiffAugment(translation=0, colour=0, cutout=0, scaling=0)
    game = Game(loss=Logistic(), augment=off, terms=(BCR(augment=off),))
    rng = torch.Generator().manual_seed(0)
    with torch.no_grad():
        made = generator(torch.randn(4, 8, generator=torch.Generator().manual_seed(0)), LABELS)
    train_step(players, game, torch.zeros(4, 3, 8, 8), LABELS, rng, 0)
    assert seen == [LABELS.tolist() * 4, LABELS.tolist()]
    torch.testing.assert_close(shown[0][4:8], made)
    torch.testing.assert_close(shown[0][12:], made)


def test_sample_takes_labels_or_draws_them_from_the_seed():
    generator, _ = networks()
    generator.eval()
    fixed = generator.sample(3, seed=1, labels=torch.tensor([2, 2, 2]))
    assert fixed.shape == (3, 3, 8, 8)
    drawn = generator.sample(30, seed=1)
    assert torch.equal(drawn, generator.sample(30, seed=1, batch=7))
    labels = [generator.sample(30, seed=1, labels=torch.full((30,), k)) for k in range(CLASSES)]
    chosen = [
        [bool((a == b).all()) for b in own] for a, own in zip(drawn, zip(*labels, strict=True), strict=True)
    ]
    assert {row.index(True) for row in chosen} == set(range(CLASSES))


@pytest.mark.parametrize("truncation", [0.0, 0.5])
def test_truncation_pulls_images_together(truncation: float):
    generator, _ = networks()
    spread = [generator.sample(40, seed=1, truncation=t).float().std(0).mean() for t in (truncation, 1.0)]
    assert spread[0] < 0.8 * spread[1]
    if truncation == 0:
        assert spread[0] == 0
