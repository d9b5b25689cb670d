"""What RUN may be: a folder, the name of a generator in the package, or an id of the Hub."""

import re
from importlib.resources import files
from pathlib import Path

PACKAGED = ("digits",)
_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*", re.ASCII)


def find(run: str | Path) -> Path:
    """The folder of `run`: itself where it is there; else that of the package, or a copy of the Hub's.

    The Hub is asked for "hf:USER/NAME", and for "USER/NAME" where there is no folder USER. Raises UserError
    where it is asked and has no such generator.
    """
    path = Path(run).expanduser()
    name = str(run)
    if path.exists():
        return path
    if name in PACKAGED:
        return Path(str(files("vitgan"))) / "assets" / name
    identity = name.removeprefix("hf:")
    if _ID.fullmatch(identity) and (name != identity or not Path(identity.split("/")[0]).exists()):
        from vitgan.sharing.hub import fetch

        return fetch(identity)
    return path
