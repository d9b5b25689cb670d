"""The page of `vitgan explore` in a headless Chromium, as a visitor goes through it; skipped without one."""

import importlib.util
import io
import re
import shutil
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from playwright.sync_api import Browser, FilePayload, Page, expect, sync_playwright

from sizes import TINY
from vitgan.cli import main

pytestmark = pytest.mark.slow  # Chromium drives the page

_NAMES = ("chromium", "chromium-browser", "google-chrome")
CHROMIUM = next((path for path in map(shutil.which, _NAMES) if path is not None), None)
if CHROMIUM is None or any(importlib.util.find_spec(name) is None for name in ("gradio", "playwright")):
    pytest.skip("needs gradio, playwright and a Chromium", allow_module_level=True)
PATIENCE = 30_000  # milliseconds
expect.set_options(timeout=PATIENCE)
FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update"]
Open = Callable[[], Page]


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A ViTGAN, one whose discriminator is StyleGAN2's, and a class-conditional generator."""
    images, folder = tmp_path_factory.mktemp("images") / "images.npy", tmp_path_factory.mktemp("runs")
    np.save(images, np.random.default_rng(0).integers(0, 256, (13, 8, 8), dtype=np.uint8))
    few = ["--images", "8", "--device", "cpu", "--quiet", "--training.log-every", "4"]
    small = ["--training.batch", "4", "--training.sample-count", "4"]
    for name, words in {
        "one": ["digits", "--data", str(images), *TINY],
        "convolutions": ["digits-stylegan2-d", *small],
        "classes": ["digits-biggan-diffaug", "--data.labels", "True", *small],
    }.items():
        assert main(["train", *words, *few, "--out", str(folder / name)]) == 0
    return folder


@pytest.fixture(scope="module")
def address(runs: Path) -> Iterator[str]:
    """Of the page over the runs, `one` chosen."""
    with socket.socket() as asked:
        asked.bind(("127.0.0.1", 0))
        port = asked.getsockname()[1]
    words = ["explore", str(runs / "one"), "--runs", str(runs), "--port", str(port)]
    command = [sys.executable, "-m", "vitgan", *words]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as page:
        assert page.stdout is not None
        assert page.stdout.readline().startswith("vitgan explore: ")
        yield f"http://127.0.0.1:{port}"
        page.terminate()


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        yield playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)


@pytest.fixture
def visit(browser: Browser, address: str) -> Iterator[Open]:
    """visit() is a visitor's page; at the end no console has had an error and nothing else was asked for."""
    contexts, errors, outside = [], [], []

    def look(url: str) -> None:
        if not url.startswith((address, "data:", "blob:")):
            outside.append(url)

    def enter() -> Page:
        contexts.append(browser.new_context(viewport={"width": 1280, "height": 900}))
        page = contexts[-1].new_page()
        page.set_default_timeout(PATIENCE)
        page.on("console", lambda said: errors.append(said.text) if said.type == "error" else None)
        page.on("pageerror", lambda error: errors.append(f"{error} {error.stack}"))
        page.on("request", lambda request: look(request.url))
        page.goto(address)
        expect(page.locator("#samples img")).to_have_count(16)
        return page

    yield enter
    for context in contexts:
        context.close()
    assert errors == []
    assert outside == []


def tab(page: Page, name: str) -> None:
    page.get_by_role("tab", name=name).click()


def choose(page: Page, name: str) -> None:
    """Another run."""
    page.locator("#run input").click()
    page.get_by_role("option", name=name, exact=True).click()


def shown(page: Page, place: str) -> str:
    """The one picture in a part of the page."""
    expect(page.locator(f"#{place} img")).to_have_count(1)
    return str(page.locator(f"#{place} img").get_attribute("src"))


def changed(page: Page, place: str, before: str) -> str:
    """The picture that takes the place of another one."""
    expect(page.locator(f"#{place} img")).not_to_have_attribute("src", before)
    return shown(page, place)


def payload(name: str, content: bytes | Image.Image) -> FilePayload:
    if isinstance(content, Image.Image):
        with io.BytesIO() as file:
            content.save(file, "PNG")
            content = file.getvalue()
    return {"name": name, "mimeType": "application/octet-stream", "buffer": content}


