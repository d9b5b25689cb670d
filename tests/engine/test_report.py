"""The report of a run: one file, complete in itself, of what the run left in its folder."""

import base64
import io
import json
import re
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from vitgan.engine import report
from vitgan.engine.environment import environment
from vitgan.engine.report import MOST_POINTS, panels, settings, smoothed, thinned, write_report

pytestmark = pytest.mark.usefixtures("curves")

RECIPE = {
    "type": "Recipe",
    "name": "digits",
    "generator": {"type": "Generator", "width": 64, "output": {"type": "Linear"}, "classes": None},
    "terms": [{"type": "BCR", "real": 10.0}, {"type": "R1", "gamma": 0.1}],
    "betas": [0.0, 0.99],
}


class Page(HTMLParser):
    """Every element of the page as (name, attributes); fails on one that is closed out of order."""

    VOID = ("meta", "img", "path", "use", "rect", "link")

    def __init__(self, text: str):
        super().__init__()
        self.elements, self.open = [], []
        self.feed(text)
        assert not self.open, self.open

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        if tag not in self.VOID:
            assert self.open.pop() == tag

    def all(self, tag: str) -> list[dict[str, str]]:
        return [attributes for name, attributes in self.elements if name == tag]


def log(folder: Path, count: int) -> None:
    lines = [
        {
            "images": (step + 1) * 100,
            "seconds": float(step + 1),
            "step": step,
            "images_per_second": 100.0,
            "loss_discriminator": 1.0 + step % 2,
            "loss_generator": 0.5,
            "logit_gap": 0.25,
            "gradient_norm_discriminator": 2.0,
            "surprise_of_a_plugin": 3.0,
        }
        for step in range(count)
    ]
    (folder / "log.jsonl").write_text("".join(f"{json.dumps(line)}\n" for line in lines))


def sample(folder: Path, images: int, side: int = 16) -> None:
    (folder / "samples").mkdir(exist_ok=True)
    noise = np.random.default_rng(images).integers(0, 256, (side, side, 3), dtype=np.uint8)
    Image.fromarray(noise).save(folder / "samples" / f"{images:09}.png")


def written(folder: Path, **changes) -> str:
    options = {"title": "digits", "recipe": RECIPE, "environment": {"torch": "2.9"}, "status": "finished"}
    write_report(folder, **options | changes)
    return (folder / "report.html").read_text(encoding="utf-8")


def test_a_run_that_has_logged_nothing_has_a_page(tmp_path: Path):
    text = written(tmp_path)
    assert "Nothing is logged yet" in text
    assert "No samples yet" in text
    assert Page(text).all("svg") == []


def test_the_page_needs_no_other_file_and_no_network(tmp_path: Path):
    log(tmp_path, 60)
    sample(tmp_path, 100)
    text = written(tmp_path)
    page = Page(text)
    assert not re.search(r"https?:|@import|file:", text)
    assert not page.all("script")
    assert not page.all("link")
    assert all(image["src"].startswith("data:image/") for image in page.all("img"))
    assert all(use["href"].startswith("#") for use in page.all("use"))


def test_headline_has_images_minutes_speed_losses_and_status(tmp_path: Path):
    log(tmp_path, 120)
    text = written(tmp_path, status="stopped by the user")
    facts = dict(re.findall(r"<dt>(.*?)</dt><dd>(.*?)</dd>", text))
    assert facts["images seen"] == "12,000"
    assert facts["minutes"] == "2.0"
    assert facts["images/s"] == "100"
    assert facts["discriminator loss"] == "1.5"  # the mean of the last ten of 1, 2, 1, 2, ...
    assert facts["logit gap, real − fake"] == "0.25"
    assert "stopped by the user" in text


def test_every_group_of_the_log_has_a_plot_with_words_and_ids_of_its_own(tmp_path: Path):
    log(tmp_path, 60)
    page = Page(written(tmp_path))
    labels = [attributes["aria-label"] for attributes in page.all("div") if "aria-label" in attributes]
    assert [label.split(" over images seen")[0] for label in labels] == [
        "Losses",
        "Logits of real and fake images",
        "Gradient norms",
        "Images per second",
        "surprise",
    ]
    ids = [attributes["id"] for _, attributes in page.elements if "id" in attributes]
    assert len(ids) == len(set(ids))
    used = {use["href"][1:] for use in page.all("use")}
    assert used
    assert used <= set(ids)


def test_at_most_twelve_samples_spread_over_time_first_and_last_among_them(tmp_path: Path):
    for images in range(100, 4100, 100):
        sample(tmp_path, images)
    (tmp_path / "samples" / "notes.png").write_bytes(b"no sample")
    alternatives = [image["alt"] for image in Page(written(tmp_path)).all("img")]
    counts = [int(re.sub(r"\D", "", alternative)) for alternative in alternatives]
    assert len(counts) == 12
    assert counts[0] == 4000  # the last comes first, and large
    assert counts[1] == 100
    assert counts[1:] == sorted(counts[1:])
    assert max(np.diff([*counts[1:], 4000])) <= 500


