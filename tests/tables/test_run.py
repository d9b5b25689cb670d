"""A table of tiny rows: what is trained, measured, written, and what a second call does."""

import csv
import json
import mmap
import statistics
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

import table_rows
from vitgan.engine.checkpoint import checkpoints
from vitgan.engine.environment import resident
from vitgan.engine.gan import Recipe
from vitgan.errors import UserError
from vitgan.metrics.protocol import METRICS
from vitgan.tables import Reproduction, Request, reproduce
from vitgan.tables.plan import _power_of_two, load_record
from vitgan.tables.results import at_images, leading_number, markdown, printed_name

pytestmark = pytest.mark.usefixtures("no_curves")


@pytest.fixture(autouse=True)
def _tiny_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    table_rows.use_here(monkeypatch)


def make(out: Path, source: Path, **settings: Any) -> Reproduction:
    given = {"images": 48, "seed": 3, "device": "cpu", "quiet": True} | settings
    return reproduce("architectures", data=str(source), out=out, **given)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A whole table of digits; tests only read it."""
    folder = tmp_path_factory.mktemp("table") / "out"
    with pytest.MonkeyPatch.context() as patch:
        table_rows.use_here(patch)
        patch.setattr("vitgan.engine.report.panels", lambda lines: [])  # noqa: ARG005
        reproduce("architectures", images=48, seed=3, device="cpu", quiet=True, out=folder)
    return folder


def test_every_row_has_the_same_data_budget_and_seed(made: Path) -> None:
    recipes = [load_record(made / "rows" / row.name) for row in table_rows.ROWS]
    alike = [Recipe.from_dict(found.recipe) for found in recipes if found is not None]
    assert len(alike) == 3
    assert len({recipe.data for recipe in alike}) == 1
    assert {(r.training.images, r.training.minutes, r.training.seed) for r in alike} == {(48, None, 3)}
    assert (alike[0].data.resolution, alike[0].data.channels) == (8, 1)


def test_the_csv_has_every_number_and_keeps_ours_apart_from_the_printed(made: Path) -> None:
    with (made / "table.csv").open(encoding="utf-8") as file:
        lines = {line["row"]: line for line in csv.DictReader(file)}
    assert list(lines) == ["vanilla", "diverging", "vitgan"]
    best = lines["vitgan"]
    assert (best["printed_fid"], best["printed_is"]) == ("6.66", "9.3")
    assert float(best["classifier_score"]) == 3.0
    assert best["images_seen"] == "48"
    for name in ("flops_per_image", "parameters_generator", "images_per_second"):
        assert float(best[name]) > 0, name
    assert float(best["peak_memory"]) >= 0  # of rows too small to raise it, where the process had more before
    assert best["protocol"] == table_rows.Measure.key


def test_a_row_that_diverges_is_recorded_and_the_table_goes_on(made: Path) -> None:
    rows = {row["row"]: row for row in json.loads((made / "table.json").read_text())["rows"]}
    found = rows["diverging"]
    assert found["status"] == "diverged"
    assert 0 <= found["diverged_at"] < 48
    assert str(found["diverged_at"]) in found["reason"]
    assert rows["vitgan"]["status"] == "complete"


def test_the_markdown_names_both_protocols_and_has_a_column_each(made: Path) -> None:
    text = (made / "table.md").read_text(encoding="utf-8")
    assert "vitgan reproduce architectures --data digits --images 48" in text
    assert f"protocol {table_rows.Measure.key}" in text
    assert "50k fakes against the 50k training images." in text
    assert "The deck has no figures for `digits`" in text
    head = next(line for line in text.splitlines() if line.startswith("| row | Fr") or "score ↑" in line)
    columns = [cell.strip() for cell in head.strip("|").split("|")]
    row = next(line for line in text.splitlines() if line.startswith("| ViTGAN |"))
    cells = dict(zip(columns, [cell.strip() for cell in row.strip("|").split("|")], strict=True))
    assert cells["classifier score ↑"] == "3 ± 0.25"
    assert cells["deck, cifar10: FID ↓"] == "6.66"
    assert cells["diverged"] == "no"
    assert "class share 0" not in columns
    assert "its rate is 1e18" in text


def test_the_pictures_are_there(made: Path) -> None:
    for name in ("table.png", "gradient_norms.png"):
        with Image.open(made / name) as picture:
            assert picture.width > 600, name
            assert len(picture.convert("L").getcolors() or range(256)) > 50, name


def test_finished_rows_are_neither_trained_nor_measured_again(
    made: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def never(*arguments: object) -> None:
        raise AssertionError(arguments)

    monkeypatch.setattr("vitgan.tables.run.train_together", never)
    monkeypatch.setattr(table_rows.Measure, "score", never)
    monkeypatch.setattr("vitgan.tables.run.write_figures", never_mind)
    again = reproduce("architectures", images=48, seed=3, device="cpu", quiet=True, out=made)
    assert not again.failed
    assert len(again.table["rows"]) == 3


def never_mind(*arguments: object) -> None:
    del arguments


def test_another_protocol_measures_again_without_training(
    tmp_path: Path, images: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("vitgan.tables.run.write_figures", never_mind)
    make(tmp_path / "out", images, rows=["vitgan"], images=16)
    monkeypatch.setattr("vitgan.tables.run.train_together", None)
    monkeypatch.setattr(table_rows.Measure, "key", "ffffffff")
    again = make(tmp_path / "out", images, rows=["vitgan"], images=16)
    assert again.table["protocol"]["key"] == "ffffffff"


def test_rows_of_two_protocols_are_refused(made: Path) -> None:
    from vitgan.tables.results import _protocol

    found = load_record(made / "rows" / "vitgan")
    assert found is not None
    assert found.evaluation is not None
    other = replace(found, evaluation={**found.evaluation, "protocol": {"key": "another"}})
    with pytest.raises(UserError, match="different protocols"):
        _protocol({"a": found, "b": other})


def test_a_value_that_is_none_is_a_dash(made: Path) -> None:
    table = json.loads((made / "table.json").read_text())
    for row in table["rows"]:
        row |= {"metrics": {}, "images_per_second": None, "flops_per_image": None}
    assert "| - |" in markdown(table | {"protocol": {}})


@pytest.mark.parametrize(
    ("source", "name"),
    [
        ("cifar10", "cifar10"),
        ("../data/cifar10_train.zip", "cifar10"),
        ("lsun-bedroom", "lsun-bedroom"),
        ("data/LSUN_bedroom_64", "lsun-bedroom"),
        ("cifar100.zip", None),
        ("digits", None),
    ],
)
def test_printed_figures_belong_to_the_set_of_the_same_name(source: str, name: str | None) -> None:
    assert printed_name(source, table_rows.ROWS) == name  # type: ignore[arg-type]


@pytest.mark.parametrize(("side", "power"), [(8, 8), (28, 16), (32, 32), (63, 32), (178, 64)])
def test_the_resolution_fits_the_pictures(side: int, power: int) -> None:
    assert _power_of_two(side) == power


def test_the_command_says_what_was_asked() -> None:
    request = Request(table="generator", rows=("a", "b"), minutes=2.5, out=Path("x"), metrics=("fid",))
    words = "--rows a,b --data digits --minutes 2.5 --out x --seed 0 --jobs 1 --metrics fid"
    assert request.command() == f"vitgan reproduce generator {words}"
    assert "--metrics" not in replace(request, metrics=METRICS).command()


@pytest.mark.skipif(resident() is None, reason="no /proc")
def test_memory_at_its_highest_remembers_what_is_gone() -> None:
    """It does to 1 MiB: Linux counts pages for each processor and adds them later (proc_pid_status(5))."""
    with mmap.mmap(-1, 2**28) as block:  # not of an allocator, which might keep it
        block.write(b"1" * 2**28)
        now, highest = resident(), resident(highest=True)
    later, after = resident(), resident(highest=True)
    assert now is not None
    assert highest is not None
    assert later is not None
    assert after is not None
    assert highest > now - 2**20
    assert later < highest - 2**27
    assert after > highest - 2**20


def test_seeds_are_trained_apart_and_put_together(tmp_path: Path, images: Path) -> None:
    done = make(tmp_path / "out", images, rows=["vitgan", "diverging"], seeds=3)
    assert {path.name for path in (tmp_path / "out" / "rows").iterdir()} == {
        *("vitgan", "vitgan-seed-4", "vitgan-seed-5"),
        *("diverging", "diverging-seed-4", "diverging-seed-5"),
    }
    (row,) = [row for row in done.table["rows"] if row["row"] == "vitgan"]
    own = [trial for trial in done.table["trials"] if trial["row"] == "vitgan"]
    values = [trial["metrics"]["classifier_frechet_distance"] for trial in own]
    assert [trial["seed"] for trial in own] == row["seed"] == [3, 4, 5]
    assert len(set(values)) == 3
    assert row["metrics"]["classifier_frechet_distance"] == pytest.approx(statistics.mean(values))
    assert row["deviation"]["classifier_frechet_distance"] == pytest.approx(statistics.stdev(values))
    text = markdown(done.table)
    assert "seeds 3, 4, 5: mean and standard deviation between them" in text
    assert f"± {statistics.stdev(values):.2g}" in text
    assert "at image" in next(line for line in text.splitlines() if line.startswith("| Too fast |"))
    more = make(tmp_path / "out", images, rows=["vitgan", "diverging"], seeds=4)  # goes on
    assert len([trial for trial in more.table["trials"] if trial["row"] == "vitgan"]) == 4


def test_a_curve_has_a_point_for_each_checkpoint_that_is_kept(tmp_path: Path, images: Path) -> None:
    done = make(tmp_path / "out", images, rows=["vitgan", "vanilla"], images=96)
    for trial in done.table["trials"]:
        seen = [point["images"] for point in trial["curve"]]
        assert seen == [int(path.name) for path in checkpoints(tmp_path / "out" / "rows" / trial["row"])]
        assert seen[-1] == done.table["equal_images"] == 96
        assert trial["at_equal_images"] == leading_number(trial["curve"][-1]["metrics"])[1]  # type: ignore[index]
    assert "at 96 images" in markdown(done.table)
    assert (tmp_path / "out" / "curves.png").exists()


def test_between_two_points_a_curve_is_linear_in_the_logarithm_of_images() -> None:
    curve = [{"images": n, "metrics": {"fid": value}} for n, value in ((100, 8.0), (10_000, 4.0))]
    assert at_images(curve, 1000) == pytest.approx(6.0)
    assert at_images(curve, 10_000) == 4.0
    assert at_images(curve, 50) is None
    assert at_images(curve, 20_000) is None
