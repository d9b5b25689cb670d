"""Upper bounds of the Lipschitz constant of L2 self-attention, after Kim et al. [K], arXiv 2006.04710.

Notation, one head: y_j = W x_j with the tied query/key matrix W, v_j = V x_j, s = sqrt(d),
P_ij = softmax_j(-|y_i - y_j|^2 / s), g_i = sum_j P_ij v_j. The whole: [g of the heads] W_O.

The form of [K, Theorem 3.2] puts the values through A = W^T W / s as well: v_j = U A x_j = (U W^T / s) y_j.
Then g is a function of y alone and Lipschitz on all of R^(N x D). Our attention, and the paper's, ties W_q to
W_k but has a plain value matrix V: that is *not* the theorem's form, and the map is not Lipschitz on
R^(N x D). W has D columns and d < D rows: tokens that differ along its kernel alone have P_ij = 1/N while
v_j - v_k is as large as one likes, and the derivative of P_ij is multiplied by it. What bounds ours is the
layer norm before it: its tokens lie in a ball, x_j = beta + Gamma n_j with |n_j| <= sqrt(D).

Derivation. With t_j = |y_i - y_j|^2 / s, E and Cov over j with weights P_ij, a derivative of g_i is
    dg_i = sum_j P_ij dv_j + (2/s) Cov(v, y) dy_i + (2/s) sum_j P_ij (v_j - E v)(y_i - y_j)^T dy_j.
(1) E t <= c_N = W_0((N - 1) / e), [K]'s phi^-1(N - 1) for phi(x) = x exp(x + 1): t_i = 0, at a maximum the
    others are all equal, 1 + E t. (2) P_ij t_j <= c_2 in the same way, from tokens i and j alone. So
    |Cov(y)| <= s c_N, |Cov(v, y)| <= r sqrt(s c_N) where |Cov(v)| <= r^2, and the last sum, as
    [sqrt(P_ij)(v_j - E v)]_j times diag[sqrt(P_ij)(y_i - y_j)^T]_j, has norm <= r sqrt(s c_2) |W|.
(3) Over M rows (queries) the first and the last term grow by sqrt(M) at most, the middle one is diagonal.
Ours, r = |V Gamma| sqrt(D):
    |J_head| <= sqrt(M) |V| + 2 |V Gamma| |W| sqrt(D / s) (sqrt(c_N) + sqrt(M c_2)).
The theorem's, r = |U W^T / s| sqrt(s c_N):
    |J_head| <= |U W^T / s| |W| (sqrt(N) + 2 c_N + 2 sqrt(N c_2 c_N))
             <= |U| |W|^2 / s * sqrt(N) (4 c_N + 1), the constant of [K].
Heads are joined by the root of the sum of squares, and W_O multiplies by |W_O|.
Shapes: N tokens, M of them queries, D width, h heads, d = D / h.
"""

import math

import torch
from torch import Tensor

from vitgan.diagnostics.sigma import largest_singular_value
from vitgan.nn import L2Attention, LayerNorm


def inverse_phi(x: float) -> float:
    """phi^-1(x) for phi(x) = x exp(x + 1), x >= 0: W_0(x / e), Lambert's function."""
    from scipy.special import lambertw

    return float(lambertw(x / math.e).real)


@torch.no_grad()
def bound_of_normed_tokens(
    attention: L2Attention, norm: LayerNorm, tokens: int, queries: int | None = None
) -> float:
    """Upper bound for `attention` (N tokens, the first `queries` of them asked) on what `norm` puts out.

    The weights are those in use when this is called: see `sigma.normalised`. Raises ValueError for the sign
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
    """[K]'s bound for the map of Theorem 3.2 with this module's matrices: *not* a bound of the module itself.

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
