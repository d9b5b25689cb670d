"""`vitgan data pack`, killed and resumed or run twice: the same files, or an error in one sentence."""

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import packings
from packings import COUNT, SHARD, SIDE, contents, packing
from vitgan.cli import main
from vitgan.data import open_source
from vitgan.data.packed.writer import pack, plan_of
from vitgan.errors import UserError

pytestmark = [pytest.mark.faults, pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")]


@pytest.mark.slow
def test_killed_at_any_moment_it_ends_with_the_same_files(source: str, packed: Path, tmp_path: Path) -> None:
    script = (
        "import sys, time; sys.path.insert(0, sys.argv[1])\n"
        "from pathlib import Path\n"
        "import vitgan.data.packed.shards as shards, packings\n"
        "shards.CHUNK_IMAGES = 2\n"
        "close = shards.ShardWriter._close\n"
        "def slowly(writer):\n"
        "    time.sleep(0.1); close(writer); time.sleep(0.1)\n"
        "shards.ShardWriter._close = slowly\n"
        "print('begin', flush=True)\n"
        "packings.packing(sys.argv[2], Path(sys.argv[3]))\n"
    )
    out = tmp_path / "killed"
    kept = []
    for _ in range(4):
        child = subprocess.Popen(
            [sys.executable, "-c", script, str(Path(packings.__file__).parent), source, str(out)],
            stdout=subprocess.PIPE,
        )
        assert child.stdout is not None
        assert child.stdout.readline() == b"begin\n"
        time.sleep(np.random.default_rng().uniform(0.0, 0.6))
        child.kill()
        child.wait()
        child.stdout.close()
        kept.append(len(list(out.glob("images-*.npy"))))
    assert kept == sorted(kept)
    packing(source, out)
    assert contents(out) == contents(packed)


@pytest.mark.parametrize("operation", ["rename", "replace", "unlink", "fsync"])
def test_killed_before_any_of_its_operations_it_ends_with_the_same_files(
    operation: str, source: str, packed: Path, tmp_path: Path
) -> None:
    """A process kills itself before its n-th call of the operation, and the next process resumes."""
    out, number = tmp_path / "killed", 0
    while (killed := _packed_by_a_child(source, out, operation, number)) and number < 40:
        number += 1
        if number % 3 == 0:
            shutil.rmtree(out, ignore_errors=True)
    assert not killed
    assert contents(out) == contents(packed)


def _packed_by_a_child(source: str, out: Path, operation: str, number: int) -> bool:
    """Pack in a child process that kills itself before call `number`; whether it got so far."""
    child = os.fork()
    if child == 0:
        code, left = 1, [number]

        def dying(real: Callable[..., Any]) -> Callable[..., Any]:
            def call(*arguments: Any, **named: Any) -> Any:
                left[0] -= 1
                if left[0] < 0:
                    os.kill(os.getpid(), signal.SIGKILL)
                return real(*arguments, **named)

            return call

        try:
            owner: Any = os if operation == "fsync" else Path
            setattr(owner, operation, dying(getattr(owner, operation)))
            packing(source, out)
            code = 0
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(code)
    status = os.waitpid(child, 0)[1]
    assert status in (0, signal.SIGKILL)
    return status == signal.SIGKILL


@contextlib.contextmanager
def half_packed(source: str, out: Path) -> Iterator[None]:
    """A folder whose packing was interrupted after two shards."""
    found = open_source(source)
    plan = replace(plan_of(found, source, resolution=SIDE, channels=3, shard_mib=1), shard_images=SHARD)

    def stop(done: int) -> None:
        if done >= 2 * SHARD:
            raise KeyboardInterrupt

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("vitgan.data.packed.shards.CHUNK_IMAGES", SHARD)
        with pytest.raises(KeyboardInterrupt):
            pack(found, out, plan, workers=0, progress=stop)
    yield


def test_it_goes_on_where_it_stopped(source: str, packed: Path, tmp_path: Path) -> None:
    out, begun = tmp_path / "half", []
    with half_packed(source, out):
        assert len(list(out.glob("images-*.npy"))) == 2
        with pytest.raises(UserError, match=r"not packed to its end: give the same `vitgan data pack`"):
            open_source(str(out))
        found = open_source(source)
        plan = replace(plan_of(found, source, resolution=SIDE, channels=3, shard_mib=1), shard_images=SHARD)
        assert pack(found, out, plan, workers=0, progress=begun.append)
    assert begun[0] == 2 * SHARD
    assert contents(out) == contents(packed)


def test_another_source_or_form_is_refused_with_the_difference_named(source: str, tmp_path: Path) -> None:
    for out, state in ((tmp_path / "half", "half"), (tmp_path / "whole", "whole")):
        with half_packed(source, out) if state == "half" else contextlib.nullcontext():
            if state == "whole":
                packing(source, out)
            for changes, said in (
                ({"side": 4}, "resolution: 6, not 4"),
                ({"channels": 1}, "channels: 3, not 1"),
            ):
                with pytest.raises(UserError, match=said):
                    packing(source, out, **changes)
    (Path(source) / "class1" / "extra.png").write_bytes((Path(source) / "class1" / "01.png").read_bytes())
    for name in ("half", "whole"):
        with pytest.raises(UserError, match="the content of the source: that of 'source' as it was"):
            packing(source, tmp_path / name)


def test_another_size_of_files_is_refused(
    source: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["data", "pack", source, str(tmp_path / "packed"), "--workers", "0", "--shard-mib"]
    assert main([*words, "1"]) == 0
    before = contents(tmp_path / "packed")
    assert main([*words, "2"]) == 2
    assert "is packed otherwise, images a shard (--shard-mib): 9709, not 19418" in capsys.readouterr().err
    assert contents(tmp_path / "packed") == before


@pytest.mark.slow
def test_a_second_process_is_refused(source: str, tmp_path: Path) -> None:
    out, entered, leave = tmp_path / "packed", threading.Event(), threading.Event()
    script = (
        "import sys; sys.path.insert(0, sys.argv[1])\n"
        "from pathlib import Path; import packings\n"
        "from vitgan.errors import UserError\n"
        "try: packings.packing(sys.argv[2], Path(sys.argv[3]))\n"
        "except UserError as error: print(error)\n"
    )
    found = open_source(source)
    plan = replace(plan_of(found, source, resolution=SIDE, channels=3, shard_mib=1), shard_images=SHARD)

    def wait(_done: int) -> None:
        entered.set()
        leave.wait(60)

    first = threading.Thread(target=lambda: pack(found, out, plan, workers=0, progress=wait))
    first.start()
    try:
        assert entered.wait(60)
        words = [sys.executable, "-c", script, str(Path(packings.__file__).parent), source, str(out)]
        said = subprocess.run(words, capture_output=True, text=True, timeout=120, check=True).stdout
    finally:
        leave.set()
        first.join()
    assert f"Another process is packing into {out}" in said
    assert len(open_source(str(out))) == COUNT


def test_a_folder_that_holds_something_else_is_left_alone(source: str, tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "letter.txt").write_text("dear")
    with pytest.raises(UserError, match="is not empty: choose another folder"):
        packing(source, tmp_path / "mine")
    with pytest.raises(UserError, match="is a file: choose another folder"):
        packing(source, tmp_path / "mine" / "letter.txt")
    assert [path.name for path in (tmp_path / "mine").iterdir()] == ["letter.txt"]


def test_a_source_without_a_readable_image_leaves_nothing(tmp_path: Path) -> None:
    (tmp_path / "source").mkdir()
    (tmp_path / "source" / "a.png").write_bytes(b"")
    with pytest.raises(UserError, match=r"has no readable image \(the first, a\.png: "):
        packing(str(tmp_path / "source"), tmp_path / "packed")
    assert [path.name for path in (tmp_path / "packed").iterdir()] == [".lock"]
