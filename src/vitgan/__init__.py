"""ViTGAN (arXiv 2107.04589): a GAN whose generator and discriminator are Vision Transformers.

`vitgan.load(RUN)` gives a trained generator, `vitgan.train(recipe)` trains one, `vitgan.recipes.get(name)`
is a run's settings, `@vitgan.register` makes a class a part of recipes. Importing the package imports no
torch.
"""

from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING

from vitgan import recipes
from vitgan.errors import UserError
from vitgan.registry import register

if TYPE_CHECKING:
    from vitgan.engine.loop import Outcome
    from vitgan.engine.recipe import RunRecipe
    from vitgan.models import Generator

__all__ = ["UserError", "__version__", "load", "recipes", "register", "train"]

__version__ = version("vitgan")


def load(run: "str | Path", *, average: float | None = None) -> "Generator":
    """A trained generator with the moving average of its weights, on the CPU, in eval mode.

    `run` is a run folder, a checkpoint, an exported folder, "mnist" or "digits" (which come with the
    package), or "USER/NAME" on the Hugging Face Hub, which is asked where there is no folder USER. `average`
    picks one of the moving averages of other lengths that the run keeps (`ema.lengths`).

    `generator(z)` gives float images (N, C, H, W) in [-1, 1] for z (N, generator.latent_dim), and
    `generator.sample(count, seed=0)` gives uint8 (N, C, H, W). Raises UserError where there is no generator.
    """
    from vitgan.engine.run_folder import load_generator
    from vitgan.sharing.hub import find

    return load_generator(find(run), average)


def train(
    recipe: "RunRecipe | str",
    *,
    out: "str | Path | None" = None,
    init_from: "str | Path | None" = None,
    device: str | None = None,
    quiet: bool = False,
) -> "Outcome":
    """Train a recipe, given itself or by its name, in the folder `out`, by default runs/NAME.

    A run that is in `out` already is resumed. A new one begins with the weights of `init_from`, a run, an
    export or a name that `load` takes, as far as they fit; by default with random ones. `device` is "cpu" or
    "cuda", by default a CUDA GPU where there is one. With `quiet` no progress is printed. Raises UserError on
    a user's mistake.
    """
    from vitgan.engine.recipe import check_recipe
    from vitgan.engine.train import choose_device
    from vitgan.engine.train import train as run

    chosen: RunRecipe = recipes.get(recipe) if isinstance(recipe, str) else recipe
    if init_from is not None:
        start = getattr(chosen, "start", None)
        if start is None:
            raise UserError(f"init_from is for a GAN, and the recipe {chosen.name} is of another kind.")
        chosen = replace(chosen, start=replace(start, source=str(init_from)))  # type: ignore[call-arg]
    check_recipe(chosen)
    folder = Path("runs") / chosen.name if out is None else Path(out)
    return run(chosen, folder, device=choose_device(device), quiet=quiet)