def upload(page: Page, place: str, file: FilePayload) -> None:
    """In the place of what was uploaded before."""
    page.locator(f"#{place}").scroll_into_view_if_needed()
    if page.locator(f"#{place} button[aria-label=Clear]").count():
        page.locator(f"#{place} button[aria-label=Clear]").click()
    page.locator(f"#{place} input[type=file]").set_input_files(file)


def test_on_arrival_no_tab_is_empty(visit: Open) -> None:
    page = visit()
    expect(page.locator("#about")).to_contain_text("8 x 8 pixels, grey")
    for name, place in {"Directions": "moved", "Discriminator": "attention", "Runs": "sample"}.items():
        tab(page, name)
        assert shown(page, place)
    expect(page.locator("#state")).to_contain_text("state: complete, images: 8")
    expect(page.locator("#curves svg").first).to_be_visible()
    expect(page.locator("#settings")).to_contain_text("training.batch")


def test_kept_samples_are_walked_between_and_downloaded(visit: Open, tmp_path: Path) -> None:
    page = visit()
    tab(page, "Walk")
    page.click("#walk")
    expect(page.get_by_text("0 kept of")).to_be_visible()
    tab(page, "Samples")
    for kept, number in enumerate((1, 5), 1):
        page.locator("#samples button").nth(number).click()
        expect(page.locator("#kept img")).to_have_count(kept)
    page.fill("#seed input", "100")  # what is kept is what was clicked, and not what the fields say since
    page.locator("#samples button").nth(2).click()
    expect(page.locator("#kept a").nth(2)).to_have_attribute("download", "seed-2.png")
    with page.expect_download() as found:
        page.locator("#kept a").first.click()
    found.value.save_as(tmp_path / "kept.png")
    with Image.open(tmp_path / "kept.png") as image:
        assert image.size == (8, 8)
    tab(page, "Walk")
    page.click("#walk")
    assert shown(page, "strip")
    links = page.locator("#files a[download]")
    names = [str(links.nth(k).get_attribute("download")) for k in range(links.count())]
    assert {"walk.png", "walk.gif"} <= set(names)
    for k, name in enumerate(names):
        with page.expect_download() as found:
            links.nth(k).click()
        found.value.save_as(tmp_path / name)
    with Image.open(tmp_path / "walk.gif") as film:
        assert getattr(film, "n_frames", 0) > 20
    if "walk.mp4" in names:
        assert (tmp_path / "walk.mp4").read_bytes()[4:8] == b"ftyp"
    tab(page, "Samples")
    page.click("#forget")
    expect(page.locator("#kept img")).to_have_count(0)


def test_a_slider_moves_the_image_and_zero_brings_it_back(visit: Open) -> None:
    page = visit()
    tab(page, "Directions")
    first = shown(page, "moved")
    page.locator("#pca-1 input[type=range]").focus()
    for _ in range(8):
        page.keyboard.press("ArrowRight")
    expect(page.locator("#pca-1 input[type=number]")).to_have_value("0.8")
    changed(page, "moved", first)
    page.click("#zero")
    expect(page.locator("#moved img")).to_have_attribute("src", first)


def test_a_picture_is_cropped_projected_and_edited(visit: Open) -> None:
    page = visit()
    tab(page, "Your picture")
    page.click("#project")
    expect(page.get_by_text("Choose a picture first.")).to_be_visible()
    page.click("#edit")
    expect(page.get_by_text("No picture is projected")).to_be_visible()
    image = Image.new("L", (60, 30), 10)
    image.paste(200, (30, 0, 60, 30))
    upload(page, "upload", payload("x.png", image))
    whole = shown(page, "original")
    page.locator("#crop-across input[type=number]").fill("100")
    page.locator("#crop-across input[type=number]").blur()
    square = changed(page, "original", whole)
    assert shown(page, "frame")
    page.locator("#steps input[type=number]").fill("2000")
    page.locator("#steps input[type=number]").blur()
    page.click("#project")
    page.get_by_text(re.compile(r"\d+ of 2000: ")).wait_for()
    page.click("#cancel")
    page.get_by_text("(cancelled)").wait_for()
    assert "2000 of 2000" not in page.locator("#difference").inner_text()
    nearest = shown(page, "nearest")
    assert shown(page, "original") == square
    page.click("#edit")
    expect(page.locator("#moved img")).to_have_attribute("src", nearest)
    page.locator("#pca-1 input[type=range]").focus()
    page.keyboard.press("End")
    changed(page, "moved", nearest)


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (b"no picture", "it is no image of a known format"),
        (b"%PDF-1.7 " + bytes(100), "it is no image of a known format"),
        (b"", "the file is empty"),
        (Image.new("1", (10_000, 10_000)), "it is larger than 64 megapixels"),
    ],
    ids=["text", "pdf", "empty", "100 megapixels"],
)
def test_what_is_no_picture_is_told(content: bytes | Image.Image, sentence: str, visit: Open) -> None:
    page = visit()
    tab(page, "Your picture")
    upload(page, "upload", payload("x.png", content))
    expect(page.get_by_text(sentence)).to_be_visible()
    upload(page, "upload", payload("y.png", Image.new("L", (9, 9), 50)))
    assert shown(page, "original")


