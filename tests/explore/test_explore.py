"""The page of `vitgan explore`, asked as a browser asks it; how it looks: benchmarks/explore_page.py."""

import base64
import importlib.util
import io
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import ExifTags, Image

import vitgan
from sizes import TINY
from vitgan.cli import main
from vitgan.errors import UserError

if importlib.util.find_spec("gradio") is None:  # imported here it would leave a loop of events open
    pytest.skip("needs gradio", allow_module_level=True)
Command = Callable[..., int]


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("images") / "images.npy"
    np.save(path, np.random.default_rng(0).integers(0, 256, (13, 8, 8), dtype=np.uint8))
    return path


@pytest.fixture(scope="module")
def runs(images: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of three runs."""
    folder = tmp_path_factory.mktemp("runs")
    for seed, name in enumerate(("one", "two", "three")):
        words = ["train", "digits", "--data", str(images), "--out", str(folder / name), "--device", "cpu"]
        words += [*TINY, "--images", "8", "--seed", str(seed), "--training.log-every", "4", "--quiet"]
        assert main(words) == 0
    return folder


class Visitor:
    """A browser's tab: asks for functions of the page by name, and has a state of its own there."""

    def __init__(self, address: str, name: str) -> None:
        self.address, self.name = address, name

    def ask(self, function: str, *values: Any) -> list[Any]:
        """What the function gave last. Raises RuntimeError with what the page says is wrong."""
        body = {"data": list(values), "session_hash": self.name}
        event = json.loads(self.send(f"/call/{function}", json.dumps(body).encode(), "application/json"))
        lines = self.send(f"/call/{function}/{event['event_id']}").decode().splitlines()
        kinds = [line.removeprefix("event: ") for line in lines if line.startswith("event: ")]
        data = [line.removeprefix("data: ") for line in lines if line.startswith("data: ")]
        if kinds[-1] == "error":
            raise RuntimeError(data[-1])
        return json.loads(data[-1])

    def upload(self, name: str, content: bytes) -> dict[str, Any]:
        """A file, as the page's functions take it."""
        lines = [b"--x", f'Content-Disposition: form-data; name="files"; filename="{name}"'.encode(), b""]
        body = b"\r\n".join([*lines, content, b"--x--", b""])
        (path,) = json.loads(self.send("/upload", body, "multipart/form-data; boundary=x"))
        return {"path": path, "orig_name": name, "meta": {"_type": "gradio.FileData"}}

    def send(self, path: str, body: bytes | None = None, kind: str = "") -> bytes:
        headers = {"Content-Type": kind} if kind else {}
        asked = urllib.request.Request(f"{self.address}/gradio_api{path}", body, headers)
        with urllib.request.urlopen(asked, timeout=60) as answer:
            return answer.read()


def pictures(shown: str) -> list[Image.Image]:
    """Those in a part of the page."""
    found = re.findall(r"data:image/png;base64,([A-Za-z0-9+/=]+)", shown)
    return [Image.open(io.BytesIO(base64.b64decode(one))) for one in found]


def pixels(shown: str) -> np.ndarray:
    """Of the one picture in a part of the page, whole numbers that can be subtracted."""
    (picture,) = pictures(shown)
    return np.asarray(picture).astype(int)


def encoded(image: Image.Image) -> bytes:
    with io.BytesIO() as file:
        image.save(file, "PNG")
        return file.getvalue()


@pytest.fixture(scope="module")
def visit(runs: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[str], Visitor]]:
    """visit(name) is a visitor of the page."""
    with socket.socket() as asked:
        asked.bind(("127.0.0.1", 0))
        port = asked.getsockname()[1]
    temporary = tmp_path_factory.mktemp("temporary")
    words = ["explore", "--runs", str(runs), "--port", str(port)]
    page = subprocess.Popen(
        [sys.executable, "-m", "vitgan", *words],
        stdout=subprocess.PIPE,
        text=True,
        env=os.environ | {"TMPDIR": str(temporary)},
    )
    try:
        assert page.stdout is not None
        assert page.stdout.readline() == f"vitgan explore: http://127.0.0.1:{port} (Ctrl-C ends it)\n"
        for _ in range(200):
            with suppress(OSError), urllib.request.urlopen(f"http://127.0.0.1:{port}/config", timeout=5):
                break
            time.sleep(0.1)
        yield lambda name: Visitor(f"http://127.0.0.1:{port}", name)
        page.terminate()
        assert page.wait(60) == 128 + signal.SIGTERM
        assert not list(temporary.glob("vitgan-explore-*"))
    finally:
        page.kill()
        page.communicate()


