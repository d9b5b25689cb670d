"""What a table is to be made of: its rows, what the seminar deck prints for them, and what is known of each.

A request is checked whole before anything is trained.
"""

import dataclasses
import json
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import torch

from vitgan.config import differences
from vitgan.data import ImageSet, open_source
from vitgan.engine.gan import Recipe, build_networks
from vitgan.engine.recipe import EvaluationOptions
from vitgan.engine.train import choose_device
from vitgan.errors import UserError, did_you_mean
from vitgan.io import replacing
from vitgan.metrics import METRICS, Evaluator
from vitgan.metrics.evaluator import GREY
from vitgan.models import VisionTransformerOptions, ViTGANGeneratorOptions
from vitgan.recipes import ROWS, get
from vitgan.recipes.rows import make_row

RECORD = "row.json"


@dataclass(frozen=True, kw_only=True)
class Record:
    """The content of `OUT/rows/ROW/row.json`."""

    recipe: dict[str, Any]
    status: Literal["complete", "interrupted", "diverged", "failed"]
    reason: str = ""
    """Why the row diverged or failed, in one line; empty for any other row."""
    diverged_at: int | None = None
    """Image in whose step a number was not finite."""
    images_seen: int = 0
    seconds: float = 0.0
    """Seconds of training."""
    peak_memory: int | None = None
    """Peak memory in bytes, the highest of all the commands that trained the row."""
    memory_measure: str = ""
    """What `peak_memory` measures, in words."""
    parameters_generator: int | None = None
    parameters_discriminator: int | None = None
    flops_per_image: float | None = None
    environment: dict[str, str] = field(default_factory=dict)
    metrics: list[str] = field(default_factory=list)
    """Metrics that were asked for in `evaluation`."""
    evaluation: dict[str, Any] | None = None
    """`vitgan.metrics.Evaluation.to_dict`; None before it, and where there is no checkpoint to score."""
    scored_at: int | None = None
    """Images seen by the checkpoint that was scored."""
    curve: list[dict[str, Any]] = field(default_factory=list)
    """The checkpoints that are kept, oldest first: images, seconds, and metrics of fewer generated images."""

    @property
    def finished(self) -> bool:
        """Whether there is nothing left to train: the row is complete, or has diverged."""
        return self.status in ("complete", "diverged")


def load_record(folder: Path) -> Record | None:
    """The record in `folder`; None when there is none that is whole."""
    try:
        return Record(**json.loads((folder / RECORD).read_text(encoding="utf-8")))
    except (FileNotFoundError, ValueError, TypeError):
        return None


def save_record(folder: Path, record: Record) -> None:
    """Write the record whole, or (OSError) not at all."""
    folder.mkdir(parents=True, exist_ok=True)
    with replacing(folder / RECORD) as temporary:
        temporary.write_text(json.dumps(dataclasses.asdict(record), indent=1) + "\n", encoding="utf-8")


Printed = dict[str, tuple[float | None, float | None]]

TABLES = {
    "architectures": "whole systems against ViTGAN (deck)",
    "generator": "how the latent enters and how a patch is made (deck)",
    "discriminator": "each regulariser of the discriminator on and off (blog; paper's ablation)",
}
DECK = (
    "FID / IS as the deck prints them, which are arXiv 2107.04589's: Inception features, 50,000 generated "
    "images against the training images. A star is the deck's: the figure was reported elsewhere, by the "
    "protocol that the row's note names."
)
PRINTED_PROTOCOL: dict[str, str] = dict.fromkeys(("cifar10", "celeba", "lsun-bedroom"), DECK)
NOTES = {
    "biggan-diffaug": "the printed figure is a class-conditional network's; this row has no labels",
    "transgan-xl": "that version's discriminator had one scale",
    "stylegan2-d": (
        "the printed figure is the authors' own, not the deck's; the game is that of their release"
    ),
}
# The protocols of the figures that the deck marks with a star, by row and data set.
TEST_IMAGES = "10,000 generated images against the 10,000 test images, so comparable with its like alone"
STARRED = {
    ("biggan-diffaug", "cifar10"): f"the printed figure is arXiv 2006.10738's: {TEST_IMAGES}",
    ("stylegan2", "cifar10"): f"the printed figure is arXiv 2006.10738's: {TEST_IMAGES}",
    ("transgan-xl", "cifar10"): f"the printed figure is arXiv 2102.07074's, first version: {TEST_IMAGES}",
}
# The seminar deck's tables: data set -> (FID, IS).
PRINTED: dict[str, dict[str, Printed]] = {
    "architectures": {
        "biggan-diffaug": {"cifar10": (8.59, 9.25)},
        "stylegan2": {"cifar10": (11.1, 9.18), "celeba": (3.39, 3.43), "lsun-bedroom": (3.25, 2.45)},
        "transgan-xl": {"cifar10": (11.9, 8.63)},
        "vanilla-vit": {"cifar10": (12.7, 8.40), "celeba": (20.2, 2.57), "lsun-bedroom": (218.1, 2.20)},
        "vitgan": {"cifar10": (6.66, 9.30), "celeba": (3.74, 3.21), "lsun-bedroom": (2.65, 2.36)},
        "stylegan2-d": {"cifar10": (4.57, 9.89)},
    },
    "generator": {
        "a-linear": {"cifar10": (14.3, 8.60)},
        "a-neurrep": {"cifar10": (11.3, 9.05)},
        "b-linear": {"cifar10": (328.0, 1.01)},
        "b-neurrep": {"cifar10": (285.0, 2.46)},
        "c-linear": {"cifar10": (15.1, 8.58)},
        "c-neurrep": {"cifar10": (6.66, 9.30)},
    },
    "discriminator": {"all": {"cifar10": (6.66, 9.30)}},
}


