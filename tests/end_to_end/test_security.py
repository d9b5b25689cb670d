"""What others may have made: nothing of it is run, and nothing is believed that does not fit."""

import hashlib
import json
import os
import socket
import string
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

import vitgan
from hostile import pickles, pictures
from tiny_runs import Command, final, images_seen
from vitgan.cli import main
from vitgan.data import DataOptions
from vitgan.data.sources import arrays
from vitgan.engine import checkpoint as checkpoint_module
from vitgan.engine.checkpoint import DESCRIPTION, TENSORS, checkpoints, load_checkpoint, save_checkpoint
from vitgan.engine.recipe import FORMAT
from vitgan.errors import UserError
from vitgan.metrics.extractors import tensors_only
from vitgan.metrics.protocol import Cache

pytestmark = [pytest.mark.faults, pytest.mark.usefixtures("no_curves")]

Refused = Callable[..., str]
Tensors = dict[str, torch.Tensor]


@pytest.fixture
def run(tiny_train: Command, tmp_path: Path) -> Path:
    """A tiny run with checkpoints at 4 and 8 images."""
    assert tiny_train(tmp_path / "run", "--images", "8", "--training.checkpoint-every", "4", "--quiet") == 0
    return tmp_path / "run"


def reseal(folder: Path, change: Callable[[dict[str, Any]], object] = lambda _: None) -> None:
    """Give a checkpoint the checksums of what it holds now, its description changed."""
    body = json.loads((folder / DESCRIPTION).read_text())["checkpoint"]
    body["sha256"] = hashlib.sha256((folder / TENSORS).read_bytes()).hexdigest()
    change(body)
    checksum = hashlib.sha256(json.dumps(body, sort_keys=True).encode()).hexdigest()
    (folder / DESCRIPTION).write_text(json.dumps({"checkpoint": body, "sha256": checksum}))


USES: dict[str, list[str]] = {
    "a run to sample": ["sample", "FILE", "--out", "out.png"],
    "a run to inspect": ["inspect", "FILE", "--out", "out"],
    "generated images": ["evaluate", "FILE", "--data", "images.npy", "--features", "classifier"],
    "a recipe": ["train", "FILE"],
    "images to train on": ["train", "digits", "--data", "FILE", "--out", "out", "--images", "4"],
    "real images": ["evaluate", "images.npy", "--data", "FILE", "--features", "classifier"],
    "features": ["evaluate", "images.npy", "--data", "images.npy", "--features", "FILE"],
    "a source": ["data", "info", "FILE"],
}


