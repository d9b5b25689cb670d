"""SIREN fitting one image (arXiv 2006.09661; blog)."""

from dataclasses import replace

from vitgan.data import DataOptions
from vitgan.engine.recipe import TrainingOptions
from vitgan.engine.schedule import AdamOptions
from vitgan.engine.supervised_recipes import SirenRecipe
from vitgan.models.siren import SirenOptions

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
SMALL = replace(
    SIREN,
    name="siren-small",
    data=DataOptions(source="digits", resolution=32, channels=1),
    network=SirenOptions(depth=4, width=64, omega_0=30.0),
    optimiser=AdamOptions(learning_rate=1e-3, beta1=0.9, beta2=0.999, decay_from=300, decay_half_life=100),
    training=replace(SIREN.training, images=600, threads=1, log_every=20, sample_every=200),
)

RECIPES = {recipe.name: recipe for recipe in (SIREN, SMALL)}
