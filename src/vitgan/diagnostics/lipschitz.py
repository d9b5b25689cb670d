"""Lower bounds of a Lipschitz constant, found at points: gradients, ascent, slopes, Jacobian power iteration.

On a convex set the Lipschitz constant of a differentiable map is the supremum of its Jacobian's norm, so the
norm at any point, and the slope between any two, is a lower bound. Distances are Euclidean, over all pixels
of images in [-1, 1].
Shapes: B batch, C channels, H x W image, A and G images of two sets.
"""

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

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
    [choice] Steps along the normed gradient, their length falling linearly from FIRST_STEP to LAST_STEP. In a
    network of (leaky) ReLUs that gradient is 0: then along grad_x D(x). The fused attention kernel has no
    second derivative, so attention is by plain products.
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
    """x over its norm, each sample alone."""
    return x / _norms(x).clamp(min=1e-30).view(-1, *[1] * (x.ndim - 1))
