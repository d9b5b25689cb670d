"""The classifier: what it learns, what it keeps apart, what it refuses."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from vitgan.data import DataOptions
from vitgan.errors import UserError
from vitgan.metrics import classifier
from vitgan.metrics.classifier import Classifier, ClassifierOptions, Trained
from vitgan.metrics.protocol import Cache

CPU = torch.device("cpu")


def digits(count: int) -> tuple[torch.Tensor, torch.Tensor]:
    images = DataOptions(resolution=8, channels=1, labels=True).build()
    assert images.labels is not None
    return images.get(range(count)), images.labels[:count]


def trained(count: int = 600, **changes: Any) -> Trained:
    options = ClassifierOptions(**{"width": 16, "features": 32, "epochs": 1, "updates": 60, **changes})
    images, labels = digits(count)
    network = options.build(resolution=8, channels=1, classes=10)
    return classifier.train(network, images, labels, options=options, device=CPU, quiet=True)


def test_it_tells_held_out_digits_apart_and_the_seed_decides_all() -> None:
    first, second = trained(), trained()
    assert first.held_out == 120
    assert first.accuracy > 0.85
    options = ClassifierOptions(width=16, features=32, seed=1)
    other = options.build(resolution=8, channels=1, classes=10).state_dict()
    state, same = first.classifier.state_dict(), second.classifier.state_dict()
    untrained = replace(options, seed=0).build(resolution=8, channels=1, classes=10).state_dict()
    assert all(torch.equal(tensor, same[name]) for name, tensor in state.items())
    assert not torch.equal(untrained["head.weight"], other["head.weight"])


@pytest.mark.parametrize(("resolution", "channels"), [(8, 1), (12, 3), (28, 1), (32, 3), (50, 1), (64, 3)])
def test_every_parameter_gets_a_gradient_at_every_size(resolution: int, channels: int) -> None:
    network = ClassifierOptions(width=8).build(resolution=resolution, channels=channels, classes=7)
    images = torch.randint(0, 256, (4, channels, resolution, resolution), dtype=torch.uint8)
    features, logits = network(images)
    assert (features.shape, logits.shape) == ((4, 128), (4, 7))
    logits.square().sum().backward()
    assert all(p.grad is not None and p.grad.abs().max() > 0 for p in network.parameters())


@pytest.mark.parametrize("resolution", [7, 65, 256])
def test_other_sizes_are_refused(resolution: int) -> None:
    with pytest.raises(UserError, match=f"8 to 64 pixels a side, not {resolution}"):
        ClassifierOptions().build(resolution=resolution, channels=3, classes=2)


def test_held_out_images_are_of_every_class_alike_and_never_trained_on() -> None:
    labels = torch.tensor([0, 1, 3]).repeat_interleave(torch.tensor([50, 30, 20]))
    seen, held_out = classifier.divided(labels, ClassifierOptions())
    assert sorted([*seen.tolist(), *held_out.tolist()]) == list(range(100))
    assert labels[held_out].bincount().tolist() == [10, 6, 0, 4]
    assert len(classifier.divided(labels, ClassifierOptions(held_out_most=10))[1]) == 10


@pytest.mark.parametrize("labels", [[0] * 50, [0] * 50 + [1], [0, 1] * 4])
def test_too_few_images_or_classes_are_refused(labels: list[int]) -> None:
    with pytest.raises(UserError, match="needs 2 classes or more"):
        classifier.divided(torch.tensor(labels), ClassifierOptions())


def test_a_shift_moves_each_image_as_a_whole() -> None:
    images = torch.randint(0, 256, (40, 3, 8, 8), dtype=torch.uint8)
    moved = classifier._shifted(images, 0.125, torch.Generator().manual_seed(0))
    padded = torch.nn.functional.pad(images.float(), (1, 1, 1, 1), mode="replicate").byte()
    found = set()
    for before, after in zip(padded, moved, strict=True):
        places = [(y, x) for y in range(3) for x in range(3)]
        hits = [(y, x) for y, x in places if torch.equal(before[:, y : y + 8, x : x + 8], after)]
        assert len(hits) == 1
        found.add(hits[0])
    assert len(found) == 9
    assert torch.equal(classifier._shifted(images, 0.0, torch.Generator()), images)


@pytest.mark.parametrize(("count", "updates", "expected"), [(100, 1, 60), (100, 200, 201), (1000, 1, 62)])
def test_updates_follow_epochs_images_and_the_least(count: int, updates: int, expected: int) -> None:
    options = ClassifierOptions(batch=32, epochs=20, images=2500, updates=updates)
    batches = classifier._batches(torch.arange(count), options, torch.Generator())
    assert (len(batches), {len(batch) for batch in batches}) == (expected, {32})


def test_the_cache_knows_pixels_labels_and_options(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trainings: list[int] = []

    def counting(network: Classifier, *_: Any, **__: Any) -> Trained:
        trainings.append(1)
        return Trained(classifier._placed(network.eval(), CPU), 0.5, 3)

    monkeypatch.setattr(classifier, "train", counting)
    images, labels = digits(20)

    def obtain(
        *, sha: str = "a", labels: torch.Tensor = labels, options: ClassifierOptions | None = None
    ) -> Trained:
        return classifier.obtain(
            images,
            labels,
            classes=10,
            pixels_sha=sha,
            options=options or ClassifierOptions(width=8),
            cache=Cache(tmp_path),
            device=CPU,
            quiet=True,
        )

    first, again = obtain(), obtain()
    assert len(trainings) == 1
    assert (again.accuracy, again.held_out) == (0.5, 3)
    with torch.no_grad():
        assert torch.equal(first.classifier(images)[0], again.classifier(images)[0])
    obtain(sha="b")
    obtain(labels=labels.flip(0))
    obtain(options=ClassifierOptions(width=8, seed=1))
    assert len(trainings) == 4
