"""What a number was measured with, and the numbers."""

import dataclasses
import hashlib
import json
import logging
import math
import os
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

from vitgan import registry
from vitgan.config import brief, named
from vitgan.errors import UserError, did_you_mean
from vitgan.io import home, sha256_of_json
from vitgan.metrics.statistics import Better, FrechetDistance, Reads, trait

if TYPE_CHECKING:
    from torch import Tensor
from vitgan.io import BrokenSeal, read_sealed, replacing, sealed

METRICS: tuple[str, ...] = tuple(part.name for part in registry.parts("metric") if part.module is None)
"""The package's own metrics, in the usual order."""
MOST = 50_000  # images of a set
HEADLINES = tuple(name for pair in FrechetDistance.numbers.items() for name in pair)


@dataclass(frozen=True, kw_only=True)
class Protocol:
    """All that a number depends on besides the generated images."""

    features: str
    """What computes the features: inception, classifier, or the name of an extractor registered in
    torch-fidelity."""
    features_sha: str
    """First 16 digits of the SHA-256 of the extractor's weights."""
    real: str
    """The source of the real images, as given."""
    real_sha: str
    """First 16 digits of the SHA-256 of the real pixels, after the resize."""
    reals: int
    """Number of real images."""
    fakes: int
    """Number of generated images."""
    resolution: int
    """Side of the images, pixels."""
    channels: int
    """Channels of the images; 1: grey (repeated to RGB for any extractor but the classifier), 3: RGB."""
    resize: str
    """How the real images came to this size."""
    seed: int
    """Seed of the latents, and of the choice where only a part of the images is taken."""
    settings: dict[str, Any]
    """Options of the metrics, facts of the classifier where it is used, and of a generator with classes how
    often each was drawn ("labels")."""
    torch_fidelity: str
    """Version of torch-fidelity, which computes the metrics."""

    def to_dict(self) -> dict[str, Any]:
        """The protocol as a JSON-ready object, with its `key`."""
        return {**dataclasses.asdict(self), "key": self.key()}

    def key(self) -> str:
        """A hash of 8 hexadecimal digits; numbers may stand in one column where these are the same.

        The source's name and the resize are left out: the pixels' hash says what they come to.
        """
        facts = dataclasses.asdict(self)
        del facts["real"], facts["resize"]
        return sha256_of_json(facts)[:8]


@dataclass(frozen=True)
class Evaluation:
    """The numbers of one measurement, and the protocol that they belong to."""

    protocol: Protocol
    metrics: dict[str, float]

    def to_dict(self) -> dict[str, Any]:
        """The evaluation as a JSON-ready object; JSON knows no NaN and no infinity: both become null."""
        finite = {name: value if math.isfinite(value) else None for name, value in self.metrics.items()}
        return {"protocol": self.protocol.to_dict(), "metrics": finite}


def headline(metrics: Mapping[str, float]) -> tuple[str, float]:
    """Name and value of the number that picks the best checkpoint: a Frechet distance, lower is better.

    Where none was measured it is the first number of a metric of somebody's own. Raises UserError where
    there is none either.
    """
    others = [name for name in metrics if not _is_of_package(name)]
    for name in (*HEADLINES, *others):
        if name in metrics:
            return name, metrics[name]
    raise UserError("No Frechet distance was measured to pick the best by: add fid to the metrics.")


def better(number: str) -> Better | None:
    """Whether a lower or a higher value of a number, by its name, is better; None where it is not known."""
    found: dict[str, Better] = {}
    for part in registry.parts("metric"):
        if part.module is None:
            names = [name for pair in part.cls.numbers.items() for name in pair]  # type: ignore[attr-defined]
            matches = number in names
        else:
            matches = belongs(number, part.name)
        if matches:
            found[part.name] = trait(part.cls, "better")
    return found[max(found, key=len)] if found else None


def belongs(number: str, metric: str) -> bool:
    """Whether the number's name is the metric's, with underscores, or begins with it."""
    return f"{number}_".startswith(f"{metric.replace('-', '_')}_")


def _is_of_package(number: str) -> bool:
    plain = number.removesuffix("_std")
    own = [name for part in registry.parts("metric") if part.module is None for name in part.cls.numbers]  # type: ignore[attr-defined]
    return plain in own or number.startswith("classifier_") or "class_share" in number


def parse_metrics(text: str) -> tuple[str, ...]:
    """The metrics that 'fid,kid' names, in the usual order, options behind a name: 'kid:subsets=50,fid'.

    Raises UserError for an unknown metric or option.
    """
    words: list[str] = []
    for word in filter(None, map(str.strip, text.split(","))):
        if words and ":" in words[-1] and "=" in word.partition(":")[0]:
            words[-1] += f",{word}"  # another option of the same metric
        else:
            words.append(word)
    return check_metrics(words)


