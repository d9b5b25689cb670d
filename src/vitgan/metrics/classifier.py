"""A small CNN trained on the real labels: features for comparing generators of one set, with no download.

Shapes: N images, B batch, C channels, R resolution, W width, F features, K classes.
"""

import itertools
import math
import sys
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vitgan.compat import multiplies_bf16
from vitgan.config import MOST_SIZE, check, option, to_dict
from vitgan.data.held_out import split
from vitgan.errors import UserError
from vitgan.metrics.protocol import Cache, key_of
from vitgan.models.base import from_uint8, misfit
from vitgan.terminal import can_draw

VERSION = 2  # of network and training: raise it when the same options give another classifier
LEAST, MOST = 8, 64  # pixels a side


@dataclass(frozen=True, kw_only=True)
class ClassifierOptions:
    """Options of the classifier's network and training; all values were chosen here."""

    width: int = option(48, least=1, most=MOST_SIZE)
    """Channels of the first convolution; doubled once, then `features`."""
    features: int = option(128, least=1, most=MOST_SIZE)
    """Number F of the features."""
    batch: int = option(128, least=1)
    """Images of an update."""
    epochs: int = option(20, least=1)
    """Passes over the images that are not held out."""
    images: int = option(300_000, least=0)
    """Images seen, at most: a large set gets fewer passes, but one."""
    updates: int = option(200, least=1)
    """Updates, at least: a small set gets more passes."""
    learning_rate: float = option(0.003, least=0)
    """Learning rate of AdamW at its highest, after a fifth of the steps; it starts and ends at 0."""
    weight_decay: float = option(0.05, least=0)
    """Weight decay of AdamW."""
    shift: float = option(0.125, least=0, most=1)
    """Each image is moved by up to this share of its side; never mirrored, a digit is no mirror image."""
    held_out: float = option(0.2, least=0)
    """Share of the images that is never trained on, the same of every class."""
    held_out_most: int = option(5000, least=0)
    """Images held out, at most."""
    seed: int = option(0, least=0)
    """Seed of the weights, the part held out and the training; not that of the evaluation."""

    def build(self, *, resolution: int, channels: int, classes: int) -> "Classifier":
        """The network, its weights drawn from the seed. Raises UserError outside 8 to 64 pixels a side."""
        check(self, "classifier")
        if not LEAST <= resolution <= MOST:
            raise UserError(
                f"--features classifier takes images of {LEAST} to {MOST} pixels a side, not {resolution}: "
                "use --features inception."
            )
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.seed)
            return Classifier(self, resolution=resolution, channels=channels, classes=classes)


class Trained(NamedTuple):
    """A classifier in eval mode, its accuracy on the held-out images, and how many they are."""

    classifier: "Classifier"
    accuracy: float
    held_out: int


class Classifier(nn.Module):
    """images uint8 (B, C, R, R) -> features (B, F) and logits (B, K).

    A strided convolution to about 16 x 16, then convolutions and pooling to 4 x 4, and one hidden layer.
    The features are that layer behind a norm, which fixes their scale, and a GELU, which leaves none of
    them constant, as a ReLU may.
    """

    def __init__(self, options: ClassifierOptions, *, resolution: int, channels: int, classes: int) -> None:
        super().__init__()
        stride = max(1, round(resolution / 16))
        pools = max(1, round(math.log2(resolution / stride / 4)))
        widths = [options.width, 2 * options.width, *[options.features] * pools][: pools + 1]
        layers: list[nn.Module] = _convolution(channels, widths[0], kernel=stride + 2, stride=stride)
        for narrow, wide in itertools.pairwise(widths):
            layers += [*_convolution(narrow, wide), nn.MaxPool2d(2)]
        side = resolution // stride >> pools
        to_4 = nn.Identity() if side == 4 else nn.AdaptiveAvgPool2d(4)
        layers += [*_convolution(widths[-1], options.features), to_4, nn.Flatten()]
        hidden = nn.Linear(16 * options.features, options.features, bias=False)
        self.body = nn.Sequential(*layers, hidden, nn.BatchNorm1d(options.features), nn.GELU())
        self.head = nn.Linear(options.features, classes)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        x = from_uint8(images).contiguous(memory_format=torch.channels_last)
        features = self.body(x)
        return features, self.head(features)


def _convolution(narrow: int, wide: int, *, kernel: int = 3, stride: int = 1) -> list[nn.Module]:
    convolution = nn.Conv2d(narrow, wide, kernel, stride=stride, padding=1, bias=False)
    return [convolution, nn.BatchNorm2d(wide), nn.ReLU()]


def obtain(
    images: Tensor,
    labels: Tensor,
    *,
    classes: int,
    pixels_sha: str,
    options: ClassifierOptions,
    cache: Cache,
    device: torch.device,
    quiet: bool,
) -> Trained:
    """The classifier of these images (N, C, R, R) and labels (N,): out of the cache, else trained now."""
    label_list = labels.tolist()
    key = key_of(version=VERSION, pixels=pixels_sha, labels=label_list, options=to_dict(options))
    classifier = options.build(resolution=images.shape[-1], channels=images.shape[1], classes=classes)
    entry = cache.load("classifier", key)
    if entry is not None and _fits(classifier, *entry):
        tensors, facts = entry
        classifier.load_state_dict(tensors)
        return Trained(_finished(_placed(classifier, device)), facts["accuracy"], facts["held_out"])
    trained = train(classifier, images, labels, options=options, device=device, quiet=quiet)
    facts = {"accuracy": trained.accuracy, "held_out": trained.held_out, "options": to_dict(options)}
    state = {name: tensor.cpu() for name, tensor in trained.classifier.state_dict().items()}
    cache.save("classifier", key, state, facts)
    return trained


