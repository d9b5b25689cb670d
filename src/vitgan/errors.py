"""Errors that a user can correct, and the words in which an error is told."""

import difflib
from collections.abc import Iterable


class UserError(ValueError):
    """A mistake that the user can correct. Its text is one sentence that says what to do.

    The command line prints it as one line, without a traceback, and exits with code 2. `rank` is that of the
    process that raised it, where several processes train together and have met; else None.
    """

    rank: int | None = None


class OtherRankError(UserError):
    """The error of a run of several processes, in those that leave it to another process to print it."""


def one_line(error: BaseException, most: int = 200) -> str:
    """What an error says as a clause of a longer sentence: on one line, without a closing full stop.

    At most `most` characters of it; the name of its class where it says nothing.
    """
    return " ".join(str(error).split())[:most].rstrip(".") or type(error).__name__


def lacks_memory(error: BaseException) -> bool:
    """Whether an error means that memory is exhausted; of torch's exceptions only the text says so."""
    words = ("allocate memory", "not enough memory", "out of memory", "size calculation overflow")
    said = str(error)
    return isinstance(error, MemoryError) or any(word in said for word in words)


def nearest(word: str, known: Iterable[str]) -> str | None:
    """The name in `known` that is nearest to `word`, or None where none is near."""
    return next(iter(difflib.get_close_matches(word, list(known), n=1, cutoff=0.6)), None)


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """The sentence " Did you mean X?" with the name in `known` that is nearest to `word`.

    It begins with a space, to stand behind another sentence. Empty where no name is near.
    """
    near = nearest(word, known)
    return f" Did you mean {near}?" if near else ""
