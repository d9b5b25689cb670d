"""What the package calls of other libraries although they do not promise it, and where systems differ.

Every private name of torch, argparse and other libraries that the package relies on is called here, and
nowhere else, by a small function with a public name. Each says why no public name does, since when the
private one is there where that is known, and on which versions it was tried, which means that the tests ran;
the package asks for torch >= 2.9 and Python >= 3.11. torch is imported by the functions that need it, because
the command line's parser imports this module too.
"""

import os
import tarfile
from concurrent.futures import ProcessPoolExecutor
from typing import Any


def usable_cores() -> int:
    """How many CPU cores this process may use; containers and batch systems often give it fewer than there are.

    `os.process_cpu_count` says so from Python 3.13 on; `os.sched_getaffinity` exists on Linux alone.
    """
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


# --- Of reading images: `vitgan.data`


def forget_data_worker() -> None:
    """Have `torch.utils.data.get_worker_info` say None in this process, although it is a worker of a DataLoader.

    The `datasets` library asks it and would give each worker a part of a stream, where every worker of this
    package reads the whole of it. There is no public setter. Tried on torch 2.14.
    """
    from torch.utils.data._utils import worker

    worker._worker_info = None


def terminate_workers(pool: ProcessPoolExecutor) -> None:
    """Send SIGTERM to every process of a pool, whatever it is doing, and cancel what waits; returns when all ended.

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
