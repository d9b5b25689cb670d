"""A generator for others: the exported folder and its card, ONNX, torch.export, names, the Hub."""

import hashlib
import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

import vitgan
from sizes import TINY
from standin_hub import Hub
from vitgan.cli import main
from vitgan.engine.gan import Recipe
from vitgan.errors import UserError
from vitgan.models import Generator
from vitgan.sharing import export_folder, find
from vitgan.sharing.export import _last_part
from vitgan.sharing.onnx import export_onnx, exported_program

SYSTEMS = [
    *("digits", "digits-a-linear", "digits-b-neurrep", "digits-stylegan2", "digits-biggan-diffaug"),
    "digits-transgan-xl",
]
LABELLED = ["digits", "digits-biggan-diffaug"]  # exported with classes


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twelve images seen of thirteen."""
    folder = tmp_path_factory.mktemp("sharing")
    images = np.random.default_rng(0).integers(0, 256, (13, 8, 8), dtype=np.uint8)
    np.save(folder / "images.npy", images)
    words = ["train", "digits", "--data", str(folder / "images.npy"), "--out", str(folder / "run")]
    with mock.patch("vitgan.engine.report.panels", return_value=[]):
        assert main([*words, "--images", "12", "--device", "cpu", "--quiet", *TINY]) == 0
    return folder


@pytest.fixture
def run(trained: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(trained / "run", tmp_path / "run"))


@pytest.fixture
def exported(run: Path, tmp_path: Path) -> Path:
    assert main(["export", str(run), "--out", str(tmp_path / "exported")]) == 0
    return tmp_path / "exported"


def build(name: str, classes: int = 0) -> Generator:
    """As training makes it: its weights ask for gradients."""
    recipe = vitgan.recipes.get(name)
    assert isinstance(recipe, Recipe)
    torch.manual_seed(0)
    sizes = {"resolution": recipe.data.resolution, "channels": recipe.data.channels}
    return recipe.generator.build(**sizes, classes=classes)


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
    assert "newer vitgan (format 9)" in said


# torch.export and ONNX


@pytest.mark.parametrize("name", SYSTEMS)
def test_torch_export_takes_any_number_of_latents(name: str) -> None:
    generator = build(name)
    program = exported_program(generator)
    generator.eval()
    for count in (1, 5):
        z = generator.latents(count, seed=count)
        torch.testing.assert_close(program.module()(z), generator(z), rtol=0, atol=1e-5)


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


def test_without_the_libraries_the_command_that_installs_them_is_named(
    run: Path, monkeypatch: pytest.MonkeyPatch, refused: Callable, tmp_path: Path
) -> None:
    monkeypatch.setitem(sys.modules, "onnx", None)
    said = refused(main(["export", str(run), "--format", "onnx", "--out", str(tmp_path / "a.onnx")]))
    assert 'pip install "vitgan[export]"' in said
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    assert 'pip install "vitgan[hub]"' in refused(main(["push", str(run), "me/digits"]))


# Names


def test_the_packages_own_digits_are_there_without_training(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["sample", "digits", "--out", "grid.png"]) == 0
    folder = find("digits")
    assert (folder / "model.safetensors").stat().st_size < 2 * 2**20
    images = vitgan.load("digits").sample(100, seed=0)
    assert images.shape == (100, 1, 8, 8)
    assert images.float().std(0).mean() > 20


def test_a_folder_comes_before_a_name_and_a_missing_one_is_no_id(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, refused: Callable
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "digits").mkdir()
    assert find("digits") == Path("digits")
    monkeypatch.setattr("vitgan.sharing.hub.fetch", lambda identity: pytest.fail(f"asked for {identity}"))
    (tmp_path / "runs").mkdir()
    assert "is not a run folder" in refused(main(["sample", "runs/digtis", "--out", "x.png"]))
    assert find("a/b/c") == Path("a/b/c")


# The Hub


def test_what_is_pushed_can_be_loaded_by_its_id(hub: Hub, run: Path, trained: Path, tmp_path: Path) -> None:
    sample = ["sample", "me/digits", "--count", "5", "--seed", "3", "--out"]
    pushed, drawn, again, measured = hub.run(
        ["push", run, "me/digits", "--license", "CC0-1.0"],
        [*sample, "there.npz"],
        ["sample", "hf:me/digits", "--out", "again.png"],
        ["evaluate", "me/digits", "--data", "nowhere"],
    )
    assert pushed.code == 0, pushed.err
    assert 'vitgan.load("me/digits") loads it' in pushed.out
    files = hub.repositories["me/digits"]
    assert {*files} == {"config.json", "model.safetensors", "README.md", "samples.png"}
    assert b'vitgan.load("me/digits")' in files["README.md"]
    assert b"license: cc0-1.0\n" in files["README.md"]
    assert not any(str(trained).encode() in content for content in files.values())
    assert (drawn.code, drawn.err, again.code, again.err) == (0, "", 0, "")
    there = np.load(tmp_path / "there.npz")["images"]
    assert np.array_equal(there, vitgan.load(run).sample(5, seed=3).permute(0, 2, 3, 1).numpy())
    assert hub.downloaded.count("me/digits/model.safetensors") == 1
    assert "There is no image source 'nowhere'" in measured.err


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


def test_without_a_right_token_nothing_is_pushed(hub: Hub, run: Path) -> None:
    (done,) = hub.run(["push", run, "me/digits"], token="hf_wrong")
    assert done.code == 2
    assert "log in with `hf auth login`" in done.err
    assert len(done.err.splitlines()) == 1
    assert hub.repositories == {}
