"""From features to numbers: torch-fidelity's Frechet distance, score, kernel distance, precision and recall.

Density and coverage alone are computed here. The order is always real first.
Shapes: N real images, M generated images, F features, K classes.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from vitgan.metrics.protocol import Metric

NEIGHBOURS_PRECISION = 3  # torch-fidelity's and arXiv 1904.06991's
NEIGHBOURS_DENSITY = 5  # arXiv 2002.09797
MANIFOLD_MOST = 10_000  # images of a set for precision, recall, density and coverage
CHUNK = 1000  # rows of distances at once
SPLITS, SUBSETS, SUBSET = 10, 100, 1000  # torch-fidelity's defaults


def settings(reals: int, fakes: int) -> dict[str, int | float | str]:
    """The settings below, as the protocol states them."""
    return {
        "is_splits": SPLITS,
        "kid_subsets": SUBSETS,
        "kid_subset_size": min(SUBSET, reals, fakes),
        "precision_recall_neighbours": NEIGHBOURS_PRECISION,
        "density_coverage_neighbours": NEIGHBOURS_DENSITY,
        "prdc_reals": min(reals, MANIFOLD_MOST),
        "prdc_fakes": min(fakes, MANIFOLD_MOST),
    }


@dataclass(frozen=True)
class Features:
    """Features (N, F) of one set by their layer's name; mean and covariance of the Frechet distance's."""

    layers: dict[str, Tensor]
    moments: dict[str, np.ndarray]

    def to_tensors(self) -> dict[str, Tensor]:
        """All as tensors by name, for a file."""
        moments = {f"moment.{name}": torch.from_numpy(array) for name, array in self.moments.items()}
        return {**{f"layer.{name}": tensor for name, tensor in self.layers.items()}, **moments}

    @staticmethod
    def from_tensors(tensors: dict[str, Tensor]) -> "Features":
        """The inverse of `to_tensors`."""
        parts: dict[str, dict[str, Tensor]] = {"layer": {}, "moment": {}}
        for name, tensor in tensors.items():
            part, _, rest = name.partition(".")
            parts[part][rest] = tensor
        return Features(parts["layer"], {name: tensor.numpy() for name, tensor in parts["moment"].items()})

    @staticmethod
    def are(tensors: dict[str, Tensor], layers: list[str], count: int, *, moments: bool) -> bool:
        """Whether `from_tensors` makes the features of `count` images in these layers of `tensors`."""
        names = [*(f"layer.{layer}" for layer in layers), *(["moment.mu", "moment.sigma"] if moments else [])]
        if tensors.keys() != set(names) or not all(t.is_floating_point() for t in tensors.values()):
            return False
        shapes = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
        if moments and shapes["moment.sigma"] != shapes["moment.mu"] * 2:
            return False
        return all(len(shape) == 2 and shape[0] == count for n, shape in shapes.items() if n[0] == "l")


def measure(metric: Metric, real: Features, fake: Features, *, layer: str, seed: int) -> dict[str, float]:
    """The numbers of one metric by name, on the features of `layer`."""
    if metric == "fid":
        return {"fid": frechet_distance(real.moments, fake.moments)}
    if metric == "is":
        return dict(zip(("is", "is_std"), inception_score(fake.layers[layer]), strict=True))
    if metric == "kid":
        found = kernel_distance(real.layers[layer], fake.layers[layer])
        return dict(zip(("kid", "kid_std"), found, strict=True))
    return manifold_metrics(real.layers[layer], fake.layers[layer], seed=seed)


def mean_and_covariance(features: Tensor) -> dict[str, np.ndarray]:
    """{"mu": (F,), "sigma": (F, F)} of (N, F), as torch-fidelity computes them."""
    from torch_fidelity.metric_fid import fid_features_to_statistics

    return fid_features_to_statistics(features)


def frechet_distance(real: dict[str, np.ndarray], fake: dict[str, np.ndarray]) -> float:
    """|mu_1 - mu_2|^2 + tr(S_1 + S_2 - 2 (S_1 S_2)^(1/2)), arXiv 1706.08500 eq. 6.

    The trace of the root is taken from the eigenvalues of S_1 S_2. Those that should be 0 come out at about
    1e-16 of the largest, their roots at 1e-8: equal sets give 0 to about 1e-8 F of the covariance's trace,
    and a small negative number is possible.
    """
    from torch_fidelity.metric_fid import KEY_METRIC_FID, fid_statistics_to_metric

    return fid_statistics_to_metric(fake, real, verbose=False)[KEY_METRIC_FID]


def inception_score(logits: Tensor) -> tuple[float, float]:
    """exp E KL(p(y|x) || p(y)), arXiv 1606.03498, mean and deviation over the splits; logits (N, K)."""
    from torch_fidelity.metric_isc import isc_features_to_metric

    mean, deviation = isc_features_to_metric(logits, splits=SPLITS).values()
    return mean, deviation


def kernel_distance(real: Tensor, fake: Tensor) -> tuple[float, float]:
    """Unbiased squared MMD of the cubic kernel, arXiv 1801.01401, mean and deviation over subsets."""
    from torch_fidelity.metric_kid import kid_features_to_metric

    size = min(SUBSET, len(real), len(fake))
    found = kid_features_to_metric(fake, real, kid_subsets=SUBSETS, kid_subset_size=size, verbose=False)
    mean, deviation = found.values()
    return mean, deviation


def manifold_metrics(real: Tensor, fake: Tensor, *, seed: int) -> dict[str, float]:
    """precision, recall, density and coverage of at most 10,000 features of each set, chosen by the seed."""
    from torch_fidelity.metric_prc import KEY_METRIC_PRECISION, KEY_METRIC_RECALL, prc_features_to_metric

    real = real[chosen(len(real), MANIFOLD_MOST, seed)]
    fake = fake[chosen(len(fake), MANIFOLD_MOST, seed)]
    options: dict[str, Any] = {"prc_neighborhood": NEIGHBOURS_PRECISION, "prc_batch_size": CHUNK}
    found = prc_features_to_metric(fake, real, save_cpu_ram=True, verbose=False, **options)
    density, coverage = density_and_coverage(real, fake)
    return {
        "precision": found[KEY_METRIC_PRECISION],
        "recall": found[KEY_METRIC_RECALL],
        "density": density,
        "coverage": coverage,
    }


def density_and_coverage(
    real: Tensor, fake: Tensor, neighbours: int = NEIGHBOURS_DENSITY
) -> tuple[float, float]:
    """Density and coverage of real (N, F) and fake (M, F), arXiv 2002.09797 eq. 3 and 4.

    A ball round every real image reaches to its k-th nearest real neighbour. Density: the balls that an
    average generated image lies in, over k. Coverage: the share of the balls with a generated image inside.
    Distances are in float64; an image at the very border counts as inside.
    """
    real, fake = real.double(), fake.double()
    inside, covered = 0, 0
    for part in real.split(CHUNK):
        # The nearest is the image itself.
        radius = torch.cdist(part, real).kthvalue(neighbours + 1, dim=1, keepdim=True).values
        within = torch.cdist(part, fake) <= radius  # (B, M)
        inside += int(within.sum())
        covered += int(within.any(1).sum())
    return inside / (neighbours * len(fake)), covered / len(real)


def class_histogram(logits: Tensor, classes: Sequence[str]) -> dict[str, float]:
    """Mean confidence, and the share of the images (M, K) that falls to each class."""
    probabilities = logits.softmax(1)
    shares = probabilities.argmax(1).bincount(minlength=len(classes)).double() / len(logits)
    return {
        "classifier_confidence": probabilities.max(1).values.mean().item(),
        "smallest_class_share": shares.min().item(),
        "largest_class_share": shares.max().item(),
        **{f"class_share_{name}": share for name, share in zip(classes, shares.tolist(), strict=True)},
    }


def chosen(count: int, most: int, seed: int) -> Tensor:
    """Indices of at most `most` of `count` images, in order: all, or a choice by the seed."""
    if count <= most:
        return torch.arange(count)
    draws = torch.Generator().manual_seed(seed)
    return torch.randperm(count, generator=draws)[:most].sort().values
