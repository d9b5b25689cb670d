"""What the game is: losses, regularising terms, augmentation, and one step of it."""

from vitgan.adversarial.augment import Augmentation, DiffAugment
from vitgan.adversarial.consistency import BCR
from vitgan.adversarial.losses import Hinge, Logistic, Wasserstein
from vitgan.adversarial.penalties import R1, GradientPenalty
from vitgan.adversarial.step import Game, Players, train_step
from vitgan.adversarial.terms import GeneratorPass, GeneratorTerm, Pass, Term

__all__ = [
    "BCR",
    "R1",
    "Augmentation",
    "DiffAugment",
    "Game",
    "GeneratorPass",
    "GeneratorTerm",
    "GradientPenalty",
    "Hinge",
    "Logistic",
    "Pass",
    "Players",
    "Term",
    "Wasserstein",
    "train_step",
]