@dataclass(frozen=True, kw_only=True)
class Row:
    """One row: a recipe whose source, budget and seed are still to be set."""

    name: str
    label: str
    recipe: Recipe
    printed: Printed = field(default_factory=dict)
    """The seminar deck's figures by data set, (FID, IS); None where one is not printed."""
    note: str = ""


def rows(table: str, *, size: Literal["small", "paper"], resolution: int, channels: int) -> tuple[Row, ...]:
    """The rows of `table` for images of that shape, in the seminar deck's order, all on the same data.

    Each keeps its own choice of mirroring the images as they are drawn.
    """
    base = _base(size, resolution, channels)
    printed = PRINTED[table]
    return tuple(
        Row(
            name=name,
            label=label,
            recipe=make_row(base, name, small=size == "small"),
            printed=printed.get(name, {}),
            note=NOTES.get(name, ""),
        )
        for name, label in ROWS[table].items()
    )


def _base(size: Literal["small", "paper"], resolution: int, channels: int) -> Recipe:
    """ViTGAN at the size nearest to the images', with as many tokens as there."""
    if size == "small":
        base = get("digits" if resolution <= 16 else "cifar10-small")
    else:
        base = get("cifar10" if resolution <= 32 else "celeba")
    scale = resolution / base.data.resolution
    generator, discriminator = base.generator, base.discriminator
    assert isinstance(generator, ViTGANGeneratorOptions)
    assert isinstance(discriminator, VisionTransformerOptions)
    return replace(
        base,
        data=replace(base.data, resolution=resolution, channels=channels),
        generator=replace(generator, patch=max(int(generator.patch * scale), 1)),
        discriminator=replace(discriminator, patch=max(int(discriminator.patch * scale), 1)),
    )


Size = Literal["small", "paper"]
SETTINGS = "settings.json"
DEFAULT_MINUTES = 2.0
LARGEST = 64  # pixels a side of a resolution that is chosen here
STEPS_A_POINT = 10  # of the curves of the log, at most
STEPS_A_MILESTONE = 40  # between two checkpoints that are kept for good, until there are too many


@dataclass(frozen=True, kw_only=True)
class Request:
    """What is asked for: the arguments of `vitgan.tables.reproduce` and of `vitgan reproduce`."""

    table: str
    rows: Sequence[str] | None = None
    """Names of rows; None is all."""
    data: str = "digits"
    minutes: float | None = None
    """Minutes of training, each row. Where this and `images` are None: 2 minutes with small rows."""
    images: int | None = None
    """Images that each row sees, in place of minutes."""
    out: Path | None = None
    """The table's folder; None is runs/reproduce-TABLE."""
    size: Size | None = None
    """Size of the systems; None is small on a CPU, paper on CUDA."""
    resolution: int | None = None
    """Side of the images in pixels; None is 8 for digits, else the power of two within the first picture's
    smaller side, 64 at most."""
    seed: int = 0
    """Seed of training, the first of them, and of measuring."""
    seeds: int = 1
    """Trainings of each row, with the seeds `seed`, `seed` + 1 and so on."""
    features: str | None = None
    """Features as for `vitgan evaluate`; None is classifier where the source has labels, else inception."""
    metrics: Sequence[str] = METRICS
    count: int | None = None
    """Generated images that are measured; None is as many as real ones."""
    device: str | None = None
    jobs: int = 1
    """Rows trained at the same time, the CPU's threads divided among them."""
    quiet: bool = False

    def check(self) -> None:
        """Raise UserError where a value is impossible, or two contradict each other."""
        if self.minutes is not None and self.images is not None:
            raise UserError("--minutes and --images are two budgets: give one of them.")
        for name in ("minutes", "images", "resolution", "count", "jobs", "seeds"):
            value = getattr(self, name)
            if value is not None and not value > 0:
                raise UserError(f"--{name} must be greater than 0, not {value}.")
        if not 0 <= self.seed < 2**63:
            raise UserError(f"--seed must be at least 0, and less than 2^63, not {self.seed}.")

    def command(self) -> str:
        """The command line that asks for the same table."""
        rows = None if self.rows is None else ",".join(self.rows)
        metrics = None if tuple(self.metrics) == METRICS else ",".join(self.metrics)
        flags = {name: getattr(self, name) for name in ("data", "minutes", "images", "out", "size")}
        flags |= {"resolution": self.resolution, "seed": self.seed, "features": self.features}
        flags |= {"seeds": None if self.seeds == 1 else self.seeds}
        flags |= {"count": self.count, "device": self.device, "jobs": self.jobs}
        given = {"rows": rows, **flags, "metrics": metrics}
        words = [f"--{name} {_word(value)}" for name, value in given.items() if value is not None]
        return " ".join(["vitgan reproduce", self.table, *words])


