"""`vitgan bench`: what it writes and prints, on a small step; nothing is asserted of a time."""

import json
import math
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from vitgan import recipes
from vitgan.bench import PARTS, steps
from vitgan.bench.components import (
    HEADS,
    errors,
    forward_backward,
    measure_spectral,
    plain_dot_product,
    random_heads,
)
from vitgan.bench.peak import PeakMeter, Seconds, interleaved
from vitgan.bench.run import bench
from vitgan.bench.settings import RANDOM, Settings, Sizes, open_images, precisions, with_training
from vitgan.bench.steps import Memory, Stepper, memory_of, steps_here
from vitgan.bench.table import aligned, table
from vitgan.cli import main
from vitgan.engine.gan import Recipe

CPU = torch.device("cpu")
SMALL = Sizes(products=(32, 64), attention=((5, 2), (9, 1)), sampling=(4,), rounds=2, launches=1)
HEAD = ("environment", "command", "settings", "recipe", "definitions")
STEP_KEYS = {
    "images_per_second",
    "seconds",
    "first_seconds",
    "parts",
    "shares",
    "groups",
    "peak",
    "mfu",
    "hfu",
}
SPANS = {
    *("data", "other", "augment", "term BCR", "power iteration", "moving average", "generator forward"),
    *("discriminator forward", "discriminator backward", "discriminator optimiser", "generator backward"),
    *("generator's discriminator forward", "generator's discriminator backward", "generator optimiser"),
}


def settings(*parts: str, recipe: str = "digits", **changes: Any) -> Settings:
    small = with_training(recipes.get(recipe), batch=4)
    names = {"recipe": small, "device": CPU, "precisions": ("fp32", "bf16"), "parts": parts, "steps": 2}
    return Settings(**{**names, "sizes": SMALL, "quiet": True, **changes})


def here(recipe: Recipe, *, data: str | None, device: torch.device) -> Memory:
    """Stands in for `memory_of`, without a process."""
    return steps_here(recipe, data, device)


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The report that the command writes, with every part."""
    path = tmp_path_factory.mktemp("bench") / "new" / "bench.json"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Sizes, "of", staticmethod(lambda device: SMALL))  # noqa: ARG005
        patch.setattr(steps, "memory_of", here)
        words = ("--recipe", "digits", "--batch", "4", "--steps", "2", "--precision", "both")
        assert main(["bench", *words, "--device", "cpu", "--json", str(path), "--quiet"]) == 0
    assert [entry.name for entry in path.parent.iterdir()] == ["bench.json"]
    return json.loads(path.read_text(encoding="utf-8"))


def numbers(value: Any) -> Iterator[float]:
    """Every number of a JSON value; a null is NaN."""
    if isinstance(value, dict):
        value = list(value.values())
    if isinstance(value, list):
        for one in value:
            yield from numbers(one)
    elif value is None:
        yield math.nan
    elif isinstance(value, (int, float)) and not isinstance(value, bool):
        yield value


def test_every_part_is_written_and_finite(written: dict[str, Any]) -> None:
    assert set(written) == {*HEAD, *PARTS}
    for part in PARTS:
        assert all(math.isfinite(number) for number in numbers(written[part])), part
    assert written["settings"]["recipe"] == "digits"
    assert written["settings"]["batch"] == 4
    assert written["command"].startswith("vitgan bench --recipe digits --batch 4 --precision both")
    assert written["environment"]["device"] == "cpu"


def test_the_step_is_measured_in_each_precision(written: dict[str, Any]) -> None:
    assert set(written["step"]) == {"fp32", "bf16"}
    for step in written["step"].values():
        assert set(step) == STEP_KEYS
        assert set(step["parts"]) == SPANS
        assert sum(step["shares"].values()) == pytest.approx(1)
        assert all(0 <= share <= 1 for share in (*step["shares"].values(), *step["groups"].values()))
        assert step["mfu"] > step["hfu"] > 0
        assert step["seconds"]["minimum"] <= step["seconds"]["median"] <= step["seconds"]["maximum"]
        assert step["peak"]["moments"] == 3


def test_the_other_parts_have_their_numbers(written: dict[str, Any]) -> None:
    assert set(written["peak"]["fp32"]["routes"]) == {
        f"{route} {side}" for route in ("torch.mm", "vitgan.nn.linear.affine") for side in (32, 64)
    }
    assert written["flops"]["performed_by"] == "shapes"
    assert set(written["isn"]["share"]) == {"fp32", "bf16"}
    assert len(written["attention"]) == 4
    for row in written["attention"]:
        assert set(row["l2_over"]) == set(row["milliseconds"]) - {"l2"}
        assert set(row["errors"]) == {"l2", "fused l2", "plain l2"}
    assert [(row["precision"], row["batch"]) for row in written["sampling"]] == [("fp32", 4), ("bf16", 4)]
    assert set(written["memory"]) == {"measure", "fp32", "bf16"}
    assert "plain" in written["memory"]["fp32"]
    assert not any(written["startup"]["imported"].values())


def test_the_table_shows_every_part(written: dict[str, Any]) -> None:
    said = table(written)
    assert said.startswith("digits, batch 4, random uint8 images in memory; cpu: ")
    for part in PARTS:
        assert f"\n\n{part}\n" in said
    for words in ("MFU", "HFU", "images/s", "- generator forward", "l2 / fastest", "peak, GFLOP/s", "MiB"):
        assert words in said
    assert all(line == line.rstrip() for line in said.splitlines())


def test_the_spans_add_up_to_the_steps() -> None:
    """The recorder's parts are exclusive; what it does not see is its own turning on and off."""
    made = Stepper(settings().recipe, settings().images(), CPU)
    taken = [made.timed(recorded=True) for _ in range(3)]
    assert 0 < sum(made.recorder.seconds.values()) <= sum(taken)


