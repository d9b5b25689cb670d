"""The exported folder and its card: the same images, and what is damaged or newer is refused."""

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

import vitgan
from vitgan.cli import main
from vitgan.sharing import export_folder
from vitgan.sharing.export import _halved, _last_part


def test_an_exported_folder_gives_the_same_images(run: Path, exported: Path) -> None:
    assert {path.name for path in exported.iterdir()} == {
        *("config.json", "model.safetensors", "README.md", "samples.png")
    }
    expected = vitgan.load(run)
    for place in (exported, str(exported)):
        generator = vitgan.load(place)
        assert torch.equal(generator.sample(9, seed=4), expected.sample(9, seed=4))
    weights = load_file(exported / "model.safetensors")
    assert weights.keys() == expected.state_dict().keys()
    assert main(["sample", str(exported), "--count", "3", "--out", str(exported.parent / "a.npz")]) == 0
    assert len(np.load(exported.parent / "a.npz")["images"]) == 3


@pytest.mark.slow
def test_an_exported_folder_can_be_exported_and_measured_again(exported: Path, tmp_path: Path) -> None:
    assert main(["export", str(exported), "--out", str(tmp_path / "again")]) == 0
    files = [(folder / "model.safetensors").read_bytes() for folder in (exported, tmp_path / "again")]
    assert files[0] == files[1]
    words = ["evaluate", str(exported), "--features", "classifier", "--metrics", "fid", "--count", "20"]
    labelled = tmp_path / "labelled.npz"
    rng = np.random.default_rng(0)
    np.savez(labelled, images=rng.integers(0, 256, (60, 8, 8), dtype=np.uint8), labels=np.arange(60) % 2)
    scores = tmp_path / "scores.json"
    assert main([*words, "--data", str(labelled), "--json", str(scores)]) == 0
    words = ["export", str(exported), "--out", str(tmp_path / "scored"), "--evaluation", str(scores)]
    assert main([*words, "--license", "cc0-1.0"]) == 0
    card = (tmp_path / "scored" / "README.md").read_text()
    assert "classifier_frechet_distance" in card
    assert "license: cc0-1.0" in card
    assert main(["export", str(tmp_path / "scored"), "--out", str(tmp_path / "kept")]) == 0
    assert "license: cc0-1.0" in (tmp_path / "kept" / "README.md").read_text()


def test_an_export_in_half_precision_is_half_as_large_and_gives_its_own_pictures(
    run: Path, exported: Path, tmp_path: Path
) -> None:
    assert main(["export", str(run), "--out", str(tmp_path / "half"), "--half", "--quiet"]) == 0
    sizes = [(folder / "model.safetensors").stat().st_size for folder in (tmp_path / "half", exported)]
    assert sizes[0] < 0.7 * sizes[1]
    half, whole = vitgan.load(tmp_path / "half"), vitgan.load(exported)
    for name, weight in whole.state_dict().items():
        torch.testing.assert_close(half.state_dict()[name], weight.half().float(), rtol=0, atol=0)
    assert (half.sample(8).float() - whole.sample(8).float()).abs().max() <= 4


def test_a_weight_beyond_half_precision_is_refused() -> None:
    with pytest.raises(vitgan.UserError, match="beyond the range of half precision"):
        _halved({"weight": torch.tensor([1e5])})


def test_scores_are_left_out_of_an_export_whose_weights_were_rounded(tmp_path: Path) -> None:
    """The package's digits were measured in fp32: their card has scores, that of a rounded copy none."""
    for half in (False, True):
        export_folder("digits", tmp_path / str(half), half=half)
    cards = [(tmp_path / str(half) / "README.md").read_text() for half in (False, True)]
    assert ["classifier_frechet_distance" in card for card in cards] == [True, False]
    assert ["Not measured" in card for card in cards] == [False, True]