def _word(value: object) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)


@dataclass(frozen=True, kw_only=True)
class Trial:
    """One training of a row; there is one with each seed."""

    row: "Row"
    seed: int
    name: str
    """Of its run folder: the row's, and the seed's behind it where it is not the first."""

    @property
    def label(self) -> str:
        """The row's name for a reader, and the seed where it is not the first."""
        return self.row.label if self.name == self.row.name else f"{self.row.label}, seed {self.seed}"


@dataclass(frozen=True, kw_only=True)
class Plan:
    """A checked request: the rows with their whole recipes, the images, and the evaluator of all of them."""

    request: Request
    out: Path
    settings: dict[str, Any]
    """Settings that are the same for every row, JSON-ready."""
    device: torch.device
    images: ImageSet
    evaluator: Evaluator
    rows: tuple["Row", ...]
    trials: tuple[Trial, ...]
    """Every row with the first seed, then every row with the next: what is there at any time compares."""
    recipes: dict[str, Recipe]
    """By the trial's name."""

    def folder(self, trial: str) -> Path:
        """The trial's run folder."""
        return self.out / "rows" / trial

    def record(self, trial: str) -> Record | None:
        """What is known of the trial so far."""
        return load_record(self.folder(trial))

    @cached_property
    def protocol_key(self) -> str:
        """Key of the protocol by which the rows are to be measured."""
        return self.evaluator.protocol(self.evaluator.count).key()

    def is_measured(self, found: Record) -> bool:
        """Whether its cost is counted, and its checkpoint, where it has one, measured as wanted."""
        if found.flops_per_image is None or found.metrics != list(self.evaluator.metrics):
            return False
        evaluation = found.evaluation
        return evaluation is None or evaluation["protocol"]["key"] == self.protocol_key


def prepare(request: Request) -> Plan:
    """Open, build and compare all that the table needs. Raises UserError, in one sentence."""
    request.check()
    device = choose_device(request.device)
    size: Size = request.size or ("paper" if device.type == "cuda" else "small")
    request = _with_budget(request, size)
    check_table(request.table)
    resolution, channels = _form(request)
    rows = select(request.table, request.rows, size=size, resolution=resolution, channels=channels)
    form = {"source": request.data, "resolution": resolution, "channels": channels}
    datas = {row.name: replace(row.recipe.data, flip=False, **form) for row in rows}
    assert len(set(datas.values())) == 1, "the rows of a table see the same images"
    images = datas[rows[0].name].build()
    trials = tuple(
        Trial(row=row, seed=seed, name=row.name if seed == request.seed else f"{row.name}-seed-{seed}")
        for seed in range(request.seed, request.seed + request.seeds)
        for row in rows
    )
    recipes = {trial.name: _recipe(trial, request, images) for trial in trials}
    out = Path("runs") / f"reproduce-{request.table}" if request.out is None else request.out
    settings = _settings(request, size, device, images)
    _check_folder(out, settings, recipes)
    return Plan(
        request=request,
        out=out,
        settings=settings,
        device=device,
        images=images,
        evaluator=_evaluator(request, images, device),
        rows=rows,
        trials=trials,
        recipes=recipes,
    )


def check_table(table: str) -> None:
    """Raise UserError, naming the tables, where there is no such one."""

    if table not in TABLES:
        guess = did_you_mean(table, TABLES)
        raise UserError(f"There is no table {table!r}: choose {', '.join(TABLES)}.{guess}")


