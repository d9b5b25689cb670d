"""Upper bounds of L2 attention's Lipschitz constant: every step of the derivation, and the whole."""

import math

import pytest
import torch
from torch import Tensor

from vitgan.diagnostics.lipschitz import bound_of_normed_tokens, bound_of_theorem, inverse_phi, jacobian_norms
from vitgan.nn import L2Attention, LayerNorm

WIDTH = 6


def attention(heads: int, seed: int, scale: float = 1.0) -> L2Attention:
    torch.manual_seed(seed)
    module = L2Attention(WIDTH, heads).double().requires_grad_(False)
    module.query_key.weight.mul_(scale)
    return module


def layer_norm(seed: int) -> LayerNorm:
    torch.manual_seed(seed)
    norm = LayerNorm(WIDTH).double().requires_grad_(False)
    norm.weight.add_(0.5 * torch.randn(WIDTH))
    norm.bias.add_(torch.randn(WIDTH))
    return norm


def tokens(count: int, number: int, seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(count, number, WIDTH, generator=generator, dtype=torch.float64)


def expected_distance(t: Tensor) -> Tensor:
    """E t under softmax(-t), for t_0 = 0 and the rest as given, (..., N - 1) -> (...)."""
    whole = torch.cat((torch.zeros_like(t[..., :1]), t), -1)
    return ((-whole).softmax(-1) * whole).sum(-1)


@pytest.mark.parametrize("n", [2, 3, 10, 65])
def test_inverse_phi_is_the_largest_expected_distance(n: int):
    """No distances give more than phi(c) = N - 1, and N - 1 tokens at 1 + c give just that."""
    c = inverse_phi(n - 1)
    assert c * math.exp(c + 1) == pytest.approx(n - 1)
    generator = torch.Generator().manual_seed(0)
    t = 6 * torch.rand(2000, n - 1, generator=generator, dtype=torch.float64)
    near = 1 + c + 0.1 * torch.randn(2000, n - 1, generator=generator, dtype=torch.float64)
    assert expected_distance(torch.cat((t, near))).max() <= c + 1e-12
    torch.testing.assert_close(
        expected_distance(torch.full((n - 1,), 1 + c, dtype=torch.float64)),
        torch.tensor(c, dtype=torch.float64),
    )


def test_one_token_takes_at_most_the_share_of_two():
    """The bound P_ij t_j <= c_2 is reached at t = 1 + c_2 with all others far."""
    t = torch.linspace(0, 10, 100_001, dtype=torch.float64).unsqueeze(1)
    largest = expected_distance(t).max()
    assert float(largest) == pytest.approx(inverse_phi(1), rel=1e-8)
    rows = 5 * torch.rand(2000, 8, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    rows[:, 0] = 0
    assert ((-rows).softmax(1) * rows).max() <= inverse_phi(1)


@pytest.mark.parametrize("heads", [1, 2, 3])
@pytest.mark.parametrize("number", [2, 3, 9])
def test_no_jacobian_of_normed_tokens_exceeds_the_bound(heads: int, number: int):
    """Weights of all sizes and tokens through the layer norm are random; all queries count, or the first."""
    for seed, scale in enumerate((0.1, 1.0, 3.0, 10.0)):
        module, norm = attention(heads, seed, scale), layer_norm(seed)
        x = norm(tokens(20, number, seed))
        for queries in (None, 1):
            found = jacobian_norms(lambda x, m=module, q=queries: m(x, q), x)
            assert found.max() <= bound_of_normed_tokens(module, norm, number, queries)


def test_the_bound_is_not_far_above_the_steepest_of_many():
    """It is 8 times the steepest of a thousand pairs of tokens, near and far, in one head, no more."""
    module, norm = attention(1, 0, 2.0), layer_norm(0)
    h = tokens(1000, 2, 0)
    h[:, 1] = h[:, 0] + torch.linspace(0.05, 3, 1000, dtype=h.dtype).unsqueeze(1) * h[:, 1]
    found = jacobian_norms(lambda x: module(x), norm(h)).max()
    bound = bound_of_normed_tokens(module, norm, 2)
    assert bound / 8 < found <= bound


@pytest.mark.parametrize("queries", [None, 2])
def test_the_bound_is_the_product_of_its_factors(queries: int | None):
    """The formula of the docstring is computed head by head, by decompositions and by phi alone."""
    module, norm, n = attention(2, 0, 2.0), layer_norm(1), 5
    c = inverse_phi(n - 1)
    size, m = WIDTH // 2, queries or n
    total = 0.0
    for k in range(2):
        rows = slice(k * size, (k + 1) * size)
        w, v = module.query_key.effective_weight()[rows], module.value.effective_weight()[rows]
        spread = float(torch.linalg.svdvals(v @ torch.diag(norm.weight))[0]) * math.sqrt(WIDTH)
        own = 2 / math.sqrt(size) * spread * math.sqrt(math.sqrt(size) * c)
        others = 2 / math.sqrt(size) * spread * math.sqrt(math.sqrt(size) * inverse_phi(1) * m)
        sigma_w, sigma_v = (float(torch.linalg.svdvals(x)[0]) for x in (w, v))
        total += (math.sqrt(m) * sigma_v + (own + others) * sigma_w) ** 2
    expected = math.sqrt(total) * float(torch.linalg.svdvals(module.out.effective_weight())[0])
    assert bound_of_normed_tokens(module, norm, n, queries) == pytest.approx(expected, rel=1e-9)


def of_the_theorem(module: L2Attention, x: Tensor) -> Tensor:
    """[P_h X A_h V_h^T of all heads] W_O^T, A_h = W_h^T W_h / sqrt(d): (N, D) -> (N, D), head by head."""
    heads, size = module.heads, WIDTH // module.heads
    outs = []
    for k in range(heads):
        rows = slice(k * size, (k + 1) * size)
        w, v = module.query_key.effective_weight()[rows], module.value.effective_weight()[rows]
        y = x @ w.T
        squared = (y.unsqueeze(1) - y.unsqueeze(0)).square().sum(-1)
        weights = (-squared / math.sqrt(size)).softmax(-1)
        outs.append(weights @ x @ (w.T @ w / math.sqrt(size)) @ v.T)
    return torch.cat(outs, 1) @ module.out.effective_weight().T


@pytest.mark.parametrize("heads", [1, 2, 3])
@pytest.mark.parametrize("number", [2, 9])
def test_no_jacobian_of_the_theorems_map_exceeds_its_bound(heads: int, number: int):
    """Tokens are of any size, with no layer norm."""
    for seed, scale in enumerate((0.3, 3.0)):
        module = attention(heads, seed, scale)
        bound = bound_of_theorem(module, number)
        for size in (0.3, 1.0, 30.0):
            for x in size * tokens(2, number, seed):
                full = torch.autograd.functional.jacobian(lambda x, m=module: of_the_theorem(m, x), x)
                assert isinstance(full, Tensor)
                assert torch.linalg.matrix_norm(full.reshape(2 * [number * WIDTH]), 2) <= bound


def test_the_theorems_bound_has_its_own_powers():
    """It is quadratic in W, and linear in V and W_O."""
    module = attention(2, 0)
    before = bound_of_theorem(module, 5)
    for layer, power in ((module.query_key, 2), (module.value, 1), (module.out, 1)):
        layer.weight.mul_(3)
        assert bound_of_theorem(module, 5) == pytest.approx(3**power * before)
        layer.weight.div_(3)


def test_a_plain_value_matrix_is_not_lipschitz_without_the_norm():
    """The Jacobian grows with the distance of tokens pulled apart along the kernel of one head's W."""
    module = attention(2, 0)
    w = module.query_key.effective_weight()[: WIDTH // 2]
    along = torch.linalg.svd(w).Vh[-1]  # W of the first head does not see it
    x = tokens(1, 3, 0)[0]
    x = x + torch.tensor([[0.0], [1.0], [2.0]]) * 1e-3 * along
    apart = torch.tensor([[0.0], [1.0], [-1.0]], dtype=torch.float64) * along
    near, far = (float(jacobian_norms(module, (x + k * apart)[None])) for k in (1e2, 1e4))
    assert far > 50 * near


def test_the_sign_to_the_farthest_has_no_bound():
    module = L2Attention(WIDTH, 2, attend_to_farthest=True)
    with pytest.raises(ValueError, match="farthest"):
        bound_of_normed_tokens(module, LayerNorm(WIDTH), 3)
    with pytest.raises(ValueError, match="farthest"):
        bound_of_theorem(module, 3)