@pytest.mark.parametrize("words", USES.values(), ids=USES)
def test_no_file_is_unpickled(
    words: list[str], images: Path, refused: Refused, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(images.parent)
    for name, content in pickles(tmp_path / "trace").items():
        Path(name).write_bytes(content)
        code = main([name if word == "FILE" else word for word in words])
        refused(code)
        assert not (tmp_path / "trace").exists(), name


def test_the_traps_work(tmp_path: Path) -> None:
    """They leave their trace where they are loaded with trust."""
    contents = pickles(tmp_path / "trace")
    for name in ("new.pt", "old.pth"):
        (tmp_path / name).write_bytes(contents[name])
        torch.load(tmp_path / name, weights_only=False)
        (tmp_path / "trace").rmdir()
        with tensors_only(), pytest.raises(Exception, match=r"weights_only|Weights only"):
            torch.load(tmp_path / name, weights_only=False)
        assert not (tmp_path / "trace").exists()
    for name in ("objects.npy", "objects.npz"):
        (tmp_path / name).write_bytes(contents[name])
        found = np.load(tmp_path / name, allow_pickle=True)
        _ = found["labels"] if name.endswith("z") else found
        (tmp_path / "trace").rmdir()


@pytest.mark.parametrize("name", ["tensors.safetensors", "checkpoint.json"])
def test_no_part_of_a_run_is_unpickled(name: str, run: Path, refused: Refused, tmp_path: Path) -> None:
    for content in pickles(tmp_path / "trace").values():
        for folder in checkpoints(run):
            (folder / name).write_bytes(content)
            if name == TENSORS:
                reseal(folder)
        (run / "recipe.json").write_bytes(content)
        assert "damaged" in refused(main(["sample", str(run), "--out", str(tmp_path / "out.png")]))
        assert not (tmp_path / "trace").exists()


def test_no_keys_of_lsun_are_unpickled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """torchvision keeps them as a pickle, by the letters of the folder's path."""
    lmdb = pytest.importorskip("lmdb")
    monkeypatch.setenv("VITGAN_DATA", str(tmp_path))
    folder = tmp_path.resolve() / "bedroom_train_lmdb"
    with lmdb.open(str(folder)) as bedrooms, bedrooms.begin(write=True) as entries:
        Image.new("RGB", (8, 8)).save(tmp_path / "one.png")
        entries.put(b"one", (tmp_path / "one.png").read_bytes())
    kept = "_cache_" + "".join(letter for letter in str(folder) if letter in string.ascii_letters)
    for place in (tmp_path, folder):
        (place / kept).write_bytes(pickles(tmp_path / "trace")["plain.pkl"])
    monkeypatch.chdir(tmp_path)
    images = DataOptions(source="lsun-bedroom", resolution=8, memory_mib=0).build()
    assert len(images) == 1
    assert not (tmp_path / "trace").exists()


def test_no_result_that_was_kept_is_unpickled(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """An entry with right checksums is not either."""
    cache = Cache(tmp_path)
    for content in pickles(tmp_path / "trace").values():
        cache.save("real", "k", {}, {})
        body = {"tensors": hashlib.sha256(content).hexdigest(), "description": {}}
        checksum = hashlib.sha256(json.dumps(body, sort_keys=True).encode()).hexdigest()
        (cache.folder / "real-k.json").write_text(json.dumps({"entry": body, "sha256": checksum}))
        (cache.folder / "real-k.safetensors").write_bytes(content)
        assert cache.load("real", "k") is None
        (cache.folder / "real-k.json").write_bytes(content)
        assert cache.load("real", "k") is None
        assert not (tmp_path / "trace").exists()
    assert "damaged" in caplog.text


@pytest.mark.parametrize("name", ["clip-rn50", "dinov2-vit-s-14"])
def test_no_extractor_runs_code_that_it_downloads(name: str, images: Path, refused: Refused) -> None:
    words = ["evaluate", str(images), "--data", str(images), "--features", name]
    assert "runs code that it downloads" in refused(main(words))


def test_a_kept_classifier_of_another_shape_is_trained_again() -> None:
    from vitgan.metrics.classifier import ClassifierOptions, _fits

    classifier = ClassifierOptions(width=4, features=8).build(resolution=8, channels=1, classes=2)
    state, facts = classifier.state_dict(), {"accuracy": 0.5, "held_out": 3}
    assert _fits(classifier, state, facts)
    assert not _fits(classifier, state, {"accuracy": "0.5", "held_out": 3})
    assert not _fits(classifier, state, {})
    assert not _fits(classifier, {**state, "more": torch.zeros(1)}, facts)
    assert not _fits(classifier, {**state, "head.bias": torch.zeros(3)}, facts)


def lacks(state: Tensors) -> None:
    del state["average.position"]


def has_more(state: Tensors) -> None:
    state["average.more"] = torch.zeros(1)


def has_another_shape(state: Tensors) -> None:
    state["average.position"] = torch.zeros(1, 4, 16)


def has_another_type(state: Tensors) -> None:
    state["average.position"] = state["average.position"].double()


def is_not_finite(state: Tensors) -> None:
    state["average.position"][0, 0, 0] = torch.inf


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (lacks, "'position' is missing"),
        (has_more, "there is no 'more'"),
        (has_another_shape, r"position has the shape \(1, 4, 16\), not \(1, 16, 8\)"),
        (has_another_type, "position has the type torch.float64, not torch.float32"),
        (is_not_finite, r"not finite \(average.position\)"),
    ],
)
def test_weights_that_do_not_fit_are_named(spoil: Callable[[Tensors], None], said: str, run: Path) -> None:
    folder = checkpoints(run)[-1]
    state, _ = load_checkpoint(folder)
    spoil(state)
    save_file(state, folder / TENSORS)
    reseal(folder)
    with pytest.raises(UserError, match=said):
        vitgan.load(run)


