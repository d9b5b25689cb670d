"""Every row of the tables as a recipe: a base recipe with another generator, discriminator or game.

Small settings are ours, found by short trials on scikit-learn's digits; at 32 x 32 only their cost was
measured. The rows of "generator" and "discriminator" are the base's ViTGAN with one choice made otherwise.
"""

from collections.abc import Callable
from dataclasses import replace

from vitgan.adversarial import (
    BCR,
    R1,
    Contrastive,
    CutMix,
    DiffAugment,
    Drift,
    GradientPenalty,
    Hinge,
    PathLength,
    StrongAugment,
    Wasserstein,
)
from vitgan.engine.gan import Recipe
from vitgan.engine.optim import AdamOptions, EMAOptions
from vitgan.models import (
    BigGANDiscriminatorOptions,
    BigGANGeneratorOptions,
    ContraDDiscriminatorOptions,
    StyleGAN2DiscriminatorOptions,
    StyleGAN2GeneratorOptions,
    TransGANDiscriminatorOptions,
    TransGANGeneratorOptions,
    UNetDiscriminatorOptions,
    VisionTransformerOptions,
    ViTGANGeneratorOptions,
)
from vitgan.recipes import ROWS, get

NO_AUGMENT = DiffAugment(translation=0.0, colour=0.0, cutout=0.0, scaling=0.0)
TINY = 16  # pixels a side up to which the small settings are those of the digits


def rates(generator: float, discriminator: float | None = None, **fields: float) -> dict[str, AdamOptions]:
    """Both players' Adam, for `replace`."""
    return {
        "optimiser_generator": AdamOptions(learning_rate=generator, **fields),  # type: ignore[arg-type]
        "optimiser_discriminator": AdamOptions(learning_rate=discriminator or generator, **fields),  # type: ignore[arg-type]
    }


# The release takes the gradient by images in [0, 1]; by ours, in [-1, 1], it is half as large, so that its
# gamma of 0.1 is 0.4 here.
RELEASED_R1 = R1(gamma=0.4, every=1)


def released(base: Recipe) -> Recipe:
    """The game of ViTGAN's authors' release (github.com/mlpc-ucsd/ViTGAN), with the paper's networks.

    bCR with weights 1 and 1, cutout less often and no scaling, mirrored images, a batch of 64 at half the
    learning rate with a warm-up of 3,000 steps, and an average of half-life 1,000,000 images at every size.
    Differs from the release: its average starts after as many images, ours ramps up.
    """
    warm_up = 3_000 * 64
    return replace(
        base,
        data=replace(base.data, flip=True),
        augment=DiffAugment(translation=0.8, colour=0.8, cutout=0.3, scaling=0.0, flip=0.9),
        terms=(BCR(real=1.0, fake=1.0),),
        ema=EMAOptions(half_life=1_000_000),
        training=replace(base.training, batch=64),
        **rates(0.001, warm_up=warm_up),
    )


def vanilla_vit(base: Recipe, small: bool) -> Recipe:
    """Generator A with a linear output, plain ViT discriminator, R1, bCR and DiffAugment (deck; paper).

    [choice] R1's weight: no source gives it.
    """
    generator, discriminator = base.generator, base.discriminator
    assert isinstance(generator, ViTGANGeneratorOptions)
    assert isinstance(discriminator, VisionTransformerOptions)
    plain = replace(discriminator, attention="dot-product", spectral_norm="none", overlap=0)
    penalty = R1(gamma=0.1, every=8 if small else 16)
    return replace(
        base,
        generator=replace(generator, entry="A", output="linear"),
        discriminator=plain,
        terms=(*base.terms, penalty),
    )


def stylegan2(base: Recipe, small: bool) -> Recipe:
    """arXiv 1912.04958; CIFAR-10 as the baseline of arXiv 2006.10738 (its release), without augmentation.

    At 64 x 64 the defaults of arXiv 1912.04958, with the penalty's weight by the heuristic of its later
    release for such sizes, gamma = 0.0002 R^2 / batch (arXiv 2006.06676).
    """
    if small:
        return _small_stylegan2(base)
    side = base.data.resolution
    channels = 4096 if side <= 32 else 32768
    penalty = R1(gamma=0.1, every=1) if side <= 32 else R1(gamma=0.0002 * side**2 / 32, every=16)
    return replace(
        base,
        generator=StyleGAN2GeneratorOptions(channel_base=channels),
        discriminator=StyleGAN2DiscriminatorOptions(channel_base=channels),
        augment=NO_AUGMENT,
        terms=(penalty,),
        generator_terms=() if side <= 32 else (PathLength(weight=2.0, every=4),),
        data=replace(base.data, flip=side <= 32),
        ema=EMAOptions(half_life=1_000_000 if side <= 32 else 10_000),
        training=replace(base.training, batch=32),
        **rates(0.002),
    )


