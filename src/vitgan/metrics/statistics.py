"""The metrics: parts that make numbers of the features of a real and a generated set.

torch-fidelity computes the Frechet distance, the score, the kernel distance, precision and recall; density
and coverage are computed here. The order is always real first.
Shapes: N real images, M generated images, F features, K classes.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from torch import Tensor

from vitgan.config import check, option, to_dict
from vitgan.errors import UserError
from vitgan.registry import register

CHUNK = 1000  # rows of distances at once
Moments = dict[str, np.ndarray]
Better = Literal["lower", "higher"]
Reads = Literal["features", "logits", "moments"]


class Metric:
    """What a metric may say of itself, each with what holds for one that says nothing.

    A metric is a registered part: a frozen, keyword-only dataclass of its options with a method
    `measure(real, fake)` that returns numbers by name. It need not inherit from this class: `trait` reads
    these attributes of any class, and takes the values here where it lacks one.
    """

    better: ClassVar[Better] = "lower"
    """Whether a lower or a higher number is the better one: for the best checkpoint, and in tables."""
    reads: ClassVar[Reads] = "features"
    """What `measure` is given of each set: features (N, F), logits (N, K), or {"mu": (F,), "sigma": (F, F)},
    the mean and the covariance of the features."""
    reads_real: ClassVar[bool] = True
    """Whether the real images are looked at; where they are not, `real` is None."""
    least: ClassVar[int] = 1
    """Images of each set that it needs, at least."""
    most: ClassVar[int | None] = None
    """Images of each set that are looked at, at most; of more, the evaluation's seed chooses. None is all."""
    layer_of: ClassVar[str | None] = None
    """torch-fidelity's name of the metric whose default layer of an extractor is read; None is "isc" for
    logits, else "fid"."""
    numbers: ClassVar[Mapping[str, str]] = {}
    """Of the package's own metrics: each number's name, and its name where the classifier gives the features.
    The numbers of any other metric bear the part's name, with underscores, or names that begin with it."""


def trait(metric: Any, name: str) -> Any:
    """The attribute `name` of a metric or its class; that of `Metric` where there is none."""
    return getattr(metric, name, getattr(Metric, name))


def fidelity_name(metric: Any) -> str:
    """torch-fidelity's name of the metric whose default layer the metric or class `metric` reads."""
    return trait(metric, "layer_of") or ("isc" if trait(metric, "reads") == "logits" else "fid")


def settings(name: str, metric: Any, reals: int, fakes: int) -> dict[str, Any]:
    """What the protocol says of a metric: what its `settings(reals, fakes)` gives, else its options."""
    if hasattr(metric, "settings"):
        return metric.settings(reals, fakes)
    prefix = name.replace("-", "_")
    return {f"{prefix}_{f.name}": to_dict(getattr(metric, f.name)) for f in dataclasses.fields(metric)}


@register(kind="metric", name="fid")
@dataclass(frozen=True, kw_only=True)
class FrechetDistance(Metric):
    """Frechet distance of two Gaussians fitted to the features (arXiv 1706.08500).

    |mu_1 - mu_2|^2 + tr(S_1 + S_2 - 2 (S_1 S_2)^(1/2)), eq. 6. The trace of the root is taken from the
    eigenvalues of S_1 S_2. Those that should be 0 come out at about 1e-16 of the largest, their roots at
    1e-8: equal sets give 0 to about 1e-8 F of the covariance's trace, and a small negative number is
    possible.
    """

    reads = "moments"
    least = 2  # a covariance
    numbers: ClassVar = {"fid": "classifier_frechet_distance"}

    def measure(self, real: Moments, fake: Moments) -> dict[str, float]:
        from torch_fidelity.metric_fid import KEY_METRIC_FID, fid_statistics_to_metric

        return {"fid": fid_statistics_to_metric(fake, real, verbose=False)[KEY_METRIC_FID]}


@register(kind="metric", name="is")
@dataclass(frozen=True, kw_only=True)
class InceptionScore(Metric):
    """Inception score of the class probabilities of the generated images (arXiv 1606.03498).

    exp E KL(p(y|x) || p(y)), mean and deviation over the splits.
    """

    better = "higher"
    reads = "logits"
    reads_real = False
    numbers: ClassVar = {"is": "classifier_score"}

    splits: int = option(10, least=1)
    """Parts of the generated images whose scores are averaged."""

    @property
    def least(self) -> int:  # pyright: ignore[reportIncompatibleVariableOverride]
        """An image for each split."""
        return self.splits

    def measure(self, real: None, fake: Tensor) -> dict[str, float]:  # noqa: ARG002
        from torch_fidelity.metric_isc import isc_features_to_metric

        mean, deviation = isc_features_to_metric(fake, splits=self.splits).values()
        return {"is": mean, "is_std": deviation}

    def measure_classes(self, real: Tensor, fake: Tensor, classes: Sequence[str]) -> dict[str, float]:
        """Of the classifier's logits alone: the score of the real images, and what falls to each class."""
        return {"classifier_score_real": self.measure(None, real)["is"], **class_histogram(fake, classes)}

    def settings(self, reals: int, fakes: int) -> dict[str, Any]:  # noqa: ARG002
        return {"is_splits": self.splits}


