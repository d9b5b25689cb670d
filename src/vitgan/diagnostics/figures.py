"""The pictures of an inspection, as PNG files.

Shapes: N tokens, T patches, h heads.
"""

import math
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from vitgan.compat import importing_matplotlib
from vitgan.diagnostics.attention import Reading
from vitgan.diagnostics.lipschitz import power_spectrum
from vitgan.diagnostics.subject import Subject
from vitgan.io import replacing

with importing_matplotlib():
    from matplotlib.axes import Axes
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import Normalize
    from matplotlib.figure import Figure
    from matplotlib.ticker import FormatStrFormatter, LogLocator, NullFormatter

DOTS_PER_INCH = 110
REAL, FAKE, OTHER = "#2f9e6e", "#cf4a5a", "#2f86c9"
MOST_NUMBERS = 64  # cells of a heat map that are written out
SHOWN = 3  # images of a kind whose attention is shown


def draw(subject: Subject, readings: dict[str, Reading], result: dict[str, Any], out: Path) -> list[str]:
    """Write the PNGs that apply into `out` and return their names."""
    pictures: dict[str, Figure] = {
        "sigma": sigma(result["sigma"]),
        "lipschitz": lipschitz(result["lipschitz"]),
    }
    if any(result["attention"].values()):
        pictures["entropy"] = entropy(result["attention"])
    if any(result["rank"].values()):
        pictures["rank"] = rank(result["rank"])
    pictures["spectrum"] = spectrum(subject, result["spectrum"])
    pictures |= attention_pictures(subject, readings)
    for name, figure in pictures.items():
        with replacing(out / f"{name}.png") as temporary:
            figure.savefig(temporary, format="png", dpi=DOTS_PER_INCH)
    return [f"{name}.png" for name in pictures]


def sigma(found: dict[str, list[dict[str, Any]]]) -> Figure:
    """A plot of sigma over sigma at the start, a row for each weight: as stored and as used."""
    rows = max(len(layers) for layers in found.values())
    figure = Figure(figsize=(13, 1.6 + 0.19 * rows), layout="constrained")
    panels = figure.subplots(1, len(found), squeeze=False)[0]
    for axes, (name, layers) in zip(panels, found.items(), strict=True):
        places = range(len(layers))
        for field, marker, colour in (("stored", "x", FAKE), ("used", "o", OTHER)):
            ratios = [layer[field] / layer["start"] if layer["start"] else math.nan for layer in layers]
            label = {"stored": "weight as stored", "used": "weight as used"}[field]
            axes.scatter(ratios, places, marker=marker, s=18, color=colour, label=label)
        axes.axvline(1, color="black", linewidth=0.6)
        _scale(axes)
        axes.set_yticks(places, [_with_kind(layer) for layer in layers], fontsize=6.5)
        axes.set_ylim(len(layers) - 0.5, -0.5)
        axes.set(title=name, xlabel="σ / σ at the start (1 is held)")
        axes.grid(axis="x", alpha=0.2)
        axes.legend(fontsize=7)
    return figure


def lipschitz(found: dict[str, Any]) -> Figure:
    """A plot of the steepness of D by where it was measured, and of its attention layers beside their
    bounds."""
    layers = found["attention_layers"]
    figure = Figure(figsize=(13 if layers else 7, 4.2), layout="constrained")
    panels = figure.subplots(1, 2 if layers else 1, squeeze=False)[0]
    places = found["places"]
    for row, (name, summary) in enumerate(places.items()):
        values = np.array(summary["values"])
        colour = REAL if "real" in name else FAKE if "fake" in name else OTHER
        panels[0].scatter(values, row + np.linspace(-0.25, 0.25, len(values)), s=9, color=colour, alpha=0.6)
    panels[0].axvline(found["lower_bound"], color="black", linewidth=0.8, linestyle="--")
    panels[0].set_yticks(range(len(places)), list(places), fontsize=8)
    panels[0].invert_yaxis()
    _scale(panels[0])
    title = f"the discriminator: Lipschitz constant ≥ {found['lower_bound']:.3g}"
    panels[0].set(title=title, xlabel="logit per unit of Euclidean distance between images")
    panels[0].grid(axis="x", alpha=0.2)
    if layers:
        _attention_layers(panels[1], layers)
    return figure


