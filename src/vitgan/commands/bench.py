"""`vitgan bench`: the speed and the cost of the training step on this machine."""

import argparse
import shlex
from typing import TYPE_CHECKING

from vitgan import recipes
from vitgan.bench import PARTS
from vitgan.errors import UserError, did_you_mean
from vitgan.io import check_writable, write_json
from vitgan.terminal import add_output, answer

if TYPE_CHECKING:
    from vitgan.bench.settings import Settings

SUMMARY = "measure the training step on this machine: rate, parts, FLOPs, memory"
EXAMPLES = """examples:
  vitgan bench
  vitgan bench --recipe digits --parts step,isn --json out.json
"""
EPILOG = (
    f"The parts: {', '.join(PARTS)}. Times are medians over rounds in which precisions and routes take "
    "turns. isn is the improved spectral norm; its share of the step needs the part step."
)


def add(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.add_argument("--recipe", default="cifar10", metavar="R", help="see `vitgan list` (cifar10)")
    parser.add_argument("--batch", type=int, metavar="B", help="images of a step (the recipe's)")
    parser.add_argument(
        "--precision",
        choices=("fp32", "bf16", "both", "auto"),
        default="auto",
        help="of the activations (auto: both where the hardware computes in bf16, else fp32)",
    )
    parser.add_argument("--device", choices=("cpu", "cuda"), help="by default a CUDA GPU where there is one")
    parser.add_argument("--threads", type=int, metavar="N", help="CPU threads (the recipe's)")
    parser.add_argument("--data", metavar="SOURCE", help="images to train on (random ones in memory)")
    parser.add_argument("--parts", metavar="P,…", help="what is measured (all)")
    parser.add_argument("--steps", type=int, metavar="N", help="timed steps (5 on a CPU, 30 on CUDA)")
    add_output(parser, file="write every number there, or print them and nothing else")
    parser.epilog = EPILOG


def run(options: argparse.Namespace) -> int:
    """Measure and print the table; returns the exit code 0. Raises UserError on a user's mistake."""
    for name in ("batch", "threads", "steps"):
        value = getattr(options, name)
        if value is not None and value < 1:
            raise UserError(f"--{name} must be at least 1, not {value}.")
    settings = _settings(options, _parts(options.parts))
    check_writable(options.json)
    from vitgan.bench.run import bench
    from vitgan.bench.table import table

    report = bench(settings, command=_command(options))
    answer(options, report, table(report))
    write_json(options.json, report)
    return 0


def _parts(given: str | None) -> tuple[str, ...]:
    """The parts that --parts names, in the order of PARTS; all without it. Raises UserError for others."""
    if given is None:
        return PARTS
    words = [word.strip() for word in given.split(",") if word.strip()]
    for word in words:
        if word not in PARTS:
            guess = did_you_mean(word, PARTS)
            raise UserError(f"--parts has no part {word!r}: choose of {', '.join(PARTS)}.{guess}")
    if not words:
        raise UserError(f"--parts names no part: choose of {', '.join(PARTS)}.")
    return tuple(part for part in PARTS if part in words)


def _settings(options: argparse.Namespace, parts: tuple[str, ...]) -> "Settings":
    recipe = recipes.get(options.recipe)  # an unknown name is said before torch is imported
    from vitgan.bench.settings import Settings, Sizes, precisions, with_training
    from vitgan.engine.gan import Recipe
    from vitgan.engine.train import choose_device

    if not isinstance(recipe, Recipe):
        raise UserError(f"The recipe {options.recipe} trains no GAN: choose another with --recipe.")
    device = choose_device(options.device)
    return Settings(
        recipe=recipe if options.batch is None else with_training(recipe, batch=options.batch),
        device=device,
        precisions=precisions(options.precision, device),
        data=options.data,
        threads=options.threads,
        parts=parts,
        steps=options.steps or (30 if device.type == "cuda" else 5),
        sizes=Sizes.of(device),
        quiet=options.quiet,
    )


def _command(options: argparse.Namespace) -> str:
    """The command line that gives these options, for the report."""
    flags = ("recipe", "batch", "precision", "device", "threads", "data", "parts", "steps", "json")
    given = [(f"--{flag}", getattr(options, flag)) for flag in flags]
    words = [str(word) for flag, value in given if value is not None for word in (flag, value)]
    return shlex.join(["vitgan", "bench", *words])
