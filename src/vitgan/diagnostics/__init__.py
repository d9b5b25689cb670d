"""What the networks of a run are like inside: weights, slopes, attention, tokens, spectra."""

from vitgan.diagnostics.attention import attention_probabilities, entropies
from vitgan.diagnostics.bounds import bound_of_normed_tokens, bound_of_theorem
from vitgan.diagnostics.inspection import inspect_run
from vitgan.diagnostics.lipschitz import ascend, gradient_norms, jacobian_norms, slopes
from vitgan.diagnostics.rank import residual_shares
from vitgan.diagnostics.sigma import LayerSigma, largest_singular_value, sigmas
from vitgan.diagnostics.spectrum import grid_excess, power_spectrum, radial_average

__all__ = [
    "LayerSigma",
    "ascend",
    "attention_probabilities",
    "bound_of_normed_tokens",
    "bound_of_theorem",
    "entropies",
    "gradient_norms",
    "grid_excess",
    "inspect_run",
    "jacobian_norms",
    "largest_singular_value",
    "power_spectrum",
    "radial_average",
    "residual_shares",
    "sigmas",
    "slopes",
]
