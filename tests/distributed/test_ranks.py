"""Several processes train one model as one does, and none waits for one that is gone."""

import contextlib
import json
import multiprocessing
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

import pytest
import torch

import tiny_runs as runs
from sizes import QUICK_CLASSIFIER
from vitgan.engine.checkpoint import checkpoints, load_checkpoint
from vitgan.engine.loggers import read_log

pytestmark = pytest.mark.distributed

Command = Callable[..., int]
Started = Callable[..., "list[Rank]"]
MARKS = [
    *("--training.checkpoint-every", "16", "--training.keep", "20"),
    *("--training.log-every", "16", "--training.sample-every", "40"),
]
WITHOUT_CURVES = "from vitgan.engine import report\nreport.panels = lambda lines: []"
IMPATIENT = "from vitgan.distributed import liveness\nliveness.PATIENCE, liveness.GRACE = 5.0, 2.0"
QUICK = (
    "from vitgan.metrics import evaluator\n"
    f"options = evaluator.ClassifierOptions(**{QUICK_CLASSIFIER})\n"
    "evaluator.ClassifierOptions = lambda: options"
)
# Imported once, by the process that the ranks are forked from, and not by each of them.
IMPORTED = [
    "tiny_runs",
    "vitgan.engine.train",
    "torch._dynamo",
    "torch.utils.tensorboard",
    "sklearn.datasets",
]


class Rank:
    """A process of a run, and what it says on stderr."""

    def __init__(
        self, words: Sequence[str], environment: Mapping[str, str], said: Path, changed: str
    ) -> None:
        forks = multiprocessing.get_context("forkserver")
        forks.set_forkserver_preload(IMPORTED)
        self._said = said
        self.process = forks.Process(target=runs.process, args=(words, environment, said, changed))
        self.process.start()

    def wait(self, seconds: float = 120) -> str:
        """All that it has said, once it has ended."""
        self.process.join(seconds)
        assert self.process.exitcode is not None, self.said()
        return self.said()

    def said(self) -> str:
        return self._said.read_text() if self._said.exists() else ""

    def send(self, number: int) -> None:
        assert self.process.pid is not None
        os.kill(self.process.pid, number)


def free_port() -> int:
    with socket.socket() as asked:
        asked.bind(("127.0.0.1", 0))
        return asked.getsockname()[1]


@pytest.fixture
def started(images: Path, tiny: list[str], tmp_path: Path) -> Iterator[Started]:
    """started(ranks, folder, *words) is `vitgan train` in that many processes, as torchrun starts them.

    With `changed` they run that code first.
    """
    all_of_them: list[Rank] = []

    def start(ranks: int, folder: Path, *words: str, changed: str = "") -> list[Rank]:
        where = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port()), "WORLD_SIZE": str(ranks)}
        command = ["train", "digits", "--data", images, "--out", folder, "--device", "cpu", *tiny, *words]
        for rank in range(ranks):
            own = {"RANK": str(rank), "LOCAL_RANK": str(rank), "OMP_NUM_THREADS": "1"}
            said = tmp_path / f"said-{len(all_of_them)}"
            code = f"{WITHOUT_CURVES}\n{changed}"
            all_of_them.append(Rank([*map(str, command)], os.environ | where | own, said, code))
        return all_of_them[-ranks:]

    yield start
    for one in all_of_them:
        one.process.kill()
        one.process.join()
        one.process.close()


def ended(all_of_them: Sequence[Rank], code: int = 0) -> list[str]:
    """What each said, once all have ended with `code`."""
    said = [one.wait() for one in all_of_them]
    assert [one.process.exitcode for one in all_of_them] == [code] * len(said), said
    return said


def until(condition: Callable[[], object], all_of_them: Sequence[Rank]) -> None:
    deadline = time.monotonic() + 120
    while not condition():
        for one in all_of_them:
            assert one.process.is_alive(), one.said()
        assert time.monotonic() < deadline
        time.sleep(0.02)


def final(folder: Path) -> dict[str, torch.Tensor]:
    return load_checkpoint(checkpoints(folder)[-1])[0]


