"""A whole inspection: what it writes, of the package's networks and of others."""

import argparse
import json
import math
import subprocess
import sys
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from vitgan.cli import main
from vitgan.commands import inspect
from vitgan.diagnostics import inspection
from vitgan.diagnostics.inspection import table
from vitgan.diagnostics.subject import Subject, load_subject

PART = "--{0}.depth 1 --{0}.width 8 --{0}.heads 2 --{0}.perceptron-width 16 "
WORDS = (PART.format("generator") + PART.format("discriminator")).split()
WORDS += ["--training.batch", "4", "--generator.latent-dim", "5", "--generator.mapping-depth", "1"]
WORDS += ["--training.precision", "fp32", "--images", "16", "--device", "cpu", "--quiet"]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A trained run with classes."""
    folder = tmp_path_factory.mktemp("inspect")
    numbers = np.random.default_rng(0)
    pixels = numbers.integers(0, 256, (13, 8, 8), dtype=np.uint8)
    np.savez(folder / "images.npz", images=pixels, labels=np.arange(13) % 3)
    words = [*WORDS, "--data", str(folder / "images.npz"), "--data.labels", "True"]
    with mock.patch("vitgan.engine.report.panels", return_value=[]):
        assert main(["train", *words, "--out", str(folder / "run")]) == 0
    return folder / "run"


def command(*words: object) -> int:
    parser = argparse.ArgumentParser()
    inspect.add(parser)
    return inspect.run(parser.parse_args([str(word) for word in words]))


def numbers(value: Any) -> list[float]:
    if isinstance(value, dict):
        return [x for item in value.values() for x in numbers(item)]
    if isinstance(value, list):
        return [x for item in value for x in numbers(item)]
    return [value] if isinstance(value, (int, float)) else []


def test_the_command_imports_nothing_heavy():
    code = (
        "import sys, vitgan.commands.inspect; assert not {'torch', 'matplotlib', 'numpy'} & set(sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_an_inspection_writes_finite_numbers_and_every_figure(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    assert command(run, "--count", 6, "--out", tmp_path / "out", "--device", "cpu") == 0
    result = json.loads((tmp_path / "out" / "inspect.json").read_text())
    assert all(math.isfinite(x) for x in numbers(result))
    assert result["protocol"]["count"] == 6
    assert result["protocol"]["images_seen"] == 16
    assert result["left_out"] == []
    assert sorted(result["figures"]) == sorted(path.name for path in (tmp_path / "out").glob("*.png"))
    assert len(result["figures"]) == 8
    for name in result["figures"]:
        with Image.open(tmp_path / "out" / name) as picture:
            picture.load()
            assert picture.size > (200, 200)
    found = result["lipschitz"]
    assert found["lower_bound"] == max(place["max"] for place in found["places"].values())
    assert found["places"][found["found_at"]]["max"] == found["lower_bound"]
    assert all(row["jacobian"] <= row["bound"] for row in found["attention_layers"])
    said = capsys.readouterr().out
    assert table(result) in said
    for layer in result["sigma"]["discriminator"]:
        assert layer["layer"] in said
        assert layer["ratio"] == pytest.approx(1, rel=0.05)


def test_the_same_seed_gives_the_same_numbers_and_another_does_not(run: Path, tmp_path: Path):
    with mock.patch("vitgan.diagnostics.figures.draw", return_value=[]):
        results = [
            inspection.inspect_run(run, count=5, seed=seed, out=tmp_path, json_path=tmp_path / "a" / "b.json")
            for seed in (0, 0, 1)
        ]
    assert results[0] == results[1]
    assert results[0]["lipschitz"]["places"] != results[2]["lipschitz"]["places"]
    assert json.loads((tmp_path / "a" / "b.json").read_text()) == results[2]
    assert not (tmp_path / "inspect.json").exists()


def test_the_subject_of_a_run_is_that_of_its_checkpoint(run: Path):
    """Weights are the average, images and fakes have the same labels, and first weights are the seed's."""
    subject = load_subject(run, data=None, count=5, seed=3, device="cpu")
    other = load_subject(next((run / "checkpoints").glob("0*16")), data=None, count=5, seed=3, device="cpu")
    assert torch.equal(subject.real, other.real)
    assert torch.equal(subject.fake, other.fake)
    assert subject.labels is not None
    assert torch.equal(subject.fake, subject.generator(subject.latents, subject.labels))
    data = np.load(run.parent / "images.npz")
    known = [pixels.tolist() for pixels in data["images"]]
    for image, label in zip(subject.real, subject.labels, strict=True):
        pixels = ((image[0] + 1) * 127.5).round().to(torch.uint8).tolist()
        assert data["labels"][known.index(pixels)] == label
    assert not subject.generator.training
    first, now = (
        network.get_parameter("position")
        for network in (subject.discriminator_at_start, subject.discriminator)
    )
    assert not torch.equal(first, now)


# Networks of another kind


class ConvolutionalDiscriminator(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(1, 4, 3), nn.LeakyReLU(0.2), nn.Flatten(), nn.Linear(4 * 36, 1))

    def forward(self, images: Tensor, labels: Tensor | None = None) -> Tensor:  # noqa: ARG002
        return self.body(images)


class ConvolutionalGenerator(nn.Module):
    latent_dim = 5

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Linear(5, 64)

    def forward(self, z: Tensor, labels: Tensor | None = None) -> Tensor:  # noqa: ARG002
        return torch.tanh(self.body(z)).view(-1, 1, 8, 8)


def test_what_does_not_apply_to_a_system_is_left_out_and_said(run: Path, tmp_path: Path):
    known = load_subject(run, data=None, count=5, seed=0, device="cpu")
    torch.manual_seed(0)
    generator, discriminator = ConvolutionalGenerator(), ConvolutionalDiscriminator()
    for network in (generator, discriminator):
        network.eval().requires_grad_(False)
    subject = Subject(
        recipe=known.recipe,
        images_seen=0,
        generator=generator,  # type: ignore[arg-type]
        discriminator=discriminator,
        generator_at_start=generator,
        discriminator_at_start=discriminator,
        real=known.real,
        fake=generator(known.latents),
        labels=known.labels,
        latents=known.latents,
    )
    with mock.patch.object(inspection, "load_subject", return_value=subject):
        result = inspection.inspect_run(tmp_path / "run", count=5, out=tmp_path)
    assert result["figures"] == ["sigma.png", "lipschitz.png", "spectrum.png"]
    assert len(result["left_out"]) == 7
    assert all(line.endswith(".") and "\n" not in line for line in result["left_out"])
    assert [layer["kind"] for layer in result["sigma"]["discriminator"]] == ["convolution", "linear"]
    assert all(layer["ratio"] == 1 for layer in result["sigma"]["generator"])
    assert result["lipschitz"]["lower_bound"] > 0
    assert all(line in table(result) for line in result["left_out"])
