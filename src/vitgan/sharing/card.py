"""The card of a shared generator: what it is, what it was trained on, how it was measured, how to load it."""

from typing import Any

from vitgan.engine.recipe import Recipe
from vitgan.models import Generator

CREDITS = {  # of the images, by their source
    "digits": (
        'The images are the UCI Machine Learning Repository\'s "Optical Recognition of Handwritten Digits" '
        "(E. Alpaydin, C. Kaynak, CC BY 4.0), as scikit-learn bundles them."
    ),
    "cifar10": (
        "The images are CIFAR-10 (A. Krizhevsky, Learning Multiple Layers of Features from Tiny Images)."
    ),
    "celeba": (
        "The images are CelebA (Z. Liu et al., arXiv 1411.7766), which is for non-commercial research alone."
    ),
}
PROTOCOL = ("features", "real", "reals", "fakes", "resize", "torch_fidelity", "key")


def model_card(
    recipe: Recipe, description: dict[str, Any], generator: Generator, *, license_id: str, place: str
) -> str:
    """Markdown with the header that the Hub reads. `place` is what `vitgan.load` takes."""
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
        "## Training\n\n" + _table(_training(recipe, description, generator)),
        "## Measured\n\n" + _measured(description.get("evaluation")),
        "## Licence\n\n" + _licence(license_id, recipe.data.source),
    ]
    return "\n\n".join(parts) + "\n"


def _load(generator: Generator, place: str) -> str:
    labels = ", labels=torch.arange(16)" if generator.classes else ""
    first = "import torch\nimport vitgan" if generator.classes else "import vitgan"
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
        "classes": str(generator.classes) if generator.classes else "none",
        "vitgan, torch": f"{where.get('vitgan', '?')}, {where.get('torch', '?')}",
    }


def _measured(evaluation: dict[str, Any] | None) -> str:
    if evaluation is None:
        return "Not measured (`vitgan evaluate`)."
    protocol = evaluation["protocol"]
    facts = {name: str(protocol[name]) for name in PROTOCOL if name in protocol}
    metrics = {name: v for name, v in evaluation["metrics"].items() if not name.startswith("class_share")}
    numbers = {name: f"{value:.5g}" for name, value in metrics.items()}
    return f"{_table(numbers)}\n\nProtocol:\n\n{_table(facts)}"


def _licence(license_id: str, source: str) -> str:
    if license_id == "other":
        said = "None was named for the weights; that of the images that they were trained on applies."
    else:
        said = f"{license_id}, of the weights. That of the images they were trained on may ask for more."
    return f"{said}\n\n{CREDITS[source]}" if source in CREDITS else said


def _table(rows: dict[str, str]) -> str:
    body = "\n".join(f"| {name} | {_cell(value)} |" for name, value in rows.items())
    return f"| | |\n|---|---|\n{body}"


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")
