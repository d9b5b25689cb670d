"""scikit-learn's handwritten digits: the default, sized for a few minutes on a laptop's CPU."""

from vitgan.adversarial import BCR
from vitgan.data import DataOptions
from vitgan.engine.ema import EMAOptions
from vitgan.engine.recipe import Recipe, TrainingOptions
from vitgan.engine.schedule import AdamOptions
from vitgan.models import VisionTransformerOptions, ViTGANGeneratorOptions

RECIPES = {
    "digits": Recipe(
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
            precision="fp32",
            threads=1,
            log_every=2560,
            sample_every=12_800,
            checkpoint_every=64_000,
        ),
    )
}