def select(
    table: str, names: Sequence[str] | None, *, size: Size, resolution: int, channels: int
) -> tuple["Row", ...]:
    """The rows of these names, in the table's order; all rows where `names` is None. Raises UserError for an
    unknown one."""

    known = rows(table, size=size, resolution=resolution, channels=channels)
    if names is None:
        return known
    there = [row.name for row in known]
    unknown = [name for name in names if name not in there]
    if unknown or not names:
        wrong = f"has no row {unknown[0]!r}" if unknown else "is asked for no row"
        guess = did_you_mean(unknown[0], there) if unknown else ""
        raise UserError(f"The table {table} {wrong}: choose from {', '.join(there)}.{guess}")
    return tuple(row for row in known if row.name in names)


def _with_budget(request: Request, size: Size) -> Request:
    if request.minutes is not None or request.images is not None:
        return request
    if size == "paper":
        raise UserError(
            "The rows at the paper's size need a budget: give --minutes or --images, of each row."
        )
    return replace(request, minutes=DEFAULT_MINUTES)


def _form(request: Request) -> tuple[int, Literal[1, 3]]:
    """Resolution and channels of the images."""
    source = open_source(request.data)
    side = None
    for index in range(len(source)):
        try:
            picture = source.picture(index)
        except Exception:  # decoders raise almost anything on damaged data
            continue
        side = side or min(picture.size)
        if picture.mode not in GREY and not picture.mode.startswith("I;16"):
            return request.resolution or _power_of_two(side), 3
    if side is None:
        raise UserError(f"{request.data} has no readable image: pass images that open in a viewer.")
    return request.resolution or _power_of_two(side), 1


def _power_of_two(side: int) -> int:
    """The largest power of two within `side` pixels, 64 at most."""
    return min(LARGEST, 1 << (side.bit_length() - 1))


def _recipe(trial: Trial, request: Request, images: ImageSet) -> Recipe:
    """The row's recipe on these images, for this budget and seed, logged and saved as every other row."""
    row = trial.row
    own, jobs = row.recipe.training, request.jobs
    often = max(1, (request.images or own.checkpoint_every) // 4)
    training = replace(
        own,
        minutes=request.minutes,
        images=request.images,
        seed=trial.seed,
        threads=own.threads or max(1, torch.get_num_threads() // jobs),
        log_every=min(own.log_every, STEPS_A_POINT * own.batch),
        checkpoint_every=min(own.checkpoint_every, often),
        keep_every=min(often, STEPS_A_MILESTONE * own.batch),
        checkpoint_minutes=min(own.checkpoint_minutes, (request.minutes or own.checkpoint_minutes) / 4),
    )
    data = replace(images.options, flip=row.recipe.data.flip)
    recipe = replace(row.recipe, data=data, training=training, evaluation=EvaluationOptions())
    try:
        build_networks(recipe, images)
    except UserError as error:
        raise UserError(f"The row {row.name} cannot be built: {error}") from error
    return recipe


def _settings(request: Request, size: Size, device: torch.device, images: ImageSet) -> dict[str, Any]:
    return {
        "table": request.table,
        "data": request.data,
        "fingerprint": images.fingerprint,
        "resolution": images.options.resolution,
        "channels": images.options.channels,
        "size": size,
        "minutes": request.minutes,
        "images": request.images,
        "seed": request.seed,
        "device": device.type,
        "jobs": request.jobs,
    }


def _check_folder(out: Path, settings: dict[str, Any], recipes: dict[str, Recipe]) -> None:
    """Raise UserError where `out` holds rows that were trained otherwise."""
    if out.exists() and not out.is_dir():
        raise UserError(f"{out} is a file: choose another folder with --out.")
    advice = "give the same settings, or another folder with --out."
    try:
        known = json.loads((out / SETTINGS).read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError):
        known = settings
    if known.get("fingerprint") == settings["fingerprint"]:
        known |= {"data": settings["data"]}  # the same images from another place
    if changes := differences(known, settings):
        raise UserError(f"{out} holds a table of other settings, {changes[0]}: {advice}")
    for name, recipe in recipes.items():
        found = load_record(out / "rows" / name)
        changes = [] if found is None else Recipe.from_dict(found.recipe).conflicts(recipe)
        if changes:
            raise UserError(f"The row {name} in {out} is of another recipe, {changes[0]}: {advice}")


def write_settings(plan: Plan) -> None:
    """Write the settings that all rows share into the table's folder."""
    plan.out.mkdir(parents=True, exist_ok=True)
    with replacing(plan.out / SETTINGS) as temporary:
        temporary.write_text(json.dumps(plan.settings, indent=1) + "\n", encoding="utf-8")


def _evaluator(request: Request, images: ImageSet, device: torch.device) -> Evaluator:
    return Evaluator(
        images,
        features=request.features or ("classifier" if images.class_counts else "inception"),
        metrics=request.metrics,
        count=request.count,
        seed=request.seed,
        device=device,
        quiet=request.quiet,
    )
