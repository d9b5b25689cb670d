"""`vitgan evaluate`: measure the images of a run or a folder against real ones."""

import argparse
import contextlib
import logging
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from vitgan.errors import UserError
from vitgan.io import check_writable, write_json
from vitgan.terminal import add_output, aligned, answer, counted

if TYPE_CHECKING:
    from torch import Tensor

    from vitgan.data import DataOptions, ImageSet
    from vitgan.metrics import Evaluation
    from vitgan.models import Generator

SUMMARY = "measure a run's images against real ones: FID, IS, KID, precision and recall"
EXAMPLES = """examples:
  vitgan evaluate runs/digits --features classifier
  vitgan evaluate runs/cifar10 --json fid.json
  vitgan evaluate runs/cifar10 --json --quiet > fid.json
  vitgan evaluate GENERATED.zip --data REAL.zip --metrics fid,kid
"""
SHOWN_CLASSES = 20  # of more, only the smallest and the largest share are printed
EPILOG = (
    "The metrics: fid (Frechet distance), is (score of the class probabilities), kid (kernel distance), "
    "prdc (precision, recall, density, coverage). With --features classifier none of them is the FID or IS "
    "of the literature. Numbers may be compared where the protocol's key is the same."
)


class Compared(NamedTuple):
    """What is compared.

    Attributes
        real: the real images.
        resize: how they were brought to size, for the protocol; None where they are those of the training.
        generated: a generator, or images uint8 (M, C, R, R).
    """

    real: "ImageSet"
    resize: str | None
    generated: "Generator | Tensor"


