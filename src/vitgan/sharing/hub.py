"""The Hugging Face Hub: a generator's folder there and back, by huggingface_hub."""

import contextlib
import os
import sys
import tempfile
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from vitgan.engine.exported import CONFIG, WEIGHTS, is_exported
from vitgan.errors import UserError
from vitgan.json_text import read_json
from vitgan.sharing.folder import CARD, export_folder
from vitgan.sharing.names import is_id
from vitgan.terminal import can_draw

HTTP_REFUSED = (401, 403)
BARS = "HF_HUB_DISABLE_PROGRESS_BARS"  # the library's own setting


def fetch(identity: str) -> Path:
    """A local copy of the generator `identity`, USER/NAME. Raises UserError where there is none.

    The configuration comes first: the weights of another kind of model are not downloaded.
    """
    library = _library(f"There is no folder {identity}, and to look for it on the Hub")
    try:
        with _bars():
            folder = Path(library.snapshot_download(identity, allow_patterns=[CONFIG, CARD]))
            if _is_ours(folder):
                library.snapshot_download(identity, revision=folder.name, allow_patterns=[WEIGHTS])
    except Exception as error:  # of the library, its network and its cache
        raise UserError(
            f"{identity} cannot be fetched from the Hub ({_reason(error)}): check the id and the network, "
            "log in with `hf auth login` if it is private, or pass a run's folder."
        ) from error
    if not (_is_ours(folder) and is_exported(folder)):
        raise UserError(
            f"{identity} on the Hub is no whole generator of vitgan's, {CONFIG} and {WEIGHTS}: check the id, "
            "or pass a run's folder."
        )
    return folder


def push(run: str | Path, identity: str, *, private: bool, license_id: str | None) -> str:
    """Export `run` and upload it as `identity`, USER/NAME; the address. Raises UserError where that fails.

    Of the path of the run's images only the last part is published.
    """
    if not is_id(identity):
        raise UserError(f"{identity!r} is no id of the Hub: write USER/NAME.")
    library = _library("The Hub")
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place) / "export"
        export_folder(run, folder, license_id=license_id, place=identity, hide_folders=True)
        try:
            api = library.HfApi()
            with _bars():
                address = api.create_repo(identity, private=private, exist_ok=True)
                message = "A generator of vitgan"
                api.upload_folder(repo_id=identity, folder_path=folder, commit_message=message)
        except Exception as error:  # of the library and its network
            raise UserError(f"{identity} cannot be written ({_reason(error)}): {_advice(error)}.") from error
    return str(address)


def _library(use: str) -> Any:
    try:
        import huggingface_hub
    except ImportError as error:
        raise UserError(
            f'{use} needs the library `huggingface_hub`, which is not there: pip install "vitgan[hub]".'
        ) from error
    return huggingface_hub


@contextlib.contextmanager
def _bars() -> Iterator[None]:
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


def _advice(error: Exception) -> str:
    answer = getattr(error, "response", None)
    if getattr(answer, "status_code", None) in HTTP_REFUSED or "Token" in type(error).__name__:
        return "log in with `hf auth login`, with a token that may write there"
    return "check the network and give the same command again"


def _reason(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return textwrap.shorten(lines[0] if lines else type(error).__name__, 200, placeholder="…").rstrip(".")
