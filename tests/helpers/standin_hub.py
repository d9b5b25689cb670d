"""A server on this machine in the place of the Hugging Face Hub, and the command line with it for its Hub."""

import base64
import hashlib
import http.server
import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import unquote

TOKEN = "hf_mine"
COMMIT = "0123456789abcdef0123456789abcdef01234567"
BARS = "HF_HUB_DISABLE_PROGRESS_BARS"
COMMANDS = """
import contextlib, io, json, sys
from vitgan.cli import main
for words in json.loads(sys.argv[1]):
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = main(words)
    print(json.dumps([code, out.getvalue(), err.getvalue()]), flush=True)
"""


class Done(NamedTuple):
    """How a command ended, and what it said."""

    code: int
    out: str
    err: str


@dataclass
class Hub:
    """Files by repository, USER/NAME, and the files that were downloaded, as USER/NAME/FILE."""

    folder: Path
    address: str = ""
    repositories: dict[str, dict[str, bytes]] = field(default_factory=dict)
    downloaded: list[str] = field(default_factory=list)

    def run(self, *commands: Sequence[object], token: str | None = TOKEN) -> list[Done]:
        """`vitgan COMMAND` of each in one process, in `folder`, with this server for the Hub."""
        own = {"HF_ENDPOINT": self.address, "HF_HOME": str(self.folder / "hf"), "HF_HUB_DISABLE_XET": "1"}
        left_out = (BARS, "HF_TOKEN", "HF_HUB_OFFLINE", "HF_HUB_CACHE")
        kept = {name: value for name, value in os.environ.items() if name not in left_out}
        words = json.dumps([[str(word) for word in command] for command in commands])
        done = subprocess.run(
            [sys.executable, "-c", COMMANDS, words],
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
            cwd=self.folder,
            env={**kept, **own, **({"HF_TOKEN": token} if token else {})},
        )
        assert done.returncode == 0, done.stderr
        assert done.stderr == ""
        return [Done(*json.loads(line)) for line in done.stdout.splitlines()]


@contextmanager
def serving(folder: Path) -> Iterator[Hub]:
    """Within it the stand-in answers at `address`."""
    hub = Hub(folder)
    handler = type("Mine", (_Handler,), {"hub": hub})
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.05,))
        thread.start()
        hub.address = f"http://127.0.0.1:{server.server_address[1]}"
        try:
            yield hub
        finally:
            server.shutdown()
            thread.join()


class _Handler(http.server.BaseHTTPRequestHandler):
    """As much of the Hub as a repository takes: created, committed to, listed, read."""

    hub: Hub

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        if self.headers.get("Authorization") != f"Bearer {TOKEN}":
            self.answer(401, {"error": "Invalid credentials"})
        elif self.path == "/api/repos/create":
            asked = json.loads(body)
            name = f"{asked.get('organization') or 'me'}/{asked['name']}"
            self.hub.repositories.setdefault(name, {})
            self.answer(200, {"url": f"{self.hub.address}/{name}"})
        elif "/preupload/" in self.path:
            paths = [file["path"] for file in json.loads(body)["files"]]
            ways = [{"path": p, "uploadMode": "regular", "shouldIgnore": False} for p in paths]
            self.answer(200, {"files": ways})
        elif "/commit/" in self.path:
            self.commit(body)
        else:
            self.answer(200, {})

    def commit(self, body: bytes) -> None:
        name = "/".join(self.path.split("/")[3:5])
        for line in map(json.loads, body.splitlines()):
            if line["key"] == "file":
                content = base64.b64decode(line["value"]["content"])
                self.hub.repositories[name][line["value"]["path"]] = content
        address = f"{self.hub.address}/{name}/commit/{COMMIT}"
        self.answer(200, {"success": True, "commitOid": COMMIT, "commitUrl": address})

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        parts = unquote(self.path).strip("/").split("/")
        listing = parts[:2] == ["api", "models"]
        name = "/".join(parts[2:4] if listing else parts[:2])
        files = self.hub.repositories.get(name)
        if files is None:
            self.answer(404, {"error": "not found"}, **{"X-Error-Code": "RepoNotFound"})
        elif listing and "tree" in parts:
            self.answer(
                200, [{"type": "file", "path": n, "size": len(d), "oid": COMMIT} for n, d in files.items()]
            )
        elif listing:
            siblings = [{"rfilename": file} for file in files]
            self.answer(200, {"id": name, "sha": COMMIT, "siblings": siblings, "private": False})
        elif parts[2:3] == ["resolve"] and parts[-1] in files:
            if self.command == "GET":
                self.hub.downloaded.append(f"{name}/{parts[-1]}")
            self.answer(200, files[parts[-1]])
        else:
            self.answer(404, {"error": "not found"}, **{"X-Error-Code": "EntryNotFound"})

    def answer(self, code: int, body: Any, **headers: str) -> None:
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        self.send_response(code)
        headers |= {"ETag": f'"{hashlib.sha1(data).hexdigest()}"', "X-Repo-Commit": COMMIT}
        for name, value in (headers | {"Content-Length": str(len(data))}).items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)

    def log_message(self, format: str, *arguments: Any) -> None:
        pass
