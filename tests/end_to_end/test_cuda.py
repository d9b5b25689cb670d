"""The same on a CUDA GPU as on a CPU; skipped where there is no GPU."""

import json
import math
import os
import socket
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from vitgan.adversarial import train_step
from vitgan.engine.checkpoint import checkpoints, load_checkpoint
from vitgan.engine.loggers import read_log
from vitgan.nn import l2_attention
from vitgan.nn.attention import DIAGONAL_UP_TO, FUSED_FROM, plain_l2_attention

if not torch.cuda.is_available():
    pytest.skip("needs CUDA", allow_module_level=True)
DEVICE = "cuda"
Train = Callable[..., dict[str, torch.Tensor]]
SYSTEMS = [
    *("digits", "digits-stylegan2", "digits-biggan-diffaug", "digits-transgan-xl", "digits-vanilla-vit"),
    *("digits-stylegan2-d", "digits-contrad", "digits-unet-d", "digits-a-linear", "digits-b-neurrep"),
    *("digits-dot-product", "digits-plain-spectral-norm", "digits-no-spectral-norm", "digits-no-overlap"),
    *("vit-classifier-small", "siren-small"),
]
EAGER = ("--training.compile", "off")
CLOCKS = ("--training.checkpoint-every", "16", "--training.log-every", "16", "--training.sample-every", "64")


@pytest.fixture
def train(images: Path, tiny: list[str], tmp_path: Path) -> Train:
    """train(name, *words) trains a tiny `digits` in the folder of that name; the state that it ends with."""

    def run(name: str, *words: str, device: str = DEVICE, code: int = 0) -> dict[str, torch.Tensor]:
        from vitgan.cli import main

        folder = tmp_path / name
        command = ["train", "digits", "--data", images, "--out", folder, "--device", device, *tiny, *words]
        assert main([str(word) for word in command]) == code
        return load_checkpoint(checkpoints(folder)[-1])[0]

    return run


def furthest(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor], part: str = "") -> float:
    assert a.keys() == b.keys()
    return max((a[n].double() - b[n].double()).abs().max().item() for n in a if n.startswith(part))


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("name", SYSTEMS)
def test_every_system_trains(name: str, precision: str, tmp_path: Path) -> None:
    from vitgan.cli import main

    words = ["--device", DEVICE, "--images", "512", "--training.precision", precision]
    words += EAGER if name.startswith("digits") else ()
    assert main(["train", name, "--out", str(tmp_path / name), *words]) == 0
    lines = read_log(tmp_path / name)
    assert all(math.isfinite(value) for line in lines for value in line.values() if isinstance(value, float))


@pytest.mark.parametrize("tokens", [7, DIAGONAL_UP_TO + 9, FUSED_FROM + 1])
@pytest.mark.parametrize(("dtype", "bound"), [(torch.float32, 1e-4), (torch.bfloat16, 2e-2)])
def test_l2_attention_is_that_of_the_plain_products(tokens: int, dtype: torch.dtype, bound: float) -> None:
    rng = torch.Generator().manual_seed(0)
    key, value, weighting = (torch.randn(4, 6, tokens, 64, generator=rng).to(dtype) for _ in range(3))
    found, exact = [], []
    for results, route, (k, v, w) in (
        (found, l2_attention, (key.to(DEVICE), value.to(DEVICE), weighting.to(DEVICE))),
        (exact, plain_l2_attention, (key.double(), value.double(), weighting.double())),
    ):
        k, v = (x.detach().requires_grad_() for x in (0.5 * k, v))
        out = route(k, k, v)
        results += [out.detach(), *torch.autograd.grad(out, (k, v), w)]
    for a, b in zip(found, exact, strict=True):
        assert (a.double().cpu() - b).norm() < bound * b.norm()


