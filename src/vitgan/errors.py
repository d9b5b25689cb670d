"""What a user did wrong, said in one sentence that tells what to do."""

import difflib
from collections.abc import Iterable


class UserError(ValueError):
    """A mistake that the user can correct; the command line prints it as one line and exits with 2.

    `rank` is that of the process that raised it, where several train together and have met.
    """

    rank: int | None = None


class Elsewhere(UserError):
    """An error that another process says."""


def one_line(error: BaseException, most: int = 200) -> str:
    """What an error says as a clause of a longer sentence: on one line, without a closing full stop.

    At most `most` characters of it; the name of its class where it says nothing.
    """
    return " ".join(str(error).split())[:most].rstrip(".") or type(error).__name__


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """ " Did you mean X?", of the name in `known` nearest to `word`; empty where none is near."""
    near = difflib.get_close_matches(word, list(known), n=1, cutoff=0.6)
    return f" Did you mean {near[0]}?" if near else ""
