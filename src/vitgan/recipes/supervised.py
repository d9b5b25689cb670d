"""Recipes that are no GAN: the Vision Transformer as a classifier, and SIREN fitting one image."""

from dataclasses import replace

from vitgan.data import DataOptions
from vitgan.engine.optim import AdamOptions
from vitgan.engine.recipe import TrainingOptions
from vitgan.engine.supervised import ClassifierRecipe, SirenRecipe
from vitgan.models import VisionTransformerOptions
from vitgan.models.siren import SirenOptions

# ViT-Base: 12 blocks, width 768, MLP 3072, 12 heads (arXiv 2010.11929, table 1); Adam with beta 0.9, 0.999
# and a linear warm-up (section 4.1). The deck prints no sizes. [choice] for CIFAR-10: patches of 4 pixels, 64
# tokens, as in ViTGAN's discriminator, where 16 would leave 4; learning rate, batch and number of epochs.
# Differs from the paper: no weight decay, no dropout, and from epoch 50 a rate that halves every 5 epochs.
EPOCH = 45_000  # of the 50,000 images 5,000 are held out

CLASSIFIER = ClassifierRecipe(
    name="vit-classifier",
    data=DataOptions(source="cifar10", resolution=32, channels=3, labels=True, flip=True),
    network=VisionTransformerOptions(
        patch=4,
        overlap=0,
        depth=12,
        width=768,
        heads=12,
        perceptron_width=3072,
        attention="dot-product",
        spectral_norm="none",
        equalised=False,
    ),
    optimiser=AdamOptions(
        learning_rate=1e-4,
        beta1=0.9,
        beta2=0.999,
        warm_up=5 * EPOCH,
        decay_from=50 * EPOCH,
        decay_half_life=5 * EPOCH,
    ),
    training=TrainingOptions(
        batch=128, images=100 * EPOCH, log_every=EPOCH, sample_every=10 * EPOCH, checkpoint_every=10 * EPOCH
    ),
)

# All values [choice]; 16 tokens.
CLASSIFIER_SMALL = ClassifierRecipe(
    name="vit-classifier-small",
    data=DataOptions(source="digits", resolution=8, channels=1, labels=True),
    network=VisionTransformerOptions(
        patch=2,
        overlap=0,
        depth=3,
        width=64,
        heads=4,
        perceptron_width=128,
        attention="dot-product",
        spectral_norm="none",
        head="linear",
        equalised=False,
    ),
    optimiser=AdamOptions(
        learning_rate=0.002,
        beta1=0.9,
        beta2=0.99,
        warm_up=3200,
        decay_from=16_000,
        decay_half_life=4000,
    ),
    training=TrainingOptions(
        batch=64,
        images=32_000,
        precision="fp32",
        threads=1,
        log_every=1600,
        sample_every=8000,
        checkpoint_every=16_000,
    ),
)


# The paper's: 5 layers, 256 wide, omega_0 = 30, Adam at 1e-4, 256 x 256 pixels, all of them in every step.
# [choice] The first image of CelebA, `--data` takes any other; 15,000 steps. An image seen is a step.
SIREN = SirenRecipe(
    name="siren",
    data=DataOptions(source="celeba", resolution=256, channels=3, memory_mib=0),
    network=SirenOptions(depth=5, width=256, omega_0=30.0),
    optimiser=AdamOptions(learning_rate=1e-4, beta1=0.9, beta2=0.999),
    training=TrainingOptions(
        batch=1,
        images=15_000,
        precision="fp32",
        log_every=100,
        sample_every=1000,
        checkpoint_every=5000,
    ),
)

# [choice] A rate for a small network and few steps, which falls at the end.
SIREN_SMALL = replace(
    SIREN,
    name="siren-small",
    data=DataOptions(source="digits", resolution=32, channels=1),
    network=SirenOptions(depth=4, width=64, omega_0=30.0),
    optimiser=AdamOptions(learning_rate=1e-3, beta1=0.9, beta2=0.999, decay_from=300, decay_half_life=100),
    training=replace(SIREN.training, images=600, threads=1, log_every=20, sample_every=200),
)

RECIPES = {recipe.name: recipe for recipe in (CLASSIFIER, CLASSIFIER_SMALL, SIREN, SIREN_SMALL)}
