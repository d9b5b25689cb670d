"""Score runs of the `digits` recipe with a classifier that has only ever seen real digits.

    python benchmarks/digits_score.py runs/digits [RUN ...]

A small CNN is trained on three quarters of scikit-learn's digits. For 2,000 samples of each run it prints the
class-probability inception score beside that of the real images, the mean confidence, and the smallest and
largest share of a class. This is no Inception score of the literature, whose network is another.
"""

import argparse

import torch
import torch.nn.functional as F
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from torch import Tensor, nn

import vitgan


def main() -> None:
    """Train the classifier, then a line a run."""
    parser = argparse.ArgumentParser(description="Score runs of the digits recipe.")
    parser.add_argument("runs", nargs="+", metavar="RUN")
    parser.add_argument("--count", type=int, default=2000, metavar="N")
    parser.add_argument("--seed", type=int, default=0, metavar="S")
    options = parser.parse_args()
    torch.set_num_threads(1)
    images, labels = real_digits()
    classifier, accuracy = train_classifier(images, labels)
    real = inception_score(classifier(images).softmax(1))
    print(f"classifier: {accuracy:.1%} on held-out digits; score of the real images {real:.2f} of 10")
    for run in options.runs:
        samples = vitgan.load(run).sample(options.count, seed=options.seed).float() / 255
        print(f"{run}: {summary(classifier(samples).softmax(1), real)}")


def real_digits() -> tuple[Tensor, Tensor]:
    """scikit-learn's digits: images (1797, 1, 8, 8) in [0, 1], labels (1797,)."""
    pixels, labels = load_digits(return_X_y=True)
    return torch.tensor(pixels, dtype=torch.float32).view(-1, 1, 8, 8) / 16, torch.tensor(labels)


def train_classifier(images: Tensor, labels: Tensor, epochs: int = 25) -> tuple[nn.Module, float]:
    """A CNN in eval mode and its accuracy on the held-out quarter."""
    torch.manual_seed(0)
    seen, held_out = train_test_split(
        torch.arange(len(images)), test_size=0.25, random_state=0, stratify=labels
    )
    convolutions = [nn.Conv2d(1, 32, 3, padding=1), nn.ReLU(), nn.Conv2d(32, 64, 3, padding=1), nn.ReLU()]
    pooled = [nn.MaxPool2d(2), nn.Conv2d(64, 64, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Dropout(0.3)]
    model = nn.Sequential(*convolutions, *pooled, nn.Linear(1024, 128), nn.ReLU(), nn.Linear(128, 10))
    optimiser = torch.optim.Adam(model.parameters(), 1e-3)
    for _ in range(epochs):
        for batch in seen[torch.randperm(len(seen))].split(64):
            optimiser.zero_grad()
            F.cross_entropy(model(images[batch]), labels[batch]).backward()
            optimiser.step()
    model.eval().requires_grad_(False)
    return model, (model(images[held_out]).argmax(1) == labels[held_out]).float().mean().item()


def inception_score(p: Tensor) -> float:
    """exp E KL(p(y|x) || p(y)) of class probabilities (N, 10)."""
    log = p.clamp_min(1e-12).log()
    return (p * (log - p.mean(0).log())).sum(1).mean().exp().item()


def summary(p: Tensor, real: float) -> str:
    """A line on the class probabilities (N, 10) of samples."""
    shares = p.argmax(1).bincount(minlength=10) / len(p)
    score, confidence = inception_score(p), p.max(1).values.mean().item()
    return (
        f"score {score:.2f}, {score / real:.1%} of the real images'; confidence {confidence:.3f}; "
        f"classes {shares.min():.1%} to {shares.max():.1%}"
    )


if __name__ == "__main__":
    main()