def test_samples_are_in_the_order_of_their_counts_not_of_their_letters(tmp_path: Path):
    for images in (999_999_900, 1_000_000_000):
        sample(tmp_path, images)
    assert Page(written(tmp_path)).all("img")[0]["alt"].endswith("1,000,000,000 images")


def test_a_page_of_large_samples_and_a_long_log_stays_under_two_megabytes(tmp_path: Path):
    log(tmp_path, 2000)
    for images in range(12):
        sample(tmp_path, images, side=500)
    assert len(written(tmp_path).encode()) < 2_000_000


def test_a_small_sample_is_embedded_bit_for_bit(tmp_path: Path):
    sample(tmp_path, 100)
    content = base64.b64decode(Page(written(tmp_path)).all("img")[0]["src"].partition(",")[2])
    assert content == (tmp_path / "samples" / "000000100.png").read_bytes()


def test_a_large_sample_is_made_smaller_and_stays_a_picture(tmp_path: Path):
    sample(tmp_path, 100, side=500)
    content = report._shrunk(tmp_path / "samples" / "000000100.png", 20_000)
    assert len(content) <= 20_000
    with Image.open(io.BytesIO(content)) as picture:
        assert picture.size[0] == picture.size[1] > 50


def test_texts_are_escaped(tmp_path: Path):
    bad = '<script>alert("x")</script>'
    (tmp_path / "log.jsonl").write_text(json.dumps({"images": 1, "seconds": 1.0, f"{bad}_{bad}": 1.0}) + "\n")
    recipe = {"type": "Recipe", "name": bad, bad: {"type": bad, bad: bad}}
    text = written(tmp_path, title=bad, status=bad, recipe=recipe, environment={bad: bad})
    assert "<script" not in text
    assert "&lt;script&gt;" in text


@pytest.mark.usefixtures("curves")
def test_names_that_are_not_utf_8_are_escaped(tmp_path: Path):
    name = "caf\udce9"
    (tmp_path / "log.jsonl").write_text(json.dumps({"images": 1, "seconds": 1.0, f"loss_{name}": 1.0}) + "\n")
    recipe = {"type": "Recipe", "name": name, "data": {"type": "DataOptions", "source": name}}
    text = written(tmp_path, title=name, status=name, recipe=recipe, environment={name: name})
    assert text.count(r"caf\udce9") >= 6


def test_settings_are_dotted_fields_with_classes():
    assert settings(RECIPE) == [
        ("name", "digits"),
        ("generator", "Generator"),
        ("generator.width", "64"),
        ("generator.output", "Linear"),
        ("generator.classes", "none"),
        ("terms[0]", "BCR"),
        ("terms[0].real", "10.0"),
        ("terms[1]", "R1"),
        ("terms[1].gamma", "0.1"),
        ("betas", "0.0, 0.99"),
    ]


def test_every_setting_and_fact_of_the_hardware_is_on_the_page(tmp_path: Path):
    text = written(tmp_path, environment=environment(torch.device("cpu")))
    rows = dict(re.findall(r'<th scope="row">(.*?)</th><td>(.*?)</td>', text))
    assert dict(settings(RECIPE)).items() <= rows.items()
    assert rows["torch"] == torch.__version__
    assert rows["cores"][0].isdigit()


def test_a_write_that_fails_leaves_the_page_before_it(tmp_path: Path, monkeypatch):
    before = written(tmp_path)

    def half_written(path: Path, text: str, **_options):
        path.write_bytes(text.encode()[:100])
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_text", half_written)
    with pytest.raises(OSError, match="No space left"):
        written(tmp_path, title="another")
    assert (tmp_path / "report.html").read_text() == before
    assert [path.name for path in tmp_path.iterdir()] == ["report.html"]


def test_thinning_keeps_the_spikes_the_order_and_the_limit():
    x, y = np.arange(10_000.0), np.zeros(10_000)
    y[1234], y[8765] = 50.0, -7.0
    thin_x, thin_y = thinned(x, y, MOST_POINTS)
    assert len(thin_x) <= MOST_POINTS
    assert (np.diff(thin_x) > 0).all()
    assert thin_y[thin_x == 1234] == [50.0]
    assert thin_y[thin_x == 8765] == [-7.0]


def test_smoothing_is_the_mean_of_a_window_that_ends_with_the_data():
    y = np.random.default_rng(0).normal(size=500)
    expected = [y[max(0, i - 10) : i + 11].mean() for i in range(500)]
    np.testing.assert_allclose(smoothed(y), expected)


def test_numbers_that_are_not_finite_and_norms_of_zero_are_drawn_around():
    lines = [
        {"images": i, "loss_generator": float("nan"), "gradient_norm_generator": float(i % 3)}
        for i in range(5)
    ]
    losses, norms = panels(lines)
    assert "no finite value" in losses.description
    assert norms.svg.count("stroke: #") >= 1


@pytest.mark.parametrize("count", [1, 2, 50, 51])
def test_few_points_are_drawn_too(count: int):
    (panel,) = panels([{"images": i, "term_r1": 1.0 + i} for i in range(count)])
    assert panel.description.endswith("r1 " + f"{float(count):.3g}.")
    assert "http" not in panel.svg
