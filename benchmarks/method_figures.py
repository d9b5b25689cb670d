"""The figures of docs/method.md, each drawn by the functions that it is about.

    python benchmarks/method_figures.py RUN --out docs/images

RUN is a trained ViTGAN, as `vitgan train digits` makes in minutes. The photograph is
scikit-learn's china.jpg. Writes method-patches.png, method-sln.png, method-attention.png, method-bcr.png.

Shapes: B images, C channels, S side, P patch, o overlap, L patches, D width, N tokens, h heads, d = D / h.
"""

import argparse
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from PIL import Image
from sklearn.datasets import load_sample_image
from torch import Tensor

from vitgan.adversarial import BCR
from vitgan.diagnostics.lipschitz import jacobian_norms
from vitgan.diagnostics.subject import Subject, load_subject
from vitgan.io import replacing
from vitgan.models import ViTGANGenerator
from vitgan.nn import L2Attention, SelfAttention, patchify
from vitgan.nn.attention import dot_product_attention, l2_attention
from vitgan.nn.norm import LayerNorm, SelfModulatedLayerNorm

DOTS_PER_INCH = 110
COLOURS = ("#2f86c9", "#cf4a5a", "#2f9e6e", "#e0962b")
SIDE, PATCH, OVERLAP = 64, 8, 4  # of the paper's celeba
QUERY = (1.5, 1.0)
SHOWN = ((3, 2), (3, 3), (0, 7))  # row and column of a patch; the last lies in a corner


def main() -> None:
    """Draw all four."""
    parser = argparse.ArgumentParser(description="The figures of docs/method.md.")
    parser.add_argument("run", type=Path, metavar="RUN")
    parser.add_argument("--out", type=Path, required=True, metavar="DIR")
    options = parser.parse_args()
    subject = load_subject(options.run, data=None, count=32, seed=0, device="cpu")
    figures = {
        "patches": patches(),
        "sln": modulation(subject),
        "attention": attention(),
        "bcr": consistency(subject),
    }
    options.out.mkdir(parents=True, exist_ok=True)
    for name, figure in figures.items():
        with replacing(options.out / f"method-{name}.png") as temporary:
            figure.savefig(temporary, format="png", dpi=DOTS_PER_INCH)


def photograph() -> Tensor:
    """uint8 (3, S, S)."""
    pixels = Image.fromarray(load_sample_image("china.jpg")).crop((0, 0, 427, 427))
    pixels = pixels.resize((SIDE, SIDE), Image.Resampling.LANCZOS)
    return torch.from_numpy(np.array(pixels)).permute(2, 0, 1)


def shown(axes: Axes, image: Tensor, title: str = "") -> None:
    """An image (C, H, W) in [-1, 1], without ticks."""
    pixels = ((image.clamp(-1, 1) + 1) / 2).permute(1, 2, 0).numpy()
    axes.imshow(pixels.squeeze(-1) if pixels.shape[-1] == 1 else pixels, cmap="gray", vmin=0, vmax=1)
    axes.set(xticks=[], yticks=[])
    axes.set_title(title, fontsize=9)


# Overlapping patches


