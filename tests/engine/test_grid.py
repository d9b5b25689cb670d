"""Grids of images and the PNG files they are written to."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from vitgan.engine.grid import GAP, NEUTRAL, enlargement, grid, save_images, save_png
from vitgan.errors import UserError


def cell(picture: Image.Image, row: int, column: int, side: int) -> np.ndarray:
    """The pixels of one image of a grid of squares of `side` pixels."""
    top, left = GAP + row * (side + GAP), GAP + column * (side + GAP)
    return np.asarray(picture)[top : top + side, left : left + side]


def test_images_stand_in_raster_order_and_keep_their_pixels():
    images = torch.randint(0, 256, (6, 3, 64, 64), dtype=torch.uint8)
    picture = grid(images, columns=3)
    for index, image in enumerate(images):
        shown = cell(picture, index // 3, index % 3, 64)
        np.testing.assert_array_equal(shown, image.permute(1, 2, 0).numpy())


def test_small_images_are_enlarged_without_blur():
    images = torch.arange(64, dtype=torch.uint8).reshape(1, 1, 8, 8)
    shown = cell(grid(images), 0, 0, 48)
    np.testing.assert_array_equal(shown, np.kron(images[0, 0].numpy(), np.ones((6, 6), dtype=np.uint8)))


@pytest.mark.parametrize(("size", "factor"), [(8, 6), (16, 4), (32, 2), (64, 1), (256, 1)])
def test_enlargement_depends_on_the_size(size: int, factor: int):
    assert enlargement(size) == factor


def test_gaps_and_places_without_an_image_are_neutral():
    picture = np.asarray(grid(torch.zeros(3, 1, 64, 64, dtype=torch.uint8)))
    assert picture.shape == (2 * 64 + 3 * GAP, 2 * 64 + 3 * GAP)
    assert (picture[:GAP] == NEUTRAL).all()
    assert (picture[:, 64 + GAP : 64 + 2 * GAP] == NEUTRAL).all()
    assert (cell(grid(torch.zeros(3, 1, 64, 64, dtype=torch.uint8)), 1, 1, 64) == NEUTRAL).all()


@pytest.mark.parametrize(("channels", "mode"), [(1, "L"), (3, "RGB")])
def test_grey_stays_grey_and_rgb_stays_rgb(channels: int, mode: str):
    assert grid(torch.zeros(2, channels, 8, 8, dtype=torch.uint8)).mode == mode


def test_a_saved_png_has_the_pixels_and_the_text(tmp_path: Path):
    picture = grid(torch.randint(0, 256, (4, 3, 8, 8), dtype=torch.uint8))
    save_png(tmp_path / "a.png", picture, {"recipe": '{"name": "ü"}'})
    with Image.open(tmp_path / "a.png") as read:
        np.testing.assert_array_equal(np.asarray(read), np.asarray(picture))
        assert read.info["recipe"] == '{"name": "ü"}'
    assert [path.name for path in tmp_path.iterdir()] == ["a.png"]


def test_a_write_that_fails_leaves_the_old_png_and_no_other_file(tmp_path: Path, monkeypatch):
    picture = grid(torch.zeros(1, 1, 8, 8, dtype=torch.uint8))
    save_png(tmp_path / "a.png", picture)
    before = (tmp_path / "a.png").read_bytes()

    def half_written(_self, path: Path, **_options):
        path.write_bytes(before[:20])
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Image.Image, "save", half_written)
    with pytest.raises(OSError, match="No space left"):
        save_png(tmp_path / "a.png", picture)
    assert (tmp_path / "a.png").read_bytes() == before
    assert [path.name for path in tmp_path.iterdir()] == ["a.png"]


@pytest.mark.parametrize("channels", [1, 3])
def test_images_are_saved_as_an_array_in_a_folder_that_did_not_exist(tmp_path: Path, channels: int):
    images = torch.randint(0, 256, (5, channels, 8, 8), dtype=torch.uint8)
    save_images(tmp_path / "new" / "a.npz", images)
    with np.load(tmp_path / "new" / "a.npz") as read:
        np.testing.assert_array_equal(read["images"], images.permute(0, 2, 3, 1).numpy())


@pytest.mark.parametrize("shape", [(3, 1, 8, 8), (3, 3, 8, 8), (2, 1, 1, 8)])
def test_images_are_saved_as_a_folder_of_png_in_their_own_size(tmp_path: Path, shape: tuple[int, ...]):
    images = torch.randint(0, 256, shape, dtype=torch.uint8)
    save_images(tmp_path / "many", images)
    files = sorted((tmp_path / "many").iterdir())
    assert [file.name for file in files] == [f"{index:06}.png" for index in range(len(images))]
    for file, image in zip(files, images, strict=True):
        with Image.open(file) as read:
            expected = image[0] if shape[1] == 1 else image.permute(1, 2, 0)
            np.testing.assert_array_equal(np.asarray(read), expected.numpy())


def test_images_are_saved_as_one_grid(tmp_path: Path):
    images = torch.randint(0, 256, (4, 3, 8, 8), dtype=torch.uint8)
    save_images(tmp_path / "a.PNG", images)
    with Image.open(tmp_path / "a.PNG") as read:
        np.testing.assert_array_equal(np.asarray(read), np.asarray(grid(images)))


def test_a_folder_of_images_is_not_put_in_place_of_a_file(tmp_path: Path):
    (tmp_path / "a").write_text("mine")
    with pytest.raises(UserError, match="name a folder"):
        save_images(tmp_path / "a", torch.zeros(1, 1, 8, 8, dtype=torch.uint8))
    assert (tmp_path / "a").read_text() == "mine"


def test_a_folder_holds_the_images_of_the_last_call_alone(tmp_path: Path):
    many = torch.randint(0, 256, (10, 3, 8, 8), dtype=torch.uint8)
    save_images(tmp_path / "gen", many)
    (tmp_path / "gen" / "notes.txt").write_text("mine")
    save_images(tmp_path / "gen", 255 - many[:4])
    names = ["000000.png", "000001.png", "000002.png", "000003.png", "notes.txt"]
    assert sorted(path.name for path in (tmp_path / "gen").iterdir()) == names
    with Image.open(tmp_path / "gen" / "000003.png") as shown:
        np.testing.assert_array_equal(np.asarray(shown), (255 - many[3]).permute(1, 2, 0).numpy())


@pytest.mark.parametrize("name", ["cat.jpg", "00001.png", "000007.png", "deep/x.webp", "000000000000.png"])
def test_images_of_somebody_else_are_neither_mixed_with_new_ones_nor_deleted(tmp_path: Path, name: str):
    other = tmp_path / "gen" / name
    other.parent.mkdir(parents=True)
    other.write_bytes(b"mine")
    with pytest.raises(UserError, match=f"has other images already, as {name}, .*: name a new or an empty"):
        save_images(tmp_path / "gen", torch.zeros(2, 1, 8, 8, dtype=torch.uint8))
    assert [path for path in (tmp_path / "gen").rglob("*") if path.is_file()] == [other]
