"""The package's own calls: `vitgan.load` and `vitgan.train`."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import vitgan
from vitgan.engine.checkpoint import checkpoints, load_checkpoint

# vitgan.load and vitgan.train


def test_a_loaded_generator_maps_latents_to_images(trained_run: Path) -> None:
    generator = vitgan.load(str(trained_run))
    assert not generator.training
    assert not any(parameter.requires_grad for parameter in generator.parameters())
    assert generator.latent_dim == 5
    images = generator(torch.randn(3, 5))
    assert images.shape == (3, 1, 8, 8)
    assert images.dtype == torch.float32
    assert images.abs().max() <= 1
    samples = generator.sample(3, seed=4)
    assert samples.shape == (3, 1, 8, 8)
    assert samples.dtype == torch.uint8
    assert samples.float().std() > 0
    expected = (generator(generator.latents(3, seed=4)) + 1) * 127.5
    assert (samples.float() - expected).abs().max() <= 0.51


def test_what_is_loaded_is_the_average(trained_run: Path) -> None:
    tensors, _ = load_checkpoint(checkpoints(trained_run)[-1])
    loaded = vitgan.load(trained_run).state_dict()
    assert all(torch.equal(value, tensors[f"average.{name}"]) for name, value in loaded.items())
    assert any(not torch.equal(value, tensors[f"generator.{name}"]) for name, value in loaded.items())


def test_one_checkpoint_is_loaded_by_its_folder(trained_run: Path) -> None:
    last, before = (
        vitgan.load(folder).sample(4)
        for folder in (checkpoints(trained_run)[-1], checkpoints(trained_run)[-2])
    )
    assert torch.equal(last, vitgan.load(trained_run).sample(4))
    assert not torch.equal(last, before)


@pytest.mark.parametrize("content", ["", "{", json.dumps({"checkpoint": {}, "sha256": ""})])
def test_a_damaged_checkpoint_is_said(content: str, tmp_path: Path) -> None:
    (tmp_path / "checkpoint.json").write_text(content)
    with pytest.raises(vitgan.UserError, match="is damaged"):
        vitgan.load(tmp_path)


def test_a_path_that_is_none_is_refused(tmp_path: Path) -> None:
    with pytest.raises(vitgan.UserError, match="is not a run folder"):
        vitgan.load(tmp_path / "nothing")


def test_training_an_unknown_recipe_by_call() -> None:
    with pytest.raises(vitgan.UserError, match="no recipe"):
        vitgan.train("digit")


FIGURES = """
import sys, os
import numpy as np
from vitgan.engine import report
from vitgan.bench import scaling
from vitgan.diagnostics import figures
from vitgan.explore import images
from vitgan.tables import figure
assert report._drawn({"a": (np.arange(9.0), np.arange(9.0))}, logarithmic=False).startswith("<?xml")
figures.Figure().savefig(os.devnull, format="png")
print(os.environ["MPLBACKEND"])
"""


@pytest.mark.parametrize("backend", ["module://nobody.has.this.backend", "nobody has this backend", "Qt5Agg"])
def test_figures_do_not_depend_on_an_inherited_backend(backend: str) -> None:
    environment = os.environ | {"MPLBACKEND": backend}
    words = [sys.executable, "-c", FIGURES]
    ended = subprocess.run(words, env=environment, capture_output=True, text=True, check=False)
    assert (ended.stdout.strip(), ended.returncode) == (backend, 0), ended.stderr


def test_matplotlib_keeps_the_backend_that_a_notebook_has_set() -> None:
    code = (
        "from vitgan.compat import importing_matplotlib\n"
        "with importing_matplotlib():\n    import matplotlib\nprint(matplotlib.rcParams['backend'])"
    )
    words = [sys.executable, "-c", code]
    environment = os.environ | {"MPLBACKEND": "pdf"}
    assert subprocess.check_output(words, env=environment, text=True).strip() == "pdf"