def patches() -> Figure:
    """The grid, three patches in it with their overlap, and those patches as `patchify` gives them."""
    image = photograph().float().unsqueeze(0) / 127.5 - 1
    figure = Figure(figsize=(11, 4.6), layout="constrained")
    axes = figure.subplot_mosaic(
        [["image", "a0", "a1", "a2"], ["image", "b0", "b1", "b2"]], width_ratios=[2, 1, 1, 1]
    )
    shown(axes["image"], image[0], f"{SIDE} x {SIDE} pixels, patches of {PATCH}, overlap {OVERLAP}")
    for place in range(PATCH, SIDE, PATCH):
        axes["image"].axhline(place - 0.5, color="white", linewidth=0.5, alpha=0.7)
        axes["image"].axvline(place - 0.5, color="white", linewidth=0.5, alpha=0.7)
    for overlap, row in ((0, "a"), (OVERLAP, "b")):
        size = PATCH + 2 * overlap
        cut = patchify(image, PATCH, overlap)[0].unflatten(1, (3, size, size))  # (L, C, s, s)
        for number, (line, column) in enumerate(SHOWN):
            panel = axes[f"{row}{number}"]
            shown(panel, cut[line * (SIDE // PATCH) + column], f"{size} x {size}")
            for spine in panel.spines.values():
                spine.set(color=COLOURS[number], linewidth=3)
    for number, (line, column) in enumerate(SHOWN):
        axes["image"].add_patch(_box(line, column, 0, COLOURS[number], "-"))
        axes["image"].add_patch(_box(line, column, OVERLAP, COLOURS[number], "--"))
    axes["a0"].set_ylabel("o = 0", fontsize=10)
    axes["b0"].set_ylabel(f"o = {OVERLAP}", fontsize=10)
    return figure


def _box(line: int, column: int, overlap: int, colour: str, style: str) -> Rectangle:
    corner = (column * PATCH - overlap - 0.5, line * PATCH - overlap - 0.5)
    size = PATCH + 2 * overlap
    return Rectangle(corner, size, size, fill=False, edgecolor=colour, linestyle=style, linewidth=2)


# Self-modulated layer norm


@torch.no_grad()
def modulation(subject: Subject) -> Figure:
    """Four latents: their images, the same first tokens after each one's SLN, and gamma(w) of every norm."""
    generator = subject.generator
    if not isinstance(generator, ViTGANGenerator) or generator.options.entry != "C":
        raise SystemExit("The run's generator has no self-modulated layer norms: train one with entry C.")
    w = generator.mapping(subject.latents[: len(COLOURS)])
    norms = [module for module in generator.modules() if isinstance(module, SelfModulatedLayerNorm)]
    figure = Figure(figsize=(13, 4.4), layout="constrained")
    layout = "01pag;23pag"  # images, plain, after, gamma
    axes = figure.subplot_mosaic(layout, width_ratios=[0.7, 0.7, 1.6, 1.6, 2])
    for number, image in enumerate(generator.synthesise(w)):
        shown(axes[str(number)], image, f"G(z), z {number + 1}")
        axes[str(number)].title.set_color(COLOURS[number])
    _token_clouds(axes["p"], axes["a"], generator.position, norms[0], w)
    _gammas(axes["g"], norms, w)
    return figure


def _gammas(axes: Axes, norms: list[SelfModulatedLayerNorm], w: Tensor) -> None:
    """gamma(w) of each latent, a row for each norm."""
    gamma = torch.stack([norm.gamma(w) for norm in norms], 1).flatten(0, 1)  # (latents norms, D)
    drawn = axes.imshow(gamma.numpy(), aspect="auto", cmap="RdBu_r", vmin=-1, vmax=3)
    ends = torch.arange(len(w)) * len(norms) - 0.5
    for end in ends:
        axes.axhline(end.item(), color="black", linewidth=0.8)
    axes.set_yticks((ends + len(norms) / 2).tolist(), [f"z {n + 1}" for n in range(len(w))])
    axes.set_title(f"γ(w), the {len(norms)} norms of each latent in rows", fontsize=9)
    axes.set_xlabel("feature")
    axes.figure.colorbar(drawn, ax=axes)


def _token_clouds(plain: Axes, after: Axes, tokens: Tensor, norm: SelfModulatedLayerNorm, w: Tensor) -> None:
    """The two features of the tokens (1, L, D) whose gamma and beta differ most between the w (B, D)."""
    change = norm.gamma(w).var(0) + norm.beta(w).var(0)
    first, second = change.topk(2).indices.tolist()
    normed = LayerNorm(tokens.shape[-1])(tokens)[0]
    plain.scatter(normed[:, first], normed[:, second], color="black", s=14)
    modulated = norm(tokens.expand(len(w), -1, -1), w)
    for number, cloud in enumerate(modulated):
        after.scatter(cloud[:, first], cloud[:, second], color=COLOURS[number], s=14, label=f"z {number + 1}")
    plain.set_title("E_pos after a plain layer norm:\none cloud for every latent", fontsize=9)
    after.set_title("after the first SLN:\nstretched by γ(w), moved by β(w)", fontsize=9)
    limit = 1.05 * max(modulated[..., [first, second]].abs().max().item(), normed.abs().max().item())
    for panel in (plain, after):
        panel.set(
            xlim=(-limit, limit), ylim=(-limit, limit), xlabel=f"feature {first}", ylabel=f"feature {second}"
        )
        panel.axhline(0, color="grey", linewidth=0.5)
        panel.axvline(0, color="grey", linewidth=0.5)
    after.legend(fontsize=7)


# L2 against dot-product attention


def attention() -> Figure:
    """What one query gives to keys all over a plane, by both; and the steepness as the tokens grow."""
    figure = Figure(figsize=(13, 4), layout="constrained")
    by_product, by_distance, growth = figure.subplots(1, 3, width_ratios=[1, 1, 1.25])
    _plane(by_product, dot_product_attention, "dot product: more, the farther along the query")
    _plane(by_distance, l2_attention, "L2: more, the nearer to the query")
    _growth(growth)
    return figure


def _plane(axes: Axes, attend: Callable[[Tensor, Tensor, Tensor], Tensor], title: str) -> None:
    """The logarithm of the weights of keys on a grid (N, 2), for one query; the values are unit vectors."""
    steps = torch.linspace(-4, 4, 81, dtype=torch.float64)
    keys = torch.cartesian_prod(steps, steps)
    query = torch.tensor([[QUERY]], dtype=torch.float64)
    values = torch.eye(len(keys), dtype=torch.float64)
    weights = attend(query[None], keys[None, None], values[None, None])
    level = weights.view(len(steps), len(steps)).T.log10()
    drawn = axes.contourf(steps, steps, level.clamp(min=-12), levels=np.linspace(-12, 0, 13), cmap="viridis")
    axes.plot(*QUERY, marker="*", color="white", markersize=14, markeredgecolor="black")
    axes.annotate("query", QUERY, xytext=(6, 6), textcoords="offset points", color="white")
    axes.set(xlabel="key, first number", ylabel="key, second number", aspect="equal")
    axes.set_title(title, fontsize=9)
    axes.figure.colorbar(drawn, ax=axes, label="log10 of the weight", shrink=0.85)


def _growth(axes: Axes) -> None:
    """The largest singular value of an attention layer's Jacobian at tokens s X, one of which is zero."""
    width, heads, tokens = 32, 4, 17
    with torch.random.fork_rng():
        torch.manual_seed(0)
        layers = {"dot product": SelfAttention(width, heads), "L2": L2Attention(width, heads)}
        x = torch.randn(1, tokens, width, dtype=torch.float64)
    x[:, 0] = 0
    scales = torch.logspace(-1, 2, 25, dtype=torch.float64)
    for number, (name, layer) in enumerate(layers.items()):
        norms = [jacobian_norms(layer.double(), s * x, iterations=60).item() for s in scales]
        axes.loglog(scales, norms, color=COLOURS[number], marker=".", label=name)
    axes.set(
        xlabel="size s of the tokens s X, of which one is zero",
        ylabel="largest singular value of the Jacobian",
    )
    axes.set_title(
        f"steepness: {tokens} random tokens of width {width},\nlayers at the start of training", fontsize=9
    )
    axes.grid(alpha=0.3)
    axes.legend()


# Balanced consistency regularisation


@torch.no_grad()
def consistency(subject: Subject, count: int = 5) -> Figure:
    """Real and generated images, two augmentations of each, D's logits, and what bCR adds for the pair."""
    terms = [term for term in subject.recipe.terms if isinstance(term, BCR)]
    if not terms or terms[0].against != "augmented":
        raise SystemExit("The run has no consistency between two augmentations: train one with the term BCR.")
    rng, augment = torch.Generator().manual_seed(0), subject.recipe.augment
    figure = Figure(figsize=(11, 5), layout="constrained")
    grid = figure.subplots(3, 2 * count)
    kinds = (("real", subject.real, terms[0].real), ("generated", subject.fake, terms[0].fake))
    gaps, spreads = [], []
    for side, (name, images, weight) in enumerate(kinds):
        views = [augment(images, rng), augment(images, rng)]
        logits = torch.cat([subject.discriminator(view) for view in views], 1)  # (B, 2)
        gaps.append(logits.diff(dim=1).square().mean())
        spreads.append((logits[:, 0] - logits[:, 0].roll(1)).square().mean())
        for number in range(count):
            column = grid[:, side * count + number]
            shown(column[0], images[number], name)
            for view, logit, axes in zip(views, logits[number], column[1:], strict=True):
                shown(axes, view[number], f"D = {logit:+.2f}")
            column[2].set_xlabel(
                f"{weight:g} ΔD² = {weight * logits[number].diff().square().item():.2g}", fontsize=8
            )
    for row, text in enumerate(("image", "one augmentation", "another")):
        grid[row, 0].set_ylabel(text, fontsize=9)
    two_views, two_images = (torch.stack(values).mean().sqrt().item() for values in (gaps, spreads))
    text = f"difference of D, root mean square over {2 * len(subject.real)} images: "
    text += f"{two_views:.3f} between two augmentations of an image, {two_images:.3f} between two images"
    figure.suptitle(text, fontsize=9)
    return figure


if __name__ == "__main__":
    main()
