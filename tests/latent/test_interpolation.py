"""Walks through the latent space, as strips, GIFs and films."""

import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from PIL import Image

from sizes import small
from vitgan.cli import main
from vitgan.errors import UserError
from vitgan.latent import walk

Command = Callable[..., int]


# Walks


def test_a_walk_begins_ends_and_turns_at_its_seeds() -> None:
    generator = small()
    frames = walk(generator, [3, 1, 4], 9)
    assert frames.shape == (9, 1, 8, 8)
    for place, seed in ((0, 3), (4, 1), (8, 4)):
        expected = generator.sample(1, seed=seed)[0]
        assert (frames[place].int() - expected.int()).abs().max() <= 1
    assert len({frame.numpy().tobytes() for frame in frames}) == 9


def test_made_one_at_a_time_the_images_at_the_seeds_are_those_of_sample_to_the_bit(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("vitgan.latent.interpolation.BATCH", 1)
    generator = small()
    frames = walk(generator, [3, 1, 4], 9)
    for place, seed in ((0, 3), (4, 1), (8, 4)):
        assert torch.equal(frames[place], generator.sample(1, seed=seed)[0])


def test_a_walk_does_not_depend_on_how_many_frames_are_made_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    generator = small()
    whole = walk(generator, [0, 1], 11)
    monkeypatch.setattr("vitgan.latent.interpolation.BATCH", 3)
    assert (walk(generator, [0, 1], 11).int() - whole.int()).abs().max() <= 1


def test_classes_are_asked_for_where_there_are_some() -> None:
    generator = small(classes=3)
    assert walk(generator, [0, 1], 3, label=2).shape == (3, 1, 8, 8)
    with pytest.raises(UserError, match="draws 3 classes, 0 to 2: give --class"):
        walk(generator, [0, 1], 3)
    for label in (3, -1, "3", "-1", "cat"):
        with pytest.raises(UserError, match=f"no class '?{label}'?: this generator draws 3 classes, 0 to 2"):
            walk(generator, [0, 1], 3, label=label)
    generator.class_names = ("cat", "dog", "2")
    assert torch.equal(walk(generator, [0, 1], 3, label="dog"), walk(generator, [0, 1], 3, label=1))
    with pytest.raises(UserError, match=r"0 \(cat\), 1 \(dog\), 2 \(2\)\. Did you mean dog\?"):
        walk(generator, [0, 1], 3, label="dogs")
    with pytest.raises(UserError, match="knows no classes: leave --class out"):
        walk(small(), [0, 1], 3, label=0)


@pytest.mark.parametrize(("suffix", "count"), [(".png", 1), (".PNG", 1), (".gif", 7)])
def test_a_walk_is_written_as_a_strip_or_a_gif(suffix: str, count: int, run: Path, tmp_path: Path) -> None:
    out = tmp_path / "new" / f"walk{suffix}"
    assert main(["interpolate", str(run), "--seeds", "1", "2", "--frames", "7", "--out", str(out)]) == 0
    with Image.open(out) as picture:
        assert getattr(picture, "n_frames", 1) == count
        assert picture.size == ((2 + 7 * 50, 2 + 50) if count == 1 else (48, 48))


def test_a_walk_is_written_as_a_film(run: Path, tmp_path: Path) -> None:
    ffmpeg = pytest.importorskip("imageio_ffmpeg")
    out = tmp_path / "walk.mp4"
    assert main(["interpolate", str(run), "--seeds", "1", "2", "--frames", "30", "--out", str(out)]) == 0
    frames, _ = ffmpeg.count_frames_and_secs(str(out))
    assert frames == 30
    assert [path.name for path in tmp_path.glob("*.mp4*")] == ["walk.mp4"]


def test_without_the_library_for_films_the_command_that_installs_it_is_named(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, refused: Callable
) -> None:
    monkeypatch.setitem(sys.modules, "imageio_ffmpeg", None)
    said = refused(main(["interpolate", str(run), "--out", str(tmp_path / "walk.mp4")]))
    assert 'pip install "vitgan[video]"' in said


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--out", "walk.avi"), "must end in .png (a film strip), .gif or .mp4"),
        (("--out", "walk.gif", "--seeds", "1"), "two seeds and two frames at least"),
        (("--out", "walk.gif", "--frames", "1"), "--frames must be from 2 to 100,000"),
        (("--out", "walk.gif", "--fps", "0"), "--fps must be from 1 to 240"),
        (("--out", "walk.gif", "--seeds", "1", "-2"), "--seeds must be at least 0"),
        (("--out", "walk.gif", "--class", "1"), "knows no classes"),
    ],
)
def test_mistakes_of_a_walk_are_refused(
    words: tuple[str, ...],
    said: str,
    run: Path,
    refused: Callable,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    monkeypatch.chdir(tmp_path)
    assert said in refused(main(["interpolate", str(run), *words]))
