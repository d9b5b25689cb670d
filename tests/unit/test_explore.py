"""The page of `vitgan explore`, asked as a browser asks it; how it looks: benchmarks/explore_page.py."""

import importlib.util
import io
import json
import shutil
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

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

    def picture(self, value: dict[str, Any]) -> Image.Image:
        """One that the page gave."""
        return Image.open(io.BytesIO(self.send(f"/file={value['path']}"))).convert("L")

    def send(self, path: str, body: bytes | None = None, kind: str = "") -> bytes:
        headers = {"Content-Type": kind} if kind else {}
        asked = urllib.request.Request(f"{self.address}/gradio_api{path}", body, headers)
        with urllib.request.urlopen(asked, timeout=60) as answer:
            return answer.read()


@pytest.fixture(scope="module")
def visit(runs: Path) -> Iterator[Callable[[str], Visitor]]:
    """visit(name) is a visitor of the page."""
    with socket.socket() as asked:
        asked.bind(("127.0.0.1", 0))
        port = asked.getsockname()[1]
    words = ["explore", "--runs", str(runs), "--port", str(port)]
    page = subprocess.Popen([sys.executable, "-m", "vitgan", *words], stdout=subprocess.PIPE, text=True)
    try:
        assert page.stdout is not None
        assert page.stdout.readline() == f"vitgan explore: http://127.0.0.1:{port} (Ctrl-C ends it)\n"
        for _ in range(200):
            with suppress(OSError), urllib.request.urlopen(f"http://127.0.0.1:{port}/config", timeout=5):
                break
            time.sleep(0.1)
        yield lambda name: Visitor(f"http://127.0.0.1:{port}", name)
    finally:
        page.kill()
        page.communicate()


def test_samples_are_those_of_the_run(visit: Callable[[str], Visitor], runs: Path) -> None:
    visitor = visit("a")
    (found,) = visitor.ask("sample", "one", 5, 3, 1.0, 0)
    assert len(found) == 3
    shown = np.asarray(visitor.picture(found[1]["image"]))[6::12, 6::12]
    assert np.abs(shown.astype(int) - vitgan.load(runs / "one").sample(1, seed=6)[0, 0].numpy()).max() <= 1


def test_a_slider_moves_an_image_and_zero_brings_it_back(visit: Callable[[str], Visitor]) -> None:
    visitor, zeros = visit("b"), [0.0] * 12
    amounts = (zeros, [4.0, *zeros[1:]], zeros)
    shown = [visitor.picture(visitor.ask("move", "one", 0, 0, False, *a)[0]).tobytes() for a in amounts]
    assert shown[0] == shown[2]
    assert shown[0] != shown[1]


def test_the_discriminators_view_and_a_runs_curves(visit: Callable[[str], Visitor]) -> None:
    visitor = visit("c")
    seen, patches, said = visitor.ask("judge", "two", 0, 1, 0, None)
    assert visitor.picture(seen).size == visitor.picture(patches).size == (256, 256)
    assert said.endswith("1 layers of 2 heads")
    line, sample, curves, settings = visitor.ask("read", "two", 1.0)
    assert "state: complete, images: 8" in line
    assert visitor.picture(sample).width > 50
    assert "<svg" in curves
    assert ["training.batch", "4"] in settings["data"]


def test_what_has_no_discriminator_is_told(visit: Callable[[str], Visitor]) -> None:
    with pytest.raises(RuntimeError, match="digits has no Vision Transformer to look into"):
        visit("d").ask("judge", "digits", 0, 1, 0, None)


def test_a_run_that_is_deleted_while_the_page_is_open_is_told(
    visit: Callable[[str], Visitor], runs: Path
) -> None:
    visitor = visit("e")
    assert visitor.ask("sample", "three", 0, 1, 1.0, 0)
    shutil.rmtree(runs / "three")
    with pytest.raises(RuntimeError, match="is not a run folder"):
        visitor.ask("sample", "three", 0, 1, 1.0, 0)
    assert "is no run: nothing is trained in it" in visitor.ask("read", "three", 1.0)[0]
    assert len(visitor.ask("sample", "one", 0, 2, 1.0, 0)[0]) == 2


def test_two_visitors_have_projections_of_their_own(visit: Callable[[str], Visitor]) -> None:
    zeros, shown = [0.0] * 12, []
    visitors = [visit("f"), visit("g"), visit("h")]
    for visitor, shade in zip(visitors, (20, 230), strict=False):
        with io.BytesIO() as file:
            Image.new("L", (20, 30), shade).save(file, "PNG")
            _, said = visitor.ask("search", "one", visitor.upload("x.png", file.getvalue()), 20)[:2]
        assert said.startswith("20 of 20: ")
    for visitor in visitors:
        shown.append(visitor.picture(visitor.ask("move", "one", 0, 0, True, *zeros)[0]).tobytes())
    assert len(set(shown)) == 3  # the third visitor has none, and sees the sample


@pytest.mark.parametrize("content", [b"", b"no picture", b"%PDF-1.7 " + bytes(100)])
def test_an_upload_that_is_no_picture_is_told(content: bytes, visit: Callable[[str], Visitor]) -> None:
    visitor = visit("i")
    with pytest.raises(RuntimeError, match=r"no image of a known format|file is empty"):
        visitor.ask("crop", "one", visitor.upload("upload.png", content))


def test_a_hundred_megapixels_and_too_many_bytes_are_refused(visit: Callable[[str], Visitor]) -> None:
    visitor = visit("j")
    with io.BytesIO() as file:
        Image.new("1", (10_000, 10_000)).save(file, "PNG")
        uploaded = visitor.upload("large.png", file.getvalue())
    with pytest.raises(RuntimeError, match="larger than 64 megapixels"):
        visitor.ask("crop", "one", uploaded)
    with pytest.raises((urllib.error.HTTPError, urllib.error.URLError)):
        visitor.upload("bytes.png", bytes(2**25 + 2**20))


# Without a page


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


def test_the_shelf_loads_a_run_anew_when_it_has_saved(
    tiny_train: Command, tmp_path: Path, no_curves: None
) -> None:
    del no_curves
    from vitgan.explore.shelf import Shelf

    assert tiny_train(tmp_path / "one", "--images", "8") == 0
    shelf = Shelf(tmp_path, None)
    assert shelf.names() == ["one", "digits"]
    before = shelf.model("one")
    assert shelf.model("one") is before
    assert tiny_train(tmp_path / "one", "--images", "16") == 0
    after = shelf.model("one")
    assert after is not before
    assert not torch.equal(after.generator.sample(1), before.generator.sample(1))
    with pytest.raises(UserError):
        shelf.model("none")


def test_pictures_show_patches_and_where_attention_lies() -> None:
    from vitgan.explore.shown import class_attention, heat, patch_grid, picture

    image = torch.full((1, 8, 8), 100, dtype=torch.uint8)
    assert picture(image).size == (256, 256)
    maps = torch.zeros(2, 5, 5)
    maps[0, 0, 1], maps[1, 0, 4] = 1.0, 1.0
    assert class_attention(maps, 0).tolist() == [1, 0, 0, 0]
    assert class_attention(maps, None).tolist() == [0.5, 0, 0, 0.5]
    shown = np.asarray(heat(image, class_attention(maps, 1)).convert("L")).astype(int)
    assert shown[200, 200] > 2 * shown[20, 20]
    grid = patch_grid(image, 4, 2)
    assert grid.getpixel((128, 10)) == (255, 64, 64)
    assert grid.getpixel((64, 100)) == (255, 200, 40)
