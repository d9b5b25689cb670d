"""What the game is: losses, regularising terms, augmentation, and one step of it."""

from vitgan.adversarial.augment import Augmentation, DiffAugment, StrongAugment
from vitgan.adversarial.consistency import BCR, CutMix
from vitgan.adversarial.contrastive import Contrastive
from vitgan.adversarial.losses import Hinge, Logistic, Wasserstein
from vitgan.adversarial.penalties import R1, Drift, GradientPenalty, PathLength
from vitgan.adversarial.step import Game, Players, train_step
from vitgan.adversarial.terms import GeneratorPass, GeneratorTerm, Pass, Term

__all__ = [
    "BCR",
    "R1",
    "Augmentation",
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
    "Pass",
    "PathLength",
    "Players",
    "StrongAugment",
    "Term",
    "Wasserstein",
    "train_step",
]