def test_the_card_says_what_it_is_and_how_to_load_it(exported: Path) -> None:
    card = (exported / "README.md").read_text()
    header, _, rest = card.removeprefix("---\n").partition("\n---\n")
    assert "library_name: vitgan" in header.splitlines()
    for text in ("# digits", "8 x 8 grey images", "13 images", "| images seen | 12, in batches of 4 |"):
        assert text in rest
    assert "Not measured (`vitgan evaluate`)." in rest
    code = rest.split("```python\n")[1].split("```")[0]
    found: dict[str, Any] = {}
    exec(code, found)
    assert found["images"].shape == (16, 1, 8, 8)
    with Image.open(exported / "samples.png") as picture:
        assert picture.size == (2 + 8 * 50, 2 + 8 * 50)


def test_an_export_of_the_packages_digits_keeps_its_licence_and_names_the_images(tmp_path: Path) -> None:
    assert main(["export", "digits", "--out", str(tmp_path / "out")]) == 0
    card = (tmp_path / "out" / "README.md").read_text()
    assert "license: mit" in card
    assert "Optical Recognition of Handwritten Digits" in card


def test_a_folder_with_other_files_is_left_alone(run: Path, tmp_path: Path, refused: Callable) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "letter.txt").write_text("dear")
    assert "holds other files" in refused(main(["export", str(run), "--out", str(tmp_path / "mine")]))
    assert [path.name for path in (tmp_path / "mine").iterdir()] == ["letter.txt"]


@pytest.mark.parametrize("name", ["config.json", "model.safetensors"])
@pytest.mark.parametrize("fault", ["truncated", "altered", "empty"])
def test_a_damaged_export_is_refused(name: str, fault: str, exported: Path, refused: Callable) -> None:
    file = exported / name
    data = bytearray(file.read_bytes())
    if fault == "altered":
        place = data.index(b'"images"') + 12 if name == "config.json" else len(data) - 3
        data[place] = ord("7") if data[place] != ord("7") else ord("8")
    file.write_bytes(data if fault == "altered" else data[: len(data) // 2 if fault == "truncated" else 0])
    said = refused(main(["sample", str(exported), "--out", str(exported.parent / "x.png")]))
    assert "is damaged" in said
    assert name in said


def test_an_export_of_a_newer_version_is_told(exported: Path, refused: Callable) -> None:
    whole = json.loads((exported / "config.json").read_text())
    whole["generator"]["format"] = 9
    text = json.dumps(whole["generator"], sort_keys=True)
    whole["sha256"] = hashlib.sha256(text.encode()).hexdigest()
    (exported / "config.json").write_text(json.dumps(whole))
    said = refused(main(["sample", str(exported), "--out", str(exported.parent / "x.png")]))
    assert "(format 9; this one knows" in said


def test_the_folders_of_the_images_can_be_hidden(run: Path, trained: Path, tmp_path: Path) -> None:
    scores = {"protocol": {"key": "k", "real": str(trained / "images.npy")}, "metrics": {"fid": 1.0}}
    (run / "evaluations.jsonl").write_text(json.dumps({"images": 12, **scores}) + "\n")
    export_folder(run, tmp_path / "mine")
    assert str(trained) in (tmp_path / "mine" / "config.json").read_text()
    export_folder(run, tmp_path / "public", hide_folders=True)
    card, config = ((tmp_path / "public" / name).read_text() for name in ("README.md", "config.json"))
    assert str(trained) not in card + config
    assert "| data | images.npy, 13 images" in card
    assert "| real | images.npy |" in card
    assert "| fid | 1 |" in card
    assert torch.equal(vitgan.load(tmp_path / "public").sample(3), vitgan.load(run).sample(3))


@pytest.mark.parametrize(
    ("source", "shown"),
    [
        ("/home/me/faces/", "faces"),
        ("~/faces.zip", "faces.zip"),
        (r"C:\Users\me\faces", "faces"),
        ("wds:/data/me/train-{000..099}.tar", "wds:train-{000..099}.tar"),
        ("wds:https://host/train.tar", "wds:https://host/train.tar"),
        ("faces/small", "faces/small"),
        ("hf:me/faces", "hf:me/faces"),
        ("digits", "digits"),
    ],
)
def test_only_whole_paths_are_shortened(source: str, shown: str) -> None:
    assert _last_part(source) == shown