def test_a_part_is_measured_alone_and_named_as_progress(capsys: pytest.CaptureFixture[str]) -> None:
    report = bench(settings("isn", quiet=False, precisions=("fp32",)))
    assert set(report) == {*HEAD, "isn"}
    assert report["isn"]["share"] == {}
    said = capsys.readouterr()
    assert said.err == "vitgan bench: isn\n"
    assert said.out == ""


def test_a_discriminator_without_spectral_norm_has_no_part_isn() -> None:
    asked = settings("isn", recipe="digits-no-spectral-norm")
    assert measure_spectral(asked, asked.images(), {}) is None
    assert "\n\nisn" not in table(bench(asked))


def test_networks_that_are_not_vitgans_are_left_to_the_counter(images: Path) -> None:
    """The counter gives what the step performs; the method's number is null, and with it the MFU."""
    report = bench(
        settings("flops", "step", recipe="digits-biggan-diffaug", precisions=("fp32",), data=str(images))
    )
    assert report["flops"]["method_per_image"] is None
    assert report["flops"]["performed_by"] == "counter"
    assert report["step"]["fp32"]["mfu"] is None
    assert report["step"]["fp32"]["hfu"] > 0
    assert report["settings"]["data"] == str(images)
    assert "-" in next(line for line in table(report).splitlines() if line.startswith("  MFU"))


def test_memory_is_measured_in_a_process_of_its_own(images: Path) -> None:
    recipe = with_training(recipes.get("digits"), batch=4)
    found = memory_of(recipe, data=str(images), device=CPU)
    if found.peak_mib is None or found.before_mib is None:
        pytest.skip("the system does not say what a process has in memory")
    assert 0 < found.before_mib < found.peak_mib


def test_random_images_are_those_of_the_recipe() -> None:
    options = replace(recipes.get("cifar10").data, labels=True, resolution=4)
    images = open_images(options, None, 5000)
    assert (len(images), images.name) == (5000, RANDOM)
    assert images.get([0]).shape == (1, 3, 4, 4)
    assert images.labels is not None
    assert len(images.classes) == 10


@pytest.mark.parametrize(
    ("name", "found"), [("fp32", ("fp32",)), ("bf16", ("bf16",)), ("both", ("fp32", "bf16"))]
)
def test_both_precisions_are_named_or_one(name: str, found: tuple[str, ...]) -> None:
    assert precisions(name, CPU) == found


@pytest.mark.parametrize("has", [True, False])
def test_auto_takes_bf16_where_the_hardware_has_it(has: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("vitgan.engine.recipe.multiplies_bf16", lambda device: has)  # noqa: ARG005
    assert precisions("auto", CPU) == (("fp32", "bf16") if has else ("fp32",))


def test_the_peak_is_the_best_routes_median() -> None:
    meter = PeakMeter("fp32", CPU, (16, 32))
    meter._rates = {"a": [1.0, 9.0, 2.0], "b": [3.0, 3.0, 4.0]}
    peak = meter.peak()
    assert (peak.gflops, peak.route, peak.routes, peak.moments) == (3.0, "b", {"a": 2.0, "b": 3.0}, 3)


def test_calls_are_taken_in_turn() -> None:
    order: list[str] = []
    found = interleaved(
        {"a": lambda: order.append("a"), "b": lambda: order.append("b")}, rounds=2, device=CPU
    )
    assert order == ["a", "b"] * 3
    assert set(found) == {"a", "b"}


def test_seconds_are_the_median_and_the_ends() -> None:
    assert Seconds.over([3.0, 1.0, 2.0]) == Seconds(median=2.0, minimum=1.0, maximum=3.0)


def test_heads_are_laid_out_as_they_are_split() -> None:
    for x in random_heads(2, 5, torch.float32, CPU):
        assert x.shape == (2, HEADS, 5, 64)
        assert x.transpose(1, 2).is_contiguous()


def test_attention_errors_are_of_rounding() -> None:
    for limit, dtype in ((1e-5, torch.float32), (3e-2, torch.bfloat16)):
        found = errors(17, dtype, CPU)
        assert all(0 < error < limit for parts in found.values() for error in parts.values())


def test_plain_dot_product_attention_is_torchs() -> None:
    inputs = random_heads(1, 7, torch.float64, CPU)
    ours = forward_backward(plain_dot_product, inputs[:3], inputs[3])
    theirs = forward_backward(torch.nn.functional.scaled_dot_product_attention, inputs[:3], inputs[3])
    for x, y in zip(ours, theirs, strict=True):
        torch.testing.assert_close(x, y)


def test_columns_are_aligned() -> None:
    assert aligned([("a", "1"), ("long", "22", "x")]) == "  a      1\n  long  22  x"
