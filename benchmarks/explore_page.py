"""The page of `vitgan explore`, driven in headless Chromium: what it shows, how fast, what it asks for.

    python benchmarks/explore_page.py RUN PICTURE --out docs/images --json explore.json [--chromium PATH]

Goes through the six tabs as a visitor does, takes a picture of each, and times 30 moves of a slider until the
image on the page is another one. Errors of the browser's console, and requests to anything but the page, are
listed; the exit code is 1 where there are any. It needs `pip install playwright "vitgan[explore]"` and a
Chromium, as Debian's.
"""

import argparse
import json
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import torch
from playwright.sync_api import Page, sync_playwright  # pyright: ignore[reportMissingImports]

from vitgan.commands.explore import free_port
from vitgan.engine.environment import environment

FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update"]
FLAGS += ["--disable-sync", "--no-first-run"]
MOVES, HOST = 30, "127.0.0.1"
CHANGED = "old => { const image = document.querySelector('#moved img'); return image && image.src !== old }"


def main() -> int:
    """Serve, drive, measure."""
    parser = argparse.ArgumentParser(description="Drive the page of vitgan explore.")
    parser.add_argument("run", metavar="RUN")
    parser.add_argument("picture", metavar="PICTURE")
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="of the screenshots")
    parser.add_argument("--json", type=Path, metavar="PATH")
    parser.add_argument("--chromium", default="/usr/bin/chromium", metavar="PATH")
    options = parser.parse_args()
    port = free_port(HOST, None)
    command = [sys.executable, "-m", "vitgan", "explore", options.run, "--port", str(port)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
        try:
            assert server.stdout is not None
            server.stdout.readline()
            found = driven(f"http://{HOST}:{port}", options)
        finally:
            server.terminate()
    shown = {"environment": environment(torch.device("cpu")), "command": " ".join(sys.argv), **found}
    print(json.dumps(found, indent=1))
    if options.json is not None:
        options.json.write_text(json.dumps(shown, indent=1) + "\n", encoding="utf-8")
    return 1 if found["console_errors"] or found["requests_outside"] else 0


def driven(address: str, options: argparse.Namespace) -> dict[str, Any]:
    """What a visit found."""
    errors: list[str] = []
    outside: list[str] = []
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=options.chromium, args=FLAGS)
        page = browser.new_page(viewport={"width": 1280, "height": 900})
        page.on("console", lambda message: errors.append(message.text) if message.type == "error" else None)
        page.on("pageerror", lambda error: errors.append(str(error)))
        page.on("request", lambda request: outside.append(request.url) if not own(request.url) else None)
        arrive(page, address)
        options.out.mkdir(parents=True, exist_ok=True)
        samples_and_walk(page, options.out)
        moves = directions(page, options.out)
        seconds = projected(page, options.picture, options.out)
        judged_and_run(page, options.out)
        browser.close()
    return {
        "slider_milliseconds_median": 1000 * statistics.median(moves),
        "slider_milliseconds_largest": 1000 * max(moves),
        "projection_seconds": seconds,
        "console_errors": errors,
        "requests_outside": outside,
    }


def own(url: str) -> bool:
    """Whether a request stays on this machine."""
    return url.startswith((f"http://{HOST}:", "data:", "blob:"))


def arrive(page: Page, address: str) -> None:
    """Once the server answers."""
    for _ in range(60):
        try:
            page.goto(address, wait_until="load")
            break
        except Exception:  # not yet there
            time.sleep(1)
    page.wait_for_selector("#draw", timeout=60_000)


def picture(page: Page, out: Path, name: str) -> None:
    """A screenshot, once the page is at rest."""
    time.sleep(1)
    page.screenshot(path=out / f"explore-{name}.png", full_page=True)


def tab(page: Page, name: str) -> None:
    """Open a tab."""
    page.get_by_role("tab", name=name).click()
    time.sleep(0.5)


def samples_and_walk(page: Page, out: Path) -> None:
    """Keep three of those that are there on arrival, walk between them."""
    page.wait_for_selector("#samples img", timeout=60_000)
    for kept, number in enumerate((1, 5, 9), 1):
        page.locator("#samples button").nth(number).click()
        page.wait_for_function(f"document.querySelectorAll('#kept img').length == {kept}", timeout=20_000)
    picture(page, out, "samples")
    tab(page, "Walk")
    page.click("#walk")
    page.wait_for_selector("#strip img", timeout=60_000)
    picture(page, out, "walk")


def directions(page: Page, out: Path) -> list[float]:
    """Seconds from a press of the arrow key to another image, of each move."""
    tab(page, "Directions")
    slider, image, seconds = page.locator("#pca-1 input[type=range]"), page.locator("#moved img"), []
    for _ in range(MOVES + 1):
        old = image.get_attribute("src") if image.count() else None
        slider.focus()
        start = time.perf_counter()
        page.keyboard.press("ArrowRight")
        page.wait_for_function(CHANGED, arg=old, timeout=20_000)
        seconds.append(time.perf_counter() - start)
    picture(page, out, "directions")
    return seconds[1:]  # the first also finds the directions


def projected(page: Page, file: str, out: Path) -> float:
    """Seconds of a search of 300 steps."""
    tab(page, "Your picture")
    page.set_input_files("#upload input[type=file]", file)
    page.wait_for_selector("#original img", timeout=20_000)
    start = time.perf_counter()
    page.click("#project")
    page.get_by_text("300 of 300").wait_for(timeout=300_000)
    seconds = time.perf_counter() - start
    picture(page, out, "picture")
    return seconds


def judged_and_run(page: Page, out: Path) -> None:
    """The discriminator's view, and the run's curves."""
    tab(page, "Discriminator")
    page.wait_for_selector("#attention img", timeout=60_000)
    page.locator("#head input[type=number]").fill("2")
    picture(page, out, "discriminator")
    tab(page, "Runs")
    page.wait_for_selector("#sample img", timeout=60_000)
    picture(page, out, "runs")


if __name__ == "__main__":
    sys.exit(main())
