"""Walks, directions and projection; the commands for them."""

import json
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import vitgan
from vitgan.cli import main
from vitgan.data.transforms import UnreadableImage
from vitgan.errors import UserError
from vitgan.latent import edited, factorised, principal_components, project, read_picture, walk
from vitgan.latent.films import latent_of
from vitgan.latent.projection import distance, picture_of
from vitgan.models import Generator, to_uint8

Command = Callable[..., int]


def build(name: str = "digits", classes: int = 0, **changes: Any) -> Generator:
    torch.manual_seed(0)
    options = replace(vitgan.recipes.get(name).generator, **changes)
    return options.build(resolution=8, channels=1, classes=classes).eval().requires_grad_(False)


def small(classes: int = 0, **changes: Any) -> Generator:
    return build("digits", classes, depth=1, width=16, latent_dim=8, mapping_depth=2, **changes)


@pytest.fixture
def run(tiny_train: Command, tmp_path: Path, no_curves: None) -> Path:
    del no_curves
    assert tiny_train(tmp_path / "run", "--images", "8") == 0
    return tmp_path / "run"


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
    monkeypatch.setattr("vitgan.latent.films.BATCH", 1)
    generator = small()
    frames = walk(generator, [3, 1, 4], 9)
    for place, seed in ((0, 3), (4, 1), (8, 4)):
        assert torch.equal(frames[place], generator.sample(1, seed=seed)[0])


def test_a_walk_does_not_depend_on_how_many_frames_are_made_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    generator = small()
    whole = walk(generator, [0, 1], 11)
    monkeypatch.setattr("vitgan.latent.films.BATCH", 3)
    assert (walk(generator, [0, 1], 11).int() - whole.int()).abs().max() <= 1


def test_classes_are_asked_for_where_there_are_some() -> None:
    generator = small(classes=3)
    assert walk(generator, [0, 1], 3, label=2).shape == (3, 1, 8, 8)
    for label in (None, 3, -1):
        with pytest.raises(UserError, match="draws 3 classes: give --class, from 0 on"):
            walk(generator, [0, 1], 3, label=label)
    with pytest.raises(UserError, match="knows no classes: leave --class out"):
        walk(small(), [0, 1], 3, label=0)


@pytest.mark.parametrize(("suffix", "count"), [(".png", 1), (".PNG", 1), (".gif", 7)])
def test_a_walk_as_a_strip_and_as_a_gif(suffix: str, count: int, run: Path, tmp_path: Path) -> None:
    out = tmp_path / "new" / f"walk{suffix}"
    assert main(["interpolate", str(run), "--seeds", "1", "2", "--frames", "7", "--out", str(out)]) == 0
    with Image.open(out) as picture:
        assert getattr(picture, "n_frames", 1) == count
        assert picture.size == ((2 + 7 * 50, 2 + 50) if count == 1 else (48, 48))


