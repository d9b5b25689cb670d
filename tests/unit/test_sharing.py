"""A generator for others: the exported folder and its card, ONNX, torch.export, names, the Hub."""

import base64
import hashlib
import http.server
import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

import vitgan
from vitgan.cli import main
from vitgan.sharing import find
from vitgan.sharing.onnx import export_onnx, exported_program

Command = Callable[..., int]
SYSTEMS = [
    *("digits", "digits-a-linear", "digits-b-neurrep", "digits-stylegan2", "digits-biggan-diffaug"),
    "digits-transgan-xl",
]


@pytest.fixture
def run(tiny_train: Command, tmp_path: Path, no_curves: None) -> Path:
    del no_curves
    assert tiny_train(tmp_path / "run", "--images", "12") == 0
    return tmp_path / "run"


@pytest.fixture
def exported(run: Path, tmp_path: Path) -> Path:
    assert main(["export", str(run), "--out", str(tmp_path / "exported")]) == 0
    return tmp_path / "exported"


def build(name: str) -> vitgan.models.Generator:  # type: ignore[name-defined]
    recipe = vitgan.recipes.get(name)
    torch.manual_seed(0)
    generator = recipe.generator.build(resolution=recipe.data.resolution, channels=recipe.data.channels)
    return generator.eval().requires_grad_(False)


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
    assert {p.key: p.value for p in model.metadata_props}["recipe"] == "digits"
    generator = vitgan.load(run)
    session = runtime.InferenceSession(str(out), providers=["CPUExecutionProvider"])
    for count in (1, 2, 33):
        z = generator.latents(count, seed=count)
        (images,) = session.run(None, {"z": z.numpy()})
        assert np.abs(images - generator(z).numpy()).max() < 1e-4


@pytest.mark.parametrize("name", SYSTEMS)
def test_every_system_is_exported_to_onnx(name: str, tmp_path: Path) -> None:
    pytest.importorskip("onnxscript")
    assert export_onnx(build(name), tmp_path / "file.onnx", {}) < 1e-4


def test_onnx_that_differs_is_not_written(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, refused: Callable
) -> None:
    pytest.importorskip("onnxscript")
    monkeypatch.setattr("vitgan.sharing.onnx.MOST_DIFFERENCE", 0.0)
    said = refused(main(["export", str(run), "--format", "onnx", "--out", str(tmp_path / "a.onnx")]))
    assert "nothing was written" in said
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


class Hub(http.server.BaseHTTPRequestHandler):
    """As much of the Hub as one repository takes: created, committed to, listed, read."""

    files: dict[str, bytes]
    repositories: list[str]
    sha = "0123456789abcdef0123456789abcdef01234567"

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        if self.headers.get("Authorization") != "Bearer hf_mine":
            self.answer(401, {"error": "Invalid credentials"})
        elif self.path == "/api/repos/create":
            asked = json.loads(body)
            self.repositories.append(f"{asked.get('organization') or 'me'}/{asked['name']}")
            self.answer(200, {"url": f"http://{self.headers['Host']}/{self.repositories[-1]}"})
        elif "/preupload/" in self.path:
            paths = [file["path"] for file in json.loads(body)["files"]]
            ways = [{"path": p, "uploadMode": "regular", "shouldIgnore": False} for p in paths]
            self.answer(200, {"files": ways})
        elif "/commit/" in self.path:
            for line in map(json.loads, body.splitlines()):
                if line["key"] == "file":
                    self.files[line["value"]["path"]] = base64.b64decode(line["value"]["content"])
            facts = {
                "success": True,
                "commitOid": self.sha,
                "commitUrl": f"http://{self.headers['Host']}/me/digits/commit/{self.sha}",
            }
            self.answer(200, facts)
        else:
            self.answer(200, {})

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        name = unquote(self.path.rsplit("/", 1)[-1])
        if self.path.startswith("/api/models/me/digits/tree/"):
            listed = [
                {"type": "file", "path": n, "size": len(d), "oid": self.sha} for n, d in self.files.items()
            ]
            self.answer(200, listed)
        elif self.path.startswith("/api/models/me/digits"):
            siblings = [{"rfilename": name} for name in self.files]
            self.answer(200, {"id": "me/digits", "sha": self.sha, "siblings": siblings, "private": False})
        elif self.path.startswith("/me/digits/resolve/") and name in self.files:
            self.answer(200, self.files[name])
        else:
            self.answer(404, {"error": "not found"}, **{"X-Error-Code": "RepoNotFound"})

    def answer(self, code: int, body: Any, **headers: str) -> None:
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        self.send_response(code)
        headers |= {"ETag": f'"{hashlib.sha1(data).hexdigest()}"', "X-Repo-Commit": self.sha}
        for name, value in (headers | {"Content-Length": str(len(data))}).items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)

    def log_message(self, format: str, *arguments: Any) -> None:
        pass


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[tuple[Callable[..., subprocess.CompletedProcess[str]], type[Hub]]]:
    """hub(*words, token=…) is `vitgan WORDS` with the stand-in in the place of the Hub."""
    pytest.importorskip("huggingface_hub")
    handler = type("Mine", (Hub,), {"files": {}, "repositories": []})
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        address = f"http://127.0.0.1:{server.server_address[1]}"

        def call(*words: object, token: str = "hf_mine") -> subprocess.CompletedProcess[str]:
            own = {"HF_ENDPOINT": address, "HF_HOME": str(tmp_path / "hf"), "HF_TOKEN": token}
            return subprocess.run(
                [sys.executable, "-m", "vitgan", *map(str, words)],
                capture_output=True,
                text=True,
                timeout=120,
                check=False,
                cwd=tmp_path,
                env={**os.environ, **own, "HF_HUB_DISABLE_XET": "1", "HF_HUB_DISABLE_PROGRESS_BARS": "1"},
            )

        yield call, handler
        server.shutdown()
        thread.join()


def test_what_is_pushed_can_be_loaded_by_its_id(
    hub: tuple[Callable[..., subprocess.CompletedProcess[str]], type[Hub]], run: Path, tmp_path: Path
) -> None:
    vitgan_with_hub, server = hub
    done = vitgan_with_hub("push", run, "me/digits", "--license", "cc0-1.0")
    assert done.returncode == 0, done.stderr
    assert 'vitgan.load("me/digits") loads it' in done.stdout
    assert server.repositories == ["me/digits"]
    assert {*server.files} == {"config.json", "model.safetensors", "README.md", "samples.png"}
    assert b'vitgan.load("me/digits")' in server.files["README.md"]
    done = vitgan_with_hub("sample", "me/digits", "--count", "5", "--seed", "3", "--out", "there.npz")
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    there = np.load(tmp_path / "there.npz")["images"]
    assert np.array_equal(there, vitgan.load(run).sample(5, seed=3).permute(0, 2, 3, 1).numpy())


def test_refusals_of_the_hub_are_sentences(
    hub: tuple[Callable[..., subprocess.CompletedProcess[str]], type[Hub]], run: Path
) -> None:
    vitgan_with_hub, _ = hub
    for words, said in (
        (("push", run, "me/digits"), "log in with `hf auth login`"),
        (("push", run, "digits"), "is no id of the Hub: write USER/NAME"),
        (("sample", "me/other", "--out", "x.png"), "me/other cannot be fetched from the Hub"),
        (("sample", "hf:me/other", "--out", "x.png"), "check the id and the network"),
    ):
        done = vitgan_with_hub(*words, token="hf_wrong")
        assert done.returncode == 2, done.stdout
        assert said in done.stderr
        assert len(done.stderr.strip().splitlines()) == 1, done.stderr
