"""All the diagnostics of one run, as numbers, figures and text."""

import json
import math
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from vitgan.diagnostics.attention import AttentionReading, Reading, reading
from vitgan.diagnostics.lipschitz import (
    ascend,
    bound_of_normed_tokens,
    bound_of_theorem,
    gradient_norms,
    grid_excess,
    inverse_phi,
    jacobian_norms,
    normalised,
    power_spectrum,
    radial_average,
    sigmas,
    slopes,
)
from vitgan.diagnostics.subject import Subject, load_subject, parts, pick
from vitgan.engine.environment import environment
from vitgan.io import replacing
from vitgan.models import VisionTransformer
from vitgan.nn import L2Attention, LayerNorm
from vitgan.terminal import counted

ASCENTS = 8  # points of each kind from which the ascent starts: the steepest
Result = dict[str, Any]


def inspect_run(
    run: Path,
    *,
    data: str | None = None,
    count: int = 64,
    seed: int = 0,
    out: Path | None = None,
    device: torch.device | str = "cpu",
    json_path: Path | None = None,
) -> Result:
    """Inspect a run folder or a checkpoint on `count` real and as many generated images.

    Writes PNGs and `inspect.json` (or `json_path`) into `out`, by default RUN/inspect. Returns what the JSON
    holds. Raises UserError as `load_subject`.
    """
    from vitgan.diagnostics.figures import draw

    subject = load_subject(run, data=data, count=count, seed=seed, device=device)
    out = run / "inspect" if out is None else out
    path = json_path or out / "inspect.json"
    for folder in (out, path.parent):
        folder.mkdir(parents=True, exist_ok=True)
    readings = read_networks(subject)
    protocol = _protocol(subject, run, data, seed, torch.device(device))
    result = {"protocol": protocol, **measure(subject, readings)}
    result["figures"] = draw(subject, readings, result, out)
    with replacing(path) as temporary:
        temporary.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    return result


def measure(subject: Subject, readings: dict[str, Reading]) -> Result:
    """Every number of an inspection, by section, and the sections that were left out."""
    result = {
        "sigma": _sigma(subject),
        "lipschitz": _lipschitz(subject, readings),
        "attention": {name: _attention(found) for name, found in readings.items()},
        "rank": {name: _rank(found) for name, found in readings.items()},
        "spectrum": _spectrum(subject),
    }
    return result | {"left_out": _left_out(subject, result)}


def read_networks(subject: Subject) -> dict[str, Reading]:
    """The readings of the discriminator on real and on fake images, and of the generator."""
    runs: dict[str, tuple[nn.Module, Tensor]] = {
        "discriminator, real": (subject.discriminator, subject.real),
        "discriminator, fake": (subject.discriminator, subject.fake),
        "generator": (subject.generator, subject.latents),
    }
    found = {}
    for name, (network, inputs) in runs.items():
        with torch.no_grad(), reading(network) as found[name]:
            for part in parts(len(inputs)):
                network(inputs[part], pick(subject.labels, part))
    return found


def _protocol(subject: Subject, run: Path, data: str | None, seed: int, device: torch.device) -> Result:
    return {
        "run": str(run),
        "recipe": subject.recipe.name,
        "images_seen": subject.images_seen,
        "data": data or subject.recipe.data.source,
        "count": len(subject.real),
        "seed": seed,
        "generator": f"{type(subject.generator).__name__}, averaged weights",
        "discriminator": type(subject.discriminator).__name__,
        "environment": environment(device),
    }


def _sigma(subject: Subject) -> Result:
    pairs = {
        "discriminator": (subject.discriminator, subject.discriminator_at_start),
        "generator": (subject.generator, subject.generator_at_start),
    }
    return {
        name: [asdict(layer) | {"shape": list(layer.shape), "ratio": layer.ratio} for layer in sigmas(*pair)]
        for name, pair in pairs.items()
    }


def _lipschitz(subject: Subject, readings: dict[str, Reading]) -> Result:
    discriminator, labels = subject.discriminator, subject.labels
    mixed = torch.rand(len(subject.real), generator=torch.Generator().manual_seed(0)).view(-1, 1, 1, 1)
    between = torch.lerp(subject.real, subject.fake, mixed.to(subject.real.device))
    kinds = {"a real image": subject.real, "a fake": subject.fake, "an interpolate": between}
    norms = {kind: _batched_norms(subject, x) for kind, x in kinds.items()}
    ascended = {
        f"ascent from {kind}": _ascended(discriminator, x, labels, norms[kind]) for kind, x in kinds.items()
    }
    found = norms | ascended | {"slope between two images": _slopes(subject)}
    where = max(found, key=lambda place: float(found[place].max()))
    return {
        "lower_bound": float(found[where].max()),
        "found_at": where,
        "places": {place: _summary(values) for place, values in found.items()},
        "class_token": _class_token(subject, readings),
        "attention_layers": _attention_bounds(subject, readings),
    }