def test_a_walk_as_a_film(run: Path, tmp_path: Path) -> None:
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
def test_mistakes_of_a_walk(
    words: tuple[str, ...],
    said: str,
    run: Path,
    refused: Callable,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    monkeypatch.chdir(tmp_path)
    assert said in refused(main(["interpolate", str(run), *words]))


# Directions


@pytest.mark.parametrize("name", ["digits", "digits-stylegan2", "digits-biggan-diffaug"])
def test_principal_components_are_those_of_w(name: str) -> None:
    generator = build(name)
    found = principal_components(generator, 5)
    vectors = torch.stack([direction.vector.flatten() for direction in found])
    torch.testing.assert_close(vectors @ vectors.mT, torch.eye(5), rtol=0, atol=1e-4)
    deviations = [direction.deviation for direction in found]
    assert deviations == sorted(deviations, reverse=True)
    with torch.no_grad():
        w = generator.mapping(generator.latents(4096, seed=0), None).flatten(1)
    for direction in found:
        along = (w - w.mean(0)) @ direction.vector.flatten()
        assert along.std().item() == pytest.approx(direction.deviation, rel=1e-3)
    assert sum(direction.share for direction in found) <= 1


def test_a_w_that_is_the_same_in_every_layer_is_decomposed_once_to_the_same_end() -> None:
    generator = build("digits-stylegan2")
    with torch.no_grad():
        w = generator.mapping(generator.latents(4096, seed=0), None)
    assert w.shape[1] > 1
    flat = w.flatten(1).double()
    _, sigma, vectors = torch.linalg.svd(flat - flat.mean(0), full_matrices=False)
    for k, direction in enumerate(principal_components(generator, 3)):
        assert direction.vector.shape == w.shape[1:]
        assert direction.deviation == pytest.approx(sigma[k].item() / 4095**0.5, rel=1e-4)
        assert direction.share == pytest.approx((sigma[k] ** 2 / sigma.square().sum()).item(), rel=1e-4)
        assert (direction.vector.flatten().double() @ vectors[k]).abs().item() == pytest.approx(1, abs=1e-4)


@pytest.mark.parametrize("name", ["digits", "digits-stylegan2"])
def test_factorised_directions_move_the_modulations_most(name: str) -> None:
    generator = build(name)
    found = factorised(generator, 3)
    weights = torch.cat(generator.modulations())
    width = weights.shape[1]

    def response(vector: torch.Tensor) -> float:
        part = vector.reshape(-1, width)[0]
        return (weights @ (part / part.norm())).norm().item()

    responses = [response(direction.vector) for direction in found]
    assert responses == sorted(responses, reverse=True)
    assert responses[0] == pytest.approx(torch.linalg.matrix_norm(weights, 2).item(), rel=1e-4)
    random = [response(torch.randn(width)) for _ in range(50)]
    assert responses[0] > max(random)
    assert all(direction.vector.norm().item() == pytest.approx(1, abs=1e-4) for direction in found)


def test_a_generator_without_modulations_has_no_factorised_directions() -> None:
    for generator in (small(entry="A"), build("digits-biggan-diffaug")):
        with pytest.raises(UserError, match="only its principal components are there"):
            factorised(generator)


def test_an_edit_moves_w_by_deviations() -> None:
    generator = small()
    directions = {direction.name: direction for direction in principal_components(generator, 2)}
    w = latent_of(generator, 0)
    moved = edited(w, {"pca 1": 2.0, "pca 2": -1.0}, directions)
    first, second = directions.values()
    expected = 2 * first.deviation * first.vector - second.deviation * second.vector
    torch.testing.assert_close(moved - w, expected.unsqueeze(0))
    assert torch.equal(edited(w, {}, directions), w)


def test_the_command_writes_strips_and_numbers(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["directions", str(run), "--count", "3"]) == 0
    out = run / "directions"
    assert capsys.readouterr().out.splitlines()[-3:] == [
        f"Wrote {out / name}" for name in ("pca.png", "sefa.png", "directions.json")
    ]
    with Image.open(out / "sefa.png") as picture:
        assert picture.size == (2 + 9 * 50, 2 + 3 * 50)
    found = json.loads((out / "directions.json").read_text())["directions"]
    assert [one["name"] for one in found] == ["pca 1", "pca 2", "pca 3", "sefa 1", "sefa 2", "sefa 3"]
    assert np.linalg.norm(found[0]["vector"]) == pytest.approx(1, abs=1e-4)
    assert vitgan.load(run).sample(1).shape == (1, 1, 8, 8)


# Projection


def test_an_image_of_the_generator_is_found_again() -> None:
    generator = vitgan.load("digits")
    picture = generator.sample(1, seed=77)[0]
    found = project(generator, picture, steps=150)
    assert found.losses[-1] < 0.1 * found.losses[0]
    torch.testing.assert_close(
        distance(found.image, picture / 127.5 - 1).item(), found.losses[-1], rtol=0.5, atol=1e-3
    )
    with torch.no_grad():
        torch.testing.assert_close(generator.synthesise(found.w), found.image, rtol=0, atol=1e-4)


def test_a_search_tells_how_far_it_is_and_can_be_ended() -> None:
    told: list[tuple[int, int]] = []

    def progress(step: int, steps: int, loss: float) -> bool:
        assert loss > 0
        told.append((step, steps))
        return step < 4

    found = project(small(), torch.zeros(1, 8, 8, dtype=torch.uint8), steps=20, progress=progress)
    assert told == [(1, 20), (2, 20), (3, 20), (4, 20)]
    assert len(found.losses) == 4
    assert found.image.shape == (1, 1, 8, 8)


def test_what_is_found_is_the_nearest_of_all_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("vitgan.latent.projection.LEARNING_RATE", 3.0)  # so much that it jumps about
    generator = small()
    picture = generator.sample(1, seed=5)[0]
    found = project(generator, picture, steps=30)
    assert found.losses[-1] > min(found.losses) == found.difference
    target = picture.float().unsqueeze(0) / 127.5 - 1
    assert distance(found.image, target).item() == pytest.approx(found.difference, rel=1e-4)
    with torch.no_grad():
        again = distance(generator.synthesise(found.w), target).item()
    assert again == pytest.approx(found.difference, rel=1e-3)


def test_a_search_is_a_function_of_its_seed() -> None:
    generator = small()
    picture = generator.sample(1, seed=5)[0]
    first, same, other = (project(generator, picture, steps=3, seed=seed) for seed in (1, 1, 2))
    assert torch.equal(first.w, same.w)
    assert first.losses == same.losses
    assert not torch.equal(first.w, other.w)


def test_the_command_writes_both_pictures(run: Path, tmp_path: Path, capsys) -> None:
    picture = tmp_path / "mine.jpg"
    Image.effect_noise((50, 70), 60).convert("RGB").save(picture)
    out = tmp_path / "found"
    assert main(["project", str(run), str(picture), "--steps", "5", "--out", str(out)]) == 0
    assert {path.name for path in out.iterdir()} == {"both.png", "found.png", "w.npy"}
    with Image.open(out / "both.png") as both:
        assert both.size == (2 + 2 * 50, 2 + 50)
    generator = vitgan.load(run)
    w = torch.from_numpy(np.load(out / "w.npy"))
    with Image.open(out / "found.png") as found, torch.no_grad():
        shown = np.asarray(found)[2:-2:6, 2:-2:6]
        again = to_uint8(generator.synthesise(w))[0, 0].numpy()
        assert np.abs(shown.astype(int) - again).max() <= 1
    assert "mean squared difference" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("none.png", None, "No such file"),
        ("empty.png", b"", "the file is empty"),
        ("text.png", b"no picture at all", "it is no image of a known format"),
        ("a.pdf", b"%PDF-1.7\n" + bytes(2000), "it is no image of a known format"),
        ("large.bin", bytes(2**25 + 1), "it is larger than 32 MiB"),
    ],
)
def test_what_is_no_picture_is_refused(
    name: str, content: bytes | None, said: str, run: Path, tmp_path: Path, refused: Callable
) -> None:
    path = tmp_path / name
    if content is not None:
        path.write_bytes(content)
    assert said in refused(main(["project", str(run), str(path), "--out", str(tmp_path / "out")]))
    assert not (tmp_path / "out").exists()