def test_samples_are_those_of_the_run(visit: Callable[[str], Visitor], runs: Path) -> None:
    (shown,) = visit("a").ask("sample", "one", 5, 3, 1.0, 0)
    found = [np.asarray(picture).astype(int) for picture in pictures(shown)]
    assert len(found) == 3
    generator = vitgan.load(runs / "one")
    assert np.abs(found[1] - generator.sample(1, seed=6)[0, 0].numpy()).max() <= 1
    (shown,) = visit("a").ask("sample", "one", 5, 1, 0.5, 0)
    assert np.abs(pixels(shown) - generator.sample(1, seed=5, truncation=0.5)[0, 0].numpy()).max() <= 1


@pytest.mark.parametrize(
    ("values", "sentence"),
    [
        ((None, 3, 1.0, 0), "The first seed is a whole number from 0"),
        ((2**60, 3, 1.0, 0), "The first seed is a whole number from 0"),
        ((-1, 3, 1.0, 0), "less than minimum"),
        ((0, 3, 1.0, None), "The class is a whole number from 0"),
    ],
)
def test_an_empty_or_wrong_field_is_told(
    values: tuple[Any, ...], sentence: str, visit: Callable[[str], Visitor]
) -> None:
    with pytest.raises(RuntimeError, match=sentence):
        visit("k").ask("sample", "one", *values)


@pytest.mark.parametrize("name", ["../images", "/", "google/other", "", "four"])
def test_nothing_but_the_runs_can_be_chosen(name: str, visit: Callable[[str], Visitor]) -> None:
    with pytest.raises(RuntimeError, match=f"There is no run {name} here, or no more"):
        visit("l").ask("sample", name, 0, 1, 1.0, 0)


def test_a_slider_moves_an_image_and_zero_brings_it_back(visit: Callable[[str], Visitor]) -> None:
    visitor, zeros = visit("b"), [0.0] * 12
    amounts = (zeros, [4.0, *zeros[1:]], zeros)
    shown = [visitor.ask("move", "one", 0, 0, False, *a)[0] for a in amounts]
    assert shown[0] == shown[2]
    assert shown[0] != shown[1]


def test_the_discriminators_view_follows_the_image_and_the_head(visit: Callable[[str], Visitor]) -> None:
    visitor = visit("c")
    patches, seen, said = visitor.ask("judge", "two", 0, 0, 1, 0, None)
    assert pictures(seen)[0].size == pictures(patches)[0].size == (384, 384)
    head = visitor.ask("judge", "two", 0, 0, 1, 2, None)
    assert head[1] != seen
    assert float(head[2]) == float(said)
    own = visitor.upload("x.png", encoded(Image.new("L", (20, 30), 255)))
    judged = visitor.ask("judge", "two", 0, 0, 1, 0, own)
    assert np.asarray(pictures(judged[0])[0])[20, 20].tolist() == [255, 255, 255]
    assert visitor.ask("judge", "digits", 0, 0, 1, 0, None) == ["", "", ""]  # it has no discriminator


def test_two_visitors_see_the_attention_over_their_own_images(visit: Callable[[str], Visitor]) -> None:
    alone = [visit("m").ask("judge", "two", seed, 0, 1, 1, None)[1:] for seed in range(4)]
    with ThreadPoolExecutor(4) as pool:
        for _ in range(5):
            asked = [pool.submit(visit(f"m{s}").ask, "judge", "two", s, 0, 1, 1, None) for s in range(4)]
            assert [one.result()[1:] for one in asked] == alone


def test_a_runs_curves_samples_and_settings_are_shown(visit: Callable[[str], Visitor]) -> None:
    line, _, sample, curves, settings, _ = visit("c").ask("read", "two", 1)
    assert "state: complete, images: 8" in line
    assert pictures(sample)[0].width > 50
    assert "At 8 images" in sample
    assert "<svg" in curves
    assert re.search(r">training\.batch</th><td>4</td>", settings)


