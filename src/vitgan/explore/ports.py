"""A port to serve on."""

import socket

from vitgan.errors import UserError

PORTS = range(7860, 7900)


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
