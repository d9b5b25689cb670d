"""What a number was measured with, and the numbers."""

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, get_args

from vitgan.config import brief
from vitgan.errors import UserError, did_you_mean
from vitgan.io import sha256_of_json

Metric = Literal["fid", "is", "kid", "prdc"]
METRICS: tuple[Metric, ...] = get_args(Metric)
MOST = 50_000  # images of a set
# A covariance takes 2 images, the score has 10 parts, a kernel distance without bias takes 2 images,
# and the fifth neighbour takes 6.
NEEDS: dict[Metric, int] = {"fid": 2, "is": 10, "kid": 2, "prdc": 6}
HEADLINES = ("fid", "classifier_frechet_distance")


@dataclass(frozen=True, kw_only=True)
class Protocol:
    """All that a number depends on besides the generated images."""

    features: str
    """inception, classifier, or the name of an extractor registered in torch-fidelity."""
    features_sha: str
    """First 16 digits of the SHA-256 of the extractor's weights."""
    real: str
    """The source of the real images, as given."""
    real_sha: str
    """First 16 digits of the SHA-256 of the real pixels, after the resize."""
    reals: int
    """Real images."""
    fakes: int
    """Generated images."""
    resolution: int
    """Side of the images, pixels."""
    channels: int
    """1: grey (repeated to RGB for any extractor but the classifier), 3: RGB."""
    resize: str
    """How the real images came to this size."""
    seed: int
    """Of the latents, and of the choice where only a part of the images is taken."""
    settings: dict[str, int | float | str]
    """Of the metrics, and of the classifier where it is used."""
    torch_fidelity: str
    """Version of the library that computes."""

    def to_dict(self) -> dict[str, Any]:
        """Ready for JSON, with `key`."""
        return {**dataclasses.asdict(self), "key": self.key()}

    def key(self) -> str:
        """8 digits; numbers may stand in one column where these are the same.

        The source's name and the resize are left out: the pixels' hash says what they come to.
        """
        facts = dataclasses.asdict(self)
        del facts["real"], facts["resize"]
        return sha256_of_json(facts)[:8]


@dataclass(frozen=True)
class Evaluation:
    """Numbers and the protocol that they belong to."""

    protocol: Protocol
    metrics: dict[str, float]

    def to_dict(self) -> dict[str, Any]:
        """Ready for JSON, which knows no NaN and no infinity: both become null."""
        finite = {name: value if math.isfinite(value) else None for name, value in self.metrics.items()}
        return {"protocol": self.protocol.to_dict(), "metrics": finite}


def headline(metrics: Mapping[str, float]) -> tuple[str, float]:
    """Name and value of the number that picks the best checkpoint: a Frechet distance, lower is better.

    Raises UserError where there is none.
    """
    for name in HEADLINES:
        if name in metrics:
            return name, metrics[name]
    raise UserError("No Frechet distance was measured to pick the best by: add fid to the metrics.")


def parse_metrics(text: str) -> tuple[Metric, ...]:
    """The metrics that 'fid,kid' names, in the usual order. Raises UserError for an unknown one."""
    return check_metrics([word.strip() for word in text.split(",") if word.strip()])


def check_metrics(names: list[str]) -> tuple[Metric, ...]:
    """`names` without repetition, in the usual order. Raises UserError for an unknown one, or none."""
    unknown = [name for name in names if name not in METRICS]
    if unknown or not names:
        wrong = f"There is no metric {brief(unknown[0])}" if unknown else "--metrics names no metric"
        guess = did_you_mean(unknown[0], METRICS) if unknown else ""
        raise UserError(f"{wrong}: choose from {', '.join(METRICS)}.{guess}")
    return tuple(metric for metric in METRICS if metric in names)


def possible_metrics(reals: int, fakes: int) -> tuple[Metric, ...]:
    """The metrics that so many images are enough for, fid where they are enough for none."""
    possible: tuple[Metric, ...] = tuple(m for m in METRICS if not _missing(m, reals=reals, fakes=fakes))
    return possible or METRICS[:1]


def check_counts(metrics: tuple[Metric, ...], *, reals: int, fakes: int) -> None:
    """Raise UserError where there are fewer images than one of the metrics needs."""
    for metric in metrics:
        for kind, count in _missing(metric, reals=reals, fakes=fakes).items():
            raise UserError(
                f"The metric {metric} needs at least {NEEDS[metric]} {kind} images, and there "
                f"{'is' if count == 1 else 'are'} {count}: give more, or leave {metric} out of --metrics."
            )


def _missing(metric: Metric, *, reals: int, fakes: int) -> dict[str, int]:
    """The sets that are too small for `metric`, with their sizes; the score reads the generated alone."""
    sizes = {"generated": fakes} if metric == "is" else {"generated": fakes, "real": reals}
    return {kind: count for kind, count in sizes.items() if count < NEEDS[metric]}
