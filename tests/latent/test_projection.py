"""Projection: the latent of a picture is searched for, and what is no picture is refused."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import vitgan
from sizes import small
from vitgan.cli import main
from vitgan.data.transforms import UnreadableImage
from vitgan.errors import UserError
from vitgan.latent import project, read_picture
from vitgan.latent.projection import distance, picture_of
from vitgan.models import to_uint8

Command = Callable[..., int]


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
        shown = np.asarray(found)
        assert shown.shape == (8, 8)
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


def test_a_picture_damaged_anywhere_is_read_or_refused(tmp_path: Path) -> None:
    """Its header may be damaged, too, where Pillow raises almost anything."""
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
