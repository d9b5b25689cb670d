"""What RUN may be: a folder, the name of a generator in the package, or an id of the Hub."""

import re
from importlib.resources import files
from pathlib import Path

from vitgan.errors import UserError

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
