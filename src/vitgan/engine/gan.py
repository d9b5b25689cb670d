"""The game as a run's task: two players, the average of one, and what is drawn of it."""

from typing import Any

import torch
from PIL import Image
from torch import Tensor

from vitgan import processes
from vitgan.adversarial import Game
from vitgan.data import Batch, ImageSet
from vitgan.engine.compilation import compile_blocks
from vitgan.engine.ema import update_average
from vitgan.engine.graphs import GraphedStep
from vitgan.engine.images import grid
from vitgan.engine.precision import activation_dtype
from vitgan.engine.recipe import Recipe
from vitgan.engine.state import build_state, step_generator
from vitgan.models import to_uint8
from vitgan.spans import span


class GANTask:
    """A generator against a discriminator."""

    def __init__(self, recipe: Recipe, images: ImageSet | None, device: torch.device) -> None:
        self.recipe, self.device = recipe, device
        self.state = build_state(recipe, images, device)
        self.generator = self.state.average
        options, players = recipe.training, self.state.players
        self.networks = {"generator": players.generator, "discriminator": players.discriminator}
        self.note = compile_blocks(options.compile, device, players.generator, players.discriminator)
        self.game = Game(
            loss=recipe.loss,
            augment=recipe.augment,
            terms=tuple(term for term in recipe.terms if term.active),
            generator_terms=tuple(term for term in recipe.generator_terms if term.active),
            generator_every=options.generator_every,
            shared_fakes=options.shared_fakes,
            accumulate=recipe.parts(device, processes.ranks()),
            make_again=options.accumulate is not None and options.accumulate > processes.ranks(),
            dtype=activation_dtype(options.precision, device),
        )
        self._train_step = GraphedStep(
            players, self.game, allowed=options.compile != "off" and not options.activation_checkpointing
        )
        classes, count = self.generator.classes, options.sample_count
        self.labels = torch.arange(count, device=device) % classes if classes else None
        self.latents = self.generator.latents(count, seed=options.seed).to(device)

    def step(
        self, batch: Batch, images_seen: int, seed: int | None = None
    ) -> tuple[dict[str, Tensor], dict[str, float]]:
        """Both players' update, and the average's."""
        recipe, players, size = self.recipe, self.state.players, self.recipe.training.batch
        rates = {
            "learning_rate_generator": recipe.optimiser_generator.set_rate(
                players.optimiser_generator, images_seen, size
            ),
            "learning_rate_discriminator": recipe.optimiser_discriminator.set_rate(
                players.optimiser_discriminator, images_seen, size
            ),
        }
        seed = recipe.training.seed if seed is None else seed
        rng = step_generator(seed, images_seen, self.device, size)
        values = self._train_step(batch.images, batch.labels, rng, images_seen // size)
        with span("moving average"):
            update_average(self.generator, players.generator, recipe.ema.decay(size, images_seen + size))
        return values, rates

    def tensors(self) -> dict[str, Tensor]:
        """Of the state: both players, the average, the optimisers' moments."""
        return self.state.tensors()

    def load(self, tensors: dict[str, Tensor]) -> None:
        """The inverse of `tensors`."""
        self.state.load(tensors)
        self._train_step.forget()

    @torch.no_grad()
    def picture(self) -> Image.Image:
        """A grid of the fixed latents by the averaged generator."""
        return grid(to_uint8(self.generator(self.latents, self.labels)))

    def facts(self) -> dict[str, Any]:
        """The number of classes."""
        return {"classes": self.generator.classes}