def _fits(classifier: "Classifier", tensors: dict[str, Tensor], facts: dict[str, Any]) -> bool:
    """Whether an entry of the cache is what `obtain` writes; another is computed anew."""
    numbers = isinstance(facts.get("accuracy"), float) and isinstance(facts.get("held_out"), int)
    return numbers and misfit(classifier.state_dict(), tensors) is None


def train(
    classifier: Classifier,
    images: Tensor,
    labels: Tensor,
    *,
    options: ClassifierOptions,
    device: torch.device,
    quiet: bool,
) -> Trained:
    """Train on all but the held-out images; the same on one machine from the same seed."""
    seen, held_out = divided(labels, options)
    classifier = _placed(classifier, device).train()
    _fit(classifier, images, labels, seen=seen, options=options, device=device, quiet=quiet)
    classifier = _finished(classifier)
    accuracy = _accuracy(classifier, images[held_out], labels[held_out], device)
    return Trained(classifier, accuracy, len(held_out))


def divided(labels: Tensor, options: ClassifierOptions) -> tuple[Tensor, Tensor]:
    """Indices of the images to train on, and of those held out: the same share of every class.

    Raises UserError where a class that has images has fewer than 2, or there are too few to divide.
    """
    counts = labels.bincount()
    held_out = min(int(options.held_out * len(labels)), options.held_out_most)
    present = int((counts > 0).sum())
    if present < 2 or counts[counts > 0].min() < 2 or held_out < present:
        raise UserError(
            f"--features classifier needs 2 classes or more of 2 images or more each, and {present * 5} "
            f"images of these {present} classes: use --features inception."
        )
    return split(labels, share=options.held_out, most=options.held_out_most, seed=options.seed)


def _batches(seen: Tensor, options: ClassifierOptions, draws: torch.Generator) -> list[Tensor]:
    """The indices of every step; the last images of an epoch that fill no batch are left out of it."""
    size = min(options.batch, len(seen))
    steps = len(seen) // size
    epochs = max(min(options.epochs, options.images // len(seen)), math.ceil(options.updates / steps))
    whole = steps * size
    orders = [seen[torch.randperm(len(seen), generator=draws)][:whole] for _ in range(epochs)]
    return list(torch.cat(orders).split(size))


def _fit(
    classifier: Classifier,
    images: Tensor,
    labels: Tensor,
    *,
    seen: Tensor,
    options: ClassifierOptions,
    device: torch.device,
    quiet: bool,
) -> None:
    from tqdm import tqdm

    optimiser = torch.optim.AdamW(
        classifier.parameters(), options.learning_rate, weight_decay=options.weight_decay
    )
    draws = torch.Generator().manual_seed(options.seed)
    batches = _batches(seen, options, draws)
    hidden = quiet or not can_draw(sys.stderr)
    bar = tqdm(
        batches, "training the classifier", unit=" steps", file=sys.stderr, disable=hidden, leave=False
    )
    for step, batch in enumerate(bar):
        done = (step + 0.5) / len(batches)
        optimiser.param_groups[0]["lr"] = options.learning_rate * min(done / 0.2, (1 - done) / 0.8)
        shifted = _shifted(images[batch], options.shift, draws).to(device)
        _update(classifier, optimiser, shifted, labels[batch].to(device))


def _update(classifier: Classifier, optimiser: torch.optim.Optimizer, images: Tensor, labels: Tensor) -> None:
    device = images.device.type
    with torch.autocast(device, torch.bfloat16, enabled=multiplies_bf16(images.device)):
        _, logits = classifier(images)
    loss = F.cross_entropy(logits.float(), labels)
    optimiser.zero_grad()
    loss.backward()
    optimiser.step()


def _shifted(images: Tensor, share: float, draws: torch.Generator) -> Tensor:
    """Every image (B, C, R, R) moved by its own whole number of pixels, its border repeated."""
    side = images.shape[-1]
    most = int(share * side)
    moves = torch.randint(-most, most + 1, (2, len(images), 1), generator=draws)
    rows, columns = (torch.arange(side) + moves).clamp_(0, side - 1)  # (B, R) each
    batch = torch.arange(len(images)).view(-1, 1, 1)
    moved = images.permute(0, 2, 3, 1)[batch, rows.unsqueeze(2), columns.unsqueeze(1)]  # (B, R, R, C)
    return moved.permute(0, 3, 1, 2)


def _placed(classifier: Classifier, device: torch.device) -> Classifier:
    # The same layout, trained or loaded: another would give other last digits.
    return classifier.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]


def _finished(classifier: Classifier) -> Classifier:
    return classifier.eval().requires_grad_(False)


@torch.no_grad()
def _accuracy(classifier: Classifier, images: Tensor, labels: Tensor, device: torch.device) -> float:
    right = sum(
        int((classifier(part.to(device))[1].argmax(1).cpu() == truth).sum())
        for part, truth in zip(images.split(512), labels.split(512), strict=True)
    )
    return right / len(images)
