"""Starting a run: its device, processes and folder, and the error messages of what ends it."""

import logging
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import fields
from pathlib import Path

import torch

from vitgan.distributed import collectives
from vitgan.distributed.launch import (
    launched_processes,
    local_device,
    process_group,
    warnings_of_rank_0,
)
from vitgan.engine.checkpoint import number_as_before
from vitgan.engine.dry_run import explained, require_memory
from vitgan.engine.environment import keep_freed_memory
from vitgan.engine.gan import Recipe
from vitgan.engine.loop import MOST_ROLLBACKS, Interrupt, Outcome, Run, stop_on_signals
from vitgan.engine.optim import AdamOptions
from vitgan.engine.recipe import RunRecipe, check_recipe
from vitgan.engine.records import Diverged
from vitgan.engine.run_folder import check, claimed, unwritable
from vitgan.errors import UserError

logger = logging.getLogger("vitgan")


def choose_device(name: str | None) -> torch.device:
    """The device of that name, "cpu" or "cuda"; None is a GPU where there is one.

    Of several GPUs it is the one of this process. Raises UserError where there is no GPU that torch can use.
    """
    if name is None:
        name = "cuda" if torch.cuda.is_available() else "cpu"
    if name == "cuda" and not torch.cuda.is_available():
        raise UserError(
            "There is no CUDA GPU that torch can use here: leave --device out, or give --device cpu."
        )
    return local_device(name)


def train(recipe: RunRecipe, folder: Path, *, device: torch.device, quiet: bool = False) -> Outcome:
    """Train `recipe` in `folder`, from its newest checkpoint if it has one, until its images or minutes.

    Processes that torchrun has started train together, each on its share of the recipe's batch. Raises
    UserError for a user's mistake, a full disk, numbers that are not finite, or a lost process; the last
    checkpoint is kept. SIGINT and SIGTERM end training after the present step, with a checkpoint.
    """
    check_recipe(recipe)
    _check_divides(recipe, launched_processes())
    with process_group(device) as others:
        try:
            with ExitStack() as stack:
                stack.enter_context(explained(recipe))
                run, interrupt = _prepare(stack, recipe, folder, device, quiet)
                with others.explained():
                    return _train(run, interrupt)
        except OSError as error:
            raise unwritable(folder, error) from error


def _prepare(
    stack: ExitStack, recipe: RunRecipe, folder: Path, device: torch.device, quiet: bool
) -> tuple[Run, Interrupt]:
    main = collectives.rank() == 0
    with collectives.errors_shared():
        if main:
            check(folder, recipe)
    if device.type == "cpu":
        keep_freed_memory()
    with warnings_of_rank_0(), collectives.errors_shared():
        images = recipe.data.build()
    number_as_before(folder, images)
    if main and images.labels is not None and images.note is not None:
        logger.warning(images.note)
    stack.enter_context(threads(recipe.training.threads))
    require_memory(recipe, images, device)
    with collectives.errors_shared():
        task, images = recipe.begin(images, device)
        if main:
            stack.enter_context(claimed(folder, recipe))
    interrupt = stack.enter_context(stop_on_signals())
    run = Run(recipe, folder, images, task, device, quiet)
    stack.callback(run.close)
    return run, interrupt


def _train(run: Run, interrupt: Interrupt) -> Outcome:
    try:
        return run.train(interrupt)
    except Diverged as error:
        run.stopped(str(error))
        raise _advice(run, error) from error
    except UserError as error:
        run.stopped(str(error))
        raise


def _check_divides(recipe: RunRecipe, ranks: int) -> None:
    """Raise UserError where the batch cannot be divided among `ranks` processes."""
    batch, accumulate = recipe.training.batch, recipe.training.accumulate or 1
    parts = ranks * -(-accumulate // ranks)
    game = isinstance(recipe, Recipe)
    if batch < ranks:
        raise UserError(f"--training.batch {batch} is smaller than the {ranks} processes: start fewer.")
    if batch % parts and (accumulate > 1 or (game and not recipe.image_by_image)):
        why = "this recipe compares the images of a batch" if accumulate == 1 else "the batch has equal parts"
        raise UserError(
            f"--training.batch {batch} is not a multiple of {parts}, and {why}: start torchrun with another "
            "--nproc-per-node, or set another batch for a new run."
        )


@contextmanager
def threads(count: int | None) -> Iterator[None]:
    """A context within which torch computes with `count` CPU threads; None leaves the number as it is."""
    before = torch.get_num_threads()
    torch.set_num_threads(count or before)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _advice(run: Run, error: Diverged) -> UserError:
    """The UserError that explains numbers out of bounds and what to change."""
    recipe = run.recipe
    parts = (f.name for f in fields(recipe) if isinstance(getattr(recipe, f.name), AdamOptions))
    rates = [f"--{name.replace('_', '-')}.learning-rate" for name in parts]
    lower = f"Lower the learning rate{'s' * (len(rates) > 1)} ({', '.join(rates)}) and use another --out"
    tried = f", after {MOST_ROLLBACKS} returns to the last checkpoint" if run.options.on_nan != "stop" else ""
    other = ", or go on from the checkpoint with --on-nan rollback" if not tried and run.saved_images else ""
    return UserError(f"Training stopped{tried}: {error}. {run.saved_so_far()} {lower}{other}.")
