"""From images to features: torch-fidelity's extractors, and the classifier trained on the set itself.

Shapes: B images, C channels, R resolution, F features.
"""

import abc
import hashlib
import io
import math
import os
import sys
import warnings
import zipfile
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from vitgan import registry
from vitgan.errors import UserError
from vitgan.metrics.classifier import Trained
from vitgan.metrics.protocol import METRICS
from vitgan.metrics.statistics import fidelity_name, trait
from vitgan.terminal import can_draw

INCEPTION = "inception-v3-compat"  # torch-fidelity's name of it
WEIGHTS_URL = (
    "https://github.com/toshas/torch-fidelity/releases/download/v0.2.0/"
    "weights-inception-2015-12-05-6726825d.pth"
)
WEIGHTS_SHA = "6726825d"  # how the SHA-256 of that file begins, as its name says
MOST_BYTES = 2**30  # of a file of weights; Inception's has 96 MB
# Extractors whose weights are a program, or come with one: nothing that was fetched is run here.
PROGRAMS = ("clip-", "dinov2-")


class Extractor(abc.ABC):
    """What computes features of images.

    Attributes
        name: as in the protocol.
        sha: first 16 digits of the SHA-256 of the weights.
        identity: what cached features depend on besides the images.
        layers: the name of the features that each metric is computed on.
        facts: what the protocol says of it besides.
        batch: images at once.
    """

    name: str
    sha: str
    identity: str
    layers: dict[str, str]
    facts: dict[str, int | float | str]
    batch = 64

    @abc.abstractmethod
    def features(self, images: Tensor) -> dict[str, Tensor]:
        """Images uint8 (B, C, R, R) -> the features of each layer, (B, F) on the CPU."""


@dataclass(frozen=True, kw_only=True)
class Opening:
    """What an extractor is opened for."""

    metrics: tuple[str, ...]
    resolution: int
    device: torch.device
    quiet: bool


class FidelityExtractor(Extractor):
    """An extractor of torch-fidelity's, with its default layers; grey images are repeated to RGB."""

    def __init__(
        self, name: str, module: nn.Module, sha: str, layers: dict[str, str], opening: Opening
    ) -> None:
        self.name, self.sha, self.layers = name, sha, layers
        self._module: Any = module.to(opening.device)
        self._device = opening.device
        # What an extractor computes with may lie outside its weights: the features of one image tell.
        shape = (1, 3, opening.resolution, opening.resolution)
        values = torch.arange(math.prod(shape)) * 97 % 256
        probe = _tensors_sha(self.features(values.to(torch.uint8).view(shape)))
        self.identity = f"{type(module).__qualname__} {sha} {probe}"
        self.facts = {f"{metric.replace('-', '_')}_layer": layer for metric, layer in layers.items()}

    @torch.no_grad()
    def features(self, images: Tensor) -> dict[str, Tensor]:
        found = self._module(images.expand(-1, 3, -1, -1).contiguous().to(self._device))
        by_name = self._module.convert_features_tuple_to_dict(found)
        return {name: tensor.cpu() for name, tensor in by_name.items()}


class ClassifierExtractor(Extractor):
    """The classifier's hidden layer, and its logits for the score, in float64 for what is made of them."""

    name = "classifier"
    batch = 512

    def __init__(self, trained: Trained, device: torch.device, metrics: tuple[str, ...] = METRICS) -> None:
        self._classifier, self._device = trained.classifier, device
        self.sha = _tensors_sha(dict(trained.classifier.state_dict()))
        self.identity = f"classifier {self.sha}"
        reads = {name: trait(registry.get("metric", name), "reads") for name in metrics}
        self.layers = {name: "logits" if what == "logits" else "features" for name, what in reads.items()}
        self.facts = {
            "classifier_held_out_accuracy": round(trained.accuracy, 6),
            "classifier_held_out_images": trained.held_out,
        }

    @torch.no_grad()
    def features(self, images: Tensor) -> dict[str, Tensor]:
        features, logits = self._classifier(images.to(self._device))
        return {"features": features.double().cpu(), "logits": logits.double().cpu()}


def open_fidelity(features: str, opening: Opening) -> FidelityExtractor:
    """Inception, a registered extractor, or the Inception whose weights are in the file `features`.

    Raises UserError where there is no such thing, or its weights cannot be had.
    """
    known = import_fidelity().registry.FEATURE_EXTRACTORS_REGISTRY
    if features.startswith(PROGRAMS) and features in known:
        raise UserError(
            f"torch-fidelity's extractor {features} runs code that it downloads, which is never done here: "
            "choose inception, classifier or vgg16."
        )
    if features in ("inception", INCEPTION):
        return _open_inception(_official_weights(opening.quiet), opening, official=True)
    if features in known:
        return _open_registered(features, known[features], opening)
    path = Path(features).expanduser()
    if path.is_file():
        return _open_inception(path, opening, official=False)
    safe = sorted(name for name in known if not name.startswith(PROGRAMS))
    raise UserError(
        f"There are no features {features!r}: choose inception, classifier, the path of a file of Inception "
        f"weights, or one of torch-fidelity's extractors ({', '.join(safe)})."
    )


def import_fidelity() -> Any:
    """torch_fidelity. Raises UserError where it, or the torchvision that it needs, cannot be imported."""
    try:
        import torch_fidelity
        import torch_fidelity.registry
    except (ImportError, RuntimeError) as error:  # RuntimeError: a torchvision built for another torch
        raise UserError(
            f"torch-fidelity, which computes the metrics, cannot be imported ({_line(error)}): install it "
            "with the torchvision that belongs to this torch, `pip install torch-fidelity torchvision`."
        ) from error
    return torch_fidelity