@register(kind="metric", name="kid")
@dataclass(frozen=True, kw_only=True)
class KernelDistance(Metric):
    """Kernel distance: unbiased squared MMD of the cubic kernel (arXiv 1801.01401).

    The mean over random subsets of both sets, and its deviation.
    """

    least = 2  # a distance without bias
    layer_of = "kid"
    numbers: ClassVar = {"kid": "classifier_kernel_distance"}

    subsets: int = option(100, least=1)
    """Subsets that are drawn."""
    subset_size: int = option(1000, least=2)
    """Images of a subset; no more than there are in the smaller set."""

    def measure(self, real: Tensor, fake: Tensor) -> dict[str, float]:
        from torch_fidelity.metric_kid import kid_features_to_metric

        size = min(self.subset_size, len(real), len(fake))
        drawn: dict[str, Any] = {"kid_subsets": self.subsets, "kid_subset_size": size}
        mean, deviation = kid_features_to_metric(fake, real, verbose=False, **drawn).values()
        return {"kid": mean, "kid_std": deviation}

    def settings(self, reals: int, fakes: int) -> dict[str, Any]:
        return {"kid_subsets": self.subsets, "kid_subset_size": min(self.subset_size, reals, fakes)}


@register(kind="metric", name="prdc")
@dataclass(frozen=True, kw_only=True)
class PrecisionRecallDensityCoverage(Metric):
    """Precision and recall (arXiv 1904.06991), density and coverage (arXiv 2002.09797)."""

    better = "higher"
    layer_of = "prc"
    numbers: ClassVar = {
        name: f"classifier_{name}" for name in ("precision", "recall", "density", "coverage")
    }

    neighbours: int = option(3, least=1)
    """k of precision and recall: a ball round an image reaches to its k-th nearest neighbour."""
    density_neighbours: int = option(5, least=1)
    """k of density and coverage."""
    most: int = option(10_000, least=1)  # pyright: ignore[reportIncompatibleVariableOverride]
    """Images of each set that are looked at, at most: time and memory grow with their square."""

    def __post_init__(self) -> None:
        check(self, "metrics.prdc")
        if self.most < self.least:
            raise UserError(f"--metrics prdc: {self.least - 1} neighbours need most={self.least} or more.")

    @property
    def least(self) -> int:  # pyright: ignore[reportIncompatibleVariableOverride]
        """An image and its neighbours."""
        return 1 + max(self.neighbours, self.density_neighbours)

    def measure(self, real: Tensor, fake: Tensor) -> dict[str, float]:
        from torch_fidelity.metric_prc import KEY_METRIC_PRECISION, KEY_METRIC_RECALL, prc_features_to_metric

        options: dict[str, Any] = {"prc_neighborhood": self.neighbours, "prc_batch_size": CHUNK}
        found = prc_features_to_metric(fake, real, save_cpu_ram=True, verbose=False, **options)
        density, coverage = density_and_coverage(real, fake, self.density_neighbours)
        return {
            "precision": found[KEY_METRIC_PRECISION],
            "recall": found[KEY_METRIC_RECALL],
            "density": density,
            "coverage": coverage,
        }

    def settings(self, reals: int, fakes: int) -> dict[str, Any]:
        return {
            "precision_recall_neighbours": self.neighbours,
            "density_coverage_neighbours": self.density_neighbours,
            "prdc_reals": min(reals, self.most),
            "prdc_fakes": min(fakes, self.most),
        }


@dataclass(frozen=True)
class Features:
    """Features (N, F) of one set by their layer's name, and mean and covariance of the Frechet distance's."""

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

    def given(self, metric: Any, layer: str, seed: int) -> Any:
        """What `metric` is given of this set: moments, or at most its `most` rows of `layer`, by the seed."""
        if trait(metric, "reads") == "moments":
            return self.moments
        rows = self.layers[layer]
        most = trait(metric, "most")
        return rows if most is None else rows[chosen(len(rows), most, seed)]


def mean_and_covariance(features: Tensor) -> dict[str, np.ndarray]:
    """{"mu": (F,), "sigma": (F, F)} of (N, F), as torch-fidelity computes them."""
    from torch_fidelity.metric_fid import fid_features_to_statistics

    return fid_features_to_statistics(features)


def density_and_coverage(real: Tensor, fake: Tensor, neighbours: int = 5) -> tuple[float, float]:
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
