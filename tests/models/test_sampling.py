"""Sampling: batches, precision, truncation, resolution."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F

import vitgan
from vitgan.cli import main
from vitgan.errors import UserError
from vitgan.models import Generator, ViTGANGenerator
from vitgan.nn.implicit import Combine


def generator(classes: int = 0, **changes: Any) -> ViTGANGenerator:
    torch.manual_seed(0)
    options = vitgan.recipes.get("digits").generator
    options = replace(options, **{"depth": 1, "width": 16, "latent_dim": 8, **changes})
    return options.build(resolution=8, channels=1, classes=classes).eval()


@pytest.mark.parametrize("size", [1, 3, 8, 16, 100, 384])
def test_the_first_latents_of_a_seed_do_not_depend_on_their_number(size: int):
    model = generator(latent_dim=size)
    many = model.latents(300, seed=5)
    for count in (1, 2, 3, 16, 255):
        assert torch.equal(model.latents(count, seed=5), many[:count])
        if size % 16 == 0 or count % 16 == 0:  # as they were drawn before
            drawn = torch.randn(count, size, generator=torch.Generator().manual_seed(5))
            assert torch.equal(model.latents(count, seed=5), drawn)
    assert model.latents(0, seed=5).shape == (0, size)


def test_the_first_images_of_a_seed_do_not_depend_on_their_number():
    model = generator(classes=3, latent_dim=5)
    many = model.sample(20, seed=5).int()
    for count in (1, 2, 7):
        assert (model.sample(count, seed=5).int() - many[:count]).abs().max() <= 1
        assert torch.equal(model.labels_of(None, count, 5), model.labels_of(None, 20, 5)[:count])  # type: ignore[arg-type,index]


def test_truncation_pulls_every_class_to_an_image_of_its_own():
    model = generator(classes=3)
    labels = torch.arange(9) % 3
    still = model.sample(9, labels=labels, truncation=0.0)
    assert all(torch.equal(still[:3], still[k : k + 3]) for k in (3, 6))
    centres = [model.sample(1, labels=k, truncation=0.0)[0] for k in range(3)]
    assert all(torch.equal(a, b) for a, b in zip(still, centres, strict=False))
    assert torch.pdist(still[:3].float().flatten(1)).min() > 0
    # The centre is the mean of the class's own w, and no label that is not asked for moves it.
    z = model.latents(1024, seed=0)
    torch.testing.assert_close(model.mean_w(1), model.mapping(z, torch.ones(1024).long()).mean(0, True))


def test_labels_are_numbers_or_names_of_one_class_or_one_for_each_image():
    model = generator(classes=3)
    model.class_names = ("cat", "10", "caf\\udce9")
    assert model.class_number("caf\udce9") == 2  # the bytes of a name that is not UTF-8
    model.class_names = ("cat", "10", "2")
    for same in (
        torch.tensor([0, 2, 1]),
        torch.tensor([0, 2, 1], dtype=torch.uint8),
        np.array([0, 2, 1]),
        [0, 2, 1],
        ("cat", "2", "10"),  # a name comes before a number
        [np.int64(0), 2, "1"],
    ):
        assert torch.equal(model.sample(3, labels=same), model.sample(3, labels=[0, 2, 1]))  # type: ignore[arg-type]
    for one in ("cat", 0, "0", np.int32(0), torch.tensor(0)):
        assert torch.equal(model.sample(3, labels=one), model.sample(3, labels=[0, 0, 0]))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("labels", "said"),
    [
        (3, "no class 3: this generator draws 3 classes, 0 to 2"),
        ("dog", "no class 'dog': this generator draws 3 classes"),
        (torch.tensor([0, 1, 3]), "no class 3:"),
        ([0, -1, 2], "no class -1:"),
        ([0, 1], r"labels are torch.int64 \(2,\): give 3 whole numbers"),
        (torch.zeros(3), "labels are torch.float32"),
        (torch.zeros(3, 1).long(), r"\(3, 1\)"),
        (torch.zeros(3).bool(), "labels are torch.bool"),
    ],
)
def test_labels_that_are_none_are_refused_in_a_sentence(labels: Any, said: str):
    with pytest.raises(UserError, match=said):
        generator(classes=3).sample(3, labels=labels)


def test_a_call_with_wrong_labels_is_refused_in_a_sentence():
    model = generator(classes=3)
    z = model.latents(2, seed=0)
    for labels, said in ((torch.tensor([0, 3]), "no class 3"), (None, "give labels, one an image")):
        with pytest.raises(UserError, match=said):
            model(z, labels)
    with pytest.raises(UserError, match="knows no classes"):
        generator().sample(2, labels=0)


def test_classes_without_training_images_are_not_drawn():
    model = generator(classes=10)
    with_all = model.labels_of(None, 200, 1)
    model.class_counts = (4,) * 10
    assert torch.equal(model.labels_of(None, 200, 1), with_all)  # type: ignore[arg-type]
    model.class_counts = (90, 0, 0, 0, 0, 0, 0, 0, 0, 10)
    assert set(model.labels_of(None, 200, 1).tolist()) == {0, 9}  # type: ignore[union-attr]


def test_bfloat16_draws_nearly_the_same_images():
    model = generator()
    exact, rounded = model.sample(20, seed=3), model.sample(20, seed=3, dtype=torch.bfloat16)
    difference = (exact.float() - rounded.float()).abs()
    assert difference.max() > 0
    assert difference.mean() < 4  # of 255


def test_truncation_pulls_every_latent_to_the_mean():
    model = generator()
    still = model.sample(5, truncation=0.0)
    assert still.float().std(0).max() == 0
    spread = [model.sample(40, seed=1, truncation=t).float().std(0).mean() for t in (0.3, 0.7, 1.0)]
    assert spread == sorted(spread)


@pytest.mark.parametrize("combine", ["modulation", "concatenation", "sum"])
def test_a_finer_grid_goes_through_the_same_pixels(combine: Combine):
    """Three times finer, the middle of every three by three is the pixel that it was."""
    model = generator(implicit_combine=combine)
    plain, fine = model.sample(4, seed=2), model.sample(4, seed=2, scale=3)
    assert fine.shape == (4, 1, 24, 24)
    assert (fine[:, :, 1::3, 1::3].int() - plain.int()).abs().max() <= 1
    assert torch.equal(model.sample(4, seed=2, scale=3, batch=1), fine)
    between = fine.float()[:, :, 2:-1:3, 1::3]  # between two pixels of a column
    assert (between - (plain[:, :, :-1].float() + plain[:, :, 1:]) / 2).abs().max() > 0


def test_where_the_patches_are_smooth_a_finer_image_averages_down_to_the_sample():
    smooth = generator(implicit_bandwidth=0.02, omega_0=1.0)
    rough = generator(implicit_bandwidth=2.0)
    distances = []
    for model in (smooth, rough):
        plain, fine = model.sample(16, seed=2), model.sample(16, seed=2, scale=2)
        distances.append((F.avg_pool2d(fine.float(), 2) - plain.float()).abs().mean().item())
    assert distances[0] < 1 < 5 * distances[0] + 1 < distances[1]  # of 255


def test_scale_one_is_the_sample_itself():
    model = generator()
    assert torch.equal(model.sample(4, seed=2, scale=1), model.sample(4, seed=2))


def test_other_outputs_have_no_finer_grid():
    for output in ("linear", "conv"):
        with pytest.raises(UserError, match="no function of their coordinates: leave --scale out"):
            generator(output=output).sample(1, scale=2)
    other = vitgan.recipes.get("digits-stylegan2").generator.build(resolution=8, channels=1)
    assert isinstance(other, Generator)
    with pytest.raises(UserError, match="leave --scale out"):
        other.eval().sample(1, scale=4)


def test_the_command_renders_at_a_scale(tiny_train: Callable[..., int], tmp_path: Path) -> None:
    assert tiny_train(tmp_path / "run", "--images", "4") == 0
    out = str(tmp_path / "a.npz")
    words = ["sample", str(tmp_path / "run"), "--count", "2", "--out", out, "--scale", "4"]
    assert main(words) == 0
    assert np.load(out)["images"].shape[:3] == (2, 32, 32)
    assert main([*words[:-1], "3"]) == 2
