"""Every command and block of Python of README and docs is run, page by page, in a folder with what they name.

What makes that short is added to a command, and nothing of it is left out but a table's minutes: networks
of `sizes.TINY`, a few images, a few steps. The Hub, and what is downloaded, have stand-ins.
"""

import json
import re
import runpy
import shlex
import shutil
import signal
import subprocess
import sys
import urllib.request
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

import table_rows
from docs_pages import PAGES, ROOT, commands, files, python, scripts
from sizes import TINY, TINY_MODERN, without
from standin_hub import Hub
from vitgan import registry
from vitgan.bench import steps
from vitgan.bench.settings import Sizes
from vitgan.bench.steps import steps_here
from vitgan.cli import main
from vitgan.metrics import extractors as features

pytestmark = [pytest.mark.usefixtures("quick_classifier"), pytest.mark.filterwarnings("ignore::UserWarning")]

SMALL = Sizes(products=(32,), attention=((5, 2),), sampling=(4,), rounds=2, launches=1)
BOUNDS = {
    "reproduce": ["--images", "48", "--device", "cpu"],
    "bench": ["--batch", "4", "--steps", "2", "--device", "cpu"],
    "evaluate": ["--count", "40"],
    "inspect": ["--count", "4"],
    "project": ["--steps", "2"],
    "data": ["--workers", "0"],
}


class Inception(torch.nn.Module):
    """In place of Inception: two of its layers' names, on averages of the pixels."""

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        averages = torch.nn.functional.adaptive_avg_pool2d(images.float() / 255, 2).flatten(1)
        return averages, averages

    def convert_features_tuple_to_dict(self, found: tuple[Tensor, Tensor]) -> dict[str, Tensor]:
        return dict(zip(("2048", "logits_unbiased"), found, strict=True))


def inception(_path: Path, opening: features.Opening, *, official: bool) -> features.FidelityExtractor:
    del official
    chosen: dict[str, str] = {
        metric: "logits_unbiased" if metric == "is" else "2048" for metric in opening.metrics
    }
    return features.FidelityExtractor("inception", Inception(), "00", chosen, opening)


def pictures(side: int, count: int = 40) -> np.ndarray:
    noise = np.random.default_rng(side).integers(0, 256, (count, side, side, 3), dtype=np.uint8)
    return noise // 2 + np.linspace(0, 127, count, dtype=np.uint8)[:, None, None, None]


def write_folder(folder: Path, side: int, classes: tuple[str, ...] = ("",)) -> None:
    for number, pixels in enumerate(pictures(side)):
        path = folder / classes[number % len(classes)] / f"{number:03}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(path)


def write_zip(path: Path, folder: Path) -> None:
    """The folder's pictures, and their sub-folders as labels."""
    files = sorted(folder.rglob("*.png"))
    classes = sorted({file.parent.name for file in files})
    with zipfile.ZipFile(path, "w") as archive:
        for file in files:
            archive.write(file, file.name)
        labels = [[file.name, classes.index(file.parent.name)] for file in files]
        archive.writestr("dataset.json", json.dumps({"labels": labels, "classes": classes}))


