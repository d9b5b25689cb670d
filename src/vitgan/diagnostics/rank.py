"""Rank collapse: how far the tokens are from being one and the same vector (Dong et al., arXiv 2103.03404).

Shapes: B batch, N tokens, D width.
"""

from torch import Tensor

from vitgan.nn.linear import at_least_fp32


def residual_shares(tokens: Tensor) -> tuple[Tensor, Tensor]:
    """|res(X)| / |X| of each sample, X (B, N, D) -> ((B,), (B,)): in the paper's norm, in Frobenius'.

    res(X) = X - 1 x^T. The paper's x minimises |X - 1 x^T| in |X|_{1,inf} = sqrt(|X|_1 |X|_inf), for which
    there is no closed form; [choice] here x is the mean token, the minimiser in Frobenius' norm. So the first
    share is never below the paper's. 0 is rank one; tokens with no common part have a
    Frobenius share near sqrt(1 - 1/N).
    """
    tokens = at_least_fp32(tokens)
    residual = tokens - tokens.mean(1, keepdim=True)
    return _composite(residual) / _composite(tokens), _frobenius(residual) / _frobenius(tokens)


def _composite(x: Tensor) -> Tensor:
    """sqrt(|X|_1 |X|_inf): the largest column sum and the largest row sum of absolute values."""
    sizes = x.abs()
    return (sizes.sum(1).amax(1) * sizes.sum(2).amax(1)).sqrt()


def _frobenius(x: Tensor) -> Tensor:
    return x.flatten(1).norm(dim=1)