def largest_difference(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> float:
    assert a.keys() == b.keys()
    return max((a[name].double() - b[name].double()).abs().max().item() for name in a)


@pytest.mark.slow
def test_two_ranks_train_as_one_and_the_run_goes_on_on_one_and_on_three(
    tiny_train: Command, started: Started, tmp_path: Path
) -> None:
    """The batch of 4 has shares of 2 and 2, then of 4, then of 1, 1 and 2."""
    assert tiny_train(tmp_path / "one", "--images", "80", *MARKS) == 0
    said = ended(started(2, tmp_path / "two", "--images", "80", *MARKS))
    assert "Done: 80 images" in said[0]
    assert said[1] == ""
    assert largest_difference(final(tmp_path / "one"), final(tmp_path / "two")) < 1e-5
    for ranks, images in ((1, "120"), (3, "160")):
        words = ("--images", images, *MARKS)
        if ranks == 1:
            assert tiny_train(tmp_path / "two", *words) == 0
        else:
            assert "Resuming" in ended(started(ranks, tmp_path / "two", *words))[0]
    assert tiny_train(tmp_path / "one", "--images", "120", *MARKS) == 0
    same = load_checkpoint(tmp_path / "two" / "checkpoints" / "000000000112")[0]
    assert largest_difference(load_checkpoint(tmp_path / "one/checkpoints/000000000112")[0], same) < 1e-5
    assert [line["images"] for line in read_log(tmp_path / "two")] == [
        *(16, 32, 48, 64, 80, 96, 112, 120, 128, 144, 160)
    ]
    assert [path.stem for path in sorted((tmp_path / "two" / "samples").iterdir())][-1] == f"{160:012d}"
    events = [json.loads(line) for line in (tmp_path / "two" / "events.jsonl").read_text().splitlines()]
    assert [event["processes"] for event in events if event["event"] == "started"] == [2, 1, 3]


@pytest.mark.slow
@pytest.mark.usefixtures("quick_classifier")
def test_what_ranks_measure_is_what_one_measures(
    tiny_train: Command, started: Started, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VITGAN_CACHE", str(tmp_path / "cache"))
    options = {"every": "40", "features": "classifier", "count": "50", "metrics": "fid,is"}
    words = [word for key, value in options.items() for word in (f"--evaluation.{key}", value)]
    words += ["--images", "40", "--data", "digits", "--data.resolution", "8"]
    assert tiny_train(tmp_path / "one", *words) == 0
    ended(started(2, tmp_path / "two", *words, changed=QUICK))
    one, two = (json.loads((tmp_path / name / "evaluations.jsonl").read_text()) for name in ("one", "two"))
    assert one["protocol"] == two["protocol"]
    assert one["metrics"] == pytest.approx(two["metrics"], rel=1e-4)
    assert [path.name for path in (tmp_path / "two" / "best").iterdir()] == [f"{40:012d}"]


@pytest.mark.slow
@pytest.mark.parametrize("lost", [0, 1])
def test_a_rank_that_dies_is_named_and_the_others_stop(lost: int, started: Started, tmp_path: Path) -> None:
    running = started(3, tmp_path / "run", "--minutes", "5", *MARKS)
    until(lambda: checkpoints(tmp_path / "run"), running)
    running[lost].process.kill()
    began = time.monotonic()
    others = [one for rank, one in enumerate(running) if rank != lost]
    said = ended(others, 2)
    assert time.monotonic() - began < 60
    line = f"vitgan: Rank {lost} (process {running[lost].process.pid} on {socket.gethostname()}) died."
    assert [line in text for text in said] == [True, False]
    assert "Traceback" not in "".join(said)


@pytest.mark.slow
def test_a_rank_that_hangs_is_named_and_the_others_stop(started: Started, tmp_path: Path) -> None:
    running = started(2, tmp_path / "run", "--minutes", "5", *MARKS, changed=IMPATIENT)
    until(lambda: checkpoints(tmp_path / "run"), running)
    running[1].send(signal.SIGSTOP)
    began = time.monotonic()
    (said,) = ended(running[:1], 2)
    assert time.monotonic() - began < 30
    assert re.search(r"vitgan: Rank 1 \(process \d+ on \S+\) has not answered for \d+ seconds\.", said)


@pytest.mark.slow
def test_a_signal_to_one_rank_stops_and_saves_on_all(started: Started, tmp_path: Path) -> None:
    running = started(2, tmp_path / "run", "--minutes", "5", *MARKS)
    until(lambda: checkpoints(tmp_path / "run"), running)
    running[1].send(signal.SIGTERM)
    said = ended(running, 130)
    assert "Stopped by SIGTERM, saved" in said[0]
    assert said[1] == ""


@pytest.mark.slow
def test_an_error_of_one_rank_is_said_once(started: Started, tmp_path: Path) -> None:
    (tmp_path / "run").write_text("mine")
    said = ended(started(2, tmp_path / "run", "--images", "8"), 2)
    assert "is a file: choose another folder" in said[0]
    assert said[1] == ""
    said = ended(started(5, tmp_path / "many", "--images", "8"), 2)
    assert "--training.batch 4 is smaller than the 5 processes" in said[0]
    assert said[1:] == [""] * 4


@pytest.mark.slow
def test_torchrun_takes_the_run_up_from_the_last_checkpoint(
    images: Path, tiny: list[str], tmp_path: Path
) -> None:
    """A rank kills itself once, in the first of torchrun's two attempts."""
    script = tmp_path / "dying.py"
    script.write_text(
        f"import os, sys\n{WITHOUT_CURVES}\n"
        "from vitgan.cli import main\n"
        "from vitgan.engine.loop import Run\n"
        "step = Run._step\n"
        "def dying(run, batch):\n"
        "    first = os.environ['TORCHELASTIC_RESTART_COUNT'] == '0'\n"
        "    if first and os.environ['RANK'] == '0' and run.images_seen == 36:\n"
        "        os.kill(os.getpid(), 9)\n"
        "    step(run, batch)\n"
        "Run._step = dying\n"
        "sys.exit(main())\n"
    )
    words = ["train", "digits", "--data", images, "--out", tmp_path / "run", "--device", "cpu", *tiny, *MARKS]
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "--max-restarts", "1"]
    done = subprocess.run(
        [*torchrun, "--master-port", str(free_port()), script, *map(str, words), "--images", "64"],
        capture_output=True,
        text=True,
        timeout=180,
        check=False,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stderr
    assert "Rank 0 (process" in done.stderr
    assert "Resuming" in done.stderr
    assert "at 32 images" in done.stderr
    assert int(checkpoints(tmp_path / "run")[-1].name) == 64


def test_other_commands_run_in_one_process(refused: Callable, monkeypatch: pytest.MonkeyPatch) -> None:
    from vitgan.cli import main

    monkeypatch.setenv("WORLD_SIZE", "2")
    assert "`vitgan list` runs in one process" in refused(main(["list"]))
    monkeypatch.setenv("RANK", "1")
    with contextlib.redirect_stderr(None):
        assert main(["list"]) == 2
