"""What the commands of the latent space say to runs, pictures and places that they cannot use."""

import io
import json
import struct
import zlib
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from PIL import Image

import vitgan
from tiny_runs import Command
from vitgan.cli import main
from vitgan.data.transforms import UnreadableImage
from vitgan.engine.checkpoint import TENSORS, checkpoints
from vitgan.errors import UserError
from vitgan.latent import project
from vitgan.latent.projection import picture_of
from vitgan.models import Generator

pytestmark = [pytest.mark.faults, pytest.mark.usefixtures("no_curves")]

Refused = Callable[..., str]


@pytest.fixture
def run(tiny_train: Command, tmp_path: Path) -> Path:
    assert tiny_train(tmp_path / "run", "--images", "8", "--quiet") == 0
    return tmp_path / "run"


@pytest.fixture
def picture(tmp_path: Path) -> Path:
    path = tmp_path / "picture.png"
    path.write_bytes(encoded("PNG", "L"))
    return path


@pytest.fixture(scope="module")
def generator() -> Generator:
    return vitgan.load("digits")


def encoded(kind: str, mode: str) -> bytes:
    """A picture of 20 x 12 pixels in a file of that kind."""
    file = io.BytesIO()
    Image.linear_gradient("L").resize((20, 12)).convert(mode).save(file, kind)
    return file.getvalue()


def words(command: str, run: Path, picture: Path, out: Path) -> list[str]:
    if command == "interpolate":
        return [command, str(run), "--frames", "3", "--out", str(out / "walk.gif")]
    if command == "directions":
        return [command, str(run), "--count", "1", "--out", str(out)]
    return [command, str(run), str(picture), "--steps", "2", "--out", str(out)]


COMMANDS = pytest.mark.parametrize("command", ["interpolate", "directions", "project"])


# Runs


@COMMANDS
def test_a_run_that_is_none_is_refused_and_nothing_is_written(
    command: str, picture: Path, tmp_path: Path, refused: Refused
) -> None:
    out = tmp_path / "out"
    (tmp_path / "other").mkdir()
    for place, sentence in (
        (tmp_path / "none", "is not a run folder: train one"),
        (picture, "is not a run folder: train one"),
        (tmp_path / "other", "has no checkpoint yet: train it first"),
    ):
        assert sentence in refused(main(words(command, place, picture, out)))
        assert not out.exists()


@COMMANDS
def test_a_run_whose_every_checkpoint_is_cut_short_is_refused(
    command: str, run: Path, picture: Path, tmp_path: Path, refused: Refused
) -> None:
    for folder in checkpoints(run):
        (folder / TENSORS).write_bytes((folder / TENSORS).read_bytes()[:-100])
    said = refused(main(words(command, run, picture, tmp_path / "out")), alone=False)
    assert "Every checkpoint in" in said
    assert not (tmp_path / "out").exists()


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA GPU")
@COMMANDS
def test_a_gpu_that_is_not_there_is_said(
    command: str, run: Path, picture: Path, tmp_path: Path, refused: Refused
) -> None:
    given = [*words(command, run, picture, tmp_path / "out"), "--device", "cuda"]
    assert "There is no CUDA GPU" in refused(main(given))