def grow_width(recipe: dict[str, Any]) -> None:
    recipe["generator"]["width"] = recipe["discriminator"]["width"] = 2**16


def grow_depth(recipe: dict[str, Any]) -> None:
    recipe["generator"].update(depth=1000, perceptron_width=2**16)
    recipe["discriminator"].update(depth=1000, perceptron_width=2**16)


def grow_latent(recipe: dict[str, Any]) -> None:
    recipe["generator"]["latent_dim"] = 10**30


@pytest.mark.parametrize("grow", [grow_width, grow_depth, grow_latent])
@pytest.mark.parametrize("command", ["sample", "inspect"])
def test_a_recipe_larger_than_its_weights_takes_no_memory(
    grow: Callable[[dict[str, Any]], None], command: str, run: Path, refused: Refused, tmp_path: Path
) -> None:
    resource = pytest.importorskip("resource")
    reseal(checkpoints(run)[-1], lambda body: grow(body["recipe"]))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    words = [command, str(run), "--out", str(tmp_path / "out"), "--count", "4"]
    said = refused(main(words))
    assert "do not fit its recipe" in said or "must be at most" in said
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 300 * 1024  # KiB


def test_classes_that_the_weights_do_not_have_are_refused(run: Path) -> None:
    reseal(checkpoints(run)[-1], lambda body: body.update(classes=2**31))
    with pytest.raises(UserError, match="do not fit its recipe"):
        vitgan.load(run)


def test_a_resumed_run_compares_before_it_loads(run: Path, tiny_train: Command, refused: Refused) -> None:
    folder = checkpoints(run)[-1]
    state, _ = load_checkpoint(folder)
    names = ["discriminator.position", "optimiser_generator.position.exp_avg", "generator.position"]
    for name in names:
        save_file({**state, name: torch.zeros(3)}, folder / TENSORS)
        reseal(folder)
        said = refused(tiny_train(run, "--images", "12", "--training.checkpoint-every", "4"), alone=False)
        assert f"The checkpoint's {name.split('.')[0]} does not fit the recipe" in said
        assert images_seen(run) == 8