def _attention_layers(axes: Axes, layers: list[dict[str, Any]]) -> None:
    series = (
        ("jacobian", "Jacobian norm, largest met", "o", OTHER),
        ("bound", "bound on layer-normed tokens", "v", FAKE),
        ("theorem_bound", "Kim et al., for their form", "s", "#8c8c8c"),
    )
    for field, label, marker, colour in series:
        points = [(row, layer[field]) for row, layer in enumerate(layers) if field in layer]
        if points:
            axes.scatter(
                [v for _, v in points], [r for r, _ in points], marker=marker, color=colour, label=label
            )
    axes.set_yticks(range(len(layers)), [layer["layer"] for layer in layers], fontsize=8)
    axes.set_ylim(len(layers) - 0.5, -0.5)
    _scale(axes)
    axes.set(title="attention layers of the discriminator", xlabel="output per unit of input, Euclidean")
    axes.grid(axis="x", alpha=0.2)
    axes.legend(fontsize=7)


def entropy(found: dict[str, list[dict[str, Any]]]) -> Figure:
    """A plot of entropy as a share of ln N and of attention to self, layers by heads, a column for each
    network."""
    shown = {name: layers for name, layers in found.items() if layers}
    rows = max(len(layers) for layers in shown.values())
    figure = Figure(figsize=(4.2 * len(shown), 2.2 + 0.8 * rows), layout="constrained")
    panels = figure.subplots(2, len(shown), squeeze=False)
    titles = {"entropy_share": "entropy / ln N", "to_self": "attention of a token to itself"}
    for row, field in enumerate(titles):
        for column, (name, layers) in enumerate(shown.items()):
            axes = panels[row, column]
            _heat(axes, [layer[field] for layer in layers])
            axes.set(title=f"{name}: {titles[field]}", xlabel="head", ylabel="layer")
            axes.title.set_fontsize(9)
        figure.colorbar(ScalarMappable(Normalize(0, 1)), ax=list(panels[row]), fraction=0.03)
    return figure


def _heat(axes: Axes, values: list[list[float]]) -> None:
    """One row for each layer, from 0 to 1; layers with fewer heads are filled up with blanks."""
    heads = max(map(len, values))
    table = np.array([row + [math.nan] * (heads - len(row)) for row in values])
    axes.imshow(table, vmin=0, vmax=1, cmap="viridis", aspect="auto")
    if table.size <= MOST_NUMBERS:
        for (row, column), value in np.ndenumerate(table):
            colour = "white" if value < 0.6 else "black"
            axes.text(column, row, f"{value:.2f}", ha="center", va="center", fontsize=7, color=colour)
    axes.set_xticks(range(heads), [str(k + 1) for k in range(heads)])
    axes.set_yticks(range(len(table)), [str(k + 1) for k in range(len(table))])


def rank(found: dict[str, list[dict[str, Any]]]) -> Figure:
    """A plot of the residual shares, layer by layer."""
    figure = Figure(figsize=(11, 4), layout="constrained")
    panels = figure.subplots(1, 2)
    colours = dict(zip(found, (REAL, FAKE, OTHER), strict=False))
    for axes, field in zip(panels, ("composite", "frobenius"), strict=True):
        for name, rows in found.items():
            if rows:
                axes.plot([row[field] for row in rows], marker="o", label=name, color=colours[name])
        axes.set_xticks(range(max(map(len, found.values()))))
        norm = {"composite": "√(‖·‖₁ ‖·‖∞)", "frobenius": "Frobenius"}[field]
        axes.set(xlabel="blocks passed", ylabel="‖X − 1x̄ᵀ‖ / ‖X‖", title=f"distance to rank one, {norm} norm")
        axes.set_ylim(bottom=0)
        axes.grid(alpha=0.2)
        axes.legend(fontsize=8)
    return figure


def spectrum(subject: Subject, found: dict[str, Any]) -> Figure:
    """A plot of the radial spectra of real and fake images, and the logarithm of their quotient in the
    plane."""
    figure = Figure(figsize=(11, 4.2), layout="constrained")
    line, plane = figure.subplots(1, 2)
    for kind, colour in (("real", REAL), ("fake", FAKE)):
        radial = found[kind]["radial"]
        excess = found[kind]["grid_excess_db"]
        grid = "" if excess is None else f", patch grid {excess:+.1f} dB"
        line.plot(
            range(1, len(radial)), radial[1:], marker="o", markersize=3, color=colour, label=kind + grid
        )
    size = subject.real.shape[-1]
    for k in range(1, found["patch"] or 1):
        if k * size / (found["patch"] or 1) <= size / 2:
            line.axvline(k * size / found["patch"], color="black", linewidth=0.7, linestyle=":")
    line.set_yscale("log")
    line.set(title="power, radially averaged (dotted: patch grid)", ylabel="power, squared pixel value")
    line.set_xlabel(f"cycles per image (Nyquist {size / 2:g})")
    line.grid(alpha=0.2)
    line.legend(fontsize=8)
    _plane(figure, plane, subject)
    return figure


