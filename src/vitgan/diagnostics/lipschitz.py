"""How steep a discriminator is: singular values of its layers, bounds of its attention, measured slopes.

Shapes: B batch, N tokens, D width, h heads, C channels, R resolution.
"""

import math
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from vitgan.nn import Convolution, L2Attention, LayerNorm, Linear, SpectralNorm

NOT_MATRICES = (nn.Embedding,)


@dataclass(frozen=True, kw_only=True)
class LayerSigma:
    """The largest singular values of one weight: as stored, as used, and at the start of training."""

    layer: str
    """The module's name in its network."""
    kind: Literal["linear", "convolution"]
    """A convolution's sigma is that of its (O, I k k) matrix, not its norm as a map of images."""
    shape: tuple[int, ...]
    stored: float
    """sigma(W), after the equalising scale and before any spectral norm."""
    used: float
    """sigma of the weight that the layer computes with."""
    start: float
    """sigma(W_init): the spectral norm's buffer, else the network as its seed made it."""

    @property
    def ratio(self) -> float:
        """used / start: 1 where an improved spectral norm holds, up to the lag of its power iteration."""
        return self.used / self.start if self.start else float("inf")


@torch.no_grad()
def sigmas(network: nn.Module, at_start: nn.Module) -> list[LayerSigma]:
    """One entry for each weight of two or more axes; `at_start` is the network with its first weights."""
    stored, start = dict(weights(network)), dict(weights(at_start))
    known = _normed_starts(network)
    convolutions = {name for name, module in network.named_modules() if _is_convolution(module)}
    with normalised(network):
        used = dict(weights(network))
    return [
        LayerSigma(
            layer=name,
            kind="convolution" if name in convolutions else "linear",
            shape=tuple(weight.shape),
            stored=largest_singular_value(weight),
            used=largest_singular_value(used[name]),
            start=known[name] if name in known else largest_singular_value(start[name]),
        )
        for name, weight in stored.items()
    ]


def largest_singular_value(weight: Tensor) -> float:
    """sigma of the matrix (O, the rest), in fp64: the root of the smaller Gram matrix' top eigenvalue."""
    matrix = weight.detach().double().cpu().flatten(1)
    matrix = matrix if matrix.shape[0] <= matrix.shape[1] else matrix.mT
    return float(torch.linalg.eigvalsh(matrix @ matrix.mT)[-1].clamp(min=0).sqrt())


@contextmanager
def normalised(network: nn.Module) -> Iterator[None]:
    """A context within which the layers of `network` compute with their normalised weights. Do not call
    `network` itself in it: its own forward would end the normalisation."""
    with ExitStack() as stack:
        for module in network.modules():
            if isinstance(module, SpectralNorm):
                stack.enter_context(module.applied())
        yield


