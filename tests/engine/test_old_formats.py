"""Runs, exports and the package's weights as format 1 wrote them are read, sampled and gone on with.

What each drew then is kept beside them; another processor may round a pixel to the next level.
"""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

import vitgan
from tiny_runs import final, images_seen
from vitgan.cli import main
from vitgan.engine.checkpoint import checkpoints, load_checkpoint
from vitgan.engine.loggers import read_log
from vitgan.engine.supervised import load_classifier, load_siren

KEPT = Path(__file__).parents[1] / "fixtures" / "format1"
RUNS = ("biggan", "contrad", "digits", "stylegan2", "transgan", "unet")
EXPORTS = ("digits", "unet")
FOLDERS = {
    **{name: (f"run/{name}", 8) for name in RUNS},
    **{f"export-{name}": (f"exports/{name}", 8) for name in EXPORTS},
    "package-digits": ("package-digits", 16),
}
PARTS = [f"--{part}" for part in ("generator", "discriminator")]
SIZES = {"depth": "1", "width": "8", "heads": "2", "perceptron-width": "8"}
# The settings of the run `digits` that are not those of its recipe.
SETTINGS = [
    *(word for part in PARTS for name, value in SIZES.items() for word in (f"{part}.{name}", value)),
    *("--generator.latent-dim", "4", "--data.labels", "True", "--terms.r1.gamma", "0.1"),
    *("--training.batch", "16", "--training.sample-count", "4", "--training.checkpoint-every", "1000000"),
]


def copied(folder: str, tmp_path: Path) -> Path:
    return Path(shutil.copytree(KEPT / folder, tmp_path / "kept"))


def test_everything_that_is_kept_is_read_by_a_test() -> None:
    assert {path.name for path in (KEPT / "run").iterdir()} == {*RUNS, "classifier", "siren"}
    assert {path.name for path in (KEPT / "exports").iterdir()} == set(EXPORTS)
    assert {path.stem for path in (KEPT / "samples").iterdir()} == set(FOLDERS)


@pytest.mark.parametrize("name", FOLDERS)
def test_what_format_1_drew_is_drawn_again(name: str, tmp_path: Path) -> None:
    folder, count = FOLDERS[name]
    place = copied(folder, tmp_path)
    out = tmp_path / "images.npz"
    assert main(["sample", str(place), "--count", str(count), "--seed", "1", "--out", str(out)]) == 0
    drawn, kept = (np.load(path)["images"].astype(int) for path in (out, KEPT / "samples" / f"{name}.npz"))
    assert drawn.shape == kept.shape == (count, 8, 8, 1)
    apart = np.abs(drawn - kept)
    assert apart.max() <= 1
    assert (apart == 0).mean() >= 0.99
    by_call = vitgan.load(place).sample(count, seed=1).permute(0, 2, 3, 1).numpy()
    assert np.array_equal(by_call, drawn)


def test_a_classifier_of_format_1_is_loaded(tmp_path: Path) -> None:
    run = copied("run/classifier", tmp_path)
    found = load_classifier(run)
    tensors, description = load_checkpoint(checkpoints(run)[-1])
    loaded = found.network.state_dict()
    assert all(torch.equal(value, tensors[f"network.{name}"]) for name, value in loaded.items())
    assert found.classes == tuple("0123456789")
    assert found.accuracy == description["held_out"]["accuracy"]
    with torch.no_grad():
        logits = found.network(torch.zeros(3, 1, 8, 8))
    assert logits.shape == (3, 10)
    assert torch.isfinite(logits).all()


def test_an_image_fit_of_format_1_is_loaded(tmp_path: Path) -> None:
    run = copied("run/siren", tmp_path)
    fit = load_siren(run)
    tensors, _ = load_checkpoint(checkpoints(run)[-1])
    assert all(torch.equal(value, tensors[f"network.{name}"]) for name, value in fit.state_dict().items())
    image = fit.render(32, 32)
    assert image.shape[-2:] == (32, 32)
    assert torch.isfinite(image).all()
    assert image.std() > 0


@pytest.mark.usefixtures("no_curves")
def test_a_run_of_format_1_goes_on_by_the_same_command(tmp_path: Path) -> None:
    run = copied("run/digits", tmp_path)
    before, log = final(run), read_log(run)
    place = ["--out", str(run), "--device", "cpu", "--quiet"]
    assert main(["train", "digits", *SETTINGS, "--images", "64", *place]) == 0
    assert images_seen(run) == 64
    after = final(run)
    assert after.keys() == before.keys()
    assert all(torch.isfinite(value.float()).all() for value in after.values())
    weights = [name for name in before if name.startswith(("generator.", "discriminator.", "average."))]
    assert weights
    assert any(not torch.equal(before[name], after[name]) for name in weights)
    lines = read_log(run)
    assert lines[: len(log)] == log
    assert [line["images"] for line in lines] == [32, 64]
    events = [json.loads(line) for line in (run / "events.jsonl").read_text().splitlines()]
    assert [(event["event"], event["images"]) for event in events][-2:] == [("started", 32), ("complete", 64)]