def test_a_gpu_and_a_cpu_agree_on_a_step(images: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The discriminator's gradients in fp32; weights, images and random numbers are the same."""
    from vitgan.data import DataOptions
    from vitgan.engine.gan import GANTask
    from vitgan.recipes import get

    recipe = get("digits")
    options = replace(recipe.training, precision="fp32", compile="off", batch=8)
    recipe = replace(recipe, training=options)
    data = DataOptions(source=str(images), resolution=8, channels=1).build()
    batch = torch.rand(8, 1, 8, 8, generator=torch.Generator().manual_seed(1)) * 2 - 1
    first: dict[str, torch.Tensor] = {}
    found = []
    for name in ("cpu", DEVICE):
        task = GANTask(recipe, data, torch.device(name))
        first = first or {key: value.clone() for key, value in task.tensors().items()}
        task.load({key: value.to(name) for key, value in first.items()})
        drawn = torch.Generator().manual_seed(0)
        for function in (torch.randn, torch.rand, torch.randint):
            monkeypatch.setattr(torch, function.__name__, _on_cpu(function, drawn, name))
        values = train_step(
            task.state.players, task.game, batch.to(name), None, torch.Generator(name).manual_seed(0), 0
        )
        monkeypatch.undo()
        network = task.state.players.discriminator
        gradients = {key: p.grad.cpu() for key, p in network.named_parameters() if p.grad is not None}
        found.append((gradients, {key: value.item() for key, value in values.items()}))
    (cpu, cpu_values), (gpu, gpu_values) = found
    assert cpu.keys() == gpu.keys()
    assert gpu_values == pytest.approx(cpu_values, rel=1e-3, abs=1e-4)
    for key, exact in cpu.items():
        assert (gpu[key] - exact).norm() < 1e-3 * exact.norm() + 1e-6, key


def _on_cpu(
    function: Callable[..., torch.Tensor], drawn: torch.Generator, device: str
) -> Callable[..., torch.Tensor]:
    """torch.randn and its like, drawing from `drawn`, wherever the numbers are wanted."""
    return lambda *shape, **_: function(*shape, generator=drawn).to(device)


@pytest.mark.filterwarnings("default")
@pytest.mark.parametrize("words", [EAGER, ()], ids=["eager", "compiled"])
def test_a_run_in_two_parts_is_the_run_in_one_bit_for_bit(words: tuple[str, ...], train: Train) -> None:
    straight = train("straight", "--images", "96", *CLOCKS, *words)
    train("parts", "--images", "48", *CLOCKS, *words)
    parts = train("parts", "--images", "96", *CLOCKS, *words)
    assert straight.keys() == parts.keys()
    assert [name for name in straight if not torch.equal(straight[name], parts[name])] == []


@pytest.mark.filterwarnings("default")
def test_compiled_blocks_compute_what_they_did(train: Train) -> None:
    compiled, eager = train("compiled", "--images", "4"), train("eager", "--images", "4", *EAGER)
    assert furthest(compiled, eager, "discriminator") < 1e-3


def test_a_run_of_a_gpu_goes_on_on_a_cpu_and_back(train: Train, tmp_path: Path) -> None:
    for number, device in enumerate((DEVICE, "cpu", DEVICE), start=1):
        train("run", "--images", str(32 * number), *CLOCKS, *EAGER, device=device)
    assert [line["images"] for line in read_log(tmp_path / "run")] == [*range(16, 97, 16)]


def test_a_run_goes_back_when_a_loss_is_no_number(
    train: Train, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, done = train_step, []

    def spoiling(*arguments):
        values = real(*arguments)
        if arguments[-1] == 6 and not done:
            done.append(True)
            values["loss_discriminator"] *= float("nan")
        return values

    monkeypatch.setattr("vitgan.engine.compile.train_step", spoiling)
    train("run", "--images", "64", "--on-nan", "rollback", *CLOCKS, *EAGER)
    events = [json.loads(line) for line in (tmp_path / "run" / "events.jsonl").read_text().splitlines()]
    assert "rolled back" in [event["event"] for event in events]
    assert [line["images"] for line in read_log(tmp_path / "run")] == [16, 32, 48, 64]


def test_one_rank_by_nccl_is_one_process(train: Train, images: Path, tiny: list[str], tmp_path: Path) -> None:
    alone = train("alone", "--images", "64", *CLOCKS, *EAGER)
    with socket.socket() as asked:
        asked.bind(("127.0.0.1", 0))
        port = str(asked.getsockname()[1])
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "1", "--master-port", port]
    words = ["train", "digits", "--data", images, "--out", tmp_path / "ranks", "--device", DEVICE, *tiny]
    done = subprocess.run(
        [*torchrun, "-m", "vitgan", *map(str, words), "--images", "64", *CLOCKS, *EAGER],
        capture_output=True,
        text=True,
        timeout=180,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert furthest(alone, load_checkpoint(checkpoints(tmp_path / "ranks")[-1])[0]) < 1e-4


def test_more_ranks_than_gpus_are_refused(images: Path, tmp_path: Path) -> None:
    wanted = torch.cuda.device_count() + 1
    ranks = {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": str(wanted), "LOCAL_WORLD_SIZE": str(wanted)}
    place = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "1"}
    words = ["train", "digits", "--data", str(images), "--out", str(tmp_path / "run"), "--device", DEVICE]
    done = subprocess.run(
        [sys.executable, "-m", "vitgan", *words],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
        env=os.environ | ranks | place,
    )
    assert done.returncode == 2
    assert f"There are {wanted} processes on this machine and {wanted - 1} GPUs" in done.stderr


def test_a_dry_run_and_a_heartbeat_speak_of_the_gpu(
    train: Train, images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from vitgan.cli import main

    words = ["train", "digits", "--data", str(images), "--out", str(tmp_path / "dry"), "--device", DEVICE]
    assert main([*words, "--dry-run"]) == 0
    said = capsys.readouterr()
    assert "images/s" in said.out + said.err
    assert not (tmp_path / "dry").exists()
    train("run", "--images", "16", *CLOCKS, *EAGER)
    assert json.loads((tmp_path / "run" / "heartbeat.json").read_text())["gpu_memory_mib"] > 0