def add(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.add_argument(
        "run",
        metavar="RUN",
        help="as for sample; or a folder, .zip, .npy or .npz of images",
    )
    parser.add_argument("--data", metavar="SOURCE", help="the real images (what the run was trained on)")
    parser.add_argument(
        "--metrics", metavar="M,…", help="of fid,is,kid,prdc, or of your own (all that the images allow)"
    )
    parser.add_argument(
        "--features",
        default="inception",
        metavar="F",
        help="inception, classifier, a file of Inception weights, or an extractor of torch-fidelity's",
    )
    parser.add_argument(
        "--count", type=int, metavar="N", help="generated images (as many as real, at most 50,000)"
    )
    parser.add_argument("--seed", type=int, default=0, metavar="S", help="of the latents and choices (0)")
    parser.add_argument("--device", choices=("cpu", "cuda"), help="by default a CUDA GPU where there is one")
    parser.add_argument(
        "--resize", action="store_true", help="bring other real images to size, as in training"
    )
    add_output(parser, file="write protocol and numbers there, or print them and nothing else")
    parser.epilog = EPILOG


def run(options: argparse.Namespace) -> int:
    """Measure and print the numbers and their protocol; returns the exit code 0."""
    if options.count is not None and options.count < 1:
        raise UserError(f"--count must be at least 1, not {options.count}.")
    if not 0 <= options.seed < 2**63:
        raise UserError(f"--seed must be at least 0, and less than 2^63, not {options.seed}.")
    check_writable(options.json)
    from vitgan.metrics import protocol

    metrics = None if options.metrics is None else protocol.parse_metrics(options.metrics)
    evaluation = _evaluate(options, metrics)
    answer(options, evaluation.to_dict(), _text(evaluation))
    write_json(options.json, evaluation.to_dict())
    return 0


def _evaluate(options: argparse.Namespace, metrics: "tuple[str, ...] | None") -> "Evaluation":
    from torch import Tensor

    from vitgan.engine.train import choose_device
    from vitgan.metrics import Evaluator, protocol

    device = choose_device(options.device)
    real, resize, generated = _open(options)
    reals = min(len(real), protocol.MOST)
    fakes = len(generated) if isinstance(generated, Tensor) else options.count or reals
    evaluator = Evaluator(
        real,
        features=options.features,
        metrics=protocol.possible_metrics(reals, fakes) if metrics is None else metrics,
        count=fakes,
        seed=options.seed,
        device=device,
        quiet=options.quiet,
        resize=resize,
    )
    if isinstance(generated, Tensor):
        return evaluator.score_images(generated)
    return evaluator.score(generated.to(device))


def _open(options: argparse.Namespace) -> Compared:
    from vitgan.engine.run_folder import is_run
    from vitgan.sharing.hub import find

    path = find(options.run)
    if is_run(path):
        return _open_run(path, options)
    if not path.exists():
        raise UserError(
            f"There is no {options.run}: pass a run folder, a checkpoint, `digits`, an id of the Hub, or a "
            "folder, .zip, .npy or .npz of generated images."
        )
    if options.data is None:
        raise UserError(
            f"{options.run} is a set of images, not a run: name the real images to compare them with, "
            "--data SOURCE."
        )
    return _open_images(options)


def _open_run(path: Path, options: argparse.Namespace) -> Compared:
    from vitgan.engine.checkpoint import trained_on
    from vitgan.engine.run_folder import drawing_recipe, read_generator
    from vitgan.metrics.evaluator import shown, survey

    generator, description = read_generator(path)
    recipe, fingerprint = drawing_recipe(description), description["data"]["fingerprint"]
    data = recipe.data
    source = options.data or trained_on(description, data.source)
    real = replace(data, source=source, labels=False).build()
    if generator.classes and not sum(generator.class_counts):
        _count_classes(generator, description, data, real)
    if real.fingerprint == fingerprint:
        return Compared(real, None, generator)
    size = (data.resolution, data.resolution)
    if options.resize:
        return Compared(real, _brought_to(data.resolution), generator)
    other = [found for found in survey(real.name).sizes if found != size]
    if other:
        raise UserError(
            f"{real.name} has pictures of {shown(other[0])} pixels, and the run draws {shown(size)}: pass "
            "the set that it was trained on, or --resize."
        )
    return Compared(real, _untouched(data.resolution), generator)


def _count_classes(
    generator: "Generator", description: "dict[str, Any]", data: "DataOptions", real: "ImageSet"
) -> None:
    """Tell a generator how many training images each class has, which runs did not record at first.

    They are counted in `real`, or in the run's own data, whichever is the set that it was trained on; where
    neither is, a warning says that every class is drawn alike.
    """
    from vitgan.engine.checkpoint import number_as_described

    own = real
    if real.fingerprint != description["data"]["fingerprint"] and real.name != data.source:
        with contextlib.suppress(UserError, OSError):
            own = replace(data, labels=False, memory_mib=0).build()
    if own.fingerprint == description["data"]["fingerprint"]:
        number_as_described(description, own)
        counts = tuple(own.class_counts.get(name, 0) for name in own.class_names)
        if len(counts) == generator.classes:
            generator.class_counts = counts
            return
    logging.getLogger("vitgan").warning(
        "The run does not say how often each class was in its training set, which is not here: "
        "every class is drawn alike."
    )


def _open_images(options: argparse.Namespace) -> Compared:
    """Two sets of pictures, compared in grey where all pictures of both are grey, else in RGB."""
    from vitgan.data import DataOptions
    from vitgan.metrics.evaluator import shown, survey

    fake, real = survey(options.run), survey(options.data)
    side = fake.side(options.run)
    if not options.resize and real.side(options.data) != side:
        raise UserError(
            f"{options.data} has pictures of {shown(real.sizes[0])} pixels, and {options.run} of "
            f"{shown(fake.sizes[0])}: pass images of one size, or --resize."
        )
    channels = 1 if fake.grey and real.grey else 3
    data = DataOptions(source=options.data, resolution=side, channels=channels)
    resize = _brought_to(side) if options.resize else _untouched(side)
    return Compared(data.build(), resize, _drawn(replace(data, source=options.run).build(), options))


def _drawn(images: "ImageSet", options: argparse.Namespace) -> "Tensor":
    """The generated images that are measured: all of them, or a random choice of --count or 50,000."""
    from vitgan.metrics.protocol import MOST
    from vitgan.metrics.statistics import chosen

    if options.count is not None and options.count > len(images):
        raise UserError(
            f"{images.name} has {counted(len(images), 'image')}, fewer than --count {options.count}: "
            "ask for fewer."
        )
    return images.get(chosen(len(images), options.count or MOST, options.seed).tolist())


def _brought_to(side: int) -> str:
    return f"--resize: centre square, Lanczos down or bicubic up, to {side} x {side}"


def _untouched(side: int) -> str:
    return f"none: every picture has {side} x {side} pixels"


def _text(evaluation: "Evaluation") -> str:
    """The numbers and then the protocol, one a line, without the shares of more than 20 classes."""
    shares = [name for name in evaluation.metrics if name.startswith("class_share_")]
    hidden = set(shares) if len(shares) > SHOWN_CLASSES else set()
    numbers = {name: f"{value:.6g}" for name, value in evaluation.metrics.items() if name not in hidden}
    facts = evaluation.protocol.to_dict()
    facts.update(facts.pop("settings"))
    lines = aligned({name: str(value) for name, value in (numbers | facts).items()}).splitlines()
    return "\n".join([*lines[: len(numbers)], "", "protocol", *lines[len(numbers) :]])
