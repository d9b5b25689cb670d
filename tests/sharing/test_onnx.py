"""torch.export and ONNX give the images of torch."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import vitgan
from vitgan.cli import main
from vitgan.engine.gan import Recipe
from vitgan.errors import UserError
from vitgan.models import Generator
from vitgan.sharing.onnx import export_onnx, export_program, exported_program

SYSTEMS = [
    *("digits", "digits-a-linear", "digits-b-neurrep", "digits-stylegan2", "digits-biggan-diffaug"),
    "digits-transgan-xl",
]
LABELLED = ["digits", "digits-biggan-diffaug"]  # exported with classes


def build(name: str, classes: int = 0) -> Generator:
    """As training makes it: its weights ask for gradients."""
    recipe = vitgan.recipes.get(name)
    assert isinstance(recipe, Recipe)
    torch.manual_seed(0)
    sizes = {"resolution": recipe.data.resolution, "channels": recipe.data.channels}
    return recipe.generator.build(**sizes, classes=classes)


# torch.export and ONNX


@pytest.mark.parametrize("name", SYSTEMS)
def test_torch_export_takes_any_number_of_latents(name: str) -> None:
    generator = build(name)
    program = exported_program(generator)
    generator.eval()
    for count in (1, 5):
        z = generator.latents(count, seed=count)
        torch.testing.assert_close(program.module()(z), generator(z), rtol=0, atol=1e-5)


LOADS = """
import sys, torch
program = torch.export.load(sys.argv[1], extra_files=(facts := {"facts.json": ""}))
for count in (1, 5, 300):
    inputs = (torch.zeros(count, 8), *([torch.zeros(count, dtype=torch.int64)] * int(sys.argv[2])))
    print(tuple(program.module()(*inputs).shape))
assert "vitgan" not in sys.modules
print(facts["facts.json"])
"""


@pytest.mark.slow
def test_a_program_is_loaded_by_torch_alone_and_takes_any_batch(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "models" / "digits.pt2"
    capsys.readouterr()
    assert main(["export", str(run), "--format", "pt2", "--out", str(out)]) == 0
    said = capsys.readouterr()
    assert f'torch.export.load("{out}").module() takes z (B, 8) to images in [-1, 1], any B.' in said.out
    assert said.err == ""
    words = [sys.executable, "-c", LOADS, str(out), "0"]
    lines = subprocess.check_output(words, text=True, cwd=tmp_path).splitlines()
    assert lines[:3] == [f"({count}, 1, 8, 8)" for count in (1, 5, 300)]
    assert json.loads(lines[3]) == {"recipe": "digits", "images_seen": "12"}
    generator = vitgan.load(run)
    z = generator.latents(9, seed=3)
    with torch.no_grad():
        torch.testing.assert_close(torch.export.load(out).module()(z), generator(z), rtol=0, atol=1e-5)
    assert main(["export", str(run), "--format", "pt2", "--out", str(tmp_path)]) == 2
    assert "is a folder: give a file with --out, as generator.pt2" in capsys.readouterr().err


@pytest.mark.slow
def test_a_program_takes_labels_of_a_generator_with_classes(tmp_path: Path) -> None:
    generator = build("digits", classes=3)
    assert export_program(generator, tmp_path / "a.pt2", {}) <= 1e-5
    module, z = torch.export.load(tmp_path / "a.pt2").module(), generator.latents(4, seed=0)
    labels = torch.tensor([0, 2, 1, 0])
    torch.testing.assert_close(module(z, labels), generator.eval()(z, labels), rtol=0, atol=1e-5)


@pytest.mark.slow
def test_onnx_agrees_with_torch(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    onnx = pytest.importorskip("onnx")
    runtime = pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    out = tmp_path / "models" / "digits.onnx"
    capsys.readouterr()
    assert main(["export", str(run), "--format", "onnx", "--out", str(out)]) == 0
    said = capsys.readouterr()
    assert "opset 20, z (B, 8) to images in [-1, 1], any B." in said.out
    assert said.err == ""
    model = onnx.load(out)
    assert [(one.domain, one.version) for one in model.opset_import if not one.domain] == [("", 20)]
    facts = {p.key: p.value for p in model.metadata_props}
    assert facts == {"opset": "20", "recipe": "digits", "images_seen": "12"}
    assert described(model.graph.input) == {"z": ["batch", 8]}
    assert described(model.graph.output) == {"images": ["batch", 1, 8, 8]}
    generator = vitgan.load(run)
    session = runtime.InferenceSession(str(out), providers=["CPUExecutionProvider"])
    for count in (1, 2, 33):
        z = generator.latents(count, seed=count)
        (images,) = session.run(None, {"z": z.numpy()})
        assert np.abs(images - generator(z).numpy()).max() < 1e-4


def described(values: Any) -> dict[str, list[str | int]]:
    """Names and shapes of a graph's inputs or outputs."""
    shapes = {value.name: value.type.tensor_type.shape.dim for value in values}
    return {name: [side.dim_param or side.dim_value for side in shape] for name, shape in shapes.items()}


@pytest.mark.slow
@pytest.mark.parametrize("name", LABELLED)
def test_labels_are_an_input_of_their_own(name: str, tmp_path: Path) -> None:
    onnx = pytest.importorskip("onnx")
    runtime = pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    generator, out = build(name, classes=10), tmp_path / "file.onnx"
    assert export_onnx(generator, out, {}) < 1e-4
    size = generator.latent_dim
    assert described(onnx.load(out).graph.input) == {"z": ["batch", size], "labels": ["batch"]}
    session = runtime.InferenceSession(str(out), providers=["CPUExecutionProvider"])
    z, labels = generator.latents(1, seed=0).expand(10, -1), torch.arange(10)
    (images,) = session.run(None, {"z": z.numpy(), "labels": labels.numpy()})
    with torch.no_grad():
        assert np.abs(images - generator.eval()(z, labels).numpy()).max() < 1e-4
    assert np.abs(images[1:] - images[0]).max(axis=(1, 2, 3)).min() > 1e-3


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in SYSTEMS if name not in LABELLED])
def test_every_system_is_exported_to_onnx(name: str, tmp_path: Path) -> None:
    pytest.importorskip("onnxscript")
    assert export_onnx(build(name), tmp_path / "file.onnx", {}) < 1e-4


def test_onnx_that_differs_is_not_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("onnxscript")
    monkeypatch.setattr("vitgan.sharing.onnx.MOST_DIFFERENCE", 0.0)
    with pytest.raises(UserError, match="more than 0e\\+00: nothing was written"):
        export_onnx(build("digits-biggan-diffaug"), tmp_path / "a.onnx", {})
    assert list(tmp_path.glob("*.onnx")) == []
