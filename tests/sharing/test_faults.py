"""Generators that others exported or put on the Hub: nothing of them is run, or believed unseen."""

import hashlib
import json
import shutil
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

import vitgan
from hostile import pickles
from standin_hub import Hub
from vitgan.cli import main
from vitgan.errors import UserError
from vitgan.sharing import find

pytestmark = pytest.mark.faults

Refused = Callable[..., str]
Tensors = dict[str, torch.Tensor]


@pytest.fixture
def exported(tmp_path: Path) -> Path:
    """A copy of the package's own digits."""
    return Path(shutil.copytree(find("digits"), tmp_path / "exported"))


def reseal(folder: Path, change: Callable[[dict[str, Any]], object] = lambda _: None) -> None:
    """Give an export the checksums of what it holds now, its description changed."""
    whole = json.loads((folder / "config.json").read_text())
    body = whole["generator"]
    body["sha256"] = hashlib.sha256((folder / "model.safetensors").read_bytes()).hexdigest()
    change(body)
    whole["sha256"] = hashlib.sha256(json.dumps(body, sort_keys=True).encode()).hexdigest()
    (folder / "config.json").write_text(json.dumps(whole))


def test_a_sealed_copy_is_loaded(exported: Path) -> None:
    reseal(exported)
    own = vitgan.load("digits").sample(4)
    assert torch.equal(vitgan.load(exported).sample(4), own)


@pytest.mark.parametrize("name", ["model.safetensors", "config.json"])
def test_nothing_of_an_export_is_unpickled(
    name: str, exported: Path, refused: Refused, tmp_path: Path
) -> None:
    for content in pickles(tmp_path / "trace").values():
        (exported / name).write_bytes(content)
        if name == "model.safetensors":
            reseal(exported)
        said = refused(main(["sample", str(exported), "--out", str(tmp_path / "out.png")]))
        assert f"{name} cannot be read" in said
        assert not (tmp_path / "trace").exists()


def lacks(state: Tensors) -> None:
    del state["position"]


def has_more(state: Tensors) -> None:
    state["more"] = torch.zeros(1)


def has_another_shape(state: Tensors) -> None:
    state["position"] = torch.zeros(1, 4, 64)


def has_another_type(state: Tensors) -> None:
    state["position"] = state["position"].double()


def is_not_finite(state: Tensors) -> None:
    state["position"][0, 0, 0] = torch.nan


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (lacks, "'position' is missing"),
        (has_more, "there is no 'more'"),
        (has_another_shape, r"position has the shape \(1, 4, 64\), not \(1, 16, 64\)"),
        (has_another_type, "position has the type torch.float64, not torch.float32"),
        (is_not_finite, r"not finite \(average.position\)"),
    ],
)
def test_weights_of_an_export_that_do_not_fit_its_recipe_are_named(
    spoil: Callable[[Tensors], None], said: str, exported: Path
) -> None:
    state = load_file(exported / "model.safetensors")
    spoil(state)
    save_file(state, exported / "model.safetensors")
    reseal(exported)
    with pytest.raises(UserError, match=said):
        vitgan.load(exported)


@pytest.mark.parametrize("sizes", [{"width": 2**16}, {"depth": 1000, "perceptron_width": 2**16}])
def test_an_export_whose_recipe_is_larger_than_its_weights_takes_no_memory(
    sizes: dict[str, int], exported: Path
) -> None:
    resource = pytest.importorskip("resource")
    reseal(exported, lambda body: body["recipe"]["generator"].update(sizes))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(UserError, match="do not fit its recipe: it asks for many more"):
        vitgan.load(exported)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 300 * 1024  # KiB


@pytest.mark.parametrize(
    ("field", "value"),
    [("classes", -1), ("images", "many"), ("seconds", None), ("data", {}), ("recipe", [])],
)
def test_a_field_of_an_export_of_another_type_is_named(field: str, value: object, exported: Path) -> None:
    reseal(exported, lambda body: body.update({field: value}))
    with pytest.raises(UserError, match=f"lacks the field {field}, or has a wrong one"):
        vitgan.load(exported)


@pytest.mark.parametrize("name", ["model.safetensors", "config.json"])
def test_an_export_that_lacks_a_file_is_no_run(name: str, exported: Path, refused: Refused) -> None:
    (exported / name).unlink()
    said = refused(main(["sample", str(exported), "--out", str(exported.parent / "out.png")]))
    assert "has no checkpoint yet" in said


