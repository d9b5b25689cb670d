"""`vitgan data`: say what is in a source of images (`info`), or pack it into a few large files (`pack`)."""

import argparse
import contextlib
import logging
import os
import signal
import sys
import textwrap
import threading
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from vitgan.errors import UserError
from vitgan.terminal import add_output, aligned, answer, can_draw, class_list, counted, log_from

if TYPE_CHECKING:
    from vitgan.data.packed.reader import PackedSource
    from vitgan.data.sources import Source

SUMMARY = "say what is in a source of images, or pack it into a few large files"
EXAMPLES = """examples:
  vitgan data info IMAGES.zip
  vitgan data pack FOLDER packed --resolution 64
  vitgan data info packed --verify
"""
INFO_EXAMPLES = """examples:
  vitgan data info IMAGES.zip
  vitgan data info packed --verify --quiet && echo whole
  vitgan data info FOLDER --json
"""
PACK_EXAMPLES = """examples:
  vitgan data pack FOLDER packed --resolution 64
  vitgan data pack IMAGES.zip packed --channels 1 --workers 8 --quiet
"""
SECONDS_BETWEEN_LINES = 10.0  # of progress, where no bar can be drawn


def add(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    actions = parser.add_subparsers(required=True, metavar="WHAT", dest="what")
    text = "say how many images and classes a source has, and which files cannot be read"
    info = actions.add_parser("info", help=text, description=_sentence(text), epilog=INFO_EXAMPLES)
    info.add_argument("source", metavar="SOURCE", help="as for `vitgan train --data`")
    info.add_argument(
        "--verify", action="store_true", help="hold every file of a packed folder to its SHA-256"
    )
    add_output(info)
    text = "bring all its images to one form, in a folder that trains fast and in constant memory"
    pack = actions.add_parser("pack", help=text, description=_sentence(text), epilog=PACK_EXAMPLES)
    pack.add_argument("source", metavar="SOURCE", help="as for `vitgan train --data`")
    pack.add_argument(
        "out", metavar="OUT", type=Path, help="the packed folder; the same command again resumes"
    )
    pack.add_argument("--resolution", type=int, metavar="R", help="side in pixels (that of the first image)")
    pack.add_argument("--channels", type=int, choices=(1, 3), default=3, help="1: grey, 3: RGB (3)")
    pack.add_argument("--workers", type=int, metavar="W", help="processes; 0: none (one a core)")
    pack.add_argument("--shard-mib", type=int, default=256, metavar="M", help="size of a file, MiB (256)")
    add_output(pack)


def _sentence(text: str) -> str:
    """The summary of a command as a sentence, in lines of a help."""
    return textwrap.fill(f"{text[0].upper()}{text[1:]}.", 79)


def run(options: argparse.Namespace) -> int:
    """Run `data info` or `data pack`; returns the exit code 0. Raises UserError on a user's mistake."""
    return _pack(options) if options.what == "pack" else _info(options)


def _info(options: argparse.Namespace) -> int:
    from vitgan.data import DataOptions, describe, open_source
    from vitgan.data.packed.reader import PackedSource

    log_from(logging.ERROR)  # unreadable files are part of the answer
    source = open_source(options.source)
    if isinstance(source, PackedSource):
        return _packed_info(options, source)
    if options.verify:
        raise UserError(f"{options.source} is no packed folder, which alone has hashes to verify.")
    facts = describe(DataOptions(source=options.source).build())
    counts = facts["classes"]
    first = _first_size(source)
    lines = {
        "source": facts["source"],
        "images": f"{facts['count']:,}",
        "first image": "none" if first is None else f"{first[0]} x {first[1]} pixels",
        **_class_lines(counts, source),
        "unreadable": f"{len(facts['skipped'])}",
        **{f"  {item['name']}": item["reason"] for item in facts["skipped"]},
    }
    lines |= {"range" if not number else " " * 5: note for number, note in enumerate(facts["notes"])}
    if left := facts["left_out"]:
        lines["no images"] = f"{sum(one['count'] for one in left):,}"
        lines |= {f"  {one['reason']}": f"{one['count']:,}, as {one['name']}" for one in left}
    said = {"source": facts["source"], "images": facts["count"], "first_image": first}
    said |= {
        "classes": counts,
        "unreadable": facts["skipped"],
        "left_out": facts["left_out"],
        "notes": facts["notes"],
    }
    answer(options, said, _with_note(options.source, counts, lines))
    return 0


def _class_lines(counts: Mapping[str, int], source: "Source") -> dict[str, str]:
    """The classes that have images: how many there are, their numbers where they have names, their images."""
    filled = {name: f"{count:,}" for name, count in counts.items() if count}
    lines = {"classes": f"{len(filled)}" if filled else _no_classes(source)}
    if list(filled) != [str(number) for number in range(len(filled))]:
        lines["numbers"] = class_list(list(filled))
    return lines | {f"  {name}": count for name, count in filled.items()}


def _with_note(name: str, counts: Mapping[str, int], lines: dict[str, str]) -> str:
    """The lines as text and, below them, that some classes have no images, where that is so."""
    from vitgan.data.dataset import class_note

    note = class_note(name, counts)
    return aligned(lines) if note is None else f"{aligned(lines)}\n{note}"


def _no_classes(source: "Source") -> str:
    """What stands in place of the number of classes of a source that has none."""
    why = getattr(source, "unlabelled", "")
    return f"none: {why}" if why else "none"


def _first_size(source: "Source") -> tuple[int, int] | None:
    """Width and height in pixels of the first picture that can be opened; None where none can."""
    for index in range(len(source)):
        with contextlib.suppress(Exception):  # decoders raise almost anything on damaged data
            return source.picture(index).size
    return None


def _packed_info(options: argparse.Namespace, source: "PackedSource") -> int:
    from vitgan.data.dataset import count_classes

    index, plan, counts = source.index, source.index.plan, count_classes(source)
    name, damaged = options.source, list(source.damaged()) if options.verify else []
    size = sum(file.bytes for _, _, file in index.shards) / 2**20
    names = ", which skipped.jsonl names" if index.skipped else ""
    lines = {
        "source": f"{name}, packed from {plan.source}",
        "images": f"{index.count:,}",
        "each": f"{plan.resolution} x {plan.resolution} pixels, {'grey' if plan.channels == 1 else 'RGB'}",
        "files": f"{len(index.shards)}, {size:,.1f} MiB in all",
        **_class_lines(counts, source),
        "left out": f"{counted(index.skipped, 'image')} of the source{names}",
    }
    said: dict[str, Any] = {"source": name, "packed_from": plan.source, "images": index.count}
    said |= {"resolution": plan.resolution, "channels": plan.channels, "files": len(index.shards)}
    said |= {"classes": counts, "left_out": index.skipped}
    if options.verify:
        said["damaged"] = damaged
        lines["verified"] = _verdict(damaged)
    answer(options, said, _with_note(name, counts, lines))
    if damaged:
        raise UserError(
            f"{name} has damaged files, {', '.join(damaged)}: pack it again into another folder, or copy "
            "them again."
        )
    return 0


def _verdict(damaged: list[str]) -> str:
    """The result of --verify as text."""
    if not damaged:
        return "every file is whole"
    return f"{counted(len(damaged), 'file')} {'is' if len(damaged) == 1 else 'are'} damaged"


def _pack(options: argparse.Namespace) -> int:
    from vitgan.data import open_source
    from vitgan.data.dataset import tell_left_out
    from vitgan.data.packed.writer import pack, plan_of

    for name, least in (("resolution", 1), ("workers", 0), ("shard_mib", 1)):
        if (value := getattr(options, name)) is not None and value < least:
            raise UserError(f"--{name.replace('_', '-')} is {value}, but must be at least {least}.")
    source = open_source(options.source)
    tell_left_out(options.source, source)
    side = options.resolution or _first_side(source, options)
    plan = plan_of(
        source, options.source, resolution=side, channels=options.channels, shard_mib=options.shard_mib
    )
    workers = options.workers if options.workers is not None else os.cpu_count() or 1
    with _ended_by_signals(), _Progress(len(source), options.quiet) as progress:
        new = pack(source, options.out, plan, workers=workers, progress=progress)
    done = open_source(str(options.out))
    left = len(source) - len(done)
    said = "Packed" if new else "It is already packed:"
    text = f"{said} {counted(len(done), 'image')} of {side} x {side} pixels in {options.out}."
    if left:
        text += f"\n{left:,} {'was' if left == 1 else 'were'} left out; skipped.jsonl names "
        text += "it." if left == 1 else "them."
    facts = {"source": options.source, "out": options.out, "images": len(done), "left_out": left}
    answer(options, facts | {"resolution": side, "channels": options.channels, "new": new}, text)
    return 0


def _first_side(source: "Source", options: argparse.Namespace) -> int:
    """The shorter side of the first readable image in pixels, which is printed. Raises UserError for none."""
    from vitgan.data.packed.index import MAX_SIDE
    from vitgan.data.transforms import MIN_SIDE

    for index in range(len(source)):
        with contextlib.suppress(Exception):  # decoders raise almost anything on damaged data
            picture = source.picture(index)
            picture.load()
            side = min(picture.size)
            if MIN_SIDE <= side <= MAX_SIDE:
                if not (options.quiet or options.json):
                    print(f"Images of {side} x {side} pixels, as the first one; --resolution changes that.")
                return side
    raise UserError(f"{options.source} has no readable image: pass --data that `vitgan data info` can read.")


@contextlib.contextmanager
def _ended_by_signals() -> Iterator[None]:
    """A context within which SIGTERM raises KeyboardInterrupt, as Ctrl-C does; in the main thread alone."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, _interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _interrupt(*_signal: Any) -> NoReturn:
    raise KeyboardInterrupt


class _Progress:
    """The progress of packing `total` images: a bar on a terminal, else a plain line every 10 seconds."""

    def __init__(self, total: int, quiet: bool) -> None:
        from tqdm import tqdm

        self._total, self._quiet, self._bar = total, quiet, None
        self._first: tuple[int, float] | None = None
        self._shown = time.monotonic()
        if not quiet and can_draw(sys.stderr):
            self._bar = tqdm(total=total, unit=" images", dynamic_ncols=True, file=sys.stderr)

    def __enter__(self) -> "_Progress":
        return self

    def __exit__(self, *_error: object) -> None:
        if self._bar is not None:
            self._bar.close()

    def __call__(self, done: int) -> None:
        """Show that `done` images of the source are packed."""
        now = time.monotonic()
        first, since = self._first = self._first or (done, now)
        if self._bar is not None:
            if not self._bar.n:
                self._bar.initial = first
            self._bar.update(done - self._bar.n)
        elif not self._quiet and now - self._shown >= SECONDS_BETWEEN_LINES:
            self._shown = now
            speed = (done - first) / max(now - since, 1e-9)
            left = (self._total - done) / max(speed, 1e-9)
            text = f"{done:,} of {self._total:,} images, {speed:,.0f} images/s, {left:,.0f} s left"
            print(text, file=sys.stderr, flush=True)
