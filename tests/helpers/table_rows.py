"""Rows so small that each trains in a second, in place of those of `vitgan.tables.plan`."""

from dataclasses import dataclass, replace
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from vitgan.adversarial import R1
from vitgan.data import DataOptions, ImageSet
from vitgan.engine.gan import Recipe
from vitgan.engine.loop import Interrupt
from vitgan.engine.optim import AdamOptions
from vitgan.engine.recipe import TrainingOptions
from vitgan.metrics import Evaluation
from vitgan.models import Generator, VisionTransformerOptions, ViTGANGeneratorOptions
from vitgan.tables.run import Order, train_row


@dataclass(frozen=True, kw_only=True)
class Row:
    name: str
    label: str
    recipe: Recipe
    printed: dict[str, tuple[float | None, float | None]]
    note: str = ""


TINY = Recipe(
    name="tiny",
    data=DataOptions(),
    generator=ViTGANGeneratorOptions(
        patch=2, depth=1, width=8, heads=2, perceptron_width=16, latent_dim=8, mapping_depth=2
    ),
    discriminator=VisionTransformerOptions(patch=4, depth=1, width=8, heads=2, perceptron_width=16),
    training=TrainingOptions(batch=16, precision="fp32", threads=1, log_every=640, sample_count=4),
)
VANILLA = replace(
    TINY,
    name="tiny-vanilla",
    discriminator=replace(
        TINY.discriminator, overlap=0, attention="dot-product", spectral_norm="none", head="linear"
    ),
    terms=(R1(gamma=0.1, every=4),),
)
DIVERGING = replace(
    VANILLA,
    name="tiny-diverging",
    optimiser_generator=AdamOptions(learning_rate=1e18),
    optimiser_discriminator=AdamOptions(learning_rate=1e18),
)
ROWS = (
    Row(name="vanilla", label="Vanilla-ViT", recipe=VANILLA, printed={"cifar10": (12.7, 8.4)}),
    Row(name="diverging", label="Too fast", recipe=DIVERGING, printed={}, note="its rate is 1e18"),
    Row(
        name="vitgan",
        label="ViTGAN",
        recipe=TINY,
        printed={"cifar10": (6.66, 9.3), "lsun-bedroom": (2.65, None)},
    ),
)


def rows(table: str, *, size: str, resolution: int, channels: int) -> tuple[Row, ...]:  # noqa: ARG001
    return ROWS


def use(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have every table made of these rows."""
    protocols = {"cifar10": "50k fakes against the 50k training images.", "lsun-bedroom": "50k against all."}
    tables = {"architectures": "Architectures", "generator": "Generators", "discriminator": "Discriminators"}
    for name, value in {"rows": rows, "TABLES": tables, "PRINTED_PROTOCOL": protocols}.items():
        monkeypatch.setattr(f"vitgan.tables.plan.{name}", value)


class Measure:
    """In place of `vitgan.metrics.Evaluator`: a number of the samples, no features."""

    key = "0123abcd"

    def __init__(self, real: ImageSet, *, seed: int, count: int | None, **settings: Any) -> None:
        self.seed, self.count, self.metrics = seed, count or len(real), tuple(settings["metrics"])
        self.scored = 0

    def protocol(self, fakes: int) -> Any:
        facts: dict[str, Any] = {"features": "classifier", "features_sha": "00", "reals": 9, "fakes": fakes}
        facts |= {"resize": "none", "seed": self.seed, "torch_fidelity": "0", "settings": {}, "key": self.key}
        return SimpleNamespace(to_dict=lambda: facts, key=lambda: self.key)

    def score(self, generator: Generator, count: int | None = None) -> Evaluation:
        self.scored += 1
        images = generator.sample(4, seed=self.seed).float()
        numbers = {"classifier_frechet_distance": images.mean().item(), "classifier_score": 3.0}
        numbers |= {"classifier_score_std": 0.25, "classifier_score_real": 9.5, "class_share_0": 1.0}
        return Evaluation(self.protocol(count or self.count), numbers)


def train_here(orders: list[Order], interrupt: Interrupt) -> None:
    """In place of `train_together`: one after the other, in this process."""
    for order in orders:
        if not interrupt:
            train_row(order.recipe, order.folder, torch.device(order.device))


def use_here(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have every table made of these rows, in this process, measured by `Measure`."""
    use(monkeypatch)
    monkeypatch.setattr("vitgan.tables.plan.Evaluator", Measure)
    monkeypatch.setattr("vitgan.tables.run.train_together", train_here)
