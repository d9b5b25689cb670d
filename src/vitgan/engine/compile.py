"""A faster training step: torch.compile of the blocks, and on CUDA a graph of the whole step."""

import logging
from collections import Counter
from collections.abc import Callable, Hashable
from typing import Any, Literal

import torch
from torch import Tensor, nn

from vitgan.adversarial import Game, Players, train_step
from vitgan.adversarial.step import Metrics
from vitgan.compat import compiler_log
from vitgan.distributed import collectives
from vitgan.nn import Block, ImplicitOutput, fused_allowed
from vitgan.spans import recording

Mode = Literal["auto", "on", "off"]


class Compiled:
    """A module's forward, compiled, except within `sdpa_kernel(SDPBackend.MATH)`, where it runs eagerly.

    Compiled code cannot be differentiated twice, which gradient penalties within that context require.
    """

    def __init__(self, forward: Callable[..., Tensor], **options: Any) -> None:
        self._plain, self._compiled = forward, torch.compile(forward, **options)

    def __call__(self, *inputs: Any, **named: Any) -> Tensor:
        return (self._compiled if fused_allowed() else self._plain)(*inputs, **named)


def compile_blocks(mode: Mode, device: torch.device, *networks: nn.Module) -> str | None:
    """Compile the blocks of `networks` as `mode` says; returns a line to show to the user, or None.

    "auto" compiles on a CUDA GPU only. Where no compiler works on this machine the networks stay as they are,
    and the line says why. The code is compiled during the first steps, whose time counts as training.
    """
    if mode == "off" or (mode == "auto" and device.type != "cuda"):
        return None
    parts = [m for network in networks for m in network.modules() if isinstance(m, (Block, ImplicitOutput))]
    if not parts:
        return "Nothing to compile: these networks have no transformer blocks." if mode == "on" else None
    if (fault := why_not(device)) is not None:
        return f"torch.compile does not work here ({fault}): training goes on without it."
    for part in parts:
        part.forward = Compiled(part.forward, dynamic=False)
    return f"Compiling {len(parts)} blocks with the first steps, which takes minutes once."


def why_not(device: torch.device) -> str | None:
    """The reason, as a clause, why torch.compile fails for `device`; None where a small trial succeeds."""
    log = compiler_log()
    level = log.level
    log.setLevel(logging.CRITICAL)
    try:
        x = torch.ones(8, device=device, requires_grad=True)
        torch.compile(lambda x: (x.sin() * 2).sum())(x).backward()
    except Exception as error:  # any of the compiler's own, of g++'s or Triton's
        lines = [line for line in str(error).splitlines() if line.strip()]
        return lines[0].strip().rstrip(".") if lines else type(error).__name__
    finally:
        log.setLevel(level)
    return None


WARM_UP = 3  # steps of a kind before its graph: compiled code and the choices of libraries are made in them


class GraphedStep:
    """`train_step` for images of one shape, by CUDA graphs where possible, with the same results.

    Steps of one kind (`Game.kind`) share a graph, which is captured after a few of them have run. A step runs
    without a graph where it has no kind and while spans are recorded; after a capture has failed, which is
    logged, all steps do.
    """

    def __init__(self, players: Players, game: Game, *, allowed: bool) -> None:
        self._players, self._game = players, game
        self._allowed = (
            allowed and collectives.world_size() == 1 and game.accumulate == 1 and not game.make_again
        )
        self._stream: torch.cuda.Stream | None = None
        self.forget()

    def forget(self) -> None:
        """Drop the graphs, as must be done after tensors of the players or their optimisers are replaced."""
        self._graphs: dict[Hashable, _Graph] = {}
        self._run: Counter[Hashable] = Counter()

    def __call__(self, real: Tensor, labels: Tensor | None, rng: torch.Generator, step: int) -> Metrics:
        """The result of `train_step`; nothing must have been drawn from `rng` since it was seeded."""
        kind = self._game.kind(step)
        if not self._allowed or kind is None or real.device.type != "cuda" or recording():
            return train_step(self._players, self._game, real, labels, rng, step)
        if kind in self._graphs or self._ready(kind, real, labels, step):
            return self._graphs[kind].replay(real, labels, rng)
        self._run[kind] += 1
        return self._aside(real, labels, rng, step)

    def _aside(self, real: Tensor, labels: Tensor | None, rng: torch.Generator, step: int) -> Metrics:
        """The step on the capturing stream, to which its memory and gradient accumulators must belong."""
        current = torch.cuda.current_stream(real.device)
        self._stream = self._stream or torch.cuda.Stream(real.device)
        self._stream.wait_stream(current)
        with torch.cuda.stream(self._stream):
            values = train_step(self._players, self._game, real, labels, rng, step)
        current.wait_stream(self._stream)
        return values

    def _ready(self, kind: Hashable, real: Tensor, labels: Tensor | None, step: int) -> bool:
        """Whether there is now a graph of this kind: it is captured once enough of its steps have run."""
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
    """The CUDA graph of a step, with static memory for its inputs and results."""

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
        """The graph's memory pool, which graphs that never run concurrently can share."""
        return self._graph.pool()

    def replay(self, real: Tensor, labels: Tensor | None, rng: torch.Generator) -> Metrics:
        """Run the step on `real` and `labels` with the random numbers of `rng`'s seed."""
        self._real.copy_(real)
        if self._labels is not None and labels is not None:
            self._labels.copy_(labels)
        self._rng.manual_seed(rng.initial_seed())
        self._graph.replay()
        return dict(zip(self._names, self._values.clone().unbind(), strict=True))