def weights_path() -> Path:
    """Where torch-fidelity keeps its Inception weights: in the cache of torch.hub."""
    return Path(torch.hub.get_dir()) / "checkpoints" / WEIGHTS_URL.rpartition("/")[2]


def _official_weights(quiet: bool) -> Path:
    path = weights_path()
    if path.is_file():
        return path
    shown = not quiet and can_draw(sys.stderr)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        torch.hub.download_url_to_file(WEIGHTS_URL, str(path), hash_prefix=WEIGHTS_SHA, progress=shown)
    except (OSError, RuntimeError, ValueError) as error:  # RuntimeError: another hash
        raise UserError(
            f"The Inception weights could not be downloaded ({_line(error)}): fetch {WEIGHTS_URL} and put it "
            f"at {path}, or give its path, --features FILE; --features classifier needs none."
        ) from error
    return path


def _open_inception(path: Path, opening: Opening, *, official: bool) -> FidelityExtractor:
    content = _bounded(path)
    sha = hashlib.sha256(content).hexdigest()
    if official and not sha.startswith(WEIGHTS_SHA):
        raise UserError(
            f"{path} is damaged: delete it and fetch {WEIGHTS_URL} again, or give another by --features FILE."
        )
    weights = io.BytesIO()
    torch.save(_read_weights(path, content), weights)
    weights.seek(0)
    fidelity = import_fidelity()
    layers = _layers(INCEPTION, fidelity.FeatureExtractorInceptionV3, opening.metrics)
    try:
        with torch.random.fork_rng(devices=[]), tensors_only():
            names = list(dict.fromkeys(layers.values()))
            module = fidelity.FeatureExtractorInceptionV3(
                INCEPTION, names, feature_extractor_weights_path=weights
            )
    except RuntimeError as error:
        raise _no_weights(path, _line(error)) from error
    return FidelityExtractor("inception", module, sha[:16], layers, opening)


@contextmanager
def tensors_only() -> Iterator[None]:
    """A context within which torch.load unpickles tensors alone, whatever its caller asks for."""
    name = "TORCH_FORCE_WEIGHTS_ONLY_LOAD"
    before = os.environ.get(name)
    os.environ[name] = "1"
    try:
        yield
    finally:
        del os.environ[name]
        if before is not None:
            os.environ[name] = before


def _bounded(path: Path) -> bytes:
    """The content of `path`. Raises UserError where it, or what it unpacks to, is above 1 GiB."""
    with path.open("rb") as file:
        content = file.read(MOST_BYTES + 1)
    size = len(content)
    if zipfile.is_zipfile(io.BytesIO(content)):
        try:
            with zipfile.ZipFile(io.BytesIO(content)) as archive:
                size = max(size, sum(info.file_size for info in archive.infolist()))
        except (zipfile.BadZipFile, ValueError, NotImplementedError) as error:
            raise _no_weights(path, _line(error)) from error
    if size > MOST_BYTES:
        raise _no_weights(path, f"it is larger than {MOST_BYTES // 2**20} MiB")
    return content


def _read_weights(path: Path, content: bytes) -> "OrderedDict[str, Tensor]":
    """The tensors of a state dictionary; nothing else is unpickled."""
    try:
        with warnings.catch_warnings(action="ignore"):  # of pickle's, before it is refused
            state = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises almost anything on a file that is not its own
        raise _no_weights(path, "torch cannot read it as weights") from error
    if not isinstance(state, dict) or not all(isinstance(value, Tensor) for value in state.values()):
        raise _no_weights(path, "it holds something else than named tensors")
    return OrderedDict((str(name), tensor) for name, tensor in state.items())


def _no_weights(path: Path, reason: str) -> UserError:
    return UserError(
        f"{path} is not a file of torch-fidelity's Inception weights ({reason[:200]}): fetch {WEIGHTS_URL} "
        "and give its path."
    )


def _open_registered(name: str, kind: Any, opening: Opening) -> FidelityExtractor:
    layers = _layers(name, kind, opening.metrics)
    try:
        with torch.random.fork_rng(devices=[]), tensors_only():
            names = list(dict.fromkeys(layers.values()))
            module: nn.Module = kind(name, names, verbose=False).requires_grad_(False).eval()
    except (OSError, RuntimeError) as error:
        raise UserError(
            f"torch-fidelity's extractor {name} cannot be built ({_line(error)}): it downloads its weights, "
            "so try again with a network, or use --features classifier."
        ) from error
    return FidelityExtractor(name, module, _tensors_sha(dict(module.state_dict())), layers, opening)


def _layers(name: str, kind: Any, metrics: tuple[str, ...]) -> dict[str, str]:
    layers: dict[str, str] = {}
    for metric in metrics:
        try:
            wanted = fidelity_name(registry.get("metric", metric))
            layers[metric] = kind.get_default_feature_layer_for_metric(wanted)
        except (KeyError, NotImplementedError) as error:
            raise UserError(f"The extractor {name} has no features for {metric}: leave it out.") from error
    return layers


def _tensors_sha(tensors: dict[str, Tensor]) -> str:
    """First 16 digits of the SHA-256 of names, shapes and values."""
    digest = hashlib.sha256()
    for name, tensor in sorted(tensors.items()):
        digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}".encode())
        digest.update(tensor.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()[:16]


def _line(error: Exception) -> str:
    return " ".join(str(error).split())[:300]
