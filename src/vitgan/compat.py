"""What the package calls of other libraries although they do not promise it, and where systems differ.

Every private name of torch, argparse and other libraries that the package relies on is called here, and
nowhere else, by a small function with a public name. Each says why no public name does, since when the
private one is there where that is known, and on which versions it was tried, which means that the tests ran;
the package asks for torch >= 2.9 and Python >= 3.11. torch is imported by the functions that need it, because
the command line's parser imports this module too.
"""

import argparse
import contextlib
import logging
import os
import sys
import tarfile
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from concurrent.futures import ProcessPoolExecutor

    import torch
    from torch import Tensor
    from torch.distributed.distributed_c10d import Store


def usable_cores() -> int:
    """How many CPU cores this process may use; containers and batch systems often give it fewer than all.

    `os.process_cpu_count` says so from Python 3.13 on; `os.sched_getaffinity` exists on Linux alone.
    """
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def process_group_store() -> "Store":
    """The key-value store by which the processes of the default process group met.

    `torch.distributed.init_process_group` takes a store but no public name gives it back, and one that torch
    itself has opened is wrapped in a prefix. The private name is older than torch 2.9. Tried on torch 2.9 and
    2.14.
    """
    from torch.distributed import distributed_c10d

    return distributed_c10d._get_default_store()


def softmax_backward(gradient: "Tensor", weights: "Tensor") -> "Tensor":
    """The gradient of the logits of `weights = logits.softmax(-1)`, from that of the weights, both (..., N).

    It is weights * (gradient - sum(gradient * weights)), in one pass over memory instead of three. The public
    `softmax` gives it only through a graph of its own. The operator's signature is that of torch 1.11 and
    later. Tried on torch 2.9 and 2.14.
    """
    import torch

    return torch.ops.aten._softmax_backward_data(gradient, weights, -1, weights.dtype)


def lerp_all_(targets: "Sequence[Tensor]", ends: "Sequence[Tensor]", weight: float) -> None:
    """Move every tensor of `targets` in place towards that of `ends`, by the share `weight` of the way.

    One call for all parameters of a network, a few kernels on a GPU; `torch.optim.swa_utils` averages by the
    same operator, but has no form that takes two lists. It is there since torch 2.0. Tried on torch 2.9 and
    2.14.
    """
    import torch

    torch._foreach_lerp_(list(targets), list(ends), weight)  # type: ignore[call-overload]


def multiplies_bf16(device: "torch.device") -> bool:
    """Whether the hardware has instructions that multiply bf16 matrices; on a CPU AVX512_BF16 or AMX.

    torch 2.14 has a public table of a CPU's, `torch.cpu.get_capabilities`; torch 2.9 has these two private
    functions alone, which read that table in 2.14. Where a version has lost them the answer is no. Tried on
    torch 2.9 and 2.14.
    """
    import torch

    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    names = ("_is_avx512_bf16_supported", "_is_amx_tile_supported")
    tests = (getattr(torch.cpu, name, None) for name in names)
    return any(test() for test in tests if test is not None)


def compiler_log() -> logging.Logger:
    """The logger of `torch.compile`, which prints long warnings where no compiler works.

    `torch.compile` has no setting for it, and `torch._logging.set_logs`, though documented, would reset the
    levels of all of torch's loggers. The name is that of the package since torch 2.0. Tried on torch 2.9 and
    2.14.
    """
    return logging.getLogger("torch._dynamo")


def is_frozen(cls: type) -> bool:
    """Whether a class is a frozen dataclass; `dataclasses` has a public test for a dataclass alone.

    Tried on Python 3.11.
    """
    parameters = getattr(cls, "__dataclass_params__", None)
    return parameters is not None and parameters.frozen


def actions_of(parser: argparse.ArgumentParser) -> list[argparse.Action]:
    """All arguments that were added to a parser; argparse gives each back when it is added, and never again.

    Tried on Python 3.11.
    """
    return parser._actions


def options_of(parser: argparse.ArgumentParser) -> dict[str, argparse.Action]:
    """The optional arguments of a parser, by each of their flags ("-h", "--help"). Tried on Python 3.11."""
    return parser._option_string_actions


def commands_of(argument: argparse.Action | argparse.ArgumentParser) -> dict[str, argparse.ArgumentParser]:
    """The parsers of the commands, by name, of what `add_subparsers` returned or of a parser that it was
    called on.

    Empty for any other argument or parser. The class is private, and a parser does not give it back. Tried on
    Python 3.11.
    """
    if isinstance(argument, argparse.ArgumentParser):
        return next(filter(None, map(commands_of, actions_of(argument))), {})
    return dict(argument.choices) if isinstance(argument, argparse._SubParsersAction) else {}


