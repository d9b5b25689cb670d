"""The adversarial game: losses, regularising terms, augmentation, and one training step."""

from vitgan.adversarial.augment import Augmentation, DiffAugment, NoAugment, StrongAugment
from vitgan.adversarial.consistency import BCR, CutMix
from vitgan.adversarial.contrastive import Contrastive
from vitgan.adversarial.losses import AdversarialLoss, Hinge, Logistic, Relativistic, Wasserstein
from vitgan.adversarial.penalties import (
    R1,
    R2,
    ApproximateR1,
    ApproximateR2,
    Centring,
    Drift,
    GradientPenalty,
    PathLength,
)
from vitgan.adversarial.step import Game, Players, train_step
from vitgan.adversarial.terms import GeneratorPass, GeneratorTerm, Pass, Term

__all__ = [
    "BCR",
    "R1",
    "R2",
    "AdversarialLoss",
    "ApproximateR1",
    "ApproximateR2",
    "Augmentation",
    "Centring",
    "Contrastive",
    "CutMix",
    "DiffAugment",
    "Drift",
    "Game",
    "GeneratorPass",
    "GeneratorTerm",
    "GradientPenalty",
    "Hinge",
    "Logistic",
    "NoAugment",
    "Pass",
    "PathLength",
    "Players",
    "Relativistic",
    "StrongAugment",
    "Term",
    "Wasserstein",
    "train_step",
]
