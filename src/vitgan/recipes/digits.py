"""scikit-learn's handwritten digits: the default, sized for a few minutes on a laptop's CPU."""

from vitgan.adversarial import BCR, DiffAugment
from vitgan.data import DataOptions
from vitgan.engine.ema import EMAOptions
from vitgan.engine.recipe import Recipe, TrainingOptions
from vitgan.engine.schedule import AdamOptions
from vitgan.models import DiscriminatorOptions, GeneratorOptions

_AUGMENT = DiffAugment()

RECIPES = {
    "digits": Recipe(
        name="digits",
        data=DataOptions(source="digits", resolution=8, channels=1),
        generator=GeneratorOptions(
            patch=2, depth=3, width=64, heads=4, perceptron_width=128, latent_dim=64, mapping_depth=2
        ),
        discriminator=DiscriminatorOptions(patch=2, depth=3, width=64, heads=4, perceptron_width=128),
        augment=_AUGMENT,
        terms=(BCR(augment=_AUGMENT),),
        optimiser_generator=AdamOptions(learning_rate=0.001),
        optimiser_discriminator=AdamOptions(learning_rate=0.001),
        ema=EMAOptions(half_life=10_000),
        training=TrainingOptions(
            batch=64,
            minutes=4,
            precision="fp32",
            log_every=1280,
            sample_every=12_800,
            checkpoint_every=64_000,
        ),
    )
}