@pytest.fixture(scope="module")
def stocked(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with everything that a page takes for granted."""
    place = tmp_path_factory.mktemp("stocked")
    for name, side in (("FOLDER", 64), ("SOURCE", 64), ("small", 32), ("tiny", 8)):
        write_folder(place / name, side, ("left", "right"))
    for name in ("REAL", "REAL_FOLDER", "GENERATED", "GENERATED_FOLDER"):
        write_folder(place / name, 32)
    for name, folder in (("IMAGES", "small"), ("cifar10_train", "small"), ("celeba", "FOLDER")):
        write_zip(place / f"{name}.zip", place / folder)
    Image.fromarray(pictures(70)[0]).save(place / "PICTURE.png")
    (place / "weights.pth").write_bytes(b"stand-in")
    for text in (text for page in PAGES for text in python(page)):
        if named := re.match(r"# (\w+\.py)\n", text):
            (place / named[1]).write_text(text)
    assert main(["data", "pack", str(place / "small"), str(place / "cifar10-packed"), "--quiet"]) == 0
    for out, recipe, images in (("digits", "digits", "tiny"), ("cifar10", "cifar10", "cifar10-packed")):
        words = [
            "--data",
            str(place / images),
            "--out",
            str(place / "runs" / out),
            "--images",
            "8",
            "--device",
            "cpu",
        ]
        assert main(["train", recipe, *words, *TINY, "--quiet"]) == 0
    shutil.copytree(place / "runs/digits", place / "RUN")
    shutil.copytree(place / "runs/cifar10", place / "runs/faces")
    return place


@pytest.fixture
def place(stocked: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A copy of it as the working folder, nothing downloaded, tables and measurements small."""
    shutil.copytree(stocked, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("VITGAN_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(features, "_official_weights", lambda _quiet: tmp_path / "weights.pth")
    monkeypatch.setattr(features, "_open_inception", inception)
    cifar10 = SimpleNamespace(data=pictures(32), targets=[0, 1] * 20, classes=["left", "right"])
    monkeypatch.setattr("vitgan.data.sources._download", lambda *_: cifar10)
    monkeypatch.setattr(Sizes, "of", staticmethod(lambda device: SMALL))  # noqa: ARG005
    monkeypatch.setattr(steps, "memory_of", lambda recipe, *, data, device: steps_here(recipe, data, device))
    table_rows.use_here(monkeypatch)
    monkeypatch.setattr(registry, "_parts", list(registry._parts))
    yield tmp_path
    sys.modules.pop("my_metrics", None)


class Reader:
    """Types the commands of a page, one after the other."""

    def __init__(self, place: Path, hub: Hub) -> None:
        self.place, self.hub, self.images = place, hub, 0
        self.stocked = set(Path("runs").iterdir())

    def type(self, line: str) -> None:
        words = shlex.split(line.replace("/scratch/", f"{self.place}/"), comments=True)[1:]
        run: Callable[[list[str]], None] = {"push": self.push, "explore": self.explore}.get(
            words[0], self.here
        )
        run(words)

    def here(self, words: list[str]) -> None:
        try:
            code = main(self.bounded(words))
        except SystemExit as end:  # of --settings
            code = end.code
        assert code == 0
        for flag in ("--out", "--json"):
            if flag in words[:-1] and "--dry-run" not in words:  # a last --json prints
                assert Path(words[words.index(flag) + 1]).exists()

    def bounded(self, words: list[str]) -> list[str]:
        if words[0] == "train":
            self.images += 8  # a run that another line began goes on
            if not {"--settings", "--dry-run"} & set(words):
                self.make_room(words)
            modern = words[1:2] in ([], ["mnist"]) or "modern" in words[1]
            sizes = TINY_MODERN if modern else TINY
            sizes = without("--discriminator.", sizes) if "--discriminator" in words else sizes
            return [*words, *sizes, "--images", str(self.images), "--device", "cpu"]
        if words[:2] == ["data", "info"]:
            return words
        if words[0] == "reproduce" and "--minutes" in words:
            at = words.index("--minutes")
            words = words[:at] + words[at + 2 :]
        if words[0] == "bench" and "--recipe" not in words:
            words = [*words, "--recipe", "digits"]
        return words + BOUNDS.get(words[0], [])

    def make_room(self, words: list[str]) -> None:
        """For a run that the page itself begins, where there is one for the other pages."""
        recipe = words[1] if words[1:] else "mnist"
        named = Path(words[words.index("--out") + 1]) if "--out" in words else Path("runs") / recipe
        if named in self.stocked:
            self.stocked.remove(named)
            shutil.rmtree(named)

    def push(self, words: list[str]) -> None:
        (done,) = self.hub.run(words)
        assert done.code == 0, done.err
        assert {"config.json", "README.md"} <= self.hub.repositories[words[2]].keys()

    def explore(self, words: list[str]) -> None:
        pytest.importorskip("gradio")
        command = [sys.executable, "-m", "vitgan", *words]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
            try:
                assert server.stdout is not None
                (address,) = re.findall(r"http://127\.0\.0\.1:\d+", server.stdout.readline())
                with urllib.request.urlopen(address, timeout=60) as answer:
                    assert b"vitgan" in answer.read()
            finally:
                server.send_signal(signal.SIGINT)
        assert server.returncode in (0, 130)


WITH_COMMANDS = [page for page in PAGES if any(commands(page))]
FIGURES = sorted({line for page in PAGES for line in scripts(page) if "_figure" in line})
WITH_PYTHON = [(page.name, text) for page in PAGES for text in python(page)]


def test_pages_with_commands_and_python_are_found() -> None:
    names = {"README.md", "own-images.md", "explore.md", "scale.md", "metrics.md", "reproduce.md"}
    assert names <= {page.name for page in WITH_COMMANDS}
    assert len(FIGURES) == 3
    assert {"README.md", "explore.md", "metrics.md"} <= {name for name, _ in WITH_PYTHON}


@pytest.mark.slow
@pytest.mark.parametrize("page", WITH_COMMANDS, ids=[page.parent.name + page.name for page in WITH_COMMANDS])
@pytest.mark.usefixtures("own_parts_forgotten")
def test_the_commands_of_a_page_run(page: Path, place: Path, hub: Hub) -> None:
    reader = Reader(place, hub)
    for name, text in files(page):
        (place / name).write_text(text)
    for line in commands(page):
        print("+", line)
        reader.type(line)


def test_each_file_of_the_guide_has_a_command_that_uses_it() -> None:
    guide = ROOT / "CONTRIBUTING.md"
    names = [name for name, _ in files(guide)]
    assert names == ["my_loss.py", "my_discriminator.py", "my_source.py", "my_metric.py"]
    assert all(any(f"--use {name}" in line for line in commands(guide)) for name in names)


@pytest.mark.slow
@pytest.mark.parametrize("line", FIGURES)
def test_the_scripts_of_figures_run(line: str, place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    words = shlex.split(line)[1:]
    monkeypatch.setattr(sys, "argv", words)
    runpy.run_path(str(ROOT / words[0]), run_name="__main__")
    out = place / words[words.index("--out") + 1]
    assert out.is_file() or len(list(out.glob("*.png"))) == 4


@pytest.mark.slow
@pytest.mark.parametrize(("page", "text"), WITH_PYTHON)
@pytest.mark.usefixtures("place")
def test_the_python_of_a_page_runs(page: str, text: str) -> None:
    exec(compile(text, page, "exec"), {})
