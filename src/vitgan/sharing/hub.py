"""The Hugging Face Hub: a generator's folder there and back, by huggingface_hub."""

import tempfile
from pathlib import Path
from typing import Any

from vitgan.engine.exported import CONFIG, WEIGHTS
from vitgan.errors import UserError
from vitgan.sharing.folder import CARD, export_folder

HTTP_REFUSED = (401, 403)


def fetch(identity: str) -> Path:
    """A local copy of the generator `identity`, USER/NAME. Raises UserError where there is none."""
    library = _library()
    try:
        return Path(library.snapshot_download(identity, allow_patterns=[WEIGHTS, CONFIG, CARD]))
    except Exception as error:  # of the library, its network and its cache
        raise UserError(
            f"{identity} cannot be fetched from the Hub ({_reason(error)}): check the id and the network, "
            "or pass a run's folder."
        ) from error


def push(run: str | Path, identity: str, *, private: bool, license_id: str) -> str:
    """Export `run` and upload it as `identity`, USER/NAME; the address. Raises UserError where that fails."""
    library = _library()
    if identity.count("/") != 1:
        raise UserError(f"{identity!r} is no id of the Hub: write USER/NAME.")
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place) / "export"
        export_folder(run, folder, license_id=license_id, place=identity)
        try:
            api = library.HfApi()
            address = api.create_repo(identity, private=private, exist_ok=True)
            api.upload_folder(repo_id=identity, folder_path=folder, commit_message="A generator of vitgan")
        except Exception as error:  # of the library and its network
            raise UserError(f"{identity} cannot be written ({_reason(error)}): {_advice(error)}.") from error
    return str(address)


def _library() -> Any:
    try:
        import huggingface_hub
    except ImportError as error:
        raise UserError(
            'The Hub needs the library `huggingface_hub`, which is not there: pip install "vitgan[hub]".'
        ) from error
    return huggingface_hub


def _advice(error: Exception) -> str:
    answer = getattr(error, "response", None)
    if getattr(answer, "status_code", None) in HTTP_REFUSED or "Token" in type(error).__name__:
        return "log in with `hf auth login`, with a token that may write there"
    return "check the network and give the same command again"


def _reason(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return (lines[0] if lines else type(error).__name__)[:200].rstrip(".")
