"""Measure generated images against a set of real ones, whose statistics are computed once.

Shapes: N real images, M generated images, C channels, R resolution, F features.
"""

import contextlib
import hashlib
import sys
from collections.abc import Iterable, Iterator
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from vitgan.config import brief
from vitgan.data import ImageSet, open_source
from vitgan.data.loader import random_bits
from vitgan.distributed import collectives
from vitgan.errors import UserError
from vitgan.metrics import statistics
from vitgan.metrics.classifier import ClassifierOptions, obtain
from vitgan.metrics.extractors import (
    ClassifierExtractor,
    Extractor,
    Opening,
    import_fidelity,
    open_fidelity,
)
from vitgan.metrics.protocol import (
    METRICS,
    MOST,
    Cache,
    Evaluation,
    Protocol,
    belongs,
    build_metrics,
    check_counts,
    check_metrics,
    key_of,
)
from vitgan.metrics.statistics import Features, chosen, trait
from vitgan.models import Generator
from vitgan.terminal import can_draw

READ = 256  # images at once
GREY = ("1", "L", "LA", "I", "F")  # Pillow's modes


class RealImages:
    """The real images: all of a set up to 50,000, else 50,000 chosen by the seed; read anew each time."""

    def __init__(self, images: ImageSet, seed: int) -> None:
        self.images = images
        self.indices = chosen(len(images), MOST, seed)

    def __len__(self) -> int:
        return len(self.indices)

    def batches(self) -> Iterator[Tensor]:
        """The images in order, uint8 (B, C, R, R)."""
        return (self.images.get(part.tolist()) for part in self.indices.split(READ))

    @cached_property
    def sha(self) -> str:
        """SHA-256 of the shape and the pixels."""
        options = self.images.options
        shape = (len(self), options.channels, options.resolution, options.resolution)
        digest = hashlib.sha256(repr(shape).encode())
        for batch in self.batches():
            digest.update(batch.contiguous().numpy().data)
        return digest.hexdigest()

    def classes(self) -> tuple[str, ...]:
        """Names of the source's classes. Raises UserError where it has none."""
        if self.images.class_labels is None:
            raise UserError(
                f"--features classifier needs labels, and {self.images.name} has none"
                f"{self.images.lacking_labels}, or use --features inception."
            )
        return self.images.class_names

    def labels(self) -> Tensor:
        """The source's labels int64 (N,), whether or not the set was opened with them."""
        labels = self.images.class_labels
        assert labels is not None, "classes() has been asked"
        return labels[self.indices]


class Survey(NamedTuple):
    """The first two sizes (width, height) among the pictures of a source, and whether all are grey."""

    sizes: tuple[tuple[int, int], ...]
    grey: bool

    def side(self, source: str) -> int:
        """The side of all pictures. Raises UserError where they are not square, or of several sizes."""
        first, *others = self.sizes
        if others:
            raise UserError(
                f"{source} has pictures of several sizes ({shown(first)} and {shown(others[0])} pixels): "
                "bring them to one size first."
            )
        if first[0] != first[1]:
            raise UserError(
                f"{source} has pictures of {shown(first)} pixels, and only square ones can be compared: "
                "crop them first."
            )
        return first[0]


def survey(source: str) -> Survey:
    """Read the header of every picture of a source; unreadable ones are left out here as everywhere.

    Raises UserError where the source cannot be opened, or none can be read.
    """
    opened = open_source(source)
    sizes: dict[tuple[int, int], None] = {}
    grey = True
    for index in range(len(opened)):
        with contextlib.suppress(Exception):  # decoders raise almost anything on damaged data
            picture = opened.picture(index)
            sizes[picture.size] = None
            grey = grey and (picture.mode in GREY or picture.mode.startswith("I;16"))
    if not sizes:
        raise UserError(f"{source} has no readable image: pass images that open in a viewer.")
    return Survey(tuple(sizes)[:2], grey)


AS_TRAINED, ALIKE = "as often as in the training set", "every class alike"
LABELS_STREAM = 1  # beside the seed, so that the order of labels has nothing to do with the latents


def drawn_labels(generator: Generator, count: int, seed: int) -> tuple[Tensor | None, str]:
    """The labels int64 (count,) of images of a generator with classes, and what the protocol says of them.

    The classes come in the proportions of the training set, each as often as there to within one image, in an
    order that the seed draws. Where the generator does not know these, each is drawn with one probability.
    """
    if not sum(generator.class_counts):
        return generator.labels_of(None, count, seed), ALIKE
    ends = np.cumsum(generator.class_counts)
    places = (2 * np.arange(count) + 1) * int(ends[-1]) // (2 * count)  # among the training images, sorted
    labels = np.searchsorted(ends, places, side="right")
    order = np.argsort(random_bits(count, seed, LABELS_STREAM), kind="stable")
    return torch.from_numpy(labels[order]), AS_TRAINED