def test_runs_that_are_half_written_are_listed_with_what_is_known(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    files = {
        "empty/recipe.json": b"",
        "list/recipe.json": b"[1, 2]",
        "noise/recipe.json": bytes(range(256)),
        "file-for-folder/checkpoints": b"",
        "beat/recipe.json": b'{"name": "digits", "data": 3}',
        "beat/heartbeat.json": b'{"images": true, "state": "training", "time": 5}',
        "best/recipe.json": b"{",
        "best/best/000000000008/checkpoint.json": b'{"evaluation": ',
        "samples/recipe.json": b'{"name": 5}',
        "samples/samples": b"",
        "no-run/notes.txt": b"",
        "notes.txt": b"",
    }
    for name, content in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(content)
    (tmp_path / "folder-for-file" / "recipe.json").mkdir(parents=True)
    (tmp_path / "dangling").symlink_to("nowhere")
    capsys.readouterr()
    assert main(["runs", str(tmp_path), "--json"]) == 0
    found = {one.pop("run"): one for one in json.loads(capsys.readouterr().out)}
    whole, beat = found.pop(run.name), found.pop("beat")
    assert (whole["recipe"], whole["images"], whole["state"]) == ("digits", 8, "complete")
    assert (beat["recipe"], beat["data"], beat["images"]) == ("digits", None, None)
    broken = {"best", "empty", "list", "noise", "samples", "file-for-folder", "folder-for-file"}
    assert found.keys() == broken
    assert all(value is None for one in found.values() for value in one.values())


def test_a_name_cannot_break_the_table_or_command_the_terminal(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "two\nlines").mkdir()
    recipe = {"name": "red\x1b[31m", "data": {"source": "a\tb\r"}}
    (tmp_path / "two\nlines" / "recipe.json").write_text(json.dumps(recipe))
    assert main(["runs", str(tmp_path)]) == 0
    _, row = capsys.readouterr().out.removesuffix("\n").split("\n")
    assert row.split() == ["two?lines", "red?[31m", "a?b?", "-", "-", "-", "-"]
    assert main(["runs", str(tmp_path), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)[0]["recipe"] == recipe["name"]


# Pictures


@pytest.mark.parametrize(
    ("kind", "mode"),
    [
        *(("PNG", "L"), ("PNG", "P"), ("PNG", "RGBA"), ("JPEG", "RGB"), ("JPEG", "CMYK"), ("WEBP", "RGB")),
        *(("BMP", "RGB"), ("GIF", "P"), ("TIFF", "RGB"), ("TIFF", "I;16"), ("PPM", "RGB")),
    ],
)
def test_a_picture_damaged_at_any_place_of_its_header_is_used_or_refused(
    kind: str, mode: str, generator: Generator
) -> None:
    whole = encoded(kind, mode)
    assert picture_of(whole, generator).shape == (1, 8, 8)
    said = []
    for place in [*range(min(64, len(whole))), *range(max(64, len(whole) - 200), len(whole))]:
        for value in (0, 127, 255):
            damaged = whole[:place] + bytes([value]) + whole[place + 1 :]
            for data in (damaged, damaged[:place]):
                try:
                    assert picture_of(data, generator).shape == (1, 8, 8)
                except UnreadableImage as error:
                    said.append(str(error))
    assert said
    assert not any("\n" in text for text in said)


def test_a_damaged_header_is_one_sentence_of_the_command(
    run: Path, picture: Path, tmp_path: Path, refused: Refused
) -> None:
    for content in (picture.read_bytes()[:20], b"P6 4\x7f 30 255 " + bytes(400)):
        picture.write_bytes(content)
        said = refused(main(words("project", run, picture, tmp_path / "out")))
        assert f"{picture} cannot be used: it is damaged" in said
    assert not (tmp_path / "out").exists()


def test_a_header_that_claims_100_megapixels_is_refused_without_decoding(
    run: Path, picture: Path, tmp_path: Path, refused: Refused
) -> None:
    size = b"IHDR" + struct.pack(">IIBBBBB", 10_000, 10_000, 8, 0, 0, 0, 0)
    header = struct.pack(">I", 13) + size + struct.pack(">I", zlib.crc32(size))
    whole = picture.read_bytes()
    picture.write_bytes(whole[:8] + header + whole[33:])
    said = refused(main(words("project", run, picture, tmp_path / "out")))
    assert "it is larger than 64 megapixels" in said
    assert not (tmp_path / "out").exists()


def test_a_folder_in_the_place_of_the_picture_is_refused(run: Path, tmp_path: Path, refused: Refused) -> None:
    said = refused(main(words("project", run, tmp_path, tmp_path / "out")))
    assert str(tmp_path) in said
    assert not (tmp_path / "out").exists()


def test_a_picture_in_another_form_is_refused_by_call(generator: Generator) -> None:
    for wrong in (
        torch.zeros(3, 8, 8, dtype=torch.uint8),
        torch.zeros(1, 16, 16, dtype=torch.uint8),
        torch.zeros(1, 8, 8),
    ):
        with pytest.raises(UserError, match=r"give torch.uint8 \(1, 8, 8\), as vitgan.latent.read_picture"):
            project(generator, wrong)
    with pytest.raises(UserError, match="one step at least, not 0"):
        project(generator, torch.zeros(1, 8, 8, dtype=torch.uint8), steps=0)


# Searches


def test_a_search_that_is_interrupted_leaves_the_generator_as_it_was(generator: Generator) -> None:
    before = {name: tensor.clone() for name, tensor in generator.state_dict().items()}

    def progress(step: int, _steps: int, _loss: float) -> bool:
        if step == 3:
            raise KeyboardInterrupt
        return True

    with pytest.raises(KeyboardInterrupt):
        project(generator, torch.zeros(1, 8, 8, dtype=torch.uint8), progress=progress)
    assert all(torch.equal(tensor, before[name]) for name, tensor in generator.state_dict().items())
    assert all(parameter.grad is None for parameter in generator.parameters())


# Places


@pytest.mark.parametrize(
    ("command", "work"),
    [
        ("interpolate", "vitgan.latent.walk"),
        ("project", "vitgan.latent.project"),
        ("directions", "vitgan.latent.directions.principal_components"),
    ],
)
def test_a_place_that_cannot_be_is_refused_before_the_work(
    command: str, work: str, run: Path, picture: Path, monkeypatch: pytest.MonkeyPatch, refused: Refused
) -> None:
    def never(*_: object, **__: object) -> None:
        raise AssertionError("the work was begun")

    monkeypatch.setattr(work, never)
    before = picture.read_bytes()
    assert "picture.png" in refused(main(words(command, run, picture, picture)))
    assert picture.read_bytes() == before


def test_a_film_that_fails_leaves_no_half_of_it(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, refused: Refused
) -> None:
    def writer(path: str, *_: object, **__: object):
        Path(path).write_bytes(b"half")
        yield
        raise OSError(28, "No space left on device", path)

    monkeypatch.setattr("vitgan.latent.interpolation._writer", lambda: writer)
    out = tmp_path / "films" / "walk.mp4"
    said = refused(main(["interpolate", str(run), "--frames", "3", "--out", str(out)]))
    assert "No space left on device" in said
    assert list(out.parent.iterdir()) == []
