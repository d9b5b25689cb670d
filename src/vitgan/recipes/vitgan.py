"""ViTGAN at the paper's settings, and small enough for a CPU."""

from dataclasses import replace

from vitgan.adversarial import BCR
from vitgan.data import DataOptions
from vitgan.engine.gan import Recipe
from vitgan.engine.optim import AdamOptions, EMAOptions
from vitgan.engine.recipe import TrainingOptions
from vitgan.models import VisionTransformerOptions, ViTGANGeneratorOptions

# Differs from the paper, which names no warm-up: 3,000 steps, as in the authors' release. Without one three
# steps at this size took the discriminator's loss from 4 to 54 (docs/decisions.md).
WARM_UP = 3_000 * 128

CIFAR10 = Recipe(
    name="cifar10",
    data=DataOptions(source="cifar10", resolution=32, channels=3),
    generator=ViTGANGeneratorOptions(patch=4, depth=4),
    discriminator=VisionTransformerOptions(patch=4, depth=4),
    terms=(BCR(real=10.0, fake=10.0),),
    optimiser_generator=AdamOptions(learning_rate=0.002, warm_up=WARM_UP),
    optimiser_discriminator=AdamOptions(learning_rate=0.002, warm_up=WARM_UP),
    ema=EMAOptions(half_life=1_000_000),
    training=TrainingOptions(batch=128, images=40_000_000),
)

# Few tokens in the discriminator, whose four views make most of the work, and digits' learning rates.
SMALL = replace(
    CIFAR10,
    name="cifar10-small",
    generator=ViTGANGeneratorOptions(
        patch=4,
        depth=3,
        width=128,
        heads=4,
        perceptron_width=256,
        latent_dim=128,
        mapping_depth=2,
        mapping_learning_rate=1.0,
    ),
    discriminator=VisionTransformerOptions(
        patch=8, depth=3, width=192, heads=6, perceptron_width=384, gain=1.5
    ),
    terms=(BCR(real=0.1, fake=0.1),),
    optimiser_generator=AdamOptions(learning_rate=0.003),
    optimiser_discriminator=AdamOptions(learning_rate=0.006),
    ema=EMAOptions(half_life=10_000),
    training=TrainingOptions(
        batch=64, minutes=20, enough=20_000, log_every=1280, sample_every=12_800, checkpoint_every=25_600
    ),
)


CELEBA = replace(
    CIFAR10,
    name="celeba",
    data=DataOptions(source="celeba", resolution=64, channels=3),
    generator=ViTGANGeneratorOptions(patch=8, depth=6),
    discriminator=VisionTransformerOptions(patch=8, depth=6),
    ema=EMAOptions(half_life=20_000),
)


LSUN_BEDROOM = replace(CELEBA, name="lsun-bedroom", data=replace(CELEBA.data, source="lsun-bedroom"))


DIGITS = Recipe(
    name="digits",
    data=DataOptions(source="digits", resolution=8, channels=1),
    generator=ViTGANGeneratorOptions(
        patch=2,
        depth=2,
        width=64,
        heads=4,
        perceptron_width=128,
        implicit_bandwidth=1.0,
        latent_dim=64,
        mapping_depth=2,
        mapping_learning_rate=1.0,
    ),
    discriminator=VisionTransformerOptions(
        patch=4, depth=2, width=96, heads=4, perceptron_width=192, gain=2.0
    ),
    terms=(BCR(real=0.2, fake=0.2),),
    optimiser_generator=AdamOptions(learning_rate=0.004),
    optimiser_discriminator=AdamOptions(learning_rate=0.006),
    ema=EMAOptions(half_life=10_000),
    training=TrainingOptions(
        batch=128,
        minutes=4,
        enough=40_000,
        precision="fp32",
        threads=1,
        log_every=2560,
        sample_every=12_800,
        checkpoint_every=64_000,
    ),
)

RECIPES = {recipe.name: recipe for recipe in (DIGITS, CIFAR10, SMALL, CELEBA, LSUN_BEDROOM)}
