"""What RUN may be, and the Hugging Face Hub: a generator's folder there and back, by huggingface_hub."""

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

PACKAGED = ("digits",)
_FILES = (".npy", ".npz", ".zip")  # of images, which a command may take in the place of a run
_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*", re.ASCII)


def is_id(name: str) -> bool:
    """Whether it is written as an id of the Hub is, USER/NAME."""
    return _ID.fullmatch(name) is not None


def packaged(name: str) -> Path:
    """The folder of one of PACKAGED."""
    return Path(str(files("vitgan"))) / "assets" / name


def find(run: str | Path) -> Path:
    """The folder of `run`: itself where it is there; else that of the package, or a copy of the Hub's.

    The Hub is asked for "hf:USER/NAME", and for "USER/NAME" where there is no folder USER and NAME does not
    end as a file of images does. Raises UserError where it is asked and has no such generator, and for the
    home of a user who has none.
    """
    name = str(run)
    try:
        path = Path(run).expanduser()
    except RuntimeError as error:
        raise UserError(f"There is no {name}: {name.split('/')[0]} has no home folder here.") from error
    if path.exists():
        return path
    if name in PACKAGED:
        return packaged(name)
    identity = name.removeprefix("hf:")
    meant = name != identity or not (path.suffix.lower() in _FILES or path.parent.exists())
    if is_id(identity) and meant:
        from vitgan.sharing.hub import fetch

        return fetch(identity)
    return path


BARS = "HF_HUB_DISABLE_PROGRESS_BARS"  # the library's own setting


def fetch(identity: str) -> Path:
    """A local copy of the generator `identity`, USER/NAME. Raises UserError where there is none.

    The configuration comes first: the weights of another kind of model are not downloaded.
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
    try:
        import huggingface_hub
    except ImportError as error:
        raise UserError(
            f'{use} needs the library `huggingface_hub`, which is not there: pip install "vitgan[hub]".'
        ) from error
    return huggingface_hub


@contextlib.contextmanager
def quiet_bars() -> Iterator[None]:
    """Within it the library's progress bars are off where no terminal shows them and nobody asked."""
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
    try:
        found = read_json(folder / CONFIG)
    except (OSError, ValueError):
        return False
    return isinstance(found, dict) and found.get("model_type") == "vitgan"


def reason_of(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return textwrap.shorten(lines[0] if lines else type(error).__name__, 200, placeholder="…").rstrip(".")