def test_a_run_that_is_deleted_while_the_page_is_open_is_told(
    visit: Callable[[str], Visitor], runs: Path
) -> None:
    visitor = visit("e")
    assert visitor.ask("sample", "three", 0, 1, 1.0, 0)
    shutil.rmtree(runs / "three")
    with pytest.raises(RuntimeError, match="no run three here, or no more: choose another"):
        visitor.ask("sample", "three", 0, 1, 1.0, 0)
    assert "no run three here, or no more" in visitor.ask("read", "three", 1)[0]
    assert len(pictures(visitor.ask("sample", "one", 0, 2, 1.0, 0)[0])) == 2


def test_two_visitors_have_projections_of_their_own(visit: Callable[[str], Visitor]) -> None:
    zeros, shown = [0.0] * 12, []
    visitors = [visit("f"), visit("g"), visit("h")]
    for visitor, shade in zip(visitors, (20, 230), strict=False):
        taken = visitor.upload("x.png", encoded(Image.new("L", (20, 30), shade)))
        assert pixels(visitor.ask("take", "one", taken)[2]).max() == shade
        nearest, said = visitor.ask("search", "one", 100, 50, 50, 0, 20)[:2]
        assert ">20 of 20: " in said
        moved = visitor.ask("move", "one", 0, 0, True, *zeros)[0]
        assert np.abs(pixels(moved) - pixels(nearest)).max() <= 1
        shown.append(moved)
    assert shown[0] != shown[1]
    with pytest.raises(RuntimeError, match="No picture is projected with one yet"):
        visitors[2].ask("move", "one", 0, 0, True, *zeros)


def test_a_picture_is_cropped(visit: Callable[[str], Visitor]) -> None:
    visitor = visit("n")
    image = Image.new("L", (40, 20), 10)
    image.paste(200, (30, 0, 40, 10))
    visitor.ask("take", "one", visitor.upload("x.png", encoded(image)))
    framed, square = visitor.ask("crop", "one", 50, 100, 0)
    assert (pixels(square) == 200).all()
    assert pictures(framed)[0].size == (360, 180)
    assert pixels(visitor.ask("crop", "one", 100, 0, 50)[1]).max() == 10


@pytest.mark.parametrize("content", [b"", b"no picture", b"%PDF-1.7 " + bytes(100)])
def test_an_upload_that_is_no_picture_is_told(content: bytes, visit: Callable[[str], Visitor]) -> None:
    visitor = visit("i")
    uploaded = visitor.upload("upload.png", content)
    sentence = r"cannot be used: (it is no image of a known format|the file is empty)"
    with pytest.raises(RuntimeError, match=sentence):
        visitor.ask("take", "one", uploaded)
    with pytest.raises(RuntimeError, match=sentence):
        visitor.ask("judge", "one", 0, 0, 1, 0, uploaded)


def test_a_hundred_megapixels_and_too_many_bytes_are_refused(visit: Callable[[str], Visitor]) -> None:
    visitor = visit("j")
    uploaded = visitor.upload("large.png", encoded(Image.new("1", (10_000, 10_000))))
    with pytest.raises(RuntimeError, match="larger than 64 megapixels"):
        visitor.ask("take", "one", uploaded)
    with pytest.raises((urllib.error.HTTPError, urllib.error.URLError)):
        visitor.upload("bytes.png", bytes(2**25 + 2**20))


# Without a page


@pytest.mark.slow
def test_a_busy_port_is_told(refused: Callable) -> None:
    with socket.socket() as busy:
        busy.bind(("127.0.0.1", 0))
        busy.listen()
        port = busy.getsockname()[1]
        said = refused(main(["explore", "digits", "--port", str(port)]))
        assert f"Port {port} of 127.0.0.1 cannot be used" in said
        assert "give another with --port" in said


def test_without_gradio_the_command_that_installs_it_is_named(
    monkeypatch: pytest.MonkeyPatch, refused: Callable
) -> None:
    for name in [name for name in sys.modules if name.startswith("vitgan.explore")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "gradio", None)
    assert 'pip install "vitgan[explore]"' in refused(main(["explore"]))


