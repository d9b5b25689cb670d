"""The modern ViTGAN: relativistic pairs, cheap penalties and a convolutional stem (docs/decisions.md)."""

from dataclasses import replace

from vitgan.adversarial import ApproximateR1, ApproximateR2, Centring, NoAugment, Relativistic
from vitgan.data import DataOptions
from vitgan.engine.gan import Recipe
from vitgan.engine.optim import AdamOptions, EMAOptions
from vitgan.engine.recipe import TrainingOptions
from vitgan.models import ModernDiscriminatorOptions, ModernGeneratorOptions

MNIST = Recipe(
    name="mnist",
    data=DataOptions(source="mnist", resolution=28, channels=1, labels=True),
    generator=ModernGeneratorOptions(
        widths=(96,), depths=(2,), output_width=32, gated=False, modulation_gain=1.0
    ),
    discriminator=ModernDiscriminatorOptions(stem_widths=(32, 64, 128), widths=(128,), depths=(3,)),
    loss=Relativistic(),
    augment=NoAugment(),
    terms=(ApproximateR1(gamma=0.2), ApproximateR2(gamma=0.2), Centring(weight=0.001)),
    optimiser_generator=AdamOptions(learning_rate=0.0015),
    optimiser_discriminator=AdamOptions(learning_rate=0.0015),
    ema=EMAOptions(half_life=20_000, ramp_up=0.05),
    training=TrainingOptions(
        batch=32,
        minutes=4,
        enough=16_000,
        precision="fp32",
        log_every=1280,
        sample_every=6400,
        checkpoint_every=12_800,
    ),
)

CIFAR10 = replace(
    MNIST,
    name="cifar10-modern",
    data=DataOptions(source="cifar10", resolution=32, channels=3, flip=True),
    generator=ModernGeneratorOptions(
        widths=(128,), depths=(3,), output_width=64, gated=False, modulation_gain=1.0
    ),
    discriminator=ModernDiscriminatorOptions(stem_widths=(64, 128, 192), widths=(192,), depths=(3,)),
    terms=(ApproximateR1(gamma=0.02), ApproximateR2(gamma=0.02), Centring(weight=0.001)),
    optimiser_generator=AdamOptions(learning_rate=0.0004),
    optimiser_discriminator=AdamOptions(learning_rate=0.0012),
    ema=EMAOptions(half_life=100_000, ramp_up=0.05),
    training=TrainingOptions(
        batch=32, minutes=20, enough=20_000, log_every=1280, sample_every=12_800, checkpoint_every=25_600
    ),
)

CIFAR10_LABELS = replace(CIFAR10, name="cifar10-modern-labels", data=replace(CIFAR10.data, labels=True))

# At 64 pixels a coarse grid of 8 x 8 tokens composes, one of 16 x 16 draws; D merges 8 x 8 tokens to 4 x 4.
CELEBA = replace(
    CIFAR10,
    name="celeba-modern",
    data=DataOptions(source="celeba", resolution=64, channels=3, flip=True),
    generator=ModernGeneratorOptions(
        widths=(128, 64), depths=(3, 1), output_width=64, gated=False, modulation_gain=1.0
    ),
    discriminator=ModernDiscriminatorOptions(stem_widths=(32, 64, 128), widths=(128, 192), depths=(1, 2)),
    training=replace(CIFAR10.training, minutes=60),
)

RECIPES = {recipe.name: recipe for recipe in (MNIST, CIFAR10, CIFAR10_LABELS, CELEBA)}
