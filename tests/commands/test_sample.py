"""`vitgan sample`: a grid, an array or a folder of images, by the seed."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import vitgan
from sizes import small
from vitgan import registry
from vitgan.cli import main
from vitgan.commands.sample import class_folders

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


# Classes


@pytest.fixture
def classes(tiny_train: Callable[..., int], tmp_path: Path) -> Path:
    """A run of three class folders, the names of two of which are numbers."""
    rng = np.random.default_rng(0)
    for index in range(12):
        path = tmp_path / "set" / ("cat", "10", "2")[index % 3] / f"{index}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (8, 8), dtype=np.uint8)).save(path)
    words = ("--data", tmp_path / "set", "--data.labels", "True", "--images", "8", "--quiet")
    assert tiny_train(tmp_path / "run", *words) == 0
    return tmp_path / "run"


def test_a_class_is_drawn_by_its_name_or_number(
    classes: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    generator = vitgan.load(classes)
    assert generator.class_names == ("2", "10", "cat")
    assert main(["export", str(classes), "--out", str(tmp_path / "export")]) == 0
    for run in (classes, tmp_path / "export"):
        for word, number in (("cat", 2), ("2", 0), ("10", 1), ("0", 0), ("1", 1)):
            capsys.readouterr()
            found = np.load(sample(run, tmp_path / "a.npz", "--count", "3", "--class", word))
            assert found["labels"].tolist() == [number] * 3
            assert np.array_equal(found["images"][..., 0], generator.sample(3, labels=number).numpy()[:, 0])
            name = generator.class_names[number]
            assert capsys.readouterr().out.endswith(f"a.npz: 3 images of class {number} ({name}).\n")
    found = np.load(sample(classes, tmp_path / "a.npz", "--count", "5", "--class", "all"))
    assert found["labels"].tolist() == [0, 1, 2, 0, 1]
    found = np.load(sample(classes, tmp_path / "a.npz", "--count", "5", "--seed", "3"))
    assert np.array_equal(found["images"][..., 0], generator.sample(5, seed=3).numpy()[:, 0])
    again = generator.sample(5, seed=3, labels=found["labels"])
    assert np.array_equal(found["images"][..., 0], again.numpy()[:, 0])
    assert "| classes | 3: 0 (2), 1 (10), 2 (cat) |" in (tmp_path / "export" / "README.md").read_text()


def files_in(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*.png"))


def test_a_folder_has_class_folders_where_they_are_asked_for(classes: Path, tmp_path: Path) -> None:
    words = ("--count", "4", "--class", "all")
    for name, flags in (("plain", ()), ("sorted", ("--class-folders",))):
        sample(classes, tmp_path / name, *words, *flags)
    files = {
        name: {str(p.relative_to(tmp_path / name)): p for p in (tmp_path / name).rglob("*.png")}
        for name in ("plain", "sorted")
    }
    assert sorted(files["plain"]) == [f"{n:06}.png" for n in range(4)]
    assert sorted(files["sorted"]) == ["10/000001.png", "2/000000.png", "2/000003.png", "cat/000002.png"]


def test_class_folders_never_lead_outside() -> None:
    generator = small(classes=2)
    assert class_folders(generator) == ("0", "1")
    for names in (
        ("..", "a"),
        ("a/b", "c"),
        ("", "a"),
        ("A", "a"),
        ("a\\b", "c"),
        ("/etc", "x"),
        ("a", "b."),
    ):
        generator.class_names = names
        assert class_folders(generator) == ("0", "1")
    generator.class_names = ("tabby cat", "x-2")
    assert class_folders(generator) == ("tabby cat", "x-2")


@pytest.mark.parametrize("command", ["sample", "interpolate", "directions", "project"])
def test_a_class_that_does_not_exist_is_refused_in_a_sentence(
    command: str, classes: Path, trained_run: Path, tmp_path: Path, refused: Callable
) -> None:
    Image.new("L", (8, 8)).save(tmp_path / "picture.png")
    out = str(tmp_path / ("out.png" if command in ("sample", "interpolate") else "out"))

    def asked(run: Path, word: str) -> str:
        more = [str(tmp_path / "picture.png")] if command == "project" else []
        return refused(main([command, str(run), *more, "--class", word, "--out", out]))

    for word in ("3", "-1", "cats", "", "1.0", "9" * 30):
        assert f"There is no class '{word}': this generator draws 3 classes, 0 (2)" in asked(classes, word)
    assert "Did you mean cat?" in asked(classes, "cats")
    assert "knows no classes" in asked(trained_run, "0")
    assert not (tmp_path / "out").exists()


def test_class_folders_need_classes_and_a_folder(
    classes: Path, trained_run: Path, tmp_path: Path, refused: Callable
) -> None:
    for run, out in ((trained_run, "folder"), (classes, "grid.png"), (classes, "a.npz")):
        words = ["sample", str(run), "--class-folders", "--out", str(tmp_path / out)]
        assert "--class-folders needs a generator with classes" in refused(main(words))


def test_interpolate_takes_a_class_by_its_name(classes: Path, tmp_path: Path) -> None:
    strips = []
    for word in ("cat", "2", "0"):
        words = ["--frames", "3", "--class", word, "--out", str(tmp_path / "a.png")]
        assert main(["interpolate", str(classes), *words]) == 0
        strips.append((tmp_path / "a.png").read_bytes())
    assert strips[0] != strips[1] == strips[2]


@pytest.mark.usefixtures("own_parts_forgotten")
def test_a_run_is_sampled_whatever_has_become_of_its_loss(
    tiny_train: Callable[..., int], tmp_path: Path
) -> None:
    """Its file is not here, or its class has other options now, or options of another type."""
    loss = """
from dataclasses import dataclass
from vitgan import register
from vitgan.adversarial import Logistic

@register
@dataclass(frozen=True, kw_only=True)
class Mine(Logistic):
    sharpness: float = 1.0
"""
    own = tmp_path / "own.py"
    own.write_text(loss)
    words = ("--use", own, "--loss", "mine", "--images", "8", "--quiet")
    assert tiny_train(tmp_path / "run", *words) == 0
    expected = vitgan.load(tmp_path / "run").sample(2)
    for number, changed in enumerate(("", "other: float = 1.0", 'sharpness: str = ""')):
        registry._parts[:] = [part for part in registry._parts if part.module is None]
        if changed:
            now = tmp_path / str(number) / "own.py"
            now.parent.mkdir()
            now.write_text(loss.replace("sharpness: float = 1.0", changed))
            registry.use(str(now))
        assert torch.equal(vitgan.load(tmp_path / "run").sample(2), expected)
        assert main(["export", str(tmp_path / "run"), "--out", str(tmp_path / "export"), "--quiet"]) == 0
        assert torch.equal(vitgan.load(tmp_path / "export").sample(2), expected)
