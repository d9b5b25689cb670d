"""A web server that breaks off and refuses as told."""

import http.server
from pathlib import Path
from typing import Any


class Server(http.server.SimpleHTTPRequestHandler):
    """Serves a folder, and notes the ranges that are asked for.

    breaking: so many answers break off; refusing: so many are refused, with status 503; ranges: whether it
    knows them; tag: of every file.
    """

    folder = ""
    breaking = refusing = 0
    ranges = True
    tag = "1"
    asked: list[str | None]

    def do_GET(self) -> None:
        own, path = type(self), Path(self.folder) / self.path.lstrip("/")
        wanted = self.headers.get("Range") if own.ranges else None
        own.asked.append(wanted)
        if own.refusing > 0 or not path.exists():
            own.refusing -= 1
            self.send_error(503 if path.exists() else 404)
            return
        start = int(wanted.removeprefix("bytes=").split("-")[0]) if wanted else 0
        self._answer(path.read_bytes(), start, partly=wanted is not None)

    def _answer(self, data: bytes, start: int, *, partly: bool) -> None:
        self.send_response(206 if partly else 200)
        if partly:
            self.send_header("Content-Range", f"bytes {start}-{len(data) - 1}/{len(data)}")
        self.send_header("Content-Length", str(len(data) - start))
        self.send_header("ETag", self.tag)
        self.end_headers()
        rest = data[start:]
        if type(self).breaking > 0:
            type(self).breaking -= 1
            rest = rest[: len(rest) // 2]
            self.close_connection = True
        self.wfile.write(rest)

    def log_message(self, format: str, *arguments: Any) -> None:
        pass