def _batched_norms(subject: Subject, images: Tensor) -> Tensor:
    gradients = [
        gradient_norms(subject.discriminator, images[part], pick(subject.labels, part))
        for part in parts(len(images))
    ]
    return torch.cat(gradients).cpu()


def _ascended(discriminator: nn.Module, images: Tensor, labels: Tensor | None, norms: Tensor) -> Tensor:
    chosen = norms.topk(min(ASCENTS, len(norms))).indices.to(images.device)
    return ascend(discriminator, images[chosen], None if labels is None else labels[chosen])[1].cpu()


@torch.no_grad()
def _slopes(subject: Subject) -> Tensor:
    """The largest slope of each image of [real, fake] to another, (2 N,)."""
    both = torch.cat((subject.real, subject.fake))
    labels = None if subject.labels is None else subject.labels.repeat(2)
    logits = torch.cat([subject.discriminator(both[part], pick(labels, part)) for part in parts(len(both))])
    pairs = None if labels is None else (labels, labels)
    return slopes(both, both, (logits, logits), pairs).amax(1).cpu()


def _summary(values: Tensor) -> Result:
    return {
        "count": len(values),
        "mean": float(values.mean()),
        "max": float(values.max()),
        "values": values.tolist(),
    }


def _class_token(subject: Subject, readings: dict[str, Reading]) -> Result | None:
    """The norm of the Jacobian of the class token after the last norm, by the tokens before the first
    block."""
    network = subject.discriminator
    if not isinstance(network, VisionTransformer):
        return None

    def feature(h: Tensor) -> Tensor:
        for i, block in enumerate(network.blocks):
            h = block(h, first=1 if i == len(network.blocks) - 1 else None)
        return network.norm(h[:, 0])

    found = {}
    with normalised(network):
        for kind in ("real", "fake"):
            norms = jacobian_norms(feature, readings[f"discriminator, {kind}"].tokens[0])
            found[kind] = {"max": float(norms.max()), "mean": float(norms.mean())}
    return found


def _attention_bounds(subject: Subject, readings: dict[str, Reading]) -> list[Result]:
    """For each attention layer of the discriminator, its Jacobian's norm at its inputs, and the L2 bounds."""
    real, fake = (readings[f"discriminator, {kind}"].attention for kind in ("real", "fake"))
    with normalised(subject.discriminator):
        return [_bounds(name, real[name], fake[name]) for name in real if real[name].inputs]


def _bounds(name: str, real: AttentionReading, fake: AttentionReading) -> Result:
    module, queries = real.module, real.queries
    call: Callable[[Tensor], Tensor] = lambda x: module(x, queries)  # noqa: E731
    inputs = torch.cat((real.inputs[0], fake.inputs[0]))
    tokens = inputs.shape[1]
    row: Result = {"layer": name, "tokens": tokens, "queries": queries or tokens}
    row["jacobian"] = float(jacobian_norms(call, inputs).max())
    if isinstance(module, L2Attention) and not module.attend_to_farthest:
        row["phi_inverse"] = inverse_phi(tokens - 1)
        row["theorem_bound"] = bound_of_theorem(module, tokens)
        if isinstance(real.norm, LayerNorm):
            row["bound"] = bound_of_normed_tokens(module, real.norm, tokens, queries)
    return row


def _attention(found: Reading) -> list[Result]:
    rows = []
    for name, entry in found.attention.items():
        if entry.inputs:
            entropy = torch.cat(entry.entropy).mean(0)  # (h,)
            rows.append(
                {
                    "layer": name,
                    "tokens": entry.tokens,
                    "entropy_nats": entropy.tolist(),
                    "entropy_share": (entropy / math.log(entry.tokens)).tolist(),
                    "entropy_first_token_nats": torch.cat(entry.entropy_first).mean(0).tolist(),
                    "to_self": torch.cat(entry.to_self).mean(0).tolist(),
                }
            )
    return rows


def _rank(found: Reading) -> list[Result]:
    rows = []
    for name, batches in found.stream.items():
        composite, frobenius = (torch.cat(values) for values in zip(*batches, strict=True))
        shares = {"composite": float(composite.mean()), "frobenius": float(frobenius.mean())}
        rows.append({"after": name, **shares, "lowest_frobenius": float(frobenius.min())})
    return rows


def _spectrum(subject: Subject) -> Result:
    patch = getattr(getattr(subject.generator, "options", None), "patch", None)
    result: Result = {"patch": patch}
    for kind, images in (("real", subject.real), ("fake", subject.fake)):
        spectrum = power_spectrum(images.cpu())
        excess = None if patch is None else grid_excess(spectrum, patch)
        result[kind] = {
            "radial": radial_average(spectrum).tolist(),
            "grid_excess_db": None if excess is None else float(10 * excess.log10()),
        }
    return result