def shown(size: tuple[int, int]) -> str:
    """A size in words, as 8 x 8."""
    return f"{size[0]} x {size[1]}"


class Evaluator:
    """Scores generators against `real`: all of its images up to 50,000, else 50,000 chosen by the seed.

    `features` is inception, classifier, an extractor registered in torch-fidelity, or a file of Inception
    weights; `count` the number of generated images, by default that of the real ones. What the real images
    give is computed here, once, or read from the `cache` (by default `cache_folder()`). `resize` is what
    the protocol says of how they came to size.
    Raises UserError, in one sentence, where something cannot be measured.
    """

    def __init__(
        self,
        real: ImageSet,
        *,
        features: str = "classifier",
        metrics: Iterable[str] = METRICS,
        count: int | None = None,
        seed: int = 0,
        device: torch.device | str = "cpu",
        cache: Path | None = None,
        quiet: bool = True,
        resize: str | None = None,
        classifier: ClassifierOptions | None = None,
    ) -> None:
        self.real, self.seed, self.device = RealImages(real, seed), seed, torch.device(device)
        self.metrics, self.quiet = check_metrics(list(metrics)), quiet
        self.parts = build_metrics(self.metrics)
        self.count = min(len(real), MOST) if count is None else count
        if self.count < 1:
            raise UserError(f"--count must be at least 1, not {self.count}.")
        check_counts(self.metrics, reals=len(self.real), fakes=self.count)
        self._resolution, self._channels = real.options.resolution, real.options.channels
        side = f"{self._resolution} x {self._resolution}"
        self._resize = resize or f"as in training: centre square, Lanczos down or bicubic up, to {side}"
        self._version = import_fidelity().__version__
        self._cache = Cache(cache)
        self.extractor = self._open(features, classifier or ClassifierOptions())
        self._reals = self._real_features()

    def score(self, generator: Generator, count: int | None = None) -> Evaluation:
        """The evaluation of `count` images, by default `self.count`, that the generator draws from the seed.

        Its classes are drawn as `drawn_labels` says. Processes of one run share the work.
        """
        count = self.count if count is None else count
        part = collectives.shard(count)
        asked: dict[str, Any] = {}
        rule = None
        if getattr(generator, "classes", 0):  # one that is not this package's may lack it
            labels, rule = drawn_labels(generator, count, self.seed)
            asked = {"labels": labels}
        images = generator.sample(count, seed=self.seed, part=part, **asked)
        return self._score(images, count, rule)

    def score_images(self, images: Tensor) -> Evaluation:
        """The evaluation of generated images, uint8 (M, C, R, R)."""
        return self._score(images, len(images))

    def _score(self, images: Tensor, count: int, labels: str | None = None) -> Evaluation:
        """The evaluation of `count` images, of which `images` are this process's part.

        `labels` is what the protocol says of how their classes were drawn.
        """
        shape = (self._channels, self._resolution, self._resolution)
        if images.shape[1:] != shape:
            raise UserError(
                f"The generated images have the shape {tuple(images.shape[1:])} and the real ones {shape} "
                "(channels, height, width): compare images of one shape."
            )
        assert images.dtype == torch.uint8, "images are uint8"
        check_counts(self.metrics, reals=len(self.real), fakes=count)
        batches = images.split(self.extractor.batch)
        layers = sorted({self.extractor.layers[name] for name in self.parts})
        found = self._extract(batches, len(images), layers, "generated")
        if len(images) < count:
            found = {layer: collectives.all_gather_rows(features) for layer, features in found.items()}
            return Evaluation(self.protocol(count, labels), self._told_numbers(found))
        return Evaluation(self.protocol(count, labels), self._numbers(self._with_moments(found)))

    def protocol(self, fakes: int, labels: str | None = None) -> Protocol:
        """The protocol of a measurement on so many generated images.

        `labels` says how their classes were drawn; None where there are none.
        """
        facts: dict[str, Any] = {} if labels is None else {"labels": labels}
        for name, part in {**build_metrics(METRICS), **self.parts}.items():
            facts |= statistics.settings(name, part, len(self.real), fakes)
        facts |= self.extractor.facts
        if self._reals.moments:
            size = len(self._reals.moments["mu"])
            facts["covariance"] = "full" if min(len(self.real), fakes) > size else "singular"
        return Protocol(
            features=self.extractor.name,
            features_sha=self.extractor.sha,
            real=self.real.images.name,
            real_sha=self.real.sha[:16],
            reals=len(self.real),
            fakes=fakes,
            resolution=self._resolution,
            channels=self._channels,
            resize=self._resize,
            seed=self.seed,
            settings=facts,
            torch_fidelity=self._version,
        )

    def _open(self, features: str, classifier: ClassifierOptions) -> Extractor:
        if features != "classifier":
            opening = Opening(
                metrics=tuple(self.parts), resolution=self._resolution, device=self.device, quiet=self.quiet
            )
            return open_fidelity(features, opening)
        self.classes = self.real.classes()
        trained = obtain(
            torch.cat(list(self.real.batches())),
            self.real.labels(),
            classes=len(self.classes),
            pixels_sha=self.real.sha,
            options=classifier,
            cache=self._cache,
            device=self.device,
            quiet=self.quiet,
        )
        return ClassifierExtractor(trained, self.device, tuple(self.parts))

    def _real_features(self) -> Features:
        """Features of the real images in every layer that a metric reads; from the cache where they are
        there."""
        read = [name for name, part in self.parts.items() if trait(part, "reads_real")]
        layers = sorted({self.extractor.layers[name] for name in (*read, *self._of_classes())})
        moments = self._moments_layer() is not None
        key = key_of(
            version=1,
            pixels=self.real.sha,
            extractor=self.extractor.identity,
            layers=layers,
            moments=moments,
            torch_fidelity=self._version,
        )
        if not layers:
            return Features({}, {})
        entry = self._cache.load("real", key)
        if entry is not None and Features.are(entry[0], layers, len(self.real), moments=moments):
            return Features.from_tensors(entry[0])
        found = self._with_moments(self._extract(self.real.batches(), len(self.real), layers, "real"))
        self._cache.save("real", key, found.to_tensors(), {"source": self.real.images.name})
        return found

    def _extract(
        self, batches: Iterable[Tensor], count: int, layers: list[str], kind: str
    ) -> dict[str, Tensor]:
        """The features of each layer, (count, F)."""
        from tqdm import tqdm

        parts: dict[str, list[Tensor]] = {layer: [] for layer in layers}
        hidden = self.quiet or not can_draw(sys.stderr)
        with tqdm(total=count, desc=f"{kind} images", file=sys.stderr, disable=hidden, leave=False) as bar:
            for batch in (part for read in batches for part in read.split(self.extractor.batch)):
                found = self.extractor.features(batch)
                for layer in layers:
                    parts[layer].append(found[layer])
                bar.update(len(batch))
        return {layer: torch.cat(part) for layer, part in parts.items()}

    def _moments_layer(self) -> str | None:
        """The layer whose mean and covariance a metric reads; None where none does."""
        reading = [name for name, part in self.parts.items() if trait(part, "reads") == "moments"]
        return self.extractor.layers[reading[0]] if reading else None

    def _with_moments(self, features: dict[str, Tensor]) -> Features:
        layer = self._moments_layer()
        return Features(features, {} if layer is None else statistics.mean_and_covariance(features[layer]))

    def _of_classes(self) -> dict[str, Any]:
        """The metrics that have more to say where the features are the classifier's, which has classes."""
        if self.extractor.name != "classifier":
            return {}
        return {name: part for name, part in self.parts.items() if hasattr(part, "measure_classes")}

    def _told_numbers(self, found: dict[str, Tensor]) -> dict[str, float]:
        """The numbers, which rank 0 computes and broadcasts to all."""
        numbers = None
        with collectives.errors_shared():
            if collectives.rank() == 0:
                numbers = self._numbers(self._with_moments(found))
        return collectives.broadcast(numbers)

    def _numbers(self, fakes: Features) -> dict[str, float]:
        numbers: dict[str, float] = {}
        layers = self.extractor.layers
        for name, part in self.parts.items():
            layer = layers[name]
            real = self._reals.given(part, layer, self.seed) if trait(part, "reads_real") else None
            found = part.measure(real, fakes.given(part, layer, self.seed))
            numbers.update(self._called(name, part, found, numbers))
        for name, part in self._of_classes().items():
            real, fake = (one.given(part, layers[name], self.seed) for one in (self._reals, fakes))
            numbers.update(part.measure_classes(real, fake, self.classes))
        return numbers

    def _called(self, metric: str, part: Any, found: Any, others: Iterable[str]) -> dict[str, float]:
        """What a metric found, by the names that the evaluation gives the numbers.

        With the classifier's features nothing bears the name of a number of the literature. A number of
        somebody's own metric begins with that metric's name. Raises UserError where `found` is not numbers by
        name, or a name is among `others`.
        """
        try:
            numbers = {str(name): float(value) for name, value in found.items()}
        except (AttributeError, TypeError, ValueError, RuntimeError) as error:
            raise UserError(
                f"The metric {metric} gives {brief(found)}: let `measure` return numbers by name, "
                '{"distance": 0.5}.'
            ) from error
        if metric in METRICS:
            if self.extractor.name != "classifier":
                return numbers
            pairs = part.numbers.items()
            whole = {f"{name}{end}": f"{new}{end}" for name, new in pairs for end in ("", "_std")}
            return {whole[name]: value for name, value in numbers.items()}
        prefix = metric.replace("-", "_")
        own = {name if belongs(name, metric) else f"{prefix}_{name}": v for name, v in numbers.items()}
        if taken := own.keys() & set(others):
            raise UserError(f"The metric {metric} gives {min(taken)}, as another does: name it otherwise.")
        return own
