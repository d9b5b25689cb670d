"""What the networks of a run are like inside: weights, slopes, attention, tokens, spectra."""

from vitgan.diagnostics.attention import attention_probabilities, entropies, residual_shares
from vitgan.diagnostics.inspection import inspect_run
from vitgan.diagnostics.lipschitz import (
    LayerSigma,
    ascend,
    bound_of_normed_tokens,
    bound_of_theorem,
    gradient_norms,
    grid_excess,
    jacobian_norms,
    largest_singular_value,
    power_spectrum,
    radial_average,
    sigmas,
    slopes,
)

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