def _left_out(subject: Subject, result: Result) -> list[str]:
    """A line for each part that does not apply to this run's systems."""
    said = []
    for part, network in (("discriminator", subject.discriminator), ("generator", subject.generator)):
        name = type(network).__name__
        if not any(result["attention"][key] for key in result["attention"] if key.startswith(part)):
            said.append(f"Attention of the {part}: {name} has no layer of a kind that can be read.")
        if not any(result["rank"][key] for key in result["rank"] if key.startswith(part)):
            said.append(f"Rank collapse of the {part}: {name} has no transformer blocks.")
    if result["lipschitz"]["class_token"] is None:
        said.append("Jacobian of the class token: the discriminator has none.")
    if not any("theorem_bound" in row for row in result["lipschitz"]["attention_layers"]):
        said.append("Bound of L2 attention: the discriminator has none.")
    if result["spectrum"]["fake"]["grid_excess_db"] is None:
        said.append(
            "Power on the patch grid: the generator has no patches, or too few for a peak to stand out."
        )
    return said


def table(result: dict[str, Any]) -> str:
    """Every number of `inspect_run` that fits a line, by section."""
    lines = [*_head(result["protocol"])]
    for name, layers in result["sigma"].items():
        lines += [*_sigma_lines(name, layers)]
    lines += [*_lipschitz_lines(result["lipschitz"])]
    lines += [
        *_attention_lines(result["attention"]),
        *_rank_lines(result["rank"]),
        *_spectrum_lines(result["spectrum"]),
    ]
    if result["left_out"]:
        lines += ["", "Left out", *(f"  {line}" for line in result["left_out"])]
    return "\n".join(lines)


def _head(protocol: dict[str, Any]) -> Iterator[str]:
    reals = counted(protocol["count"], "real image")
    yield (
        f"{protocol['recipe']} at {protocol['images_seen']:,} images: {reals} of {protocol['data']} and as "
        f"many fakes, seed {protocol['seed']}"
    )


def _sigma_lines(name: str, layers: list[dict[str, Any]]) -> Iterator[str]:
    yield f"\nLargest singular values, {name} (convolutions: of the O x I k k matrix)"
    width = max(len(layer["layer"]) for layer in layers)
    yield f"  {'layer':{width}}  {'shape':>16} {'stored':>9} {'used':>9} {'start':>9} {'used/start':>10}"
    for layer in layers:
        shape = "x".join(map(str, layer["shape"]))
        numbers = f"{layer['stored']:9.4g} {layer['used']:9.4g} {layer['start']:9.4g} {layer['ratio']:10.4f}"
        yield f"  {layer['layer']:{width}}  {shape:>16} {numbers}"


def _lipschitz_lines(found: dict[str, Any]) -> Iterator[str]:
    bound, place = found["lower_bound"], found["found_at"]
    yield f"\nLipschitz constant of the discriminator: at least {bound:.4g} ({place})"
    tokens = {f"class token by tokens, {kind}": norm for kind, norm in (found["class_token"] or {}).items()}
    for name, norm in (found["places"] | tokens).items():
        yield f"  {name:28}  mean {norm['mean']:9.4g}  largest {norm['max']:9.4g}"
    for row in found["attention_layers"]:
        bounds = (("bound", "bound on normed tokens"), ("theorem_bound", "Kim et al., their form"))
        said = "".join(f"  {text} {row[key]:.4g}" for key, text in bounds if key in row)
        yield f"  {row['layer']:28}  Jacobian, largest met {row['jacobian']:.4g}{said}"


def _attention_lines(found: dict[str, list[dict[str, Any]]]) -> Iterator[str]:
    for name, layers in found.items():
        if layers:
            yield f"\nAttention, {name}: entropy as a share of ln N, by head; to itself, by head"
        for layer in layers:
            shares, own = (" ".join(f"{v:.2f}" for v in layer[key]) for key in ("entropy_share", "to_self"))
            yield f"  {layer['layer']:28}  N {layer['tokens']:4}  {shares}   self {own}"


def _rank_lines(found: dict[str, list[dict[str, Any]]]) -> Iterator[str]:
    for name, rows in found.items():
        if rows:
            yield f"\nDistance of the tokens to rank one, {name} (0: all alike)"
        for row in rows:
            yield f"  {row['after']:28}  {row['composite']:.3f}  Frobenius {row['frobenius']:.3f}"


def _spectrum_lines(found: dict[str, Any]) -> Iterator[str]:
    yield "\nPower spectrum, radially averaged, cycles per image from 1"
    for kind in ("real", "fake"):
        excess = found[kind]["grid_excess_db"]
        grid = "" if excess is None else f"   patch grid {excess:+.2f} dB"
        radial = found[kind]["radial"][1:]
        # At most eight of them; the JSON has all.
        shown = radial[:: max(1, -(-len(radial) // 8))]
        yield f"  {kind}  " + " ".join(f"{v:9.3g}" for v in shown) + grid
