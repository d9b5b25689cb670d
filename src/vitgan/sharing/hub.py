"""Find a run by what a user wrote for it, and fetch generators from the Hugging Face Hub."""

import contextlib
import os
import re
import sys
import textwrap
from collections.abc import Iterator
from importlib.resources import files
from pathlib import Path
from typing import Any

from vitgan.engine.checkpoint import CARD, CONFIG, WEIGHTS, is_exported
from vitgan.errors import UserError
from vitgan.io import read_json
from vitgan.terminal import can_draw

PACKAGED = ("digits", "mnist")  # generators that come with the package
_FILES = (".npy", ".npz", ".zip")  # of images, which a command may take in the place of a run
_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*", re.ASCII)


def is_id(name: str) -> bool:
    """Whether `name` has the form of an id of the Hugging Face Hub, USER/NAME."""
    return _ID.fullmatch(name) is not None


def packaged(name: str) -> Path:
    """The folder of a generator that comes with the package, one of PACKAGED."""
    return Path(str(files("vitgan"))) / "assets" / name


def find(run: str | Path) -> Path:
    """The folder of `run`: a path that exists, a name in PACKAGED, or an id on the Hugging Face Hub.

    Any other path is returned as it is, although it does not exist: what reads it says so. The Hub is asked
    for "hf:USER/NAME", and for "USER/NAME" where there is no folder USER and NAME does not end as a file of
    images does. Raises UserError where it is asked and has no such generator, and for "~USER" where that user
    has no home folder.
    """
    name = str(run)
    try:
        path = Path(run).expanduser()
    except RuntimeError as error:
        raise UserError(f"There is no {name}: {name.split('/')[0]} has no home folder here.") from error
    try:
        if path.exists():
            return path
    except PermissionError:  # of the working folder, where a name of the package's is one all the same
        if name not in PACKAGED:
            raise
    if name in PACKAGED:
        return packaged(name)
    identity = name.removeprefix("hf:")
    meant = name != identity or not (path.suffix.lower() in _FILES or path.parent.exists())
    if is_id(identity) and meant:
        return fetch(identity)
    return path


BARS = "HF_HUB_DISABLE_PROGRESS_BARS"  # huggingface_hub's own variable


def fetch(identity: str) -> Path:
    """Download the generator `identity`, USER/NAME, into the Hub's cache, and return its folder there.

    The configuration comes first, so the weights of another kind of model are not downloaded. Raises
    UserError where it is no generator of this package, or cannot be reached.
    """
    library = hub_library(f"There is no folder {identity}, and to look for it on the Hub")
    try:
        with quiet_bars():
            folder = Path(library.snapshot_download(identity, allow_patterns=[CONFIG, CARD]))
            if _is_ours(folder):
                library.snapshot_download(identity, revision=folder.name, allow_patterns=[WEIGHTS])
    except Exception as error:  # of the library, its network and its cache
        raise UserError(
            f"{identity} cannot be fetched from the Hub ({reason_of(error)}): check the id and the network, "
            "log in with `hf auth login` if it is private, or pass a run's folder."
        ) from error
    if not (_is_ours(folder) and is_exported(folder)):
        raise UserError(
            f"{identity} on the Hub is no whole generator of vitgan's, {CONFIG} and {WEIGHTS}: check the id, "
            "or pass a run's folder."
        )
    return folder


def hub_library(use: str) -> Any:
    """The library huggingface_hub. Raises UserError, which begins with `use`, where it is not installed."""
    try:
        import huggingface_hub
    except ImportError as error:
        raise UserError(
            f'{use} needs the library `huggingface_hub`, which is not there: pip install "vitgan[hub]".'
        ) from error
    return huggingface_hub


@contextlib.contextmanager
def quiet_bars() -> Iterator[None]:
    """A context without huggingface_hub's progress bars, where none may be drawn on stderr.

    The variable HF_HUB_DISABLE_PROGRESS_BARS, if it is set, decides instead.
    """
    from huggingface_hub import utils

    if can_draw(sys.stderr) or BARS in os.environ or utils.are_progress_bars_disabled():
        yield
        return
    utils.disable_progress_bars()
    try:
        yield
    finally:
        utils.enable_progress_bars()


def _is_ours(folder: Path) -> bool:
    """Whether the configuration in a folder says that it is a model of this package."""
    try:
        found = read_json(folder / CONFIG)
    except (OSError, ValueError):
        return False
    return isinstance(found, dict) and found.get("model_type") == "vitgan"


def reason_of(error: Exception) -> str:
    """The first line of an error's text, at most 200 characters, as a clause without a full stop."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return textwrap.shorten(lines[0] if lines else type(error).__name__, 200, placeholder="…").rstrip(".")