def _small_stylegan2(base: Recipe) -> Recipe:
    """About the parameters and the FLOPs of the small ViTGAN's generator, and no augmentation."""
    tiny = base.data.resolution <= TINY
    base_channels, most = (256, 64) if tiny else (1024, 128)
    size = 64 if tiny else 128
    generator = StyleGAN2GeneratorOptions(
        channel_base=base_channels,
        channel_max=most,
        latent_dim=size,
        width=size,
        mapping_depth=2,
        mapping_learning_rate=1.0,
        mixing=0.0,
    )
    return replace(
        base,
        generator=generator,
        discriminator=StyleGAN2DiscriminatorOptions(channel_base=base_channels, channel_max=most),
        augment=NO_AUGMENT,
        terms=(R1(gamma=1.0, every=8) if tiny else R1(gamma=0.1, every=16),),
        training=replace(base.training, batch=64),
        **rates(0.004 if tiny else 0.003),
    )


def stylegan2_discriminator(base: Recipe, small: bool) -> Recipe:
    """ViTGAN's generator against StyleGAN2's discriminator, which the authors report as stronger.

    The game is that of the authors' release, whose README trains this pair alone: see `released`. At small
    size it is ViTGAN's with the small StyleGAN2's penalty.
    """
    other = stylegan2(base, small)
    if not small:
        penalised = released(base)
        return replace(penalised, discriminator=other.discriminator, terms=(*penalised.terms, RELEASED_R1))
    penalty = next(term for term in other.terms if isinstance(term, R1))
    return replace(
        base,
        discriminator=other.discriminator,
        terms=(*base.terms, penalty),
        training=replace(base.training, batch=64),
        optimiser_discriminator=replace(
            base.optimiser_discriminator, learning_rate=other.optimiser_discriminator.learning_rate
        ),
    )


def biggan_diffaugment(base: Recipe, small: bool) -> Recipe:
    """BigGAN's CIFAR variant (arXiv 1809.11096) with DiffAugment, as arXiv 2006.10738's release sets it.

    Differs from the paper: its own figure is class-conditional; this row has no labels, like the others.
    """
    if small:
        tiny = base.data.resolution <= TINY
        return replace(
            base,
            generator=BigGANGeneratorOptions(width=48, latent_dim=32 if tiny else 64, start="orthogonal"),
            discriminator=BigGANDiscriminatorOptions(width=48, grid=4 if tiny else 8, start="orthogonal"),
            loss=Hinge(),
            augment=DiffAugment(translation=1.0, colour=0.0, cutout=0.0, scaling=0.0),
            terms=(),
            ema=EMAOptions(half_life=20_000),
            training=replace(base.training, batch=64),
            **rates(0.001 if tiny else 0.0004, beta2=0.999),
        )
    return replace(
        base,
        generator=BigGANGeneratorOptions(),
        discriminator=BigGANDiscriminatorOptions(),
        loss=Hinge(),
        augment=DiffAugment(translation=1.0, colour=0.0, cutout=1.0, scaling=0.0),
        terms=(),
        data=replace(base.data, flip=True),
        ema=EMAOptions(half_life=1_390_000),
        training=replace(base.training, batch=50, generator_every=4),
        **rates(0.0002, beta2=0.999),
    )


def transgan_xl(base: Recipe, small: bool) -> Recipe:
    """arXiv 2102.07074, its last version, with the settings of the authors' release.

    Differs from the paper: the generator's batch is the discriminator's.
    """
    game = {
        "loss": Wasserstein(),
        "terms": (GradientPenalty(weight=10.0), Drift(weight=0.001)),
    }
    if small:
        tiny = base.data.resolution <= TINY
        depths = (2, 1) if tiny else (2, 1, 1)
        return replace(
            base,
            generator=TransGANGeneratorOptions(
                depths=depths,
                width=64 if tiny else 128,
                heads=4 if tiny else 2,
                latent_dim=32 if tiny else 64,
                perceptron_ratio=2,
            ),
            discriminator=TransGANDiscriminatorOptions(
                patch=2 if tiny else 4, depths=(1, 1), width=96 if tiny else 192
            ),
            augment=NO_AUGMENT,
            training=replace(base.training, batch=64),
            **game,
            **rates(0.001, clip_norm=5.0),
        )
    return replace(
        base,
        generator=TransGANGeneratorOptions(),
        discriminator=TransGANDiscriminatorOptions(),
        augment=DiffAugment(translation=1.0, colour=1.0, cutout=1.0, scaling=0.0),
        **game,
        ema=EMAOptions(half_life=500_000, ramp_up=0.1),
        training=replace(base.training, batch=64, generator_every=4),
        **rates(0.0001, clip_norm=5.0),
    )


def contrad(base: Recipe, small: bool) -> Recipe:
    """The deck's next step: a contrastive discriminator (arXiv 2103.09742), over ViTGAN's own encoder."""
    backbone = base.discriminator
    assert isinstance(backbone, VisionTransformerOptions)
    discriminator = ContraDDiscriminatorOptions(backbone=backbone)
    if small:
        tiny = base.data.resolution <= TINY
        discriminator = replace(discriminator, hidden=128 if tiny else 256, projection=64)
    # [choice] On tiny pictures a crop of a fifth would leave nothing to compare; a mirrored digit is none.
    cautious = StrongAugment(smallest=0.7, flip=0.0)
    return replace(
        base,
        discriminator=discriminator,
        augment=cautious if base.data.resolution <= TINY else StrongAugment(),
        terms=(Contrastive(),),
    )


