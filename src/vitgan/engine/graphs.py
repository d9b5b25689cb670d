"""The step on a CUDA GPU as a graph: its kernels start at one call, with no Python between them."""

import logging
from collections import Counter
from collections.abc import Hashable
from typing import Any

import torch
from torch import Tensor

from vitgan import processes
from vitgan.adversarial import Game, Players, train_step
from vitgan.adversarial.step import Metrics
from vitgan.spans import recording

WARM_UP = 3  # steps of a kind before its graph: compiled code and the choices of libraries are made in them


class GraphedStep:
    """`train_step` for images of one shape, the same numbers for the same arguments.

    Steps of one kind (`Game.kind`) share a graph, captured once a few of them have run. A step is run as it
    is where it has no kind, while a recorder listens, and for good where a capture fails, which is logged.
    """

    def __init__(self, players: Players, game: Game, *, allowed: bool) -> None:
        self._players, self._game = players, game
        self._allowed = allowed and processes.ranks() == 1 and game.accumulate == 1 and not game.make_again
        self._stream: torch.cuda.Stream | None = None
        self.forget()

    def forget(self) -> None:
        """Drop the graphs: for when a tensor of the players or their optimisers was replaced."""
        self._graphs: dict[Hashable, _Graph] = {}
        self._run: Counter[Hashable] = Counter()

    def __call__(self, real: Tensor, labels: Tensor | None, rng: torch.Generator, step: int) -> Metrics:
        """As `train_step`; `rng` has drawn nothing yet."""
        kind = self._game.kind(step)
        if not self._allowed or kind is None or real.device.type != "cuda" or recording():
            return train_step(self._players, self._game, real, labels, rng, step)
        if kind in self._graphs or self._ready(kind, real, labels, step):
            return self._graphs[kind].replay(real, labels, rng)
        self._run[kind] += 1
        return self._aside(real, labels, rng, step)

    def _aside(self, real: Tensor, labels: Tensor | None, rng: torch.Generator, step: int) -> Metrics:
        """The step on the stream that captures, where its memory and its gradients' accumulators belong."""
        current = torch.cuda.current_stream(real.device)
        self._stream = self._stream or torch.cuda.Stream(real.device)
        self._stream.wait_stream(current)
        with torch.cuda.stream(self._stream):
            values = train_step(self._players, self._game, real, labels, rng, step)
        current.wait_stream(self._stream)
        return values

    def _ready(self, kind: Hashable, real: Tensor, labels: Tensor | None, step: int) -> bool:
        """Capture the graph of that kind where enough of its steps have run; whether that is done."""
        if self._run[kind] < WARM_UP:
            return False
        pool = next((graph.pool() for graph in self._graphs.values()), None)
        try:
            self._graphs[kind] = _Graph(
                self._players, self._game, real, labels, step, stream=self._stream, pool=pool
            )
        except Exception as error:  # whatever a step may do that no graph can hold
            self._allowed = False
            self._graphs.clear()
            reason = str(error).strip().splitlines()[0].rstrip(".")
            logging.getLogger("vitgan").warning(
                f"The step cannot be a CUDA graph ({reason}): training goes on without it, more slowly."
            )
            return False
        return True


class _Graph:
    """One capture of a step, with inputs and results in memory of its own."""

    def __init__(
        self,
        players: Players,
        game: Game,
        real: Tensor,
        labels: Tensor | None,
        step: int,
        *,
        stream: torch.cuda.Stream | None,
        pool: Any,
    ) -> None:
        self._real, self._labels = real.clone(), None if labels is None else labels.clone()
        self._rng = torch.Generator(real.device)  # a graph takes none of a class of its own
        self._graph = torch.cuda.CUDAGraph()
        self._graph.register_generator_state(self._rng)
        # Other threads, those that read images, may allocate meanwhile.
        with torch.cuda.graph(self._graph, pool=pool, stream=stream, capture_error_mode="thread_local"):
            values = train_step(players, game, self._real, self._labels, self._rng, step)
            self._values = torch.stack(list(values.values()))
        self._names = list(values)

    def pool(self) -> Any:
        """Of memory, which graphs that never run at once can share."""
        return self._graph.pool()

    def replay(self, real: Tensor, labels: Tensor | None, rng: torch.Generator) -> Metrics:
        """The step on other images and random numbers."""
        self._real.copy_(real)
        if self._labels is not None and labels is not None:
            self._labels.copy_(labels)
        self._rng.manual_seed(rng.initial_seed())
        self._graph.replay()
        return dict(zip(self._names, self._values.clone().unbind(), strict=True))
