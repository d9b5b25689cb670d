"""Runs that begin with the weights of another run, and `vitgan resume`."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

import vitgan
from tiny_runs import Command, final
from vitgan import recipes
from vitgan.cli import main
from vitgan.engine.gan import build_networks, fitted, layers
from vitgan.engine.run_folder import standing

Refused = Callable[..., str]


@pytest.fixture
def begun(tiny_train: Command, tmp_path: Path) -> Path:
    assert tiny_train(tmp_path / "begun", "--images", "16", "--quiet") == 0
    return tmp_path / "begun"


def test_a_run_begins_with_all_weights_of_a_run_of_the_same_networks(
    begun: Path, tiny_train: Command, tmp_path: Path
) -> None:
    words = ("--init-from", begun, "--images", "4", "--optimiser-generator.learning-rate", "0")
    assert (
        tiny_train(tmp_path / "new", *words, "--optimiser-discriminator.learning-rate", "0", "--quiet") == 0
    )
    before, after = final(begun), final(tmp_path / "new")
    for name in before:
        if name.startswith(("generator.", "discriminator.")) and "spectral" not in name:
            assert torch.equal(before[name], after[name]), name


def test_with_labels_and_another_side_what_fits_is_taken_and_the_rest_named(
    begun: Path, tiny_train: Command, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    np.savez(
        tmp_path / "set.npz",
        images=np.random.default_rng(0).integers(0, 256, (12, 16, 16), dtype=np.uint8),
        labels=np.arange(12) % 3,
    )
    words = ("--data", tmp_path / "set.npz", "--data.labels", "true", "--data.resolution", "16")
    assert tiny_train(tmp_path / "new", *words, "--init-from", begun, "--images", "4") == 0
    said = capsys.readouterr().err
    assert "anew: mapping.label.weight" in said
    assert f"From {begun}: discriminator" in said
    old, new = final(begun), final(tmp_path / "new")
    assert new["generator.position"].shape[1] == 4 * old["generator.position"].shape[1]
    # A run that has begun needs its source no more.
    assert main(["resume", str(tmp_path / "new"), "--images", "8", "--quiet"]) == 0


def test_positions_of_another_grid_are_interpolated_and_a_class_token_kept() -> None:
    own = {"position": torch.zeros(1, 65, 2), "weight": torch.zeros(3)}
    ramp = torch.linspace(-1, 1, 4).repeat(4, 1)
    grid = torch.stack((ramp, ramp.T), -1).flatten(0, 1)
    found = {"position": torch.cat((torch.full((1, 1, 2), 9.0), grid[None]), 1), "weight": torch.ones(4)}
    state, left = fitted(own, found)
    assert left == ["weight"]
    assert (state["position"][0, 0] == 9).all()
    new = state["position"][0, 1:].unflatten(0, (8, 8))
    assert (new[:, 1:, 0] > new[:, :-1, 0]).all()
    assert torch.allclose(new[..., 0], new[..., 1].T, atol=1e-5)


def test_frozen_layers_of_the_discriminator_keep_their_weights(
    begun: Path, tiny_train: Command, tmp_path: Path
) -> None:
    words = ("--init-from", begun, "--start.freeze", "2", "--images", "16", "--quiet")
    assert tiny_train(tmp_path / "new", *words) == 0
    before, after = final(begun), final(tmp_path / "new")
    same = {
        name.split(".")[1]
        for name in before
        if name.startswith("discriminator.") and torch.equal(before[name], after[name])
    }
    moved = {
        name.split(".")[1]
        for name in before
        if name.startswith("discriminator.") and not torch.equal(before[name], after[name])
    }
    assert {"embed", "blocks"} <= same
    assert {"head", "position"} <= moved
    assert not {"embed", "blocks"} & moved


@pytest.mark.parametrize("recipe", ["digits", "mnist", "digits-stylegan2", "digits-unet-d"])
def test_the_layers_of_a_discriminator_are_those_with_weights_stem_first(recipe: str) -> None:
    discriminator = build_networks(recipes.get(recipe), None)[1]
    found = layers(discriminator)
    own = [parameter for layer in found for parameter in layer.parameters()]
    direct = {id(parameter) for parameter in discriminator.parameters(recurse=False)}
    assert [id(p) for p in own] == [id(p) for p in discriminator.parameters() if id(p) not in direct]
    assert len(found) > 3


def test_what_fits_nothing_is_refused(tiny_train: Command, tmp_path: Path, refused: Refused) -> None:
    words = ("--init-from", "mnist", "--images", "4", "--generator.width", "12", "--generator.heads", "2")
    assert "No weight of mnist fits" in refused(tiny_train(tmp_path / "new", *words), alone=False)
    assert "nowhere is not a run folder" in refused(
        tiny_train(tmp_path / "other", "--init-from", "nowhere"), alone=False
    )


def test_python_begins_with_the_weights_of_a_run(begun: Path, tmp_path: Path) -> None:
    recipe = standing(begun)[0]
    vitgan.train(recipe, out=tmp_path / "new", init_from=begun, device="cpu", quiet=True)
    said = json.loads((tmp_path / "new" / "recipe.json").read_text())["start"]
    assert said["source"] == str(begun)
    with pytest.raises(vitgan.UserError, match="init_from"):
        vitgan.train("siren-small", out=tmp_path / "siren", init_from=begun, device="cpu", quiet=True)


def test_resume_goes_on_by_the_run_s_own_recipe(begun: Path, refused: Refused) -> None:
    settings = (begun / "recipe.json").read_text()
    assert "as many as it was to: give more in all, --minutes 1 or --images 32" in refused(
        main(["resume", str(begun)])
    )
    assert main(["resume", str(begun), "--images", "32", "--quiet"]) == 0
    assert max(int(path.name) for path in (begun / "checkpoints").iterdir()) == 32
    changed = (begun / "recipe.json").read_text()
    assert settings.replace('"images": 16', '"images": 32') == changed


@pytest.mark.parametrize(
    ("name", "sentence"),
    [("nothing", "is not a run folder"), ("empty", "has no checkpoint yet"), ("file", "is a file")],
)
def test_resume_of_what_is_no_run_is_refused(
    name: str, sentence: str, tmp_path: Path, refused: Refused
) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").touch()
    assert sentence in refused(main(["resume", str(tmp_path / name)]))


def test_a_refusal_for_other_settings_names_the_way_to_begin_from_the_run(
    begun: Path, tiny_train: Command, tmp_path: Path, refused: Refused
) -> None:
    assert f"--out ANOTHER --init-from {begun}" in refused(tiny_train(begun, "--data.flip", "true"))
    np.save(tmp_path / "other.npy", np.zeros((5, 8, 8), dtype=np.uint8))
    said = refused(tiny_train(begun, "--data", tmp_path / "other.npy", "--images", "32"))
    assert f"--out ANOTHER --init-from {begun}" in said
