"""What is shown while a run goes: on a terminal, in a file, and when nothing is wanted."""

import os
import re
import select
import sys
from itertools import pairwise

import pytest

from vitgan.engine.progress import Progress, clock


def line_of(capsys, **options) -> str:
    progress = Progress(
        **{"images_seen": 0, "target_images": None, "target_seconds": None, "seconds": 0.0} | options
    )
    progress.update(1000, 10.0, {"loss_discriminator": 1.25, "loss_generator": 0.5})
    progress.close()
    return capsys.readouterr().err


def test_a_line_tells_images_speed_and_losses(capsys):
    assert line_of(capsys) == "1,000 images, 100 images/s, loss D 1.250, loss G 0.500\n"


@pytest.mark.parametrize(
    ("target_images", "target_seconds", "left"),
    [
        (4000, None, "0:30 left"),
        (None, 100.0, "1:30 left"),
        (4000, 100.0, "0:30 left"),
        (4000, 15.0, "0:05 left"),
    ],
)
def test_time_left_is_to_the_nearer_limit(capsys, target_images, target_seconds, left):
    assert left in line_of(capsys, target_images=target_images, target_seconds=target_seconds)


def test_lines_come_every_ten_seconds_and_once_at_the_end(capsys):
    progress = Progress(images_seen=0, target_images=None, target_seconds=None, seconds=0.0)
    for second in range(1, 26):
        progress.update(second * 100, float(second), {})
    progress.close()
    progress.close()
    shown = [line.split()[0] for line in capsys.readouterr().err.splitlines()]
    assert shown == ["100", "1,100", "2,100", "2,500"]


def test_a_long_run_says_less_and_less(capsys):
    """A week is fewer than 1,500 lines of a file, at most 10 minutes apart."""
    progress = Progress(images_seen=0, target_images=None, target_seconds=None, seconds=0.0)
    week = range(1, 7 * 24 * 3600, 5)
    for second in week:
        progress.update(second, float(second), {})
    progress.close()
    shown = [int(line.split()[0].replace(",", "")) for line in capsys.readouterr().err.splitlines()]
    pauses = [after - before for before, after in pairwise(shown)]
    assert min(pauses[:50]) == max(pauses[:50]) == 10
    assert 600 <= max(pauses) <= 605
    assert len(shown) < 1500


def test_a_long_silence_is_broken_by_a_sign_of_life(capsys, monkeypatch):
    now = 1000.0
    monkeypatch.setattr("vitgan.engine.progress.time.monotonic", lambda: now)
    progress = Progress(images_seen=0, target_images=None, target_seconds=None, seconds=0.0)
    progress.beat(4, 1.0, "training")
    now += 71
    progress.beat(8, 72.0, "evaluating")
    progress.beat(8, 72.0, "evaluating")
    (line,) = capsys.readouterr().err.splitlines()
    assert re.fullmatch(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d, evaluating: 8 images", line)


def test_speed_is_the_present_one_and_of_this_session(capsys):
    progress = Progress(images_seen=10_000, target_images=None, target_seconds=None, seconds=500.0)
    for second in range(1, 101):
        progress.update(10_000 + second * 10, 500.0 + second, {})
    for second in range(1, 61):
        progress.update(11_000 + second * 500, 600.0 + second, {})
    progress.close()
    lines = capsys.readouterr().err.splitlines()
    assert " 10 images/s" in lines[0]
    assert " 500 images/s" in lines[-1]


def test_without_a_terminal_there_are_no_control_characters(capsys):
    progress = Progress(images_seen=0, target_images=100, target_seconds=None, seconds=0.0)
    progress.update(50, 1.0, {"loss_generator": 1.0})
    progress.message("a checkpoint was damaged")
    progress.close()
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.replace("\n", "").isprintable()
    assert "a checkpoint was damaged\n" in captured.err


def test_quiet_shows_nothing(capsys):
    progress = Progress(images_seen=0, target_images=100, target_seconds=None, seconds=0.0, quiet=True)
    progress.update(50, 1.0, {})
    progress.message("unheard")
    progress.close()
    captured = capsys.readouterr()
    assert captured.out + captured.err == ""


def everything(terminal: int) -> bytes:
    """What was written to a pseudo-terminal; on a busy machine the kernel hands it over in parts."""
    found = b""
    while select.select([terminal], [], [], 0.5)[0]:
        found += os.read(terminal, 65536)
    return found


def shown_on_terminal(monkeypatch, rows: int) -> str:
    """What a pseudo-terminal of 100 columns receives of a run that is half done."""
    termios, pty = pytest.importorskip("termios"), pytest.importorskip("pty")
    theirs, ours = pty.openpty()
    termios.tcsetwinsize(ours, (rows, 100 if rows else 0))
    monkeypatch.setenv("TERM", "xterm")
    with os.fdopen(ours, "w") as stream:
        monkeypatch.setattr(sys, "stderr", stream)
        progress = Progress(images_seen=0, target_images=100, target_seconds=None, seconds=0.0)
        progress.update(50, 1.0, {"loss_generator": 1.0})
        progress.message("saved")
        progress.close()
        stream.flush()
        received = everything(theirs).decode()
    monkeypatch.undo()
    os.close(theirs)
    return received


def test_a_terminal_gets_one_bar_and_messages_above_it(monkeypatch):
    received = shown_on_terminal(monkeypatch, rows=40)
    last = received.rstrip("\r\n").split("\r")[-1]
    assert last.startswith(" 50% |██████████          | 50 images, 50 images/s, loss G 1.000, 0:01 left")
    assert "saved\r\n" in received
    assert "\x1b[3" not in received


def test_a_terminal_without_a_size_gets_lines(monkeypatch):
    assert shown_on_terminal(monkeypatch, rows=0).startswith("50 images, 50 images/s")


@pytest.mark.parametrize(
    ("seconds", "text"), [(5.4, "0:05"), (125, "2:05"), (3723, "1:02:03"), (59.7, "1:00")]
)
def test_the_clock_shows_hours_minutes_and_seconds(seconds: float, text: str):
    assert clock(seconds) == text