WRONG: dict[str, tuple[list[str], str]] = {
    "an id of one word": (["push", "digits", "mine"], "'mine' is no id of the Hub: write USER/NAME."),
    "an id with a blank": (["push", "digits", "me/my faces"], "is no id of the Hub"),
    "a licence of two lines": (["push", "digits", "me/a", "--license", "mit\ntags: x"], "no id of a licence"),
    "an evaluation that is none": (
        ["export", "digits", "--out", "out", "--evaluation", "none.json"],
        "none.json holds no protocol and metrics",
    ),
    "no evaluation": (["export", "digits", "--out", "out", "--evaluation", "gone.json"], "cannot be read"),
    "a file for a folder": (["export", "digits", "--out", "none.json"], "is a file"),
    "a folder for a file": (["export", "digits", "--format", "onnx", "--out", "."], "is a folder"),
    "nobody's home": (["sample", "~nobody-here/run", "--out", "out.png"], "~nobody-here has no home"),
    "nobody's images": (["evaluate", "~nobody-here/run"], "~nobody-here has no home"),
}


@pytest.mark.parametrize(("words", "said"), WRONG.values(), ids=WRONG)
def test_a_mistake_is_said_and_nothing_is_written(
    words: list[str], said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, refused: Refused
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "none.json").write_text('{"metrics": 3}')
    assert said in refused(main(words))
    assert [path.name for path in tmp_path.iterdir()] == ["none.json"]


def test_only_an_id_asks_for_the_network(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, refused: Refused
) -> None:
    pytest.importorskip("huggingface_hub")
    asked: list[Any] = []

    def no_network(*names: Any, **_: Any) -> Any:
        asked.append(names[0])
        raise OSError("no network")

    monkeypatch.setattr(socket.socket, "connect", no_network)
    monkeypatch.setattr(socket, "getaddrinfo", no_network)
    monkeypatch.chdir(tmp_path)
    shutil.copytree(find("digits"), tmp_path / "me" / "faces")
    for words in (
        ["sample", "digits", "--count", "2", "--out", "out.png"],
        ["sample", "me/faces", "--count", "2", "--out", "out.png"],
        ["export", "digits", "--out", "out"],
        ["sample", "out", "--count", "2", "--out", "out.npz"],
    ):
        assert main(words) == 0, words
    for words in (
        ["sample", "me/gone", "--out", "out.png"],
        ["sample", "gone", "--out", "out.png"],
        ["sample", "./gone/run", "--out", "out.png"],
        ["evaluate", "gone/images.npz", "--data", "digits"],
    ):
        refused(main(words))
    assert asked == []
    assert np.load("out.npz")["images"].shape == (2, 8, 8, 1)
    said = refused(main(["sample", "gone/run", "--out", "out.png"]))
    assert "gone/run cannot be fetched from the Hub" in said
    assert asked != []


def test_what_is_no_generator_on_the_hub_is_said_and_its_weights_are_left_there(hub: Hub) -> None:
    own = {path.name: path.read_bytes() for path in find("digits").iterdir()}
    hub.repositories = {
        "me/bert": {"config.json": b'{"model_type": "bert"}', "model.safetensors": b"very large"},
        "me/empty": {},
        "me/half": {"config.json": own["config.json"]},
        "me/text": {"config.json": b"[1, 2", "model.safetensors": b"very large"},
        "me/pickle": {"config.json": own["config.json"], "pytorch_model.bin": b"very large"},
        "me/altered": own | {"model.safetensors": own["model.safetensors"][:-1] + b"7"},
    }
    names = [*hub.repositories, "me/gone"]
    found = hub.run(*(["sample", name, "--out", "out.png"] for name in names), token=None)
    for name, done in zip(names, found, strict=True):
        assert done.code == 2, name
        assert len(done.err.splitlines()) == 1
    said = {name: done.err for name, done in zip(names, found, strict=True)}
    assert "model.safetensors does not match its checksum" in said.pop("me/altered")
    assert "me/gone cannot be fetched from the Hub" in said.pop("me/gone")
    assert all(f"{name} on the Hub is no whole generator" in text for name, text in said.items())
    weights = [name for name in hub.downloaded if not name.endswith((".json", ".md"))]
    assert weights == ["me/altered/model.safetensors"]


@pytest.mark.slow
def test_without_the_network_what_was_fetched_before_is_there(hub: Hub) -> None:
    hub.repositories["me/digits"] = {path.name: path.read_bytes() for path in find("digits").iterdir()}
    (first,) = hub.run(["sample", "me/digits", "--out", "first.png"], token=None)
    assert (first.code, first.err) == (0, "")
    hub.address = "http://127.0.0.1:9"  # where nobody listens
    again, other, pushed = hub.run(
        ["sample", "me/digits", "--out", "again.png"],
        ["sample", "me/other", "--out", "other.png"],
        ["push", "digits", "me/digits"],
    )
    assert (again.code, again.err) == (0, "")
    assert (hub.folder / "again.png").read_bytes() == (hub.folder / "first.png").read_bytes()
    assert (other.code, pushed.code) == (2, 2)
    assert "check the id and the network" in other.err
    assert "check the network and give the same command again" in pushed.err