def weights(network: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """(name, weight after its equalising scale) of each module that multiplies by one."""
    for name, module in network.named_modules():
        weight = getattr(module, "weight", None)
        if isinstance(module, NOT_MATRICES) or not isinstance(weight, Tensor) or weight.ndim < 2:
            continue
        if isinstance(module, Linear):
            yield name, module.effective_weight()
        else:
            yield name, weight * getattr(module, "scale", 1.0)


def _is_convolution(module: nn.Module) -> bool:
    weight = getattr(module, "weight", None)
    return isinstance(module, Convolution) or (isinstance(weight, Tensor) and weight.ndim > 2)


def _normed_starts(network: nn.Module) -> dict[str, float]:
    """sigma(W_init) by layer name, from the buffers of the spectral norms."""
    names = {module: name for name, module in network.named_modules()}
    return {
        names[layer]: float(norm.get_buffer(f"initial_{k}")[i])
        for norm in network.modules()
        if isinstance(norm, SpectralNorm)
        for k, group in enumerate(norm.groups)
        for i, layer in enumerate(group)
    }


def inverse_phi(x: float) -> float:
    """phi^-1(x) for phi(x) = x exp(x + 1), x >= 0: W_0(x / e), Lambert's function."""
    from scipy.special import lambertw

    return float(lambertw(x / math.e).real)


@torch.no_grad()
def bound_of_normed_tokens(
    attention: L2Attention, norm: LayerNorm, tokens: int, queries: int | None = None
) -> float:
    """Upper bound for `attention` (N tokens, the first `queries` of them asked) on what `norm` puts out.

    The weights are those in use when this is called: see `normalised`. Raises ValueError for the sign
    that attends to the farthest token, for which (1) does not hold.
    """
    _check_sign(attention)
    width, rows = norm.weight.numel(), queries or tokens
    nearby = math.sqrt(inverse_phi(tokens - 1)) + math.sqrt(rows * inverse_phi(1))
    heads = []
    for w, v in _heads(attention):
        spread = largest_singular_value(v * norm.weight.double().cpu()) * math.sqrt(width)
        kernel = 2 * spread * largest_singular_value(w) * nearby / len(w) ** 0.25
        heads.append(math.sqrt(rows) * largest_singular_value(v) + kernel)
    return math.hypot(*heads) * largest_singular_value(attention.out.effective_weight())


@torch.no_grad()
def bound_of_theorem(attention: L2Attention, tokens: int) -> float:
    """The bound of arXiv 2006.04710 for its map of Theorem 3.2, with this module's matrices; *not* of the
    module.

    sqrt(N / d) (4 phi^-1(N - 1) + 1) sqrt(sum_h |W_h|^4 |V_h|^2) |W_O|, V_h taken for U. Differs from the
    paper: the power of |W_h| is that which the chain rule gives (the map is quadratic in W: once in y, once
    in A); the derivation above proves it. Raises ValueError as `bound_of_normed_tokens`.
    """
    _check_sign(attention)
    heads = [largest_singular_value(w) ** 2 * largest_singular_value(v) for w, v in _heads(attention)]
    size = attention.value.out_features // attention.heads
    constant = math.sqrt(tokens / size) * (4 * inverse_phi(tokens - 1) + 1)
    return constant * math.hypot(*heads) * largest_singular_value(attention.out.effective_weight())


def _heads(attention: L2Attention) -> list[tuple[Tensor, Tensor]]:
    """(W, V), each (d, D) in fp64 on the CPU, of every head."""
    both = (attention.query_key.effective_weight(), attention.value.effective_weight())
    w, v = (weight.double().cpu().unflatten(0, (attention.heads, -1)) for weight in both)
    return list(zip(w, v, strict=True))


def _check_sign(attention: L2Attention) -> None:
    if attention.attend_to_farthest:
        raise ValueError("L2 attention to the farthest token has no bound here: use attention 'l2'.")


ASCENT_STEPS = 20
FIRST_STEP, LAST_STEP = 0.1, 0.01  # root mean square of one step, in units of a pixel's value
ITERATIONS = 30  # of the power iteration


def gradient_norms(discriminator: nn.Module, images: Tensor, labels: Tensor | None = None) -> Tensor:
    """|grad_x D(x)| at each image (B, C, H, W), (B,): the Jacobian's norm, exact, for D has one logit.

    Where D compares the images of a batch (minibatch standard deviation) the gradient is that of the sum of
    the batch's logits.
    """
    with sdpa_kernel(SDPBackend.MATH):
        return _norms(_gradient(discriminator, images.detach().requires_grad_(), labels)).detach()


def ascend(
    discriminator: nn.Module, images: Tensor, labels: Tensor | None = None, *, steps: int = ASCENT_STEPS
) -> tuple[Tensor, Tensor]:
    """Gradient ascent on |grad_x D(x)| from `images`, within [-1, 1].

    (B, C, H, W) -> the steepest points met (B, C, H, W) and their norms (B,), none below that of its start.
    Chosen here: steps along the normed gradient, their length falling linearly from FIRST_STEP to LAST_STEP.
    In a network of (leaky) ReLUs that gradient is 0: then along grad_x D(x). The fused attention kernel has
    no second derivative, so attention is by plain products.
    """
    x = images.detach().clone()
    best, steepest = x.clone(), x.new_zeros(len(x))
    pixels = x[0].numel() ** 0.5
    with sdpa_kernel(SDPBackend.MATH):
        for step in range(steps + 1):
            x.requires_grad_()
            gradient = _gradient(discriminator, x, labels, create_graph=True)
            norms = _norms(gradient)
            better = norms.detach() > steepest
            steepest = torch.where(better, norms.detach(), steepest)
            best[better] = x.detach()[better]
            direction = _uphill(norms, x, gradient.detach())
            length = FIRST_STEP + (LAST_STEP - FIRST_STEP) * step / max(steps, 1)
            x = (x.detach() + length * pixels * _unit(direction)).clamp(-1, 1)
    return best, steepest


def slopes(
    first: Tensor, second: Tensor, logits: tuple[Tensor, Tensor], labels: tuple[Tensor, Tensor] | None = None
) -> Tensor:
    """|D(x) - D(y)| / |x - y| of all pairs of images (A, C, H, W), (G, C, H, W): (A, G).

    logits: D of both sets, (A, 1) and (G, 1). Pairs of one point, or of two labels, have slope 0.
    """
    distances = torch.cdist(first.flatten(1).double(), second.flatten(1).double())
    gaps = (logits[0].double() - logits[1].double().mT).abs()
    apart = distances > 1e-6 * first[0].numel() ** 0.5
    if labels is not None:
        apart &= labels[0].unsqueeze(1) == labels[1]
    return torch.where(apart, gaps / distances.clamp(min=1e-12), 0.0)


def jacobian_norms(
    function: Callable[[Tensor], Tensor], x: Tensor, *, iterations: int = ITERATIONS, seed: int = 0
) -> Tensor:
    """Largest singular value of each sample's Jacobian by power iteration, (B, ...) -> (B,).

    v <- J^T J v, normed, a sample at a time: `function` maps (B, ...) to (B, ...) and must not mix samples.
    |J v| of a unit v never exceeds the norm. J v is the derivative of <J^T u, v> by u: torch's forward mode
    gives the same, but imports its compiler, eight seconds, to differentiate a layer norm.
    """
    x = x.detach().requires_grad_()
    generator = torch.Generator().manual_seed(seed)
    v = _unit(torch.randn(x.shape, generator=generator, dtype=x.dtype).to(x.device))
    with sdpa_kernel(SDPBackend.MATH):
        y = function(x)
        u = torch.zeros_like(y, requires_grad=True)
        (pulled,) = torch.autograd.grad(y, x, u, create_graph=True)  # J^T u
        for _ in range(iterations):
            (forward,) = torch.autograd.grad(pulled, u, v, retain_graph=True)  # J v
            (back,) = torch.autograd.grad(y, x, forward, retain_graph=True)
            v = _unit(back)
        (forward,) = torch.autograd.grad(pulled, u, v)
    return _norms(forward)


def _gradient(
    discriminator: nn.Module, images: Tensor, labels: Tensor | None, *, create_graph: bool = False
) -> Tensor:
    logits = discriminator(images, labels)
    return torch.autograd.grad(logits.sum(), images, create_graph=create_graph)[0]


def _uphill(norms: Tensor, x: Tensor, gradient: Tensor) -> Tensor:
    """The gradient of each norm by its image, `gradient` where that is 0: (B, C, H, W)."""
    if not norms.requires_grad:
        return gradient
    (direction,) = torch.autograd.grad(norms.sum(), x, allow_unused=True, materialize_grads=True)
    flat = (_norms(direction) == 0).view(-1, *[1] * (x.ndim - 1))
    return torch.where(flat, gradient, direction)


def _norms(x: Tensor) -> Tensor:
    return x.flatten(1).norm(dim=1)


def _unit(x: Tensor) -> Tensor:
    """x divided by its norm, each sample by its own."""
    return x / _norms(x).clamp(min=1e-30).view(-1, *[1] * (x.ndim - 1))


def power_spectrum(images: Tensor) -> Tensor:
    """Mean over images and channels of |FFT|^2 / R^2, (B, C, R, R) -> fp64 (R, R), frequency 0 at [0, 0].

    Each image has its own mean taken off. Its sum is R^2 times the mean variance of a pixel (Parseval).
    Chosen here: no window; the jump between opposite borders puts power on the axes, of real and fakes alike.
    """
    images = images.double()
    images = images - images.mean((2, 3), keepdim=True)
    return torch.fft.fft2(images, norm="ortho").abs().square().mean((0, 1))


def radial_average(spectrum: Tensor) -> Tensor:
    """The mean of (R, R) over rings of width 1 around k = 0 .. R // 2 cycles per image: (F,).

    Corners beyond Nyquist, R / 2, are left out.
    """
    ring = _frequencies(len(spectrum)).square().sum(0).sqrt().round().long()  # (R, R)
    bins = len(spectrum) // 2 + 1
    inside = ring < bins
    total = torch.zeros(bins, dtype=spectrum.dtype).index_add(0, ring[inside], spectrum[inside])
    return total / torch.bincount(ring[inside], minlength=bins)


def grid_excess(spectrum: Tensor, patch: int) -> Tensor | None:
    """Power at multiples of 1/P cycles per pixel over that of its surroundings, one number, a ratio.

    The geometric mean, over the points (k R/P, l R/P) other than 0, of the power there divided by the
    geometric mean of its neighbours. Seams between patches repeat every P pixels and raise it above 1. None
    where P does not divide R, or the grid's points touch each other: P < 2 or R/P < 2.
    """
    size = len(spectrum)
    spacing = size // max(patch, 1)
    if patch < 2 or size % patch or spacing < 2:
        return None
    logarithm = spectrum.clamp(min=torch.finfo(spectrum.dtype).tiny).log()
    around = [(a, b) for a in (-1, 0, 1) for b in (-1, 0, 1) if (a, b) != (0, 0)]
    neighbours = torch.stack([logarithm.roll(shift, (0, 1)) for shift in around]).mean(0)
    excess = (logarithm - neighbours)[::spacing, ::spacing].flatten()[1:]
    return excess.mean().exp()


def _frequencies(size: int) -> Tensor:
    """Cycles per image of every point, (2, R, R)."""
    line = torch.fft.fftfreq(size, 1 / size, dtype=torch.float64)
    return torch.stack(torch.meshgrid(line, line, indexing="ij"))
