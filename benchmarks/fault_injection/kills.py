"""SIGKILL, SIGTERM, and two processes that want one folder."""

import os
import signal
import sys
import time

from fault_injection.trial import IMAGES, Trial, fine, newest, refused, require, weights, whole
from vitgan.engine import loop as engine


def reference(trial: Trial) -> tuple[str, float]:
    """The weights of a run that nothing disturbs, and its seconds."""
    trial.clear()
    child = trial.start(trial.words())
    fine(child.wait())
    seconds = time.monotonic() - child.began
    whole(trial.run)
    return weights(trial.run), seconds


def at_any_moment(trial: Trial) -> tuple[int, str]:
    """Kill at a moment drawn anew each time; then the same command."""
    undisturbed, seconds = reference(trial)
    times, places = 4 if trial.quick else 20, []
    for _ in range(times):
        trial.clear()
        child = trial.start(trial.words())
        time.sleep(trial.dice.uniform(0.0, seconds))
        child.kill()
        child.wait()
        places.append(newest(trial.run))
        fine(trial.ended(trial.words()))
        whole(trial.run)
        require(weights(trial.run) == undisturbed, f"other weights after a kill at {places[-1]} images")
    return (
        times,
        f"ended bit for bit like the undisturbed run; killed after {min(places)} to {max(places)} images",
    )


def again_and_again(trial: Trial) -> tuple[int, str]:
    """One run, killed at every start after a time drawn anew, until it has been killed so many times."""
    undisturbed, seconds = reference(trial)
    times, trials = 4 if trial.quick else 20, 0
    trial.clear()
    for _ in range(times):
        child = trial.start(trial.words())
        time.sleep(trial.dice.uniform(0.3, 0.7) * seconds)
        child.kill()
        trials += child.wait().code == -signal.SIGKILL
    fine(trial.ended(trial.words()))
    whole(trial.run)
    require(weights(trial.run) == undisturbed, "other weights")
    return trials, "one run, killed that often in a row, ended bit for bit like the undisturbed one"


EVENTS = ("open", "os.mkdir", "os.rename", "os.remove", "os.rmdir", "shutil.rmtree")


def within_a_checkpoint(trial: Trial) -> tuple[int, str]:
    """Kill at each file operation of writing the checkpoint at 40 images and of deleting the oldest."""
    undisturbed, _ = reference(trial)
    events = 0
    while True:
        trial.clear()
        ended = trial.ended(trial.words(), lambda events=events: _killed_at(events))
        if ended.code == 0:
            break
        require(ended.code == -signal.SIGKILL, f"exit code {ended.code}: {ended.said}")
        require(newest(trial.run) in (32, 40), f"the newest checkpoint is at {newest(trial.run)} images")
        fine(trial.ended(trial.words()))
        whole(trial.run)
        require(weights(trial.run) == undisturbed, f"other weights after a kill at event {events}")
        events += 1 + 4 * trial.quick
    require(events > 8, f"only {events} events")
    return events, "bit for bit; each file that is opened, made, renamed or deleted in turn"


def _killed_at(wanted: int) -> None:
    """End this process at that file operation of the checkpoint at 40 images."""
    write, within, count = engine.Run._write_checkpoint, False, 0

    def hook(event: str, _arguments: tuple) -> None:
        nonlocal count
        if within and event in EVENTS:
            if count == wanted:
                os.kill(os.getpid(), signal.SIGKILL)
            count += 1

    def writing(self: engine.Run, tensors: dict) -> None:
        nonlocal within
        within = self.images_seen == 40
        write(self, tensors)
        within = False

    engine.Run._write_checkpoint = writing
    sys.addaudithook(hook)


def in_the_bytes_of_a_checkpoint(trial: Trial) -> tuple[int, str]:
    """Kill while the tensors' file is part written: it is written in pieces, and the process ends between."""
    from vitgan.engine import checkpoint

    undisturbed, _ = reference(trial)
    times = 3 if trial.quick else 20
    for _ in range(times):
        part = trial.dice.random()

        def arm(part: float = part) -> None:
            real = checkpoint._write_tensors

            def partly(path, tensors) -> None:
                real(path, tensors)
                if "000000000040" in str(path):
                    os.truncate(path, int(part * path.stat().st_size))
                    os.kill(os.getpid(), signal.SIGKILL)

            checkpoint._write_tensors = partly

        trial.clear()
        require(trial.ended(trial.words(), arm).code == -signal.SIGKILL, "it was not killed")
        require(newest(trial.run) == 32, f"the newest checkpoint is at {newest(trial.run)} images")
        fine(trial.ended(trial.words()))
        whole(trial.run)
        require(weights(trial.run) == undisturbed, "other weights")
    return times, "the half-written checkpoint is not taken for one; bit for bit"


def asked_to_stop(trial: Trial) -> tuple[int, str]:
    """SIGTERM and SIGINT, at a moment drawn anew each time."""
    undisturbed, _ = reference(trial)
    times = 2 if trial.quick else 10
    for number in range(times):
        trial.clear()
        child = trial.start(trial.words())
        child.until(lambda: newest(trial.run))
        time.sleep(trial.dice.uniform(0.0, 0.1))
        child.kill(signal.SIGTERM if number % 2 else signal.SIGINT)
        ended = child.wait()
        require(ended.code in (130, 0), f"exit code {ended.code}: {ended.said}")
        if ended.code:
            require("saved" in ended.said, ended.said)
        fine(trial.ended(trial.words()))
        whole(trial.run)
        require(weights(trial.run) == undisturbed, "other weights")
    return times, "saved after the step it was in, exit code 130; goes on bit for bit"


def two_processes(trial: Trial) -> tuple[int, str]:
    """A second process on the folder of one that trains."""
    undisturbed, _ = reference(trial)
    times = 1 if trial.quick else 5
    for _ in range(times):
        trial.clear()
        first = trial.start(trial.words())
        first.until(lambda: newest(trial.run))
        first.kill(signal.SIGSTOP)
        try:
            refused(trial.ended(trial.words()), "Another process is training in")
        finally:
            first.kill(signal.SIGCONT)
        fine(first.wait())
        whole(trial.run)
        require(weights(trial.run) == undisturbed, "other weights")
    require(newest(trial.run) == IMAGES, "the first did not end")
    return times, "the second is refused, the first ends bit for bit as if alone"