def unet(base: Recipe, small: bool) -> Recipe:
    """ViTGAN's generator against the U-Net discriminator (arXiv 2002.12655) with CutMix.

    [choice] The generator: the paper's is BigGAN's. The paper has no figures for these sets. The release
    halves the adversarial losses beside CutMix's, so CutMix's weights are 2 beside ours.
    """
    cutmix = CutMix(image=2.0, pixels=2.0, consistency=2.0, warm_up=1000 if small else 8000)
    if small:
        tiny = base.data.resolution <= TINY
        return replace(
            base,
            discriminator=UNetDiscriminatorOptions(width=32 if tiny else 16),
            augment=NO_AUGMENT,
            terms=(cutmix,),
            training=replace(base.training, batch=64),
            **rates(0.003),
        )
    discriminator = replace(base.optimiser_discriminator, learning_rate=0.0005, beta2=0.999)
    return replace(
        base,
        discriminator=UNetDiscriminatorOptions(width=128),
        augment=NO_AUGMENT,
        terms=(cutmix,),
        optimiser_discriminator=discriminator,
    )


SYSTEMS = {
    "biggan-diffaug": biggan_diffaugment,
    "stylegan2": stylegan2,
    "transgan-xl": transgan_xl,
    "vanilla-vit": vanilla_vit,
    "vitgan": lambda base, small: base,  # noqa: ARG005
    "stylegan2-d": stylegan2_discriminator,
    "contrad": contrad,
    "unet-d": unet,
}


Change = Callable[[Recipe], Recipe]
SMALL = ("digits", "cifar10-small")


def _generator(**fields: str) -> Change:
    def change(base: Recipe) -> Recipe:
        assert isinstance(base.generator, ViTGANGeneratorOptions)
        return replace(base, generator=replace(base.generator, **fields))  # type: ignore[arg-type]

    return change


def _discriminator(**fields: str | int) -> Change:
    def change(base: Recipe) -> Recipe:
        assert isinstance(base.discriminator, VisionTransformerOptions)
        return replace(base, discriminator=replace(base.discriminator, **fields))  # type: ignore[arg-type]

    return change


def _without_diffaugment(base: Recipe) -> Recipe:
    """bCR keeps its own augmentation: clean against augmented (arXiv 2002.04724)."""
    return replace(base, augment=NO_AUGMENT)


def _without_bcr(base: Recipe) -> Recipe:
    return replace(base, terms=tuple(term for term in base.terms if not isinstance(term, BCR)))


def _plain(base: Recipe) -> Recipe:
    """Every regulariser of the discriminator off at once."""
    plain = _discriminator(attention="dot-product", spectral_norm="none", overlap=0)
    return plain(_without_bcr(_without_diffaugment(base)))


GENERATOR: dict[str, Change] = {
    "a-linear": _generator(entry="A", output="linear"),
    "a-neurrep": _generator(entry="A", output="implicit"),
    "b-linear": _generator(entry="B", output="linear"),
    "b-neurrep": _generator(entry="B", output="implicit"),
    "c-linear": _generator(entry="C", output="linear"),
    "c-neurrep": _generator(entry="C", output="implicit"),
}

DISCRIMINATOR: dict[str, Change] = {
    "all": lambda base: base,
    "no-diffaug": _without_diffaugment,
    "no-bcr": _without_bcr,
    "dot-product": _discriminator(attention="dot-product"),
    "l2-farthest": _discriminator(attention="l2-attending-to-farthest"),
    "plain-spectral-norm": _discriminator(spectral_norm="plain"),
    "no-spectral-norm": _discriminator(spectral_norm="none"),
    "no-overlap": _discriminator(overlap=0),
    "none": _plain,
}


def row_recipe(base: str, row: str) -> Recipe:
    """The recipe BASE-ROW."""
    return make_row(get(base), row, small=base in SMALL)


def make_row(base: Recipe, row: str, *, small: bool) -> Recipe:
    """`base`, a ViTGAN's recipe, with the row's change; `small` picks the systems' small settings."""
    name = f"{base.name}-{row}"
    for changes in (GENERATOR, DISCRIMINATOR):
        if row in changes:
            return replace(changes[row](base), name=name)
    return replace(SYSTEMS[row](base, small), name=name)


RECIPES = {
    f"{name}-released": replace(released(get(name)), name=f"{name}-released")
    for name in ("cifar10", "celeba")
}

assert ROWS["architectures"].keys() == SYSTEMS.keys()
assert ROWS["generator"].keys() == GENERATOR.keys()
assert ROWS["discriminator"].keys() == DISCRIMINATOR.keys()
