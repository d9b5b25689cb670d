"""A page of the documentation in headless Chromium: a picture of it, and what it asks for.

    mkdocs build && python benchmarks/docs_page.py method --out docs/images/site-method.png [--chromium PATH]

Every page is opened. Errors of the browser's console, pictures that do not load and requests to anything but
the site itself are listed; the exit code is 1 where there are any. It needs `pip install playwright` and a
Chromium, as Debian's.
"""

import argparse
import functools
import http.server
import sys
import threading
from pathlib import Path

from playwright.sync_api import Page, sync_playwright

SITE = Path("build/site")
FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-background-networking"]
BROKEN = "() => [...document.images].filter(i => i.complete && !i.naturalWidth).map(i => i.src)"


class Quiet(http.server.SimpleHTTPRequestHandler):
    """Without a line for each request."""

    def log_message(self, format: str, *args: object) -> None:
        """Nothing."""


def main() -> int:
    """Serve, open, picture."""
    parser = argparse.ArgumentParser(description="Open the documentation's pages.")
    parser.add_argument("page", metavar="PAGE", help="of which a picture is taken, as method")
    parser.add_argument("--out", type=Path, required=True, metavar="PATH")
    parser.add_argument("--chromium", default="/usr/bin/chromium", metavar="PATH")
    options = parser.parse_args()
    handler = functools.partial(Quiet, directory=str(SITE))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        found = visit(f"http://127.0.0.1:{server.server_address[1]}", options)
        server.shutdown()
    print("\n".join(found) or "No error, no request outside.")
    return 1 if found else 0


def visit(address: str, options: argparse.Namespace) -> list[str]:
    """What is wrong on any page; the picture is taken on the way."""
    wrong: list[str] = []
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=options.chromium, args=FLAGS)
        page = browser.new_page(viewport={"width": 1280, "height": 1600})
        page.on("console", lambda message: wrong.append(message.text) if message.type == "error" else None)
        page.on("pageerror", lambda error: wrong.append(str(error)))
        page.on("request", lambda request: None if own(request.url, address) else wrong.append(request.url))
        for path in sorted(SITE.rglob("index.html")):
            name = path.parent.relative_to(SITE).as_posix()
            opened(page, f"{address}/{name}/", wrong)
            if name == options.page:
                page.screenshot(path=options.out)
        browser.close()
    return wrong


def opened(page: Page, address: str, wrong: list[str]) -> None:
    """The page, once it is at rest."""
    page.goto(address, wait_until="networkidle")
    wrong += page.evaluate(BROKEN)


def own(url: str, address: str) -> bool:
    """Whether a request stays with the site."""
    return url.startswith((address, "data:", "blob:"))


if __name__ == "__main__":
    sys.exit(main())
