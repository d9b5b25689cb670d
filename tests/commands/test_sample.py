"""`vitgan sample`: a grid, an array or a folder of images, by the seed."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from PIL import Image

import vitgan
from vitgan.cli import main

# Samples


def sample(trained_run: Path, out: Path, *words: str) -> Path:
    assert main(["sample", str(trained_run), "--out", str(out), *words]) == 0
    return out


def test_a_grid_shows_every_image(trained_run: Path, tmp_path: Path) -> None:
    with Image.open(sample(trained_run, tmp_path / "new" / "grid.png", "--count", "9")) as grid:
        assert min(grid.size) > 3 * 8


def test_an_array_holds_the_images_of_the_call(trained_run: Path, tmp_path: Path) -> None:
    images = np.load(sample(trained_run, tmp_path / "a.npz", "--count", "5"))["images"]
    assert images.shape == (5, 8, 8, 1)
    assert images.dtype == np.uint8
    assert np.array_equal(images.transpose(0, 3, 1, 2), vitgan.load(trained_run).sample(5, seed=0).numpy())


def test_a_folder_holds_a_picture_for_each_image(trained_run: Path, tmp_path: Path) -> None:
    folder = sample(trained_run, tmp_path / "folder", "--count", "3", "--seed", "2")
    pixels = [np.asarray(Image.open(path)) for path in sorted(folder.iterdir())]
    assert np.array_equal(np.stack(pixels), vitgan.load(trained_run).sample(3, seed=2).numpy()[:, 0])


def test_the_seed_decides(trained_run: Path, tmp_path: Path) -> None:
    first, same, other = (
        np.load(sample(trained_run, tmp_path / f"{i}.npz", "--count", "4", "--seed", seed))["images"]
        for i, seed in enumerate(("7", "7", "8"))
    )
    assert np.array_equal(first, same)
    assert not np.array_equal(first, other)


def test_truncation_pulls_images_to_one(trained_run: Path) -> None:
    generator = vitgan.load(trained_run)
    none, half, full = (generator.sample(6, seed=1, truncation=t).float() for t in (0.0, 0.5, 1.0))
    assert all(torch.equal(none[0], image) for image in none)
    assert 0 < (half - none).abs().sum() < (full - none).abs().sum()


def test_a_run_without_a_checkpoint_is_refused(refused: Callable, tmp_path: Path) -> None:
    assert "has no checkpoint yet" in refused(main(["sample", str(tmp_path), "--out", "x.png"]))


def test_an_out_that_is_in_the_way_is_left_alone(
    trained_run: Path, refused: Callable, tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("mine")
    for out in (tmp_path / "file", tmp_path / "file" / "grid.png"):
        refused(main(["sample", str(trained_run), "--out", str(out)]))
    assert (tmp_path / "file").read_text() == "mine"
