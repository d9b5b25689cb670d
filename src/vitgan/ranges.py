"""Which numbers a recipe may hold, by the name of the field: said before anything is made of them.

The upper bounds are far beyond what anyone trains; they keep a damaged or hostile recipe from asking for a
network of more layers than there is time to make, or of sizes whose product no number holds.
"""

import math

# No number is negative; these are 1 at least, these more than 0, these 1 at most, these below 1.
AT_LEAST_1 = {
    *("patch", "depth", "width", "heads", "perceptron_width", "implicit_width", "latent_dim"),
    *("mapping_depth", "blocks", "stages", "widest", "hidden", "projection", "window", "group"),
    *("perceptron_ratio", "channel_base", "channel_max", "grid", "shrink"),
    *("resolution", "batch", "keep", "keep_every", "sample_count", "log_every", "sample_every"),
    *("checkpoint_every", "every", "decay_half_life", "threads", "count", "features", "epochs", "updates"),
}
FACTORS = {"gain", "modulation_gain", "omega_0", "implicit_bandwidth", "mapping_learning_rate", "aspect"}
LEAST_FACTOR, MOST_FACTOR = 1e-6, 1e6
AT_MOST_1 = {
    *("translation", "colour", "cutout", "scaling", "flip", "shift", "hole"),
    *("probability", "mixing", "crop", "smallest", "grey", "decay"),
}
BELOW_1 = {"beta1", "beta2"}
LAYERS = {"depth", "depths", "mapping_depth", "blocks", "stages", "levels"}
SIZES = {
    *("patch", "overlap", "width", "heads", "perceptron_width", "implicit_width", "latent_dim", "widest"),
    *("hidden", "projection", "window", "perceptron_ratio", "shared_embedding", "features"),
}
MOST_LAYERS, MOST_SIZE, MOST_RESOLUTION = 1000, 2**16, 2**12
MOST = 2**63 - 1  # of a whole number


def out_of_range(name: str, number: int | float) -> str | None:
    """What the field `name` must be and `number` is not, as "at least 1, and finite"; None where it is."""
    if name in FACTORS and number <= 0:
        return "greater than 0"
    least = 1 if name in AT_LEAST_1 else 0
    if not least <= number < math.inf:  # false for NaN, too
        return f"at least {least}, and finite"
    if name in FACTORS and not LEAST_FACTOR <= number <= MOST_FACTOR:
        return f"from {LEAST_FACTOR:g} to {MOST_FACTOR:g}"
    if name in AT_MOST_1 and number > 1:
        return "at most 1"
    if name in BELOW_1 and number >= 1:
        return "below 1"
    most = MOST_LAYERS if name in LAYERS else MOST_SIZE if name in SIZES else MOST
    most = MOST_RESOLUTION if name == "resolution" else most
    return f"at most {most}" if isinstance(number, int) and number > most else None