def _plane(figure: Figure, axes: Axes, subject: Subject) -> None:
    real, fake = (power_spectrum(images.cpu()) for images in (subject.real, subject.fake))
    tiny = 1e-12
    ratio = torch.fft.fftshift(10 * ((fake + tiny) / (real + tiny)).log10()).numpy()
    half = len(ratio) / 2
    extent = (-half - 0.5, half - 0.5, half - 0.5, -half - 0.5)
    image = axes.imshow(ratio, cmap="RdBu_r", vmin=-15, vmax=15, extent=extent)
    axes.set(title="power of fakes over real, dB", xlabel="cycles per image, across", ylabel="down")
    figure.colorbar(image, ax=axes)


def attention_pictures(subject: Subject, readings: dict[str, Reading]) -> dict[str, Figure]:
    """Attention maps of each network that has any: by image and layer, and by layer and head of one image."""
    images = {
        "discriminator, real": subject.real,
        "discriminator, fake": subject.fake,
        "generator": subject.fake,
    }
    pictures = {}
    for name, found in readings.items():
        layers = [entry.maps[0] for entry in found.attention.values() if entry.maps]
        layers = [maps for maps in layers if _patches_of(maps) is not None]
        if layers:
            pictures[f"attention {name}".replace(", ", "-").replace(" ", "-")] = _maps(
                images[name], layers, name
            )
    return pictures


def _maps(images: Tensor, layers: list[Tensor], name: str) -> Figure:
    """A figure of attention maps. Rows: SHOWN images, mean of heads; below, every head of the first image.
    Columns: image, layers."""
    shown, heads = min(SHOWN, len(layers[0])), max(maps.shape[1] for maps in layers)
    size = (1.2 * (1 + len(layers)) + 0.6, 1.35 * (shown + heads) + 0.6)
    figure = Figure(figsize=size, layout="constrained")
    panels = figure.subplots(shown + heads, 1 + len(layers), squeeze=False)
    for row in range(shown + heads):
        image, head = (row, None) if row < shown else (0, row - shown)
        _show_image(panels[row, 0], images[image])
        panels[row, 0].set_ylabel("mean" if head is None else f"head {head + 1}", fontsize=8)
        for column, maps in enumerate(layers, start=1):
            _show_map(panels[row, column], maps[image], head)
            if row == 0:
                panels[row, column].set_title(f"layer {column}", fontsize=8)
    whose = "first token" if _special(layers[0]) else "middle patch (marked)"
    figure.suptitle(f"{name}:\nattention of the {whose},\neach map from 0 to its largest", fontsize=8)
    return figure


def _show_image(axes: Axes, image: Tensor) -> None:
    pixels = ((image.float().cpu() + 1) / 2).clamp(0, 1).permute(1, 2, 0).numpy()
    axes.imshow(pixels if pixels.shape[2] == 3 else pixels[..., 0], cmap="gray", vmin=0, vmax=1)
    axes.set(xticks=[], yticks=[])


def _show_map(axes: Axes, maps: Tensor, head: int | None) -> None:
    """Draw, of the maps (h, N, N) of one image, the asked token's row over the patches."""
    axes.set(xticks=[], yticks=[])
    if head is not None and head >= len(maps):
        axes.set_visible(False)
        return
    table = maps.mean(0) if head is None else maps[head]
    side = _patches_of(maps)
    assert side is not None
    special = _special(maps)
    query = 0 if special else (side // 2) * side + side // 2
    shown = table[query, int(special) :].view(side, side).numpy()
    axes.imshow(shown, cmap="magma", vmin=0)
    axes.set_xlabel(f"largest {shown.max():.2f}", fontsize=6, labelpad=1)
    if not special:
        axes.plot(side // 2, side // 2, marker="s", markersize=4, markerfacecolor="none", color="cyan")


def _special(maps: Tensor) -> bool:
    """Whether token 0 is no patch: the class token, or w in entry B."""
    return math.isqrt(maps.shape[-1]) ** 2 != maps.shape[-1]


def _patches_of(maps: Tensor) -> int | None:
    """Side of the square of patches, None where the tokens make none."""
    side = math.isqrt(maps.shape[-1])
    return side if maps.shape[-1] - side**2 in (0, 1) else None


def _scale(axes: Axes) -> None:
    """Make the horizontal axis logarithmic, but where all values lie within a factor of 4."""
    low, high = axes.dataLim.intervalx
    if high > 4 * low > 0:
        axes.set_xscale("log")
        axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.xaxis.set_major_formatter(FormatStrFormatter("%g"))
        axes.xaxis.set_minor_formatter(NullFormatter())


def _with_kind(layer: dict[str, Any]) -> str:
    return layer["layer"] + (" (conv.)" if layer["kind"] == "convolution" else "")
