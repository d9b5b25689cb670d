"""`vitgan train`: train a recipe, or resume its training."""

import argparse
import os
import shlex
import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vitgan import recipes
from vitgan.errors import UserError
from vitgan.terminal import add_output, aligned, answer, json_of

if TYPE_CHECKING:
    from vitgan.engine.loop import Outcome
    from vitgan.engine.recipe import RunRecipe

DEFAULT = "mnist"
PARTS = {
    "generator": "another generator (`vitgan list --parts` lists all parts)",
    "discriminator": "another discriminator",
    "loss": "another adversarial loss",
    "augment": "another augmentation of what the discriminator sees, or none",
    "terms": "these regularising terms alone, NAME,NAME, or none",
    "loggers": "what the log goes to beside log.jsonl, NAME,NAME, or none",
}
SUMMARY = "train a recipe, or go on training it"
EXAMPLES = """examples:
  vitgan train                                   real handwritten digits
  vitgan train cifar10 --data IMAGES.zip --minutes 60
  vitgan train celeba --data FOLDER --out runs/faces --dry-run
  vitgan train digits --generator.entry A --terms.r1.gamma 0.1 --out runs/a
  vitgan train digits --discriminator unet --terms cutmix --augment none
  vitgan train digits --use my_parts.py --loss my-loss --loss.margin 0.5
  vitgan train celeba --data FOLDER --init-from runs/faces --out runs/own
  vitgan train digits --settings                 all settings, for --config
  torchrun --nproc-per-node 8 -m vitgan train cifar10 --data packed
"""


def add(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.add_argument("recipe", nargs="?", metavar="RECIPE", help="see `vitgan list` (mnist)")
    parser.add_argument(
        "--data",
        metavar="SOURCE",
        help="digits, cifar10, a folder or .zip of images, .npy, .npz, a packed folder, wds:TARS, hf:NAME",
    )
    parser.add_argument(
        "--config",
        type=Path,
        metavar="FILE",
        help="settings in TOML, as --settings prints them; flags go before",
    )
    for name, text in PARTS.items():
        parser.add_argument(f"--{name}", metavar="NAME", help=text)
    parser.add_argument("--out", type=Path, metavar="DIR", help="the run's folder (runs/RECIPE)")
    parser.add_argument(
        "--init-from",
        metavar="RUN",
        help="begin with the weights of a run, an export, mnist, digits or an id of the Hub, where they fit",
    )
    parser.add_argument("--minutes", type=float, metavar="M", help="stop after M minutes of training in all")
    parser.add_argument("--images", type=int, metavar="N", help="stop after N images seen in all")
    parser.add_argument("--seed", type=int, metavar="S", help="seed of everything random (0)")
    parser.add_argument("--device", choices=("cpu", "cuda"), help="by default a CUDA GPU where there is one")
    parser.add_argument("--precision", choices=("fp32", "bf16", "auto"), help="of the activations")
    parser.add_argument(
        "--on-nan",
        choices=("stop", "rollback"),
        help="after a number that is not finite: stop, or go on from the last checkpoint with another seed",
    )
    parser.add_argument(
        "--dry-run",
        action="store_true",
        help="say what would happen (parameters, memory, images/s, hours) after a few steps; write nothing",
    )
    parser.add_argument(
        "--settings", action="store_true", help="list every setting --PART.FIELD of the recipe with its value"
    )
    add_output(parser)
    parser.set_defaults(parser=parser)
    parser.epilog = "Every other setting of the recipe: --PART.FIELD VALUE, as --generator.width 192."


def run(options: argparse.Namespace) -> int:
    """Train, or print settings or the dry run's findings; returns the exit code, 130 after an interrupt."""
    recipe = _recipe(options)
    if options.explain:
        options.parser.print_help()
        print(f"\nThe settings of this recipe, --PART.FIELD VALUE:\n\n{_listing(recipe)}")
        return 0
    if options.settings:
        answer(options, recipe.to_dict(), _listing(recipe))
        return 0
    if options.dry_run:
        return _rehearse(options, recipe)
    from vitgan import train

    outcome = train(recipe, out=options.out, device=options.device, quiet=options.quiet)
    if os.environ.get("RANK", "0") == "0":
        if options.json:
            print(json_of(asdict(outcome)))
        _tell_command(options, recipe, outcome)
    return 0 if outcome.ended == "complete" else 130


def _tell_command(options: argparse.Namespace, recipe: "RunRecipe", outcome: "Outcome") -> None:
    """Print the command that goes on with a run whose minutes were too few for its recipe."""
    from vitgan.engine.loop import lacking_images

    if options.quiet or "RANK" in os.environ or outcome.ended != "complete":
        return
    if not lacking_images(recipe, outcome.images_seen, outcome.seconds):
        return
    words = ["vitgan", "resume", str(outcome.folder), "--images", str(recipe.training.enough)]
    print(shlex.join(words), file=sys.stderr)


def _recipe(options: argparse.Namespace) -> "RunRecipe":
    """The recipe that the command line names, with its settings.

    Those of --config come first, then the parts by name, then single settings; a later one wins.
    """
    settings: dict[str, Any] = {}
    if options.config is not None:
        from vitgan.recipes.settings import read_settings

        settings = read_settings(options.config)
    # An unknown name is said before torch is imported.
    recipe = recipes.get(options.recipe or str(settings.get("recipe", DEFAULT)))
    from vitgan.recipes.settings import override, with_file, with_parts

    recipe = with_parts(with_file(recipe, settings), {name: getattr(options, name) for name in PARTS})
    given = {
        "--data.source": options.data,
        "--start.source": options.init_from,
        "--training.minutes": options.minutes,
        "--training.images": options.images,
        "--training.seed": options.seed,
        "--training.precision": options.precision,
        "--training.on-nan": options.on_nan,
    }
    if options.images is not None and options.minutes is None:
        given["--training.minutes"] = "None"  # else the recipe's own limit might come first
    if options.minutes is not None and options.images is None:
        given["--training.images"] = "None"
    flags = [word for flag, value in given.items() if value is not None for word in (flag, str(value))]
    return override(recipe, [*flags, *options.overrides])


def _listing(recipe: "RunRecipe") -> str:
    from vitgan.recipes.settings import listing

    return listing(recipe)


def _rehearse(options: argparse.Namespace, recipe: "RunRecipe") -> int:
    from vitgan.distributed.launch import launched_processes
    from vitgan.engine.dry_run import rehearse
    from vitgan.engine.train import choose_device, threads

    if launched_processes() > 1:
        raise UserError("--dry-run measures one process: start it without torchrun.")
    folder = options.out or Path("runs") / recipe.name
    with threads(recipe.training.threads):
        found = rehearse(recipe, folder, device=choose_device(options.device))
    answer(options, asdict(found), aligned(found.lines()))
    return 0
