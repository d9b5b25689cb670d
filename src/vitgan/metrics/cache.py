"""Results kept between commands: a safetensors file and a JSON file an entry, both under checksum.

The key of an entry is a hash of everything that its content depends on. A damaged entry counts as none.
"""

import hashlib
import json
import logging
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor

from vitgan.io import BrokenSeal, read_sealed, replacing, sealed, sha256_of_json

logger = logging.getLogger("vitgan")
Entry = tuple[dict[str, "Tensor"], dict[str, Any]]


def cache_folder() -> Path:
    """`$VITGAN_CACHE`, else `$XDG_CACHE_HOME/vitgan`, else `~/.cache/vitgan`."""
    if own := os.environ.get("VITGAN_CACHE"):
        return Path(own).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "vitgan"


def key_of(**parts: Any) -> str:
    """A hash of JSON-ready values, 32 hexadecimal digits."""
    return sha256_of_json(parts)[:32]


class Cache:
    """Entries below `folder` / metrics, named by kind and key.

    A folder that cannot be written costs a warning, not the command.
    """

    def __init__(self, folder: Path | None = None) -> None:
        self.folder = (cache_folder() if folder is None else folder) / "metrics"

    def load(self, kind: str, key: str) -> Entry | None:
        """The tensors and the description of an entry; None where there is none or it is damaged."""
        from safetensors import SafetensorError
        from safetensors.torch import load

        tensors_path, description_path = self._paths(kind, key)
        try:
            body = read_sealed(description_path, "entry")
            content = tensors_path.read_bytes()
            if body["tensors"] != hashlib.sha256(content).hexdigest():
                raise BrokenSeal
            if not isinstance(body["description"], dict):
                raise ValueError("it has no description")
            return load(content), body["description"]
        except FileNotFoundError:
            return None
        except (OSError, ValueError, KeyError, TypeError, AttributeError, SafetensorError) as error:
            logger.warning("%s is damaged (%s): computed again.", tensors_path, error)
            return None

    def save(self, kind: str, key: str, tensors: dict[str, "Tensor"], description: dict[str, Any]) -> None:
        """Write an entry; what an interrupted write leaves does not match its checksum."""
        from safetensors.torch import save

        tensors_path, description_path = self._paths(kind, key)
        content = save({name: tensor.contiguous() for name, tensor in tensors.items()})
        body = {"tensors": hashlib.sha256(content).hexdigest(), "description": description}
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            with replacing(tensors_path) as temporary:
                temporary.write_bytes(content)
            with replacing(description_path) as temporary:
                temporary.write_text(json.dumps(sealed("entry", body), indent=1))
        except OSError as error:
            logger.warning(
                "%s cannot be written (%s): nothing is kept for next time.", self.folder, error.strerror
            )

    def _paths(self, kind: str, key: str) -> tuple[Path, Path]:
        return self.folder / f"{kind}-{key}.safetensors", self.folder / f"{kind}-{key}.json"