def test_a_run_goes_on_from_the_checkpoint_before_one_of_a_newer_version(
    run: Path, tiny_train: Command, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    state, description = load_checkpoint(checkpoints(run)[-1])
    before = final(run)
    with monkeypatch.context() as patch:
        patch.setattr(checkpoint_module, "FORMAT", FORMAT + 1)
        save_checkpoint(run, 8, state, {**description, "format": FORMAT + 1, "images": 8})
    (run / "recipe.json").unlink()
    assert tiny_train(run, "--images", "8", "--training.checkpoint-every", "4") == 0
    said = [line for line in capsys.readouterr().err.splitlines() if "newer" in line]
    assert len(said) == 1
    assert f"(format {FORMAT + 1}; this one knows {FORMAT})" in said[0]
    assert "pip install --upgrade vitgan" in said[0]
    assert "using the one before it" in said[0]
    after = final(run)  # 4 images more from the checkpoint before: the same bits
    assert all(torch.equal(tensor, before[name]) for name, tensor in after.items())


def test_an_npz_that_would_fill_the_memory_is_not_unpacked(
    refused: Refused, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The bound is lowered here: a file of 1 GiB would take seconds to make."""
    path = tmp_path / "bomb.npz"
    np.savez_compressed(path, images=np.zeros((2**16, 8, 8), np.uint8))
    assert main(["data", "info", str(path)]) == 0
    monkeypatch.setattr(arrays, "UNPACKED", 2**20)
    with mock.patch.object(np.lib.npyio.NpzFile, "__getitem__", side_effect=AssertionError):
        assert "images.npy unpacks to 4 MiB" in refused(main(["data", "info", str(path)]))


@pytest.mark.parametrize("count", [10**12, 10**17])
def test_more_images_than_memory_are_refused(count: int, run: Path, refused: Refused, tmp_path: Path) -> None:
    words = ["sample", str(run), "--count", str(count), "--out", str(tmp_path / "out.png")]
    assert "not enough memory" in refused(main(words))


def test_names_that_are_no_text_are_printed(tmp_path: Path) -> None:
    folder = tmp_path / os.fsdecode(b"images\xff")
    try:
        folder.mkdir()
    except OSError:
        pytest.skip("this file system has no such names")
    Image.new("RGB", (8, 8)).save(folder / "good.png")
    (folder / os.fsdecode(b"bad\xfe.png")).write_bytes(b"none")
    code = "from vitgan.cli import main; import sys; sys.exit(main())"
    words = [sys.executable, "-c", code, "data", "info", str(folder)]
    done = subprocess.run(words, capture_output=True, text=True, env=os.environ | {"PYTHONUTF8": "1"})
    assert done.returncode == 0, done.stderr
    assert "bad\\udcfe.png" in done.stdout


@pytest.mark.usefixtures("quick_classifier")
def test_nothing_asks_for_the_network(
    tiny: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    asked: list[Any] = []
    connect = socket.socket.connect

    def note(own: socket.socket, address: Any) -> None:
        if own.family in (socket.AF_INET, socket.AF_INET6):
            asked.append(address)
            raise OSError("no network")
        connect(own, address)

    def no_names(*names: Any, **_: Any) -> Any:
        asked.append(names)
        raise OSError("no network")

    monkeypatch.setattr(socket.socket, "connect", note)
    monkeypatch.setattr(socket, "getaddrinfo", no_names)
    monkeypatch.setenv("VITGAN_CACHE", str(tmp_path / "cache"))
    labelled = tmp_path / "labelled.npz"
    rng = np.random.default_rng(0)
    np.savez(labelled, images=rng.integers(0, 256, (60, 8, 8), dtype=np.uint8), labels=np.arange(60) % 2)
    run, device = str(tmp_path / "run"), ["--device", "cpu"]
    commands = [
        ["train", "digits", "--out", run, "--images", "4", *device, *tiny],
        ["sample", run, "--count", "2", "--out", str(tmp_path / "out.png")],
        ["evaluate", str(labelled), "--data", str(labelled), "--features", "classifier", "--metrics", "fid"],
        ["inspect", run, "--count", "2", *device, "--out", str(tmp_path / "inspect")],
        ["data", "info", "digits"],
        ["list"],
    ]
    for words in commands:
        assert main(words) == 0, words
    for words in (["bench", "--help"], ["train", "--help"]):
        with pytest.raises(SystemExit):
            main(words)
    capsys.readouterr()
    assert asked == []


MEASURED = """
import json, logging, resource, sys
from vitgan.data import DataOptions
logging.disable()
DataOptions(source=sys.argv[1] + "/good", resolution=8, channels=3).build()
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
images = DataOptions(source=sys.argv[1], resolution=8, channels=3, memory_mib=int(sys.argv[2])).build()
images.get(range(len(images)))
grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
print(json.dumps({"mib": grown / 1024, "skipped": {item.name: item.reason for item in images.skipped}}))
"""


@pytest.mark.parametrize("memory_mib", [4096, 0], ids=["in memory", "read as needed"])
def test_pictures_that_would_fill_the_memory_are_named_and_left_out(memory_mib: int, tmp_path: Path) -> None:
    pytest.importorskip("resource")
    (tmp_path / "good").mkdir()
    Image.new("RGB", (8, 8), "red").save(tmp_path / "good" / "good.png")
    bombs = pictures()
    for name, content in bombs.items():
        (tmp_path / name).write_bytes(content)
    done = subprocess.run(
        [sys.executable, "-c", MEASURED, str(tmp_path), str(memory_mib)],
        capture_output=True,
        text=True,
        check=True,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )
    found = json.loads(done.stdout)
    assert found["skipped"].keys() == bombs.keys()
    assert found["mib"] < 100
    large = {name for name, reason in found["skipped"].items() if "larger than 64 megapixels" in reason}
    # What is packed beside the pixels is another matter, and Pillow 12.3's WebP refuses the canvas itself.
    assert large >= bombs.keys() - {"text.png", "profile.png", "words.png", "canvas.webp"}