def check_metrics(words: Sequence[str]) -> tuple[str, ...]:
    """`words` without repetition, in the usual order: the package's metrics first.

    Raises UserError for an unknown one, none, an unknown option, or one metric with several options.
    """
    found = list(dict.fromkeys(words))
    unknown = [name for name in map(metric_name, found) if not registry.has("metric", name)]
    known = registry.names("metric")
    if unknown or not found:
        wrong = f"There is no metric {brief(unknown[0])}" if unknown else "--metrics names no metric"
        guess = did_you_mean(unknown[0], known) if unknown else ""
        own = ", or name the file or module of your own with --use" if unknown else ""
        raise UserError(f"{wrong}: choose from {', '.join(known)}{own}.{guess}")
    twice = [name for name, count in Counter(map(metric_name, found)).items() if count > 1]
    if twice:
        raise UserError(f"--metrics names {twice[0]} with different options: give one of them.")
    build_metrics(found)
    return tuple(sorted(found, key=lambda word: known.index(metric_name(word))))


def metric_name(word: str) -> str:
    """The name in a word of `parse_metrics`: kid of 'kid:subsets=50'."""
    return word.partition(":")[0]


def build_metrics(words: Sequence[str]) -> dict[str, Any]:
    """The parts that words of `parse_metrics` name, by name. Raises UserError for what it cannot be."""
    built: dict[str, Any] = {}
    for word in words:
        name, _, options = word.partition(":")
        metric = built[name] = named("metric", name, options, f"metrics.{name}")
        for attribute, allowed in (("better", get_args(Better)), ("reads", get_args(Reads))):
            if trait(metric, attribute) not in allowed:
                raise UserError(
                    f"The metric {name} has {attribute} = {brief(trait(metric, attribute))}: make it one of "
                    f"{', '.join(allowed)}."
                )
    return built


def possible_metrics(reals: int, fakes: int) -> tuple[str, ...]:
    """The package's metrics that so many images are enough for, fid where they are enough for none."""
    parts = build_metrics(METRICS)
    possible = tuple(name for name, part in parts.items() if not _missing(part, reals=reals, fakes=fakes))
    return possible or METRICS[:1]


def check_counts(metrics: Sequence[str], *, reals: int, fakes: int) -> None:
    """Raise UserError where there are fewer images than one of the metrics needs."""
    for name, part in build_metrics(metrics).items():
        for kind, count in _missing(part, reals=reals, fakes=fakes).items():
            raise UserError(
                f"The metric {name} needs at least {trait(part, 'least')} {kind} images, and there "
                f"{'is' if count == 1 else 'are'} {count}: give more, or leave {name} out of --metrics."
            )


def _missing(metric: Any, *, reals: int, fakes: int) -> dict[str, int]:
    """The sets that are too small for `metric`, with their sizes."""
    sizes = {"generated": fakes, "real": reals} if trait(metric, "reads_real") else {"generated": fakes}
    return {kind: count for kind, count in sizes.items() if count < trait(metric, "least")}


logger = logging.getLogger("vitgan")
Entry = tuple[dict[str, "Tensor"], dict[str, Any]]


def cache_folder() -> Path:
    """`$VITGAN_CACHE`, else `$XDG_CACHE_HOME/vitgan`, else `~/.cache/vitgan`."""
    if own := os.environ.get("VITGAN_CACHE"):
        return Path(own).expanduser()
    if shared := os.environ.get("XDG_CACHE_HOME"):
        return Path(shared).expanduser() / "vitgan"
    return home() / ".cache" / "vitgan"


def key_of(**parts: Any) -> str:
    """A hash of JSON-ready values, 32 hexadecimal digits."""
    return sha256_of_json(parts)[:32]


class Cache:
    """Entries below `folder` / metrics, named by kind and key.

    A folder that cannot be written costs a warning, not the command.
    """

    def __init__(self, folder: Path | None = None) -> None:
        self.folder = (cache_folder() if folder is None else folder) / "metrics"

    def load(self, kind: str, key: str) -> Entry | None:
        """The tensors and the description of an entry; None where there is none or it is damaged."""
        from safetensors import SafetensorError
        from safetensors.torch import load

        tensors_path, description_path = self._paths(kind, key)
        try:
            body = read_sealed(description_path, "entry")
            content = tensors_path.read_bytes()
            if body["tensors"] != hashlib.sha256(content).hexdigest():
                raise BrokenSeal
            if not isinstance(body["description"], dict):
                raise ValueError("it has no description")
            return load(content), body["description"]
        except FileNotFoundError:
            return None
        except (OSError, ValueError, KeyError, TypeError, AttributeError, SafetensorError) as error:
            logger.warning("%s is damaged (%s): computed again.", tensors_path, error)
            return None

    def save(self, kind: str, key: str, tensors: dict[str, "Tensor"], description: dict[str, Any]) -> None:
        """Write an entry; what an interrupted write leaves does not match its checksum."""
        from safetensors.torch import save

        tensors_path, description_path = self._paths(kind, key)
        content = save({name: tensor.contiguous() for name, tensor in tensors.items()})
        body = {"tensors": hashlib.sha256(content).hexdigest(), "description": description}
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            with replacing(tensors_path) as temporary:
                temporary.write_bytes(content)
            with replacing(description_path) as temporary:
                temporary.write_text(json.dumps(sealed("entry", body), indent=1), "utf-8")
        except OSError as error:
            logger.warning(
                "%s cannot be written (%s): nothing is kept for next time.", self.folder, error.strerror
            )

    def _paths(self, kind: str, key: str) -> tuple[Path, Path]:
        return self.folder / f"{kind}-{key}.safetensors", self.folder / f"{kind}-{key}.json"
