"""Measurements of single components: attention, spectral norm, sampling, and the command line's start.

Shapes: B batch, N tokens, h heads, d size of a head, C channels, R resolution, Z latent size.
"""

import json
import math
import subprocess
import sys
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor

from vitgan.adversarial.step import frozen
from vitgan.bench.peak import Seconds, interleaved
from vitgan.bench.settings import Settings
from vitgan.data import ImageSet
from vitgan.engine.gan import build_networks
from vitgan.engine.recipe import Precision, activation_dtype
from vitgan.models import Discriminator, Generator, to_uint8
from vitgan.nn import SpectralNorm, dot_product_attention, l2_attention
from vitgan.nn.attention import fused_l2_attention, plain_l2_attention

Attention = Callable[[Tensor, Tensor, Tensor], Tensor]

HEADS, HEAD = 6, 64
ERROR_BATCH = 2
KEY_DEVIATION = 0.5  # of queries and keys, as L2 attention starts (vitgan.nn.L2Attention)
L2 = "l2"


def plain_dot_product(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """softmax(Q K^T / sqrt(d)) V of (B, h, N, d) tensors, differentiated by autograd."""
    return (query @ key.mT / math.sqrt(query.shape[-1])).softmax(-1) @ value


# The first two are what the ratio is to: dot-product attention as it is written, and torch's own.
REFERENCES: dict[str, Attention] = {
    "plain dot product": plain_dot_product,
    "torch's fused dot product": F.scaled_dot_product_attention,
}
DOT_PRODUCTS: dict[str, Attention] = REFERENCES | {"vitgan's dot product": dot_product_attention}
TIED: dict[str, Attention] = {L2: l2_attention, "plain l2": plain_l2_attention}
JUDGED: dict[str, Attention] = {
    L2: l2_attention,
    "fused l2": fused_l2_attention,
    "plain l2": plain_l2_attention,
}


@dataclass(frozen=True, kw_only=True)
class AttentionCost:
    """What attention costs at one size and precision, by every route to it."""

    tokens: int
    batch: int
    precision: Precision
    milliseconds: dict[str, float]
    """Milliseconds of a forward and backward pass by route, medians over the rounds."""
    l2_over_fastest_dot_product: float
    """Time of the package's L2 attention over that of the faster dot product, plain or torch's fused."""
    l2_over: dict[str, float]
    """Time of the package's L2 attention over that of each other route."""
    errors: dict[str, dict[str, float]]
    """Relative errors |x - x_64| / |x_64| of each L2 route against float64: of the output and both
    gradients."""


def measure_attention(settings: Settings) -> list[AttentionCost]:
    """Time attention at each size and precision, the routes taking turns."""
    return [
        _cost(tokens, batch, precision, settings)
        for tokens, batch in settings.sizes.attention
        for precision in settings.precisions
    ]


def _cost(tokens: int, batch: int, precision: Precision, settings: Settings) -> AttentionCost:
    device, dtype = settings.device, activation_dtype(precision, settings.device)
    calls = _passes(batch, tokens, dtype, device)
    times = interleaved(calls, rounds=settings.sizes.rounds, device=device, repeats=settings.sizes.repeats)
    taken = {name: 1000 * time.median for name, time in times.items()}
    return AttentionCost(
        tokens=tokens,
        batch=batch,
        precision=precision,
        milliseconds=taken,
        l2_over_fastest_dot_product=taken[L2] / min(taken[name] for name in REFERENCES),
        l2_over={name: taken[L2] / taken[name] for name in taken if name != L2},
        errors=errors(tokens, dtype, device),
    )


def _passes(
    batch: int, tokens: int, dtype: torch.dtype, device: torch.device
) -> Mapping[str, Callable[[], object]]:
    """A forward and backward pass of every route, to be called; L2's query is its key, one tensor."""
    query, key, value, gradient = random_heads(batch, tokens, dtype, device)
    calls: dict[str, Callable[[], object]] = {
        name: partial(forward_backward, route, (query, key, value), gradient)
        for name, route in DOT_PRODUCTS.items()
    }
    return calls | {
        name: partial(forward_backward, route, (key, value), gradient) for name, route in TIED.items()
    }


def random_heads(
    batch: int, tokens: int, dtype: torch.dtype, device: torch.device
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Query, key, value and the output's gradient, (B, h, N, d), each laid out as `split_heads` gives it."""
    rng = torch.Generator(device).manual_seed(0)
    shape = (4, batch, tokens, HEADS, HEAD)
    normal = torch.randn(shape, device=device, generator=rng)
    normal[:2] *= KEY_DEVIATION
    query, key, value, gradient = (x.contiguous().transpose(1, 2) for x in normal.to(dtype))
    return query, key, value, gradient


def forward_backward(route: Attention, inputs: tuple[Tensor, ...], gradient: Tensor) -> tuple[Tensor, ...]:
    """Output and gradients of (query, key, value), or of (key, value) where the query is the key."""
    leaves = [x.detach().requires_grad_() for x in inputs]
    out = route(leaves[0], *leaves[-2:])
    return out.detach(), *torch.autograd.grad(out, leaves, gradient)


def errors(tokens: int, dtype: torch.dtype, device: torch.device) -> dict[str, dict[str, float]]:
    """Relative errors of the L2 routes in `dtype` against the plain one in float64 on the same, rounded,
    numbers."""
    _, *inputs, gradient = random_heads(ERROR_BATCH, tokens, dtype, device)
    exact = forward_backward(plain_l2_attention, tuple(x.double() for x in inputs), gradient.double())
    found: dict[str, dict[str, float]] = {}
    for name, route in JUDGED.items():
        computed = forward_backward(route, tuple(inputs), gradient)
        names = ("output", "key's gradient", "value's gradient")
        found[name] = {
            part: ((x.double() - y).norm() / y.norm()).item()
            for part, x, y in zip(names, computed, exact, strict=True)
        }
    return found


Weights = Callable[[], list[Tensor]]


@dataclass(frozen=True, kw_only=True)
class SpectralCost:
    """What spectral norm of all weights of the discriminator costs a training step, in fp32."""

    normalised: Seconds
    """Time of both updates' normalisation, the backward pass through the first, and the power iteration."""
    scaled: Seconds
    """Time of the same where the weights are only multiplied by the equalised learning rate's constants."""
    milliseconds: float
    """Milliseconds that it adds to a step, the difference of the medians; noise can take a small one below
    0."""
    share: dict[str, float]
    """What it adds as a share of the step's median, by precision; empty where the step was not measured."""


def measure_spectral(
    settings: Settings, images: ImageSet, step_seconds: dict[str, float]
) -> SpectralCost | None:
    """The cost of spectral norm for the recipe's discriminator; None for one without spectral norm."""
    _, discriminator = build_networks(settings.recipe, images)
    norm = getattr(discriminator, "spectral", None)
    if not isinstance(norm, SpectralNorm):
        return None
    discriminator.to(settings.device)
    sizes = settings.sizes
    times = interleaved(
        {
            "normalised": _step(discriminator, norm, lambda: _normalised(norm), norm.advance),
            "scaled": _step(discriminator, norm, lambda: _scaled(norm), nullcontext),
        },
        rounds=sizes.rounds,
        device=settings.device,
        repeats=sizes.repeats,
    )
    extra = times["normalised"].median - times["scaled"].median
    share = {precision: max(extra, 0.0) / step for precision, step in step_seconds.items()}
    return SpectralCost(**times, milliseconds=1000 * extra, share=share)


def _step(
    discriminator: Discriminator, norm: SpectralNorm, weights: Weights, advance: Callable[[], object]
) -> Callable[[], None]:
    """What a step does with the weights: computes them, goes back through them from given gradients, calls
    `advance`, and computes them again for G's update."""
    gradients = [torch.randn_like(layer.weight) for group in norm.groups for layer in group]

    def step() -> None:
        discriminator.zero_grad(set_to_none=True)
        torch.autograd.backward(weights(), gradients)
        advance()
        with frozen(discriminator):
            weights()

    return step


def _normalised(norm: SpectralNorm) -> list[Tensor]:
    with norm.applied():
        return _scaled(norm)


def _scaled(norm: SpectralNorm) -> list[Tensor]:
    """The weights that the layers compute with."""
    return [layer.effective_weight() for group in norm.groups for layer in group]


@dataclass(frozen=True, kw_only=True)
class SamplingCost:
    """The rate of sampling at one precision and batch."""

    precision: Precision
    batch: int
    images_per_second: float
    """From latents z (B, Z) on the device to uint8 (B, C, R, R) there, the batch over the median."""


def measure_sampling(settings: Settings, images: ImageSet) -> list[SamplingCost]:
    """Time the recipe's generator in eval mode, precisions and batches taking turns."""
    generator, _ = build_networks(settings.recipe, images)
    generator = generator.to(settings.device).eval()
    sizes: list[tuple[Precision, int]] = [
        (precision, batch) for batch in settings.sizes.sampling for precision in settings.precisions
    ]
    calls = {f"{precision} {batch}": _sample(generator, precision, batch) for precision, batch in sizes}
    times = interleaved(calls, rounds=settings.sizes.rounds, device=settings.device)
    return [
        SamplingCost(
            precision=precision,
            batch=batch,
            images_per_second=batch / times[f"{precision} {batch}"].median,
        )
        for precision, batch in sizes
    ]


def _sample(generator: Generator, precision: Precision, batch: int) -> Callable[[], object]:
    device = next(generator.parameters()).device
    z = generator.latents(batch, seed=0).to(device, activation_dtype(precision, device))
    labels = torch.arange(batch, device=device) % generator.classes if generator.classes else None
    return torch.no_grad()(lambda: to_uint8(generator(z, labels)))


HEAVY = ("gradio", "tensorboard", "torchvision", "matplotlib", "torch")
COMMANDS = {
    "vitgan --help": ("-m", "vitgan", "--help"),
    "vitgan list": ("-m", "vitgan", "list"),
    "import vitgan": ("-c", "import vitgan"),
}
LOADED = f"import json, sys, vitgan; print(json.dumps([name for name in {HEAVY} if name in sys.modules]))"


@dataclass(frozen=True, kw_only=True)
class Startup:
    """How long the command line takes to start, with this Python on this machine."""

    seconds: dict[str, Seconds]
    """Seconds by command, a process of its own each, its files in the system's cache."""
    imported: dict[str, bool]
    """Heavy modules, and whether `import vitgan` loads each."""


def measure_startup(launches: int) -> Startup:
    """Start each command once to warm up, then `launches` times in turn."""
    calls: dict[str, Callable[[], object]] = {
        name: partial(_output, words) for name, words in COMMANDS.items()
    }
    times = interleaved(calls, rounds=launches, device=torch.device("cpu"))
    loaded = json.loads(_output(("-c", LOADED)))
    return Startup(seconds=times, imported={name: name in loaded for name in HEAVY})


def _output(words: tuple[str, ...]) -> str:
    return subprocess.run([sys.executable, *words], capture_output=True, text=True, check=True).stdout
