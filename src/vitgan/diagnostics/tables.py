"""An inspection as text for a terminal."""

from collections.abc import Iterator
from typing import Any

from vitgan.terminal import counted


def table(result: dict[str, Any]) -> str:
    """Every number of `inspect_run` that fits a line, by section."""
    lines = [*_head(result["protocol"])]
    for name, layers in result["sigma"].items():
        lines += [*_sigma(name, layers)]
    lines += [*_lipschitz(result["lipschitz"])]
    lines += [*_attention(result["attention"]), *_rank(result["rank"]), *_spectrum(result["spectrum"])]
    if result["left_out"]:
        lines += ["", "Left out", *(f"  {line}" for line in result["left_out"])]
    return "\n".join(lines)


def _head(protocol: dict[str, Any]) -> Iterator[str]:
    reals = counted(protocol["count"], "real image")
    yield (
        f"{protocol['recipe']} at {protocol['images_seen']:,} images: {reals} of {protocol['data']} and as "
        f"many fakes, seed {protocol['seed']}"
    )


def _sigma(name: str, layers: list[dict[str, Any]]) -> Iterator[str]:
    yield f"\nLargest singular values, {name} (convolutions: of the O x I k k matrix)"
    width = max(len(layer["layer"]) for layer in layers)
    yield f"  {'layer':{width}}  {'shape':>16} {'stored':>9} {'used':>9} {'start':>9} {'used/start':>10}"
    for layer in layers:
        shape = "x".join(map(str, layer["shape"]))
        numbers = f"{layer['stored']:9.4g} {layer['used']:9.4g} {layer['start']:9.4g} {layer['ratio']:10.4f}"
        yield f"  {layer['layer']:{width}}  {shape:>16} {numbers}"


def _lipschitz(found: dict[str, Any]) -> Iterator[str]:
    bound, place = found["lower_bound"], found["found_at"]
    yield f"\nLipschitz constant of the discriminator: at least {bound:.4g} ({place})"
    tokens = {f"class token by tokens, {kind}": norm for kind, norm in (found["class_token"] or {}).items()}
    for name, norm in (found["places"] | tokens).items():
        yield f"  {name:28}  mean {norm['mean']:9.4g}  largest {norm['max']:9.4g}"
    for row in found["attention_layers"]:
        bounds = (("bound", "bound on normed tokens"), ("theorem_bound", "Kim et al., their form"))
        said = "".join(f"  {text} {row[key]:.4g}" for key, text in bounds if key in row)
        yield f"  {row['layer']:28}  Jacobian, largest met {row['jacobian']:.4g}{said}"


def _attention(found: dict[str, list[dict[str, Any]]]) -> Iterator[str]:
    for name, layers in found.items():
        if layers:
            yield f"\nAttention, {name}: entropy as a share of ln N, by head; to itself, by head"
        for layer in layers:
            shares, own = (" ".join(f"{v:.2f}" for v in layer[key]) for key in ("entropy_share", "to_self"))
            yield f"  {layer['layer']:28}  N {layer['tokens']:4}  {shares}   self {own}"


def _rank(found: dict[str, list[dict[str, Any]]]) -> Iterator[str]:
    for name, rows in found.items():
        if rows:
            yield f"\nDistance of the tokens to rank one, {name} (0: all alike)"
        for row in rows:
            yield f"  {row['after']:28}  {row['composite']:.3f}  Frobenius {row['frobenius']:.3f}"


def _spectrum(found: dict[str, Any]) -> Iterator[str]:
    yield "\nPower spectrum, radially averaged, cycles per image from 1"
    for kind in ("real", "fake"):
        excess = found[kind]["grid_excess_db"]
        grid = "" if excess is None else f"   patch grid {excess:+.2f} dB"
        radial = found[kind]["radial"][1:]
        # At most eight of them; the JSON has all.
        shown = radial[:: max(1, -(-len(radial) // 8))]
        yield f"  {kind}  " + " ".join(f"{v:9.3g}" for v in shown) + grid