class CommandsFormatter(argparse.RawDescriptionHelpFormatter):
    """A help whose column of names is wide enough for the names of commands.

    argparse prints commands two columns further in than the options, and measures them as if it did not.
    Tried on Python 3.11.
    """

    def add_argument(self, action: argparse.Action) -> None:
        """Measure an argument, so that the texts of all begin in one column."""
        super().add_argument(action)
        if commands_of(action):
            self._action_max_length += self._indent_increment


class PrintingParser(argparse.ArgumentParser):
    """A parser that raises OSError where its help cannot be written, as on a full disk.

    argparse's own drops the error and exits with 0. Tried on Python 3.11.
    """

    def _print_message(self, message: str, file: Any = None) -> None:
        stream = file or sys.stderr
        if message and stream is not None:
            stream.write(message)


@contextlib.contextmanager
def importing_matplotlib() -> Iterator[None]:
    """A context to import matplotlib in, whatever window system the variable MPLBACKEND names.

    Figures are written to files here, which needs none. matplotlib refuses to be imported where the variable
    names one that is not installed, as a notebook's in a shell that was started there. Where it is installed
    it is set after the import, for others that use matplotlib in this process.
    """
    name = None if "matplotlib" in sys.modules else os.environ.pop("MPLBACKEND", None)
    try:
        yield
    finally:
        if name is not None:
            os.environ["MPLBACKEND"] = name
    if name:
        with contextlib.suppress(ValueError, ImportError):
            sys.modules["matplotlib"].rcParams["backend"] = name


def forget_data_worker() -> None:
    """Have `torch.utils.data.get_worker_info` return None in this process, a worker of a DataLoader.

    The `datasets` library asks it and would give each worker a part of a stream, where every worker of this
    package reads the whole of it. There is no public setter. Tried on torch 2.9 and 2.14.
    """
    from torch.utils.data._utils import worker

    worker._worker_info = None


def terminate_workers(pool: "ProcessPoolExecutor") -> None:
    """Send SIGTERM to every process of a pool, busy or not, and cancel what waits; returns when all ended.

    `ProcessPoolExecutor.terminate_workers` does it from Python 3.14 on; before, the pool does not give its
    processes. Nothing happens where the pool was shut down. Tried on Python 3.11.
    """
    for process in list((pool._processes or {}).values()):
        process.terminate()
    pool.shutdown(cancel_futures=True)


def resolved_features(rows: Any) -> Any:
    """The rows of a streamed data set of the Hugging Face library `datasets`, with its columns' types known.

    Where the set does not declare its types they are found from the first rows; the public ways to find them
    lose the types that are declared. Tried on datasets 5.2.
    """
    return rows if rows.features is not None else rows._resolve_features()


# Each is defined in the module `tarfile`, but is neither in its documentation nor in its `__all__`.
_ENDS = ("EmptyHeaderError", "InvalidHeaderError", "TruncatedHeaderError")
_BROKEN: tuple[type[tarfile.TarError], ...] = tuple(getattr(tarfile, name) for name in _ENDS)


class BoundedHeader(tarfile.TarInfo):
    """The header of a member of a tar: one that is broken, or longer than 1 MiB, raises `tarfile.ReadError`.

    Given to `tarfile.open` as `tarinfo`. `tarfile` itself takes a broken header for the end of the file, and
    reads the text of a header whole before anything can be asked about it, so that a small compressed file
    could fill the memory; it has no public name for either. Tried on Python 3.11.
    """

    MOST_TEXT = 2**20  # bytes

    @classmethod
    def fromtarfile(cls, file: tarfile.TarFile) -> Any:  # pyright: ignore[reportIncompatibleMethodOverride]
        """The next header of `file`."""
        try:
            return super().fromtarfile(file)
        except _BROKEN as error:
            raise tarfile.ReadError(" ".join(str(error).split()) or type(error).__name__) from error

    def _proc_member(self, file: tarfile.TarFile) -> Any:
        texts = (tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK)
        texts += (tarfile.XHDTYPE, tarfile.XGLTYPE, tarfile.SOLARIS_XHDTYPE)
        if self.type in texts and self.size > self.MOST_TEXT:
            raise tarfile.ReadError("a header is longer than 1 MiB")
        return super()._proc_member(file)  # pyright: ignore[reportAttributeAccessIssue]


def next_member(tar: tarfile.TarFile) -> tarfile.TarInfo | None:
    """The next member of a tar, or None at its end, without that the tar keeps a note of those before.

    `tarfile` would keep the header of every member in the list that it documents as `TarFile.getmembers`,
    which fills the memory for files of millions. Tried on Python 3.11.
    """
    vars(tar)["members"] = []
    return tar.next()