def test_a_picture_of_100_megapixels_is_refused_by_its_header(tmp_path: Path) -> None:
    Image.new("1", (10_000, 10_000)).save(tmp_path / "large.png")
    with pytest.raises(UserError, match="larger than 64 megapixels"):
        read_picture(tmp_path / "large.png", small())


def test_a_picture_cut_short_is_refused(tmp_path: Path) -> None:
    Image.effect_noise((100, 100), 60).save(tmp_path / "whole.png")
    (tmp_path / "cut.png").write_bytes((tmp_path / "whole.png").read_bytes()[:2000])
    with pytest.raises(UserError, match=r"cut\.png cannot be used: it is damaged"):
        read_picture(tmp_path / "cut.png", small())


# Runs


def test_runs_are_listed_with_their_state(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "other").mkdir()
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "recipe.json").write_text("{")
    beat = json.loads((run / "heartbeat.json").read_text())
    assert main(["runs", str(tmp_path), "--json"]) == 0
    broken, found = json.loads(capsys.readouterr().out)
    assert (broken["run"], broken["recipe"], broken["state"]) == ("broken", None, None)
    assert (found["run"], found["recipe"], found["images"], found["state"]) == (
        "run",
        "digits",
        8,
        "complete",
    )
    assert found["data"].endswith("images.npy")
    assert (run / found["last sample"]).exists()
    beat |= {"state": "training", "time": "2026-01-01T00:00:00+00:00"}
    (run / "heartbeat.json").write_text(json.dumps(beat))
    assert main(["runs", str(tmp_path)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split()[:4] == ["run", "recipe", "data", "images"]
    assert "gone, or silent for" in lines[2]


def test_a_folder_without_runs(tmp_path: Path, capsys: pytest.CaptureFixture[str], refused: Callable) -> None:
    assert main(["runs", str(tmp_path)]) == 0
    assert "There are no runs in" in capsys.readouterr().out
    assert "There is no folder" in refused(main(["runs", str(tmp_path / "none")]))


def test_a_picture_damaged_anywhere_is_read_or_refused(tmp_path: Path) -> None:
    """By its header, too, where Pillow raises almost anything."""
    rng, refusals = np.random.default_rng(0), 0
    for kind in ("PNG", "JPEG", "GIF", "BMP", "TIFF", "WEBP"):
        Image.effect_noise((12, 12), 60).convert("RGB").save(tmp_path / "whole", kind)
        whole = (tmp_path / "whole").read_bytes()
        for _ in range(40):
            data = bytearray(whole)
            for place in rng.integers(0, min(len(data), 60), 3):
                data[place] = rng.integers(0, 256)
            try:
                assert picture_of(bytes(data), small()).shape == (1, 8, 8)
            except UnreadableImage:
                refusals += 1
    assert refusals > 20