def test_the_discriminators_view_follows_its_sliders(visit: Open) -> None:
    page = visit()
    tab(page, "Discriminator")
    first, logit = shown(page, "attention"), page.locator("#logit textarea, #logit input").input_value()
    page.locator("#head input[type=number]").fill("2")
    page.locator("#head input[type=number]").blur()
    changed(page, "attention", first)
    patches = shown(page, "patches")
    upload(page, "view-upload", payload("x.png", Image.new("L", (9, 9), 50)))
    changed(page, "patches", patches)
    assert page.locator("#logit textarea, #logit input").input_value() != logit


def test_another_run_brings_its_own_form(visit: Open) -> None:
    page = visit()
    expect(page.locator("#class")).to_be_hidden()
    choose(page, "classes")
    expect(page.locator("#class")).to_be_visible()
    expect(page.get_by_text("Class, 0 to 9").first).to_be_visible()
    before = page.locator("#samples img").first.get_attribute("src")
    page.fill("#class input", "7")
    page.click("#draw")
    expect(page.locator("#samples img").first).not_to_have_attribute("src", str(before))
    page.fill("#class input", "10")
    page.click("#draw")
    expect(page.get_by_text("This generator draws 10 classes")).to_be_visible()
    choose(page, "convolutions")
    expect(page.locator("#class")).to_be_hidden()
    tab(page, "Discriminator")
    expect(page.locator("#view-note")).to_contain_text("no Vision Transformer")
    expect(page.locator("#layer")).to_be_hidden()
    assert shown(page, "patches")
    choose(page, "digits")
    expect(page.locator("#view-note")).to_contain_text("There is no discriminator here")


def test_a_run_that_goes_on_and_one_that_is_deleted_are_seen(visit: Open, runs: Path) -> None:
    shutil.copytree(runs / "one", runs / "growing")
    try:
        page = visit()
        choose(page, "growing")
        tab(page, "Runs")
        expect(page.locator("#sample")).to_contain_text("At 8 images")
        newest = max((runs / "growing/samples").iterdir())
        shutil.copy(newest, newest.with_stem("000000099"))
        expect(page.locator("#sample")).to_contain_text("At 99 images")
        page.locator("#when input[type=number]").fill("1")
        page.locator("#when input[type=number]").blur()
        expect(page.locator("#sample")).not_to_contain_text("At 99 images")
        shutil.rmtree(runs / "growing")
        expect(page.locator("#state")).to_contain_text("no run growing here, or no more")
    finally:
        shutil.rmtree(runs / "growing", ignore_errors=True)
    tab(page, "Samples")
    page.click("#draw")
    expect(page.get_by_text("or no more: choose another one").last).to_be_visible()
    choose(page, "classes")
    expect(page.locator("#class")).to_be_visible()


def test_two_visitors_do_not_disturb_each_other(visit: Open) -> None:
    pages = [visit(), visit()]
    for page, number in zip(pages, (3, 8), strict=True):
        page.locator("#samples button").nth(number).click()
    for page, number in zip(pages, (3, 8), strict=True):
        expect(page.locator("#kept a")).to_have_count(1)
        expect(page.locator("#kept a")).to_have_attribute("download", f"seed-{number}.png")
    choose(pages[0], "classes")
    expect(pages[0].locator("#class")).to_be_visible()
    expect(pages[1].locator("#class")).to_be_hidden()
