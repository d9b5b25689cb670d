"""`vitgan explore`: a local web page over trained runs."""

import argparse
import socket
from pathlib import Path

from vitgan.errors import UserError

PORTS = range(7860, 7900)
SUMMARY = "look at trained runs on a local web page"
EXAMPLES = """examples:
  vitgan explore                        every run in runs/, and digits
  vitgan explore runs/faces --port 8000
"""


def add(parser: argparse.ArgumentParser) -> None:
    """Its arguments."""
    parser.add_argument("run", metavar="RUN", nargs="?", help="as for `vitgan sample` (the runs of --runs)")
    parser.add_argument(
        "--runs", type=Path, default=Path("runs"), metavar="DIR", help="a folder of runs (runs)"
    )
    parser.add_argument(
        "--host", default="127.0.0.1", metavar="H", help="the address to serve on (127.0.0.1)"
    )
    parser.add_argument("--port", type=int, metavar="P", help="(the first free one from 7860 on)")


def run(options: argparse.Namespace) -> int:
    """Serves until it is interrupted; returns the exit code."""
    if options.port is not None and not 0 < options.port < 2**16:
        raise UserError(f"--port must be from 1 to 65535, not {options.port}.")
    from vitgan.engine.run_folder import load_generator
    from vitgan.sharing import find

    if options.run is not None:
        load_generator(find(options.run))  # refused before anything is served
    port = free_port(options.host, options.port)
    try:
        from vitgan.explore.app import serve
    except ImportError as error:
        if error.name != "gradio":
            raise
        raise UserError(
            'The page needs the library `gradio`, which is not there: pip install "vitgan[explore]".'
        ) from error
    serve(options.runs, options.run, host=options.host, port=port)
    return 0


def free_port(host: str, port: int | None) -> int:
    """`port`, or the first free one from 7860 on. Raises UserError where there is none."""
    reason = ""
    for candidate in PORTS if port is None else (port,):
        with socket.socket() as asked:
            asked.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                asked.bind((host, candidate))
                return candidate
            except (OSError, UnicodeError) as error:  # a host may be no name
                reason = getattr(error, "strerror", None) or str(error)
    where = f"Port {port}" if port is not None else f"Every port from {PORTS.start} to {PORTS.stop - 1}"
    raise UserError(f"{where} of {host} cannot be used ({reason}): give another with --port.")