def test_a_run_that_is_none_is_refused_before_anything_is_served(tmp_path: Path, refused: Callable) -> None:
    assert "is not a run folder" in refused(main(["explore", str(tmp_path / "none" / "x")]))


def test_a_run_is_loaded_anew_when_it_has_saved(tiny_train: Command, tmp_path: Path, no_curves: None) -> None:
    del no_curves
    from vitgan.explore.models import ModelCache

    assert tiny_train(tmp_path / "one", "--images", "8") == 0
    (tmp_path / "other").mkdir()
    models = ModelCache(tmp_path, None)
    assert models.names() == ["one", "digits", "mnist"]
    before = models.get("one")
    assert models.get("one") is before
    assert tiny_train(tmp_path / "one", "--images", "16") == 0
    after = models.get("one")
    assert after is not before
    assert not torch.equal(after.generator.sample(1), before.generator.sample(1))
    with pytest.raises(UserError):
        models.get("none")


def test_a_run_called_as_the_packages_own_hides_neither(
    tiny_train: Command, tmp_path: Path, no_curves: None
) -> None:
    del no_curves
    from vitgan.explore.models import ModelCache

    assert tiny_train(tmp_path / "digits", "--images", "4") == 0
    models = ModelCache(tmp_path, None)
    assert models.names() == ["digits", "digits (of the package)", "mnist"]
    assert models.get("digits").discriminator is not None
    assert models.get("digits (of the package)").discriminator is None
    given = str(tmp_path / "digits")
    assert ModelCache(tmp_path, given).names() == [given, "digits", "mnist"]


def test_a_large_picture_is_kept_smaller_and_upright() -> None:
    from vitgan.latent.projection import cropped, open_picture, square_box

    image = Image.new("RGB", (3000, 1500), "red")
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 6  # to be turned by a quarter
    with io.BytesIO() as file:
        image.save(file, "JPEG", exif=exif)
        opened = open_picture(file.getvalue())
    assert opened.size == (1024, 2048)
    assert opened.mode == "RGB"
    box = square_box(opened, 0.5, 1, 0)
    assert box == (512, 0, 1024, 512)
    generator = vitgan.load("digits")
    assert cropped(opened, box, generator).shape == (1, 8, 8)
    assert square_box(Image.new("L", (2, 3)), 0.1, 0.5, 1) == (0, 1, 2, 3)


def test_pictures_show_patches_and_where_attention_lies() -> None:
    from vitgan.explore.images import attention_heatmap, class_attention, patch_grid, to_pillow

    image = torch.full((1, 8, 8), 100, dtype=torch.uint8)
    assert to_pillow(image).size == (8, 8)
    maps = torch.zeros(2, 5, 5)
    maps[0, 0, 1], maps[1, 0, 4] = 1.0, 1.0
    assert class_attention(maps, 0).tolist() == [1, 0, 0, 0]
    assert class_attention(maps, None).tolist() == [0.5, 0, 0, 0.5]
    shown = np.asarray(attention_heatmap(image, class_attention(maps, 1)).convert("L")).astype(int)
    assert shown[300, 300] > 2 * shown[20, 20]
    grid = patch_grid(image, 4, 2)
    assert grid.getpixel((192, 10)) == (255, 64, 64)
    assert grid.getpixel((96, 150)) == (255, 200, 40)


@pytest.mark.slow
def test_names_that_are_not_utf_8_reach_the_page_as_escapes(
    tiny_train: Command, tmp_path: Path, no_curves: None
) -> None:
    del no_curves
    from vitgan.explore.models import ModelCache
    from vitgan.explore.page import shown_error
    from vitgan.explore.runs import _line, _settings

    run = tmp_path / "caf\udce9"
    np.save(tmp_path / "b\udce9.npy", np.zeros((4, 8, 8), np.uint8))
    assert tiny_train(run, "--images", "4", "--data", tmp_path / "b\udce9.npy") == 0
    models = ModelCache(tmp_path, None)
    assert models.names()[0] == r"caf\udce9"
    assert models.get(r"caf\udce9").discriminator is not None
    said = [_line(run), _settings(run), str(shown_error(UserError(str(run))))]
    assert all(text.encode() for text in [*said, *models.names(), *ModelCache(tmp_path, str(run)).names()])
