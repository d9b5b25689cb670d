"""An exported generator: a folder of `model.safetensors` and `config.json`, each under SHA-256, no pickle."""

import hashlib
import json
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from vitgan.engine.checkpoint import DamagedCheckpoint
from vitgan.engine.description import whole_number, wrong_field
from vitgan.errors import UserError
from vitgan.json_text import read_json
from vitgan.replacing import replacing

WEIGHTS, CONFIG = "model.safetensors", "config.json"
FORMAT, MOST_FORMAT = 1, 10**6
PART = "average"  # of a checkpoint's tensors
LEFT_OUT = ("blocks", "block_parts")  # of the facts on the images: for going on with a run


def is_exported(folder: Path) -> bool:
    """Whether it is an exported generator, damaged ones included."""
    return (folder / CONFIG).is_file() and (folder / WEIGHTS).exists()


def write_exported(folder: Path, tensors: dict[str, Tensor], description: dict[str, Any]) -> None:
    """The averaged generator of a checkpoint's tensors and description, into a folder that is there."""
    own = {n.removeprefix(f"{PART}."): t.contiguous() for n, t in tensors.items() if n.startswith(f"{PART}.")}
    with replacing(folder / WEIGHTS) as temporary:
        save_file(own, temporary, metadata={"format": "pt"})
        temporary.chmod(0o644)  # safetensors leaves it to the owner alone; an export is for others
        checksum = _sha256(temporary)
    facts = {name: value for name, value in description["data"].items() if name not in LEFT_OUT}
    kept = {name: value for name, value in description.items() if name not in ("rollbacks", "format")}
    body = {"format": FORMAT, **kept, "data": facts, "sha256": checksum}
    whole = {"model_type": "vitgan", "generator": body, "sha256": _json_sha256(body)}
    with replacing(folder / CONFIG) as temporary:
        temporary.write_text(json.dumps(whole, indent=1) + "\n", "utf-8")


def read_exported(folder: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Its tensors, named as in a checkpoint, and its description.

    Raises DamagedCheckpoint where it is not whole, UserError for a newer format.
    """
    body = read_config(folder)
    try:
        if _sha256(folder / WEIGHTS) != body["sha256"]:
            raise DamagedCheckpoint(f"{WEIGHTS} does not match its checksum")
        tensors = load_file(folder / WEIGHTS)
    except (OSError, SafetensorError, ValueError, KeyError, AttributeError) as error:
        raise DamagedCheckpoint(f"{WEIGHTS} cannot be read") from error
    return {f"{PART}.{name}": tensor for name, tensor in tensors.items()}, body


def read_config(folder: Path) -> dict[str, Any]:
    """What `config.json` says, its fields checked. Raises as `read_exported`."""
    try:
        whole = read_json(folder / CONFIG)
        body, checksum = whole["generator"], whole["sha256"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DamagedCheckpoint(f"{CONFIG} cannot be read") from error
    if checksum != _json_sha256(body):
        raise DamagedCheckpoint(f"{CONFIG} does not match its checksum")
    if not isinstance(body, dict) or not whole_number(1, MOST_FORMAT)(body.get("format")):
        raise DamagedCheckpoint(f"{CONFIG} lacks the field format, or has a wrong one")
    if body["format"] > FORMAT:
        raise UserError(
            f"{folder} was exported by a newer vitgan (format {body['format']}): "
            "upgrade with `pip install --upgrade vitgan`."
        )
    if (field := wrong_field(body)) is not None:
        raise DamagedCheckpoint(f"{CONFIG} lacks the field {field}, or has a wrong one")
    return body


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _json_sha256(body: Any) -> str:
    return hashlib.sha256(json.dumps(body, sort_keys=True).encode()).hexdigest()
