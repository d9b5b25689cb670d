"""Files on a web server, read from their beginning on."""

import http.client
import time
import urllib.error
import urllib.request
from typing import Any

from vitgan.data.reach import Unreachable

TIMEOUT = 30.0  # seconds without an answer
PAUSES = (0.5, 1.0, 2.0)  # seconds before each new try
PASSING = (408, 425, 429, 500, 502, 503, 504)  # answers after which it is worth to ask again


class WebFile:
    """The file of a URL, for `read` alone. A connection that breaks is taken up again where it broke.

    size: in bytes, or None; tag: the server's ETag or date of the file, or "".
    """

    def __init__(self, url: str) -> None:
        self.url, self.tag = url, ""
        self.size: int | None = None
        self._answer: Any = None
        self._position = 0
        self.read(0)

    def __enter__(self) -> "WebFile":
        return self

    def __exit__(self, *_error: object) -> None:
        self.close()

    def read(self, size: int) -> bytes:
        """At most `size` bytes, b"" at the end. Raises Unreachable where some tries have failed."""
        for pause in (*PAUSES, None):
            try:
                return self._read(size)
            except (OSError, http.client.HTTPException) as error:
                self.close()
                if answered := isinstance(error, urllib.error.HTTPError):
                    error.close()
                if pause is None or (answered and error.code not in PASSING):
                    raise Unreachable(self.url, " ".join(str(error).split())) from error
                time.sleep(pause)
        raise AssertionError

    def close(self) -> None:
        """End the connection."""
        if self._answer is not None:
            self._answer.close()
            self._answer = None

    def _read(self, size: int) -> bytes:
        self._answer = self._answer or self._connect()
        data: bytes = self._answer.read(size) if size else b""
        self._position += len(data)
        if size and not data and self.size is not None and self._position < self.size:
            raise ConnectionError("the connection ended too early")
        return data

    def _connect(self) -> Any:
        headers = {"User-Agent": "vitgan"}
        if self._position:
            headers["Range"] = f"bytes={self._position}-"
        answer = urllib.request.urlopen(urllib.request.Request(self.url, headers=headers), timeout=TIMEOUT)
        tag = answer.headers.get("ETag") or answer.headers.get("Last-Modified") or ""
        if self._position and tag != self.tag:
            raise ConnectionError("the file is another one now")
        if self._position and answer.status != http.HTTPStatus.PARTIAL_CONTENT:
            _pass_over(answer, self._position)
        if not self._position:
            length = answer.headers.get("Content-Length", "")
            self.size, self.tag = int(length) if length.isdecimal() else None, tag
        return answer


def _pass_over(answer: Any, count: int) -> None:
    while count and (data := answer.read(min(count, 2**20))):
        count -= len(data)
